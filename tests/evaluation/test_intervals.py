"""Intervals hold what another draw gives about as often as they say."""

import numpy as np
import pytest
import torch

from mmldm.evaluation.distances import frechet_distance_of
from mmldm.evaluation.intervals import (
    deal,
    difference_interval,
    effective_count,
    jackknife,
    pooled_median_interval,
    quantile_interval,
    ratio_interval,
    share_interval,
    student,
    wilson,
)

DRAWS = 60


def test_jackknife_of_a_difference_of_means_is_the_textbook_interval():
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(400, generator=rng), 3 * torch.randn(200, generator=rng) + 1
    half = jackknife(
        lambda i, j: (a[i].mean() - b[j].mean()).item(), np.arange(400), np.arange(200), 20
    )
    error = (a.var() / 400 + b.var() / 200).sqrt().item()
    assert half == pytest.approx(2.09 * error, rel=0.3)


def test_jackknife_of_a_frechet_distance_holds_its_mean_over_draws():
    """At N = 60 the estimate is biased; the interval is about what other clips as many would give."""
    rng = torch.Generator().manual_seed(1)
    values, halves = [], []
    for _ in range(DRAWS):
        a, b = (torch.randn(60, 4, generator=rng) * scale for scale in (1.0, 1.5))

        def distance(i, j, a=a, b=b):
            return frechet_distance_of(a[i], b[j])

        values.append(frechet_distance_of(a, b))
        halves.append(jackknife(distance, np.arange(60), np.arange(60), 20))
    held = np.abs(np.array(values) - np.mean(values)) < np.array(halves)
    assert held.mean() >= 0.85
    assert np.median(halves) < 3 * 1.96 * np.std(values)


def test_too_few_clips_have_no_interval():
    assert jackknife(lambda i, j: 0.0, np.arange(3), np.arange(100), 20) is None
    # Six windows each of three files are no more than three.
    units = np.repeat(np.arange(3), 6)
    assert jackknife(lambda i, j: 0.0, units, units, 20) is None
    assert ratio_interval(np.array([[1.0, 1.0], [0.0, 0.0]]), 100) is None


def test_bootstrap_of_a_ratio_weighs_clips_by_what_they_hold():
    counts = np.array([[1, 1], [0, 9]] * 50, dtype=float)
    low, high = ratio_interval(counts, 1000)
    assert low < 0.1 < high and high < 0.2
    assert ratio_interval(np.concatenate([counts, np.zeros((30, 2))]), 1000) == (low, high)


def test_quantile_interval_holds_the_quantile():
    values = np.random.default_rng(0).random(500)
    low, high = quantile_interval(values, 0.05, 1000)
    assert low < 0.05 < high < 0.1


def test_share_of_none_has_an_interval_that_is_not_empty():
    low, high = wilson(0.0, 60)
    assert low == 0 and high == pytest.approx(0.06, abs=0.005)


def test_difference_is_as_wide_as_both_together():
    low, high = difference_interval(5, (4, 7), 2, (1, 3))
    assert (low, high) == pytest.approx((3 - 2**0.5, 3 + 5**0.5))


def test_students_quantiles_are_the_known_ones():
    """Of scipy.stats.t.ppf(.975, freedom), version 1.16."""
    known = {1: 12.706205, 4: 2.776445, 5: 2.570582, 7: 2.364624, 19: 2.093024, 100: 1.983972}
    for freedom, quantile in known.items():
        assert student(freedom) == pytest.approx(quantile, rel=5e-4)


def test_groups_hold_whole_units_and_are_about_equally_large():
    units = np.repeat(np.arange(40), np.arange(40) % 7 + 1)
    groups = deal(units, 8)
    assert all(len(set(groups[units == unit])) == 1 for unit in range(40))
    sizes = np.bincount(groups)
    assert len(sizes) == 8 and sizes.max() - sizes.min() <= 2
    assert (deal(units, 8, seed=1) != groups).any() and (deal(units, 8) == groups).all()


def test_clips_of_one_recording_that_are_all_alike_count_as_one():
    rng = np.random.default_rng(0)
    own = rng.integers(2, size=30).astype(float)
    units = np.repeat(np.arange(30), 5)
    alike = np.repeat(own, 5)
    assert effective_count(alike, units) == pytest.approx(30, rel=0.15)
    assert share_interval(alike, units) == pytest.approx(share_interval(own), abs=0.03)
    counts = np.stack([alike, np.ones_like(alike)], 1)
    wanted = ratio_interval(counts[::5], 1000)
    assert ratio_interval(counts, 1000, units=units) == pytest.approx(wanted)
    values = np.repeat(rng.random(30), 5)
    assert quantile_interval(values, 0.5, 500, units=units) == quantile_interval(
        values[::5], 0.5, 500
    )
    assert pooled_median_interval(values[:, None], 500, units=units) == quantile_interval(
        values[::5], 0.5, 500
    )


def test_clips_of_many_recordings_count_as_what_their_variance_is_worth():
    rng = np.random.default_rng(1)
    hits = (rng.random(600) < 0.3).astype(float)
    units = np.repeat(np.arange(100), 6)
    assert 400 < effective_count(hits, units) <= 600
    # A share of 0 tells nothing of what hangs together: then a recording is worth a clip.
    assert effective_count(np.zeros(600), units) == pytest.approx(100, rel=0.1)
    assert effective_count(hits) == 600
