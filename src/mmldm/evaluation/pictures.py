"""The pictures of a report: intervals, maps of features, best and worst clips, possible copies.

Evaluation -> folder/*.png, and what each shows

Clips are drawn with Pillow. Plots need matplotlib (the extra `plots`); without it they alone are missing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from mmldm.evaluation.clipwise import ClipRatio
from mmldm.evaluation.evaluate import Evaluation
from mmldm.evaluation.extractors.extractor import of_clips
from mmldm.evaluation.features import EXTRACTORS, nearest
from mmldm.evaluation.measuring import Measured
from mmldm.evaluation.memorisation import nearest_pairs, pairs_sheet
from mmldm.evaluation.page import digits
from mmldm.evaluation.values import Value
from mmldm.files import whole_file
from mmldm.media.sheet import contact_sheet, save_png
from mmldm.text import printable
from mmldm.types import ClipSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 6
"""Clips on a sheet."""
COLOURS = ("#d66014", "#787878", "#1e5ab4", "#288c46", "#963ca0", "#a08214", "#c83c5a", "#3c96a0")
"""Of the series of a plot, in turn."""
DPI = 110
NO_PLOTS = (
    "the plots of intervals and of features are left out, as matplotlib is not installed: "
    "pip install 'mmldm[plots]'"
)


class Picture(NamedTuple):
    """One file of the report.

    Attributes:
        file: Its name.
        drawn: What is in it.
        words: What it shows.
    """

    file: str
    drawn: Image.Image | Figure
    words: str


def write_pictures(found: Evaluation, spec: ClipSpec, folder: Path) -> dict[str, str]:
    """Writes the pictures that the evaluation has something for: file name -> what it shows.

    Args:
        spec: How clips are read for the sheets.

    Raises:
        UserError: The folder cannot be written, or a clip has gone.
    """
    shown = {}
    plots = _plots(found) if can_plot() else ()
    for picture in chain(plots, _sheets(found, spec)):
        path = folder / picture.file
        if isinstance(picture.drawn, Image.Image):
            save_png(path, picture.drawn)
        else:
            save_plot(path, picture.drawn)
        shown[picture.file] = picture.words
    return shown


def can_plot() -> bool:
    """Whether matplotlib is here; where it is not, `NO_PLOTS` says what is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


# ---------------------------------------------------------------------------------------- which plots


def _plots(found: Evaluation) -> Iterator[Picture]:
    lines = {line.number.title: line.values for line in found.lines}
    words = "Values and 95 % intervals, each number on an axis of its own"
    yield Picture("intervals.png", interval_plot(lines), words)
    if found.classes:
        titles = {line.number.name: line.number.title for line in found.lines}
        by_number: dict[str, dict[str, Value]] = {}
        for name, values in found.classes.items():
            for number, value in values.items():
                by_number.setdefault(titles[number], {})[name] = value
        yield Picture("classes.png", interval_plot(by_number), "Generated clips, by class")
    panels = {}
    for measure, clouds in _clouds(found).items():
        mean, axes = principal_plane(clouds["reference"])
        panels[measure] = {name: (points - mean) @ axes.T for name, points in clouds.items()}
    if panels:
        words = "Clips by their features, on the first two principal axes of the reference"
        yield Picture("map.png", scatter_plot(panels), words)


def _clouds(found: Evaluation) -> dict[str, dict[str, Tensor]]:
    """Features (N,D) float64 of the clips of each set, by measure and set."""
    return {
        measure: {
            name: _features(side, measure)
            for name, side in found.sets.items()
            if measure in side.findings
        }
        for measure in (*EXTRACTORS, "fingerprints")
        if measure in found.anchor.findings
    }


def _features(side: Measured, measure: str) -> Tensor:
    """One vector (N,D) float64 of each clip."""
    rows = side.findings[measure]
    if measure == "fingerprints":
        return torch.stack([torch.cat([row["audio"], row["video"]]) for row in rows]).double()
    return of_clips([row["features"] for row in rows]).double()


# --------------------------------------------------------------------------------------- which sheets


def _sheets(found: Evaluation, spec: ClipSpec) -> Iterator[Picture]:
    generated, reference = found.sets["generated"], found.sets["reference"]

    # Nearest to, and furthest from, real clips, by the first network there is.
    for measure, clouds in _clouds(found).items():
        if "generated" not in clouds:
            continue
        distances = torch.cdist(clouds["generated"], clouds["reference"]).amin(1)
        words = f"distance to the nearest reference clip ({measure})"
        yield from _ends(generated, distances, words, "reference", spec)
        break

    # Those whose sound and picture agree best and worst, of the clips that have such events.
    for line in found.lines:
        if (
            isinstance(line.metric, ClipRatio)
            and line.metric.name == "event-overlap"
            and "events" in generated.findings
        ):
            counts = torch.from_numpy(line.metric.of_clips(generated.findings["events"]))
            defined = counts[:, 1].nonzero()[:, 0].tolist()
            # The highest is the best here.
            values, side = counts[defined, 0], generated.take(defined)
            yield from _ends(side, values, "events in common", "alignment", spec, descending=True)
            break

    # What may be copies.
    if "fingerprints" in generated.findings:
        rows = generated.findings["fingerprints"], reference.findings["fingerprints"]
        sheet = pairs_sheet(
            nearest_pairs(*nearest(*rows), SHOWN),
            lambda i: generated.clips.clips[i].read(spec),
            lambda i: reference.clips.clips[i].read(spec),
        )
        words = "The generated clips that are nearest to a reference clip, above it"
        yield Picture("nearest.png", sheet, words)


