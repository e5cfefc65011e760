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
from torch import Tensor

from mmldm.evaluation.classifiers import accuracy
from mmldm.evaluation.distances import compare
from mmldm.evaluation.evaluate import Evaluation, by_number
from mmldm.evaluation.intervals import Units, share_interval
from mmldm.evaluation.measuring import Measured
from mmldm.evaluation.page import markdown_table
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.recordings import units_by_content
from mmldm.evaluation.sets import ClipSet
from mmldm.types import AV
from mmldm.worlds.impacts.metrics import METRICS
from mmldm.worlds.impacts.pairs import evenness, same_hits
from mmldm.worlds.impacts.targets import targets

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
        classes = AV(*(_column(measured, which).long() for which in ("heard", "seen")))
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
                number: _ratio(own[number], numbers["real"][number].value) for number in LIKE_REAL
            },
            "materials": by_material,
            "fine_over_real": {
                material: _ratio(
                    values["fine-power"]["value"], real[material]["fine-power"]["value"]
                )
                for material, values in by_material.items()
                if material in real
            },
            "same_hits": _same_hits(
                measured, found.sets["real"], materials, (originals or {}).get(name), protocol.seed
            ),
            "broken": share(
                lost | (_column(measured, "changed") > 0), units_by_content(measured.clips.clips)
            ),
            "accuracy": _accuracy(measured, classes, class_names),
            "class_shares": shares,
            "evenness": evenness(shares["video"], len(measured)),
            "frechet": _frechet(measured, others, protocol.seed),
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


def _column(measured: Measured, name: str) -> Tensor:
    """What the classifiers said of each clip: (N,) or (N,64)."""
    return torch.stack([clip[name] for clip in measured.findings["classes"]])


def _ratio(value: float | None, real: float | None) -> float | None:
    return None if value is None or not real else value / real


def share(hits: Tensor, units: Units | None = None) -> dict[str, Any]:
    """Share of true values (N,) bool, with its 95 % interval by Wilson's score.

    Args:
        units: (N,), which clips are of one recording; None: none.
    """
    shares = hits.double()
    return {
        "value": shares.mean().item(),
        "interval": list(share_interval(shares.numpy(), units)),
    }


def _accuracy(
    measured: Measured, classes: AV[Tensor], class_names: Sequence[str]
) -> dict[str, float] | None:
    """Share of N clips whose class (N,) is named right, by modality; None where clips are of no class."""
    true = [clip.class_name for clip in measured.clips.clips]
    if not set(true) <= set(class_names):
        return None
    wanted = torch.tensor([list(class_names).index(name) for name in true if name is not None])
    return accuracy(classes, wanted)._asdict()


def _frechet(measured: Measured, real: Measured, seed: int) -> dict[str, dict[str, Any]]:
    """Comparisons by the features of the sound (D = 64), of the picture (64), of both (128).

    Both together are compared at equal shares of the class that is seen: a wrong sound counts.
    """
    found = {}
    for name, features, classes in (
        ("audio", ["sound"], "heard"),
        ("video", ["picture"], "seen"),
        ("both", ["sound", "picture"], "seen"),
    ):
        ours, others = (
            torch.cat([_column(side, feature) for feature in features], dim=1)
            for side in (measured, real)
        )
        kinds, real_kinds = (_column(side, classes) for side in (measured, real))
        found[name] = compare(ours, others, kinds, real_kinds, seed=seed)._asdict()
    return found


