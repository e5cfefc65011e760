"""How good a model of the impacts world is: the numbers beside their anchors, targets met or missed.

Evaluation -> report: numbers by set, targets, the detectors' own error -> tables of Markdown

What needs more than the findings of one measure in one clip stands here and not among the metrics: clips
broken in either way, classes named right, Fréchet distances over the floor of real clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmldm.evaluation.classifiers import accuracy
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

TABLE_METRICS = (
    "impacts",
    "impacts-timing",
    "impacts-path",
    "material",
    "agreement",
    "memorisation",
)
"""The metrics that the table is made of."""
LIKE_REAL = ("impacts-per-clip", "onsets-per-clip", "ballistic", "ball-kept")
"""Numbers that stand beside their ratio to real clips'."""
LEAST_SYNC = {50: 0.90}
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
    """Reports on the sets of an evaluation by the metrics `TABLE_METRICS`.

    Args:
        found: Its "real" set holds held-out clips, what all others are compared with.
        unseen: Clips of the reference that the classifiers were not trained on; twice as many as a set holds,
            so that Fréchet distances and their floor are of the set's size.
        class_names: Of the classifiers.
        seed: Of the splits.

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


def _targets(own: dict[str, Any], real: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """What was wanted of a set, what it reached, and whether that is enough."""
    least: dict[str, tuple[float, float]] = {}
    most: dict[str, tuple[float, float]] = {}
    # Sync and motion beside real clips'; what real clips themselves lack is no target.
    for ms, wanted in (LEAST_SYNC_KEPT if name == "reconstruction" else LEAST_SYNC).items():
        for number in ("recall", "precision"):
            value, other = (r["numbers"][f"sync-{number}-{ms}"]["value"] for r in (own, real))
            if other:
                least[f"{number} at {ms} ms over real"] = ((value or 0.0) / other, wanted)
    for number, words in (("impacts-per-clip", "impacts a clip"), ("ballistic", "ballistic")):
        ratio = own["over_real"][number]
        if ratio is not None:
            most[f"departure of {words}"] = (abs(ratio - 1), MOST_DEPARTURE)
    # What is whole, and as varied as real clips.
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
    # What comes after the last frame cannot be seen, but heard.
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


def markdown(report: Mapping[str, Any]) -> str:
    """The numbers, the targets, and, where the report has it, the detectors' own error."""
    sets, targets = report["sets"], report["targets"]
    # Numbers, then targets met or missed.
    columns = [_cells(own) for own in sets.values()]
    wanted = dict.fromkeys(name for of in targets.values() for name in of)
    tables = [
        (["", *sets], [[words, *(cells[words] for cells in columns)] for words in columns[0]]),
        (
            ["target", *targets],
            [[name, *(_verdict(of.get(name)) for of in targets.values())] for name in wanted],
        ),
    ]
    # How far the detectors themselves are to be trusted.
    if "calibration" in report:
        errors = [
            [
                detector,
                f"{1000 * row['tolerance']:.0f} ms",
                *(_number(row[name], 3) for name in ("recall", "precision")),
                *(_number(row[name], 1) for name in ("sd_ms", "offset_ms")),
            ]
            for detector, rows in report["calibration"].items()
            for row in rows
        ]
        tables.append(
            (["detector", "within", "recall", "precision", "sd, ms", "offset, ms"], errors)
        )
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
)
"""What a row of the table is called, its number, and digits after the point."""


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
    cells["broken (either)"] = _interval(own["broken"], 3)
    for words, modality in (("seen", "video"), ("heard", "audio")):
        right = own["accuracy"] and own["accuracy"][modality]
        cells[f"{words} class right"] = _number(right, 3)
    cells["share of the rarest class, seen"] = f"{min(own['class_shares']['video']):.3f}"
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
    cells["nearer than the held-out's 1 % quantile"] = f"{near['share_near']:.3f}"
    return cells


def _verdict(target: Mapping[str, Any] | None) -> str:
    if target is None:
        return "-"
    word = "met" if target["met"] else "**missed**"
    return f"{word}: {target['value']:.3g} for {target['target']:.3g}"


def _interval(value: Mapping[str, Any], digits: int) -> str:
    text = _number(value["value"], digits)
    if value["value"] is None or value["interval"] is None:
        return text
    return f"{text} [{', '.join(_number(end, digits) for end in value['interval'])}]"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
