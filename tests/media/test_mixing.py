"""Channels become one without cancelling, and without losing the level of those that sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmldm.media import reader
from mmldm.media.probe import probe
from mmldm.media.reader import read_audio
from mmldm.types import ClipSpec

from ..sound_files import write_sound

pytestmark = pytest.mark.slow

RATE = 16000
SPEC = ClipSpec(num_frames=60, fps=10.0, height=16, width=16)


def noise(seed: int, level: float = 1.0, seconds: float = 6.0) -> np.ndarray:
    """Samples (n,) that 16 bits hold exactly, also when halved."""
    values = np.random.default_rng(seed).integers(-8000, 8000, round(seconds * RATE)) // 2 * 2
    return (np.round(level * values / 2) * 2 / 32768).astype(np.float32)


def mixed(path: Path, *channels: np.ndarray, start: float = 0.0) -> np.ndarray:
    write_sound(path, np.stack(channels), rate=RATE, codec="pcm_s16le", block=1600)
    return read_audio(path, SPEC, start).numpy()


def notes(path: Path) -> tuple[str, ...]:
    """What the scan says of the sound."""
    found = probe(path, allow_missing=True).notes
    assert "no picture" in found
    return tuple(note for note in found if note != "no picture")


def test_channels_that_cancel_give_the_left_one_exactly(tmp_path: Path) -> None:
    left, path = noise(0), tmp_path / "a.mkv"
    assert np.array_equal(mixed(path, left, -left), left)
    assert notes(path) == (
        "its channels cancel each other when they are mixed; its left channel alone is used",
    )
    assert probe(path, allow_missing=True).silent_share == pytest.approx(0, abs=1e-3)


def test_of_channels_that_cancel_the_louder_one_is_used(tmp_path: Path) -> None:
    left, right = np.round(0.8 * noise(0) * 32768) / 32768, noise(0)
    assert np.array_equal(mixed(tmp_path / "a.mkv", -left, right), right)


def test_a_silent_channel_does_not_lower_the_other(tmp_path: Path) -> None:
    left, silence = noise(0), np.zeros(6 * RATE, np.float32)
    for path, channels in (("a.mkv", (left, silence)), ("b.mkv", (silence, left))):
        assert np.array_equal(mixed(tmp_path / path, *channels), left)
    assert notes(tmp_path / "a.mkv") == (
        "its right channel is silent; its mix is as loud as if there were none",
    )


def test_ordinary_stereo_two_alike_and_mono_are_mixed_as_ever(tmp_path: Path) -> None:
    left, right, path = noise(0), noise(1), tmp_path / "a.mkv"
    assert np.allclose(mixed(path, left, right), (left + right) / 2, atol=1e-7)
    assert notes(path) == ()
    assert np.array_equal(mixed(path, left, left), left)
    assert np.array_equal(mixed(path, left), left)
    assert notes(path) == ()


def test_surround_keeps_its_weights(tmp_path: Path) -> None:
    speakers = [noise(k) for k in range(6)]
    weights = np.array([1, 1, 1.414, 0, 0.707, 0.707]) / 4.828
    expected = weights @ np.stack(speakers)
    assert np.abs(mixed(tmp_path / "a.mkv", *speakers) - expected).max() < 1e-6
    assert notes(tmp_path / "a.mkv") == ()


def test_channels_that_cancel_in_part_are_mixed_and_said(tmp_path: Path) -> None:
    left, other, path = noise(0), noise(1), tmp_path / "a.mkv"
    right = np.round((-0.5 * left + 0.75**0.5 * other) * 32768) / 32768
    assert np.allclose(mixed(path, left, right), (left + right) / 2, atol=1e-7)
    (note,) = notes(path)
    assert note == "its channels partly cancel each other when they are mixed (3 dB are lost)"


def test_silence_at_the_beginning_is_listened_through(tmp_path: Path) -> None:
    left = np.concatenate([np.zeros(8 * RATE, np.float32), noise(0, seconds=4)])
    path = tmp_path / "a.mkv"
    assert np.array_equal(mixed(path, left, -left, start=6.0), left[6 * RATE :])


def test_a_channel_that_joins_later_is_no_silent_one(tmp_path: Path) -> None:
    left, right = noise(0, seconds=12), noise(1, seconds=12)
    right[: 10 * RATE] = 0
    read = mixed(tmp_path / "a.mkv", left, right)
    assert np.allclose(read, left[: 6 * RATE] / 2, atol=1e-7)


def test_every_window_is_mixed_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cancels, but not in its last seconds: windows there are no mix, either."""
    left, right = noise(0, seconds=12), -noise(0, seconds=12)
    right[9 * RATE :] = noise(1, seconds=3)
    path = tmp_path / "a.mkv"
    whole = mixed(path, left, right, start=5.0)
    assert np.array_equal(whole, left[5 * RATE : 11 * RATE])
    monkeypatch.setattr(reader, "SEEK_FROM", 1e9)
    assert np.array_equal(read_audio(path, SPEC, 5.0).numpy(), whole)


