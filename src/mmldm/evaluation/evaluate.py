"""One evaluation: sets measured, every metric beside its anchors.

Sides, metrics, measures -> Evaluation (numbers by set, classes, memorisation)

The anchors are real clips against other real clips, a model's reconstructions where there are any, and for
joint metrics each set's pictures with other sounds. Numbers whose mean depends on how many clips there are
stand beside real ones from equally many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmldm.errors import UserError
from mmldm.evaluation.features import Measures, nearest
from mmldm.evaluation.measuring import FeatureCache, Measured, Speed, measure_set
from mmldm.evaluation.memorisation import copies, memorisation_report
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.recordings import units_by_content
from mmldm.evaluation.sets import ClipSet
from mmldm.evaluation.sides import Sides
from mmldm.evaluation.values import Metric, Number, Side, Value
from mmldm.types import Progress


def equal_n(name: str) -> str:
    """The column of a generated set cut to as many clips as there are real ones, against the anchor."""
    return f"{name}, equal n"


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
        sets: By name: generated ones, reference, real, and reconstruction where there is one.
        anchor: The clips that `real` was compared with.
        lines: In the metrics' order.
        undefined: Metrics that could not be computed, and why.
        classes: Numbers of the generated clips of each class against the reference's, by number's name.
        memorisation: Of every set but the reference, as `memorisation_report` has it; empty where
            fingerprints were not asked for.
        speed: Of measuring.
    """

    sets: dict[str, Measured]
    anchor: Measured
    lines: list[Line]
    undefined: dict[str, str]
    classes: dict[str, dict[str, Value]]
    memorisation: dict[str, dict[str, Any]]
    speed: Speed


def evaluate(
    sides: Sides,
    metrics: Sequence[Metric],
    measures: Measures,
    protocol: Protocol,
    cache: FeatureCache,
    workers: int = 1,
    progress: Progress | None = None,
) -> Evaluation:
    """Measures all sets and compares them.

    Args:
        measures: Those of the metrics, built or missing.
        workers: Decoding threads.

    Raises:
        UserError: No metric can be computed, or a set has fewer than two clips that can be read.
    """
    # Metrics whose measure is not there say why, and are left out.
    missing = measures.missing
    undefined = {m.name: missing[m.measure] for m in metrics if m.measure in missing}
    metrics = [metric for metric in metrics if metric.measure not in missing]
    if not metrics:
        raise UserError(next(iter(undefined.values())))
    speed = Speed()

    def measured(clips: ClipSet) -> Measured:
        return measure_set(clips, measures.built, protocol.spec, cache, workers, progress, speed)

    # Every set once; where the reference was split, its parts are taken out of it.
    known = sides.known
    sets = {name: measured(clips) for name, clips in sides.generated.items()}
    sets["reference"] = measured(known.reference)
    split = known.anchor is not known.reference
    anchor = sets["reference"].part(known.anchor) if split else sets["reference"]
    sets["real"] = sets["reference"].part(known.real) if split else measured(known.real)
    if sides.reconstruction is not None:
        sets["reconstruction"] = measured(sides.reconstruction)

    # Draws go by content: a number moves with what is compared, not with how files are called.
    ordered, other = {name: own.by_content() for name, own in sets.items()}, anchor.by_content()
    lines = []
    for done, metric in enumerate(metrics):
        if progress is not None:
            progress("metrics", done, len(metrics))
        lines += _compare(metric, ordered, list(sides.generated), other, split, protocol)
    if progress is not None:
        progress("metrics", len(metrics), len(metrics))
    return Evaluation(
        sets=sets,
        anchor=anchor,
        lines=lines,
        undefined=undefined,
        classes=_by_class(metrics, ordered["generated"], ordered["reference"], protocol),
        memorisation=_memorisation(sets, anchor, protocol),
        speed=speed,
    )


def _compare(
    metric: Metric,
    sets: Mapping[str, Measured],
    generated: Sequence[str],
    anchor: Measured,
    split: bool,
    protocol: Protocol,
) -> list[Line]:
    """A metric's numbers of all sets."""
    # Which clips are compared with which: for biased numbers, equally many on all sides.
    biased = any(number.biased for number in metric.numbers)
    count = min(len(own) for name, own in sets.items() if name != "reference")
    compared = {}
    for name in generated:
        compared[name] = (sets[name], sets["reference"])
        if biased and (split or count < len(sets[name])):
            compared[equal_n(name)] = (sets[name].spread(count), anchor)
    for name in ("real", "reconstruction"):
        if name in sets:
            compared[name] = (sets[name].spread(count) if biased else sets[name], anchor)
    values = {
        name: by_number([metric], own.sides, real.sides, protocol)
        if metric.measure in own.findings
        else {number.name: Value.undefined(own.clips.unread, len(own)) for number in metric.numbers}
        for name, (own, real) in compared.items()
    }
    return [
        Line(number, metric, {name: found[number.name] for name, found in values.items()})
        for number in metric.numbers
    ]


def by_number(
    metrics: Iterable[Metric],
    own: Mapping[str, Side],
    real: Mapping[str, Side],
    protocol: Protocol,
) -> dict[str, Value]:
    """The values of metrics by the names of their numbers.

    Args:
        own: Findings in the set, by measure.
        real: The same in the clips it is compared with.
    """
    return {
        number.name: value
        for metric in metrics
        for number, value in zip(
            metric.numbers,
            metric.values(own[metric.measure], real[metric.measure], protocol),
            strict=True,
        )
    }


def _by_class(
    metrics: Sequence[Metric], generated: Measured, reference: Measured, protocol: Protocol
) -> dict[str, dict[str, Value]]:
    """Numbers that few clips do not bias, by class, where both sets have at least two classes in common."""
    # Classes with at least two clips on both sides.
    own, real = _classes(generated), _classes(reference)
    shared = [name for name in own if len(own[name]) > 1 and len(real.get(name, [])) > 1]
    if len(shared) < 2:
        return {}
    unbiased = [
        m
        for m in metrics
        if m.measure in generated.findings and not any(number.biased for number in m.numbers)
    ]
    return {
        name: by_number(
            unbiased,
            generated.take(own[name]).sides,
            reference.take(real[name]).sides,
            protocol,
        )
        for name in shared
    }


def _classes(measured: Measured) -> dict[str, list[int]]:
    """Indices of the clips of each class, in the order of names."""
    members: dict[str, list[int]] = {}
    for i, clip in enumerate(measured.clips.clips):
        if clip.class_name is not None:
            members.setdefault(clip.class_name, []).append(i)
    return dict(sorted(members.items()))


def _memorisation(
    sets: Mapping[str, Measured], anchor: Measured, protocol: Protocol
) -> dict[str, dict[str, Any]]:
    """What nearest neighbours in the anchor say of each set, beside held-out clips."""
    if "fingerprints" not in anchor.findings:
        return {}
    prints = anchor.findings["fingerprints"]
    distances = {
        name: nearest(measured.findings["fingerprints"], prints)[0]
        for name, measured in sets.items()
        if name != "reference" and "fingerprints" in measured.findings
    }
    units = units_by_content(sets["real"].clips.clips)
    found = {
        name: memorisation_report(own, distances["real"], protocol.seed, units)
        for name, own in distances.items()
    }
    # Copies of any reference clip, whichever half of it the others are compared with.
    every = sets["reference"].findings["fingerprints"]
    for name in found.keys() - {"real", "reconstruction"}:
        found[name]["copies"] = copies(nearest(sets[name].findings["fingerprints"], every)[0])
    return found
