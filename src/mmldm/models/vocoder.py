"""The project's own vocoder, in the place of the paper's HiFi-GAN (MM-LDM §4.1).

log-mel magnitudes in dB (B,M,L) -> complex spectra (B,F,N) -> waveform (B, L * hop_length). ConvNeXt blocks
at the rate of the columns and an inverse Fourier head: Siuzdak 2023 ("Vocos"). Its sub-columns are shorter
than the spectrogram's, so that an onset can lie between two of them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from mmldm.errors import UserError
from mmldm.types import SpectrogramSpec

LOUDEST = 6.0
"""Bound of predicted log magnitudes, so that no early step overflows."""
FIRST_LEVEL = -3.0
"""Log magnitude that an untrained head predicts, near that of a quiet sound."""


class FourierVocoder(ModelMixin, ConfigMixin):
    """Predicts the short-time spectrum of a sound from its mel spectrogram, in one pass.

    Args:
        spectrogram: The `SpectrogramSpec` it was trained on, as JSON.
        sample_rate: Of that spectrogram's filterbank, in Hz.
        width: Channels of the blocks.
        depth: Number of blocks.
        kernel_size: Columns that a block's depthwise convolution sees; odd.
        subcolumns: Spectra predicted per column; divides the hop.
        n_fft: Size of these spectra in samples; None: four times their hop.
    """

    window: Tensor

    @register_to_config
    def __init__(
        self,
        spectrogram: dict[str, Any],
        sample_rate: int,
        width: int = 192,
        depth: int = 4,
        kernel_size: int = 7,
        subcolumns: int = 2,
        n_fft: int | None = None,
    ) -> None:
        super().__init__()
        self.spectrogram = SpectrogramSpec.model_validate(dict(spectrogram))
        self.sample_rate = sample_rate
        self.hop, rest = divmod(self.spectrogram.hop_length, subcolumns)
        self.n_fft = n_fft or 4 * self.hop
        if rest or kernel_size % 2 == 0 or self.n_fft < 2 * self.hop:
            raise UserError(
                f"vocoder: subcolumns {subcolumns} must divide hop_length "
                f"{self.spectrogram.hop_length}, kernel_size {kernel_size} must be odd, and n_fft "
                f"{self.n_fft} at least twice the hop {self.hop} of a sub-column"
            )
        self.conv_in = nn.Conv1d(
            self.spectrogram.num_mels, width, kernel_size, padding=kernel_size // 2
        )
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width, kernel_size) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, subcolumns * 2 * (self.n_fft // 2 + 1))
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)

    def forward(self, decibels: Tensor) -> Tensor:
        """Log-mel magnitudes in dB (B,M,L) -> waveform (B, L * hop_length), not clamped."""
        spec = self.spectrogram
        # The range of the spectrogram's decibels to [-1,1], which is what the network reads.
        levels = 2 * (decibels - spec.db_min) / (spec.db_max - spec.db_min) - 1
        # One more column at each end, so that the first and last samples lie under as many spectra as all.
        h = self.blocks(self.conv_in(F.pad(levels, (1, 1), mode="replicate")))
        # One spectrum per sub-column: (B, subcolumns * (L + 2), 2 F), log magnitudes beside phases.
        h = self.head(self.norm(h.mT)).unflatten(2, (-1, self.n_fft + 2)).flatten(1, 2)
        magnitude, phase = h.float().chunk(2, dim=2)
        magnitude = torch.exp((magnitude + FIRST_LEVEL).clamp(max=LOUDEST))

        # Overlap-add of windowed pieces; what sounds before the first column's start is cut off.
        pieces = torch.fft.irfft(torch.polar(magnitude, phase), n=self.n_fft) * self.window
        length = (pieces.shape[1] - 1) * self.hop + self.n_fft
        waveform = F.fold(pieces.mT, (1, length), (1, self.n_fft), stride=(1, self.hop))[:, 0, 0]
        start = spec.hop_length + (self.n_fft - self.hop) // 2
        return waveform[:, start : start + decibels.shape[2] * spec.hop_length]


class ConvNeXtBlock(nn.Module):
    """Residual block: depthwise convolution over columns, then a wide pointwise MLP.

    Liu et al. 2022 ("A ConvNet for the 2020s").
    """

    def __init__(self, channels: int, kernel_size: int, expansion: int = 3) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels
        )
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, expansion * channels)
        self.narrow = nn.Linear(expansion * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,L) -> (B,C,L)."""
        h = self.norm(self.depthwise(x).mT)
        return x + (self.scale * self.narrow(F.gelu(self.widen(h)))).mT
