"""What clips of anything look and sound like as a whole: loudness, colour, fine detail.

clips -> numbers that need no knowledge of what is shown; `long` follows them from window to window
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmldm.evaluation.features import Findings, Measure
from mmldm.media.clip import Clip

FINE = 0.125
"""Cycles a pixel above which power is fine: a quarter of Nyquist's."""
LUMA = 0.299, 0.587, 0.114
"""Weights of red, green and blue in grey (BT.601)."""
LEAST_ENERGY = 1e-10
"""Below which no level falls: -100 dB."""


class Levels(Measure):
    """How loud a clip is: "level" () in dB of full scale, root mean square."""

    name = "level"

    def __call__(self, clips: Sequence[Clip]) -> list[Findings]:
        return [
            {"level": 10 * clip.waveform.double().square().mean().clamp(min=LEAST_ENERGY).log10()}
            for clip in clips
        ]


class Looks(Measure):
    """How a picture is, over all frames: mean "colour" (3,) in 8-bit steps, and fine power "fine" ()."""

    name = "looks"

    def __call__(self, clips: Sequence[Clip]) -> list[Findings]:
        return [
            {
                "colour": clip.frames.double().mean((0, 2, 3)),
                "fine": torch.tensor(fine_power(clip.frames), dtype=torch.float64),
            }
            for clip in clips
        ]


def levels_of(*_: object) -> Levels:
    """The measure; it needs nothing real."""
    return Levels()


def looks_of(*_: object) -> Looks:
    """The measure; it needs nothing real."""
    return Looks()


def fine_power(frames: Tensor) -> float:
    """Power above a quarter of Nyquist's frequency in frames u8 (T,3,H,W): floor, walls, what is fine.

    In squares of 8-bit steps, of a pixel, mean over frames.
    """
    grey = torch.einsum("tchw,c->thw", frames.float(), torch.tensor(LUMA))
    height, width = grey.shape[-2:]
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)
    level = (grey * window).sum((1, 2), keepdim=True) / window.sum()
    spectrum = torch.fft.fft2((grey - level) * window).abs().square()
    across, down = torch.fft.fftfreq(width), torch.fft.fftfreq(height)
    fine = (down[:, None] ** 2 + across**2).sqrt() > FINE
    power = (spectrum * fine).sum((1, 2)) / (height * width) / window.square().sum()
    return float(power.mean())
