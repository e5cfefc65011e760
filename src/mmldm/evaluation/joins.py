"""Where windows of a film meet: whether it can be heard, or seen in what a world knows.

clips with an instant in their middle -> steps of the sound, onsets -> ratios, here over elsewhere

Everything is told of the join and of other places in the same clips, and of real films at the same instants,
so that neither how much happens in them nor how they were coded makes a seam.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from mmldm.evaluation.drift import drawn, weighted_medians
from mmldm.evaluation.events import detect_onsets
from mmldm.evaluation.features import Findings, Measure
from mmldm.evaluation.intervals import Interval
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.values import Side
from mmldm.media.clip import Clip

NEAR = 0.05
"""Seconds from a join within which an onset is at it."""
EDGE = 0.1
"""Seconds at the ends of a clip where onsets are not told."""
STEEP = 0.99
"""Quantile of a clip's steps from sample to sample that a join's is held against."""
LEAST_STEP = 1e-4
"""What that quantile has to be: of what is softer nothing can be said."""
LEAST_CHANGE = 0.05
"""What a clip's median change has to be, in 8-bit steps: of a picture that stands nothing can be said."""
MOST_STEP = 0.05
"""Wanted of the step at a join, median."""
MOST_KICKS = 1.25
"""Wanted of kicks, and of changes of the picture, at joins over elsewhere, times the same of real films."""


class Joins(Measure):
    """What is heard at the beginning of each frame but the first.

    "steps" (T-1,): the step of the sound there, from the sample before, over the clip's `STEEP` quantile of
    such steps; NaN in silence. "onsets" (N,) in seconds.
    """

    name = "joins"

    def __call__(self, clips: Sequence[Clip]) -> list[Findings]:
        return [
            {
                "steps": torch.from_numpy(_steps(clip)),
                "onsets": torch.from_numpy(detect_onsets(clip.waveform, clip.sample_rate)),
            }
            for clip in clips
        ]


def joins_of(*_: object) -> Joins:
    """The measure; it needs nothing real."""
    return Joins()


class Changes(Measure):
    """How much the picture changes at the beginning of each frame but the first: "changes" (T-1,).

    The mean difference of a frame from the one before, over the clip's median of such differences; NaN where
    a picture stands still.
    """

    name = "changes"

    def __call__(self, clips: Sequence[Clip]) -> list[Findings]:
        found: list[Findings] = []
        for clip in clips:
            change = clip.frames.float().diff(dim=0).abs().mean((1, 2, 3)).double()
            usual = change.median()
            told = change / usual if usual > LEAST_CHANGE else torch.full_like(change, torch.nan)
            found.append({"changes": told})
        return found


def changes_of(*_: object) -> Changes:
    """The measure; it needs nothing real."""
    return Changes()


def _steps(clip: Clip) -> np.ndarray:
    """(T-1,) of a clip, float64."""
    steps = np.abs(np.diff(clip.waveform.numpy().astype(np.float64)))
    steep = np.quantile(steps, STEEP)
    frames = np.arange(1, len(clip.frames))
    begins = np.round(frames * clip.sample_rate / clip.fps).astype(int)
    begins = np.minimum(begins, len(steps))
    return steps[begins - 1] / steep if steep > LEAST_STEP else np.full(len(frames), np.nan)


class Ratio(NamedTuple):
    """A number at joins, and what it is over elsewhere.

    Attributes:
        at: At joins.
        elsewhere: In the same clips.
        ratio: Of the two.
        interval: 95 % of the ratio, by bootstrap over films.
        at_interval: The same of `at`.
    """

    at: float | None
    elsewhere: float | None
    ratio: float | None
    interval: Interval | None
    at_interval: Interval | None


def at_boundaries(
    films: Sequence[Side], key: str, instants: Sequence[float], protocol: Protocol
) -> Ratio:
    """Medians of a finding (T-1,) of the frames' beginnings.

    Args:
        films: Findings in the clips around the instants, film by film.
        key: Of the finding.
        instants: J seconds, one of each clip.
    """
    spec = protocol.spec
    middle = spec.num_frames // 2
    boundaries = np.arange(1, spec.num_frames)
    # A frame's motion is told with its neighbours: those beside any join are neither here nor elsewhere.
    places = boundaries + (np.array(instants)[:, None] * spec.fps - middle)  # J T-1
    gaps = np.abs(places[:, :, None] - np.array(instants)[None, None] * spec.fps).min(2)
    far = gaps > 1.5
    found = [np.array([own[key].numpy() for own in film]) for film in films]
    here = [values[:, middle - 1] for values in found]
    others = [values[far] for values in found]
    draws = drawn(len(films), protocol)
    (at, at_again), (elsewhere, again) = (weighted_medians(v, draws) for v in (here, others))
    return _ratio(at, elsewhere, at_again, again)


def onset_rates(films: Sequence[Side], protocol: Protocol) -> Ratio:
    """Onsets a second within `NEAR` of joins, and elsewhere in the same clips."""
    spec = protocol.spec
    middle = spec.num_frames // 2 / spec.fps
    counts = []
    for film in films:
        times = np.concatenate([own["onsets"].numpy() for own in film])
        times = times[(times >= EDGE) & (times <= spec.duration - EDGE)]
        near = np.abs(times - middle) <= NEAR
        counts.append((near.sum(), (~near).sum(), len(film)))
    table = np.array(counts, dtype=float)
    # Seconds of each kind, of as many clips as there are.
    seconds = np.array([2 * NEAR, spec.duration - 2 * EDGE - 2 * NEAR])

    def rates(sums: np.ndarray) -> np.ndarray:
        """Counts (...,3) -> onsets a second (...,2)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return sums[..., :2] / (sums[..., 2:] * seconds)

    own, again = rates(table.sum(0)), rates(drawn(len(films), protocol) @ table)
    return _ratio(own[0], own[1], again[:, 0], again[:, 1])


def _ratio(at: float, elsewhere: float, at_again: np.ndarray, again: np.ndarray) -> Ratio:
    """Of a number here and elsewhere, and of the draws (B,) of both."""

    def interval(values: np.ndarray) -> Interval | None:
        kept = values[np.isfinite(values)]
        if len(kept) < 2:
            return None
        low, high = np.quantile(kept, [0.025, 0.975])
        return float(low), float(high)

    with np.errstate(invalid="ignore", divide="ignore"):
        ratio, ratios = np.divide(at, elsewhere), at_again / again
    values = [float(x) if np.isfinite(x) else None for x in (at, elsewhere, ratio)]
    return Ratio(values[0], values[1], values[2], interval(ratios), interval(at_again))
