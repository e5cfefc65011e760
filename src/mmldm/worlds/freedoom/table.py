"""How good a model of the Freedoom world is: the numbers beside their anchors, targets met or missed.

Evaluation -> report: numbers by set, true shots, classes, distances, targets, the instruments' error -> text
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mmldm.evaluation.evaluate import Evaluation
from mmldm.evaluation.events import match
from mmldm.evaluation.features import Findings
from mmldm.evaluation.intervals import correlation, correlation_interval, ratio_interval
from mmldm.evaluation.measuring import Measured
from mmldm.evaluation.page import markdown_table
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.sets import ClipSet
from mmldm.types import AV
from mmldm.worlds.freedoom.metrics import Window
from mmldm.worlds.tables import (
    column,
    detector_table,
    distance_cells,
    frechet,
    over,
    right_classes,
    target_table,
    verdicts,
    with_interval,
    written,
)

TABLE_METRICS = ("shots", "agreement", "memorisation")
"""The metrics that the table is made of."""
BOOTSTRAPS = 1000
MADE = {
    "reconstruction": ("audio", "video"),
    "generated": ("audio", "video"),
    "audio-to-video": ("video",),
    "video-to-audio": ("audio",),
}
"""What is made and not given, by name of the set; of any other set both are."""
IN_TIME = {"reconstruction": 0.98, "generated": 0.95, "audio-to-video": 0.9, "video-to-audio": 0.95}
"""Least recall and precision of shots over real clips' own, by set."""
AGREEMENT = 0.95
RATES = 0.7
"""Least of monsters seen and hit, and of turning, over real clips'."""
FINE = 0.7, 1.3
FRECHET = 3.0
"""Times the distance between real clips and other real clips."""


