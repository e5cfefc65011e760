"""What a metric is: a name, numbers, and for each of them a value with its 95 % interval and its anchors.

findings in N clips, findings in M real clips -> Value (number, interval, n; or the reason why there is none)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, overload

import numpy as np

from mmldm.evaluation.features import Findings
from mmldm.evaluation.intervals import Interval, Units
from mmldm.evaluation.protocol import Protocol

Better = Literal["lower", "higher", "like real"]
Side = Sequence[Findings]
"""What was found in each clip of one side of a comparison."""


class Grouped(Sequence[Findings]):
    """A side that knows which of its clips hang together.

    Args:
        findings: In each clip.
        units: (N,), one number for all clips of a recording.
    """

    def __init__(self, findings: Sequence[Findings], units: Units) -> None:
        self.findings, self.units = findings, units

    def __len__(self) -> int:
        return len(self.findings)

    @overload
    def __getitem__(self, index: int) -> Findings: ...

    @overload
    def __getitem__(self, index: slice) -> Grouped: ...

    def __getitem__(self, index: int | slice) -> Findings | Grouped:
        if isinstance(index, slice):
            return Grouped(self.findings[index], self.units[index])
        return self.findings[index]


def units_of(side: Side) -> Units:
    """Which clips of a side hang together, (N,); each is a unit of its own where nothing is known."""
    return side.units if isinstance(side, Grouped) else np.arange(len(side))


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
        published: The same by the published estimator, where that is another one; `note` says which.
        expected: What two sets of one law give on average at these n, where that needs no real clips to say.
        recordings: That the clips are of.
        against_recordings: The same of those that it is compared with.
    """

    value: float | None
    interval: Interval | None
    n: int
    against: int | None = None
    shuffled: float | None = None
    note: str | None = None
    published: float | None = None
    expected: float | None = None
    recordings: int | None = None
    against_recordings: int | None = None

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
    """One or more numbers from the findings of one measure.

    Attributes:
        name: As `--metrics` has it.
        measure: Name of the measure it reads.
        relative: Whether it compares with real clips.
        least: Clips of a set that it needs.
    """

    name: str
    measure: str
    relative: ClassVar[bool] = True
    least: ClassVar[int] = 2

    @property
    @abstractmethod
    def numbers(self) -> tuple[Number, ...]:
        """What it gives, in order."""

    def values(self, own: Side, real: Side, protocol: Protocol) -> list[Value]:
        """A value for each of `numbers`; never NaN.

        Args:
            own: Of the set.
            real: Of the clips it is compared with.
        """
        against = len(real) if self.relative else None
        few = min(len(own), len(real)) if self.relative else len(own)
        try:
            if few < self.least:
                raise ValueError(f"{few} clip{'s' * (few != 1)}, and {self.least} are the least")
            found = self.compute(own, real, protocol)
        except ValueError as error:
            return [Value.undefined(str(error), len(own), against) for _ in self.numbers]
        recordings, others = (len(np.unique(units_of(side))) for side in (own, real))
        return [
            replace(
                value, recordings=recordings, against_recordings=others if self.relative else None
            )
            if value.value is None or math.isfinite(value.value)
            else Value.undefined("it is not finite", len(own), against)
            for value in found
        ]

    @abstractmethod
    def compute(self, own: Side, real: Side, protocol: Protocol) -> list[Value]:
        """The values of enough clips.

        Raises:
            ValueError: They are undefined; the message says why.
        """
