"""Kernel distances between two sets of features: KVD of I3D's logits, KAD of a network of sounds.

features (N,D), real features (M,D), a kernel -> unbiased squared MMD, 0 in the mean where both follow one law

Source: Binkowski et al., "Demystifying MMD GANs", 2018 (polynomial kernel, KVD); Chung et al., "KAD: no more
FAD!", 2025 (Gaussian kernel). Both leave out the pairs of a feature with itself. Windows of one recording are
nearly such pairs: with six windows a file that correlate by .8 they set equal laws apart. So pairs within a
unit may be left out, too. All in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

CHUNK = 1024
"""Rows of kernel values in memory at once."""
KAD_SCALE = 100
"""What the published kernel audio distance multiplies by."""
MOST_FOR_BANDWIDTH = 2048
"""Reference features whose mutual distances give the bandwidth."""
Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Values (N,M) from products x y (N,M), squares x x (N,1) and squares y y (M,)."""


@dataclass(frozen=True)
class Prepared:
    """Two sets and the kernel that compares them.

    Attributes:
        own: Features (N,D), float64.
        real: (M,D), float64.
        kernel: Of their rows.
        scale: Of the distance.
    """

    own: Tensor
    real: Tensor
    kernel: Kernel
    scale: float = 1.0


def polynomial(features: Tensor, real: Tensor) -> Prepared:
    """(x y / D + 1)^3 of features (N,D) and (M,D)."""
    own, other = (x.detach().cpu().double() for x in (features, real))
    return Prepared(own, other, partial(_polynomial, dim=own.shape[1]))


def gaussian(features: Tensor, real: Tensor, bandwidth: float | None = None) -> Prepared:
    """A Gaussian of the distance of features (N,D) and real ones (M,D), and the scale of KAD.

    Args:
        features: Of the set.
        real: The default bandwidth is their median distance, as in the paper; so the order counts.
        bandwidth: In place of that.

    Raises:
        ValueError: The bandwidth is 0.
    """
    bandwidth = median_distance(real) if bandwidth is None else bandwidth
    if bandwidth <= 0:
        raise ValueError("half of the reference features are equal: their median distance is 0")
    # Only differences count; near zero, squares of large features cancel without loss.
    centre = real.detach().cpu().double().mean(0)
    own, other = (x.detach().cpu().double() - centre for x in (features, real))
    return Prepared(own, other, partial(_gaussian, bandwidth=bandwidth), KAD_SCALE)


def kernel_distance(a: Tensor, b: Tensor, chunk: int = CHUNK) -> float:
    """Unbiased estimate of the squared MMD with the kernel (x y / D + 1)^3, over all pairs.

    Its mean is 0 for two samples of one law at any N, so it may be negative. It is negative for a set and its
    copy, whose equal pairs count.

    Args:
        a: Features (N,D), N >= 2.
        b: Features (M,D), M >= 2.
        chunk: Rows of the kernel matrix in memory at once.
    """
    return KernelSums.of(polynomial(a, b), chunk=chunk).distance(together=True)


def kernel_audio_distance(
    features: Tensor, reference: Tensor, bandwidth: float | None = None, chunk: int = CHUNK
) -> float:
    """Unbiased estimate of the squared MMD with a Gaussian kernel, times 100.

    As `kernel_distance` it may be negative. With the default bandwidth it is not symmetric: the reference
    sets the scale, as in the paper (the released program takes it from the other set).

    Args:
        features: (N,D), N >= 2.
        reference: Real features (M,D), M >= 2.
        bandwidth: Of the Gaussian; None: `median_distance` of the reference.
        chunk: Rows of the kernel matrix in memory at once.

    Raises:
        ValueError: The bandwidth is 0.
    """
    return KernelSums.of(gaussian(features, reference, bandwidth), chunk=chunk).distance(
        together=True
    )


def median_distance(features: Tensor) -> float:
    """Median Euclidean distance between two of the features (N,D), of at most 2048 spread over all."""
    features = features.detach().cpu().double()
    spread = torch.linspace(0, len(features) - 1, min(len(features), MOST_FOR_BANDWIDTH)).long()
    return torch.pdist(features[spread]).median().item()


def _polynomial(products: Tensor, squares_a: Tensor, squares_b: Tensor, dim: int) -> Tensor:
    """The `Kernel` (x y / D + 1)^3 of products (N,M)."""
    return (products / dim + 1) ** 3


def _gaussian(products: Tensor, squares_a: Tensor, squares_b: Tensor, bandwidth: float) -> Tensor:
    """The `Kernel` exp(-|x - y|^2 / (2 bandwidth^2)) of products (N,M), squares (N,1) and (M,)."""
    return torch.exp((2 * products - squares_a - squares_b) / (2 * bandwidth**2))


