"""How far the instruments are to be trusted: what they find in rendered clips beside what is true of these.

findings in real clips, their sidecars -> errors of impacts, onsets, speeds, attacks and loudness

Beside every rendered clip lies what struck when and how fast. A hit's true attack and loudness are those of
its sound rendered alone, without any other, codec or file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from math import inf
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from mmldm.errors import UserError
from mmldm.evaluation.events import match
from mmldm.evaluation.features import Findings
from mmldm.worlds.impacts.hits import BEFORE, hear
from mmldm.worlds.impacts.metrics import TOLERANCES
from mmldm.worlds.impacts.physics import Ball, Impact
from mmldm.worlds.impacts.sound import strike
from mmldm.worlds.tables import detector_errors

ALONE = 0.2
"""Seconds of a hit that is rendered alone."""

T = TypeVar("T")


class Truth(NamedTuple):
    """What is true of a rendered clip.

    Attributes:
        balls: All of them.
        impacts: Those that can be heard, in order of time.
    """

    balls: list[Ball]
    impacts: list[Impact]

    @property
    def times(self) -> np.ndarray:
        """Of the impacts, (N,) in seconds."""
        return np.array([impact.time for impact in self.impacts])


def read_truth(clip: Path, start: float = 0.0, duration: float = inf) -> Truth:
    """The balls and audible impacts of a window of a rendered clip, from its sidecar.

    Args:
        clip: The mp4 file.
        start: Of the window in it, in seconds; times are from there.
        duration: Of the window.

    Raises:
        UserError: There is no ground truth beside the clip.
    """
    sidecar = clip.with_suffix(".json")
    try:
        found = json.loads(sidecar.read_text(encoding="utf-8"))
        balls = [_made(Ball, ball) for ball in found["balls"]]
        impacts = [_made(Impact, impact) for impact in found["impacts"] if impact["audible"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{sidecar} is no ground truth of an impacts clip ({error!r}); the instruments are "
            "calibrated on clips of `mmldm synthesize`"
        ) from error
    moved = [replace(impact, time=impact.time - start) for impact in impacts]
    inside = [impact for impact in moved if 0 <= impact.time < duration]
    return Truth(balls, sorted(inside, key=attrgetter("time")))


def _made(kind: type[T], values: dict[str, Any]) -> T:
    """A ball or an impact from those of its JSON values that it has; a later version may write more."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in known})


def calibration(
    found: Sequence[Findings], truths: Sequence[Truth], sample_rate: int
) -> dict[str, Any]:
    """What the instruments find of the true impacts of real clips.

    Args:
        found: Of the measure `Impacts`.
        truths: Of each clip; impacts after its last frame can be heard, not seen.
        sample_rate: Of the clips.

    Returns:
        A JSON-ready dict. `detectors`, by detector and tolerance: recall, precision, median, standard
        deviation and mean (`offset_ms`, positive: found late) of the error in ms, None where nothing was
        found. `errors`, by instrument: median and 90 % quantile of the absolute error, mean error, unit and
        count.
    """
    # What comes after the last frame cannot be seen, but heard.
    clips = list(zip(found, truths, strict=True))
    detected = {
        "impacts": [
            (clip["impacts"].numpy(), truth.times[truth.times <= clip["last"].item()])
            for clip, truth in clips
        ],
        "onsets": [(clip["onsets"].numpy(), truth.times) for clip, truth in clips],
    }
    detectors = {
        detector: [detector_errors(pairs, tolerance) for tolerance in TOLERANCES]
        for detector, pairs in detected.items()
    }
    # Of each hit that is found within the least tolerance, what is measured less what is true.
    differences = [_errors(clip, truth, sample_rate) for clip, truth in clips]
    units = {"speed": "%", "attack": "ms", "loudness": "dB"}
    return {
        "detectors": detectors,
        "errors": {
            name: _summary(np.concatenate([row[name] for row in differences]), unit)
            for name, unit in units.items()
            if differences
        },
    }


def _errors(clip: Findings, truth: Truth, sample_rate: int) -> dict[str, np.ndarray]:
    """Errors (N,) of the speeds in %, of attacks in ms, of loudness in dB."""
    seen = match(clip["impacts"].numpy(), truth.times, TOLERANCES[0])
    speeds = clip["speeds"].numpy()
    heard = match(clip["onsets"].numpy(), truth.times, TOLERANCES[0])
    heard = [(i, j) for i, j in heard if not torch.isnan(clip["loudness"][i])]
    # A sound's contact noise is drawn; that of the clip is not known, and any other one does as well.
    rng = np.random.default_rng(0)
    alone = []
    for _, j in heard:
        impact = truth.impacts[j]
        sound = strike(truth.balls[impact.ball], impact, sample_rate, rng)
        waveform = np.zeros(round((BEFORE[0] + ALONE) * sample_rate))
        start = round(BEFORE[0] * sample_rate)
        length = min(len(sound), len(waveform) - start)
        waveform[start : start + length] = sound[:length]
        alone.append(hear(torch.from_numpy(waveform), sample_rate, np.array([BEFORE[0]])))

    def less(name: str) -> np.ndarray:
        """What is measured in the clip, less what is measured of each hit alone: (N,)."""
        measured = clip[name].numpy()
        return np.array(
            [measured[i] - getattr(a, name)[0] for (i, _), a in zip(heard, alone, strict=True)]
        )

    return {
        "speed": np.array([100 * (speeds[i] / truth.impacts[j].speed - 1) for i, j in seen]),
        "attack": less("attacks"),
        "loudness": less("loudness"),
    }


def _summary(errors: np.ndarray, unit: str) -> dict[str, Any]:
    """Median and 90 % quantile of errors (N,) without their sign, and their mean; NaN counts for nothing."""
    known = errors[~np.isnan(errors)]
    if not len(known):
        return {"median": None, "quantile_90": None, "offset": None, "n": 0, "unit": unit}
    sizes = np.abs(known)
    return {
        "median": float(np.median(sizes)),
        "quantile_90": float(np.quantile(sizes, 0.9)),
        "offset": float(known.mean()),
        "n": len(known),
        "unit": unit,
    }
