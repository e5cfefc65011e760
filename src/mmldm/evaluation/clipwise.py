"""Metrics of what each clip shows or sounds: ratios of sums, medians and correlations over clips.

findings in N clips -> Value, with an interval by bootstrap over recordings

Metrics that join sound and picture also say what they are with the sounds of other clips: chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mmldm.evaluation.events import derangement
from mmldm.evaluation.features import Findings
from mmldm.evaluation.intervals import (
    correlation,
    correlation_interval,
    pooled_median_interval,
    ratio_interval,
    share_interval,
)
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.values import Metric, Number, Side, Value, units_of

Counts = tuple[float, float]
"""A clip's share of a ratio's numerator and denominator."""
NOTHING = "there is nothing to count in any clip"


@dataclass(frozen=True)
class ClipRatio(Metric):
    """A ratio of sums over clips: a mean, a share, a recall.

    Attributes:
        name: As `--metrics` has it; several metrics may share it.
        number: What it is.
        measure: Whose findings it reads.
        counts: Of the clip that is heard and the clip that is seen.
        joint: Whether it joins sound and picture.
        share: Whether each clip counts as 0 or 1.
    """

    name: str
    number: Number
    measure: str
    counts: Callable[[Findings, Findings], Counts]
    joint: bool = False
    share: bool = False
    relative: ClassVar[bool] = False
    least: ClassVar[int] = 1

    @property
    def numbers(self) -> tuple[Number, ...]:
        return (self.number,)

    def of_clips(self, own: Side, order: Sequence[int] | None = None) -> np.ndarray:
        """Counts (N,2) of each picture with its own sound, or with that of clip `order[n]`."""
        heard = own if order is None else [own[i] for i in order]
        return np.array([self.counts(*pair) for pair in zip(heard, own, strict=True)], dtype=float)

    def compute(self, own: Side, real: Side, protocol: Protocol) -> list[Value]:
        counts = self.of_clips(own)
        value = _ratio(counts)
        counted = int((counts[:, 1] > 0).sum())
        if value is None:
            raise ValueError(NOTHING)
        shuffled = None
        if self.joint and len(own) > 1:
            orders = _shuffles(own, protocol)
            shuffled = _ratio(np.concatenate([self.of_clips(own, order) for order in orders]))
        units = units_of(own)
        known = counts[:, 1] > 0
        interval = (
            share_interval(counts[known, 0], units[known])
            if self.share
            else ratio_interval(counts, protocol.bootstraps, protocol.seed, units)
        )
        return [Value(value, interval, counted, None, shuffled)]


@dataclass(frozen=True)
class ClipMedian(Metric):
    """The median of what is found in all clips together, any number of values in each.

    Attributes:
        name: As `--metrics` has it; several metrics may share it.
        number: What it is.
        measure: Whose findings it reads.
        values_of: Values (N,) of the clip that is heard and the clip that is seen; NaN counts for nothing.
        joint: Whether it joins sound and picture.
    """

    name: str
    number: Number
    measure: str
    values_of: Callable[[Findings, Findings], np.ndarray]
    joint: bool = False
    relative: ClassVar[bool] = False
    least: ClassVar[int] = 1

    @property
    def numbers(self) -> tuple[Number, ...]:
        return (self.number,)

    def of_clips(self, own: Side, order: Sequence[int] | None = None) -> list[np.ndarray]:
        """Values (N,) of each picture with its own sound, or with that of clip `order[n]`."""
        heard = own if order is None else [own[i] for i in order]
        found = (self.values_of(*pair) for pair in zip(heard, own, strict=True))
        return [values[~np.isnan(values)] for values in found]

    def compute(self, own: Side, real: Side, protocol: Protocol) -> list[Value]:
        values = self.of_clips(own)
        pooled = np.concatenate(values)
        if not len(pooled):
            raise ValueError(NOTHING)
        shuffled = None
        if self.joint and len(own) > 1:
            others = [x for o in _shuffles(own, protocol) for x in self.of_clips(own, o)]
            chance = np.concatenate(others)
            shuffled = float(np.median(chance)) if len(chance) else None
        interval = pooled_median_interval(values, protocol.bootstraps, protocol.seed, units_of(own))
        counted = sum(len(own) > 0 for own in values)
        return [Value(float(np.median(pooled)), interval, counted, None, shuffled)]


@dataclass(frozen=True)
class ClipCorrelation(Metric):
    """The correlation of two findings inside clips: each clip's own means are taken out first.

    Attributes:
        name: As `--metrics` has it; several metrics may share it.
        number: What it is.
        measure: Whose findings it reads.
        pairs_of: Pairs (N,2) of the clip that is heard and the clip that is seen.
    """

    name: str
    number: Number
    measure: str
    pairs_of: Callable[[Findings, Findings], np.ndarray]
    relative: ClassVar[bool] = False
    least: ClassVar[int] = 2

    @property
    def numbers(self) -> tuple[Number, ...]:
        return (self.number,)

    def compute(self, own: Side, real: Side, protocol: Protocol) -> list[Value]:
        every = [self.pairs_of(clip, clip) for clip in own]
        known = [i for i, found in enumerate(every) if len(found) > 1]
        pairs = [every[i] for i in known]
        centred = [found - found.mean(0) for found in pairs]
        squares = [(c.T @ c).ravel()[[0, 3, 1]] for c in centred]
        products = np.array(squares).reshape(-1, 3)
        if not len(products) or not products.sum(0)[:2].all():
            raise ValueError(NOTHING)
        value = float(correlation(products.sum(0)))
        interval = correlation_interval(
            products, protocol.bootstraps, protocol.seed, units_of(own)[known]
        )
        return [Value(value, interval, len(products))]


def _shuffles(own: Side, protocol: Protocol) -> list[list[int]]:
    """Orders of sounds in which no picture has one of its own recording: chance."""
    rng, units = np.random.default_rng(protocol.seed), units_of(own)
    return [derangement(len(own), rng, units).tolist() for _ in range(protocol.shuffles)]


def _ratio(counts: np.ndarray) -> float | None:
    """The sum of numerators over that of denominators, of counts (N,2); None over 0."""
    sums = counts.sum(0)
    return float(sums[0] / sums[1]) if sums[1] else None


def mean_of(name: str, heard: Findings, seen: Findings) -> Counts:
    """What a clip adds to the mean of one of its findings (); nothing where that is NaN."""
    value = seen[name].item()
    return (0.0, 0.0) if math.isnan(value) else (value, 1.0)
