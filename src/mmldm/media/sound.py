"""Decoded sound, and its way to the waveform of a window.

av.AudioFrame -> Sound (mono block from a time on) -> laid on the window's line -> waveform (S,) f32.
docs/data.md. Importing this module does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from mmldm.errors import MediaError
from mmldm.types import ClipSpec

# Relative loudness of each speaker in the mono mix (ITU-R BS.775; the low-frequency one is left
# out), scaled to sum to one: a mix of sounds within [-1,1] is within [-1,1].
FRONT, CENTRE, AROUND = 1.0, 1.414, 0.707
USUAL_LAYOUTS, UNNAMED = {6: "5.1", 8: "7.1"}, "NONE"
SPEAKERS = {"FL": FRONT, "FR": FRONT, "FC": CENTRE, "LFE": 0.0, "LFE2": 0.0}
# Sound blocks whose times disagree by less (seconds) are contiguous: Matroska rounds to 1 ms.
CONTINUITY = 0.005
# Whole seconds kept before a window for the resampler, so that every sample rate divides them.
LEAD = 1
# Seconds kept after a window for the resampler.
TAIL = 0.02


@dataclass(frozen=True)
class Sound:
    """A decoded block mixed to mono: samples (n,) float32 from `time` (seconds) on."""

    time: float
    rate: int
    samples: np.ndarray

    @property
    def end(self) -> float:
        return self.time + len(self.samples) / self.rate


def sound_of(frame: av.AudioFrame, time: float) -> Sound:
    """A decoded block from `time` (seconds) on, mixed to mono."""
    samples = _to_float(frame)
    mono = samples[0] if len(samples) == 1 else _mix_weights(frame.layout) @ samples
    return Sound(time, frame.sample_rate, mono)


def _mix_weights(layout: av.AudioLayout) -> np.ndarray:
    speakers = [channel.name for channel in layout.channels]
    if set(speakers) == {UNNAMED}:
        usual = USUAL_LAYOUTS.get(len(speakers))
        speakers = [channel.name for channel in av.AudioLayout(usual).channels] if usual else []
    weights = np.array([SPEAKERS.get(speaker, AROUND) for speaker in speakers], np.float32)
    if weights.sum() == 0:
        weights = np.ones(layout.nb_channels, np.float32)
    return weights / weights.sum()


def _to_float(frame: av.AudioFrame) -> np.ndarray:
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / 2.0 ** (8 * samples.dtype.itemsize - 1)
    return samples.astype(np.float32)


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

    def waveform(self) -> np.ndarray:
        """Samples (S,) float32 in [-1,1].

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
        return waveform.clip(-1, 1)


def _resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    if rate == new_rate:
        return samples
    frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=new_rate)
    blocks = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([block.to_ndarray()[0] for block in blocks])