def test_a_file_that_changes_is_heard_anew(tmp_path: Path) -> None:
    left, path = noise(0), tmp_path / "a.mkv"
    assert np.array_equal(mixed(path, left, -left), left)
    assert np.array_equal(mixed(path, left, noise(1)), (left + noise(1)) / 2)


def test_channels_that_cancel_later_are_said_by_the_scan(tmp_path: Path) -> None:
    left, right = noise(0, seconds=30), noise(1, seconds=30)
    right[6 * RATE :] = -left[6 * RATE :]
    path = tmp_path / "a.mkv"
    mixed(path, left, right)
    (note,) = notes(path)
    assert note == "its channels partly cancel each other when they are mixed (7 dB are lost)"


def test_a_channel_that_joins_after_half_a_minute_is_kept_and_said_by_the_scan(
    tmp_path: Path,
) -> None:
    left, right, path = noise(0, seconds=40), noise(1, seconds=40), tmp_path / "a.mkv"
    right[: 35 * RATE] = 0
    read = mixed(path, left, right, start=33.0)
    assert np.allclose(read, (left + right)[33 * RATE : 39 * RATE], atol=1e-7)
    assert notes(path)[1].startswith("a channel that is silent in the first 30 s sounds later")


def test_mostly_exact_zeros_are_said_with_their_share(tmp_path: Path) -> None:
    sound, path = noise(0), tmp_path / "a.mkv"
    sound[sound == 0] = 2**-14
    sound[: round(0.58 * len(sound))] = 0
    write_sound(path, sound[None], rate=RATE, codec="pcm_s16le", block=1600)
    assert notes(path) == ("58% of its sound is exact zeros; listen whether it is whole",)
    write_sound(path, 0 * sound[None], rate=RATE, codec="pcm_s16le", block=1600)
    assert notes(path) == ("digital silence",)


def test_sound_above_full_scale_is_clipped_and_said(tmp_path: Path) -> None:
    sound, path = 2 * noise(0), tmp_path / "a.mkv"
    sound[5000] = 1.5
    write_sound(path, sound[None], rate=RATE, codec="pcm_f32le", block=1600)
    read = read_audio(path, SPEC).numpy()
    assert read[5000] == 1.0 and np.array_equal(np.delete(read, 5000), np.delete(sound, 5000))
    assert notes(path) == ("its sound peaks at 1.50 of full scale (+3.5 dB); it is clipped",)


@pytest.mark.parametrize("start", [0.0, 0.123456, 1.000011, 3.7654321])
def test_resampled_windows_are_exact_to_the_sample_at_any_start(
    tmp_path: Path, start: float
) -> None:
    rate, spec = 44100, SPEC.model_copy(update={"num_frames": 16})
    time = np.arange(6 * rate) / rate
    path = write_sound(
        tmp_path / "a.mov", 0.5 * np.sin(2 * np.pi * 700 * time)[None], rate=rate,
        codec="pcm_f32le", block=1024,
    )  # fmt: skip
    read = read_audio(path, spec, start).numpy()
    instants = start + np.arange(spec.num_samples) / 16000
    inside = instants > 0.005  # the filter hears the silence before the file
    expected = 0.5 * np.sin(2 * np.pi * 700 * instants)
    # Half a sample at 44.1 kHz is the most that a start is rounded by.
    rounding = 0.5 * 2 * np.pi * 700 * 0.5 / rate
    assert np.abs(read - expected)[inside].max() < rounding + 0.001


def test_eight_channels_in_planes_of_their_own_are_read(tmp_path: Path) -> None:
    """AAC decodes to a plane per channel, and PyAV loses count of more than seven."""
    channels = np.stack([noise(seed, 0.5) for seed in range(8)])
    path = write_sound(tmp_path / "a.m4a", channels, rate=RATE, layout="7.1", codec="aac")
    read = read_audio(path, SPEC).numpy()
    # ITU-R BS.775: left, right, centre, none of the subwoofer, and four around.
    weights = np.array([1, 1, 1.414, 0, 0.707, 0.707, 0.707, 0.707])
    expected = weights / weights.sum() @ channels
    assert np.corrcoef(read, expected[: len(read)])[0, 1] > 0.8
