"""How numbers change from window to window of films: curves, their drift, and what is allowed.

findings of R films of W windows -> Curve (W numbers, and those of other draws of films) -> drift, worsening

A film's windows hang together, so films are drawn, not windows: ratios and medians by bootstrap, distances by
leaving groups of films out, as everywhere (`intervals`). The drift is the change along a straight line from
window 2 to the last. Window 1 is left out of it: nothing comes before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mmldm.evaluation.clipwise import ClipMedian, ClipRatio
from mmldm.evaluation.distances import frechet_distance_of
from mmldm.evaluation.features import Findings
from mmldm.evaluation.intervals import Interval, half_width
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.values import Number, Side
from mmldm.types import Modality

LEAST_WINDOWS = 4
"""Of a film: a line needs three after the first."""
DRAWS_AT_ONCE = 100
Statistic = Callable[[np.ndarray], np.ndarray]
"""From numbers of windows (...,W) to one number (...); NaN where it is undefined."""


@dataclass(frozen=True)
class Curve:
    """A number of each window.

    Attributes:
        values: (W,); NaN where it is undefined.
        again: (B,W), the same of other draws of films.
        left_out: Whether those are all films but a group, and not a bootstrap's.
        films: R.
    """

    values: np.ndarray
    again: np.ndarray
    left_out: bool
    films: int

    def of(self, statistic: Statistic) -> tuple[float | None, Interval | None]:
        """A statistic of the curve and its 95 % interval; None where they are undefined."""
        value = float(statistic(self.values))
        if np.isnan(value):
            return None, None
        again = statistic(self.again) if len(self.again) else np.empty(0)
        again = again[~np.isnan(again)]
        if len(again) < LEAST_WINDOWS or self.films < 2:
            return value, None
        if not self.left_out:
            low, high = np.quantile(again, [0.025, 0.975])
            return value, (float(low), float(high))
        half = half_width(again.tolist())
        return value, (value - half, value + half)


def drift(values: np.ndarray) -> np.ndarray:
    """Change (...) from window 2 to W along the line through these windows of values (...,W)."""
    kept = values[..., 1:]
    known = ~np.isnan(kept)
    count = known.sum(-1)
    # Least squares through what is defined.
    times = np.broadcast_to(np.arange(kept.shape[-1], dtype=float), kept.shape)
    filled = np.where(known, kept, 0.0)
    middle = (times * known).sum(-1) / np.maximum(count, 1)
    centred = (times - middle[..., None]) * known
    spread = (centred**2).sum(-1)
    slope = (centred * filled).sum(-1) / np.maximum(spread, 1e-12)
    return np.where(spread > 0, slope * (kept.shape[-1] - 1), np.nan)


def worsening(number: Number, real: float | None) -> Statistic:
    """By which share a number is worse in the last window than in window 2.

    Args:
        real: What a number that is best like that of real clips should be; None: as in window 2.
    """

    def of(values: np.ndarray) -> np.ndarray:
        """(...,W) -> (...)."""
        first, last = values[..., 1], values[..., -1]
        scale = np.abs(first)
        if number.better == "higher":
            change = first - last
        elif number.better == "lower":
            change = last - first
        elif real is None:
            change = np.abs(last - first)
        else:
            change, scale = np.abs(last - real) - np.abs(first - real), np.abs(real) + 0 * first
        return np.where(scale > 0, change / np.where(scale > 0, scale, 1), np.nan)

    return of


class Watched(ABC):
    """A number that is followed from window to window.

    Attributes:
        number: What it is.
        measure: Whose findings it reads.
        of: The modality that it tells of alone; None: both.
    """

    number: Number
    measure: str
    of: Modality | None = None

    @abstractmethod
    def curve(self, films: Sequence[Side], real: Side, protocol: Protocol) -> Curve:
        """The number of each window.

        Args:
            films: Findings in the W windows of each film.
            real: Those in real windows.
        """


class WatchedRatio(Watched):
    """A ratio of sums over films.

    Args:
        metric: Gives each window's share.
        of: As above.
        from_first: Whether it is given window 1 of the film as what is heard.
    """

    def __init__(
        self, metric: ClipRatio, of: Modality | None = None, from_first: bool = False
    ) -> None:
        self.number, self.measure, self.of = metric.number, metric.measure, of
        self.metric, self.from_first = metric, from_first

    def curve(self, films: Sequence[Side], real: Side, protocol: Protocol) -> Curve:
        counts = np.array(
            [
                [self.metric.counts(film[0] if self.from_first else own, own) for own in film]
                for film in films
            ],
            dtype=float,
        )
        draws = drawn(len(films), protocol)
        with np.errstate(invalid="ignore", divide="ignore"):
            sums = counts.sum(0)
            again = np.tensordot(draws, counts, 1)
            return Curve(sums[:, 0] / sums[:, 1], again[..., 0] / again[..., 1], False, len(films))


class WatchedMedian(Watched):
    """The median of what is found in a window of all films.

    Args:
        metric: Gives each window's values.
        of: As above.
    """

    def __init__(self, metric: ClipMedian, of: Modality | None = None) -> None:
        self.number, self.measure, self.of = metric.number, metric.measure, of
        self.metric = metric

    def curve(self, films: Sequence[Side], real: Side, protocol: Protocol) -> Curve:
        draws = drawn(len(films), protocol)
        found = [
            weighted_medians([self.metric.values_of(own, own) for own in window], draws)
            for window in zip(*films, strict=True)
        ]
        values, again = zip(*found, strict=True)
        return Curve(np.array(values), np.stack(again, 1), False, len(films))


class WatchedDistance(Watched):
    """The Fréchet distance of a window of all films from real windows.

    Args:
        number: What it is.
        measure: Whose findings it reads.
        key: Of the features in them: (D,), or (N,D) of which the mean counts.
        of: As above.
    """

    def __init__(self, number: Number, measure: str, key: str, of: Modality | None = None) -> None:
        self.number, self.measure, self.key, self.of = number, measure, key, of

    def features(self, side: Side) -> torch.Tensor:
        """(N,D) of N windows."""
        rows = [own[self.key].double() for own in side]
        return torch.stack([row.mean(0) if row.ndim > 1 else row for row in rows])

    def curve(self, films: Sequence[Side], real: Side, protocol: Protocol) -> Curve:
        others = self.features(real)
        own = torch.stack([self.features(film) for film in films])  # R W D
        # Groups of films are left out together in all windows, so what a film is counts once.
        count = min(protocol.groups, len(films))
        generator = torch.Generator().manual_seed(protocol.seed)
        group = torch.randperm(len(films), generator=generator) % count

        def distances(chosen: torch.Tensor) -> np.ndarray:
            """Of some films (R',W,D): (W,)."""
            if len(chosen) < 2:
                return np.full(own.shape[1], np.nan)
            return np.array([frechet_distance_of(rows, others) for rows in chosen.unbind(1)])

        again = [distances(own[group != j]) for j in range(count)]
        return Curve(distances(own), np.stack(again), True, len(films))


def drawn(count: int, protocol: Protocol) -> np.ndarray:
    """How often each of `count` films is drawn: (B,R)."""
    rng = np.random.default_rng(protocol.seed)
    return rng.multinomial(count, np.full(count, 1 / count), size=protocol.bootstraps)


def weighted_medians(values: Sequence[np.ndarray], draws: np.ndarray) -> tuple[float, np.ndarray]:
    """The median of the values (N,) of R films, and those (B,) of draws (B,R) of films; NaN is left out."""
    kept = [own[~np.isnan(own)] for own in values]
    pooled = np.concatenate(kept)
    if not len(pooled):
        return float("nan"), np.full(len(draws), np.nan)
    # Each draw weighs a film by how often it is drawn; the median is where half of the weight is passed.
    order = pooled.argsort()
    owners = np.repeat(np.arange(len(kept)), [len(own) for own in kept])[order]
    ordered, medians = pooled[order], []
    for some in np.array_split(draws, max(1, len(draws) // DRAWS_AT_ONCE)):
        passed = np.cumsum(some[:, owners], 1)
        where = (passed >= passed[:, -1:] / 2).argmax(1)
        medians.append(np.where(passed[:, -1] > 0, ordered[where], np.nan))
    return float(np.median(pooled)), np.concatenate(medians)


def by_film(findings: Sequence[Findings], count: int) -> list[Side]:
    """Findings in windows, film by film, of films of `count` windows."""
    return [findings[i : i + count] for i in range(0, len(findings), count)]
