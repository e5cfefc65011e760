"""Projectors, shared semantic space and its two heads (MM-LDM §3.1, Fig. 3a, Eq. 1).

latents (B,C,T',H',W') -> semantics (B,N,D) -> class logits (B,K), contrastive embeddings (B,E).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmldm.models.layers import ResBlock, SelfAttention, group_norm
from mmldm.models.perceptual_encoder import LatentLayout
from mmldm.types import AV


class Projector(nn.Module):
    """Residual blocks and full attention over the latent's cells, pooled to a grid of N tokens.

    Args:
        layout: Shape of this modality's latents.
        token_grid: (t,h,w) with t*h*w = N; the paper's figure shows (1,2,2).
        width: D, width of a token.
        block_out_channels: Width per level; levels halve every axis still larger than the token
            grid.
    """

    def __init__(
        self,
        layout: LatentLayout,
        token_grid: Sequence[int] = (1, 2, 2),
        width: int = 768,
        block_out_channels: Sequence[int] = (128, 256, 512, 512),
        layers_per_block: int = 3,
        head_dim: int = 32,
    ) -> None:
        super().__init__()
        # `size` follows the (T',H',W') cells down to about the token grid.
        size = list(layout.shape[1:])
        channels = block_out_channels[0]
        self.stem = nn.Conv3d(layout.channels, channels, 1)
        layers: list[nn.Module] = []
        for level, out_channels in enumerate(block_out_channels):
            # An axis of length 1 gets a kernel of 1: larger taps would only ever read padding.
            kernel = tuple(3 if n > 1 else 1 for n in size)
            for _ in range(layers_per_block):
                layers += [
                    ResBlock(channels, out_channels, kernel),
                    SelfAttention(out_channels, "full", head_dim),
                ]
                channels = out_channels
            if level < len(block_out_channels) - 1:
                stride = [2 if n >= 2 * t else 1 for n, t in zip(size, token_grid, strict=True)]
                size = [-(-n // s) for n, s in zip(size, stride, strict=True)]
                if max(stride) > 1:
                    layers.append(nn.AvgPool3d((stride[0], stride[1], stride[2]), ceil_mode=True))
        self.layers = nn.Sequential(*layers)
        self.norm = group_norm(channels)
        self.pool = nn.AdaptiveAvgPool3d(tuple(token_grid))
        self.out = nn.Linear(channels, width)

    def forward(self, latents: Tensor) -> Tensor:
        """(B,C,T',H',W') -> (B,N,D)."""
        h = self.pool(F.silu(self.norm(self.layers(self.stem(latents)))))
        return self.out(h.flatten(2).transpose(1, 2))


class ClassificationHead(nn.Module):
    """Both modalities' semantics -> class logits."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.tokens = nn.ModuleList(_token_mlp(width, width) for _ in range(2))
        self.out = nn.Sequential(
            nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, num_classes)
        )

    def forward(self, semantics: AV[Tensor]) -> Tensor:
        """AV (B,N,D) -> (B,K)."""
        pooled = [mlp(s).mean(1) for mlp, s in zip(self.tokens, semantics, strict=True)]
        return self.out(torch.cat(pooled, dim=1))


class ContrastiveHead(nn.Module):
    """Semantics -> unit vectors, and two learnable temperatures kept within [0.01, 1].

    Each log-temperature is a sigmoid between its limits, not a clip: at a limit its gradient is
    small, not gone. The cosine similarity is DIVIDED by the temperature (Eq. 1 multiplies; the
    release divides).
    """

    limits = (0.01, 1.0)

    def __init__(self, width: int, embedding_dim: int = 256, initial: float = 0.07) -> None:
        super().__init__()
        self.tokens = nn.ModuleList(_token_mlp(width, embedding_dim) for _ in range(2))
        # The logit at which the sigmoid between the log limits gives `initial`.
        low, high = (math.log(limit) for limit in self.limits)
        share = (math.log(initial) - low) / (high - low)
        self.temperature_logits = nn.Parameter(torch.full((2,), math.log(share / (1 - share))))

    def forward(self, semantics: AV[Tensor]) -> AV[Tensor]:
        """AV (B,N,D) -> AV (B,E), each row of length 1."""
        audio, video = (
            F.normalize(mlp(s).mean(1), dim=1)
            for mlp, s in zip(self.tokens, semantics, strict=True)
        )
        return AV(audio, video)

    @property
    def temperatures(self) -> AV[Tensor]:
        """Temperature of the audio rows (audio finds its video) and of the video rows, 0-d each."""
        low, high = (math.log(limit) for limit in self.limits)
        return AV(*torch.exp(low + (high - low) * self.temperature_logits.sigmoid()))


def _token_mlp(width: int, out: int) -> nn.Sequential:
    """Token by token, (B,N,width) -> (B,N,out)."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out), nn.SiLU(), nn.Linear(out, out))
