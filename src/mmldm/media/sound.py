"""Decoded sound, and its way to the waveform of a window.

Sound (mono block from a time on) -> laid on the window's line -> waveform (S,) f32. Importing this module
does not import torch.

Blocks lie end to end, except at real gaps: packet times of many files jitter by 20 ms while their sound is
whole. So a single time is not believed, and sound stays contiguous until the times are off for good.
docs/data.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

from mmldm.errors import MediaError
from mmldm.media.container import Note, unsaid
from mmldm.types import ClipSpec

# Whole seconds kept before a window for the resampler, so that every sample rate divides them.
LEAD = 1
# Seconds kept after a window for the resampler.
TAIL = 0.02
# Samples up to this much above full scale are what lossy codecs add; more is said.
CLIPPED = 1.01

# Times off by this much (seconds) for HOLD seconds are a gap or an overlap. Jitter seen in web
# files reaches 21 ms, but comes back; one lost AAC packet is 21 ms, too, and does not.
OFF, HOLD = 0.015, 0.5
# A jump as large as this needs only so many seconds of sound behind it.
LARGE, BRIEF = 0.1, 0.1
# Share of the sound after a jump whose times must agree that it happened.
AGREEING = 0.75
# Changes of the offset (seconds) that may be a jump at all: Matroska rounds to 1 ms.
STEP = 0.005


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
        """When its last sample is over, in seconds."""
        return self.time + len(self.samples) / self.rate

    def mono(self) -> Sound:
        """The same block without its channels, to be kept in less memory."""
        return replace(self, channels=self.samples[np.newaxis])


class SoundTrack:
    """Lays sound blocks on the window's time line; what no block covers stays silent.

    Blocks from HOLD seconds before the window on decide where they lie (`levels`), so a
    window holds the same sound whether its file was decoded from the start or sought.

    Args:
        path: Of the file, for complaints.
        begin: Of the window, in the file's own seconds.
        spec: Of the clip.
        note: Takes sentences for the person who owns the file.
    """

    def __init__(self, path: Path, begin: float, spec: ClipSpec, note: Note = unsaid) -> None:
        self.path, self.begin, self.spec, self._note = path, begin, spec, note
        self._until = begin + spec.duration + TAIL + OFF
        self._blocks: list[Sound] = []
        self._end = -np.inf
        # Of the last block, and the samples before the next one.
        self._at, self._offset, self._before = -np.inf, np.nan, 0
        # Seconds of sound since times last stepped, and after the end of the window.
        self._steady, self._past = np.inf, 0.0

    @property
    def complete(self) -> bool:
        """Whether the sound has reached the end of the window, and it is clear where it lies."""
        return self._at >= self._until and (self._steady >= HOLD or self._past >= HOLD)

    def add(self, sound: Sound) -> None:
        """Takes the next block."""
        if self.complete or not len(sound.samples):
            return
        self._end = max(self._end, sound.end)
        if not self._blocks and sound.end < self.begin - HOLD:
            return
        # Where the sound so far would begin if this block's time were true: a step of that is a doubt.
        offset = sound.time - self._before / sound.rate
        if abs(offset - self._offset) > STEP:
            self._steady = 0.0
        self._offset, self._at = offset, sound.end
        self._before += len(sound.samples)
        self._steady += len(sound.samples) / sound.rate
        self._past += len(sound.samples) / sound.rate * (sound.end >= self._until)
        self._blocks.append(sound)

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
        require_finite(line, self.path)
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
        # Where each block begins on the line, in samples.
        rate = self._blocks[0].rate
        lengths = np.array([len(block.samples) for block in self._blocks])
        pieces = levels(np.array([block.time for block in self._blocks]), lengths, rate)
        starts = np.round(np.round((pieces - self.begin + LEAD) * rate, 3)).astype(int)
        starts += np.cumsum(lengths) - lengths

        # What of them lies on the line. Gaps stay silent, and of an overlap the later block is heard.
        line = np.zeros(round((LEAD + self.spec.duration + TAIL) * rate), np.float32)
        for start, block in zip(starts, self._blocks, strict=True):
            low, high = max(start, 0), min(start + len(block.samples), len(line))
            if low < high:
                line[low:high] = block.samples[low - start : high - start]
        return line


def levels(times: np.ndarray, lengths: np.ndarray, rate: int) -> np.ndarray:
    """For each block the offset (seconds) of its contiguous piece, shared within a piece.

    A piece lies at the median of the offsets of its blocks, each weighed by its length.

    Args:
        times: Of the blocks, in seconds, in the order of decoding.
        lengths: Of the blocks, in samples, each above 0.
        rate: Samples per second.
    """
    seconds = lengths / rate
    offsets = times - (np.cumsum(lengths) - lengths) / rate
    result = np.empty(len(times))
    for first, stop in pairwise([0, *jumps(offsets, seconds), len(times)]):
        result[first:stop] = quantile(offsets[first:stop], seconds[first:stop], 0.5)
    return result


def gap_notes(times: np.ndarray, lengths: np.ndarray, rate: int) -> tuple[str, ...]:
    """Sentences on gaps, overlaps and jitter of a whole sound of n blocks; arguments (n,) as for `levels`."""
    pieces = levels(times, lengths, rate)
    steps = np.diff(pieces)
    said = []
    for what, sizes in (("gap", steps[steps > 0]), ("overlap", -steps[steps < 0])):
        if len(sizes):
            many = "" if len(sizes) == 1 else "s"
            said.append(f"its sound has {len(sizes)} {what}{many}, {sizes.sum():.3f} s in all")
    offsets = times - (np.cumsum(lengths) - lengths) / rate
    jitter = np.abs(np.diff(offsets) - steps)
    if (jitter > STEP).any():
        said.append(
            f"the times of its sound jitter by {1000 * jitter.max():.0f} ms; it is read as contiguous"
        )
    return tuple(said)


def require_finite(samples: np.ndarray, path: str | Path) -> None:
    """Refuses samples (n,) that are no numbers, as `non_finite`."""
    if not np.isfinite(samples).all():
        raise MediaError("non_finite", f"the sound of {path} holds NaN or Inf; re-encode its sound")


def clipping(peak: float) -> str:
    """The note on a sound whose largest sample is `peak`, full scale being 1."""
    return f"its sound peaks at {peak:.2f} of full scale ({20 * np.log10(peak):+.1f} dB); it is clipped"


def _resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Samples (n,) float32 at another rate, by libswresample."""
    if rate == new_rate:
        return samples
    frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=new_rate)
    blocks = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([block.to_ndarray()[0] for block in blocks])


