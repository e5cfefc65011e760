"""Picture and sound of a file at the rates of the clips, as they are decoded, on one line from an instant on.

pictures, blocks of sound (absolute times) -> frames (n,H,W,3) u8, samples (n,) f32 in [-1,1], by number. What
was taken is forgotten, so memory does not grow with length. The rule which frame is shown is in `clock`.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

import av
import numpy as np

from mmldm.media.clock import FrameClock
from mmldm.media.joining import LONGEST_GAP, JoinedSound
from mmldm.media.picture import FrameConverter, Picture
from mmldm.media.sound import HOLD, LEAD, Sound


class PictureTimeline:
    """The picture of a file at the frame rate of the clips, from `begin` on.

    Attributes:
        reached: Seconds from `begin` up to which frames are there.
        end: When the last picture seen is over, likewise.
    """

    def __init__(
        self, begin: float, fps: float, clock: FrameClock, converter: FrameConverter
    ) -> None:
        self._begin, self._fps, self._clock, self._converter = begin, fps, clock, converter
        self._frames: deque[np.ndarray] = deque()
        self._dropped = 0
        self._last: Picture | None = None
        self._gap = self._widest = 0.0
        self._converted: dict[float, np.ndarray] = {}

    @property
    def reached(self) -> float:
        return (self._dropped + len(self._frames)) / self._fps

    @property
    def end(self) -> float:
        if self._last is None:
            return 0.0
        # A header may claim that the last picture stands for weeks.
        shown = self._last.duration or self._gap or self._clock.nominal
        if self._widest:
            shown = max(min(shown, self._widest), self._clock.nominal)
        return self._last.time + min(shown, LONGEST_GAP) - self._begin

    def add(self, picture: Picture) -> None:
        """Takes the next picture; one that goes back in time is dropped."""
        if self._last is not None:
            if picture.time <= self._last.time:
                return
            self._gap = min(picture.time - self._last.time, LONGEST_GAP)
            self._widest = max(self._widest, self._gap)
            self._show(self._last, picture, self._last.time + self._gap)
        self._last = picture

    def wait(self, until: float) -> None:
        """Holds the last picture until then: the other stream goes on without this one."""
        if self._last is not None:
            self._show(self._last, None, self._begin + until)

    def finish(self) -> None:
        """Shows the last picture until it is over, and as what fills up the last window."""
        if self._last is not None:
            until = max(self.end, self.reached + 0.5 / self._fps)
            self._show(self._last, None, self._begin + until)

    def taken(self, first: int, count: int, after: int) -> np.ndarray:
        """Frames (count,H,W,3) uint8 from number `first` on; those before number `after` are forgotten."""
        rows = [self._frames[min(first + k - self._dropped, len(self._frames) - 1)]
                for k in range(count)]  # fmt: skip
        # The last one stays, to be held.
        while self._dropped < after and len(self._frames) > 1:
            self._frames.popleft()
            self._dropped += 1
        return np.stack(rows)

    def _show(self, earlier: Picture, later: Picture | None, until: float) -> None:
        """Serves every instant up to `until` (seconds), which is that of `later` where there is one."""
        while (instant := self._begin + self.reached) < until - 1e-9:
            picture = earlier
            if later and self._clock.shows_later(earlier.time, until, instant):
                picture = later
            if picture.time not in self._converted:
                self._converted[picture.time] = self._converter.convert(picture)
            self._frames.append(self._converted[picture.time])
        kept = (earlier.time,) if later is None else (later.time,)
        self._converted = {t: a for t, a in self._converted.items() if t in kept}


class SoundTimeline:
    """The sound of a file at the sample rate of the clips, from `begin` on; attributes as `PictureTimeline`.

    Attributes:
        peak: The largest sample so far.
    """

    def __init__(self, path: Path, begin: float, sample_rate: int) -> None:
        self._path, self._begin, self._rate = path, begin, sample_rate
        self._joined: JoinedSound | None = None
        self._parts: deque[np.ndarray] = deque()
        self._dropped, self._count = 0, 0
        self._lead = LEAD * sample_rate
        self.end = self.peak = 0.0

    @property
    def reached(self) -> float:
        return (self._dropped + self._count) / self._rate

    def add(self, sound: Sound) -> None:
        """Takes the next block; from HOLD seconds before the beginning on, blocks decide where they lie."""
        if sound.end < self._begin - HOLD:
            return
        if self._joined is None:
            # Whole seconds before, so that every sample rate divides them.
            self._joined = JoinedSound(self._path, self._begin - LEAD, sound.rate)
            self._resampler = av.AudioResampler("fltp", "mono", self._rate)
        self.end = max(self.end, sound.end - self._begin)
        for samples in self._joined.add(sound.time, sound.samples[np.newaxis]):
            self._resample(samples)

    def wait(self, until: float) -> None:
        """Is silent until then: the other stream goes on without this one."""
        if self._joined is None:
            # What the sound will have here, when it comes, is dropped as the lead is.
            silence = np.zeros(round(until * self._rate) - self._count - self._dropped, np.float32)
            self._append(silence)
            self._lead += len(silence)
            return
        for samples in self._joined.silence(round((until + LEAD) * self._joined.rate)):
            self._resample(samples)

    def finish(self) -> None:
        """Gives what is held back."""
        if self._joined is not None:
            for samples in self._joined.finish():
                self._resample(samples)
            if self._joined.rate != self._rate:
                for block in self._resampler.resample(None):
                    self._extend(block.to_ndarray()[0])

    def taken(self, first: int, count: int, after: int) -> np.ndarray:
        """Samples (count,) float32 from number `first` on, silent beyond the end; those before number
        `after` are forgotten."""
        line = np.concatenate(list(self._parts)) if self._parts else np.zeros(0, np.float32)
        samples = np.zeros(count, np.float32)
        part = line[first - self._dropped :][:count]
        samples[: len(part)] = part
        rest = line[after - self._dropped :]
        self._dropped += len(line) - len(rest)
        self._parts, self._count = deque([rest.copy()]), len(rest)
        return samples

    def _resample(self, samples: np.ndarray) -> None:
        """Takes samples (1,n) float32 of the unbroken sound."""
        assert self._joined is not None
        if self._joined.rate == self._rate:
            self._extend(samples[0])
            return
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", "mono")
        frame.sample_rate = self._joined.rate
        for block in self._resampler.resample(frame):
            self._extend(block.to_ndarray()[0])

    def _extend(self, samples: np.ndarray) -> None:
        """Takes samples (n,) at the clips' rate; those of the lead are dropped."""
        cut = min(self._lead, len(samples))
        self._lead -= cut
        self._append(samples[cut:])

    def _append(self, samples: np.ndarray) -> None:
        """Takes samples (n,) float32 at the clips' rate that follow the others."""
        if len(samples):
            self.peak = max(self.peak, float(np.abs(samples).max()))
            self._parts.append(samples.clip(-1, 1))
            self._count += len(samples)