def _ends(
    side: Measured,
    values: Tensor,
    words: str,
    name: str,
    spec: ClipSpec,
    descending: bool = False,
) -> Iterator[Picture]:
    """Sheets of the clips with the best and with the worst values (N,); the least is best, or the most."""
    order = values.argsort(descending=descending).tolist()
    for end, chosen in (("best", order[:SHOWN]), ("worst", order[::-1][:SHOWN])):
        if chosen:
            own = [side.clips.clips[i] for i in chosen]
            titles = [
                f"{clip.name}, {words}: {values[i]:.3g}"
                for i, clip in zip(chosen, own, strict=True)
            ]
            sheet = contact_sheet([clip.read(spec) for clip in own], titles)
            yield Picture(f"{end}_{name}.png", sheet, f"The {end} generated clips by {words}")


# ------------------------------------------------------------------------------------ how plots look


def interval_plot(lines: Mapping[str, Mapping[str, Value]]) -> Figure:
    """Each title's values and intervals on an axis of its own, from its least to its largest number."""
    from matplotlib.figure import Figure

    series = list(dict.fromkeys(name for values in lines.values() for name in values))
    heights = [0.2 * (len(values) + 1) for values in lines.values()]
    figure = Figure((9, sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(lines), gridspec_kw={"height_ratios": heights}, squeeze=False)[:, 0]
    for axis, (title, values) in zip(axes, lines.items(), strict=True):
        axis.set_ylabel(title, rotation=0, ha="right", va="center", parse_math=False)
        axis.set(xticks=[], yticks=[], ylim=(len(values) - 0.5, -0.5))
        axis.margins(x=0)
        axis.spines[:].set_visible(False)
        for height, (name, value) in enumerate(values.items()):
            colour = COLOURS[series.index(name) % len(COLOURS)]
            axis.axhline(height, color="#ebebeb", linewidth=1, zorder=0)
            words = "undefined"
            if value.value is not None:
                words = f"{digits(value.value)}  (n {value.n})"
                if value.interval is not None:
                    axis.plot(value.interval, (height, height), color=colour, linewidth=2)
                axis.plot(value.value, height, "o", color=colour, clip_on=False)
            # Beside the axis: x is a share of its width, y the height of the series.
            beside = axis.get_yaxis_transform()
            axis.text(1.04, height, words, color=colour, va="center", transform=beside)
    _legend(figure, series)
    return figure


def scatter_plot(panels: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Clouds of points (N,2) side by side, one panel each, axes fitted to all of a panel's points."""
    from matplotlib.figure import Figure

    figure = Figure((4 * len(panels), 4.4), layout="constrained")
    for axis, (title, clouds) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        axis.set_title(title, loc="left", fontsize="medium")
        axis.set(xticks=[], yticks=[])
        for points, colour in zip(clouds.values(), COLOURS, strict=False):
            # Fewer points lie above more of them, which would hide them.
            above = 2 + 1 / len(points)
            x, y = points.T.numpy()
            axis.scatter(x, y, s=20, facecolors="none", edgecolors=colour, zorder=above)
    _legend(figure, list(next(iter(panels.values()))))
    return figure


def principal_plane(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and first two principal axes (2,D) of features (N,D); with signs that do not wander."""
    mean = features.mean(0)
    axes = torch.linalg.svd(features - mean, full_matrices=False).Vh[:2]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return mean, axes * torch.where(largest < 0, -1.0, 1.0)


def _legend(figure: Figure, series: Sequence[str]) -> None:
    """The names of the series above the plot, each beside a dot of its colour."""
    from matplotlib.lines import Line2D

    dots = [
        Line2D([], [], marker="o", linestyle="", color=COLOURS[i % len(COLOURS)])
        for i in range(len(series))
    ]
    legend = figure.legend(dots, [""] * len(dots), loc="outside upper left", ncols=4, frameon=False)
    # A name may be a class's: an underscore would hide it, and dollars would make a formula of it.
    for text, name in zip(legend.get_texts(), series, strict=True):
        text.set(text=printable(name), parse_math=False)


def save_plot(path: Path, figure: Figure) -> None:
    """Writes the plot whole or not at all.

    Raises:
        UserError: The file cannot be written.
    """
    with whole_file(path) as temporary, warnings.catch_warnings():
        # A box stands for a letter that matplotlib's font lacks.
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(temporary, format="png", dpi=DPI)
