"""One time window, collected from a stream of decoded pictures and sounds.

Picture, Sound (absolute times) -> frames (T,3,H,W) u8, waveform (S,) f32. What lies exactly where
is in docs/data.md.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation, VideoReformatter
from torch import Tensor

from mmldm.errors import MediaError
from mmldm.media.container import Limits, Picture, Sound
from mmldm.types import ClipSpec

# Sound blocks whose times disagree by less (seconds) are contiguous: Matroska rounds to 1 ms.
CONTINUITY = 0.005
# Whole seconds kept before a window for the resampler, so that every sample rate divides them.
LEAD = 1
# Seconds kept after a window for the resampler.
TAIL = 0.02


class FrameTrack:
    """Chooses a frame for each instant begin + k / fps and converts only those to RGB."""

    def __init__(self, path: Path, begin: float, spec: ClipSpec, limits: Limits) -> None:
        self.path, self.begin, self.spec, self.limits = path, begin, spec, limits
        self._instants = [begin + k / spec.fps for k in range(spec.num_frames)]
        self._chosen: list[np.ndarray] = []
        self._current: Picture | None = None
        self._first: float | None = None
        self._scaler = VideoReformatter()

    @property
    def complete(self) -> bool:
        """Whether every instant of the window has its frame."""
        return len(self._chosen) == self.spec.num_frames

    @property
    def saw_beginning(self) -> bool:
        """Whether a frame at or before the window's beginning was seen."""
        return self._first is not None and self._first <= self.begin

    def add(self, picture: Picture) -> None:
        """Takes the next picture; one that goes back in time is dropped."""
        if self._current is None:
            self._first = picture.time
        elif picture.time <= self._current.time:
            return
        else:
            # Half a tick makes up for times rounded in the file, but a coarse clock must not
            # move pictures.
            self._show(self._current, until=picture.time - min(picture.tick / 2, 0.001))
        self._current = picture

    def tensor(self) -> Tensor:
        """Frames (T,3,H,W) uint8.

        Raises:
            MediaError: `too_short` if the pictures end before the window does.
        """
        if self._current is not None:
            shown = max(self._current.duration, 1 / self.spec.fps)
            self._show(self._current, until=self._current.time + shown)
        if not self.complete:
            raise MediaError(
                "too_short",
                f"the picture of {self.path} ends before the {self.spec.duration:g} s window is"
                " full; use an earlier window or a longer file",
            )
        return torch.from_numpy(np.stack(self._chosen)).permute(0, 3, 1, 2).contiguous()

    def _show(self, picture: Picture, until: float) -> None:
        array = None
        while not self.complete and self._instants[len(self._chosen)] < until:
            array = self._convert(picture) if array is None else array
            self._chosen.append(array)

    def _convert(self, picture: Picture) -> np.ndarray:
        turns = picture.quarter_turns
        height, width = self.spec.height, self.spec.width
        if turns % 2:
            height, width = width, height
        stored_width = picture.frame.width * picture.pixel_aspect
        scale = max(width / stored_width, height / picture.frame.height)
        cover_width = max(width, round(stored_width * scale))
        cover_height = max(height, round(picture.frame.height * scale))
        if cover_width * cover_height > self.limits.max_pixels:
            raise MediaError(
                "too_large",
                f"{self.path} is too elongated ({picture.frame.width}x{picture.frame.height});"
                " crop it",
            )
        shrinks = scale < 1
        rgb = self._scaler.reformat(
            picture.frame,
            cover_width,
            cover_height,
            "rgb24",
            interpolation=Interpolation.AREA if shrinks else Interpolation.BICUBIC,
        ).to_ndarray()
        top, left = (cover_height - height) // 2, (cover_width - width) // 2
        return np.rot90(rgb[top : top + height, left : left + width], turns)


class SoundTrack:
    """Lays sound blocks on the window's time line; what no block covers stays silent."""

    def __init__(self, path: Path, begin: float, spec: ClipSpec) -> None:
        self.path, self.begin, self.spec = path, begin, spec
        self._line = np.empty(0, np.float32)
        self._rate = 0
        self._next = 0
        self._first: float | None = None
        self._end = -np.inf

    @property
    def complete(self) -> bool:
        """Whether the sound has reached the end of the window."""
        return self._end >= self.begin + self.spec.duration + TAIL

    @property
    def saw_beginning(self) -> bool:
        """Whether sound at or before the window's beginning was seen."""
        return self._first is not None and self._first <= self.begin

    def add(self, sound: Sound) -> None:
        """Takes the next block."""
        position = round((sound.time - self.begin + LEAD) * sound.rate)
        if self._first is None:
            self._first, self._rate, self._next = sound.time, sound.rate, position
            self._line = np.zeros(
                round((LEAD + self.spec.duration + TAIL) * sound.rate), np.float32
            )
        if abs(position - self._next) > CONTINUITY * sound.rate:
            self._next = position
        start, stop = self._next, self._next + len(sound.samples)
        low, high = max(start, 0), min(stop, len(self._line))
        if low < high:
            self._line[low:high] = sound.samples[low - start : high - start]
        self._next = stop
        self._end = sound.end

    def tensor(self) -> Tensor:
        """Waveform (S,) in [-1,1].

        Raises:
            MediaError: `too_short` if the sound ends before the window begins, `non_finite`.
        """
        if self._end <= self.begin:
            raise MediaError(
                "too_short",
                f"the sound of {self.path} ends before the window begins; use an earlier window",
            )
        if not np.isfinite(self._line).all():
            raise MediaError(
                "non_finite", f"the sound of {self.path} holds NaN or Inf; re-encode its sound"
            )
        line = _resample(self._line, self._rate, self.spec.sample_rate)
        lead = LEAD * self.spec.sample_rate
        waveform = np.zeros(self.spec.num_samples, np.float32)
        part = line[lead : lead + self.spec.num_samples]
        waveform[: len(part)] = part
        return torch.from_numpy(waveform).clamp(-1, 1)


def _resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    if rate == new_rate:
        return samples
    frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=new_rate)
    blocks = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([block.to_ndarray()[0] for block in blocks])
