"""The pictures of a report: intervals, maps of features, best and worst clips, possible copies.

Evaluation -> folder/*.png, and what each shows
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmldm.evaluation.evaluate import Evaluation
from mmldm.evaluation.extractors.extractor import of_clips
from mmldm.evaluation.features import EXTRACTORS, nearest
from mmldm.evaluation.measuring import Measured
from mmldm.evaluation.memorisation import nearest_pairs, pairs_sheet
from mmldm.evaluation.metrics import ClipRatio
from mmldm.evaluation.plots import interval_plot, principal_plane, scatter_plot
from mmldm.media.clip import Clip
from mmldm.media.sheet import contact_sheet, save_png
from mmldm.types import ClipSpec

SHOWN = 6
"""Clips on a sheet."""


def write_pictures(found: Evaluation, spec: ClipSpec, folder: Path) -> dict[str, str]:
    """Writes the pictures that the evaluation has something for: file name -> what it shows.

    Args:
        spec: How clips are read for the sheets.

    Raises:
        UserError: The folder cannot be written, or a clip has gone.
    """
    pictures = {
        "intervals.png": "Values and 95 % intervals, each number on an axis of its own",
    }
    lines = {line.number.title: line.values for line in found.lines}
    save_png(folder / "intervals.png", interval_plot(lines))
    if found.classes:
        titles = {line.number.name: line.number.title for line in found.lines}
        numbers = next(iter(found.classes.values()))
        by_number = {
            titles[number]: {name: values[number] for name, values in found.classes.items()}
            for number in numbers
        }
        save_png(folder / "classes.png", interval_plot(by_number))
        pictures["classes.png"] = "Generated clips, by class"
    described = {
        name: {label: _described(side, name) for label, side in found.sets.items()}
        for name in (*EXTRACTORS, "fingerprints")
        if name in found.anchor.findings
    }
    if described:
        save_png(folder / "map.png", scatter_plot({n: _projected(c) for n, c in described.items()}))
        pictures["map.png"] = (
            "Clips by their features, on the first two principal axes of the reference"
        )
        measure, clouds = next(iter(described.items()))
        distances = torch.cdist(clouds["generated"], clouds["reference"]).amin(1)
        words = f"distance to the nearest reference clip ({measure})"
        pictures |= _ends(
            found.sets["generated"], distances, words, "reference", spec, folder, False
        )
    pictures |= _aligned(found, spec, folder)
    if "fingerprints" in found.anchor.findings:
        pictures |= _nearest(found, spec, folder)
    return pictures


def _described(side: Measured, measure: str) -> Tensor:
    """One vector (N,D) float64 of each clip."""
    rows = side.findings[measure]
    if measure == "fingerprints":
        return torch.stack([torch.cat([row["audio"], row["video"]]) for row in rows]).double()
    return of_clips([row["features"] for row in rows]).double()


def _projected(clouds: dict[str, Tensor]) -> dict[str, Tensor]:
    mean, axes = principal_plane(clouds["reference"])
    return {name: (points - mean) @ axes.T for name, points in clouds.items()}


def _aligned(found: Evaluation, spec: ClipSpec, folder: Path) -> dict[str, str]:
    """Best and worst clips by AV-Align, of those that have one."""
    for line in found.lines:
        if isinstance(line.metric, ClipRatio) and line.metric.name == "av-align":
            generated = found.sets["generated"]
            counts = torch.from_numpy(line.metric.of_clips(generated.findings["events"]))
            defined = counts[:, 1].nonzero()[:, 0].tolist()
            side = generated.take(defined)
            return _ends(side, counts[defined, 0], "AV-Align", "alignment", spec, folder, True)
    return {}


def _ends(
    side: Measured,
    values: Tensor,
    words: str,
    name: str,
    spec: ClipSpec,
    folder: Path,
    higher: bool,
) -> dict[str, str]:
    """Sheets of the clips with the best and with the worst values (N,)."""
    order = values.argsort(descending=higher).tolist()
    pictures = {}
    for end, chosen in (("best", order[:SHOWN]), ("worst", order[::-1][:SHOWN])):
        if chosen:
            file = f"{end}_{name}.png"
            titles = [f"{side.clips.clips[i].name}, {words}: {values[i]:.3g}" for i in chosen]
            save_png(folder / file, contact_sheet(_read(side, chosen, spec), titles))
            pictures[file] = f"The {end} generated clips by {words}"
    return pictures


def _nearest(found: Evaluation, spec: ClipSpec, folder: Path) -> dict[str, str]:
    generated, reference = found.sets["generated"], found.sets["reference"]
    pairs = nearest_pairs(
        *nearest(generated.findings["fingerprints"], reference.findings["fingerprints"]), SHOWN
    )
    sheet = pairs_sheet(
        pairs,
        lambda i: generated.clips.clips[i].read(spec),
        lambda i: reference.clips.clips[i].read(spec),
    )
    save_png(folder / "nearest.png", sheet)
    return {"nearest.png": "The generated clips that are nearest to a reference clip, above it"}


def _read(side: Measured, indices: Sequence[int], spec: ClipSpec) -> list[Clip]:
    return [side.clips.clips[i].read(spec) for i in indices]
