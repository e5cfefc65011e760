"""Small foreign files made for the tests: flashes and tones at the same known instants."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

Writer = Callable[..., Path]
EVENTS = (0.44, 1.28, 2.12, 3.74, 5.22)
SECONDS = 6.0


@pytest.fixture(scope="session")
def events() -> tuple[float, ...]:
    """Instants (s) at which the files of `write_flash_click` flash and sound, for 0.1 s."""
    return EVENTS


@pytest.fixture(scope="session")
def write_flash_click() -> Writer:
    return _write_flash_click


def _write_flash_click(
    path: Path,
    video_codec: str,
    audio_codec: str,
    *,
    rate: int = 48000,
    layout: str = "mono",
    times: np.ndarray | None = None,
    shift: float = 0.0,
    sound_starts: float = 0.0,
    size: tuple[int, int] = (64, 48),
    options: dict[str, str] | None = None,
) -> Path:
    """Writes `SECONDS` of picture, light for 0.1 s from each of `EVENTS` on, dark otherwise, and
    of sound, a 3 kHz tone for 0.1 s from each event on.

    Args:
        times: Of the frames, in seconds; 50 fps where None.
        shift: Added to every timestamp.
        sound_starts: The sound before this many seconds is left out of the file.
    """
    with av.open(str(path), "w") as output:
        video = output.add_stream(video_codec, rate=50, options=options or {})
        video.width, video.height = size
        video.pix_fmt = "yuvj420p" if video_codec == "mjpeg" else "yuv420p"
        clock = Fraction(1, 50 if times is None else 1000)
        video.codec_context.time_base = clock
        audio = output.add_stream(
            audio_codec, rate=rate, layout=layout, options={"strict": "experimental"}
        )

        samples = np.zeros(int(SECONDS * rate), np.float32)
        for event in EVENTS:
            tone = 0.8 * np.sin(2 * np.pi * 3000 * np.arange(int(0.1 * rate)) / rate)
            samples[round(event * rate) :][: len(tone)] = tone
        begin = round(sound_starts * rate)
        interleaved = np.repeat(samples[begin:], len(audio.layout.channels))[np.newaxis]
        sound = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
        sound.sample_rate, sound.time_base = rate, Fraction(1, rate)
        sound.pts = begin + round(shift * rate)
        resampler = av.AudioResampler(audio.format.name, layout, rate, audio.frame_size or 1024)
        blocks = [*resampler.resample(sound), *resampler.resample(None), None]

        times = np.arange(int(SECONDS * 50)) / 50 if times is None else times
        for frame_time in times:
            while blocks and blocks[0] is not None and blocks[0].time - shift <= frame_time:
                output.mux(audio.encode(blocks.pop(0)))
            output.mux(video.encode(_picture(frame_time, shift, clock, size, video.pix_fmt)))
        output.mux(video.encode(None))
        for block in blocks:
            output.mux(audio.encode(block))
    return path


def _picture(
    time: float, shift: float, clock: Fraction, size: tuple[int, int], pix_fmt: str
) -> av.VideoFrame:
    lit = any(event - 1e-6 <= time < event + 0.1 - 1e-6 for event in EVENTS)
    # Noise, as in any real picture: MPEG-PS packs several tiny frames under one timestamp.
    noise = np.random.default_rng(round(time * 1000)).integers(0, 50, (size[1], size[0], 3))
    picture = (noise + (200 if lit else 0)).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
    frame.time_base = clock
    frame.pts = round((time + shift) / clock)
    return frame