def jumps(offsets: np.ndarray, seconds: np.ndarray) -> list[int]:
    """Indices of the blocks that begin a new piece.

    Args:
        offsets: (n,) seconds by which each block is late if all before it lie end to end.
        seconds: (n,) that each block lasts.
    """
    ends = np.cumsum(seconds)
    first, found = 0, []
    for step in np.flatnonzero(np.abs(np.diff(offsets)) > STEP) + 1:
        if step <= first:
            continue
        # The level so far: of the last HOLD seconds of this piece.
        now = ends[step - 1]
        begin = max(first, int(np.searchsorted(ends, now - HOLD, "right")))
        level = quantile(offsets[begin:step], seconds[begin:step], 0.5)
        # A jump is believed if most of what follows keeps it up: a large one soon, a small one later.
        direction = np.sign(offsets[step] - level)
        for size, reach, support in ((LARGE, BRIEF, 0.0), (OFF, HOLD, BRIEF)):
            stop = int(np.searchsorted(ends, now + reach)) + 1
            after, weights = offsets[step:stop], seconds[step:stop]
            known = now - (ends[first] - seconds[first])
            if known < support or weights.sum() < reach / 2:
                continue
            if quantile(direction * (after - level), weights, 1 - AGREEING) < size:
                continue
            first = int(step) + _split(after, weights, level)
            found.append(first)
            break
    return found


def _split(offsets: np.ndarray, seconds: np.ndarray, level: float) -> int:
    """How many of the blocks (n,) still belong to the level before the jump: by least absolute error."""
    new_level = quantile(offsets, seconds, 0.5)
    gain = seconds * (np.abs(offsets - level) - np.abs(offsets - new_level))
    old = int(np.searchsorted(np.cumsum(seconds), (1 - AGREEING) * seconds.sum()))
    costs = np.concatenate([[0.0], np.cumsum(gain[:old])])
    return int(np.argmin(costs))


def quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """The least of the values (n,) that has `share` of the weights (n,) at or below it."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(total, share * total[-1] - 1e-12)]])