def markdown(report: Mapping[str, Any]) -> str:
    """The numbers, the targets, and, where the report has it, the instruments' own error."""
    sets, wanted = report["sets"], report["targets"]
    # Numbers, then targets met or missed.
    columns = [_cells(own) for own in sets.values()]
    rows = dict.fromkeys(row for column in columns for row in column)
    names = dict.fromkeys(name for of in wanted.values() for name in of)
    tables = [
        (["", *sets], [[words, *(cells.get(words, "-") for cells in columns)] for words in rows]),
        (
            ["target", *wanted],
            [[name, *(_verdict(of.get(name)) for of in wanted.values())] for name in names],
        ),
    ]
    if report.get("diversity"):
        different = [
            [name, *(_number(row[key], 2) for key in ("same", "others", "ratio"))]
            for name, row in report["diversity"].items()
        ]
        head = ["sounds of several seeds", "same picture, dB", "different pictures, dB", "ratio"]
        tables.append((head, different))
    # How far the instruments themselves are to be trusted.
    if "calibration" in report:
        errors = [
            [
                detector,
                f"{1000 * row['tolerance']:.0f} ms",
                *(_number(row[name], 3) for name in ("recall", "precision")),
                *(_number(row[name], 2) for name in ("median_ms", "sd_ms", "offset_ms")),
            ]
            for detector, rows in report["calibration"]["detectors"].items()
            for row in rows
        ]
        head = [
            "detector",
            "within",
            "recall",
            "precision",
            "median error, ms",
            "sd, ms",
            "offset, ms",
        ]
        tables.append((head, errors))
        instruments = [
            [
                f"{name}, {row['unit']}",
                str(row["n"]),
                *(_number(row[key], 2) for key in ("median", "quantile_90", "offset")),
            ]
            for name, row in report["calibration"]["errors"].items()
        ]
        tables.append((["instrument", "hits", "median error", "90 %", "offset"], instruments))
    return "\n\n".join(markdown_table(head, rows) for head, rows in tables)


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
        cells[words] = _interval(value, digits)
        if value["shuffled"] is not None:
            cells[words] += f" ({value['shuffled']:.{min(digits, 2)}f})"
        if ratio is not None:
            cells[words] += f" ×{ratio:.2f}"
    for words, name, digits in MATERIAL_ROWS:
        for material, values in own["materials"].items():
            cells[f"{words}, {material}"] = _interval(values[name], digits)
    for material, ratio in own["fine_over_real"].items():
        cells[f"fine power over real, {material}"] = _number(ratio, 2)
    if own["same_hits"] is not None:
        for material, value in own["same_hits"]["attack_excess"].items():
            cells[f"attack over the same hit's, ms, {material}"] = _interval(value, 1)
        for words, key in (("bias", "loudness_bias"), ("sd", "loudness_spread")):
            cells[f"loudness over the same hit's, dB, {words}"] = _interval(
                own["same_hits"][key], 1
            )
    cells["broken (either)"] = _interval(own["broken"], 3)
    for words, modality in (("seen", "video"), ("heard", "audio")):
        right = own["accuracy"] and own["accuracy"][modality]
        cells[f"{words} class right"] = _number(right, 3)
    cells["share of the rarest class, seen"] = f"{min(own['class_shares']['video']):.3f}"
    even = own["evenness"]
    ratio = _number(even["largest_over_smallest"], 2)
    cells["largest class over smallest, seen"] = f"{ratio} (p = {even['p']:.2g})"
    for words, key in (("picture", "video"), ("sound", "audio"), ("both", "both")):
        pair = own["frechet"][key]
        floor = f"{pair['floor']:.3g} ± {pair['floor_deviation']:.1g}"
        ratio = f"{pair['distance'] / pair['floor']:.2f}"
        cells[f"Fréchet distance, {words}"] = f"{pair['distance']:.3g} / {floor} = {ratio}"
    near = own["memorisation"]
    for words, key in (("median", "median"), ("5 % quantile", "quantile_5")):
        low, high = near[f"{key}_held_out_interval"]
        cells[f"nearest training clip, {words}"] = (
            f"{near[key]:.3f} (held out {low:.3f} to {high:.3f})"
        )
    cells["nearer than the held-out's nearest hundredth"] = (
        f"{near['share_near']:.3f} (inventing {near['expected_near']:.3f})"
    )
    return cells


def _verdict(target: Mapping[str, Any] | None) -> str:
    if target is None:
        return "-"
    word = "met" if target["met"] else "**missed**"
    value = "undefined" if target["value"] is None else f"{target['value']:.3g}"
    return f"{word}: {value} for {target['target']:.3g}"


def _interval(value: Mapping[str, Any], digits: int) -> str:
    text = _number(value["value"], digits)
    if value["value"] is None or value["interval"] is None:
        return text
    return f"{text} [{', '.join(_number(end, digits) for end in value['interval'])}]"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
