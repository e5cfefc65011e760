"""One evaluation: sets measured, every metric beside its anchors.

Sides, metrics, measures -> Evaluation (numbers by set, classes, memorisation)

The anchors are real clips against other real clips, a model's reconstructions where there are any, and for
joint metrics each set's pictures with other sounds. Numbers whose mean depends on how many clips there are
stand beside real ones from equally many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmldm.evaluation.feature_cache import FeatureCache
from mmldm.evaluation.measures import Measure
from mmldm.evaluation.measuring import Measured, Speed, measure_set
from mmldm.evaluation.memorisation import memorisation_report
from mmldm.evaluation.metrics import Metric, Number, Value, nearest
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.sets import ClipSet, Progress
from mmldm.evaluation.sides import Sides

EQUAL = "generated, equal n"
"""Generated clips cut to as many as there are real ones, against the clips that those are compared with."""


@dataclass(frozen=True)
class Line:
    """A number of every set that it was computed for."""

    number: Number
    metric: Metric
    values: dict[str, Value]


@dataclass(frozen=True)
class Evaluation:
    """All that was found.

    Attributes:
        sets: By name: generated, reference, real, and reconstruction where there is one.
        anchor: The clips that `real` was compared with.
        lines: In the metrics' order.
        classes: Numbers of the generated clips of each class against the reference's, by number's name.
        memorisation: As `memorisation_report` has it.
        speed: Of measuring.
    """

    sets: dict[str, Measured]
    anchor: Measured
    lines: list[Line]
    classes: dict[str, dict[str, Value]]
    memorisation: dict[str, Any] | None
    speed: Speed


def evaluate(
    sides: Sides,
    metrics: Sequence[Metric],
    measures: Sequence[Measure],
    protocol: Protocol,
    cache: FeatureCache,
    workers: int = 1,
    progress: Progress | None = None,
) -> Evaluation:
    """Measures all sets and compares them.

    Args:
        metrics: Of which every one's measure is among `measures`.
        workers: Decoding threads.

    Raises:
        UserError: A set has fewer than two clips that can be read.
    """
    speed = Speed()

    def measured(clips: ClipSet) -> Measured:
        return measure_set(clips, measures, protocol.spec, cache, workers, progress, speed)

    known = sides.known
    sets = {"generated": measured(sides.generated), "reference": measured(known.reference)}
    split = known.anchor is not known.reference
    anchor = sets["reference"].part(known.anchor) if split else sets["reference"]
    sets["real"] = sets["reference"].part(known.real) if split else measured(known.real)
    if sides.reconstruction is not None:
        sets["reconstruction"] = measured(sides.reconstruction)
    lines = []
    for done, metric in enumerate(metrics):
        if progress is not None:
            progress("metrics", done, len(metrics))
        lines += _compare(metric, sets, anchor, split, protocol)
    if progress is not None:
        progress("metrics", len(metrics), len(metrics))
    return Evaluation(
        sets=sets,
        anchor=anchor,
        lines=lines,
        classes=_by_class(metrics, sets["generated"], sets["reference"], protocol),
        memorisation=_memorisation(sets["generated"], sets["real"], anchor, protocol),
        speed=speed,
    )


def _compare(
    metric: Metric, sets: dict[str, Measured], anchor: Measured, split: bool, protocol: Protocol
) -> list[Line]:
    """A metric's numbers of all sets."""
    biased = any(number.biased for number in metric.numbers)
    count = min(len(sets["generated"]), len(sets["real"]))
    compared = {"generated": (sets["generated"], sets["reference"])}
    if biased and (split or count < len(sets["generated"])):
        compared[EQUAL] = (sets["generated"].spread(count), anchor)
    for name in ("real", "reconstruction"):
        if name in sets:
            compared[name] = (sets[name].spread(count) if biased else sets[name], anchor)
    found = {
        name: metric.values(first.rows[metric.measure], second.rows[metric.measure], protocol)
        for name, (first, second) in compared.items()
    }
    return [
        Line(number, metric, {name: values[i] for name, values in found.items()})
        for i, number in enumerate(metric.numbers)
    ]


def _by_class(
    metrics: Sequence[Metric], generated: Measured, reference: Measured, protocol: Protocol
) -> dict[str, dict[str, Value]]:
    """Numbers that few clips do not bias, by class, where both sets have at least two classes in common."""
    members = [_classes(measured) for measured in (generated, reference)]
    shared = [name for name in members[0] if min(len(m.get(name, [])) for m in members) > 1]
    if len(shared) < 2:
        return {}
    found: dict[str, dict[str, Value]] = {}
    for name in shared:
        first, second = (
            measured.take(own[name])
            for measured, own in zip((generated, reference), members, strict=True)
        )
        found[name] = {
            number.name: value
            for metric in metrics
            if not any(number.biased for number in metric.numbers)
            for number, value in zip(
                metric.numbers,
                metric.values(first.rows[metric.measure], second.rows[metric.measure], protocol),
                strict=True,
            )
        }
    return found


def _classes(measured: Measured) -> dict[str, list[int]]:
    """Indices of the clips of each class, in the order of names."""
    members: dict[str, list[int]] = {}
    for i, clip in enumerate(measured.clips.clips):
        if clip.class_name is not None:
            members.setdefault(clip.class_name, []).append(i)
    return dict(sorted(members.items()))


def _memorisation(
    generated: Measured, real: Measured, anchor: Measured, protocol: Protocol
) -> dict[str, Any] | None:
    """What nearest neighbours say; None where fingerprints were not asked for."""
    if "fingerprints" not in anchor.rows:
        return None
    distances, held_out = (
        nearest(side.rows["fingerprints"], anchor.rows["fingerprints"])[0]
        for side in (generated, real)
    )
    return memorisation_report(distances, held_out, protocol.seed)
