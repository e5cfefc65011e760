"""Metrics: each turns the rows of a set, and of a reference, into values with 95 % intervals.

rows of N clips, rows of M real clips -> Value (number, interval, n; or the reason why there is none)

Three kinds: distances between sets of features, shares of neighbours, and ratios over clips. Ratios that join
sound and picture also say what they are with the sounds of other clips. `registry` names them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mmldm.evaluation.distances import frechet_caveat, regions
from mmldm.evaluation.extractors.extractor import of_clips, of_windows
from mmldm.evaluation.intervals import (
    Interval,
    jackknife,
    quantile_interval,
    ratio_interval,
    wilson,
)
from mmldm.evaluation.measures import Row
from mmldm.evaluation.memorisation import Neighbours
from mmldm.evaluation.protocol import Protocol
from mmldm.types import AV
from mmldm.worlds.impacts.sync import derangement

Better = Literal["lower", "higher", "like real"]
Counts = tuple[float, float]
"""A clip's share of a ratio's numerator and denominator."""


@dataclass(frozen=True)
class Value:
    """One number of a table.

    Attributes:
        value: None where it is undefined; `note` says why.
        interval: 95 %; None where there are too few clips for one.
        n: Clips it is made from.
        against: Real clips it is compared with; None for a number of the set alone.
        shuffled: The same with each picture under the sound of another clip.
        note: What it must be read with.
    """

    value: float | None
    interval: Interval | None
    n: int
    against: int | None = None
    shuffled: float | None = None
    note: str | None = None

    @classmethod
    def undefined(cls, reason: str, n: int, against: int | None = None) -> Value:
        return cls(None, None, n, against, None, reason)


@dataclass(frozen=True)
class Number:
    """A line of a table: what a metric calls one of its numbers.

    Attributes:
        name: In JSON.
        title: For people.
        better: Which values are.
        unit: "" for pure numbers.
        biased: Whether its mean depends on the number of clips, so that only equal ones compare.
    """

    name: str
    title: str
    better: Better
    unit: str = ""
    biased: bool = False


class Metric(ABC):
    """One or more numbers from the rows of one measure.

    Attributes:
        name: As `--metrics` has it.
        measure: Name of the measure it reads.
        numbers: What it gives, in order.
        relative: Whether it compares with real clips.
        least: Clips of a set that it needs.
    """

    name: str
    measure: str
    numbers: tuple[Number, ...]
    relative = True
    least = 2

    def values(self, rows: Sequence[Row], real: Sequence[Row], protocol: Protocol) -> list[Value]:
        """A value for each of `numbers`; never NaN.

        Args:
            rows: Of the set.
            real: Of the clips it is compared with.
        """
        against = len(real) if self.relative else None
        few = min(len(rows), len(real)) if self.relative else len(rows)
        if few < self.least:
            reason = f"{few} clip{'s' * (few != 1)}, and {self.least} are the least"
            return [Value.undefined(reason, len(rows), against) for _ in self.numbers]
        try:
            found = self.compute(rows, real, protocol)
        except ValueError as error:
            return [Value.undefined(str(error), len(rows), against) for _ in self.numbers]
        return [
            value
            if value.value is None or math.isfinite(value.value)
            else Value.undefined("it is not finite", len(rows), against)
            for value in found
        ]

    @abstractmethod
    def compute(self, rows: Sequence[Row], real: Sequence[Row], protocol: Protocol) -> list[Value]:
        """The values of enough clips.

        Raises:
            ValueError: They are undefined; the message says why.
        """


class FeatureDistance(Metric):
    """Fréchet or kernel distance of two sets of features.

    Args:
        name: As `--metrics` has it.
        title: For people.
        measure: Extractor.
        distance: Of features (N,D) and real ones (M,D).
        frechet: Whether it is biased where there are few features.
    """

    def __init__(
        self,
        name: str,
        title: str,
        measure: str,
        distance: Callable[[Tensor, Tensor], float],
        frechet: bool,
    ) -> None:
        self.name, self.measure = name, measure
        self.numbers = (Number(name, title, "lower", biased=frechet),)
        self.distance, self.frechet = distance, frechet

    def compute(self, rows: Sequence[Row], real: Sequence[Row], protocol: Protocol) -> list[Value]:
        first, second = ([row["features"].double() for row in side] for side in (rows, real))

        def statistic(own: Tensor, other: Tensor) -> float:
            sides = ([first[i] for i in own.tolist()], [second[i] for i in other.tolist()])
            return self.distance(*(of_windows(side) for side in sides))

        value = statistic(torch.arange(len(first)), torch.arange(len(second)))
        half = jackknife(statistic, len(first), len(second), protocol.groups, protocol.seed)
        note = None
        if self.frechet:
            note = frechet_caveat(
                min(sum(map(len, side)) for side in (first, second)), first[0].shape[1]
            )
        interval = None if half is None else (value - half, value + half)
        return [Value(value, interval, len(rows), len(real), None, note)]


class SharedRegions(Metric):
    """Precision, recall, density and coverage of clips' mean features.

    Intervals are over clips with the regions as they are: Wilson's for shares, a bootstrap for density.

    Args:
        measure: Extractor.
    """

    least = 6

    def __init__(self, measure: str) -> None:
        self.name, self.measure = f"regions-{measure}", measure
        self.numbers = tuple(
            Number(f"{name}-{measure}", f"{name}, {measure}", better, biased=True)
            for name, better in REGIONS.items()
        )

    def compute(self, rows: Sequence[Row], real: Sequence[Row], protocol: Protocol) -> list[Value]:
        first, second = (of_clips([row["features"] for row in side]) for side in (rows, real))
        found = regions(first, second, protocol.neighbours, protocol.density_neighbours)
        few = min(len(rows), len(real))
        note = None
        if few < ENOUGH_FOR_REGIONS:
            note = f"{few} clips lie far apart, and chance makes most of such wide regions"
        values = []
        for name, points in found._asdict().items():
            mean = points.mean().item()
            counts = torch.stack([points, torch.ones_like(points)], dim=1).numpy()
            interval = (
                ratio_interval(counts, protocol.bootstraps, protocol.seed)
                if name == "density"
                else wilson(mean, len(points))
            )
            values.append(Value(mean, interval, len(rows), len(real), None, note))
        return values


ENOUGH_FOR_REGIONS = 50
"""Clips below which shares of neighbours come with a warning."""
REGIONS: dict[str, Better] = {
    "precision": "like real",
    "recall": "like real",
    "density": "like real",
    "coverage": "like real",
}


class NearestReal(Metric):
    """How far each clip is from the nearest real one, by fingerprint; see `memorisation`.

    Far nearer than held-out clips are: the clips were copied.
    """

    name, measure = "memorisation", "fingerprints"
    levels = (0.5, 0.05)
    numbers = (
        Number("nearest-median", "distance to the nearest reference clip, median", "like real", "", True),
        Number("nearest-5", "the same, 5 % quantile", "like real", "", True),
    )  # fmt: skip

    def compute(self, rows: Sequence[Row], real: Sequence[Row], protocol: Protocol) -> list[Value]:
        distances = nearest(rows, real)[0].double().numpy()
        return [
            Value(
                float(np.quantile(distances, level)),
                quantile_interval(distances, level, protocol.bootstraps, protocol.seed),
                len(rows),
                len(real),
            )
            for level in self.levels
        ]


def nearest(rows: Sequence[Row], real: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Distance to (N,) and index of (N,) the real clip with the nearest fingerprint."""
    sides = [
        AV(*(torch.stack([row[modality] for row in side]) for modality in AV._fields))
        for side in (rows, real)
    ]
    return Neighbours(sides[1]).nearest(sides[0])


