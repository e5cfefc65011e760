"""The frames and the sound of time windows, collected in one pass over what is decoded.

Pictures and sounds (absolute times) -> windows: source frames that they show (H,W,3) u8, waveforms (S,) f32.
The rule which frame is shown is in `clock`; docs/data.md.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmldm.media.clock import TOLERANCE, FrameClock, Shown
from mmldm.media.container import Note
from mmldm.media.picture import FrameConverter, Picture
from mmldm.media.sound import HOLD, Sound, SoundTrack
from mmldm.types import ClipSpec

REORDERING = 1.0
"""Seconds by which the times of packets in a file may go back."""


class FrameTrack:
    """Finds where windows begin and chooses a source frame for each of their instants.

    A frame that is shown is converted once. Where a window begins at the later of two frames and then turns
    out to outlast the file, the run that begins at the earlier one is taken; both are followed meanwhile.

    Args:
        asked: Where windows are to begin, in seconds of the file's own time.
        spec: Of the clips.
        clock: The rule which frame an instant shows.
        converter: Makes frames of pictures.

    Attributes:
        begin: When the earliest window may begin, in seconds, as of the other tracks.
        first: When the first picture that was seen begins.
        arrays: Frames (H,W,3) uint8 that may be shown, by the time of the picture.
    """

    def __init__(
        self, asked: Sequence[float], spec: ClipSpec, clock: FrameClock, converter: FrameConverter
    ) -> None:
        self.asked, self.spec, self.clock, self._converter = asked, spec, clock, converter
        self.begin, self.first = min(asked), np.inf
        self.arrays: dict[float, np.ndarray] = {}
        # For each window: the times of the frames that it shows so far, by where it may begin, best first.
        self._runs: list[dict[float, list[float]]] = [{} for _ in asked]
        self._last: Picture | None = None
        self._gap = 0.0

    @property
    def complete(self) -> bool:
        """Whether every window has its frames, and does not outlast the picture."""
        return all(map(self._is_settled, self._runs))

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the file's pictures, upright and in square pixels."""
        return None if self._last is None else self._last.upright_size

    @property
    def end(self) -> float:
        """When the last picture seen is over."""
        return -np.inf if self._last is None else self._last.time + self._shown(self._last)

    def add(self, picture: Picture) -> None:
        """Takes the next picture; one that goes back in time is dropped."""
        if self._last is None:
            self.first = picture.time
        elif picture.time <= self._last.time:
            return
        else:
            self._gap = picture.time - self._last.time
            self._choose(self._last, picture, picture.time)
        self._last = picture

    def finish(self) -> None:
        """Shows the last picture until it is over."""
        if self._last is not None:
            until = self._last.time + max(self._shown(self._last), 1 / self.spec.fps)
            self._choose(self._last, None, until)

    def starts(self, window: int) -> list[float]:
        """Where a window may begin, best first."""
        runs = self._runs[window]
        return [start for start, chosen in runs.items() if len(chosen) == self.spec.num_frames]

    def chosen(self, window: int, start: float) -> list[float]:
        """Times of the T frames that a window shows from one of its `starts` on."""
        return self._runs[window][start]

    def _is_settled(self, runs: dict[float, list[float]]) -> bool:
        """Whether it is clear where a window begins, and what it shows."""
        if not runs:
            return False
        best = next(iter(runs))
        fits = len(runs) == 1 or best + self.spec.duration <= self.end + TOLERANCE
        return len(runs[best]) == self.spec.num_frames and fits

    def _shown(self, picture: Picture) -> float:
        """Seconds for which the last picture is shown: as claimed, or as long as the one before it."""
        return max(picture.duration or self._gap, self.clock.nominal)

    def _choose(self, earlier: Picture, later: Picture | None, until: float) -> None:
        """Serves every instant up to `until` (seconds), which is that of `later` where there is one."""
        for asked, runs in zip(self.asked, self._runs, strict=True):
            # The window begins between these two pictures.
            if not runs and asked < until:
                starts = self.clock.starts(earlier.time, until, asked)
                runs |= {s: [] for s in starts if later is not None or s < until}
            # Each of its instants up to `until` shows the nearer of the two.
            for start, chosen in runs.items():
                while (instant := start + len(chosen) / self.spec.fps) < until:
                    if len(chosen) == self.spec.num_frames:
                        break
                    picture = earlier
                    if later and self.clock.shows_later(earlier.time, until, instant):
                        picture = later
                    if picture.time not in self.arrays:
                        self.arrays[picture.time] = self._converter.convert(picture)
                    chosen.append(picture.time)


