"""How much of a set lies among real clips, and how much of the real clips it reaches.

features (N,D), real features (M,D) -> shares

A set's region is the union of balls around its features, each as wide as the distance to the k-th nearest
other feature of the set. Source: Kynkäänniemi et al., "Improved precision and recall metric", NeurIPS 2019;
Naeem et al., "Reliable fidelity and diversity metrics", ICML 2020 (density and coverage). All in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1024
"""Rows of distances in memory at once."""


class PrecisionRecall(NamedTuple):
    """Shares in [0,1].

    Attributes:
        precision: Of the set, within the region of the real features: how good a sample is.
        recall: Of the real features, within the region of the set: how varied the set is.
    """

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Like precision and recall, but one stray real feature with a wide ball does not count for much.

    Attributes:
        density: Real balls that a feature of the set lies in, over k, mean; 1 is expected of real
            features, and more is possible.
        coverage: Share of the real balls that hold a feature of the set.
    """

    density: float
    coverage: float


class Regions(NamedTuple):
    """What `precision_recall` and `density_coverage` are the means of.

    Attributes:
        precision: (N,) 1 for features of the set within the region of the real ones.
        recall: (M,) 1 for real features within the region of the set.
        density: (N,) real balls that a feature lies in, over k.
        coverage: (M,) 1 for real balls that hold a feature of the set.
    """

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def regions(features: Tensor, real: Tensor, k: int = 3, density_k: int = 5) -> Regions:
    """All four by feature, float64, from distances that are computed once.

    Args:
        features: (N,D), N > k.
        real: (M,D), M > k and `density_k`.
        k: Neighbours of precision and recall; the paper's 3.
        density_k: Neighbours of density and coverage; the paper's 5.

    Raises:
        ValueError: A set has too few features.
    """
    features, real = (x.detach().cpu().double() for x in (features, real))
    own, wide = _radii(real, k), _radii(real, density_k)
    reach = _radii(features, k)
    across = torch.cat([_distances(rows, real) for rows in features.split(CHUNK)])
    within = (across <= wide).double()
    return Regions(
        precision=(across <= own).any(1).double(),
        recall=(across <= reach[:, None]).any(0).double(),
        density=within.sum(1) / density_k,
        coverage=within.amax(0),
    )


def precision_recall(features: Tensor, real: Tensor, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall; both depend on N and M, so compare at equal ones.

    Args:
        features: (N,D), N > k.
        real: (M,D), M > k.
        k: Neighbours; the paper's 3.

    Raises:
        ValueError: A set has no more than k features.
    """
    found = regions(features, real, k, k)
    return PrecisionRecall(found.precision.mean().item(), found.recall.mean().item())


def density_coverage(features: Tensor, real: Tensor, k: int = 5) -> DensityCoverage:
    """Density and coverage; both depend on N and M, so compare at equal ones.

    Args:
        features: (N,D), N > k.
        real: (M,D), M > k.
        k: Neighbours; the paper's 5.

    Raises:
        ValueError: A set has no more than k features.
    """
    found = regions(features, real, k, k)
    return DensityCoverage(found.density.mean().item(), found.coverage.mean().item())


def _radii(centres: Tensor, k: int) -> Tensor:
    """Distance (M,) of each of the centres (M,D) to its k-th nearest other."""
    if len(centres) <= k:
        raise ValueError(f"{len(centres)} features have no {k} neighbours each")
    nearest = [_distances(rows, centres).kthvalue(k + 1).values for rows in centres.split(CHUNK)]
    return torch.cat(nearest)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # By matrix products a feature would not be at distance 0 of its copy.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
