"""Intervals hold what another draw gives about as often as they say."""

import numpy as np
import pytest
import torch

from mmldm.evaluation.distances import frechet_distance_of
from mmldm.evaluation.intervals import (
    difference_interval,
    jackknife,
    quantile_interval,
    ratio_interval,
    wilson,
)

DRAWS = 60


def test_jackknife_of_a_difference_of_means_is_the_textbook_interval():
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(400, generator=rng), 3 * torch.randn(200, generator=rng) + 1
    half = jackknife(lambda i, j: (a[i].mean() - b[j].mean()).item(), 400, 200, groups=20)
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
        halves.append(jackknife(distance, 60, 60, groups=20))
    held = np.abs(np.array(values) - np.mean(values)) < np.array(halves)
    assert held.mean() >= 0.85
    assert np.median(halves) < 3 * 1.96 * np.std(values)


def test_too_few_clips_have_no_interval():
    assert jackknife(lambda i, j: 0.0, 3, 100, groups=20) is None
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
