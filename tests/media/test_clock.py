"""One clock: each frame is the nearest to its instant, and sound begins with frame 0, at all rates."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from mmldm.media import reader
from mmldm.media.probe import probe
from mmldm.media.reader import Windows, read_audio, read_clip, read_frames, read_windows
from mmldm.types import ClipSpec

from ..remux import remux
from .numbered import HEIGHT, WIDTH, lag, numbers, write_numbered

pytestmark = pytest.mark.slow

SECONDS = 6.0
SPEC = ClipSpec(num_frames=16, fps=10.0, height=HEIGHT, width=WIDTH)
HIGHER = ClipSpec(num_frames=48, fps=30.0, height=HEIGHT, width=WIDTH)
RATES = {
    "10": 10.0, "12": 12.0, "15": 15.0, "23.976": 24000 / 1001, "25": 25.0, "29.97": 30000 / 1001,
    "30": 30.0, "50": 50.0, "60": 60.0,
}  # fmt: skip
TIES = {(15.0, 10.0), (25.0, 10.0), (15.0, 30.0), (25.0, 30.0)}
STARTS = (
    0.0, 0.013, 0.02, 0.05, 0.08, 0.099, 0.1234, 1 / 3, 0.777, 1.31, 2.05, 2.999,
    3.0001, 3.2, 3.2499, 3.7777, 3.98, 4.2,
)  # fmt: skip


def constant(fps: float) -> np.ndarray:
    return np.arange(round(SECONDS * fps)) / fps


def jittered() -> np.ndarray:
    """30 fps, each picture up to 8 ms from its place, in whole milliseconds."""
    jitter = np.random.default_rng(1).uniform(-0.008, 0.008, round(SECONDS * 30))
    return np.round(np.maximum(0, constant(30.0) + jitter), 3)


def thinned() -> np.ndarray:
    """30 fps without more than half of the pictures, and with none from 1.5 to 2.7 s and 3.5 to 5 s."""
    times = constant(30.0)
    kept = np.random.default_rng(2).random(len(times)) < 0.45
    kept[:4] = True
    return times[kept & ~((times > 1.5) & (times < 2.7)) & ~((times > 3.5) & (times < 5.0))]


TIMES = {name: constant(fps) for name, fps in RATES.items()} | {
    "jittered": jittered(),
    "thinned": thinned(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file NAME.mp4 and its copy NAME.mkv, whose clock has ticks of 1 ms, for each of TIMES."""
    folder = tmp_path_factory.mktemp("numbered")
    for name, times in TIMES.items():
        made = write_numbered(folder / f"{name}.mp4", times, seconds=SECONDS)
        remux(made, folder / f"{name}.mkv")
    return folder


def shown(windows: Windows, window: int) -> np.ndarray:
    return numbers(windows.frames[windows.indices[window]])


