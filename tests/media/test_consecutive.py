"""Windows of a file of any length: one long read in pieces, in constant memory, and honest at its end."""

from __future__ import annotations

import tracemalloc
import wave
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from mmldm.errors import MediaError
from mmldm.media import reader
from mmldm.media.consecutive import ConsecutiveWindows, Window
from mmldm.media.reader import read_windows
from mmldm.types import ClipSpec

from ..sound_files import write_sound
from .numbered import HEIGHT, WIDTH, lag, numbers, write_numbered

pytestmark = pytest.mark.slow

Writer = Callable[..., Path]
SPEC = ClipSpec(height=HEIGHT, width=WIDTH)
FILES = {
    "a.mp4": (np.arange(240) / 24, 0.0),
    "late.mp4": (np.arange(240) / 24, 0.7),
    "a.ts": (np.arange(300) / 30, 0.0),
    "variable.mkv": (
        np.round(np.cumsum(np.random.default_rng(0).uniform(0.02, 0.08, 200)), 3),
        0.0,
    ),
}


def joined(windows: list[Window], spec: ClipSpec = SPEC) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (n,3,H,W) and samples (m,) of windows, what they share once."""
    frames, samples = [windows[0].frames], [windows[0].waveform]
    for before, window in zip(windows, windows[1:], strict=False):
        step = window.first_frame - before.first_frame
        fresh = round(window.first_frame * spec.sample_rate / spec.fps) - round(
            before.first_frame * spec.sample_rate / spec.fps
        )
        kept = spec.num_samples - fresh
        assert torch.equal(before.frames[step:], window.frames[: len(before.frames) - step])
        assert torch.equal(before.waveform[fresh:], window.waveform[:kept])
        frames.append(window.frames[len(before.frames) - step :])
        samples.append(window.waveform[kept:])
    return torch.cat(frames), torch.cat(samples)


@pytest.mark.parametrize("stride", [1, 12, 16])
@pytest.mark.parametrize("start", [0.0, 4.33])
@pytest.mark.parametrize("name", FILES)
def test_windows_are_one_long_read(tmp_path: Path, name: str, start: float, stride: int) -> None:
    times, sound_starts = FILES[name]
    path = write_numbered(tmp_path / name, times, seconds=10, sound_starts=sound_starts)
    reading = ConsecutiveWindows(path, SPEC, start=start, stride=stride)
    frames, samples = joined(list(reading))
    whole = SPEC.model_copy(update={"num_frames": int(reading.length * 10 - 0.5)})
    once = read_windows(path, [reading.begins], whole)
    count = whole.num_frames
    assert once.starts.item() == pytest.approx(reading.begins, abs=1e-9)
    assert torch.equal(frames[:count], once.frames[once.indices[0]])
    # Matroska's times are whole milliseconds, and a long read has more of them to judge by.
    error = (samples[: whole.num_samples] - once.waveforms[0]).abs().max()
    assert error < (0.1 if name.endswith("mkv") else 1e-5)
    assert len(frames) >= reading.length * 10 - 1e-6


def test_sound_does_not_drift_over_ten_minutes(tmp_path: Path) -> None:
    rate, seconds = 44100, 600
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as output:
        output.setparams((1, 2, rate, 0, "NONE", ""))
        for second in range(seconds):
            click = np.zeros(rate, "<i2")
            click[second * 37 % rate :][:40] = 20000
            output.writeframes(click.tobytes())
    reading = ConsecutiveWindows(path, ClipSpec(), want_video=False)
    tracemalloc.start()
    loud, peaks = np.zeros(seconds * 16000, bool), np.zeros(375)
    for window in reading:
        loud[window.index * 25600 :][:25600] = window.waveform.numpy() > 0.3
        peaks[window.index] = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert reading.length == pytest.approx(seconds)
    heard = np.flatnonzero(loud) / 16000
    clicks = heard[np.diff(heard, prepend=-1) > 0.01]
    expected = np.arange(seconds) + np.arange(seconds) * 37 % rate / rate
    assert np.abs(clicks - expected).max() < 0.0005
    # What a window needs, and nothing for those before it.
    assert peaks[200:].max() < peaks[:100].max() + 100_000


def test_seeking_gives_the_same_windows(
    tmp_path: Path, write_flash_click: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_flash_click(tmp_path / "a.mp4", "libx264", "aac", options={"g": "25"})
    sought = joined(list(ConsecutiveWindows(path, SPEC, start=3.51)))
    monkeypatch.setattr(reader, "SEEK_FROM", 1e9)
    decoded = joined(list(ConsecutiveWindows(path, SPEC, start=3.51)))
    assert torch.equal(sought[0], decoded[0])
    assert torch.allclose(sought[1], decoded[1], atol=1e-4)


def test_seconds_end_the_reading_with_the_file_going_on_behind(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mp4", np.arange(240) / 24, seconds=10)
    reading = ConsecutiveWindows(path, SPEC, start=1.0, seconds=2.5)
    windows = list(reading)
    assert (len(windows), reading.length, reading.claimed) == (2, 2.5, 2.5)
    assert [window.filled for window in windows] == [0.0, 0.0]
    assert numbers(windows[1].frames)[-1] == round((reading.begins + 3.1) * 24)


@pytest.mark.parametrize("seconds", [0.05, 0.4, 1.6, 1.61, 1.7])
def test_a_short_sound_is_filled_with_silence_and_told(tmp_path: Path, seconds: float) -> None:
    tone = 0.5 * np.sin(np.arange(round(seconds * 48000)) / 10)[np.newaxis]
    path = write_sound(tmp_path / "a.flac", tone)
    reading = ConsecutiveWindows(path, ClipSpec(), want_video=False)
    windows = list(reading)
    assert len(windows) == (2 if seconds == 1.7 else 1)
    assert reading.length == pytest.approx(1.6 if seconds == 1.61 else seconds, abs=1e-3)
    assert windows[-1].filled == pytest.approx(max(1.6 * len(windows) - seconds, 0), abs=1e-3)
    sound = torch.cat([window.waveform for window in windows])
    assert sound[: round(seconds * 16000)].abs().max() > 0.4
    assert sound[round(seconds * 16000) + 320 :].abs().sum() == 0
    assert any("shorter than a window" in note for note in reading.notes) == (seconds < 1.6)


def test_silence_is_said(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.flac", np.zeros((1, 100_000)))
    reading = ConsecutiveWindows(path, ClipSpec(), want_video=False)
    assert torch.cat([window.waveform for window in reading]).abs().sum() == 0
    assert "digital silence" in reading.notes


def test_one_frame_is_held_for_a_window(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=10)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        grey = np.full((32, 32, 3), 99, np.uint8)
        frame = av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(format="yuv420p")
        output.mux([*video.encode(frame), *video.encode(None)])
    reading = ConsecutiveWindows(path, ClipSpec(), want_audio=False)
    (window,) = reading
    assert window.frames.shape == (16, 3, 64, 64)
    assert (window.frames.float() - 99).abs().max() < 4
    assert reading.length == pytest.approx(0.1)


@pytest.mark.parametrize(("picture", "sound"), [(12.0, 2.0), (2.0, 14.0), (3.0, 2.5)])
def test_the_longer_stream_counts_and_the_shorter_is_filled(
    tmp_path: Path, picture: float, sound: float
) -> None:
    path = write_numbered(tmp_path / "a.mp4", np.arange(round(24 * picture)) / 24, seconds=sound)
    reading = ConsecutiveWindows(path, SPEC)
    frames, samples = joined(list(reading))
    assert reading.length == pytest.approx(max(picture, sound), abs=0.05)
    shown = numbers(frames)
    assert shown[-1] == round(24 * picture) - 1
    assert samples[round(sound * 16000) + 1000 :].abs().max() < 0.02
    assert abs(lag(samples[8000:], 0.5, 16000)) < 1e-3
    assert any("early" in note for note in reading.notes)


def test_a_file_that_is_cut_off_gives_what_it_has(shared: Path) -> None:
    path = shared / "nasty" / "made" / "truncated_50pct_faststart.mp4"
    reading = ConsecutiveWindows(path, ClipSpec())
    windows = list(reading)
    assert len(windows) >= 1
    assert reading.length < reading.claimed - 0.5
    assert any("cut off" in note for note in reading.notes)


def test_a_start_beyond_the_end_is_a_sentence(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.flac", np.ones((1, 48000)) / 2)
    with pytest.raises(MediaError, match="a.flac") as caught:
        list(ConsecutiveWindows(path, ClipSpec(), start=2.0, want_video=False))
    assert caught.value.reason == "too_short"


def test_a_gap_keeps_what_follows_in_its_place_and_absurd_ones_are_refused(tmp_path: Path) -> None:
    times = np.arange(250) * 1024 / 32000
    times[100:] += 0.4
    tone = 0.5 * np.sin(np.arange(250 * 1024) * np.linspace(0.01, 0.2, 250 * 1024))[np.newaxis]
    path = write_sound(
        tmp_path / "a.mkv", tone, rate=32000, codec="pcm_s16le", block=1024, times=times
    )
    spec = ClipSpec(sample_rate=32000)
    frames, samples = joined(list(ConsecutiveWindows(path, spec, want_video=False)), spec)
    cut = 100 * 1024
    assert samples[cut + 100 : cut + 12700].abs().sum() == 0
    assert torch.allclose(
        samples[cut + 12800 :][:50_000], torch.tensor(tone[0, cut:]).float()[:50_000], atol=1e-3
    )
    times[100:] += 90_000
    path = write_sound(
        tmp_path / "b.mkv", tone, rate=32000, codec="pcm_s16le", block=1024, times=times
    )
    with pytest.raises(MediaError, match="gap"):
        list(ConsecutiveWindows(path, spec, want_video=False))
