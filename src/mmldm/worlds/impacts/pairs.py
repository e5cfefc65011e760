"""What becomes of the same hits, and how different several samples for one given clip are.

findings in clips, findings in the real clips they were made from -> excess of attacks, error of loudness
log-mel levels of several samples for each given clip -> their distance over that of different clips

A reconstruction, and a sound made for a given picture, each have a real clip whose hits they should have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmldm.evaluation.events import match
from mmldm.evaluation.features import Findings
from mmldm.evaluation.intervals import Units, pooled_median_interval, ratio_interval
from mmldm.worlds.impacts.metrics import WIDE

BOOTSTRAPS = 1000
Pair = tuple[Findings, Findings]
"""What was found in a clip, and in the real one that it was made from."""


def same_hits(
    pairs: Sequence[Pair], materials: Sequence[str], seed: int = 0, units: Units | None = None
) -> dict[str, Any]:
    """How hits of N clips differ from those of the real clips that they were made from.

    Args:
        materials: Of each pair.
        seed: Of the bootstraps.
        units: (N,), which pairs are of one real recording; None: each is of its own.

    Returns:
        A JSON-ready dict: `attack_excess`, median in ms, in all and by material; `loudness_bias`, the mean
        error in dB; `loudness_spread`, its standard deviation. Each a dict of `value`, `interval`, hits `n`.
    """
    attacks, loudness = (
        [_differences(*pair, name) for pair in pairs] for name in ("attacks", "loudness")
    )
    units = np.arange(len(pairs)) if units is None else units
    of_material = {name: np.flatnonzero(np.array(materials) == name) for name in set(materials)}
    by_material = {
        name: _median([attacks[i] for i in own], seed, units[own])
        for name, own in sorted(of_material.items())
    }
    counts = np.array([(own.sum(), len(own)) for own in loudness], dtype=float).reshape(-1, 2)
    pooled = np.concatenate([np.empty(0), *loudness])
    bias: dict[str, Any] = {"value": None, "interval": None, "n": 0}
    spread = bias
    if len(pooled):
        mean = float(pooled.mean())
        squares = np.array([(((own - mean) ** 2).sum(), len(own)) for own in loudness])
        around = ratio_interval(squares, BOOTSTRAPS, seed, units)
        bias = {
            "value": mean,
            "interval": ratio_interval(counts, BOOTSTRAPS, seed, units),
            "n": len(pooled),
        }
        ends = None if around is None else tuple(end**0.5 for end in around)
        spread = {"value": float(pooled.std()), "interval": ends, "n": len(pooled)}
    return {
        "attack_excess": {"all": _median(attacks, seed, units), **by_material},
        "loudness_bias": bias,
        "loudness_spread": spread,
    }


def _differences(made: Findings, real: Findings, name: str) -> np.ndarray:
    """What is found of each onset less what is found of the real one within `WIDE`: (N,), without NaN."""
    pairs = match(made["onsets"].numpy(), real["onsets"].numpy(), WIDE)
    own, true = made[name].numpy(), real[name].numpy()
    found = np.array([own[i] - true[j] for i, j in pairs])
    return found[~np.isnan(found)]


def _median(values: Sequence[np.ndarray], seed: int, units: Units) -> dict[str, Any]:
    """Of all values (K,) of N clips in these units (N,)."""
    pooled = np.concatenate([np.empty(0), *values])
    return {
        "value": float(np.median(pooled)) if len(pooled) else None,
        "interval": pooled_median_interval(values, BOOTSTRAPS, seed, units),
        "n": len(pooled),
    }


def evenness(shares: Sequence[float], count: int) -> dict[str, float | None]:
    """Largest over smallest share of K classes, and how often even classes would be as uneven by chance.

    The latter is Pearson's chi-square test against equal shares of `count` clips.
    """
    observed = torch.tensor(shares, dtype=torch.float64) * count
    expected = count / len(shares)
    statistic = ((observed - expected) ** 2 / expected).sum()
    half = torch.tensor((len(shares) - 1) / 2, dtype=torch.float64)
    chance = float(torch.special.gammaincc(half, statistic / 2)) if len(shares) > 1 else 1.0
    least = min(shares)
    return {"largest_over_smallest": max(shares) / least if least else None, "p": chance}


def diversity(levels: Tensor) -> dict[str, float]:
    """How far apart sounds are, as the mean absolute difference of log-mel levels in dB.

    Args:
        levels: (G,K,M,L) of K samples for each of G given clips, G and K at least 2.

    Returns:
        `same`: between samples for one given clip; `others`: between those for different ones; `ratio`.
    """
    groups, samples = levels.shape[:2]
    flat = levels.flatten(0, 1).flatten(1).double()
    distances = torch.cdist(flat, flat, p=1) / flat.shape[1]
    owner = torch.arange(groups).repeat_interleave(samples)
    together = owner[:, None] == owner
    itself = torch.eye(len(flat), dtype=torch.bool)
    same = float(distances[together & ~itself].mean())
    others = float(distances[~together].mean())
    return {"same": same, "others": others, "ratio": same / others if others else 0.0}