def freedoom_report(
    found: Evaluation,
    unseen: ClipSet,
    class_names: Sequence[str],
    protocol: Protocol,
    truths: Mapping[str, Window],
    originals: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """Reports on the sets of an evaluation by the metrics `TABLE_METRICS`.

    Args:
        found: Its "real" set holds held-out clips, what all others are compared with.
        unseen: Clips of the reference that the classifiers were not trained on, as `impacts_report` has them.
        class_names: Of the classifiers: the scenarios.
        truths: What is true of the real clips, by name.
        originals: By name of a set whose shots should be those of real clips: the real clip's name by file.

    Returns:
        A JSON-ready dict: `sets` by name, "real" first, and `targets` by name of every set but "real".
    """
    others = found.sets["reference"].part(unseen)
    names = [name for name in found.sets if name not in ("real", "reconstruction", "reference")]
    order = [name for name in ("real", "reconstruction", *names) if name in found.sets]
    reports: dict[str, dict[str, Any]] = {}
    for name in order:
        measured = found.sets[name]
        numbers = {line.number.name: line.values[name] for line in found.lines}
        real = reports.get("real", {}).get("numbers", {})
        classes = AV(*(column(measured, which).long() for which in ("heard", "seen")))
        of_real = _originals(name, measured, originals)
        reports[name] = {
            "clips": len(measured),
            "numbers": {number: asdict(value) for number, value in numbers.items()},
            "over_real": {
                number: over(value.value, real[number]["value"] if real else value.value)
                for number, value in numbers.items()
            },
            "true_shots": of_real and _true_shots(measured, of_real, truths, protocol.seed),
            "levels": of_real and _levels(measured, found.sets["real"], of_real, protocol.seed),
            "accuracy": right_classes(measured, classes, class_names),
            "frechet": frechet(measured, others, protocol.seed),
            "memorisation": found.memorisation[name],
        }
    verdicts = {name: targets(reports[name], reports["real"], name) for name in order[1:]}
    return {"sets": reports, "targets": verdicts}


def _originals(
    name: str, measured: Measured, originals: Mapping[str, Mapping[str, str]]
) -> list[str] | None:
    """Of each clip of a set, the name of the real one whose shots it should have; None where of none."""
    clips = measured.clips.clips
    if name == "real":
        return [clip.name for clip in clips]
    if name not in originals:
        return None
    return [originals[name].get(clip.file, "") for clip in clips]


def _true_shots(
    measured: Measured, originals: Sequence[str], truths: Mapping[str, Window], seed: int
) -> dict[str, Any]:
    """Recall and precision, within a frame, of what is seen and heard of the shots of the originals."""
    counts: dict[str, list[tuple[int, int]]] = {}
    for name, findings in zip(originals, measured.findings["shots"], strict=True):
        truth = truths.get(name)
        if truth is None:
            continue
        frame, last = findings["frame"].item(), findings["last"].item()
        visible = truth.shots[truth.shots <= last]
        for which, true in (("seen", visible), ("heard", truth.shots)):
            times = findings[which].numpy()
            hits = len(match(times, true, frame))
            counts.setdefault(f"{which}-recall", []).append((hits, len(true)))
            counts.setdefault(f"{which}-precision", []).append((hits, len(times)))
    return {name: _summed(np.array(pairs, dtype=float), seed) for name, pairs in counts.items()}


def _summed(counts: np.ndarray, seed: int) -> dict[str, Any]:
    """The ratio of the sums of counts (N,2), with its interval."""
    hits, every = counts.sum(0)
    return {
        "value": float(hits / every) if every else None,
        "interval": ratio_interval(counts, BOOTSTRAPS, seed),
    }


def _levels(
    measured: Measured, real: Measured, originals: Sequence[str], seed: int
) -> dict[str, Any]:
    """How the loudness follows that of the originals, r in a clip: calls and bites count as shots do."""
    known = {
        clip.name: findings
        for clip, findings in zip(real.clips.clips, real.findings["shots"], strict=True)
    }
    products = []
    for name, findings in zip(originals, measured.findings["shots"], strict=True):
        if name in known:
            products.append(_products(findings, known[name]))
    sums = np.array(products).reshape(-1, 3)
    if not len(sums) or not sums.sum(0)[:2].all():
        return {"value": None, "interval": None}
    return {
        "value": float(correlation(sums.sum(0))),
        "interval": correlation_interval(sums, BOOTSTRAPS, seed),
    }


def _products(made: Findings, other: Findings) -> np.ndarray:
    """Both squares and the product (3,) of two clips' levels (L,), without their means."""
    own, true = made["levels"].numpy(), other["levels"].numpy()
    length = min(len(own), len(true))
    own, true = own[:length] - own[:length].mean(), true[:length] - true[:length].mean()
    return np.array([own @ own, true @ true, own @ true])


def targets(own: Mapping[str, Any], real: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What was wanted of a set, what it reached, and whether that is enough.

    Args:
        own: The report on it.
        real: That on real clips.
        name: Of the set.

    Returns:
        By target a JSON-ready dict of `value`, `target` and `met`; without those that are undefined.
    """
    least: dict[str, tuple[float | None, float]] = {}
    most: dict[str, tuple[float | None, float]] = {}
    made, bound = MADE.get(name, ("audio", "video")), IN_TIME.get(name, IN_TIME["generated"])

    # Shots beside real clips': those that are true where the clip has an original, else flash and bang.
    if own["true_shots"]:
        for which in [w for w, m in (("seen", "video"), ("heard", "audio")) if m in made]:
            for kind in ("recall", "precision"):
                key = f"{which}-{kind}"
                value = over(own["true_shots"][key]["value"], real["true_shots"][key]["value"])
                least[f"shots {which}, {kind} over real"] = (value, bound)
    else:
        least["flashes with a bang over real"] = (own["over_real"]["shots-recall"], bound)
        least["bangs with a flash over real"] = (own["over_real"]["shots-precision"], bound)
    least["scenario seen = heard over real"] = (own["over_real"]["agreement"], AGREEMENT)
    if "video" in made:
        least["frames with a monster over real"] = (own["over_real"]["monster-frames"], RATES)
        least["frames that turn over real"] = (own["over_real"]["turning"], RATES)
        least["monsters hit over real"] = (own["over_real"]["kills-per-clip"], RATES)
        fine = own["over_real"]["fine-power"]
        least["fine power over real, least"] = (fine, FINE[0])
        most["fine power over real, most"] = (fine, FINE[1])

    # As varied as real clips, and no nearer to training clips than held-out ones are.
    farthest = max(pair["distance"] / pair["floor"] for pair in own["frechet"].values())
    most["Fréchet distance over floor"] = (farthest, FRECHET)
    near = own["memorisation"]
    for quantile, words in (("median", "median"), ("quantile_5", "5 % quantile")):
        held_out = near[f"{quantile}_held_out_interval"][0]
        least[f"nearest training clip, {words}"] = (near[quantile], held_out)
    return verdicts(least, most)


ROWS = (
    ("flashes with a bang within a frame", "shots-recall", 3),
    ("bangs with a flash within a frame", "shots-precision", 3),
    ("bang later than its flash, ms, median", "shots-offset", 1),
    ("scenario seen = heard", "agreement", 3),
    ("flashes a clip", "flashes-per-clip", 2),
    ("bangs a clip", "bangs-per-clip", 2),
    ("frames with a monster", "monster-frames", 3),
    ("monsters hit a clip", "kills-per-clip", 2),
    ("frames at which the view turns", "turning", 3),
    ("fine power", "fine-power", 0),
)
"""What a row of the table is called, its number, and digits after the point."""


def markdown(report: Mapping[str, Any]) -> str:
    """The numbers, the targets, and, where the report has it, the instruments' own error."""
    sets = report["sets"]
    columns = [_cells(own) for own in sets.values()]
    rows = dict.fromkeys(row for cells in columns for row in cells)
    tables = [
        markdown_table(
            ["", *sets], [[words, *(cells.get(words, "-") for cells in columns)] for words in rows]
        ),
        target_table(report["targets"]),
    ]
    if "calibration" in report:
        tables.append(detector_table(report["calibration"]["detectors"]))
        told, turning = report["calibration"]["monsters"], report["calibration"]["turning"]
        tables.append(
            f"frames with a monster: recall {written(told['recall'], 3)}, alarms where none is "
            f"{written(told['alarms'], 3)}, in doubt {written(told['in_doubt'], 3)} of all frames; turning: "
            f"recall {written(turning['recall'], 3)}, precision {written(turning['precision'], 3)}, r "
            f"{written(turning['r'], 2)}"
        )
    return "\n\n".join(tables)


def _cells(own: Mapping[str, Any]) -> dict[str, str]:
    """A set's column: intervals in brackets, other clips' sounds in parentheses, × the ratio to real."""
    cells = {"clips": str(own["clips"])}
    for words, name, digits in ROWS:
        value, ratio = own["numbers"][name], own["over_real"][name]
        cells[words] = with_interval(value, digits)
        if value["shuffled"] is not None:
            cells[words] += f" ({value['shuffled']:.{min(digits, 2)}f})"
        if ratio is not None:
            cells[words] += f" ×{ratio:.2f}"
    for key, value in (own["true_shots"] or {}).items():
        which, kind = key.split("-")
        cells[f"true shots {which}, {kind}"] = with_interval(value, 3)
    if own["levels"]:
        cells["loudness beside the real clip's, r"] = with_interval(own["levels"], 2)
    for words, modality in (("seen", "video"), ("heard", "audio")):
        right = own["accuracy"] and own["accuracy"][modality]
        cells[f"{words} scenario right"] = written(right, 3)
    return {**cells, **distance_cells(own["frechet"], own["memorisation"])}
