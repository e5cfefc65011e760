"""How good a model of the impacts world is: the numbers beside their anchors, targets met or missed.

Evaluation -> report: numbers by set and material, the same hits, targets, the instruments' own error -> text

What needs more than the findings of one measure in one clip stands here and not among the metrics: clips
broken in either way, classes named right, materials, Fréchet distances over the floor of real clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from mmldm.evaluation.evaluate import Evaluation, by_number
from mmldm.evaluation.measuring import Measured
from mmldm.evaluation.page import markdown_table
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.recordings import units_by_content
from mmldm.evaluation.sets import ClipSet
from mmldm.types import AV
from mmldm.worlds.impacts.metrics import METRICS
from mmldm.worlds.impacts.pairs import evenness, same_hits
from mmldm.worlds.impacts.targets import targets
from mmldm.worlds.tables import (
    column,
    detector_table,
    distance_cells,
    frechet,
    over,
    right_classes,
    share,
    target_table,
    with_interval,
    written,
)

TABLE_METRICS = (
    "impacts",
    "impacts-timing",
    "impacts-path",
    "hits",
    "sharpness",
    "material",
    "agreement",
    "memorisation",
)
"""The metrics that the table is made of."""
LIKE_REAL = ("impacts-per-clip", "onsets-per-clip", "ballistic", "ball-kept")
"""Numbers that stand beside their ratio to real clips'."""
BY_MATERIAL = ("hits", "sharpness")
"""Metrics that are also told of each material alone."""


