"""How far a number would move if other recordings had been drawn: 95 % intervals.

values of clips, or a statistic of two sets; which clips hang together -> (low, high)

Clips of one recording tell less than as many of different ones, so recordings (units) are drawn, not clips.
Means and ratios are bootstrapped. Distances between sets are not: a resampled set holds clips twice, which
sets it further from any other, so that a bootstrap interval lies above the estimate. They get a jackknife,
which leaves out a group of units of each set at a time and repeats none. Sources: Efron and Tibshirani, "An
introduction to the bootstrap", 1993; Hesterberg, "What teachers should know about the bootstrap", 2015 (the
expanded percentile interval, for few units); Wilson, "Probable inference", 1927; Korn and Graubard,
"Confidence intervals for proportions with small expected number of positive counts estimated from survey
data", 1998 (the effective number of clips); Zou and Donner, "Construction of confidence limits about effect
measures", 2008.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Interval = tuple[float, float]
Units = np.ndarray
"""(N,) int: clips of one number are of one recording."""
Statistic = Callable[[Tensor, Tensor], float]
"""From the indices (N,) of the clips of one set and those (M,) of the other."""
LEAST_GROUPS = 4
"""Of a jackknife."""
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
"""97.5 % quantiles of Student's t by degrees of freedom, where the expansion of `student` is not yet good."""
NORMAL = 1.959964


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, right to .0005 of it.

    Args:
        freedom: Degrees of freedom, 1 or more.
    """
    if freedom in STUDENT:
        return STUDENT[freedom]
    # Its expansion about the normal quantile (Abramowitz and Stegun, 26.7.5).
    z = NORMAL
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def deal(units: Units, groups: int, seed: int = 0) -> np.ndarray:
    """A group (N,), 0 to `groups` - 1, of each clip: units stay whole, and groups are about equally large."""
    sizes = np.bincount(units)
    order = np.random.default_rng(seed).permutation(len(sizes))
    # The largest first, each to the group that is smallest so far.
    order = order[np.argsort(-sizes[order], kind="stable")]
    group_of, filled = np.empty(len(sizes), dtype=int), np.zeros(groups, dtype=int)
    for unit in order:
        group_of[unit] = filled.argmin()
        filled[group_of[unit]] += sizes[unit]
    return group_of[units]


def half_width(without: Sequence[float]) -> float:
    """Half of a jackknife's interval, from a statistic without each of g groups in turn."""
    # The jackknife's standard error: (g - 1) / g of the sum of squared deviations.
    count = len(without)
    return student(count - 1) * (count - 1) ** 0.5 * float(np.std(without))


def group_count(first: Units, second: Units, groups: int) -> int | None:
    """Groups of a jackknife of two sets; None where one of them has too few units for any."""
    count = min(groups, len(np.unique(first)), len(np.unique(second)))
    return count if count >= LEAST_GROUPS else None


def jackknife(
    statistic: Statistic, first: Units, second: Units, groups: int, seed: int = 0
) -> float | None:
    """Half the width of the interval of a statistic of two independent sets, around its value.

    Group j of both sets is left out together: their influences are independent and add up, so that the spread
    over j is that of both. None for fewer than 4 units in a set.

    Args:
        first: (N,) of the clips in the first set.
        second: (M,) of those in the second.
        groups: At most; no more than there are units in the smaller set.
    """
    count = group_count(first, second, groups)
    if count is None:
        return None
    dealt = [deal(units, count, seed) for units in (first, second)]
    return half_width(
        [
            statistic(*(torch.from_numpy(np.flatnonzero(own != j)) for own in dealt))
            for j in range(count)
        ]
    )


def ratio_interval(
    counts: np.ndarray, bootstraps: int, seed: int = 0, units: Units | None = None
) -> Interval | None:
    """Bootstrap over units of a ratio of sums; None for fewer than 2 units that count.

    Args:
        counts: (N,2), each clip's share of the numerator and of the denominator.
        units: Of the clips; None: each is one.
    """
    sums = _by_unit(counts, units)
    sums = sums[sums[:, 1] > 0]
    if len(sums) < 2:
        return None
    draws = np.random.default_rng(seed).integers(len(sums), size=(bootstraps, len(sums)))
    drawn = sums[draws].sum(1)
    return _quantiles(drawn[:, 0] / drawn[:, 1], len(sums))


def quantile_interval(
    values: np.ndarray, level: float, bootstraps: int, seed: int = 0, units: Units | None = None
) -> Interval | None:
    """Bootstrap over units (None: clips) of a quantile of values (N,); None for fewer than 2 units."""
    return _pooled(values, _numbered(units, len(values)), level, bootstraps, seed)


