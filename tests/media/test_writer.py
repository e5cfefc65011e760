"""Clips saved and read back; outputs appear whole or not at all."""

from __future__ import annotations

import math
import resource
import signal
import subprocess
import sys
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmldm.errors import UserError
from mmldm.files import whole_file
from mmldm.media.clip import Clip
from mmldm.media.container import Limits
from mmldm.media.decoding import MediaFile
from mmldm.media.probe import probe
from mmldm.media.reader import read_audio, read_clip
from mmldm.media.sound import Sound
from mmldm.media.writer import FilmWriter
from mmldm.types import ClipSpec


def make_clip(
    height: int = 64, width: int = 64, fps: float = 10.0, sample_rate: int = 16000, frames: int = 16
) -> Clip:
    """A bar that moves down, and a tone that starts when the bar is half way."""
    pictures = torch.zeros(frames, 3, height, width, dtype=torch.uint8)
    for k in range(frames):
        pictures[k, :, k * height // frames : (k + 1) * height // frames] = 220
    time = torch.arange(round(frames / fps * sample_rate)) / sample_rate
    tone = 0.5 * torch.sin(2 * math.pi * 600 * time) * (time >= frames / fps / 2)
    return Clip(pictures, tone, fps, sample_rate)


def test_mp4_comes_back_as_it_went(tmp_path: Path) -> None:
    clip = make_clip()
    path = clip.save(tmp_path / "a.mp4")
    back = read_clip(path, 0.0, ClipSpec())
    assert (back.frames.float() - clip.frames.float()).abs().mean() < 3
    error = (back.waveform - clip.waveform).pow(2).mean().sqrt()
    assert error < 0.06 * clip.waveform.pow(2).mean().sqrt()
    info = probe(path)
    assert info.duration == pytest.approx(1.6, abs=0.001)
    assert (info.fps, info.num_frames, info.sample_rate) == (pytest.approx(10), 16, 16000)


def test_two_channels_stay_apart(tmp_path: Path) -> None:
    clip, path = make_clip(), tmp_path / "a.mp4"
    sides = torch.stack([clip.waveform, 0.1 * clip.waveform])
    with FilmWriter(path, fps=clip.fps, sample_rate=clip.sample_rate, channels=2) as film:
        for part in range(2):
            film.add(clip.frames[8 * part : 8 * part + 8], sides[:, 12800 * part :][:, :12800])
        assert film.seconds == pytest.approx(1.6)
    info = probe(path)
    assert (info.channels, info.sample_rate) == (2, 16000)
    with MediaFile(path, Limits(), want_video=False) as media:
        found = np.concatenate([s.channels for s in media if isinstance(s, Sound)], axis=1)
    left, right = np.sqrt((found[:, 16000:24000] ** 2).mean(1))
    assert left == pytest.approx(0.5 / 2**0.5, rel=0.05)
    assert right == pytest.approx(0.05 / 2**0.5, rel=0.1)


def test_mp4_has_its_index_in_front_and_browser_codecs(tmp_path: Path) -> None:
    path = make_clip().save(tmp_path / "a.mp4")
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    info = probe(path)
    assert (info.video_codec, info.audio_codec) == ("h264", "aac")


@pytest.mark.parametrize(("height", "width"), [(63, 64), (64, 51), (33, 35), (1, 1)])
def test_odd_sizes_are_padded_to_even(tmp_path: Path, height: int, width: int) -> None:
    path = make_clip(height, width).save(tmp_path / "a.mp4")
    info = probe(path)
    assert (info.height, info.width) == (height + height % 2, width + width % 2)


@pytest.mark.parametrize("sample_rate", [8000, 11025, 13000, 44100, 96000])
def test_any_sample_rate_keeps_time_and_pitch(tmp_path: Path, sample_rate: int) -> None:
    path = make_clip(sample_rate=sample_rate).save(tmp_path / "a.mp4")
    waveform = read_audio(path, ClipSpec()).numpy()
    loud = np.flatnonzero(np.abs(waveform) > 0.25)
    assert loud[0] / 16000 == pytest.approx(0.8, abs=0.005)
    spectrum = np.abs(np.fft.rfft(waveform[13600:24800]))
    assert np.argmax(spectrum) * 16000 / 11200 == pytest.approx(600, abs=2)


@pytest.mark.parametrize("fps", [24000 / 1001, 12.5, 60.0])
def test_any_frame_rate_keeps_time(tmp_path: Path, fps: float) -> None:
    path = make_clip(fps=fps, frames=48).save(tmp_path / "a.mp4")
    info = probe(path)
    assert info.fps == pytest.approx(fps, rel=1e-4)
    assert info.duration == pytest.approx(48 / fps, abs=0.002)


def test_wav_is_16_bit_pcm_and_clips_instead_of_wrapping(tmp_path: Path) -> None:
    clip = make_clip()
    loud = Clip(clip.frames, clip.waveform * 4, clip.fps, clip.sample_rate)
    path = loud.save(tmp_path / "a.wav")
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
        samples = np.frombuffer(file.readframes(-1), "<i2") / 32767
    assert np.abs(samples - loud.waveform.clamp(-1, 1).numpy()).max() < 1e-4


def test_png_is_a_contact_sheet(tmp_path: Path) -> None:
    path = make_clip().save(tmp_path / "a.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG"


def test_unknown_suffix_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.gif.*\.mp4"):
        make_clip().save(tmp_path / "a.gif")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing past `size` bytes fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", ["a.mp4", "a.wav", "a.png"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    clip = make_clip()
    noise = torch.randint(0, 255, clip.frames.shape, dtype=torch.uint8)
    with largest_file(1500), pytest.raises(UserError, match=name):
        Clip(noise, clip.waveform, clip.fps, clip.sample_rate).save(path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.mp4", "a.wav", "a.png"])
def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot write"):
        make_clip().save(tmp_path / "file" / name)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_killed_write_leaves_no_file_under_its_name(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from mmldm.files import whole_file\n"
        "with whole_file(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    target = tmp_path / "a.txt"
    result = subprocess.run([sys.executable, "-c", code, str(target)], env=environment)
    assert result.returncode == -signal.SIGKILL
    assert not target.exists()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")
