"""Precision, recall, density and coverage are their papers' sums, and see what each is for."""

import numpy as np
import pytest
import torch

from mmldm.evaluation.manifolds import density_coverage, precision_recall


def normal(count, seed, scale=1.0, shift=0.0):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)) * scale + shift


def radius(points, index, k):
    return sorted(np.linalg.norm(points[index] - other) for other in points)[k]


def test_all_four_are_the_papers_sums_over_pairs():
    a, b = normal(30, 0).double().numpy(), normal(20, 1, shift=0.5).double().numpy()

    def reached(points, centres, k):
        return np.array(
            [
                [np.linalg.norm(p - c) <= radius(centres, j, k) for j, c in enumerate(centres)]
                for p in points
            ]
        )

    sets = torch.from_numpy(a), torch.from_numpy(b)
    found = precision_recall(*sets)
    assert found.precision == pytest.approx(reached(a, b, 3).any(1).mean())
    assert found.recall == pytest.approx(reached(b, a, 3).any(1).mean())
    counted = reached(a, b, 5)
    assert density_coverage(*sets) == pytest.approx(
        (counted.sum() / (5 * 30), counted.any(0).mean())
    )


def test_set_reaches_all_of_itself():
    a = normal(50, 0)
    assert precision_recall(a, a) == (1, 1)
    assert density_coverage(a, a).coverage == 1


def test_collapse_lowers_recall_and_coverage_and_noise_lowers_precision_and_density():
    real, other = normal(400, 0), normal(400, 1)
    same, spread = precision_recall(other, real), density_coverage(other, real)
    assert min(same) > 0.75 and spread.density == pytest.approx(1, abs=0.15)
    collapsed = normal(400, 2, scale=0.1)
    assert precision_recall(collapsed, real).precision > 0.95
    assert precision_recall(collapsed, real).recall < 0.1
    assert density_coverage(collapsed, real).coverage < spread.coverage / 2
    noisy = normal(400, 3, scale=3.0)
    assert precision_recall(noisy, real).precision < same.precision / 2
    assert density_coverage(noisy, real).density < spread.density / 2


def test_one_stray_real_feature_raises_precision_and_not_density():
    real, stray, far = normal(100, 0), torch.full((1, 4), 60.0), normal(50, 1, shift=40.0)
    with_stray = torch.cat([real, stray])
    assert precision_recall(far, with_stray).precision > 0.9
    assert density_coverage(far, with_stray).density < 0.25


def test_too_few_features_are_refused():
    with pytest.raises(ValueError, match="3 features have no 3 neighbours"):
        precision_recall(normal(10, 0), normal(3, 0))
