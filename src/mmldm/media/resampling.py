"""Waveforms at another sample rate: band-limited interpolation by a windowed sinc.

waveform (..., S) at one rate -> waveform (..., ceil(S * new / old)) at another

For networks that were trained at a rate of their own. Source: Smith, "Digital Audio Resampling Home Page",
CCRMA 2002; Kaiser window.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ZERO_CROSSINGS = 32
"""Of the sinc on each side of its peak, at the lower of the two rates."""
ROLLOFF = 0.95
"""Cut-off frequency over the lower of the two Nyquist frequencies."""
KAISER_BETA = 10.0
"""Side lobes of the window are 100 dB down."""


def resample(waveform: Tensor, rate: int, new_rate: int) -> Tensor:
    """Resamples waveforms (..., S); sample 0 stays sample 0, beyond both ends is silence.

    Args:
        rate: Of the waveform, in Hz.
        new_rate: Wanted, in Hz.
    """
    if rate == new_rate:
        return waveform
    divisor = math.gcd(rate, new_rate)
    down, up = rate // divisor, new_rate // divisor
    kernels, reach = _kernels(down, up)
    *batch, length = waveform.shape
    new_length = -(-length * up // down)
    # Every `down` samples that are read give `up` new ones, one for each kernel.
    steps = -(-new_length // up)
    missing = (steps - 1) * down + kernels.shape[1] - length - reach
    padded = F.pad(waveform.reshape(-1, 1, length), (reach, max(missing, 0)))
    blocks = F.conv1d(padded, kernels.to(waveform)[:, None], stride=down)[..., :steps]
    return blocks.mT.reshape(*batch, -1)[..., :new_length]


def _kernels(down: int, up: int) -> tuple[Tensor, int]:
    """Filters (up, K) f64 for the instants n * down / up, n < up, and how far they reach back."""
    # Distances (up, K) from each new instant to the old samples around it, in zero crossings of the sinc.
    cutoff = ROLLOFF * min(1.0, up / down)
    reach = math.ceil(ZERO_CROSSINGS / cutoff)
    offsets = torch.arange(-reach, reach + down + 1, dtype=torch.float64)
    instants = torch.arange(up, dtype=torch.float64)[:, None] * down / up
    distance = (offsets - instants) * cutoff
    # Kaiser's window over as many zero crossings on each side.
    inside = (1 - (distance / ZERO_CROSSINGS).square()).clamp(min=0).sqrt()
    window = torch.special.i0(KAISER_BETA * inside) / torch.special.i0(torch.tensor(KAISER_BETA))
    window = torch.where(distance.abs() <= ZERO_CROSSINGS, window, 0)
    return cutoff * torch.sinc(distance) * window, reach
