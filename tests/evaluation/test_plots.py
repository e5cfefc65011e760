"""Plots draw what they are given, and survive what is undefined."""

import numpy as np
import torch

from mmldm.evaluation.metrics import Value
from mmldm.evaluation.plots import COLOURS, interval_plot, principal_plane, scatter_plot


def columns_of(picture, colour):
    """Where a colour stands, left to right."""
    return np.flatnonzero((np.asarray(picture) == colour).all(-1).any(0))


def test_interval_is_as_long_as_it_says_and_undefined_is_a_word():
    values = {"a": Value(1.0, (0.0, 2.0), 9), "b": Value.undefined("too few", 1)}
    picture = interval_plot({"FVD": values})
    line = np.asarray(picture)[:, 330:751]
    drawn = (line == COLOURS[0]).all(-1).sum(1).max()
    assert drawn >= 418
    flat = interval_plot({"one": {"a": Value(3.0, None, 2)}, "none": {"a": values["b"]}})
    assert flat.height > 60


def test_clouds_keep_their_sides():
    left, right = torch.full((5, 2), -1.0), torch.full((5, 2), 1.0)
    picture = scatter_plot({"net": {"left": left, "right": right}}).crop((0, 60, 500, 500))
    assert columns_of(picture, COLOURS[0]).max() < columns_of(picture, COLOURS[1]).min()


def test_plane_holds_the_two_largest_directions():
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(200, 5, generator=rng) * torch.tensor([0.1, 9.0, 0.1, 4.0, 0.1]) + 7
    mean, axes = principal_plane(features)
    assert (mean - features.mean(0)).abs().max() < 1e-5
    assert axes.abs().argmax(1).tolist() == [1, 3] and (axes.amax(1) > 0.99).all()
