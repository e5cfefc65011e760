"""Where windows lie on the time axis of a clip of any length: plain arithmetic, no tensors.

A model samples, encodes and decodes one window of time. A clip that is longer is a row of ticks, and its
windows overlap on them. A tick is the shortest time in which everything of a model is whole: slots of both
modalities, frames, columns of the audio image, samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from mmldm.errors import UserError
from mmldm.types import AV, ClipSpec

OVERLAP = 0.25
"""Part of a window that it shares with the one before, 4 slots of 16: a quarter more work, and enough to see
how things move."""


@dataclass(frozen=True)
class TimeGrid:
    """The ticks of a model.

    Attributes:
        ticks: Of a window; 1: the model makes windows, and nothing longer.
        slots: Of each modality's latents in a tick.
        frames: In a tick.
        columns: Of the mel spectrogram in a tick.
        samples: In a tick.
        fps: Frames a second.
    """

    ticks: int
    slots: AV[int]
    frames: int
    columns: int
    samples: int
    fps: float

    @classmethod
    def of(cls, spec: ClipSpec, slots: AV[int]) -> TimeGrid:
        """The grid of clips of this kind, whose latents have T' = `slots` slots."""
        # Columns that do not tile the sound exactly, or fill the audio image up, drift against the frames.
        tiles = spec.num_columns * spec.spectrogram.hop_length == spec.num_samples
        tiles &= not spec.native_audio or spec.audio_size[1] == spec.num_columns
        ticks = math.gcd(*slots, spec.num_frames, spec.num_columns) if tiles else 1
        return cls(
            ticks,
            slots.map(lambda count: count // ticks),
            spec.num_frames // ticks,
            spec.num_columns // ticks,
            spec.num_samples // ticks,
            spec.fps,
        )

    @property
    def seconds(self) -> float:
        """Length of a tick."""
        return self.frames / self.fps

    @property
    def overlap(self) -> int:
        """Ticks that neighbouring windows share at least; 0 for a model that makes windows alone."""
        return max(1, round(OVERLAP * self.ticks)) if self.ticks > 1 else 0

    def ticks_of(self, frames: int) -> int:
        """Ticks that hold so many frames."""
        return -(-frames // self.frames)

    def check_length(self, ticks: int) -> None:
        """Refuses what is longer than a window, where a model has no time axis.

        Raises:
            UserError: It is, and it has none.
        """
        if self.ticks == 1 and ticks > 1:
            raise UserError(
                f"this model makes clips of {self.seconds:g} s and no longer ones: its latents have no time "
                "axis that picture and sound share (docs/fidelity.md)"
            )


def window_starts(unknown: range, length: int | None, size: int, overlap: int) -> Iterator[int]:
    """Where windows of `size` ticks begin that fill the unknown ticks, one after another.

    Each sees at least `overlap` ticks of what is known or was made before it, and the last as many of what is
    known after the gap. A gap that fits into one window lies in its middle. The last window ends where the
    clip does, so it may overlap more than the others.

    Args:
        unknown: Ticks to be made.
        length: Ticks of the clip, of which the unknown ones are a part; None: it has no end, and the ticks
            from `unknown.start` on are unknown.
        size: Of a window.
        overlap: As above.
    """
    advance = size - overlap
    start = max(0, unknown.start - overlap)
    if length is None:
        while True:
            yield start
            start += advance
    # One window is enough for a short clip, and for a short gap.
    last = max(0, min(unknown.stop + overlap, length) - size)
    if length <= size or len(unknown) + 2 * overlap <= size:
        middle = unknown.start - (size - len(unknown)) // 2
        yield min(max(0, middle), max(0, length - size))
        return
    while start < last:
        yield start
        start += advance
    yield last


@dataclass(frozen=True)
class Window:
    """One window on the ticks of a clip.

    Attributes:
        start: Its first tick.
        begin, end: Ticks from which and to which it is kept: the middle of what it shares with a neighbour,
            half a tick where that is an odd number. What lies outside knows one side only, and is dropped.
    """

    start: int
    begin: Fraction
    end: Fraction

    def kept(self, units: int) -> range:
        """Which of its frames, columns or slots are kept, of so many `units` in a tick."""
        begin, end = (math.floor((edge - self.start) * units) for edge in (self.begin, self.end))
        return range(begin, end)


def windows_with_cuts(
    starts: Iterator[int], wanted: range, endless: bool, size: int
) -> Iterator[Window]:
    """Windows, each with what is kept of it; together that is `wanted`, each tick once.

    Args:
        starts: As of `window_starts`, ascending.
        wanted: Ticks.
        endless: All from the start of `wanted` on, for ever.
        size: Of a window.
    """
    start, begin = next(starts), Fraction(wanted.start)
    for later in starts:
        cut = Fraction(later + start + size, 2)
        cut = max(begin, cut if endless else min(cut, Fraction(wanted.stop)))
        yield Window(start, begin, cut)
        start, begin = later, cut
    yield Window(start, begin, max(begin, Fraction(wanted.stop)))