@dataclass(frozen=True)
class Rows:
    """Which rows of a set hang together, and which are left out together.

    Attributes:
        units: (N,) long, the recording of each row; None: each row is one.
        groups: (N,) long, 0 to J - 1.
        count: J.
    """

    units: Tensor | None
    groups: Tensor
    count: int

    @classmethod
    def of(cls, rows: int, units: np.ndarray | None, groups: np.ndarray | None) -> Rows:
        """Of N rows, with `units` and `groups` (N,); None: none hang together, all are one group."""
        group = np.zeros(rows, dtype=int) if groups is None else groups
        of = None if units is None else torch.from_numpy(units).long()
        return cls(of, torch.from_numpy(group).long(), int(group.max()) + 1)

    @property
    def sizes(self) -> Tensor:
        """Rows (J,) of each group."""
        return self.groups.bincount(minlength=self.count).double()

    @property
    def pairs_within(self) -> Tensor:
        """Ordered pairs (J,) of rows of one unit, a row with itself too, by group; units are in one each."""
        if self.units is None:
            return self.sizes
        sizes = self.units.bincount()[self.units].double()
        return torch.zeros(self.count, dtype=torch.float64).index_add_(0, self.groups, sizes)


@dataclass(frozen=True)
class Within:
    """Sums of kernel values over pairs of rows of one set, by group.

    Attributes:
        rows: Of the set.
        all: (J,J) of all pairs.
        units: (J,) of pairs in one unit, a row with itself too.
        selves: (J,) of each row with itself.
    """

    rows: Rows
    all: Tensor
    units: Tensor
    selves: Tensor

    def mean(self, kept: Tensor, together: bool) -> Tensor:
        """Mean () over pairs of different units, or rows, of the groups that are kept (J,) bool.

        Raises:
            ValueError: There is no such pair.
        """
        inner, pairs = (
            (self.selves, self.rows.sizes) if together else (self.units, self.rows.pairs_within)
        )
        count = self.rows.sizes[kept].sum() ** 2 - pairs[kept].sum()
        if count <= 0:
            raise ValueError("all clips of a set are of one recording")
        return (self.all[kept][:, kept].sum() - inner[kept].sum()) / count


@dataclass(frozen=True)
class KernelSums:
    """All kernel values of two sets, summed by groups: each can be left out of both without another pass.

    Attributes:
        own: Within the set.
        real: Within the other.
        across: (J,J) of pairs of a row of each.
        scale: Of the distance.
    """

    own: Within
    real: Within
    across: Tensor
    scale: float

    @classmethod
    def of(
        cls,
        sets: Prepared,
        units: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
        groups: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
        chunk: int = CHUNK,
    ) -> KernelSums:
        """Sums over rows (N,D) and (M,D).

        Args:
            units: Of the rows of each set, (N,) and (M,); None: each row is one.
            groups: The same, equally many; units lie in one group each. None: one group.
            chunk: Rows of the kernel matrix in memory at once.
        """
        own = Rows.of(len(sets.own), units[0], groups[0])
        real = Rows.of(len(sets.real), units[1], groups[1])
        return cls(
            _within(sets.own, own, sets.kernel, chunk),
            _within(sets.real, real, sets.kernel, chunk),
            _sums(sets.own, sets.real, own, real, sets.kernel, chunk)[0],
            sets.scale,
        )

    def distance(self, without: int | None = None, together: bool = False) -> float:
        """The squared MMD.

        Args:
            without: A group that is left out of both sets.
            together: Whether pairs of different rows of one unit count, as published.

        Raises:
            ValueError: A set has no pair that counts.
        """
        kept = torch.arange(self.own.rows.count) != (-1 if without is None else without)
        pairs = self.own.rows.sizes[kept].sum() * self.real.rows.sizes[kept].sum()
        across = self.across[kept][:, kept].sum() / pairs
        within = self.own.mean(kept, together) + self.real.mean(kept, together)
        return self.scale * (within - 2 * across).item()


def _within(features: Tensor, rows: Rows, kernel: Kernel, chunk: int) -> Within:
    """Sums over the pairs of rows of features (N,D)."""
    squares = features.square().sum(1)
    values = kernel(squares, squares, squares)
    selves = torch.zeros(rows.count, dtype=torch.float64).index_add_(0, rows.groups, values)
    everything, units = _sums(features, features, rows, rows, kernel, chunk)
    return Within(rows, everything, selves if units is None else units, selves)


def _sums(
    a: Tensor, b: Tensor, own: Rows, other: Rows, kernel: Kernel, chunk: int
) -> tuple[Tensor, Tensor | None]:
    """Sums over pairs of rows (N,D) and (M,D) by groups (J,J), and of one set over those in one unit (J,)."""
    squares = b.square().sum(1)
    total = torch.zeros(own.count, other.count, dtype=torch.float64)
    within = torch.zeros(own.count, dtype=torch.float64)
    hanging = own is other and own.units is not None
    for rows in torch.arange(len(a)).split(chunk):
        some, groups = a[rows], own.groups[rows]
        values = kernel(some @ b.T, some.square().sum(1, keepdim=True), squares)
        by_column = torch.zeros(len(some), other.count, dtype=torch.float64)
        total.index_add_(0, groups, by_column.index_add_(1, other.groups, values))
        if hanging and own.units is not None:
            together = own.units[rows][:, None] == own.units
            within.index_add_(0, groups, (values * together).sum(1))
    return total, within if hanging else None
