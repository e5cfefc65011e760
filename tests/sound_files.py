"""Media files whose sound is written packet by packet, at chosen times and on chosen tracks."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def encoded(
    samples: np.ndarray, rate: int, layout: str, codec: str, block: int
) -> list[av.AudioFrame]:
    """Blocks of `block` samples of channels (C,n), as the codec's encoder takes them."""
    # Channels side by side: PyAV makes no frames of more than seven planes.
    packed = np.ascontiguousarray(samples.astype(np.float32).T.reshape(1, -1))
    sound = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
    sound.sample_rate, sound.time_base, sound.pts = rate, Fraction(1, rate), 0
    format_ = av.codec.Codec(codec, "w").audio_formats[0].name
    resampler = av.AudioResampler(format_, layout, rate, block)
    return [*resampler.resample(sound), *resampler.resample(None)]


def write_sound(
    path: Path,
    samples: np.ndarray,
    *,
    rate: int = 48000,
    layout: str | None = None,
    codec: str = "flac",
    block: int = 1024,
    times: Sequence[float] | np.ndarray | None = None,
) -> Path:
    """Writes channels (C,n), each block at its own time.

    Args:
        times: Of the packets, in seconds; end to end where None. They may jitter, but not go back.
    """
    layout = layout or {1: "mono", 2: "stereo", 6: "5.1"}[len(samples)]
    with av.open(str(path), "w") as output:
        audio = output.add_stream(codec, rate=rate, layout=layout)
        packets: list[av.Packet] = []
        for frame in [*encoded(samples, rate, layout, codec, block), None]:
            packets += audio.encode(frame)
        for number, packet in enumerate(packets):
            if times is not None:
                packet.pts = packet.dts = round(times[number] / packet.time_base)
            output.mux(packet)
    return path


def write_tracks(path: Path, tones: Sequence[float], marks: Sequence[dict]) -> Path:
    """Writes a track for each of `tones`, a constant sound of that level, for 2 s of 16 kHz.

    Args:
        marks: Of each track: `disposition`, and tags such as `language` and `title`.
    """
    with av.open(str(path), "w") as output:
        streams = []
        for mark in marks:
            stream = output.add_stream("pcm_s16le", rate=16000, layout="mono")
            stream.disposition = mark.get("disposition", 0)
            stream.metadata.update({k: v for k, v in mark.items() if k != "disposition"})
            streams.append(stream)
        for stream, level in zip(streams, tones, strict=True):
            for frame in encoded(np.full((1, 32000), level), 16000, "mono", "pcm_s16le", 1600):
                output.mux(stream.encode(frame))
    return path