def impacts_report(
    found: Evaluation,
    unseen: ClipSet,
    class_names: Sequence[str],
    protocol: Protocol,
    originals: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Reports on the sets of an evaluation by the metrics `TABLE_METRICS`.

    Args:
        found: Its "real" set holds held-out clips, what all others are compared with.
        unseen: Clips of the reference that the classifiers were not trained on; twice as many as a set holds,
            so that Fréchet distances and their floor are of the set's size.
        class_names: Of the classifiers.
        protocol: Of the evaluation; its seed is that of splits and bootstraps.
        originals: By name of a set whose hits should be those of real clips: the real clip's name by file.

    Returns:
        A JSON-ready dict: `sets` by name, "real" first, and `targets` by name of every set but "real".
    """
    # The columns: real clips first, what a model cannot surpass second.
    others = found.sets["reference"].part(unseen)
    names = [name for name in found.sets if name not in ("real", "reconstruction", "reference")]
    order = [name for name in ("real", "reconstruction", *names) if name in found.sets]
    numbers = {
        name: {line.number.name: line.values[name] for line in found.lines} for name in order
    }
    reports: dict[str, dict[str, Any]] = {}
    for name in order:
        # What the evaluation does not say of a set: classes and material against the truth, and the floor.
        measured = found.sets[name]
        own = {number: value.value for number, value in numbers[name].items()}
        classes = AV(*(column(measured, which).long() for which in ("heard", "seen")))
        lost = torch.tensor([clip["kept"].item() < 1 for clip in measured.findings["impacts"]])
        shares = {
            modality: (own.bincount(minlength=len(class_names)) / len(own)).tolist()
            for modality, own in classes._asdict().items()
        }
        # Hits and edges by what the ball is made of, as it is known or else seen.
        seen = [class_names[number] for number in classes.video.tolist()]
        known = [clip.class_name for clip in measured.clips.clips]
        materials = [own or other for own, other in zip(known, seen, strict=True)]
        by_material = _by_material(measured, materials, protocol)
        real = reports["real"]["materials"] if reports else by_material
        reports[name] = {
            "clips": len(measured),
            "numbers": {number: asdict(value) for number, value in numbers[name].items()},
            "over_real": {
                number: over(own[number], numbers["real"][number].value) for number in LIKE_REAL
            },
            "materials": by_material,
            "fine_over_real": {
                material: over(values["fine-power"]["value"], real[material]["fine-power"]["value"])
                for material, values in by_material.items()
                if material in real
            },
            "same_hits": _same_hits(
                measured, found.sets["real"], materials, (originals or {}).get(name), protocol.seed
            ),
            "broken": share(
                lost | (column(measured, "changed") > 0), units_by_content(measured.clips.clips)
            ),
            "accuracy": right_classes(measured, classes, class_names),
            "class_shares": shares,
            "evenness": evenness(shares["video"], len(measured)),
            "frechet": frechet(measured, others, protocol.seed),
            "memorisation": found.memorisation[name],
        }
    verdicts = {
        name: targets(reports[name], reports["real"], name) for name in order if name != "real"
    }
    return {"sets": reports, "targets": verdicts}


def _by_material(
    measured: Measured, materials: Sequence[str], protocol: Protocol
) -> dict[str, dict[str, Any]]:
    """Numbers of `BY_MATERIAL` of each material's clips, by material."""
    chosen = [metric for metric in METRICS if metric.name in BY_MATERIAL]
    found = {}
    for material in sorted(set(materials)):
        part = measured.take([i for i, own in enumerate(materials) if own == material])
        values = by_number(chosen, part.sides, part.sides, protocol)
        found[material] = {number: asdict(value) for number, value in values.items()}
    return found


def _same_hits(
    measured: Measured,
    real: Measured,
    materials: Sequence[str],
    originals: Mapping[str, str] | None,
    seed: int,
) -> dict[str, Any] | None:
    """The hits of a set beside those that they should be; None where they need not be any."""
    if originals is None:
        return None
    known = {
        clip.name: findings
        for clip, findings in zip(real.clips.clips, real.findings["impacts"], strict=True)
    }
    # Those whose real clip was measured; what was made from one recording is one unit.
    clips, made = measured.clips.clips, measured.findings["impacts"]
    rows = [i for i, clip in enumerate(clips) if originals.get(clip.file) in known]
    return same_hits(
        [(made[i], known[originals[clips[i].file]]) for i in rows],
        [materials[i] for i in rows],
        seed,
        units_by_content(clips)[rows],
    )


def markdown(report: Mapping[str, Any]) -> str:
    """The numbers, the targets, and, where the report has it, the instruments' own error."""
    sets, wanted = report["sets"], report["targets"]
    # Numbers, then targets met or missed.
    columns = [_cells(own) for own in sets.values()]
    rows = dict.fromkeys(row for cells in columns for row in cells)
    tables = [
        markdown_table(
            ["", *sets], [[words, *(cells.get(words, "-") for cells in columns)] for words in rows]
        ),
        target_table(wanted),
    ]
    if report.get("diversity"):
        different = [
            [name, *(written(row[key], 2) for key in ("same", "others", "ratio"))]
            for name, row in report["diversity"].items()
        ]
        head = ["sounds of several seeds", "same picture, dB", "different pictures, dB", "ratio"]
        tables.append(markdown_table(head, different))
    # How far the instruments themselves are to be trusted.
    if "calibration" in report:
        tables.append(detector_table(report["calibration"]["detectors"]))
        instruments = [
            [
                f"{name}, {row['unit']}",
                str(row["n"]),
                *(written(row[key], 2) for key in ("median", "quantile_90", "offset")),
            ]
            for name, row in report["calibration"]["errors"].items()
        ]
        head = ["instrument", "hits", "median error", "90 %", "offset"]
        tables.append(markdown_table(head, instruments))
    return "\n\n".join(tables)


ROWS = (
    ("recall at 20 ms", "sync-recall-20", 2),
    ("precision at 20 ms", "sync-precision-20", 2),
    ("recall at 50 ms", "sync-recall-50", 2),
    ("precision at 50 ms", "sync-precision-50", 2),
    ("sound from picture, ms, median", "sync-timing", 1),
    ("sound later than picture, ms, median", "sync-offset-50", 1),
    ("seen class = heard class", "agreement", 3),
    ("ball lost", "ball-lost", 3),
    ("material changes", "material-changes", 3),
    ("impacts a clip", "impacts-per-clip", 2),
    ("onsets a clip", "onsets-per-clip", 2),
    ("ballistic", "ballistic", 2),
    ("ball kept", "ball-kept", 2),
    ("path jitter, px, median", "jitter", 2),
    ("restitution in a clip, sd, median", "restitution-spread", 3),
    ("loudness against speed, r in a clip", "loudness-speed", 2),
    ("attack, ms, median", "attack", 1),
    ("before a hit, dB, median", "pre-echo", 0),
)
"""What a row of the table is called, its number, and digits after the point."""
MATERIAL_ROWS = (
    ("attack, ms", "attack", 1),
    ("before a hit, dB", "pre-echo", 0),
    ("variance of the Laplacian", "laplacian", 0),
)
"""The same of a material."""


def _cells(own: Mapping[str, Any]) -> dict[str, str]:
    """A set's column of the table.

    A number has its interval in brackets, in parentheses its value with other clips' sounds, and after × its
    ratio to real clips'.
    """
    cells = {"clips": str(own["clips"])}
    for words, name, digits in ROWS:
        value, ratio = own["numbers"][name], own["over_real"].get(name)
        cells[words] = with_interval(value, digits)
        if value["shuffled"] is not None:
            cells[words] += f" ({value['shuffled']:.{min(digits, 2)}f})"
        if ratio is not None:
            cells[words] += f" ×{ratio:.2f}"
    for words, name, digits in MATERIAL_ROWS:
        for material, values in own["materials"].items():
            cells[f"{words}, {material}"] = with_interval(values[name], digits)
    for material, ratio in own["fine_over_real"].items():
        cells[f"fine power over real, {material}"] = written(ratio, 2)
    if own["same_hits"] is not None:
        for material, value in own["same_hits"]["attack_excess"].items():
            cells[f"attack over the same hit's, ms, {material}"] = with_interval(value, 1)
        for words, key in (("bias", "loudness_bias"), ("sd", "loudness_spread")):
            cells[f"loudness over the same hit's, dB, {words}"] = with_interval(
                own["same_hits"][key], 1
            )
    cells["broken (either)"] = with_interval(own["broken"], 3)
    for words, modality in (("seen", "video"), ("heard", "audio")):
        right = own["accuracy"] and own["accuracy"][modality]
        cells[f"{words} class right"] = written(right, 3)
    cells["share of the rarest class, seen"] = f"{min(own['class_shares']['video']):.3f}"
    even = own["evenness"]
    ratio = written(even["largest_over_smallest"], 2)
    cells["largest class over smallest, seen"] = f"{ratio} (p = {even['p']:.2g})"
    return {**cells, **distance_cells(own["frechet"], own["memorisation"])}
