"""Sound lies where its file says, whole: jitter does not tear it, gaps stay gaps."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from mmldm.media import reader
from mmldm.media.probe import probe
from mmldm.media.reader import read_audio
from mmldm.media.sound import Sound, SoundTrack, gap_notes, levels
from mmldm.types import ClipSpec

from ..sound_files import write_sound

# Blocks of 32 ms, which the 1 ms clock of Matroska holds exactly, and no resampling.
RATE, BLOCK, COUNT = 32000, 1024, 250
SPEC = ClipSpec(num_frames=80, fps=10.0, height=16, width=16, sample_rate=RATE)
PERIOD = BLOCK / RATE


def noise(seed: int = 0) -> np.ndarray:
    """Samples (COUNT * BLOCK,) that 16 bits hold exactly, none of them zero."""
    values = np.random.default_rng(seed).integers(1, 16000, COUNT * BLOCK)
    return (values / 32768).astype(np.float32)


def regular() -> np.ndarray:
    return np.arange(COUNT) * PERIOD


def written(path: Path, samples: np.ndarray, times: np.ndarray) -> Path:
    return write_sound(
        path, samples[np.newaxis], rate=RATE, codec="pcm_s16le", block=BLOCK, times=times
    )


def jittered(times: np.ndarray, seed: int = 1) -> np.ndarray:
    """As of ripped web videos: a third of the packets are 10 or 20 ms early or late."""
    random = np.random.default_rng(seed)
    off = random.choice([-0.02, -0.01, 0.01, 0.02], len(times)) * (
        random.random(len(times)) < 1 / 3
    )
    off[0] = 0
    return np.maximum.accumulate(np.round(times + off, 3))


def test_times_that_jitter_do_not_tear_the_sound(tmp_path: Path) -> None:
    samples = noise()
    path = written(tmp_path / "a.mkv", samples, jittered(regular()))
    assert np.array_equal(read_audio(path, SPEC).numpy(), samples)


@pytest.mark.parametrize("gap", [0.034, 0.3, 1.0])
@pytest.mark.parametrize("jitter", [False, True])
def test_a_real_gap_stays_where_it_is(tmp_path: Path, gap: float, jitter: bool) -> None:
    samples, times = noise(), regular()
    times[100:] += gap
    if jitter:
        # Next to a gap of 34 ms, a block 20 ms off could be of either side.
        times = np.concatenate([jittered(times[:98]), times[98:102], jittered(times[102:])])
    path = written(tmp_path / "a.mkv", samples, times)
    read, edge, hole = read_audio(path, SPEC).numpy(), 100 * BLOCK, round(gap * RATE)
    assert np.array_equal(read[:edge], samples[:edge])
    assert np.all(read[edge : edge + hole] == 0)
    rest = SPEC.num_samples - edge - hole
    assert np.array_equal(read[edge + hole :], samples[edge : edge + rest])


def test_a_gap_after_the_first_block_and_one_before_the_last_ones(tmp_path: Path) -> None:
    samples, times = noise(), regular()
    times[1:] += 0.155
    times[-5:] += 0.2
    path = written(tmp_path / "a.mkv", samples, times)
    read = read_audio(path, SPEC.model_copy(update={"num_frames": 90})).numpy()
    late, last = round(0.155 * RATE), (COUNT - 5) * BLOCK
    assert np.array_equal(read[:BLOCK], samples[:BLOCK])
    assert np.array_equal(read[BLOCK + late : last + late], samples[BLOCK:last])
    begin = last + round(0.355 * RATE)
    assert np.all(read[last + late : begin] == 0)
    assert np.array_equal(read[begin : begin + 5 * BLOCK], samples[last:])


def test_a_clock_that_drifts_does_not_tear_the_sound(tmp_path: Path) -> None:
    samples = noise()
    path = written(tmp_path / "a.mkv", samples, np.round(regular() * 1.001, 3))
    read = read_audio(path, SPEC).numpy()
    # 8 ms in all: the sound lies in the middle of them.
    shift = round(0.004 * RATE)
    found = [s for s in range(shift - 40, shift + 40) if np.array_equal(read[s:], samples[:-s])]
    assert len(found) == 1


@pytest.mark.parametrize("start", [3.1, 4.0173, 5.5])
def test_a_sought_window_holds_the_same_samples(
    tmp_path: Path, start: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = regular()
    times[60:] += 0.034
    times[170:] += 0.3
    path = written(tmp_path / "a.mkv", noise(), jittered(times, seed=3))
    spec = SPEC.model_copy(update={"num_frames": 16})
    sought = read_audio(path, spec, start).numpy()
    monkeypatch.setattr(reader, "SEEK_FROM", 1e9)
    assert np.array_equal(sought, read_audio(path, spec, start).numpy())


def test_times_that_go_back_for_good_overlap(tmp_path: Path) -> None:
    times = regular()
    times[100:] -= 0.2
    lengths = np.full(COUNT, BLOCK)
    offsets = levels(times, lengths, RATE)
    assert np.allclose(offsets, np.where(np.arange(COUNT) < 100, 0, -0.2))
    assert gap_notes(times, lengths, RATE) == ("its sound has 1 overlap, 0.200 s in all",)


def test_one_wrong_time_is_not_followed() -> None:
    for off in (0.4, -0.4, 5.0):
        times = regular()
        times[100] += off
        assert np.allclose(levels(times, np.full(COUNT, BLOCK), RATE), 0)


def test_blocks_are_weighed_by_their_length() -> None:
    """A run of 32 tiny blocks, all 20 ms early, is 93 ms of sound and no reason to move it."""
    lengths = np.array([1024] * 100 + [128] * 32 + [1024] * 100)
    times = (np.cumsum(lengths) - lengths) / 44100
    times[100:132] -= 0.0203
    assert np.allclose(levels(times, lengths, 44100), 0)


def test_lost_blocks_one_after_another_are_gaps() -> None:
    kept = np.delete(np.arange(COUNT), [40, 50, 60, 61, 130])
    expected = kept * PERIOD - np.arange(len(kept)) * PERIOD
    found = levels(kept * PERIOD, np.full(len(kept), BLOCK), RATE)
    assert np.abs(found - expected).max() < 1e-9


def test_the_scan_says_what_it_found(tmp_path: Path) -> None:
    times = regular()
    times[100:] += 0.034
    times[150:] += 0.3
    path = written(tmp_path / "a.mkv", noise(), times)
    assert probe(path, allow_missing=True).notes == (
        "its sound has 2 gaps, 0.334 s in all",
        "no picture",
    )
    path = written(tmp_path / "b.mkv", noise(), jittered(regular()))
    (note, _) = probe(path, allow_missing=True).notes
    assert note.startswith("the times of its sound jitter by")


def plainly_decoded(path: Path) -> tuple[np.ndarray, int]:
    """All blocks of the first track end to end, mixed to mono, as `ffmpeg -i path -ac 1` has them."""
    with av.open(str(path)) as file:
        frames = list(file.decode(audio=0))
    blocks = [frame.to_ndarray() for frame in frames]
    assert all(block.dtype == np.float32 for block in blocks)
    mono = np.float32(1 / len(blocks[0])) * np.concatenate(blocks, axis=1).sum(axis=0)
    return mono.clip(-1, 1), frames[0].sample_rate


def lag_between(read: np.ndarray, other: np.ndarray) -> int:
    """Samples by which the first is later than the second."""
    size = 1 << (len(read) + len(other)).bit_length()
    product = np.fft.rfft(read, size) * np.conj(np.fft.rfft(other, size))
    lag = int(np.argmax(np.fft.irfft(product, size)))
    return lag if lag < size / 2 else lag - size


@pytest.mark.parametrize(
    "name",
    [
        "vas_fireworks_red.mp4",  # 131 of 432 packets are timed 10 or 20 ms early
        "bbb_30s_vp8.webm",
        "mdn_crystal.webm",  # packets carry the times of their ends
        "chaplin.mp4",
    ],
)
def test_web_video_is_whole(shared: Path, name: str) -> None:
    """Every sample is that of a plain decode, in its order, a constant time later."""
    plain, rate = plainly_decoded(shared / "clips" / name)
    spec = ClipSpec(num_frames=90, fps=10.0, height=16, width=16, sample_rate=rate)
    read = read_audio(shared / "clips" / name, spec).numpy()
    lag = lag_between(read, plain)
    assert abs(lag) < 0.03 * rate
    read, plain = read[max(0, lag) :], plain[max(0, -lag) :]
    assert np.abs(read - plain[: len(read)]).max() < 1e-6


def test_vorbis_timed_by_its_ends_is_heard_with_its_twin(shared: Path) -> None:
    """The same film as WebM and as MP4: their sound agrees within a millisecond."""
    spec = ClipSpec(num_frames=60, fps=10.0, height=16, width=16, sample_rate=44100)
    webm = read_audio(shared / "clips/mdn_rabbit320.webm", spec, 1.0).numpy()
    mp4 = read_audio(shared / "clips/mdn_rabbit320.mp4", spec, 1.0).numpy()
    assert abs(lag_between(webm, mp4)) <= 44


@pytest.mark.parametrize("codec", ["aac", "libopus"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_gap_of_a_coded_track_is_exact_and_its_run_in_is_not_heard(
    tmp_path: Path, codec: str, suffix: str
) -> None:
    """A phone's gap: packets 60 on are 34 ms late. Encoder delay lies before zero, and is cut off."""
    rate, block = 48000, {"aac": 1024, "libopus": 960}[codec]
    delay = {"aac": 1024, "libopus": 312}[codec]
    samples = np.convolve(np.random.default_rng(0).normal(0, 0.2, 5 * rate), np.ones(8) / 8, "same")
    times = (np.arange(300) * block - delay) / rate
    times[60:] += 0.034
    path = write_sound(
        tmp_path / f"a{suffix}", samples[None], rate=rate, codec=codec, block=block, times=times
    )
    plain, _ = plainly_decoded(path)
    assert abs(lag_between(plain, samples)) <= 2
    spec = ClipSpec(num_frames=30, fps=10.0, height=16, width=16, sample_rate=rate)
    read = read_audio(path, spec).numpy()
    edge, hole = 60 * block - delay, round(0.034 * rate)
    lag = lag_between(read[:edge], plain[:edge])
    # The clock of Matroska ticks in milliseconds.
    assert abs(lag) <= (round(0.001 * rate) if suffix == ".mkv" else 0)
    assert (
        np.abs(read[max(lag, 0) :][:edge] - plain[max(-lag, 0) :][:edge])[: edge - 50].max() < 1e-6
    )
    gap = np.flatnonzero(read[edge - 50 : edge + hole + 50] == 0)
    assert abs(len(gap) - hole) <= (50 if suffix == ".mkv" else 0)
    after = edge + lag + len(gap)
    assert np.abs(read[after:] - plain[edge:][: len(read) - after]).max() < 1e-6


@pytest.mark.parametrize("off", [5.0, -5.0])
def test_a_wrong_time_neither_ends_a_window_nor_holds_it_up(off: float) -> None:
    samples, times = noise(), regular()
    times[50] += off
    spec = SPEC.model_copy(update={"num_frames": 32})
    track = SoundTrack(Path("a.mp4"), 0.0, spec)
    taken = 0
    for time, block in zip(times, np.split(samples, COUNT), strict=True):
        track.add(Sound(time, RATE, block, block[np.newaxis]))
        taken += not track.complete
    assert np.array_equal(track.waveform(), samples[: spec.num_samples])
    assert taken < 105  # 100 blocks fill the window