@pytest.mark.parametrize("spec", [SPEC, HIGHER], ids=["10 fps", "30 fps"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("name", RATES)
def test_each_frame_is_the_nearest_to_its_instant(
    folder: Path, name: str, suffix: str, spec: ClipSpec
) -> None:
    fps = RATES[name]
    windows = read_windows(folder / f"{name}.{suffix}", STARTS, spec)
    most = 0.25 if (fps, spec.fps) in TIES else 0.1
    for window, (asked, start) in enumerate(zip(STARTS, windows.starts.tolist(), strict=True)):
        assert abs(start - asked) <= 0.5 / fps + 0.0015
        instants = start + np.arange(spec.num_frames) / spec.fps
        late = (instants - shown(windows, window) / fps) * fps
        assert np.abs(late).max() <= 0.5 + 0.0015 * fps
        assert abs(late.mean()) <= most + 0.0005 * fps  # of the container's clock
        assert abs(late[0]) <= 0.0006 * fps
        assert abs(lag(windows.waveforms[window], start, spec.sample_rate)) <= 0.001


@pytest.mark.parametrize("spec", [SPEC, HIGHER], ids=["10 fps", "30 fps"])
@pytest.mark.parametrize("name", ["jittered", "thinned"])
def test_stills_hold_and_moving_pictures_are_the_nearest(
    folder: Path, name: str, spec: ClipSpec
) -> None:
    times, frame = TIMES[name], 1 / 30
    windows = read_windows(folder / f"{name}.mp4", STARTS, spec)
    for window, start in enumerate(windows.starts.tolist()):
        for k, number in enumerate(shown(windows, window)):
            instant = start + k / spec.fps
            before = np.flatnonzero(times <= instant + 0.0015).max()
            gap = times[before + 1] - times[before] if before + 1 < len(times) else np.inf
            if gap > 1.5 * frame + 0.0015 or number == before:
                assert number == before
                assert gap > 1.5 * frame or instant - times[before] <= gap / 2 + 0.001
            else:
                assert number == before + 1
                assert times[number] - instant <= gap / 2
        asked = STARTS[window]
        before = np.flatnonzero(times <= asked + 0.0015).max()
        if times[before + 1] - times[before] > 1.5 * frame + 0.0015:
            assert start == pytest.approx(asked, abs=0.0016)
        else:
            assert start == pytest.approx(times[shown(windows, window)[0]], abs=1e-4)
        assert abs(lag(windows.waveforms[window], start, spec.sample_rate)) <= 0.001


def test_jitter_does_not_make_pictures_late_on_average(folder: Path) -> None:
    windows = read_windows(folder / "jittered.mp4", STARTS, SPEC)
    late = [
        start + np.arange(16) / 10 - TIMES["jittered"][shown(windows, window)]
        for window, start in enumerate(windows.starts.tolist())
    ]
    assert abs(np.mean(late)) <= 0.1 / 30
    assert np.abs(late).max() <= (1 / 30 + 0.016) / 2


@pytest.mark.parametrize("name", TIMES)
def test_a_remux_gives_the_same_windows(folder: Path, name: str) -> None:
    """Containers with ticks of 1 ms move every time by up to half a millisecond."""
    original, copy = (read_windows(folder / f"{name}.{s}", STARTS, SPEC) for s in ("mp4", "mkv"))
    for window in range(len(STARTS)):
        assert np.array_equal(shown(original, window), shown(copy, window))
        assert torch.equal(
            original.frames[original.indices[window]], copy.frames[copy.indices[window]]
        )
        # Against the same instant, so that both lags are of one clock.
        start = original.starts[window].item()
        heard = [lag(w.waveforms[window], start, SPEC.sample_rate) for w in (original, copy)]
        assert abs(heard[0] - heard[1]) <= 0.001


@pytest.mark.parametrize("name", ["15", "29.97", "thinned"])
def test_windows_are_the_same_alone_and_together_sought_and_decoded(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / f"{name}.mp4"
    together = read_windows(path, STARTS, SPEC)
    for window, start in enumerate(STARTS):
        alone = read_windows(path, [start], SPEC)
        assert alone.starts[0].item() == pytest.approx(together.starts[window].item(), abs=1e-9)
        assert np.array_equal(shown(alone, 0), shown(together, window))
        assert torch.allclose(alone.waveforms[0], together.waveforms[window], atol=1e-3)
    sought = read_clip(path, 3.7777, SPEC)
    monkeypatch.setattr(reader, "SEEK_FROM", 1e9)
    decoded = read_clip(path, 3.7777, SPEC)
    assert torch.equal(sought.frames, decoded.frames)
    assert torch.allclose(sought.waveform, decoded.waveform, atol=1e-3)


def test_each_source_frame_is_held_once(folder: Path) -> None:
    windows = read_windows(folder / "10.mp4", STARTS, SPEC)
    held = numbers(windows.frames)
    assert len(held) == len(set(held)) == len(windows.times)
    assert np.array_equal(held, np.sort(held))
    assert windows.times.numpy() == pytest.approx(held / 10, abs=1e-4)
    assert windows.indices.shape == (len(STARTS), 16)


@pytest.mark.parametrize("name", ["12", "29.97", "jittered", "thinned"])
def test_readers_of_one_modality_read_the_same_window(folder: Path, name: str) -> None:
    path = folder / f"{name}.mp4"
    for start in STARTS:
        clip = read_clip(path, start, SPEC)
        assert torch.equal(read_frames(path, SPEC, start), clip.frames)
        assert torch.equal(read_audio(path, SPEC, start), clip.waveform)


def test_no_window_goes_past_the_end(tmp_path: Path) -> None:
    """The nearest frame to the last possible start lies after it: then the one before is taken."""
    path = write_numbered(tmp_path / "a.mp4", constant(10.0)[:24], seconds=2.4)
    last = probe(path).duration - SPEC.duration
    assert last == pytest.approx(0.8, abs=0.001)
    for asked, first in ((0.79, 8), (0.75, 7), (0.76, 8)):
        assert shown(read_windows(path, [asked], SPEC), 0)[0] == first
    path = write_numbered(tmp_path / "b.mp4", constant(10.0)[:24], seconds=2.36)
    last = probe(path).duration - SPEC.duration
    assert last == pytest.approx(0.76, abs=0.025)
    windows = read_windows(path, [last], SPEC)
    assert shown(windows, 0)[0] == 7
    assert torch.equal(read_audio(path, SPEC, last), windows.waveforms[0])


@pytest.mark.parametrize("fps", [10.0, 12.5, 25.0, 30.0])
def test_a_file_as_long_as_a_window_gives_it(tmp_path: Path, fps: float) -> None:
    path = write_numbered(tmp_path / "a.mp4", constant(fps)[: round(1.6 * fps)], seconds=1.6)
    for start in (0.0, 0.01, 0.02):
        windows = read_windows(path, [start], SPEC)
        assert windows.starts.item() == pytest.approx(0, abs=0.0015)
        assert shown(windows, 0)[0] == 0


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_late_picture_is_where_both_streams_count_from(tmp_path: Path, suffix: str) -> None:
    path = write_numbered(tmp_path / f"a.{suffix}", 2 + constant(10.0)[:40], seconds=6.0)
    info = probe(path)
    assert info.duration == pytest.approx(4.0, abs=0.03)
    assert info.notes[0].startswith("picture starts 2.0")
    assert info.notes[0].endswith("both are counted from there")
    for start, first in ((0.0, 0), (0.33, 3), (2.2, 22)):
        windows = read_windows(path, [start], SPEC)
        assert list(shown(windows, 0)) == list(range(first, first + 16))
        assert windows.notes == info.notes[:1]
        assert abs(lag(windows.waveforms[0], 2 + first / 10, 16000)) <= 0.001
        assert torch.equal(read_audio(path, SPEC, start), windows.waveforms[0])


def test_late_sound_is_where_both_streams_count_from(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mp4", constant(10.0)[:40], seconds=4.0, sound_starts=0.7)
    begins = 0.7 - 1024 / 48000  # with the run-in of AAC
    assert probe(path).duration == pytest.approx(4.0 - begins, abs=0.03)
    for start, first in ((0.0, 7), (0.33, 10), (1.5, 22)):
        windows = read_windows(path, [start], SPEC)
        assert list(shown(windows, 0)) == list(range(first, first + 16))
        assert windows.starts.item() == pytest.approx(first / 10 - begins, abs=0.001)
        assert torch.equal(read_frames(path, SPEC, start), windows.frames[windows.indices[0]])


def test_real_files_with_late_sound_are_counted_from_it(shared: Path) -> None:
    path = shared / "nasty/made/audio_starts_700ms_late.mp4"
    assert probe(path).notes == ("sound starts 0.68 s late: both are counted from there",)
    windows = read_windows(path, [0.0], ClipSpec())
    assert abs(windows.starts.item()) <= 1 / 60


@pytest.mark.parametrize("name", ["a.ts", "a.mkv"])
def test_after_a_seek_only_pictures_that_follow_a_key_frame_count(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoders of the MPEG-4 part 2 family show pictures that no key frame leads to."""
    path = write_numbered(
        tmp_path / name, np.arange(250) / 25, seconds=10.0, codec="mpeg4", clock=Fraction(1, 25),
        options={"g": "40", "bf": "2", "b": "2M"},
    )  # fmt: skip
    starts = np.arange(3.05, 8.3, 0.19)
    sought = [read_clip(path, float(start), SPEC) for start in starts]
    monkeypatch.setattr(reader, "SEEK_FROM", 1e9)
    for start, clip in zip(starts, sought, strict=True):
        decoded = read_clip(path, float(start), SPEC)
        assert torch.equal(clip.frames, decoded.frames)
        assert numbers(clip.frames)[0] == pytest.approx(start * 25, abs=0.51)


def test_a_slide_show_holds_its_slides(tmp_path: Path) -> None:
    """One picture a second is no movement: nothing is shown before its instant."""
    path = write_numbered(tmp_path / "a.mp4", np.arange(6.0), seconds=6.0)
    windows = read_windows(path, [0.0, 0.75, 2.98], SPEC)
    assert windows.starts.tolist() == pytest.approx([0.0, 0.75, 2.98], abs=1e-3)
    assert list(shown(windows, 0)) == [0] * 10 + [1] * 6
    assert list(shown(windows, 1)) == [0] * 3 + [1] * 10 + [2] * 3


def test_two_pictures_are_two_stills(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mp4", [0.0, 1.0], seconds=2.0)
    assert list(shown(read_windows(path, [0.0], SPEC), 0)) == [0] * 10 + [1] * 6
