"""Sound of any length laid end to end as it is decoded, by the rules of `sound.levels`.

blocks (absolute times) -> positions in samples -> one unbroken sound (C,n) f32, silent in gaps. Memory does
not grow with length. Importing this module does not import torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from mmldm.errors import MediaError
from mmldm.media.sound import BRIEF, HOLD, OFF, STEP, jumps, quantile, require_finite

Block = TypeVar("Block")
LONGEST_GAP = 3600.0
"""Seconds; a file that claims a longer one lies."""


class SoundLine(Generic[Block]):
    """Says where blocks lie as they come, by the rules of `levels` with HOLD seconds of foresight.

    A piece keeps the level of its first HOLD seconds, so that a sound of any length stays whole; where its
    times drift away from that by OFF, a new piece begins. Blocks may be sounds, or packets as they are.

    Args:
        zero: Where position 0 lies, in seconds of the file's own time.
        rate: Samples per second.
    """

    def __init__(self, zero: float, rate: int) -> None:
        self.zero, self.rate = zero, rate
        self._behind: deque[tuple[float, int]] = deque()
        self._ahead: deque[tuple[float, int, Block]] = deque()
        self._seen = self._known = self._before = 0
        self._level: float | None = None
        self._offset, self._steady = np.nan, 0.0

    def add(self, time: float, length: int, block: Block) -> Iterator[tuple[int, Block]]:
        """Takes the next block, of `length` samples from `time` (seconds) on.

        Yields:
            Positions in samples, and the blocks that lie there.
        """
        if not length:
            return
        # Where the sound so far would begin if this block's time were true: a step of that is a doubt.
        before = self._before + self._seen
        offset = time - before / self.rate
        steady = abs(offset - self._offset) <= STEP
        self._steady = self._steady + length / self.rate if steady else 0.0
        self._offset = offset
        self._ahead.append((time, length, block))
        self._seen += length
        while self._seen - self._ahead[0][1] >= (HOLD + BRIEF) * self.rate:
            yield self._laid()

    def finish(self) -> Iterator[tuple[int, Block]]:
        """Gives what is held back, at the end; as `add`."""
        while self._ahead:
            yield self._laid()

    def _laid(self) -> tuple[int, Block]:
        """The position of the next block."""
        time, length, block = self._ahead[0]
        offset = time - self._before / self.rate
        # Nothing to decide where all times in sight agree with the piece.
        doubt = self._steady * self.rate < self._seen + self._known
        if self._level is None or doubt or abs(offset - self._level) > OFF:
            self._level = self._decided()
        position = round(round((self._level - self.zero) * self.rate, 3)) + self._before

        self._ahead.popleft()
        self._behind.append((time, length))
        self._seen, self._known = self._seen - length, self._known + length
        self._before += length
        while self._known - self._behind[0][1] >= 2 * HOLD * self.rate:
            self._known -= self._behind.popleft()[1]
        return position, block

    def _decided(self) -> float:
        """The level (seconds) from the next block on."""
        blocks = [*self._behind, *((time, length) for time, length, _ in self._ahead)]
        times, lengths = (np.array(column) for column in zip(*blocks, strict=True))
        offsets = times - (self._before - self._known + np.cumsum(lengths) - lengths) / self.rate
        seconds = lengths / self.rate
        front, found = len(self._behind), jumps(offsets, seconds)
        stop = min((jump for jump in found if jump > front), default=len(blocks))
        level = quantile(offsets[front:stop], seconds[front:stop], 0.5)
        if self._level is None or front in found:
            return level
        # A slow drift is followed where it is off for good: by all that is in sight of this piece.
        first = max((jump for jump in found if jump < front), default=0)
        near = quantile(offsets[first:stop], seconds[first:stop], 0.5)
        return near if abs(near - self._level) > OFF else self._level


class JoinedSound:
    """One unbroken sound of the blocks of a file: gaps are silent, and of an overlap the later is heard.

    Args:
        path: Of the file, for complaints.
        zero: Where the sound begins, in seconds of the file's own time; what lies before is left out.
        rate: Samples per second.

    Attributes:
        count: Samples given so far.
    """

    def __init__(self, path: Path, zero: float, rate: int) -> None:
        self.path, self.zero, self.rate, self.count = path, zero, rate, 0
        self._line: SoundLine[np.ndarray] = SoundLine(zero, rate)
        self._last: tuple[int, np.ndarray] | None = None
        self._channels = 0

    def add(self, time: float, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Takes the next block (C,n) float32, from `time` (seconds) on; gives (C,m) that follow each other.

        Raises:
            MediaError: `non_finite`; `corrupt` where the file claims a gap of more than an hour;
                `format_change` where the number of channels changes.
        """
        require_finite(samples, self.path)
        for position, block in self._line.add(time, samples.shape[1], samples):
            yield from self._joined(position, block)

    def finish(self) -> Iterator[np.ndarray]:
        """Gives what is held back (C,m), at the end; the sound may go on later."""
        for position, block in self._line.finish():
            yield from self._joined(position, block)
        if self._last is not None:
            yield from self._given(*self._last)
            self._last = None

    def silence(self, until: int) -> Iterator[np.ndarray]:
        """Gives silence (C,m) up to a position in samples; what comes before it later is left out."""
        yield from self.finish()
        yield from self._silent(until)

    def _joined(self, position: int, block: np.ndarray) -> Iterator[np.ndarray]:
        """Gives the block before (C,m), as far as this one (C,n) does not cover it."""
        if self._last is not None:
            start, last = self._last
            yield from self._given(start, last[:, : max(0, position - start)])
        self._last = position, block

    def _given(self, position: int, block: np.ndarray) -> Iterator[np.ndarray]:
        """Silence up to a block (C,n), and what of it is not given yet."""
        if position - self.count > LONGEST_GAP * self.rate:
            raise MediaError(
                "corrupt",
                f"the sound of {self.path} has a gap of {(position - self.count) / self.rate:.0f} s;"
                " re-encode it",
            )
        if self._channels not in (0, len(block)):
            raise MediaError(
                "format_change",
                f"the channels of {self.path} change midway; cut it where they change",
            )
        self._channels = len(block)
        yield from self._silent(position)
        rest = block[:, self.count - position :]
        if rest.shape[1]:
            self.count += rest.shape[1]
            yield rest

    def _silent(self, until: int) -> Iterator[np.ndarray]:
        """Silence (C,m) up to a position, a second at a time."""
        while self.count < until:
            part = np.zeros((self._channels or 1, min(self.rate, until - self.count)), np.float32)
            self.count += part.shape[1]
            yield part