class ShownTrack:
    """Finds where windows begin from times of pictures that are not decoded; arguments as `FrameTrack`."""

    def __init__(self, asked: Sequence[float], spec: ClipSpec, clock: FrameClock) -> None:
        self.asked, self.clock = asked, clock
        self.begin, self.first = min(asked), np.inf
        self._until = max(asked) + spec.duration + REORDERING
        self._durations: dict[float, float] = {}
        self._last = -np.inf

    @property
    def complete(self) -> bool:
        """Whether pictures well after the last window were seen."""
        return self._last >= self._until

    @property
    def end(self) -> float:
        """When the last picture seen is over."""
        if not self._durations:
            return -np.inf
        *_, last = times = sorted(self._durations)
        gap = last - times[-2] if len(times) > 1 else 0.0
        return last + max(self._durations[last] or gap, self.clock.nominal)

    def add(self, shown: Shown) -> None:
        """Takes the next picture, in any order."""
        self._durations[shown.time] = shown.duration
        self.first, self._last = min(self.first, shown.time), max(self._last, shown.time)

    def starts(self, window: int) -> list[float]:
        """Where a window may begin, best first: as asked where the file shows nothing."""
        # The two pictures around the instant asked for; packets come in any order.
        asked, times = self.asked[window], sorted(self._durations)
        if not times or asked >= self.end:
            return [asked]
        later = bisect.bisect_right(times, asked)
        if later == 0:
            return [times[0]]
        if later == len(times):
            starts = self.clock.starts(times[-1], self.end, asked)
            return [start for start in starts if start < self.end]
        return list(self.clock.starts(times[later - 1], times[later], asked))


class SoundBlocks:
    """Keeps the sound blocks from before the first window to after the last.

    Args:
        asked: As `FrameTrack`.
        note: Takes sentences for the person who owns the file.
    """

    def __init__(
        self, path: Path, asked: Sequence[float], spec: ClipSpec, clock: FrameClock, note: Note
    ) -> None:
        self.path, self.spec, self._note = path, spec, note
        self.begin, self.first = min(asked) - clock.nominal, np.inf
        self._latest = SoundTrack(path, max(asked) + clock.nominal, spec)
        self._blocks: list[Sound] = []
        self.end = -np.inf

    @property
    def complete(self) -> bool:
        """Whether the sound has reached the end of the last window."""
        return self._latest.complete

    def add(self, sound: Sound) -> None:
        """Takes the next block."""
        self.first = min(self.first, sound.time)
        if self.complete:
            return
        sound = sound.mono()

        # Of what ends HOLD seconds before all windows, nothing is kept.
        self._latest.add(sound)
        self.end = max(self.end, sound.end)
        if len(self._blocks) > 1 and self._blocks[1].time <= self.begin - HOLD:
            self._blocks.pop(0)
        self._blocks.append(sound)

    def waveform(self, start: float) -> np.ndarray:
        """Samples (S,) float32 in [-1,1] of the window from `start` on.

        Raises:
            MediaError: As `SoundTrack.waveform`.
        """
        track = SoundTrack(self.path, start, self.spec, self._note)
        # What lies HOLD seconds before the window decides how its blocks join, and is there after a seek:
        # so all readers join the same blocks.
        times = [block.time for block in self._blocks]
        first = max(0, bisect.bisect_right(times, start - HOLD) - 1)
        for block in self._blocks[first:]:
            if track.complete:
                break
            track.add(block)
        return track.waveform()
