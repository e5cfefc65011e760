"""What is followed from window to window of films of the impacts world, and seen where their windows meet.

clips -> Kicks: what gravity does not explain of the ball's motion at each frame; numbers to follow
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mmldm.evaluation.clipwise import ClipMedian, ClipRatio, Counts
from mmldm.evaluation.drift import Watched, WatchedMedian, WatchedRatio
from mmldm.evaluation.features import Findings, Measure
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.sets import ClipSet
from mmldm.evaluation.values import Number
from mmldm.media.clip import Clip
from mmldm.types import Modality, Progress
from mmldm.worlds.impacts import motion
from mmldm.worlds.impacts.metrics import METRICS, Impacts, impacts_of

FOLLOWED: dict[str, Modality | None] = {
    "sync-recall-20": None,
    "sync-precision-20": None,
    "sync-recall-50": None,
    "sync-precision-50": None,
    "ball-kept": "video",
    "ballistic": "video",
    "jitter": "video",
}
"""Of the world's numbers of clips, and the modality that each tells of alone."""


class Kicks(Measure):
    """Kicks at the beginning of each frame but the first, in pixels: "kicks" (T-1,).

    A kick is what gravity does not explain of a second difference of the ball's path. Two of them cross the
    beginning of a frame, and the smaller one is told: a hit before or after shows in one of them, a ball that
    jumps there in both. NaN at both ends, and where the ball is not seen.

    Args:
        empty: Background (3,H,W) u8.
    """

    name = "kicks"

    def __init__(self, empty: Tensor) -> None:
        self.empty = empty
        self.identity = f"{hashlib.sha256(empty.numpy().tobytes()).hexdigest()}, the smaller"

    def __call__(self, clips: Sequence[Clip]) -> list[Findings]:
        found: list[Findings] = []
        for clip in clips:
            path = motion.track(clip.frames, clip.fps, self.empty)
            sizes = np.linalg.norm(motion.kicks(path), axis=1) * clip.frames.shape[-2]
            seen = path.kept[:-2] & path.kept[1:-1] & path.kept[2:]
            sizes = np.where(seen, sizes, np.nan)
            between = np.minimum(sizes[:-1], sizes[1:])
            found.append({"kicks": torch.from_numpy(np.pad(between, 1, constant_values=np.nan))})
        return found


def kicks_of(real: ClipSet, protocol: Protocol, progress: Progress) -> Kicks:
    """Kicks before the background of these clips."""
    return Kicks(impacts_of(real, protocol, progress).empty)


def impact_rate(duration: float, heard: Findings, seen: Findings) -> Counts:
    """Impacts, and the seconds in which they are seen."""
    return float(len(seen["impacts"])), duration


def watched(protocol: Protocol) -> list[Watched]:
    """Numbers of the world, window by window."""
    rate = Number("impacts-per-second", "impacts a second", "like real")
    counts = partial(impact_rate, protocol.spec.duration)
    found: list[Watched] = []
    for metric in METRICS:
        names = [number.name for number in metric.numbers]
        if names[0] not in FOLLOWED:
            continue
        if isinstance(metric, ClipRatio):
            found.append(WatchedRatio(metric, FOLLOWED[names[0]]))
        elif isinstance(metric, ClipMedian):
            found.append(WatchedMedian(metric, FOLLOWED[names[0]]))
    return [*found, WatchedRatio(ClipRatio("impacts-path", rate, Impacts.name, counts), "video")]
