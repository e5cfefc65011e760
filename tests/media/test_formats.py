"""Containers that people have beside mp4 and wav: opened, or named in a sentence with those that are."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from mmldm.errors import MediaError
from mmldm.media.container import OPENED
from mmldm.media.reader import read_audio, read_frames
from mmldm.types import ClipSpec

SPEC = ClipSpec(num_frames=10, fps=10.0, height=32, width=32, sample_rate=16000)
LOUD = 0.3


def write(path: Path, container: str, sound: str | None, picture: str | None = None) -> Path:
    """Two seconds of a tone, and of a picture that grows lighter by 8 levels a frame, 10 a second."""
    with av.open(str(path), "w", format=container) as output:
        if picture is not None:
            video = output.add_stream(picture, rate=10)
            video.width, video.height = 64, 48
            video.pix_fmt = "rgb8" if picture == "gif" else "yuv420p"
        if sound is not None:
            audio = output.add_stream(sound, rate=48000, layout="mono")
            audio.bit_rate = 128_000
        if picture is not None:
            for level in range(20):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * level, np.uint8))
                output.mux(video.encode(frame.reformat(format=video.pix_fmt)))
            output.mux(video.encode(None))
        if sound is not None:
            tone = LOUD * np.sin(np.arange(96_000) / 20).astype(np.float32)
            block = av.AudioFrame.from_ndarray(tone[np.newaxis], format="fltp", layout="mono")
            block.sample_rate = 48000
            size = audio.codec_context.frame_size or 1024
            resampler = av.AudioResampler(audio.format.name, "mono", 48000, size)
            for part in (*resampler.resample(block), *resampler.resample(None)):
                output.mux(audio.encode(part))
            output.mux(audio.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "container", "sound", "picture"),
    [
        ("a.wma", "asf", "wmav2", None),
        ("a.wmv", "asf", "wmav2", "wmv2"),
        ("a.ac3", "ac3", "ac3", None),
        ("a.eac3", "eac3", "eac3", None),
        ("a.caf", "caf", "pcm_s16le", None),
        ("a.w64", "w64", "pcm_s16le", None),
        ("a.gif", "gif", None, "gif"),
    ],
)
def test_it_opens_with_what_it_holds(
    tmp_path: Path, name: str, container: str, sound: str | None, picture: str | None
) -> None:
    path = write(tmp_path / name, container, sound, picture)
    if sound is not None:
        level = read_audio(path, SPEC, 0.5).abs().max().item()
        assert abs(level - LOUD) < 0.05
    else:
        with pytest.raises(MediaError, match="has no audio stream"):
            read_audio(path, SPEC, 0.5)
    if picture is not None:
        lightness = read_frames(path, SPEC, 0.5).float().mean(dim=(1, 2, 3))
        assert (lightness.diff() > 0).sum() >= 7
    else:
        with pytest.raises(MediaError):
            read_frames(path, SPEC, 0.5)


def test_what_is_not_opened_is_told_what_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.au", "au", "pcm_s16be")
    with pytest.raises(MediaError, match="is not one of the media that are opened here") as refusal:
        read_audio(path, SPEC, 0.5)
    assert OPENED in str(refusal.value)
