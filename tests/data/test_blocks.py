"""Which windows a cache holds: a function of path, seed and recipe, spread over every clip."""

import numpy as np
import pytest

from mmldm.data.blocks import BLOCK_WINDOWS, fixed_starts, pieces, plan, random_starts
from mmldm.data.manifest import Entry
from mmldm.types import ClipSpec, SpectrogramSpec

SPEC = ClipSpec()
LARGE = ClipSpec(
    height=256, width=256, sample_rate=44100, spectrogram=SpectrogramSpec(f_max=16000.0)
)


def entry(duration: float, fps: float | None = 25.0, path: str = "a.mp4") -> Entry:
    return Entry(path=path, status="used", duration=duration, fps=fps, size=1, mtime_ns=1)


def test_random_windows_begin_at_frames_one_in_each_part_of_the_clip() -> None:
    starts = np.array(random_starts(entry(10.0), SPEC, 7, seed=0))
    numbers = starts * 25
    assert np.allclose(numbers, numbers.round())
    frames = 211  # from 0 to 8.4 s, both included
    edges = np.arange(8) * frames // 7
    assert ((edges[:-1] <= numbers.round()) & (numbers.round() < edges[1:])).all()


def test_random_windows_reach_both_ends_and_every_phase() -> None:
    found = [random_starts(entry(10.0, path=f"{i}.mp4"), SPEC, 4, 0) for i in range(200)]
    starts = np.array(found)
    assert starts.min() < 0.1 and starts.max() > 8.3
    assert set((starts * 25).round().astype(int).ravel() % 5) == set(range(5))


def test_windows_depend_on_path_and_seed_alone() -> None:
    first = random_starts(entry(10.0), SPEC, 4, seed=3)
    assert first == random_starts(entry(10.0), SPEC, 4, seed=3)
    assert first != random_starts(entry(10.0), SPEC, 4, seed=4)
    assert first != random_starts(entry(10.0, path="b.mp4"), SPEC, 4, seed=3)


@pytest.mark.parametrize(("duration", "windows"), [(1.6, 1), (1.59, 1), (1.64, 2), (1.76, 5)])
def test_clip_with_few_frames_to_begin_at_gives_each_of_them_once(
    duration: float, windows: int
) -> None:
    expected = pytest.approx([i / 25 for i in range(windows)])
    assert random_starts(entry(duration), SPEC, 85, seed=0) == expected
    assert len(fixed_starts(entry(duration), SPEC, 85)) == windows


def test_short_clip_of_many_frames_a_second_has_a_window() -> None:
    assert random_starts(entry(1.58, fps=120.0), SPEC, 3, seed=0) == [0.0]


def test_sound_without_pictures_has_windows_on_the_clips_own_grid() -> None:
    starts = np.array(random_starts(entry(3.2, fps=None), SPEC, 4, seed=0))
    assert len(starts) == 4
    assert np.allclose(starts * 10, (starts * 10).round())


def test_fixed_windows_are_the_middle_or_evenly_spread() -> None:
    assert fixed_starts(entry(10.0), SPEC, 1) == pytest.approx([4.2])
    assert fixed_starts(entry(10.0), SPEC, 3) == pytest.approx([0.0, 4.2, 8.4])


def test_blocks_have_whole_files_of_at_most_so_many_windows() -> None:
    entries = [entry(10.0, path=f"{i:02d}.mp4") for i in range(13)]
    blocks = plan(entries, lambda entry: random_starts(entry, SPEC, 85, 0))
    assert [len(block) for block in blocks] == [6, 6, 1]
    assert [source.name for block in blocks for source in block] == [r.path for r in entries]
    assert max(sum(len(s.starts) for s in block) for block in blocks) == 510


def test_file_of_more_windows_than_a_block_fills_several_and_loses_none() -> None:
    entries = [entry(10.0, path="a.mp4"), entry(100.0, path="film.mp4"), entry(10.0, path="b.mp4")]
    starts = {r.path: random_starts(r, SPEC, 85 if r.duration == 10 else 1200, 0) for r in entries}
    blocks = plan(entries, lambda entry: starts[entry.path])
    assert [s.name for block in blocks for s in block] == [
        "a.mp4", "film.mp4, windows 0 to 511", "film.mp4, windows 512 to 1023",
        "film.mp4, windows 1024 to 1199", "b.mp4",
    ]  # fmt: skip
    film = [t for block in blocks for s in block if s.entry.path == "film.mp4" for t in s.starts]
    assert film == starts["film.mp4"]
    assert all(sum(len(s.starts) for s in block) <= BLOCK_WINDOWS for block in blocks)


def test_long_film_is_read_in_pieces_of_bounded_size() -> None:
    film = entry(600.0)
    (source,), *_ = plan([film], lambda entry: random_starts(entry, LARGE, 512, 0))
    cut = pieces(source, LARGE)
    assert tuple(start for piece in cut for start in piece) == source.starts
    assert len(cut) > 10
    for piece in cut:
        frames = (piece[-1] + LARGE.duration - piece[0]) * 25
        assert min(frames, len(piece) * LARGE.num_frames) <= 512


def test_clip_of_ten_seconds_is_read_at_once_and_far_windows_each_for_itself() -> None:
    ((source,),) = plan([entry(10.0)], lambda entry: random_starts(entry, LARGE, 85, 0))
    assert len(pieces(source, LARGE)) == 1
    ((source,),) = plan([entry(7200.0)], lambda entry: fixed_starts(entry, SPEC, 4))
    assert [len(piece) for piece in pieces(source, SPEC)] == [1, 1, 1, 1]
