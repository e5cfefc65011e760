"""The front end of Google's AudioSet networks: log-mel patches of sound at 16 kHz.

waveform (S,) at any rate -> patches (W,96,64): 96 columns of 10 ms, 64 mel bands from 125 to 7500 Hz

Source: Hershey et al., "CNN architectures for large-scale audio classification", ICASSP 2017, and the
front end released with VGGish: its triangles are straight lines over mels, where those of
`media.spectrogram` are over hertz.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmldm.media.resampling import resample
from mmldm.media.spectrogram import hz_to_mel

SAMPLE_RATE = 16_000
WINDOW, HOP, FFT = 400, 160, 512
BANDS, COLUMNS = 64, 96
F_MIN, F_MAX = 125.0, 7500.0
LEAST_SAMPLES = WINDOW + (COLUMNS - 1) * HOP
"""At 16 kHz, for one patch: 0.975 s."""


def log_mel(waveform: Tensor, log_offset: float) -> Tensor:
    """Natural logarithms (L,64) of mel magnitudes of a waveform (S,) at 16 kHz, S >= 400.

    Args:
        log_offset: Added to magnitudes before the logarithm.
    """
    frames = waveform.float().unfold(0, WINDOW, HOP) * torch.hann_window(WINDOW)
    magnitudes = torch.fft.rfft(frames, FFT).abs()
    return torch.log(magnitudes @ mel_weights() + log_offset)


def patches(waveform: Tensor, sample_rate: int, log_offset: float, hop: int) -> Tensor:
    """Patches (W,96,64) of a waveform (S,), W >= 1.

    What does not fill a last patch is left out; a sound shorter than one patch is continued with silence.

    Args:
        sample_rate: Of the waveform, in Hz.
        log_offset: As in `log_mel`.
        hop: Columns between the starts of two patches.
    """
    sound = resample(waveform, sample_rate, SAMPLE_RATE)
    sound = F.pad(sound, (0, max(0, LEAST_SAMPLES - len(sound))))
    return log_mel(sound, log_offset).unfold(0, COLUMNS, hop).mT


def mel_weights() -> Tensor:
    """Mel bands of magnitude bins (257,64), triangles of height 1 over mels."""
    low, high = hz_to_mel(torch.tensor([F_MIN, F_MAX], dtype=torch.float64), "htk").tolist()
    edges = torch.linspace(low, high, BANDS + 2, dtype=torch.float64)
    bins = torch.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1, dtype=torch.float64)
    mels = hz_to_mel(bins, "htk")[:, None]
    rising = (mels - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mels) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()
