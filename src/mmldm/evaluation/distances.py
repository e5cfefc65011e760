"""How far a set of clips is from real ones by the features of a network, and how much of them it covers.

features (N,D), real features (M,D) -> one number, 0 where the sets follow one law; or shares of neighbours

Source: Heusel et al., "GANs trained by a two time-scale update rule", 2017 (Fréchet distance of two
Gaussians); Kynkäänniemi et al., "Improved precision and recall metric", NeurIPS 2019; Naeem et al., "Reliable
fidelity and diversity metrics", ICML 2020 (density, coverage). Kernel distances stand in `kernels`. All in
float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmldm.evaluation.kernels import kernel_distance

SPLITS = 10
CHUNK = 1024
"""Rows of distances in memory at once."""


class FeatureMoments:
    """Mean and covariance of features that arrive in batches; no feature is kept.

    Batches are merged by Chan's update, so that features far from zero cost no digits.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)

    @classmethod
    def of(cls, features: Tensor) -> FeatureMoments:
        """Moments of features (N,D)."""
        moments = cls(features.shape[1])
        moments.update(features)
        return moments

    def update(self, features: Tensor) -> None:
        """Adds features (N,D)."""
        batch = features.detach().cpu().double()
        if not len(batch):
            return
        mean = batch.mean(0)
        centred = batch - mean
        shift = mean - self.mean
        total = self.count + len(batch)
        # Scatter within the batch, and that of the two means about their common one.
        self._scatter += centred.T @ centred
        self._scatter += torch.outer(shift, shift) * (self.count * len(batch) / total)
        self.mean = self.mean + shift * (len(batch) / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """(D,D), divided by N - 1.

        Raises:
            ValueError: Fewer than two features.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 features, not {self.count}")
        return self._scatter / (self.count - 1)


def frechet_distance(a: FeatureMoments, b: FeatureMoments) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), not below 0.

    The last trace is the sum of singular values of S_a^(1/2) S_b^(1/2), with roots from symmetric
    eigenvalues; nothing is added to the diagonal, and singular covariances (N <= D) are exact, too.

    The estimate is biased: two finite samples of one law are apart, the more so the smaller N over D.
    Compare at equal N, and beside the floor of `compare`.

    Raises:
        ValueError: Fewer than two features in a set.
    """
    overlap = torch.linalg.svdvals(_root(a.covariance) @ _root(b.covariance)).sum()
    traces = a.covariance.trace() + b.covariance.trace()
    gap = (a.mean - b.mean).square().sum()
    return max((gap + traces - 2 * overlap).item(), 0.0)


def frechet_distance_of(a: Tensor, b: Tensor) -> float:
    """`frechet_distance` of features (N,D) and (M,D) that are in memory, the quicker way for their number.

    The last trace is also the sum of singular values of the centred features' products (N,M).

    Raises:
        ValueError: Fewer than two features in a set.
    """
    if len(a) * len(b) >= a.shape[1] ** 2:
        return frechet_distance(FeatureMoments.of(a), FeatureMoments.of(b))
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance needs at least 2 features, not {min(len(a), len(b))}")
    a, b = (x.detach().cpu().double() for x in (a, b))
    gap = (a.mean(0) - b.mean(0)).square().sum()
    # Divided by N - 1 under the root, as the covariances are.
    centred = [(x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a, b)]
    traces = sum(x.square().sum() for x in centred)
    overlap = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    return max((gap + traces - 2 * overlap).item(), 0.0)


def frechet_caveat(count: int, dim: int) -> str | None:
    """What a Fréchet distance must be read with; None where nothing is.

    Args:
        count: Features in the smaller set.
        dim: D.
    """
    if count > dim:
        return None
    return (
        f"{count} features of {dim} numbers each do not determine a covariance: the distance is biased far "
        "upwards, and compares only with others at the same count"
    )


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root (D,D) of a covariance (D,D)."""
    values, vectors = torch.linalg.eigh(covariance)
    # Below this an eigenvalue is the rounding of a zero, and its root would be 1e-8 of the largest.
    least = values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    roots = torch.where(values > least, values, 0).sqrt()
    return (vectors * roots) @ vectors.T


class Regions(NamedTuple):
    """How a set lies in the region of real features, and they in its: means are shares.

    A region is the union of balls around its features, each as wide as the distance to the k-th nearest
    other feature. One stray real feature with a wide ball does not count for much in density and coverage.

    Attributes:
        precision: (N,) 1 for features of the set within the region of the real ones: how good a clip is.
        recall: (M,) 1 for real features within the region of the set: how varied the set is.
        density: (N,) real balls that a feature lies in, over k. The mean is 1 for real features.
        coverage: (M,) 1 for real balls that hold a feature of the set.
    """

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def regions(features: Tensor, real: Tensor, k: int = 3, density_k: int = 5) -> Regions:
    """All four by feature, float64. They depend on N and M: compare at equal ones.

    Args:
        features: (N,D), N > k.
        real: (M,D), M > k and `density_k`.
        k: Neighbours of precision and recall; the paper's 3.
        density_k: Neighbours of density and coverage; the paper's 5.

    Raises:
        ValueError: A set has too few features.
    """
    # How wide each ball is, and which features lie in which balls.
    features, real = (x.detach().cpu().double() for x in (features, real))
    own, wide = _radii(real, k), _radii(real, density_k)
    reach = _radii(features, k)
    across = torch.cat([_euclidean(some, real) for some in features.split(CHUNK)])
    # Within density's balls, not on them, as in its authors' program; precision's hold what lies on them.
    within = (across < wide).double()
    return Regions(
        precision=(across <= own).any(1).double(),
        recall=(across <= reach[:, None]).any(0).double(),
        density=within.sum(1) / density_k,
        coverage=within.amax(0),
    )


def expected_coverage(count: int, real: int, k: int = 5) -> float:
    """Coverage on average of M real features by N others of the same law, whatever that law is.

    A real feature's ball is empty where the k nearest of all others are real ones. (Density is 1.)

    Args:
        count: N.
        real: M.
        k: Neighbours of coverage.
    """
    empty = 1.0
    for nearer in range(k):
        empty *= max(real - 1 - nearer, 0) / (real - 1 + count - nearer)
    return 1 - empty


def _radii(centres: Tensor, k: int) -> Tensor:
    """Distance (M,) of each of the centres (M,D) to its k-th nearest other."""
    if len(centres) <= k:
        raise ValueError(f"{len(centres)} features have no {k} neighbours each")
    # The nearest of all is the centre itself.
    nearest = [_euclidean(some, centres).kthvalue(k + 1).values for some in centres.split(CHUNK)]
    return torch.cat(nearest)


def _euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Distances (N,M) of features (N,D) and (M,D)."""
    # By matrix products a feature would not be at distance 0 of its copy.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


class Comparison(NamedTuple):
    """A set against real clips, beside real clips against each other at the same size.

    Attributes:
        size: Features on each side of every distance.
        distance: Fréchet distance of the set to real ones, mean over splits.
        floor: Of real ones to other real ones, mean over the same splits.
        floor_deviation: Standard deviation of the floor over splits.
        kernel: Kernel distance of the set to real ones within a class, mean over classes by their
            size and over splits; its floor is 0.
    """

    size: int
    distance: float
    floor: float
    floor_deviation: float
    kernel: float


def compare(
    features: Tensor,
    real: Tensor,
    classes: Tensor,
    real_classes: Tensor,
    splits: int = SPLITS,
    seed: int = 0,
) -> Comparison:
    """Compares features (N,D) of a set with real ones (M,D), at the set's own shares of classes.

    Each split draws disjoint subsets R1, R2 of the real features and one of the set, all with the
    same number of each class: as many as the set has, or half of the real ones. The distance is of
    the set to R1, the floor of R2 to R1. Were the classes not held equal, the luck of their draw
    would make most of the floor (in the impacts world 80 % and more), and hide what it should show.

    Args:
        classes: (N,) long.
        real_classes: (M,) long.

    Raises:
        ValueError: The set has fewer than 2 features of classes with at least 2 real ones.
    """
    # Of each class the indices of both sides, and how many of them both can give: real ones twice.
    kinds = range(int(max(classes.max(), real_classes.max())) + 1)
    owned = [(classes == k).nonzero()[:, 0] for k in kinds]
    known = [(real_classes == k).nonzero()[:, 0] for k in kinds]
    counts = [min(len(own), len(other) // 2) for own, other in zip(owned, known, strict=True)]
    generator = torch.Generator().manual_seed(seed)

    def shuffled(indices: Tensor) -> Tensor:
        """The indices (N,) in a new order."""
        return indices[torch.randperm(len(indices), generator=generator)]

    results = []
    for _ in range(splits):
        # Equal numbers of each class on all three sides.
        orders = [shuffled(indices) for indices in known]
        drawn = [shuffled(indices)[:n] for indices, n in zip(owned, counts, strict=True)]
        ours = features[torch.cat(drawn)]
        first = real[torch.cat([order[:n] for order, n in zip(orders, counts, strict=True)])]
        second = real[torch.cat([o[n : 2 * n] for o, n in zip(orders, counts, strict=True)])]

        target = FeatureMoments.of(first)
        distance = frechet_distance(FeatureMoments.of(ours), target)
        floor = frechet_distance(FeatureMoments.of(second), target)
        # Within classes, as their equal numbers would bias an estimate over all pairs.
        kernels = [
            len(a) / sum(counts) * kernel_distance(a, b)
            for a, b in zip(ours.split(counts), first.split(counts), strict=True)
            if len(a) > 1
        ]
        results.append([distance, floor, sum(kernels)])
    values = torch.tensor(results, dtype=torch.float64)
    distance, floor, kernel = values.mean(0).tolist()
    return Comparison(sum(counts), distance, floor, values[:, 1].std().item(), kernel)
