"""What several networks share: a trained batch norm, and the sound that AudioSet's networks see.

maps (B,C,...) -> maps (B,C,...) by statistics that no longer change
waveform (S,) at any rate -> patches (W,96,64): 96 columns of 10 ms, 64 mel bands from 125 to 7500 Hz

Source: Ioffe and Szegedy, "Batch normalization", ICML 2015; Hershey et al., "CNN architectures for
large-scale audio classification", ICASSP 2017, and the front end released with VGGish.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmldm.media.resampling import resample
from mmldm.media.spectrogram import hz_to_mel

SAMPLE_RATE = 16_000
WINDOW, HOP, FFT = 400, 160, 512
"""Samples of a frame, from one frame to the next, and of its transform."""
BANDS, COLUMNS = 64, 96
F_MIN, F_MAX = 125.0, 7500.0
LEAST_SAMPLES = WINDOW + (COLUMNS - 1) * HOP
"""At 16 kHz, for one patch: 0.975 s."""


class FrozenNorm(nn.Module):
    """A trained batch norm. torch's own would ask the file for a counter that old files lack.

    Args:
        channels: C.
        epsilon: Added to the variance.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.epsilon = epsilon
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Normalised maps (B,C,...) of maps (B,C,...)."""
        statistics = self.running_mean, self.running_var
        return F.batch_norm(maps, *statistics, self.weight, self.bias, eps=self.epsilon)


def patches(waveform: Tensor, sample_rate: int, log_offset: float, hop: int) -> Tensor:
    """Patches (W,96,64) of a waveform (S,), W >= 1.

    What does not fill a last patch is left out. Silence continues a sound that is shorter than one patch.

    Args:
        sample_rate: Of the waveform, in Hz.
        log_offset: As in `log_mel`.
        hop: Columns between the starts of two patches.
    """
    sound = resample(waveform, sample_rate, SAMPLE_RATE)
    sound = F.pad(sound, (0, max(0, LEAST_SAMPLES - len(sound))))
    return log_mel(sound, log_offset).unfold(0, COLUMNS, hop).mT


def covered(seconds: float, hop: int) -> float:
    """Seconds from its start that the patches of a sound cover, which lie `hop` columns apart."""
    samples = round(seconds * SAMPLE_RATE)
    following = max(0, samples - LEAST_SAMPLES) // (hop * HOP)
    return min(samples, LEAST_SAMPLES + following * hop * HOP) / SAMPLE_RATE


def log_mel(waveform: Tensor, log_offset: float) -> Tensor:
    """Natural logarithms (L,64) of mel magnitudes of a waveform (S,) at 16 kHz, S >= 400.

    Args:
        log_offset: Added to magnitudes before the logarithm.
    """
    frames = waveform.float().unfold(0, WINDOW, HOP) * torch.hann_window(WINDOW)
    magnitudes = torch.fft.rfft(frames, FFT).abs()
    return torch.log(magnitudes @ mel_weights() + log_offset)


def mel_weights() -> Tensor:
    """Weights (257,64) of magnitude bins in mel bands: triangles of height 1."""
    low, high = hz_to_mel(torch.tensor([F_MIN, F_MAX], dtype=torch.float64), "htk").tolist()
    edges = torch.linspace(low, high, BANDS + 2, dtype=torch.float64)
    bins = torch.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1, dtype=torch.float64)
    # The sides of these triangles are straight over mels; those of `media.spectrogram` are over hertz.
    mels = hz_to_mel(bins, "htk")[:, None]
    rising = (mels - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mels) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()
