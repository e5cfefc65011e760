"""The ball's path as arcs of free flight.

Track -> Arcs (A): where each begins and ends, how the ball moves on it, what it leaves over

Between two impacts a ball of the impacts world follows one parabola of known gravity, or lies on the floor.
The path is cut into the arcs that explain it best: least squares with a price for each arc, found exactly by
dynamic programming. A frame that is exposed while the ball is struck lies on neither arc, and is left out at
a price. For clips with one ball; they may begin anywhere in a flight.

Source: Jackson et al., "An algorithm for optimal partitioning of data on an interval", IEEE Signal Processing
Letters 2005.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from mmldm.worlds.impacts.motion import Track
from mmldm.worlds.impacts.physics import GRAVITY

# Lengths are in frame heights.
SIGMA = 0.0035
"""Standard error of a centre that arcs are judged by; .45 px of 128."""
ARC_PRICE = 12.0
"""Of one more arc, in squares of `SIGMA`; it explains four numbers."""
FRAME_PRICE = 8.0
"""Of a frame that is on no arc; less than an arc's, more than half of it."""
LONGEST = 2.0
"""Seconds of the longest arc that is looked for; a flight across the whole box and back takes 1.1."""


class Arcs(NamedTuple):
    """Pieces of a path, in order. Frames may lie between them, on none.

    Attributes:
        first: (A,) frame where each begins.
        last: (A,) frame where it ends, itself included.
        positions: (A,2) at time 0, in frame heights.
        velocities: (A,2) at time 0, a second.
        gravities: (A,) frame heights per second squared: the world's, or 0 where the floor carries the ball.
        misfit: (A,) sum of squared residuals over both axes.
        freedom: (A,) degrees of freedom of that sum.
    """

    first: np.ndarray
    last: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    gravities: np.ndarray
    misfit: np.ndarray
    freedom: np.ndarray

    def at(self, arc: int, times: float | np.ndarray) -> np.ndarray:
        """Where arc number `arc` is at times (N,) in seconds, or at one: (N,2) or (2,)."""
        elapsed = np.asarray(times)[..., None]
        fall = np.array([0.0, self.gravities[arc] / 2])
        return self.positions[arc] + self.velocities[arc] * elapsed + fall * elapsed**2

    def velocity(self, arc: int, time: float) -> np.ndarray:
        """Its velocity at a time in seconds: (2,)."""
        return self.velocities[arc] + np.array([0.0, self.gravities[arc] * time])

    def falls_to(self, arc: int, level: float) -> tuple[float, float]:
        """When its y passes a level upwards and when downwards, in seconds; NaN where it never does."""
        gravity, speed = self.gravities[arc], self.velocities[arc, 1]
        reach = speed**2 - 2 * gravity * (self.positions[arc, 1] - level)
        if gravity == 0 or reach < 0:
            return float("nan"), float("nan")
        return (-speed - np.sqrt(reach)) / gravity, (-speed + np.sqrt(reach)) / gravity

    def goes_to(self, arc: int, place: float) -> float:
        """When its x is at a place, in seconds; NaN where it stands."""
        speed = self.velocities[arc, 0]
        return float((place - self.positions[arc, 0]) / speed) if speed else float("nan")


def fit(path: Track) -> Arcs:
    """The arcs that explain a path best."""
    longest = min(len(path.centres), round(LONGEST * path.fps) + 1)
    flying, lying, seen = _costs(path, longest)
    first, last, lies = _partition(flying, lying)
    gravities = np.where(lies, 0.0, GRAVITY)
    # A line through x, and through y without its fall; a constant through y of what lies.
    positions, velocities = np.zeros((2, len(first), 2))
    for a, (i, j) in enumerate(zip(first, last, strict=True)):
        frames = np.arange(i, j + 1)[path.kept[i : j + 1]]
        if not len(frames):
            continue
        times = frames / path.fps
        centres = path.centres[frames] - np.outer(gravities[a] * times**2 / 2, [0, 1])
        middle, mean = times.mean(), centres.mean(0)
        spread = ((times - middle) ** 2).sum()
        if spread:
            velocities[a] = (times - middle) @ (centres - mean) / spread
        velocities[a, 1] *= not lies[a]
        positions[a] = mean - velocities[a] * middle
    misfit = np.where(lies, lying[first, last - first], flying[first, last - first])
    freedom = 2 * seen[first, last - first] - np.where(lies, 3, 4)
    return Arcs(first, last, positions, velocities, gravities, misfit, np.maximum(freedom, 0))


