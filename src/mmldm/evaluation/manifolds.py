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


def precision_recall(features: Tensor, real: Tensor, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall; both depend on N and M, so compare at equal ones.

    Args:
        features: (N,D), N > k.
        real: (M,D), M > k.
        k: Neighbours; the paper's 3.

    Raises:
        ValueError: A set has no more than k features.
    """
    features, real = (x.detach().cpu().double() for x in (features, real))
    inside = _inside(features, real, k).any(1)
    reached = _inside(real, features, k).any(1)
    return PrecisionRecall(inside.double().mean().item(), reached.double().mean().item())


def density_coverage(features: Tensor, real: Tensor, k: int = 5) -> DensityCoverage:
    """Density and coverage; both depend on N and M, so compare at equal ones.

    Args:
        features: (N,D).
        real: (M,D), M > k.
        k: Neighbours; the paper's 5.

    Raises:
        ValueError: There are no more than k real features.
    """
    features, real = (x.detach().cpu().double() for x in (features, real))
    inside = _inside(features, real, k).double()
    return DensityCoverage(inside.sum(1).mean().item() / k, inside.amax(0).mean().item())


def _inside(points: Tensor, centres: Tensor, k: int) -> Tensor:
    """Whether each of the points (N,D) lies in each ball of the region of the centres (M,D): (N,M) bool."""
    if len(centres) <= k:
        raise ValueError(f"{len(centres)} features have no {k} neighbours each")
    radii = torch.cat(
        [_distances(rows, centres).kthvalue(k + 1).values for rows in centres.split(CHUNK)]
    )
    return torch.cat([_distances(rows, centres) <= radii for rows in points.split(CHUNK)])


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # By matrix products a feature would not be at distance 0 of its copy.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
