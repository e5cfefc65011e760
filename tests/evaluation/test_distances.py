"""Distances agree with direct computations and know their floor; shares are their papers' sums."""

import numpy as np
import pytest
import torch

from mmldm.evaluation.distances import (
    FeatureMoments,
    compare,
    expected_coverage,
    frechet_caveat,
    frechet_distance,
    frechet_distance_of,
    regions,
)
from mmldm.evaluation.kernels import (
    KernelSums,
    gaussian,
    kernel_audio_distance,
    kernel_distance,
    median_distance,
    polynomial,
)


def drawn(count, dim, seed, shift=0.0, condition=1.0):
    """Features with a random covariance whose eigenvalues span `condition`."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    scales = np.geomspace(1.0, condition**-0.5, dim)
    return torch.from_numpy(rng.normal(size=(count, dim)) * scales @ basis + shift)


def frechet(a, b):
    return frechet_distance(FeatureMoments.of(a), FeatureMoments.of(b))


def by_singular_values(a, b):
    """From the features themselves: the cross term is the nuclear norm of centred a bᵀ."""
    a, b = a.numpy(), b.numpy()
    centred_a, centred_b = a - a.mean(0), b - b.mean(0)
    cross = np.linalg.svd(centred_a @ centred_b.T, compute_uv=False).sum()
    spread = np.square(centred_a).sum() / (len(a) - 1) + np.square(centred_b).sum() / (len(b) - 1)
    gap = np.square(a.mean(0) - b.mean(0)).sum()
    return gap + spread - 2 * cross / np.sqrt((len(a) - 1) * (len(b) - 1))


@pytest.mark.parametrize("batch", [1, 7, 300])
def test_moments_of_batches_are_those_of_the_whole(batch):
    features = drawn(300, 8, seed=0, shift=1e4)
    moments = FeatureMoments(8)
    for part in features.split(batch):
        moments.update(part)
    assert moments.count == 300
    np.testing.assert_allclose(moments.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(features.numpy().T), atol=1e-9)


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e10])
def test_frechet_distance_is_that_of_the_matrix_square_root(condition):
    linalg = pytest.importorskip("scipy.linalg")
    a = drawn(400, 24, 1, condition=condition)
    b = drawn(300, 24, 2, shift=0.3, condition=condition)
    covariances = np.cov(a.numpy().T), np.cov(b.numpy().T)
    cross = np.trace(linalg.sqrtm(covariances[0] @ covariances[1])).real
    gap = (a.mean(0) - b.mean(0)).square().sum().item()
    wanted = gap + sum(np.trace(covariance) for covariance in covariances) - 2 * cross
    assert frechet(a, b) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("counts", [(400, 300), (12, 300), (12, 9), (2, 2)])
@pytest.mark.parametrize("condition", [1.0, 1e6, 1e14])
def test_frechet_distance_is_right_for_singular_covariances_too(counts, condition):
    a = drawn(counts[0], 40, 3, condition=condition)
    b = drawn(counts[1], 40, 4, shift=0.1, condition=condition)
    assert frechet(a, b) == pytest.approx(by_singular_values(a, b), rel=1e-6)


def test_frechet_distance_of_known_gaussians():
    rng = np.random.default_rng(0)
    white = rng.normal(size=(500, 3))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white.T))).T
    a = torch.from_numpy(white * [1.0, 2.0, 3.0])
    b = torch.from_numpy(white * [2.0, 2.0, 1.0] + [0.0, 5.0, 0.0])
    assert frechet(a, b) == pytest.approx(25 + 1 + 0 + 4, rel=1e-9)


def test_frechet_distance_of_a_set_to_itself_is_zero_and_order_does_not_matter():
    a, b = drawn(200, 16, 5), drawn(150, 16, 6, shift=0.5)
    assert frechet(a, a) == pytest.approx(0, abs=1e-10)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-10)


def test_one_feature_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2"):
        frechet(drawn(1, 4, 0), drawn(10, 4, 0))


def test_kernel_distance_is_the_mean_over_different_pairs():
    a, b = drawn(9, 5, 7), drawn(7, 5, 8, shift=0.5)

    def kernel(x, y):
        return (float(x @ y) / 5 + 1) ** 3

    within_a = np.mean([kernel(a[i], a[j]) for i in range(9) for j in range(9) if i != j])
    within_b = np.mean([kernel(b[i], b[j]) for i in range(7) for j in range(7) if i != j])
    across = np.mean([kernel(x, y) for x in a for y in b])
    wanted = within_a + within_b - 2 * across
    for chunk in (2, 1024):
        assert kernel_distance(a, b, chunk) == pytest.approx(wanted, rel=1e-9)
    assert kernel_distance(b, a) == pytest.approx(wanted, rel=1e-9)


def test_kernel_distance_of_one_law_is_zero_in_the_mean():
    rng = torch.Generator().manual_seed(0)
    values = [
        kernel_distance(*torch.randn(2, 40, 6, generator=rng).double().unbind()) for _ in range(200)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    apart = kernel_distance(
        torch.randn(40, 6, generator=rng), torch.randn(40, 6, generator=rng) + 1
    )
    assert apart > 4 * np.std(values)


@pytest.mark.parametrize("counts", [(80, 60), (12, 60), (12, 9), (2, 2)])
@pytest.mark.parametrize("condition", [1.0, 1e10])
def test_kernel_distances_are_those_of_whole_kernel_matrices(counts, condition):
    """Written as scikit-learn's polynomial_kernel and rbf_kernel define theirs, with n < d too."""
    a = drawn(counts[0], 40, 3, condition=condition).numpy()
    b = drawn(counts[1], 40, 4, shift=0.1, condition=condition).numpy()
    n, m = counts
    middle = median_distance(torch.from_numpy(b))

    def polynomial(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    def gaussian(x, y):
        return np.exp(-np.square(x[:, None] - y[None]).sum(-1) / (2 * middle**2))

    def unbiased(kernel):
        within = [
            (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(a, a), kernel(b, b))
        ]
        return sum(within) - 2 * kernel(a, b).mean()

    sets = torch.from_numpy(a), torch.from_numpy(b)
    assert kernel_distance(*sets) == pytest.approx(unbiased(polynomial), rel=1e-6)
    for chunk in (5, 1024):
        found = kernel_audio_distance(*sets, chunk=chunk)
        assert found == pytest.approx(100 * unbiased(gaussian), rel=1e-6)
    swapped = kernel_audio_distance(sets[1], sets[0], bandwidth=middle)
    assert swapped == pytest.approx(100 * unbiased(gaussian), rel=1e-6)


def test_bandwidth_is_the_median_of_the_references_distances_whatever_their_scale_and_place():
    b = drawn(200, 8, 1)
    gaps = np.linalg.norm(b[:, None] - b[None], axis=-1)[np.triu_indices(200, 1)]
    assert median_distance(b) == pytest.approx(np.sort(gaps)[(len(gaps) - 1) // 2], rel=1e-12)
    a = drawn(100, 8, 2, shift=0.2)
    found = kernel_audio_distance(a, b)
    assert kernel_audio_distance(1e3 * a + 1e6, 1e3 * b + 1e6) == pytest.approx(found, rel=1e-6)
    with pytest.raises(ValueError, match="median distance is 0"):
        kernel_audio_distance(a, torch.zeros(10, 8))


@pytest.mark.parametrize("kernel", [polynomial, gaussian])
def test_pairs_of_one_recording_are_left_out_and_so_is_any_group(kernel):
    """Against sums over whole kernel matrices, pair by pair."""
    rng = np.random.default_rng(5)
    a, b = (torch.from_numpy(rng.standard_normal((n, 4))) for n in (23, 17))
    sets = kernel(a, b)
    units = [np.sort(rng.integers(7, size=23)), np.sort(rng.integers(6, size=17))]
    groups = [of % 4 for of in units]

    def matrix(x, y):
        return sets.kernel(x @ y.T, x.square().sum(1, keepdim=True), y.square().sum(1)).numpy()

    def by_hand(kept, others, together):
        within = []
        for x, of, chosen in ((sets.own, units[0], kept), (sets.real, units[1], others)):
            values, of = matrix(x[chosen], x[chosen]), of[chosen]
            counts = ~np.eye(len(of), dtype=bool) if together else of[:, None] != of
            within.append(values[counts].mean())
        across = matrix(sets.own[kept], sets.real[others]).mean()
        return sets.scale * (sum(within) - 2 * across)

    sums = KernelSums.of(sets, tuple(units), tuple(groups), chunk=5)
    every = np.arange(23), np.arange(17)
    for together in (False, True):
        assert sums.distance(together=together) == pytest.approx(by_hand(*every, together))
        for left in range(4):
            kept, others = (np.flatnonzero(of != left) for of in groups)
            wanted = by_hand(kept, others, together)
            assert sums.distance(left, together) == pytest.approx(wanted)
    with pytest.raises(ValueError, match="of one recording"):
        KernelSums.of(sets, (np.zeros(23, int), units[1])).distance()


def test_kernel_audio_distance_of_one_law_is_zero_in_the_mean_and_grows_with_a_shift():
    rng = torch.Generator().manual_seed(0)

    def values(shift, count):
        pairs = (torch.randn(2, 40, 6, generator=rng) for _ in range(count))
        return np.array([kernel_audio_distance(pair[0] + shift, pair[1]) for pair in pairs])

    same = values(0, 200)
    assert abs(same.mean()) < 4 * same.std() / np.sqrt(len(same))
    assert values(0.3, 20).mean() > 4 * same.std() / np.sqrt(20)
    assert values(0.6, 20).mean() > 2 * values(0.3, 20).mean()


def test_distance_of_fewer_features_than_numbers_comes_with_a_caveat():
    assert frechet_caveat(17, 16) is None
    assert "16 features of 16 numbers" in (frechet_caveat(16, 16) or "")


@pytest.mark.parametrize(("n", "m", "dim"), [(5, 7, 16), (16, 40, 16), (400, 300, 6)])
def test_distance_of_features_is_that_of_their_moments(n, m, dim):
    a, b = drawn(n, dim, 0), drawn(m, dim, 1) + 3
    moments = (FeatureMoments.of(features) for features in (a, b))
    assert frechet_distance_of(a, b) == pytest.approx(frechet_distance(*moments), rel=1e-9)
    with pytest.raises(ValueError, match="at least 2 features"):
        frechet_distance_of(a[:1], b[:2])


def two_classes(shares, apart, seed, shift=0.0):
    """Features (N,8) of two classes `apart` from each other, `shares` of each, and the classes."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(2).repeat_interleave(torch.tensor(shares))
    features = torch.randn(len(classes), 8, generator=generator) + shift
    return features + apart * classes[:, None], classes


def test_floor_is_met_by_real_features_and_missed_by_others():
    real, real_classes = two_classes([300, 300], apart=0, seed=0)
    features, classes = two_classes([150, 150], apart=0, seed=1)
    same = compare(features, real, classes, real_classes)
    assert same.size == 300
    assert same.floor > 0
    assert 0.6 < same.distance / same.floor < 1.6
    assert abs(same.kernel) < 0.05
    other = compare(features + 0.5, real, classes, real_classes)
    assert other.floor == same.floor
    assert other.distance / other.floor > 4
    assert other.distance == pytest.approx(8 * 0.25, rel=0.35)
    assert other.kernel > 0.2


def test_floor_is_taken_at_the_size_of_the_smaller_set():
    real, real_classes = two_classes([300, 300], apart=0, seed=0)
    many, few = (
        compare(x[0], real, x[1], real_classes)
        for x in (two_classes([n, n], apart=0, seed=1) for n in (150, 25))
    )
    assert few.size == 50
    assert few.floor > 2 * many.floor


def test_shares_of_classes_neither_help_nor_harm():
    """Two far classes: at random draws of each, the floor would be many times larger."""
    real, real_classes = two_classes([300, 300], apart=30, seed=0)
    near, near_classes = two_classes([300, 300], apart=0, seed=0)
    lopsided, classes = two_classes([140, 40], apart=30, seed=1)
    found = compare(lopsided, real, classes, real_classes)
    assert found.size == 180
    assert 0.6 < found.distance / found.floor < 1.6
    shifted = compare(lopsided + 0.5, real, classes, real_classes)
    assert abs(found.kernel) < shifted.kernel / 4
    assert found.floor < 2 * compare(lopsided, near, classes, near_classes).floor


def test_set_that_misses_a_class_is_compared_on_the_others():
    real, real_classes = two_classes([100, 100], apart=30, seed=0)
    features, classes = two_classes([0, 40], apart=30, seed=1)
    found = compare(features, real, classes, real_classes)
    assert found.size == 40
    assert 0.5 < found.distance / found.floor < 2


def normal(count, seed, scale=1.0, shift=0.0):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)) * scale + shift


def radius(points, index, k):
    return sorted(np.linalg.norm(points[index] - other) for other in points)[k]


def precision_recall(features, real):
    found = regions(features, real, k=3)
    return found.precision.mean().item(), found.recall.mean().item()


def density_coverage(features, real):
    found = regions(features, real, density_k=5)
    return found.density.mean().item(), found.coverage.mean().item()


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
    precision, recall = precision_recall(*sets)
    assert precision == pytest.approx(reached(a, b, 3).any(1).mean())
    assert recall == pytest.approx(reached(b, a, 3).any(1).mean())
    counted = reached(a, b, 5)
    assert density_coverage(*sets) == pytest.approx(
        (counted.sum() / (5 * 30), counted.any(0).mean())
    )


def test_set_reaches_all_of_itself():
    a = normal(50, 0)
    assert precision_recall(a, a) == (1, 1)
    assert density_coverage(a, a)[1] == 1


def test_collapse_lowers_recall_and_coverage_and_noise_lowers_precision_and_density():
    real, other = normal(400, 0), normal(400, 1)
    same, spread = precision_recall(other, real), density_coverage(other, real)
    assert min(same) > 0.75 and spread[0] == pytest.approx(1, abs=0.15)
    collapsed = normal(400, 2, scale=0.1)
    assert precision_recall(collapsed, real)[0] > 0.95
    assert precision_recall(collapsed, real)[1] < 0.1
    assert density_coverage(collapsed, real)[1] < spread[1] / 2
    noisy = normal(400, 3, scale=3.0)
    assert precision_recall(noisy, real)[0] < same[0] / 2
    assert density_coverage(noisy, real)[0] < spread[0] / 2


def test_one_stray_real_feature_raises_precision_and_not_density():
    real, stray, far = normal(100, 0), torch.full((1, 4), 60.0), normal(50, 1, shift=40.0)
    with_stray = torch.cat([real, stray])
    assert precision_recall(far, with_stray)[0] > 0.9
    assert density_coverage(far, with_stray)[0] < 0.25


@pytest.mark.parametrize(("count", "real"), [(12, 30), (40, 12)])
def test_density_and_coverage_of_one_law_are_on_average_what_is_known(count, real):
    rng = torch.Generator().manual_seed(count)
    found = [
        regions(torch.randn(count, 3, generator=rng), torch.randn(real, 3, generator=rng))
        for _ in range(300)
    ]
    for name, wanted in (("density", 1.0), ("coverage", expected_coverage(count, real))):
        values = torch.stack([getattr(x, name).mean() for x in found])
        error = max(3.5 * values.std().item() / 300**0.5, 1e-3)
        assert values.mean().item() == pytest.approx(wanted, abs=error)


def test_too_few_features_are_refused():
    with pytest.raises(ValueError, match="3 features have no 3 neighbours"):
        precision_recall(normal(10, 0), normal(3, 0))