def pooled_median_interval(
    values: Sequence[np.ndarray], bootstraps: int, seed: int = 0, units: Units | None = None
) -> Interval | None:
    """Bootstrap over units (None: clips) of the median of all values (N,) of the clips.

    None for fewer than 2 units that have any.
    """
    owners = np.repeat(_numbered(units, len(values)), [len(own) for own in values])
    return _pooled(np.concatenate([*values, np.empty(0)]), owners, 0.5, bootstraps, seed)


def _pooled(
    values: np.ndarray, units: Units, level: float, bootstraps: int, seed: int
) -> Interval | None:
    """Bootstrap over the units (N,) of values (N,) of a quantile of all of them."""
    owners = np.unique(units, return_inverse=True)[1]
    count = int(owners.max(initial=-1)) + 1
    if count < 2:
        return None
    # Each draw weighs a unit by how often it is drawn; the quantile is where its share of weight is passed.
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(count, np.full(count, 1 / count), size=bootstraps)
    order = values.argsort(kind="stable")
    passed = np.cumsum(draws[:, owners[order]], 1)
    return _quantiles(values[order][(passed >= passed[:, -1:] * level).argmax(1)], count)


def correlation(products: np.ndarray) -> np.ndarray:
    """r (...) from sums (...,3) of xx, yy and xy of centred values."""
    squares, others, mixed = np.moveaxis(products, -1, 0)
    return mixed / np.sqrt(np.maximum(squares * others, np.finfo(float).tiny))


def correlation_interval(
    products: np.ndarray, bootstraps: int, seed: int = 0, units: Units | None = None
) -> Interval | None:
    """Bootstrap over units (None: clips) of the correlation of sums of products (N,3); None for one unit."""
    sums = _by_unit(products, units)
    if len(sums) < 2:
        return None
    draws = np.random.default_rng(seed).integers(len(sums), size=(bootstraps, len(sums)))
    return _quantiles(correlation(sums[draws].sum(1)), len(sums))


def wilson(share: float, count: float) -> Interval:
    """Of a share of `count` clips; unlike a bootstrap's not empty where the share is 0 or 1."""
    # Wilson's score interval: centre and half width.
    z = NORMAL
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count)
    half *= (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    # At 0 and 1 an end is the share itself, which rounding would miss.
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)


def share_interval(hits: np.ndarray, units: Units | None = None) -> Interval:
    """Wilson's, of the share of 1 among hits (N,) of 0 and 1, as of the independent clips they are worth."""
    return wilson(float(hits.mean()), effective_count(hits, units))


def effective_count(hits: np.ndarray, units: Units | None = None) -> float:
    """How many independent clips the hits (N,) of clips in these units (None: each is one) are worth.

    Korn and Graubard's: clips over the variance between units, less for few units.
    """
    sums = _by_unit(np.stack([hits, np.ones_like(hits)], 1).astype(float), units)
    total, count = float(len(hits)), len(sums)
    if count == total or count < 2:
        return float(count)
    share = float(hits.mean())
    variance = (
        count / (count - 1) * float(((sums[:, 0] - share * sums[:, 1]) ** 2).sum()) / total**2
    )
    # Clips of one recording that are all alike count as one, which is all that a share of 0 or 1 tells.
    least = total**2 / float((sums[:, 1] ** 2).sum())
    worth = least
    if share not in (0, 1):
        worth = share * (1 - share) / variance if variance else total
    return min(max(worth, least), total) * (NORMAL / student(count - 1)) ** 2


def difference_interval(
    value: float, interval: Interval, other: float, other_interval: Interval
) -> Interval:
    """Of value - other, from the intervals of two independent estimates (Zou and Donner's MOVER)."""
    # MOVER: each end from the ends of both intervals on that side.
    difference = value - other
    below = np.hypot(value - interval[0], other_interval[1] - other)
    above = np.hypot(interval[1] - value, other - other_interval[0])
    return float(difference - below), float(difference + above)


def _numbered(units: Units | None, count: int) -> Units:
    return np.arange(count) if units is None else units


def _by_unit(rows: np.ndarray, units: Units | None) -> np.ndarray:
    """Sums (G,C) over the clips of each unit of rows (N,C)."""
    if units is None:
        return rows
    owners = np.unique(units, return_inverse=True)[1]
    sums = np.zeros((int(owners.max(initial=-1)) + 1, rows.shape[1]))
    np.add.at(sums, owners, rows)
    return sums


def _quantiles(drawn: np.ndarray, count: int) -> Interval:
    """2.5 and 97.5 % of bootstrapped values (B,) from `count` units.

    Further out for few units, as far as Student's t is from the normal law, and as resampled spreads are too
    small by (count - 1) / count.
    """
    reach = (count / (count - 1)) ** 0.5 * student(count - 1)
    level = math.erfc(reach / 2**0.5) / 2
    low, high = np.quantile(drawn, [level, 1 - level])
    return float(low), float(high)
