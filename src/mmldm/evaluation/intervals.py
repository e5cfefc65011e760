"""How far a number would move if other clips had been drawn: 95 % intervals.

values of clips, or a statistic of two sets -> (low, high)

Means and ratios are bootstrapped over clips. Distances between sets are not: a resampled set holds clips
twice, which sets it further from any other, so that a bootstrap interval lies above the estimate. They get
a jackknife, which leaves out a group of clips of each set at a time and repeats none. Sources: Efron and
Tibshirani, "An introduction to the bootstrap", 1993; Wilson, "Probable inference", 1927; Zou and Donner,
"Construction of confidence limits about effect measures", 2008.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Interval = tuple[float, float]
Statistic = Callable[[Tensor, Tensor], float]
"""From the indices (N,) of the clips of one set and those (M,) of the other."""
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 8: 2.36, 10: 2.26, 15: 2.14, 20: 2.09}
"""97.5 % quantiles of Student's t by number of groups, one more than its degrees of freedom."""
NORMAL = 1.96


def jackknife(
    statistic: Statistic, first: int, second: int, groups: int, seed: int = 0
) -> float | None:
    """Half the width of the interval of a statistic of two independent sets, around its value.

    Group j of both sets is left out together: their influences are independent and add up, so that the spread
    over j is that of both. None for fewer than 4 clips in a set.

    Args:
        first: N, clips in the first set.
        second: M, clips in the second.
        groups: At most; no more than there are clips in the smaller set.
    """
    count = min(groups, first, second)
    if count < 4:
        return None
    # Groups are drawn at random: neighbours in a set may be clips of one file.
    generator = torch.Generator().manual_seed(seed)
    sides = [torch.randperm(size, generator=generator) for size in (first, second)]
    without = [
        statistic(*(order[torch.arange(len(order)) % count != j].sort().values for order in sides))
        for j in range(count)
    ]
    # The jackknife's standard error: (g - 1) / g of the sum of squared deviations, g groups.
    error = (count - 1) ** 0.5 * float(np.std(without))
    return STUDENT[max(known for known in STUDENT if known <= count)] * error


def ratio_interval(counts: np.ndarray, bootstraps: int, seed: int = 0) -> Interval | None:
    """Bootstrap over clips of a ratio of sums; None for fewer than 2 clips that count.

    Args:
        counts: (N,2), each clip's share of the numerator and of the denominator.
    """
    counted = counts[counts[:, 1] > 0]
    if len(counted) < 2:
        return None
    draws = np.random.default_rng(seed).integers(len(counted), size=(bootstraps, len(counted)))
    sums = counted[draws].sum(1)
    return _quantiles(sums[:, 0] / sums[:, 1])


def quantile_interval(values: np.ndarray, level: float, bootstraps: int, seed: int = 0) -> Interval:
    """Bootstrap over clips of a quantile of values (N,)."""
    draws = np.random.default_rng(seed).integers(len(values), size=(bootstraps, len(values)))
    return _quantiles(np.quantile(values[draws], level, axis=1))


def pooled_median_interval(
    values: Sequence[np.ndarray], bootstraps: int, seed: int = 0
) -> Interval | None:
    """Bootstrap over clips of the median of all their values (N,); None for fewer than 2 that have any."""
    counted = [own for own in values if len(own)]
    if len(counted) < 2:
        return None
    # Each draw weighs a clip by how often it is drawn; the median is where half of the weight is passed.
    draws = np.random.default_rng(seed).multinomial(
        len(counted), np.full(len(counted), 1 / len(counted)), size=bootstraps
    )
    pooled = np.concatenate(counted)
    order = pooled.argsort()
    owners = np.repeat(np.arange(len(counted)), [len(own) for own in counted])[order]
    passed = np.cumsum(draws[:, owners], 1)
    return _quantiles(pooled[order][(passed >= passed[:, -1:] / 2).argmax(1)])


def correlation(products: np.ndarray) -> np.ndarray:
    """r (...) from sums (...,3) of xx, yy and xy of centred values."""
    squares, others, mixed = np.moveaxis(products, -1, 0)
    return mixed / np.sqrt(np.maximum(squares * others, np.finfo(float).tiny))


def correlation_interval(products: np.ndarray, bootstraps: int, seed: int = 0) -> Interval | None:
    """Bootstrap over clips of the correlation of sums of products (N,3); None for fewer than 2 clips."""
    if len(products) < 2:
        return None
    draws = np.random.default_rng(seed).integers(len(products), size=(bootstraps, len(products)))
    return _quantiles(correlation(products[draws].sum(1)))


def wilson(share: float, count: int) -> Interval:
    """Of a share of `count` clips; unlike a bootstrap's not empty where the share is 0 or 1."""
    # Wilson's score interval: centre and half width.
    z = NORMAL
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count)
    half *= (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    # At 0 and 1 an end is the share itself, which rounding would miss.
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)


def difference_interval(
    value: float, interval: Interval, other: float, other_interval: Interval
) -> Interval:
    """Of value - other, from the intervals of two independent estimates (Zou and Donner's MOVER)."""
    # MOVER: each end from the ends of both intervals on that side.
    difference = value - other
    below = np.hypot(value - interval[0], other_interval[1] - other)
    above = np.hypot(interval[1] - value, other - other_interval[0])
    return float(difference - below), float(difference + above)


def _quantiles(drawn: np.ndarray) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