class ClipRatio(Metric):
    """A ratio of sums over clips: a mean, a share, a recall.

    Args:
        name: As `--metrics` has it; several ratios may share it.
        number: What it is.
        measure: Whose rows it reads.
        counts: Of the row that is heard and the row that is seen.
        joint: Whether it joins sound and picture.
        share: Whether each clip counts as 0 or 1.
    """

    relative = False

    def __init__(
        self,
        name: str,
        number: Number,
        measure: str,
        counts: Callable[[Row, Row], Counts],
        joint: bool = False,
        share: bool = False,
    ) -> None:
        self.name, self.measure, self.numbers = name, measure, (number,)
        self.counts, self.joint, self.share = counts, joint, share
        self.least = 1

    def of_clips(self, rows: Sequence[Row], order: Sequence[int] | None = None) -> np.ndarray:
        """Counts (N,2) of each picture with its own sound, or with that of clip `order[n]`."""
        heard = rows if order is None else [rows[i] for i in order]
        return np.array([self.counts(*pair) for pair in zip(heard, rows, strict=True)], dtype=float)

    def compute(self, rows: Sequence[Row], real: Sequence[Row], protocol: Protocol) -> list[Value]:
        own = self.of_clips(rows)
        value = _ratio(own)
        counted = int((own[:, 1] > 0).sum())
        if value is None:
            raise ValueError("there is nothing to count in any clip")
        shuffled = None
        if self.joint and len(rows) > 1:
            rng = np.random.default_rng(protocol.seed)
            orders = [derangement(len(rows), rng).tolist() for _ in range(protocol.shuffles)]
            shuffled = _ratio(np.concatenate([self.of_clips(rows, order) for order in orders]))
        interval = (
            wilson(value, counted)
            if self.share
            else ratio_interval(own, protocol.bootstraps, protocol.seed)
        )
        return [Value(value, interval, counted, None, shuffled)]


def _ratio(counts: np.ndarray) -> float | None:
    sums = counts.sum(0)
    return float(sums[0] / sums[1]) if sums[1] else None
