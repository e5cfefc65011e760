"""Where windows lie: every wanted tick once, as much context as there is, and nothing beyond the clip."""

import itertools

import pytest

from mmldm.errors import UserError
from mmldm.pipelines.windows import TimeGrid, window_starts, windows_with_cuts
from mmldm.types import AV, ClipSpec, SpectrogramSpec

from .conftest import SPEC

SIZE, OVERLAP = 16, 4


def windows(first: int, last: int, length: int, size: int = SIZE, overlap: int = OVERLAP):
    starts = list(window_starts(range(first, last), length, size, overlap))
    return starts, list(windows_with_cuts(iter(starts), range(first, last), False, size))


def halves(made) -> list[int]:
    """Half ticks of the clip that windows keep."""
    return [2 * window.start + half for window in made for half in window.kept(2)]


@pytest.mark.parametrize(
    ("first", "last", "length"),
    [(0, n, n) for n in (1, 15, 16, 17, 27, 28, 29, 320)]
    + [(n, n + m, n + m) for n, m in ((3, 5), (16, 10), (40, 12), (40, 13), (5, 100))]
    + [(a, b, 60) for a, b in ((0, 5), (12, 20), (30, 60), (20, 50), (58, 60), (1, 59))],
)
def test_windows_hold_every_wanted_tick_once_and_stay_in_the_clip(first, last, length):
    starts, made = windows(first, last, length)
    assert starts == sorted(set(starts))
    assert min(starts) >= 0
    assert max(starts) + SIZE <= max(length, SIZE)
    assert halves(made) == list(range(2 * first, 2 * last))
    for window in made:
        assert window.begin == window.end or window.start <= window.begin
        assert window.end <= window.start + SIZE


def test_what_a_window_shares_with_the_next_is_cut_in_its_middle():
    _, made = windows(0, 40, 40)
    assert [window.start for window in made] == [0, 12, 24]
    assert [(w.begin, w.end) for w in made] == [(0, 14), (14, 26), (26, 40)]


def test_half_a_tick_is_kept_where_windows_share_an_odd_number():
    """The Freedoom model's grid: a window is four ticks of 7 frames and 64 columns, and shares one."""
    starts, made = windows(0, 10, 10, size=4, overlap=1)
    assert starts == [0, 3, 6]
    assert [float(w.end) for w in made] == [3.5, 6.5, 10]
    assert halves(made) == list(range(20))
    # The tick that both know is cut where each has seen most of it, to the frame and to the column.
    assert [made[0].kept(7), made[1].kept(7)] == [range(24), range(3, 24)]
    assert [made[0].kept(64), made[1].kept(64)] == [range(224), range(32, 224)]
    frames = [7 * window.start + frame for window in made for frame in window.kept(7)]
    assert frames == list(range(70))


def test_the_last_window_ends_with_the_clip_and_sees_more():
    starts, _ = windows(0, 33, 33)
    assert starts == [0, 12, 17]


def test_a_short_gap_lies_in_the_middle_of_one_window():
    starts, made = windows(30, 38, 60)
    assert starts == [26]
    assert made[0].kept(1) == range(4, 12)


def test_a_longer_gap_sees_what_is_known_on_both_sides():
    starts, _ = windows(20, 45, 60)
    assert starts[0] == 20 - OVERLAP
    assert starts[-1] + SIZE == 45 + OVERLAP


def test_windows_without_an_end_go_on():
    starts = window_starts(range(9, 10), None, SIZE, OVERLAP)
    made = windows_with_cuts(starts, range(9, 10), True, SIZE)
    first = list(itertools.islice(made, 50))
    assert [w.start for w in first[:3]] == [5, 17, 29]
    kept = halves(first)
    assert kept == list(range(18, 18 + len(kept)))


def test_a_tick_is_the_shortest_time_in_which_all_is_whole():
    grid = TimeGrid.of(SPEC, AV(8, 8))
    assert (grid.ticks, grid.slots, grid.frames, grid.columns, grid.samples) == (
        8,
        (1, 1),
        1,
        4,
        800,
    )
    coarse = TimeGrid.of(SPEC, AV(16, 4))
    assert (coarse.ticks, coarse.slots, coarse.frames, coarse.columns) == (4, (4, 1), 2, 8)
    assert coarse.seconds == pytest.approx(0.2)


def test_a_model_whose_grids_do_not_meet_makes_windows_alone():
    paper = TimeGrid.of(SPEC, AV(1, 1))
    odd = SPEC.model_copy(
        update={"spectrogram": SpectrogramSpec(n_fft=256, hop_length=192, num_mels=32, f_max=4000)}
    )
    filled_up = ClipSpec(
        num_frames=8,
        sample_rate=8000,
        spectrogram=SpectrogramSpec(n_fft=320, hop_length=320, num_mels=32, f_max=4000),
        native_audio=True,
    )
    assert filled_up.audio_size[1] > filled_up.num_columns
    for grid in (paper, TimeGrid.of(odd, AV(8, 8)), TimeGrid.of(filled_up, AV(8, 8))):
        assert grid.ticks == 1
        grid.check_length(1)
        with pytest.raises(UserError, match="no longer ones"):
            grid.check_length(2)
