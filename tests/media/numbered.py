"""Files whose every picture says which one it is, and whose sound says what time it is."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from torch import Tensor

STRIPES, HEIGHT = 10, 16
WIDTH = 8 * STRIPES
RATE = 48_000
_random = np.random.default_rng(0)
_TONES = _random.uniform(50, 400, 40)
_PHASES = _random.uniform(0, 2 * np.pi, 40)


def sound_at(times: np.ndarray) -> np.ndarray:
    """The sound of all these files at any instant (s): forty tones that do not repeat."""
    return 0.02 * np.sin(2 * np.pi * times[:, None] * _TONES + _PHASES).sum(1)


def write_numbered(
    path: Path,
    times: Sequence[float] | np.ndarray,
    *,
    seconds: float,
    sound_starts: float = 0.0,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    clock: Fraction = Fraction(1, 90_000),
) -> Path:
    """Writes picture i at times[i] (s), its number in stripes from the lowest bit on, and the sound.

    The last picture stands as long as the one before.

    Args:
        clock: Seconds per unit of picture times.
    """
    with av.open(str(path), "w") as output:
        video = output.add_stream(codec, rate=30, options=options or {"crf": "10", "g": "24"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.time_base = clock
        video.time_base = clock
        audio = output.add_stream("aac", rate=RATE, layout="mono")
        audio.bit_rate = 192_000
        first = round(sound_starts * RATE)
        samples = sound_at(np.arange(first, round(seconds * RATE)) / RATE).astype(np.float32)
        sound = av.AudioFrame.from_ndarray(samples[np.newaxis], format="flt", layout="mono")
        sound.sample_rate, sound.time_base, sound.pts = RATE, Fraction(1, RATE), first
        resampler = av.AudioResampler(audio.format.name, "mono", RATE, audio.frame_size or 1024)
        blocks = [*resampler.resample(sound), *resampler.resample(None), None]
        for number, time in enumerate(times):
            while blocks and blocks[0] is not None and blocks[0].time <= time:
                output.mux(audio.encode(blocks.pop(0)))
            bits = (number >> np.arange(STRIPES)) & 1
            grey = np.tile(np.repeat(255 * bits, 8).astype(np.uint8)[None, :, None], (HEIGHT, 1, 3))
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(format="yuv420p")
            frame.time_base, frame.pts = clock, round(time / clock)
            output.mux(video.encode(frame))
        *packets, last = video.encode(None)
        output.mux(packets)
        last.duration = round((times[-1] - times[-2]) / clock)
        output.mux(last)
        for block in blocks:
            output.mux(audio.encode(block))
    return path


def numbers(frames: Tensor) -> np.ndarray:
    """The number that each of frames (T,3,H,W) shows: (T,)."""
    stripes = frames.float().mean(dim=(1, 2)).view(len(frames), STRIPES, 8)[..., 2:6].mean(-1)
    return ((stripes > 127).long() << np.arange(STRIPES)).sum(-1).numpy()


def lag(waveform: Tensor, start: float, sample_rate: int) -> float:
    """Seconds by which a window's sound is ahead of the sound from `start` (s) on; nan if it is another."""
    heard = waveform[:3200].double().numpy()
    times, ahead = start + np.arange(len(heard)) / sample_rate, 0.0
    for _ in range(5):  # Newton's steps
        expected = sound_at(times + ahead)
        slope = (sound_at(times + ahead + 1e-5) - expected) / 1e-5
        ahead += ((heard - expected) @ slope) / (slope @ slope)
    alike = np.corrcoef(heard, sound_at(times + ahead))[0, 1] > 0.95
    return float(ahead) if alike else np.nan
