"""Which source frame is shown at an instant, and where a window begins: the one rule of all readers.

presentation times -> nominal frame -> the nearer of two neighbouring frames. docs/data.md. Importing this
module does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TIE = 0.0015
"""Seconds by which two distances must differ to count as different: containers round times to 1 ms."""
STILL = 1.5
"""A gap of more nominal frames than this is a still picture, not two frames of a movement."""
SLOWEST = 0.2
"""Seconds; what lasts longer is a slide, not a frame."""
LOOKED_AT = 64
"""Packets that the nominal frame is measured on."""
TOLERANCE = 0.02
"""Seconds by which a window may outlast the file; the last frame and silence fill in."""
NOTED_LAG = 0.1
"""Seconds between the beginnings of picture and sound that are worth a note."""


@dataclass(frozen=True)
class Shown:
    """A picture that is not decoded: when it is shown, and for how long the file claims; seconds."""

    time: float
    duration: float


@dataclass(frozen=True)
class FrameClock:
    """The frame rule, for a nominal frame of `nominal` seconds."""

    nominal: float

    def is_still(self, earlier: float, later: float) -> bool:
        """Whether the picture at `earlier` is held, as it is, until the next one at `later`."""
        return later - earlier > STILL * self.nominal + TIE

    def shows_later(self, earlier: float, later: float, instant: float) -> bool:
        """Which of two neighbours an instant between them shows: the nearer; the earlier where they tie."""
        if self.is_still(earlier, later):
            return instant >= later - TIE
        return (instant - earlier) - (later - instant) > TIE

    def starts(self, earlier: float, later: float, asked: float) -> tuple[float, ...]:
        """Where a window asked for between two neighbours begins, and where if it does not fit there.

        Inside a still every instant counts as a source frame of its own.
        """
        if asked - earlier <= TIE:
            return (earlier,)
        if self.is_still(earlier, later):
            return (later, asked) if later - asked <= TIE else (asked,)
        return (later, earlier) if self.shows_later(earlier, later, asked) else (earlier,)


@dataclass(frozen=True)
class Beginning:
    """Where the streams of a file begin, in its own time; None where a stream is not there.

    Attributes:
        picture: Time of the first decoded picture, in seconds.
        sound: Time of the first decoded sound, in seconds.
        clock: The frame rule.
    """

    picture: float | None
    sound: float | None
    clock: FrameClock

    @property
    def origin(self) -> float:
        """Zero of the file's clock: the later of first picture and first sound, in seconds."""
        return max(time for time in (self.picture, self.sound) if time is not None)

    @property
    def note(self) -> str | None:
        """A sentence where one stream begins late."""
        if self.picture is None or self.sound is None:
            return None
        lag = self.sound - self.picture
        if abs(lag) <= NOTED_LAG:
            return None
        return (
            f"{'sound' if lag > 0 else 'picture'} starts {abs(lag):.2f} s late: "
            "both are counted from there"
        )


def nominal_frame(times: Sequence[float]) -> float:
    """Seconds of a source frame, from the intervals between presentation times.

    Where repeated pictures were dropped, most intervals are longer, but not their lower quartile; where times
    jitter, the frame is the median of all intervals that are no stills by that measure.

    Args:
        times: Of the file's first packets, in any order.
    """
    intervals = np.diff(np.unique(times))
    intervals = intervals[intervals > TIE]
    if not len(intervals):
        return SLOWEST
    moving = intervals[intervals <= STILL * np.quantile(intervals, 0.25)]
    return min(float(np.median(moving)), SLOWEST)
