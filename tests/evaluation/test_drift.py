"""What drifts is found, and by how much; what does not is not said to."""

import numpy as np
import pytest
import torch

from mmldm.evaluation.clipwise import ClipMedian, ClipRatio
from mmldm.evaluation.drift import (
    WatchedDistance,
    WatchedMedian,
    WatchedRatio,
    by_film,
    drift,
    weighted_medians,
    worsening,
)
from mmldm.evaluation.protocol import find_protocol
from mmldm.evaluation.values import Number

RULES = find_protocol("default")
FILMS, WINDOWS = 40, 10


def heard(own, seen):
    return seen["hit"].item(), 1.0


def level(own, seen):
    return seen["level"].numpy()


RECALL = WatchedRatio(ClipRatio("recall", Number("recall", "recall", "higher"), "m", heard))
LEVEL = WatchedMedian(ClipMedian("level", Number("level", "level", "like real"), "m", level))


def films(fall: float, seed: int = 0):
    """Windows with a hit that is less and less likely, a level that falls, and features that move."""
    rng = np.random.default_rng(seed)
    return [
        [
            {
                "hit": torch.tensor(float(rng.random() < 0.9 - fall * w / WINDOWS)),
                "level": torch.from_numpy(rng.normal(-20 - 10 * fall * w / WINDOWS, 1, 3)),
                "features": torch.from_numpy(rng.normal(fall * w, 1, 4)),
            }
            for w in range(WINDOWS)
        ]
        for _ in range(FILMS)
    ]


def test_a_line_through_all_windows_but_the_first_says_the_drift():
    values = np.array([9.0, 1, 2, 3, 4, 5])
    assert drift(values) == pytest.approx(4)
    values[3] = np.nan
    assert drift(values) == pytest.approx(4)
    assert np.isnan(drift(np.full(6, np.nan)))
    assert drift(np.stack([np.arange(6.0), -np.arange(6.0)])) == pytest.approx([4, -4])


@pytest.mark.parametrize(("watched", "fallen"), [(RECALL, -0.48), (LEVEL, -4.8)])
def test_what_falls_drifts_and_what_stays_does_not(watched, fallen):
    steady, interval = watched.curve(films(0), [], RULES).of(drift)
    assert interval[0] < 0 < interval[1]
    value, interval = watched.curve(films(0.6), [], RULES).of(drift)
    assert interval[0] < fallen < interval[1] < 0 and interval[0] < value < interval[1]
    assert abs(steady) < abs(value)


def test_films_are_drawn_and_not_windows():
    """Twenty windows that are one film's are no more than one."""
    own = films(0)
    alike = [[film[0]] * WINDOWS for film in own]
    curve = RECALL.curve(alike, [], RULES)
    assert np.ptp(curve.values) == 0 and np.ptp(curve.again, axis=1).max() == 0
    value, interval = curve.of(drift)
    assert (value, *interval) == pytest.approx((0, 0, 0), abs=1e-9)
    low, high = curve.of(lambda values: values[..., 3])[1]
    assert high - low > 0.1


def test_distance_from_real_windows_grows_as_features_move():
    number = Number("frechet", "Fréchet", "lower", biased=True)
    watched = WatchedDistance(number, "m", "features")
    real = [own for film in films(0, seed=1) for own in film]
    near, interval = watched.curve(films(0), real, RULES).of(drift)
    assert interval[0] < 0 < interval[1]
    curve = watched.curve(films(0.2), real, RULES)
    far, interval = curve.of(drift)
    assert interval[0] > 0 and far > 5 * abs(near)
    # The means are apart by .2 w in each of four features.
    assert curve.values[-1] == pytest.approx(4 * (0.2 * (WINDOWS - 1)) ** 2, rel=0.3)


def test_a_number_from_window_one_sees_the_first_window_of_its_own_film():
    def same(first, own):
        return float(first["class"] == own["class"]), 1.0

    number = Number("kept", "kept", "higher")
    watched = WatchedRatio(ClipRatio("kept", number, "m", same), from_first=True)
    own = [[{"class": torch.tensor(c)} for c in row] for row in ([0, 0, 1, 1], [1, 1, 1, 1])]
    assert watched.curve(own, [], RULES).values.tolist() == [1, 1, 0.5, 0.5]


@pytest.mark.parametrize(
    ("better", "real", "worse"),
    [
        ("higher", None, 0.2),
        ("lower", None, -0.2),
        ("like real", None, 0.2),
        ("like real", 8, -0.25),
    ],
)
def test_worse_is_what_the_number_calls_so(better, real, worse):
    number = Number("n", "n", better)
    assert worsening(number, real)(np.array([0, 10.0, 0, 8.0])) == pytest.approx(worse)


def test_median_of_drawn_films_is_that_of_their_values():
    rng = np.random.default_rng(3)
    values = [rng.normal(size=n) for n in (5, 1, 0, 8)]
    values[0][2] = np.nan
    draws = np.array([[1, 1, 1, 1], [0, 3, 0, 0], [2, 0, 1, 1], [0, 0, 4, 0]])
    value, again = weighted_medians(values, draws)
    pooled = np.concatenate(values)
    assert value == np.nanmedian(pooled)
    assert again[1] == values[1][0] and np.isnan(again[3])
    twice = np.sort(np.concatenate([values[0], values[0], values[3]]))[:16]
    assert again[2] == twice[7]


def test_windows_go_back_to_their_films():
    rows = [{"n": torch.tensor(i)} for i in range(6)]
    assert [[own["n"].item() for own in film] for film in by_film(rows, 3)] == [
        [0, 1, 2],
        [3, 4, 5],
    ]
