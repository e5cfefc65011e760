"""Sync: how many of the impacts one sees are heard, and how many of the onsets one hears are seen.

clips -> onset and impact times of each -> report with recall, precision and anchors

Source: DESIGN §8. Everything comes from pixels and waveform; no ground truth is used, so real,
reconstructed and generated clips pass through the same detectors (`onsets`, `motion`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mmldm.errors import UserError
from mmldm.evaluation.onsets import detect_onsets
from mmldm.media.clip import Clip
from mmldm.worlds.impacts import motion

SHUFFLES = 8
BOOTSTRAPS = 1000


@dataclass(frozen=True)
class Moments:
    """What one clip shows and sounds, times in seconds.

    Attributes:
        last: Time of the last frame; later onsets have nothing to be seen with.
        kept: Share of frames in which the ball is seen.
        ballistic: Share of inner frames at which it moves as gravity alone would move it.
    """

    onsets: np.ndarray
    impacts: np.ndarray
    last: float
    kept: float
    ballistic: float


@dataclass(frozen=True)
class Counts:
    """Matches of one picture with one sound; recall and precision are ratios of sums of these."""

    impacts: int
    impacts_heard: int
    onsets: int
    onsets_seen: int


def match(onsets: np.ndarray, impacts: np.ndarray, tolerance: float) -> list[tuple[int, int]]:
    """Largest one-to-one pairing of sorted times within `tolerance` seconds, as index pairs."""
    pairs = []
    i = j = 0
    while i < len(onsets) and j < len(impacts):
        if abs(onsets[i] - impacts[j]) <= tolerance:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif onsets[i] < impacts[j]:
            i += 1
        else:
            j += 1
    return pairs


def sync(onsets: np.ndarray, impacts: np.ndarray, tolerance: float, last: float) -> Counts:
    """Counts for one pair of picture and sound; onsets after `last` are free but may match."""
    pairs = match(onsets, impacts, tolerance)
    visible = onsets <= last
    seen = sum(bool(visible[i]) for i, _ in pairs)
    return Counts(len(impacts), len(pairs), int(visible.sum()), seen)


def lags(onsets: np.ndarray, impacts: np.ndarray, tolerance: float) -> np.ndarray:
    """How much later each matched sound is than its picture (N,), in seconds."""
    return np.array([onsets[i] - impacts[j] for i, j in match(onsets, impacts, tolerance)])


def detect(clips: Sequence[Clip], empty: Tensor | None = None) -> list[Moments]:
    """Runs both detectors on every clip.

    Args:
        empty: Background (3,H,W) u8 of all clips; their per-pixel median if None.

    Raises:
        UserError: Fewer than four frames, or clips of different sizes.
    """
    if not clips:
        raise UserError("there are no clips to measure alignment on")
    sizes = {tuple(clip.frames.shape[-2:]) for clip in clips}
    if len(sizes) > 1 or min(len(clip.frames) for clip in clips) < 4:
        raise UserError("alignment needs clips of one picture size and at least 4 frames each")
    empty = motion.background([clip.frames for clip in clips]) if empty is None else empty
    found = []
    for clip in clips:
        path = motion.track(clip.frames, clip.fps, empty)
        found.append(
            Moments(
                onsets=detect_onsets(clip.waveform, clip.sample_rate),
                impacts=motion.detect_impacts(path),
                last=(len(clip.frames) - 1) / clip.fps,
                kept=float(path.kept.mean()),
                ballistic=float(motion.ballistic(path).mean()),
            )
        )
    return found


def alignment_report(
    clips: Sequence[Clip],
    tolerances: Sequence[float] = (0.05, 0.1),
    empty: Tensor | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Sync of a set of clips of the impacts world, beside the same set with its sounds shuffled.

    Args:
        tolerances: In seconds.
        empty: Background (3,H,W) u8; the clips' per-pixel median if None.
        seed: Of the shuffles and the bootstrap.

    Returns:
        What `sync_report` says of the detected moments.
    """
    return sync_report(detect(clips, empty), tolerances, seed)


def sync_report(
    found: Sequence[Moments], tolerances: Sequence[float] = (0.05, 0.1), seed: int = 0
) -> dict[str, Any]:
    """Sync of a set of clips from what was detected in each.

    Args:
        tolerances: In seconds.
        seed: Of the shuffles and the bootstrap.

    Returns:
        A JSON-ready dict. `recall` is the share of impacts with an onset within the tolerance,
        `precision` the share of onsets with an impact, `error_ms` the mean absolute distance in
        time of matched ones, in ms; each comes with a 95 % bootstrap interval over clips and with
        its `shuffled` value (mean over derangements; None for one clip), the level that pictures
        and sounds of these rates reach by chance. `offset_ms` is the mean signed distance, positive
        where the sound is late. A value is None where there was nothing to count.
    """
    rng = np.random.default_rng(seed)
    report: dict[str, Any] = {
        "clips": len(found),
        "onsets_per_clip": float(np.mean([len(moments.onsets) for moments in found])),
        "impacts_per_clip": float(np.mean([len(moments.impacts) for moments in found])),
        "ball_kept": float(np.mean([moments.kept for moments in found])),
        "ballistic": float(np.mean([moments.ballistic for moments in found])),
        "sync": [],
    }
    resamples = rng.integers(len(found), size=(BOOTSTRAPS, len(found)))
    derangements = [derangement(len(found), rng) for _ in range(SHUFFLES)] if found[1:] else []
    for tolerance in tolerances:
        own = _count(found, np.arange(len(found)), tolerance)
        foreign = np.concatenate(
            [np.zeros((0, 6)), *(_count(found, order, tolerance) for order in derangements)]
        )
        row: dict[str, Any] = {"tolerance": tolerance}
        for name, (hit, total) in {
            "recall": (1, 0),
            "precision": (3, 2),
            "error_ms": (4, 1),
        }.items():
            drawn = own[resamples].sum(1)
            ratios = drawn[:, hit] / np.maximum(drawn[:, total], 1)
            row[name] = _ratio(own, hit, total)
            row[f"{name}_interval"] = np.quantile(ratios, [0.025, 0.975]).tolist()
            row[f"{name}_shuffled"] = _ratio(foreign, hit, total)
        row["offset_ms"] = _ratio(own, 5, 1)
        report["sync"].append(row)
    return report


def _count(found: Sequence[Moments], order: np.ndarray, tolerance: float) -> np.ndarray:
    """Sums (N,6) for each picture with the sound of clip `order[n]`.

    The four `Counts`, then absolute and signed lag in ms, summed over matches.
    """
    rows = []
    for moments, other in zip(found, order.tolist(), strict=True):
        onsets = found[other].onsets
        counts = sync(onsets, moments.impacts, tolerance, moments.last)
        late = 1000 * lags(onsets, moments.impacts, tolerance)
        rows.append([*astuple(counts), np.abs(late).sum(), late.sum()])
    return np.array(rows)


def _ratio(counts: np.ndarray, hit: int, total: int) -> float | None:
    sums = counts.sum(0)
    return float(sums[hit] / sums[total]) if sums[total] else None


def derangement(count: int, rng: np.random.Generator) -> np.ndarray:
    """An order (N,) of `count` > 1 items in which none keeps its place."""
    shuffled = rng.permutation(count)
    order = np.empty(count, dtype=int)
    order[shuffled] = np.roll(shuffled, rng.integers(1, count))
    return order
