"""When something is struck: impacts of the ball seen in frames, from its path alone.

frames u8 (T,3,H,W) -> track (T,2) -> impact times (N,) in seconds

The ball is what is brighter than the background; its centroid is tracked to a fraction of a pixel.
A hit at fraction f between frames k and k + 1 changes the velocity by J, which shows as J (1 - f)
and J f in the second differences at k and k + 1, on top of gravity: the split gives the time inside
the frame interval. For clips of the impacts world (`mmldm.worlds.impacts.clips`) with one ball.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmldm.worlds.impacts.physics import GRAVITY

CONTRAST = 0.06, 0.16
"""Brightness over the background (in [0,1]) at which a pixel starts to count, and counts fully."""
BALL_BOX = 0.36
"""Side of the window around the strongest blob that is taken for the ball, in frame heights."""
LEAST_AREA = 3.14 * (4.5 / 64) ** 2
"""A ball seen with less area than this (squared frame heights) counts as lost."""
LEAST_KICK = 0.45
"""Smallest change of velocity, in frame heights per second, that counts as an impact."""
STILL = 0.5 / 64
"""Vertical steps below this mean that the floor carries the ball."""
BALLISTIC_TOLERANCE = 2 / 64
"""Frame heights per frame squared."""


@dataclass(frozen=True)
class Track:
    """A ball's path through a clip, in frame heights, y down.

    Attributes:
        centres: (T,2) x and y.
        kept: (T,) bool, whether the ball is seen.
        fps: Frames per second.
        radius: Of a disc as large as the ball is seen, median over frames that see it.
        width: Of a frame.
    """

    centres: np.ndarray
    kept: np.ndarray
    fps: float
    radius: float
    width: float = 1.0


def background(clips: Sequence[Tensor], most: int = 256) -> Tensor:
    """Per-pixel median (3,H,W) u8 over at most `most` frames drawn evenly from frames (T,3,H,W)."""
    # Numbers of frames over all clips, and the clip that each is in.
    total = sum(len(frames) for frames in clips)
    step = max(total / most, 1.0)
    wanted = (torch.arange(min(total, most)) * step).long()
    bounds = torch.tensor([0, *[len(frames) for frames in clips]]).cumsum(0)
    owners = torch.searchsorted(bounds, wanted, right=True) - 1
    picked = [
        clips[owner][index - bounds[owner]]
        for owner, index in zip(owners.tolist(), wanted.tolist(), strict=True)
    ]
    return torch.stack(picked).median(0).values


def track(frames: Tensor, fps: float, empty: Tensor | None = None) -> Track:
    """Follows the ball through frames u8 (T,3,H,W).

    Args:
        empty: Background (3,H,W) u8; the median of these frames if None, which fails for a ball
            that rests for half of the clip.
    """
    height = frames.shape[-2]
    empty = background([frames]) if empty is None else empty
    # How certainly a pixel is not background.
    excess = (frames.float() - empty.float()).amax(1) / 255
    seen = ((excess - CONTRAST[0]) / (CONTRAST[1] - CONTRAST[0])).clamp(0, 1)
    side = 2 * round(BALL_BOX * height / 2) + 1
    # Sums over boxes from sums over rows and columns, whatever the size of the box.
    mass = _running(_running(seen, side, 1), side, 2)
    # The box that holds most of it is around the ball: what lies outside it is noise.
    best = mass.flatten(1).argmax(1)
    rows, columns = best // seen.shape[-1], best % seen.shape[-1]
    y = torch.arange(seen.shape[-2])
    x = torch.arange(seen.shape[-1])
    near_y = (y - rows[:, None]).abs() <= side // 2
    near_x = (x - columns[:, None]).abs() <= side // 2
    ball = seen * near_y[:, :, None] * near_x[:, None, :]
    # Centroid, in pixels, of what is in the box.
    area = ball.sum((1, 2))
    weight = ball / area.clamp(min=1e-6)[:, None, None]
    centres = torch.stack(
        [(weight.sum(1) * (x + 0.5)).sum(1), (weight.sum(2) * (y + 0.5)).sum(1)], dim=1
    )
    area = area / height**2
    kept = area >= LEAST_AREA
    radius = float((area[kept].median() / torch.pi).sqrt()) if kept.any() else 0.0
    return Track((centres / height).numpy(), kept.numpy(), fps, radius, frames.shape[-1] / height)


def _running(x: Tensor, side: int, axis: int) -> Tensor:
    """Sums over `side` neighbours along an axis of (T,H,W), zero beyond its ends: the same shape."""
    before = [1 + side // 2, side // 2]
    padding = [*before, 0, 0] if axis == 2 else [0, 0, *before]
    total = F.pad(x, padding).double().cumsum(axis)
    count = x.shape[axis]
    return total.narrow(axis, side, count) - total.narrow(axis, 0, count)


def kicks(path: Track) -> np.ndarray:
    """What gravity does not explain of the second differences (T-2,2), frame heights per frame."""
    steps = np.diff(path.centres, axis=0)
    extra = np.diff(steps, axis=0)
    # Where the floor carries the ball, gravity does not show.
    carried = np.maximum(np.abs(steps[1:, 1]), np.abs(steps[:-1, 1])) < STILL
    extra[:, 1] -= np.where(carried, 0.0, GRAVITY / path.fps**2)
    return extra


def detect_impacts(path: Track) -> np.ndarray:
    """Times (N,) in seconds, sorted, at which the ball was struck hard enough to be heard.

    Against the ground truth of 180 clips at 64 x 64 and 10 fps: recall 0.90, precision 0.94 within
    50 ms and 0.93, 0.96 within 100 ms, standard error 13 ms, the same after H.264. What it misses
    are bounces less than two frames apart. At 30 fps 0.96, 0.99 and 5 ms.
    """
    # One hit after the other, hardest first; what explains it is taken out before the next is looked for.
    left = np.pad(kicks(path), ((1, 1), (0, 0)))
    times = []
    for _ in range(len(left)):
        # A hit between frames k and k + 1 shows in the second differences at both, in one direction.
        pair = left[:-1] + left[1:]
        pair[(left[:-1] * left[1:]).sum(1) < 0] = 0
        sizes = np.linalg.norm(pair, axis=1)
        k = int(sizes.argmax())
        if sizes[k] * path.fps < LEAST_KICK:
            break
        # Its split over the two says when in the interval it was.
        direction = pair[k] / sizes[k]
        shares = np.maximum(left[k : k + 2] @ direction, 0)
        times.append((k + shares[1] / shares.sum()) / path.fps)
        left[k : k + 2] -= shares[:, None] * direction
    return np.sort(times)


def ballistic(path: Track) -> np.ndarray:
    """(T-2,) bool: inner frames at which the ball moves as gravity alone would move it."""
    extra = np.diff(path.centres, n=2, axis=0) - [0.0, GRAVITY / path.fps**2]
    return (np.abs(extra) <= BALLISTIC_TOLERANCE).all(1)
