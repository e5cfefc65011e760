"""How sharp the ball is: what its outline and texture have of fine detail where it hardly moves.

frames u8 (T,3,H,W), track, arcs -> Sharpness: variance of the Laplacian and fine power, mean over slow frames

Frames in which the ball is fast are blurred by their exposure, and say nothing. Both numbers grow with grain
as with detail, so that only what equals real clips of the same material is right.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmldm.evaluation.looks import FINE, LUMA
from mmldm.worlds.impacts.arcs import Arcs, frame_speeds
from mmldm.worlds.impacts.motion import Track

SLOW = 0.7
"""Frame heights a second below which a frame is slow: 2.7 px of 128 in the longest exposure."""
REACH = 0.14
"""Radius in frame heights around the ball's centre in which its Laplacian counts: the outline is inside."""
MARGIN = 0.18
"""Radius at which the window of its spectrum falls to zero."""


class Sharpness(NamedTuple):
    """Means over slow frames; NaN where there are none.

    Attributes:
        laplacian: Variance of the Laplacian on the ball, in squares of 8-bit steps.
        fine: Power above a quarter of Nyquist's frequency on it, in the same unit, of a pixel.
        frames: Slow ones.
    """

    laplacian: float
    fine: float
    frames: int


def sharpness(frames: Tensor, path: Track, arcs: Arcs) -> Sharpness:
    """Sharpness of the ball in frames u8 (T,3,H,W) with this path."""
    slow = np.flatnonzero(path.kept & (frame_speeds(path, arcs) < SLOW))
    if not len(slow):
        return Sharpness(float("nan"), float("nan"), 0)
    height, width = frames.shape[-2:]
    # Grey squares (N,P,P) around the ball, as if the frame's edge went on; distances in frame heights.
    side = round(MARGIN * height)
    centres = torch.from_numpy(path.centres[slow]).float() * height
    offsets = torch.arange(-side, side + 1)
    columns, rows = (centres[:, k, None].floor().long() + offsets for k in (0, 1))
    grey = torch.einsum("tchw,c->thw", frames[slow].float(), torch.tensor(LUMA))
    picked = torch.arange(len(slow))[:, None, None]
    squares = grey[
        picked, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]
    ]
    x, y = columns + 0.5 - centres[:, :1], rows + 0.5 - centres[:, 1:]
    distances = (y[:, :, None] ** 2 + x[:, None] ** 2).sqrt() / height

    # Variance of the Laplacian over pixels on the ball.
    inner = squares[:, 1:-1, 1:-1]
    across = squares[:, 1:-1, :-2] + squares[:, 1:-1, 2:]
    along = squares[:, :-2, 1:-1] + squares[:, 2:, 1:-1]
    laplacian = across + along - 4 * inner
    on_ball = (distances[:, 1:-1, 1:-1] < REACH).float()
    count = on_ball.sum((1, 2))
    mean = (laplacian * on_ball).sum((1, 2)) / count
    squared = (laplacian**2 * on_ball).sum((1, 2)) / count
    # Power of what is left of the mean under a window, by frequency.
    window = torch.cos(distances.clamp(max=MARGIN) * (torch.pi / (2 * MARGIN))) ** 2
    level = (squares * window).sum((1, 2)) / window.sum((1, 2))
    spectrum = torch.fft.fft2((squares - level[:, None, None]) * window).abs() ** 2
    frequencies = torch.fft.fftfreq(len(offsets))
    fine = (frequencies[:, None] ** 2 + frequencies**2).sqrt() > FINE
    power = (spectrum * fine).sum((1, 2)) / len(offsets) ** 2 / (window**2).sum((1, 2))
    return Sharpness(float((squared - mean**2).mean()), float(power.mean()), len(slow))
