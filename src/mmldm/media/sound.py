"""Decoded sound, and its way to the waveform of a window.

av.AudioFrame -> Sound (mono block from a time on) -> laid on the window's line -> waveform (S,) f32.
docs/data.md. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np

from mmldm.errors import MediaError
from mmldm.media.continuity import HOLD, STEP, TOLERANCE, levels
from mmldm.media.mixing import Mix
from mmldm.types import ClipSpec

# Whole seconds kept before a window for the resampler, so that every sample rate divides them.
LEAD = 1
# Seconds kept after a window for the resampler.
TAIL = 0.02
# Samples up to this much above full scale are what lossy codecs add; more is said.
CLIPPED = 1.01


@dataclass(frozen=True)
class Sound:
    """A decoded block: from `time` (seconds) on.

    Attributes:
        samples: (n,) float32, mixed to mono.
        channels: (C,n) float32, as stored.
    """

    time: float
    rate: int
    samples: np.ndarray
    channels: np.ndarray

    @property
    def end(self) -> float:
        return self.time + len(self.samples) / self.rate

    def mono(self) -> Sound:
        """The same block without its channels, to be kept in less memory."""
        return replace(self, channels=self.samples[np.newaxis])


def sound_of(frame: av.AudioFrame, time: float, mix: Mix) -> Sound:
    """A decoded block from `time` (seconds) on, mixed to mono by `mix`."""
    channels = channels_of(frame)
    return Sound(time, frame.sample_rate, mix(channels), channels)


def channels_of(frame: av.AudioFrame) -> np.ndarray:
    """Samples (C,n) float32 of a decoded block; full scale is 1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / 2.0 ** (8 * samples.dtype.itemsize - 1)
    return samples.astype(np.float32)


class SoundTrack:
    """Lays sound blocks on the window's time line; what no block covers stays silent.

    Blocks from HOLD seconds before the window on decide where they lie (`media.continuity`), so a
    window holds the same sound whether its file was decoded from the start or sought.

    Args:
        path: Of the file, for complaints.
        begin: Of the window, in the file's own seconds.
        spec: Of the clip.
        note: Takes sentences for the person who owns the file.
    """

    def __init__(
        self,
        path: Path,
        begin: float,
        spec: ClipSpec,
        note: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.path, self.begin, self.spec, self._note = path, begin, spec, note
        self._until = begin + spec.duration + TAIL + TOLERANCE
        self._blocks: list[Sound] = []
        self._first: float | None = None
        self._end = -np.inf
        # Of the last block, and the samples before the next one.
        self._at, self._offset, self._before = -np.inf, np.nan, 0
        # Seconds of sound since times last stepped, and after the end of the window.
        self._steady, self._past = np.inf, 0.0

    @property
    def complete(self) -> bool:
        """Whether the sound has reached the end of the window, and it is clear where it lies."""
        return self._at >= self._until and (self._steady >= HOLD or self._past >= HOLD)

    @property
    def saw_beginning(self) -> bool:
        """Whether sound at or before the window's beginning was seen."""
        return self._first is not None and self._first <= self.begin

    def add(self, sound: Sound) -> None:
        """Takes the next block."""
        if self._first is None:
            self._first = sound.time
        if self.complete or not len(sound.samples):
            return
        self._end = max(self._end, sound.end)
        if not self._blocks and sound.end < self.begin - HOLD:
            return
        offset = sound.time - self._before / sound.rate
        if abs(offset - self._offset) > STEP:
            self._steady = 0.0
        self._offset, self._at = offset, sound.end
        self._before += len(sound.samples)
        self._steady += len(sound.samples) / sound.rate
        self._past += len(sound.samples) / sound.rate * (sound.end >= self._until)
        self._blocks.append(sound.mono())

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
        waveform = np.zeros(self.spec.num_samples, np.float32)
        if not self._blocks:
            return waveform
        line = self._line()
        if not np.isfinite(line).all():
            raise MediaError(
                "non_finite", f"the sound of {self.path} holds NaN or Inf; re-encode its sound"
            )
        line = _resample(line, self._blocks[0].rate, self.spec.sample_rate)
        lead = LEAD * self.spec.sample_rate
        part = line[lead : lead + self.spec.num_samples]
        waveform[: len(part)] = part
        peak = float(np.abs(waveform).max())
        if peak > CLIPPED:
            self._note(clipping(peak))
        return waveform.clip(-1, 1)

    def _line(self) -> np.ndarray:
        """The sound (n,) from LEAD seconds before the window on, at its own rate."""
        rate = self._blocks[0].rate
        lengths = np.array([len(block.samples) for block in self._blocks])
        pieces = levels(np.array([block.time for block in self._blocks]), lengths, rate)
        starts = np.round(np.round((pieces - self.begin + LEAD) * rate, 3)).astype(int)
        starts += np.cumsum(lengths) - lengths
        line = np.zeros(round((LEAD + self.spec.duration + TAIL) * rate), np.float32)
        for start, block in zip(starts, self._blocks, strict=True):
            low, high = max(start, 0), min(start + len(block.samples), len(line))
            if low < high:
                line[low:high] = block.samples[low - start : high - start]
        return line


def clipping(peak: float) -> str:
    """The note on a sound whose largest sample is `peak`, full scale being 1."""
    return f"its sound peaks at {peak:.2f} of full scale ({20 * np.log10(peak):+.1f} dB); it is clipped"


def _resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    if rate == new_rate:
        return samples
    frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=new_rate)
    blocks = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([block.to_ndarray()[0] for block in blocks])
