"""How good a model of the impacts world is: the numbers beside their anchors, targets met or missed.

Evaluation -> report: numbers by set, targets, the detectors' own error -> tables of Markdown

What needs more than the findings of one measure in one clip stands here and not among the metrics: clips
broken in either way, classes named right, Fréchet distances over the floor of real clips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmldm.evaluation.distances import compare
from mmldm.evaluation.evaluate import Evaluation
from mmldm.evaluation.events import lags
from mmldm.evaluation.features import Findings
from mmldm.evaluation.intervals import wilson
from mmldm.evaluation.measuring import Measured
from mmldm.evaluation.page import markdown_table
from mmldm.evaluation.sets import ClipSet
from mmldm.types import AV
from mmldm.worlds.impacts.metrics import TOLERANCES

NAMES = ("impacts", "impacts-timing", "impacts-path", "material", "agreement", "memorisation")
"""The metrics that the table is made of."""
LIKE_REAL = ("impacts-per-clip", "onsets-per-clip", "ballistic", "ball-kept")
"""Numbers that stand beside their ratio to real clips'."""
LEAST_SYNC = {50: 0.90, 100: 0.95}
"""Recall and precision of generated clips over real ones', by tolerance in ms."""
LEAST_SYNC_KEPT = {50: 0.97}
"""The same of reconstructions."""
MOST_DEPARTURE = 0.10
"""Of impacts per clip and of the ballistic share, relative to real clips."""
LEAST_AGREEMENT = 0.95
MOST_BROKEN = 0.02
MOST_FRECHET = 2.0
"""Times the distance between real clips and other real clips."""


