"""One evaluation of films: what drifts from window to window, and what is seen and heard at joins.

LongSides, numbers -> report (curves beside real films', drift, joins, loops, continuations, targets)

What a number is in one window means little; how it changes does, beside how it changes in real films.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from mmldm.data.clips import spread
from mmldm.evaluation.clipwise import ClipMedian, ClipRatio, Counts
from mmldm.evaluation.drift import (
    Curve,
    Watched,
    WatchedDistance,
    WatchedMedian,
    WatchedRatio,
    by_film,
    drift,
    worsening,
)
from mmldm.evaluation.features import Builder, Findings, Measure, Measures
from mmldm.evaluation.film_sets import Films
from mmldm.evaluation.intervals import Interval, difference_interval
from mmldm.evaluation.joins import (
    MOST_KICKS,
    MOST_STEP,
    Ratio,
    at_boundaries,
    changes_of,
    joins_of,
    onset_rates,
)
from mmldm.evaluation.looks import levels_of, looks_of
from mmldm.evaluation.loops import as_dict, continued, loops
from mmldm.evaluation.measuring import FeatureCache, Measured, Speed, measure_set
from mmldm.evaluation.metrics import metrics
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.rollouts import LongSides
from mmldm.evaluation.values import Number, Side
from mmldm.types import Modality, Progress

FORMAT, VERSION = "mmldm-long-evaluation", 1
MOST_WORSE = 0.10
"""Wanted of the share by which a number is worse in the last window than in window 2."""
NETWORKS: dict[str, Modality] = {"squeezenet": "video", "yamnet": "audio"}
"""Whose features stand in where there are no classes, and what they read."""
OF_JOINS: dict[str, Modality] = {"changes": "video", "joins": "audio"}
"""Measures of windows around joins of anything, and what they read."""
BUILDERS: dict[str, Builder] = {
    "level": levels_of,
    "looks": looks_of,
    "changes": changes_of,
    "joins": joins_of,
}
"""Of the measures that tell of films of anything."""
OF_PICTURES = {"changes": "changes of the picture", "kicks": "kicks"}
"""What may be told of the beginnings of frames, and what it is called."""


class World(NamedTuple):
    """What a world knows of films of its own, beside what is told of films of anything.

    Attributes:
        numbers: To follow from window to window.
        builders: Of the measures that these numbers and `of_joins` read.
        of_joins: Its own measures of windows around joins, and what they read.
        onsets_of: The measure that takes down onsets; "events": as of anything.
    """

    numbers: Sequence[Watched] = ()
    builders: Mapping[str, Builder] = MappingProxyType({})
    of_joins: Mapping[str, Modality] = MappingProxyType({})
    onsets_of: str = "events"


def followed(
    protocol: Protocol, features: Sequence[str] = ("classes",), onsets_of: str = "events"
) -> list[Watched]:
    """The numbers of films of anything.

    Args:
        features: Measures whose features are compared: "classes", or names of networks.
        onsets_of: The measure that has taken down the onsets; events in common are told by "events" alone.
    """
    spec = protocol.spec

    def rate(heard: Findings, seen: Findings) -> Counts:
        return float(len(heard["onsets"])), spec.duration

    def level(heard: Findings, seen: Findings) -> np.ndarray:
        return heard["level"].numpy().reshape(-1)

    def fine(heard: Findings, seen: Findings) -> np.ndarray:
        return seen["fine"].numpy().reshape(-1)

    def tinted(first: Findings, own: Findings) -> Counts:
        return (first["colour"] - own["colour"]).norm().item(), 1.0

    onsets = Number("onsets-per-second", "onsets a second", "like real")
    loudness = Number("loudness", "loudness, median", "like real", "dB")
    sharpness = Number("sharpness", "power above a quarter of Nyquist, median", "like real")
    colour = Number("moved-colour", "mean colour from window 1's", "like real", "of 255")
    found: list[Watched] = [
        WatchedRatio(ClipRatio("onsets", onsets, onsets_of, rate), "audio"),
        WatchedMedian(ClipMedian("level", loudness, "level", level), "audio"),
        WatchedMedian(ClipMedian("sharpness", sharpness, "looks", fine), "video"),
        WatchedRatio(ClipRatio("colour", colour, "looks", tinted), "video", from_first=True),
    ]
    every = [m for m in metrics(spec.fps) if isinstance(m, ClipRatio)]
    if onsets_of == "events":
        found += [WatchedRatio(m) for m in every if m.name == "event-overlap"]
    for measure in features:
        if measure == "classes":
            found += _of_classes()
            found += [WatchedRatio(m) for m in every if m.name == "agreement"]
        else:
            found += _of_features(measure, "features", measure, NETWORKS[measure])
    return found


def _of_classes() -> list[Watched]:
    """Whether a film stays what it was, by classifiers and their features."""

    def kept(key: str, first: Findings, own: Findings) -> Counts:
        return float(first[key] == own[key]), 1.0

    found: list[Watched] = []
    of: dict[str, Modality] = {"seen": "video", "heard": "audio"}
    for key, modality in of.items():
        number = Number(f"class-kept-{key}", f"class {key} is that of window 1", "higher")
        metric = ClipRatio("class-kept", number, "classes", partial(kept, key))
        found.append(WatchedRatio(metric, modality, from_first=True))
    of = {"picture": "video", "sound": "audio"}
    for key, modality in of.items():
        found += _of_features("classes", key, f"{key}, classifier", modality)
    return found


def _of_features(measure: str, key: str, words: str, of: Modality) -> list[Watched]:
    """Fréchet distance from real windows, and how far a window is from the first of its film."""

    def moved(first: Findings, own: Findings) -> Counts:
        one, other = (
            x[key].double() if x[key].ndim == 1 else x[key].double().mean(0) for x in (first, own)
        )
        return (one - other).norm().item(), 1.0

    name = f"{measure}-{key}" if measure == "classes" else measure
    distance = Number(f"frechet-{name}", f"Fréchet, {words}", "lower", biased=True)
    far = Number(f"moved-{name}", f"features from window 1's, {words}", "like real")
    return [
        WatchedDistance(distance, measure, key, of),
        WatchedRatio(ClipRatio("moved", far, measure, moved), of, from_first=True),
    ]


def evaluate_long(
    sides: LongSides,
    watched: Sequence[Watched],
    measures: Measures,
    protocol: Protocol,
    cache: FeatureCache,
    workers: int = 1,
    progress: Progress | None = None,
    given: Modality | None = None,
    of_joins: Mapping[str, Modality] = OF_JOINS,
) -> dict[str, Any]:
    """Measures films and compares them with real ones.

    Args:
        watched: Numbers to follow.
        measures: Those of the numbers, "fingerprints", and of `of_joins` those that are to be told.
        of_joins: Measures of windows around joins, and what they read.
        given: Which modality was given, as real films have it: nothing is told of it.

    Returns:
        A JSON-ready report, without what it was made of.

    Raises:
        UserError: A set has fewer than two films that can be read.
    """
    speed = Speed()
    watched = [own for own in watched if given is None or own.of != given]
    needed = {"fingerprints", *(own.measure for own in watched)}
    of_windows = [measure for measure in measures.built if measure.name in needed]
    around = [m for m in measures.built if m.name in of_joins and of_joins[m.name] != given]
    needs_real = {"fingerprints", *(w.measure for w in watched if isinstance(w, WatchedDistance))}

    def found(films: Films, chosen: Sequence[Measure]) -> tuple[Measured, Measured | None]:
        windows = measure_set(films.windows, chosen, protocol.spec, cache, workers, progress, speed)
        joins = None
        if around and films.instants:
            joins = measure_set(films.joins, around, protocol.spec, cache, workers, progress, speed)
        return films.whole(windows, joins)

    # What is measured of all, films by name and the windows that they are compared with.
    name = sides.made.windows.name
    sets = {name: sides.made} | ({"real": sides.real} if sides.real else {})
    measured = {key: found(films, of_windows) for key, films in sets.items()}
    compared = [measure for measure in of_windows if measure.name in needs_real]
    anchor = measure_set(sides.anchor, compared, protocol.spec, cache, workers, progress, speed)

    def films_of(key: str, measure: str) -> list[Side]:
        return by_film(measured[key][0].findings[measure], sets[key].count)

    # Numbers window by window.
    built = {measure.name for measure in measures.built}
    numbers = []
    for own in watched:
        if own.measure not in built:
            continue
        films = {key: films_of(key, own.measure) for key in sets}
        real = anchor.findings.get(own.measure, [])
        numbers.append(_number(own, films, name, real, protocol))

    # Joins, loops, continuations.
    instants = sides.made.instants
    prints = {key: films_of(key, "fingerprints") for key in sets}
    report: dict[str, Any] = {
        "name": name,
        "windows": sides.made.count,
        "seconds": sides.made.count * protocol.spec.duration,
        "films": {key: len(own) for key, own in prints.items()},
        "reference_windows": len(anchor),
        "joins": len(instants),
        "numbers": numbers,
        "seams": _seams(measured, instants, protocol),
        "loops": as_dict(loops(prints, protocol)),
        "continuations": None,
        "undefined": measures.missing,
    }
    if sides.continuations is not None:
        chosen = [measure for measure in of_windows if measure.name == "fingerprints"]
        own_films, _ = sides.continuations.whole(
            measure_set(
                sides.continuations.windows,
                chosen,
                protocol.spec,
                cache,
                workers,
                progress,
                speed,
            ),
            None,
        )
        report["continuations"] = continued(
            by_film(own_films.findings["fingerprints"], sides.continuations.count),
            prints.get("real", []),
            anchor.findings["fingerprints"],
            protocol,
        )
    report["targets"] = long_targets(report)
    report["speed"] = speed.sentence()
    return report


def _number(
    watched: Watched,
    films: Mapping[str, Sequence[Side]],
    name: str,
    anchor: Side,
    protocol: Protocol,
) -> dict[str, Any]:
    """A number of all sets of films: curves, drifts, and what they say of each other."""
    # A distance depends on how many there are.
    count = min(len(own) for own in films.values())
    if watched.number.biased:
        films = {key: [own[i] for i in spread(count, len(own))] for key, own in films.items()}
    curves = {key: watched.curve(own, anchor, protocol) for key, own in films.items()}
    usual = None
    if "real" in curves and not np.isnan(curves["real"].values[1:]).all():
        usual = float(np.nanmean(curves["real"].values[1:]))
    sets = {key: _told(curve, watched.number, usual) for key, curve in curves.items()}
    return {
        **asdict(watched.number),
        "measure": watched.measure,
        "sets": sets,
        "drift_over_real": _over(sets[name]["drift"], sets.get("real", {}).get("drift")),
    }


def _told(curve: Curve, number: Number, usual: float | None) -> dict[str, Any]:
    """A curve, JSON-ready."""
    windows = [curve.of(partial(_at, i)) for i in range(len(curve.values))]
    drifted, worse = curve.of(drift), curve.of(worsening(number, usual))
    return {
        "films": curve.films,
        "values": [value for value, _ in windows],
        "intervals": [interval for _, interval in windows],
        "drift": {"value": drifted[0], "interval": drifted[1]},
        "worse": {"value": worse[0], "interval": worse[1]},
    }


def _at(window: int, values: np.ndarray) -> np.ndarray:
    """The number of one window (...) of (...,W)."""
    return values[..., window]


def _over(own: Mapping[str, Any], real: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A value less that of real films, with its interval; None where one of them has none."""
    if real is None or own["interval"] is None or real["interval"] is None:
        return None
    interval = difference_interval(own["value"], own["interval"], real["value"], real["interval"])
    return {"value": own["value"] - real["value"], "interval": interval}