def _costs(path: Track, longest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Squared residuals (T,L) of frames i to i + l in flight and (T,L) lying, and frames that count (T,L)."""
    steps = np.arange(longest)
    # Frames that see no ball weigh nothing; neither does what is beyond the clip.
    padded = np.pad(path.kept.astype(float), (0, longest - 1))
    weights = sliding_window_view(padded, longest)
    n, s1, s2 = (np.cumsum(weights * steps**k, 1) for k in (0, 1, 2))
    spread = n * s2 - s1**2

    def squares(values: np.ndarray, sloped: bool) -> np.ndarray:
        """Of the residuals of a line, or of a constant, through values (T,L): (T,L)."""
        total = np.cumsum(weights * values, 1)
        squared = np.cumsum(weights * values**2, 1)
        # About the mean, and then along the line.
        left = squared - total**2 / np.maximum(n, 1)
        if sloped:
            tilted = np.cumsum(weights * steps * values, 1)
            covariance = n * tilted - s1 * total
            left = left - covariance**2 / np.maximum(n * spread, 1e-12) * (spread > 0)
        return np.maximum(left, 0)

    centres = np.pad(path.centres, ((0, longest - 1), (0, 0)), mode="edge")
    x, y = (sliding_window_view(centres[:, axis], longest) for axis in (0, 1))
    # From the first frame of each, so that sums stay small.
    x, y = x - x[:, :1], y - y[:, :1]
    fall = GRAVITY * (steps / path.fps) ** 2 / 2
    along = squares(x, True)
    flying, lying = along + squares(y - fall, True), along + squares(y, False)
    return flying, lying, n


def _partition(flying: np.ndarray, lying: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First frame (A,), last frame (A,) and whether it lies (A,), of the cheapest arcs for costs (T,L)."""
    count, longest = flying.shape
    # Two frames are always an arc of free flight; more may lie.
    cheaper = np.minimum(flying, lying) / SIGMA**2 + ARC_PRICE
    cheaper[:, 0] = FRAME_PRICE
    # best[j]: the least price of all frames before j.
    best = np.zeros(count + 1)
    length = np.zeros(count + 1, dtype=int)
    for j in range(1, count + 1):
        first = np.arange(j - 1, max(j - longest, 0) - 1, -1)
        prices = best[first] + cheaper[first, j - 1 - first]
        length[j] = prices.argmin() + 1
        best[j] = prices[length[j] - 1]
    # From the end: which arc, or frame on none, each cheapest price ends with.
    arcs = []
    j = count
    while j > 0:
        i = j - length[j]
        if length[j] > 1:
            arcs.append((i, j - 1, lying[i, j - 1 - i] < flying[i, j - 1 - i]))
        j = i
    first, last, lies = np.array(arcs[::-1], dtype=int).reshape(-1, 3).T
    return first, last, lies.astype(bool)


def frame_speeds(path: Track, arcs: Arcs) -> np.ndarray:
    """The ball's speed in each frame (T,), in frame heights a second; NaN where it is on no arc."""
    speeds = np.full(len(path.centres), np.nan)
    for a, (i, j) in enumerate(zip(arcs.first, arcs.last, strict=True)):
        fall = arcs.gravities[a] * np.arange(i, j + 1) / path.fps
        speeds[i : j + 1] = np.hypot(arcs.velocities[a, 0], arcs.velocities[a, 1] + fall)
    return speeds
