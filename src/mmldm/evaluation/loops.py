"""Whether films repeat themselves, or each other: self-similarity, and several continuations of one prefix.

fingerprints of R films of W windows -> similarities, loops;  of P x 8 continuations -> diversity, copies

Source of the loop detection: R-FLAV, 2025 (a self-similarity matrix over 240 frames, by LPIPS there, by
fingerprints in grey here).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmldm.evaluation.features import Findings
from mmldm.evaluation.intervals import Interval, quantile_interval, wilson
from mmldm.evaluation.memorisation import Neighbours
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.rollouts import CONTINUED, SEEDS
from mmldm.evaluation.values import Side
from mmldm.types import AV

RARE = 0.95
"""Quantile of real films above which a film repeats itself."""
NEAR = 0.01
"""Quantile of real distances below which two windows are one."""


def lag_similarities(film: Side, frames: int) -> Tensor:
    """r(k) (L,) of lags from a window to half of the film: mean cosine of frames less the film's mean frame.

    Args:
        film: Fingerprints of its windows.
        frames: Of a window.
    """
    looks = torch.cat([own["video"].reshape(frames, -1) for own in film]).double()
    looks = torch.nn.functional.normalize(looks - looks.mean(0), dim=1)
    matrix = looks @ looks.T
    lags = range(frames, len(looks) // 2 + 1)
    return torch.stack([matrix.diagonal(lag).mean() for lag in lags])


@dataclass(frozen=True)
class Loops:
    """How like itself each film of a set is.

    Attributes:
        similarity: The highest r(k) of a film, median over films.
        interval: 95 % of it.
        lag: Seconds of that lag, median over films.
        share: Of films above `threshold`; None without one.
        share_interval: 95 % of it.
        threshold: The `RARE` quantile of real films.
    """

    similarity: float
    interval: Interval | None
    lag: float
    share: float | None
    share_interval: Interval | None
    threshold: float | None


def loops(films: Mapping[str, Sequence[Side]], protocol: Protocol) -> dict[str, Loops]:
    """Loops of each set of films, by its name; those of "real" say what is one.

    Args:
        films: Fingerprints, of at least three windows a film.
    """
    spec = protocol.spec
    highest = {
        name: [lag_similarities(film, spec.num_frames).max(0) for film in own]
        for name, own in films.items()
    }
    peaks = {name: np.array([p.values.item() for p in own]) for name, own in highest.items()}
    threshold = float(np.quantile(peaks["real"], RARE)) if "real" in peaks else None
    told = {}
    for name, own in peaks.items():
        share = None if threshold is None else float((own > threshold).mean())
        lags = [(p.indices.item() + spec.num_frames) / spec.fps for p in highest[name]]
        told[name] = Loops(
            float(np.median(own)),
            quantile_interval(own, 0.5, protocol.bootstraps, protocol.seed),
            float(np.median(lags)),
            share,
            None if share is None else wilson(share, len(own)),
            threshold,
        )
    return told


def continued(
    own: Sequence[Side], real: Sequence[Side], anchor: Side, protocol: Protocol
) -> dict[str, Any]:
    """What `SEEDS` continuations of each of P prefixes have in common.

    Distances are those of fingerprints: two real windows drawn at random are 1 apart.

    Args:
        own: Fingerprints of the windows of each film, prefix first, the films of a prefix in a row.
        real: Those of real films; they say how near a window is to the one before it.
        anchor: Those of real windows; how near real windows are to these says what is a copy.

    Returns:
        JSON-ready: by window after the prefix, `diversity` (mean distance of two seeds) and `others`, the
        same of different prefixes; `prefix_copies`, `seed_copies`: shares, and the distances below which
        something counts as one.
    """
    neighbours = Neighbours(_stacked(anchor))

    def placed(films: Sequence[Side]) -> Tensor:
        """(R,W,D): where distances are Euclidean."""
        return torch.stack([neighbours.embed(_stacked(film)) for film in films])

    prefixes = placed(own).unflatten(0, (-1, SEEDS))  # P 8 W D
    count = len(prefixes)
    pairs = torch.triu_indices(SEEDS, SEEDS, 1)
    windows = []
    for window in range(1, 1 + CONTINUED):
        rows = prefixes[:, :, window]
        within = torch.cdist(rows, rows)[:, pairs[0], pairs[1]].mean(1)
        across = torch.cdist(rows.flatten(0, 1), rows.flatten(0, 1))
        of_prefix = torch.arange(count).repeat_interleave(SEEDS)
        other = across[of_prefix[:, None] != of_prefix]
        windows.append(
            {
                "diversity": within.mean().item(),
                "interval": _mean_interval(within.numpy(), protocol),
                "others": other.mean().item() if len(other) else None,
            }
        )

    # Copies: nearer than real windows are to the one before, or to any.
    following = prefixes[:, :, 1:]
    to_prefix = (following - prefixes[:, :, :1]).norm(dim=3).flatten()
    first = following[:, :, 0]
    to_seed = torch.cdist(first, first)[:, pairs[0], pairs[1]].flatten()
    told: dict[str, Any] = {"prefixes": count, "seeds": SEEDS, "windows": windows}
    if len(real):
        films = placed(real)
        steps = (films[:, 1:] - films[:, :-1]).norm(dim=2).flatten()
        told["prefix_copies"] = _below(to_prefix, steps.quantile(NEAR))
        held_out = neighbours.nearest(_stacked([x for film in real for x in film]))[0]
        told["seed_copies"] = _below(to_seed, held_out.quantile(NEAR))
    return told


def _below(distances: Tensor, near: Tensor) -> dict[str, Any]:
    """Share of distances (N,) below a distance (), with both."""
    share = (distances < near).double().mean().item()
    return {"share": share, "interval": wilson(share, len(distances)), "near": near.item()}


def _mean_interval(values: np.ndarray, protocol: Protocol) -> Interval | None:
    """95 % of the mean of values (N,) by bootstrap."""
    if len(values) < 2:
        return None
    rng = np.random.default_rng(protocol.seed)
    means = values[rng.integers(len(values), size=(protocol.bootstraps, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _stacked(side: Side | Sequence[Findings]) -> AV[Tensor]:
    """Fingerprints AV((N,A), (N,V)) of N windows."""
    return AV.zip(AV(own["audio"], own["video"]) for own in side).map(torch.stack)


def as_dict(found: Mapping[str, Loops]) -> dict[str, Any]:
    """JSON-ready."""
    return {name: asdict(own) for name, own in found.items()}
