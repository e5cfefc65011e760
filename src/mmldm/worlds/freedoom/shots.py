"""Shots of the Freedoom world, seen and heard: by the pixels of the weapon's flash, by the sound's bang.

frames u8 (T,3,H,W) -> times (N,);  waveform (S,) -> times (M,), all in seconds and sorted

A flash is found by its colour where the weapon is. A bang is found by a template of its levels, before and
after, that is learnt from clips whose shots are known: growls and saws are as loud as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmldm.errors import UserError
from mmldm.media.resampling import resample
from mmldm.worlds.freedoom.game import TICS

# Flashes. The weapon stands in the middle, and sways a little.
ROWS = (0.39, 0.74)
"""Of the picture, from the top, in heights."""
ASIDE = 0.16
"""To both sides of the middle, in heights."""
RED, GREEN = 0.85, 0.6
"""Least red and green of a pixel of the flash, of full scale."""
LEAST_SHARE = 0.025
"""Of the place's pixels that the flash must have: a whole flash has .058, 99.9 % of others below .023."""

# Bangs.
RATE = 16_000
"""In Hz, at which sounds are looked at."""
HOP, WINDOW = 0.01, 0.025
"""Seconds."""
BANDS = 12
LOWEST = 80.0
"""Upper edge in Hz of what lies below all bands but the first; the bands' widths grow evenly in octaves."""
FLOOR = 1e-5
"""Energy below which nothing counts."""
BEFORE, AFTER = 6, 14
"""Hops of the template."""
NEAR, FAR = 0.006, 0.05
"""Seconds: a hop is one of a bang within the one, and of none beyond the other."""
LEAST_LOGIT = 1.0
LEAST_GAP = 15
"""Hops between two bangs; the weapon needs twice as many."""
DECAY = 1e-3
"""Weight of the template's squared norm."""
LEAST_BANGS = 20


def flash_shares(frames: Tensor) -> Tensor:
    """Share (T,) of pixels where the weapon is that have the flash's colour, of frames u8 (T,3,H,W)."""
    height, width = frames.shape[-2:]
    top, bottom = (round(height * edge) for edge in ROWS)
    reach = min(round(height * ASIDE), width // 2)
    place = frames[..., top:bottom, width // 2 - reach : width // 2 + reach].float() / 255
    return ((place[:, 0] > RED) & (place[:, 1] > GREEN)).float().mean((1, 2))


def detect_flashes(frames: Tensor, fps: float) -> np.ndarray:
    """Times (N,) at which a flash begins in frames u8 (T,3,H,W).

    The middle of the game's tics that the frame which shows it first may be the first to show. A flash that
    stands in the first frame began before the clip.
    """
    lit = (flash_shares(frames) > LEAST_SHARE).numpy()
    earlier = max(1 / fps - 1 / TICS, 0) / 2
    return (np.flatnonzero(lit[1:] & ~lit[:-1]) + 1) / fps - earlier


def levels(waveform: Tensor, sample_rate: int) -> Tensor:
    """Levels (L,12) in dB of a waveform (S,), of each hop and band."""
    sound = resample(waveform, sample_rate, RATE).double()
    length, hop = round(WINDOW * RATE), round(HOP * RATE)
    window = torch.hann_window(length, periodic=False, dtype=torch.float64)
    framed = F.pad(sound, (length // 2, length)).unfold(0, length, hop)[: len(sound) // hop]
    power = torch.fft.rfft(framed * window).abs().square() * 4 / window.sum().square()
    # Bands that widen by the octave; the first begins at 0.
    edges = np.geomspace(LOWEST, RATE / 2 + 1, BANDS + 1)
    edges[0] = 0
    bins = torch.fft.rfftfreq(length, 1 / RATE).numpy()
    filters = (bins >= edges[:-1, None]) & (bins < edges[1:, None])
    energy = power @ torch.from_numpy(filters.T.astype(np.float64))
    return 10 * torch.log10(energy + FLOOR)


def _patches(looks: Tensor) -> Tensor:
    """Levels (L,12) -> those about each hop (L,240), with the ends repeated."""
    padded = F.pad(looks.T[None], (BEFORE, AFTER - 1), mode="replicate")[0]
    return padded.unfold(1, BEFORE + AFTER, 1).permute(1, 0, 2).flatten(1)


class Bangs(NamedTuple):
    """A template of a bang.

    Attributes:
        mean: Levels (240,) in dB of sounds in general.
        scale: Their spread () in dB.
        weights: (240,).
        bias: ().
    """

    mean: Tensor
    scale: Tensor
    weights: Tensor
    bias: Tensor

    @property
    def sha256(self) -> str:
        """Of all numbers, in hex."""
        digest = hashlib.sha256()
        for tensor in self:
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def detect(self, waveform: Tensor, sample_rate: int) -> np.ndarray:
        """Times (M,) at which a bang begins in a waveform (S,), to `HOP`."""
        patches = (_patches(levels(waveform, sample_rate)) - self.mean) / self.scale
        logits = patches @ self.weights + self.bias
        around = F.max_pool1d(logits[None, None], 2 * LEAST_GAP + 1, 1, LEAST_GAP)[0, 0]
        return torch.nonzero((logits > LEAST_LOGIT) & (logits >= around))[:, 0].numpy() * HOP


def learn_bangs(sounds: Iterable[tuple[Tensor, int, np.ndarray]]) -> Bangs:
    """A template from sounds whose shots are known: logistic regression on levels, both kinds weighed alike.

    Args:
        sounds: Waveforms (S,), their rates, and the times (N,) of their shots in seconds.

    Raises:
        UserError: There are too few shots in them.
    """
    found, kinds = [], []
    for waveform, rate, shots in sounds:
        patches = _patches(levels(waveform, rate))
        times = torch.arange(len(patches)) * HOP
        distance = torch.full((len(times),), float("inf"), dtype=torch.float64)
        if len(shots):
            distance = (times[:, None] - torch.from_numpy(shots)).abs().amin(1)
        known = (distance < NEAR) | (distance > FAR)
        found.append(patches[known])
        kinds.append(distance[known] < NEAR)
    bangs = torch.cat(kinds).double() if kinds else torch.zeros(0)
    if bangs.sum() < LEAST_BANGS:
        raise UserError(
            f"the real clips hold {int(bangs.sum())} shots, and {LEAST_BANGS} are the least that a bang can "
            "be learnt from: make more with mmldm synthesize --world freedoom"
        )

    patches = torch.cat(found)
    mean, scale = patches.mean(0), patches.std()
    patches = (patches - mean) / scale
    weights = torch.zeros(patches.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    often = torch.where(bangs > 0, (1 - bangs).sum() / bangs.sum(), 1.0)
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=150)

    def loss() -> Tensor:
        optimiser.zero_grad()
        wrong = F.binary_cross_entropy_with_logits(patches @ weights + bias, bangs, often)
        total = wrong + DECAY * weights.square().sum()
        total.backward()
        return total

    optimiser.step(loss)
    return Bangs(mean, scale, weights.detach(), bias.detach())