def impacts_report(
    found: Evaluation, unseen: ClipSet, class_names: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Reports on the sets of an evaluation by the metrics `NAMES`.

    Args:
        found: Its "real" set holds held-out clips, what all others are compared with.
        unseen: Clips of the reference that the classifiers were not trained on; twice as many as a set holds,
            so that Fréchet distances and their floor are of the set's size.
        class_names: Of the classifiers.
        seed: Of the splits.

    Returns:
        A JSON-ready dict: `sets` by name, "real" first, and `targets` by name of every set but "real".
    """
    others = found.sets["reference"].part(unseen)
    names = [name for name in found.sets if name not in ("real", "reconstruction", "reference")]
    order = [name for name in ("real", "reconstruction", *names) if name in found.sets]
    numbers = {
        name: {line.number.name: line.values[name] for line in found.lines} for name in order
    }
    reports: dict[str, dict[str, Any]] = {}
    for name in order:
        measured = found.sets[name]
        own = {number: value.value for number, value in numbers[name].items()}
        classes = AV(*(_column(measured, which).long() for which in ("heard", "seen")))
        lost = torch.tensor([clip["kept"].item() < 1 for clip in measured.findings["impacts"]])
        reports[name] = {
            "clips": len(measured),
            "numbers": {number: asdict(value) for number, value in numbers[name].items()},
            "over_real": {
                number: _ratio(own[number], numbers["real"][number].value) for number in LIKE_REAL
            },
            "broken": share(lost | (_column(measured, "changed") > 0)),
            "accuracy": _accuracy(measured, classes, class_names),
            "class_shares": {
                modality: (own.bincount(minlength=len(class_names)) / len(own)).tolist()
                for modality, own in classes._asdict().items()
            },
            "frechet": _frechet(measured, others, seed),
            "memorisation": found.memorisation[name],
        }
    targets = {
        name: _targets(reports[name], reports["real"], name) for name in order if name != "real"
    }
    return {"sets": reports, "targets": targets}


def _column(measured: Measured, name: str) -> Tensor:
    """What the classifiers said of each clip: (N,) or (N,64)."""
    return torch.stack([clip[name] for clip in measured.findings["classes"]])


def _ratio(value: float | None, real: float | None) -> float | None:
    return None if value is None or not real else value / real


def share(hits: Tensor) -> dict[str, Any]:
    """Share of true values (N,) bool, with its 95 % interval by Wilson's score."""
    value = hits.double().mean().item()
    return {"value": value, "interval": list(wilson(value, len(hits)))}


def _accuracy(
    measured: Measured, classes: AV[Tensor], class_names: Sequence[str]
) -> dict[str, float] | None:
    """Share of clips whose class is named right, by modality; None where clips are of no class."""
    true = [clip.class_name for clip in measured.clips.clips]
    if not set(true) <= set(class_names):
        return None
    wanted = torch.tensor([list(class_names).index(name) for name in true if name is not None])
    return {
        modality: (own == wanted).double().mean().item()
        for modality, own in classes._asdict().items()
    }


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


def _targets(own: dict[str, Any], real: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """What was wanted of a set, what it reached, and whether that is enough."""
    least: dict[str, tuple[float, float]] = {}
    most: dict[str, tuple[float, float]] = {}
    for ms, wanted in (LEAST_SYNC_KEPT if name == "reconstruction" else LEAST_SYNC).items():
        for number in ("recall", "precision"):
            value, other = (r["numbers"][f"sync-{number}-{ms}"]["value"] for r in (own, real))
            if other:
                least[f"{number} at {ms} ms over real"] = ((value or 0.0) / other, wanted)
    for number, words in (("impacts-per-clip", "impacts a clip"), ("ballistic", "ballistic")):
        ratio = own["over_real"][number]
        if ratio is not None:
            most[f"departure of {words}"] = (abs(ratio - 1), MOST_DEPARTURE)
    least["seen class = heard class"] = (own["numbers"]["agreement"]["value"], LEAST_AGREEMENT)
    most["broken clips"] = (own["broken"]["value"], MOST_BROKEN)
    farthest = max(pair["distance"] / pair["floor"] for pair in own["frechet"].values())
    most["Fréchet distance over floor"] = (farthest, MOST_FRECHET)
    # Held-out clips themselves vary: what is not below their interval is not nearer than they are.
    near = own["memorisation"]
    for quantile, words in {"median": "median", "quantile_5": "5 % quantile"}.items():
        bound = near[f"{quantile}_held_out_interval"][0]
        least[f"nearest training clip, {words}"] = (near[quantile], bound)
    return {
        **{n: {"value": v, "target": t, "met": v >= t} for n, (v, t) in least.items()},
        **{n: {"value": v, "target": t, "met": v <= t} for n, (v, t) in most.items()},
    }


def calibration(found: Sequence[Findings], truths: Sequence[np.ndarray]) -> dict[str, Any]:
    """What the two detectors find of the true impacts of real clips.

    Args:
        found: Of the measure `Impacts`.
        truths: True times (N,) of each clip; those after its last frame can be heard, not seen.

    Returns:
        A JSON-ready dict by detector: for each tolerance recall, precision, standard deviation and
        mean (`offset_ms`, positive: found late) of the error in ms. None where nothing was found.
    """
    clips = list(zip(found, truths, strict=True))
    detected = {
        "impacts": [(c["impacts"].numpy(), t[t <= c["last"].item()]) for c, t in clips],
        "onsets": [(c["onsets"].numpy(), t) for c, t in clips],
    }
    report: dict[str, Any] = {}
    for detector, pairs in detected.items():
        report[detector] = []
        claimed, wanted = (sum(len(pair[i]) for pair in pairs) for i in (0, 1))
        for tolerance in TOLERANCES:
            errors = np.concatenate([1000 * lags(*pair, tolerance) for pair in pairs])
            row = {
                "tolerance": tolerance,
                "recall": len(errors) / wanted if wanted else None,
                "precision": len(errors) / claimed if claimed else None,
                "sd_ms": float(errors.std()) if len(errors) else None,
                "offset_ms": float(errors.mean()) if len(errors) else None,
            }
            report[detector].append(row)
    return report


Cell = Callable[[dict[str, Any]], str]


def markdown(report: Mapping[str, Any]) -> str:
    """The numbers, the targets, and, where the report has it, the detectors' own error."""
    sets, targets = report["sets"], report["targets"]
    numbers = [[words, *map(cell, sets.values())] for words, cell in _rows().items()]
    wanted = dict.fromkeys(name for of in targets.values() for name in of)
    verdicts = [[name, *(_verdict(of.get(name)) for of in targets.values())] for name in wanted]
    tables = [
        markdown_table(["", *sets], numbers),
        markdown_table(["target", *targets], verdicts),
    ]
    if "calibration" in report:
        head = ["detector", "within", "recall", "precision", "sd, ms", "offset, ms"]
        columns = {"recall": 3, "precision": 3, "sd_ms": 1, "offset_ms": 1}
        errors = [
            [detector, f"{1000 * row['tolerance']:.0f} ms",
             *(_digits(row[name], digits) for name, digits in columns.items())]
            for detector, rows in report["calibration"].items() for row in rows
        ]  # fmt: skip
        tables.append(markdown_table(head, errors))
    return "\n\n".join(tables)


def _rows() -> dict[str, Cell]:
    """What each row of the table is called, and its cell of a set's report."""
    rows: dict[str, Cell] = {"clips": lambda own: str(own["clips"])}
    for ms, error in ((50, "sync-error"), (100, "sync-error-100")):
        rows[f"recall at {ms} ms"] = _number(f"sync-recall-{ms}", 2)
        rows[f"precision at {ms} ms"] = _number(f"sync-precision-{ms}", 2)
        rows[f"timing error of matches, ms, at {ms} ms"] = _number(error, 1)
        rows[f"sound later than picture, ms, at {ms} ms"] = _number(f"sync-offset-{ms}", 1)
    return rows | {
        "seen class = heard class": _number("agreement", 3),
        "seen class right": _right("video"),
        "heard class right": _right("audio"),
        "share of the rarest class, seen": lambda own: f"{min(own['class_shares']['video']):.3f}",
        "ball lost": _number("ball-lost", 3),
        "material changes": _number("material-changes", 3),
        "broken (either)": lambda own: _interval(own["broken"], 3),
        "impacts a clip": _number("impacts-per-clip", 2),
        "onsets a clip": _number("onsets-per-clip", 2),
        "ballistic": _number("ballistic", 2),
        "ball kept": _number("ball-kept", 2),
        "Fréchet distance, picture": _over_floor("video"),
        "Fréchet distance, sound": _over_floor("audio"),
        "Fréchet distance, both": _over_floor("both"),
        "nearest training clip, median": _near("median"),
        "nearest training clip, 5 % quantile": _near("quantile_5"),
        "nearer than the held-out's 1 % quantile": lambda own: (
            f"{own['memorisation']['share_near']:.3f}"
        ),
    }


def _number(name: str, digits: int) -> Cell:
    """A number with its interval; in parentheses its shuffled value, after × its ratio to real clips'."""

    def cell(own: dict[str, Any]) -> str:
        value, ratio = own["numbers"][name], own["over_real"].get(name)
        text = _interval(value, digits)
        if value["shuffled"] is not None:
            text += f" ({value['shuffled']:.{2 if digits == 3 else digits}f})"
        return text if ratio is None else f"{text} ×{ratio:.2f}"

    return cell


def _right(modality: str) -> Cell:
    return lambda own: f"{own['accuracy'][modality]:.3f}" if own["accuracy"] else "-"


def _over_floor(key: str) -> Cell:
    def cell(own: dict[str, Any]) -> str:
        pair = own["frechet"][key]
        floor = f"{pair['floor']:.3g} ± {pair['floor_deviation']:.1g}"
        return f"{pair['distance']:.3g} / {floor} = {pair['distance'] / pair['floor']:.2f}"

    return cell


def _near(name: str) -> Cell:
    def cell(own: dict[str, Any]) -> str:
        near = own["memorisation"]
        low, high = near[f"{name}_held_out_interval"]
        return f"{near[name]:.3f} (held out {low:.3f} to {high:.3f})"

    return cell


def _verdict(target: Mapping[str, Any] | None) -> str:
    if target is None:
        return "-"
    word = "met" if target["met"] else "**missed**"
    return f"{word}: {target['value']:.3g} for {target['target']:.3g}"


def _interval(value: Mapping[str, Any], digits: int) -> str:
    if value["value"] is None or value["interval"] is None:
        return _digits(value["value"], digits)
    low, high = value["interval"]
    return f"{value['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _digits(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
