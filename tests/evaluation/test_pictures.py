"""Plots draw what they are given, and survive what is undefined; without matplotlib the rest is there."""

import sys

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from mmldm.evaluation.pictures import (
    COLOURS,
    interval_plot,
    principal_plane,
    save_plot,
    scatter_plot,
)
from mmldm.evaluation.values import Value

from ..cli.commandline import mmldm


def drawn(figure):
    """The plot as u8 (H,W,3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def has_colour(picture, colour):
    return (picture == np.round(255 * np.array(to_rgb(colour)))).all(-1)


def columns_of(picture, colour):
    """Where a colour stands, left to right."""
    return np.flatnonzero(has_colour(picture, colour).any(0))


def test_interval_is_as_long_as_it_says_and_undefined_is_a_word():
    values = {"a": Value(1.0, (0.0, 2.0), 9), "b": Value.undefined("too few", 1)}
    figure = interval_plot({"FVD": values})
    picture = drawn(figure)
    (axis,) = figure.axes
    line = has_colour(picture, COLOURS[0]).sum(1).max()
    assert line >= 0.99 * axis.get_window_extent().width
    assert [text.get_text() for text in axis.texts] == ["1  (n 9)", "undefined"]
    flat = interval_plot({"one": {"a": Value(3.0, None, 2)}, "none": {"a": values["b"]}})
    assert drawn(flat).shape[0] > 60


def test_names_are_words_whatever_they_hold(tmp_path, recwarn):
    names = ["_hidden", "$x_1", "$c$", "音"]
    figure = interval_plot({name: {name: Value(1.0, None, 2)} for name in names})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    save_plot(tmp_path / "a.png", figure)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    assert not recwarn.list


def test_clouds_keep_their_sides():
    left, right = torch.full((5, 2), -1.0), torch.full((5, 2), 1.0)
    picture = drawn(scatter_plot({"net": {"left": left, "right": right}}))[60:]
    assert columns_of(picture, COLOURS[0]).max() < columns_of(picture, COLOURS[1]).min()


def test_plane_holds_the_two_largest_directions():
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(200, 5, generator=rng) * torch.tensor([0.1, 9.0, 0.1, 4.0, 0.1]) + 7
    mean, axes = principal_plane(features)
    assert (mean - features.mean(0)).abs().max() < 1e-5
    assert axes.abs().argmax(1).tolist() == [1, 3] and (axes.amax(1) > 0.99).all()


def test_without_matplotlib_a_sentence_says_how_to_get_it_and_all_else_is_done(
    real, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    for i, clip in enumerate(real[:4]):
        clip.save(tmp_path / "clips" / f"{i}.mp4")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    words = ("--metrics", "memorisation,silent", "--workers", 1, "--device", "cpu")
    folder, out = tmp_path / "clips", tmp_path / "out"
    result = mmldm("evaluate", folder, folder, "--out", out, *words)
    assert "report.md" in result.succeeded()
    assert result.err.count("note: the plots") == 1 and "pip install 'mmldm[plots]'" in result.err
    pictures = {path.name for path in out.glob("*.png")}
    assert pictures == {"best_reference.png", "worst_reference.png", "nearest.png"}
    page = (out / "report.md").read_text()
    assert all(f"({name})" in page for name in pictures) and "intervals.png" not in page