def _seams(
    measured: Mapping[str, tuple[Measured, Measured | None]],
    instants: Sequence[float],
    protocol: Protocol,
) -> dict[str, dict[str, Any]]:
    """Numbers of the joins by name and set."""
    told: dict[str, dict[str, Any]] = {}

    def tell(number: str, key: str, ratio: Ratio) -> None:
        told.setdefault(number, {})[key] = ratio._asdict()

    for key, (_, joins) in measured.items():
        if joins is None or not len(joins):
            continue
        films = {m: by_film(found, len(instants)) for m, found in joins.findings.items()}
        if "joins" in films:
            tell("steps", key, at_boundaries(films["joins"], "steps", instants, protocol))
            tell("onsets", key, onset_rates(films["joins"], protocol))
        for number in (own for own in OF_PICTURES if own in films):
            tell(number, key, at_boundaries(films[number], number, instants, protocol))
    return told


def long_targets(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is wanted of films, and whether it is reached.

    Returns:
        By target a JSON-ready dict of `value`, `target` and `met`; `met` is None where it cannot be told.
    """
    name, targets = report["name"], {}
    for number in report["numbers"]:
        # No drift but that of real films; none at all where there are no real films.
        own = number["sets"][name]
        difference = number["drift_over_real"] or own["drift"]
        interval: Interval | None = difference["interval"]
        met = None if interval is None else interval[0] <= 0 <= interval[1]
        targets[f"drift: {number['title']}"] = _verdict(difference["value"], 0.0, met)
        worse = own["worse"]["value"]
        met = None if worse is None else worse <= MOST_WORSE
        targets[f"worse at the end: {number['title']}"] = _verdict(worse, MOST_WORSE, met)

    # Joins that are neither heard nor seen.
    seams = report["seams"]
    if name in seams.get("steps", {}):
        step = seams["steps"][name]["at"]
        met = None if step is None else step <= MOST_STEP
        targets["step of the sound at joins"] = _verdict(step, MOST_STEP, met)
    for key, words in OF_PICTURES.items():
        if name not in seams.get(key, {}):
            continue
        own, real = seams[key][name]["ratio"], seams[key].get("real", {}).get("ratio")
        bound = MOST_KICKS * (1.0 if real is None else real)
        met = None if own is None else own <= bound
        targets[f"{words} at joins over elsewhere"] = _verdict(own, bound, met)
    if name in seams.get("onsets", {}):
        own, real = seams["onsets"][name], seams["onsets"].get("real")
        pair = [{"value": x["ratio"], "interval": x["interval"]} for x in (own, real) if x]
        over = _over(pair[0], pair[1]) if len(pair) > 1 else None
        interval, usual = own["interval"], 1.0
        if over is not None:
            interval, usual = over["interval"], 0.0
        met = None if interval is None else interval[0] <= usual <= interval[1]
        bound = real["ratio"] if over is not None else 1.0
        targets["onsets at joins over elsewhere"] = _verdict(own["ratio"], bound, met)
    return targets


def _verdict(value: float | None, target: float, met: bool | None) -> dict[str, Any]:
    return {"value": value, "target": target, "met": None if met is None else bool(met)}
