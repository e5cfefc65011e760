"""How far a waveform is from another as one hears it: spectra at several resolutions, and log-mel.

waveforms (B,S), references (B,S) -> distances (B,). Long windows tell pitches apart, short ones onsets.
Source: Yamamoto, Song & Kim 2020 ("Parallel WaveGAN").
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

WINDOWS = (1024, 512, 256, 128)
"""In samples; each moves on by a quarter."""
QUIET = 1e-4
"""Magnitude (of a full-scale sine: 1) below which logarithms level off."""


class SpectralDistance(NamedTuple):
    """Both (B,), means over `WINDOWS`.

    Attributes:
        convergence: Norm of the difference of the magnitudes, over that of the reference's.
        log_magnitude: Mean absolute difference of their logarithms, in nepers.
    """

    convergence: Tensor
    log_magnitude: Tensor


def spectral_distance(waveform: Tensor, reference: Tensor) -> SpectralDistance:
    """Distance of waveforms (B,S) from references (B,S); with gradient."""
    convergence, log_magnitude = [], []
    for size in WINDOWS:
        ours, wanted = _magnitudes(waveform, size), _magnitudes(reference, size)
        difference = (ours - wanted).flatten(1).norm(dim=1)
        convergence.append(difference / wanted.flatten(1).norm(dim=1).clamp(min=QUIET))
        ratio = torch.log((ours + QUIET) / (wanted + QUIET))
        log_magnitude.append(ratio.abs().flatten(1).mean(1))
    return SpectralDistance(torch.stack(convergence).mean(0), torch.stack(log_magnitude).mean(0))


def _magnitudes(waveform: Tensor, size: int) -> Tensor:
    """(B,S) -> (B,F,N); a full-scale sine has 1."""
    window = torch.hann_window(size, device=waveform.device)
    spectrum = torch.stft(
        waveform, size, size // 4, window=window, center=True, return_complex=True
    )
    # The root of zero has no gradient.
    power = spectrum.real.square() + spectrum.imag.square() + QUIET**2 / 100
    return power.sqrt() * (2 / window.sum())
