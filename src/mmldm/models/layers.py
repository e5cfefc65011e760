"""Layers shared by the convolutional networks (MM-LDM Fig. 3): residual blocks, attention, patches.

features (B,C,...) -> features (B,C',...); everything here is local, no layer knows the modality, and
`ModulePair` holds one module for each.
"""

from __future__ import annotations

import math
from typing import Any, Generic, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmldm.arithmetic import linear
from mmldm.types import AV

M = TypeVar("M", bound=nn.Module)


class Linear(nn.Linear):
    """As torch's; what only samples multiplies as `arithmetic.linear` does.

    Args:
        gelu: Whether GELU (its tanh form) is taken of what comes out.
    """

    def __init__(self, in_features: int, out_features: int, gelu: bool = False) -> None:
        super().__init__(in_features, out_features)
        self.gelu = gelu

    def forward(self, x: Tensor) -> Tensor:
        """(...,in) -> (...,out)."""
        return linear(x, self.weight, self.bias, self.gelu)


def sampling_fast(network: nn.Module) -> None:
    """Puts our linear layers in the place of torch's: the same weights under the same names."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                with torch.device("meta"):
                    own = Linear(layer.in_features, layer.out_features)
                own.weight, own.bias = layer.weight, layer.bias
                parent.register_module(name, own)


def zero_init(layer: M) -> M:
    """Zeroes the parameters of the LAST layer of a new path, so that the path starts as a no-op.

    Never give it a whole MLP: two zero linears in a row receive no gradient, ever.
    """
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def group_norm(channels: int, max_groups: int = 32) -> nn.GroupNorm:
    """GroupNorm with the most groups, up to `max_groups`, that divide `channels`."""
    # The release's 32 do not divide the widths of small models.
    groups = max(g for g in range(1, min(max_groups, channels) + 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def sinusoidal_embedding(values: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sine-cosine features of continuous values (...) -> (..., dim), float32.

    The slowest wave has period 2*pi*`max_period` and the fastest 2*pi: scale values so that
    neighbours differ by about 1 or more, otherwise they are almost the same vector.
    """
    half = dim // 2
    frequencies = torch.exp(
        -math.log(max_period) * torch.arange(half, device=values.device, dtype=torch.float32) / half
    )
    angles = values.float()[..., None] * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, dim % 2))


def patchify(x: Tensor, patch: tuple[int, int]) -> Tensor:
    """Folds each patch of cells into channels: (N,C,H,W) -> (N,C*ph*pw,H/ph,W/pw)."""
    (N, C, H, W), (ph, pw) = x.shape, patch
    x = x.reshape(N, C, H // ph, ph, W // pw, pw).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(N, C * ph * pw, H // ph, W // pw)


def unpatchify(x: Tensor, patch: tuple[int, int]) -> Tensor:
    """Inverse of `patchify`: (N,C*ph*pw,H,W) -> (N,C,H*ph,W*pw)."""
    (N, C, H, W), (ph, pw) = x.shape, patch
    x = x.reshape(N, C // (ph * pw), ph, pw, H, W).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(N, C // (ph * pw), H * ph, W * pw)


class ResBlock(nn.Module):
    """Pre-norm residual block of two convolutions, 2-D or 3-D by the length of `kernel_size`.

    Args:
        kernel_size: One odd size per spatial axis; (3, 3) for images, (3, 1, 1) to mix time alone.
        embedding_dim: Width of an embedding that scales and shifts the second norm (FiLM); None:
            no input.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...] = (3, 3),
        embedding_dim: int | None = None,
    ) -> None:
        super().__init__()
        conv: type[nn.Module] = {2: nn.Conv2d, 3: nn.Conv3d}[len(kernel_size)]
        padding = tuple(k // 2 for k in kernel_size)
        self.norm1 = group_norm(in_channels)
        self.conv1 = conv(in_channels, out_channels, kernel_size, padding=padding)
        self.norm2 = group_norm(out_channels)
        self.conv2 = conv(out_channels, out_channels, kernel_size, padding=padding)
        self.film = None if embedding_dim is None else nn.Linear(embedding_dim, 2 * out_channels)
        self.skip = (
            nn.Identity() if in_channels == out_channels else conv(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """x (B,C,...) and, for a FiLM block, embedding (B,embedding_dim) -> (B,C',...)."""
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        if self.film is not None:
            assert embedding is not None, "a FiLM block needs its embedding"
            # FiLM: one scale and one shift per channel, the same in every cell.
            film = self.film(F.silu(embedding))
            scale, shift = film.reshape(*film.shape, *[1] * (h.dim() - 2)).chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))


class SelfAttention(nn.Module):
    """Residual self-attention over the cells of one frame, one cell through time, or everything.

    The output projection is zero-initialised. No positions are added here.

    Args:
        axes: "spatial" (H W tokens, per frame), "temporal" (T tokens, per cell), "full"
            (T H W tokens).
    """

    def __init__(
        self, channels: int, axes: Literal["spatial", "temporal", "full"], head_dim: int = 64
    ) -> None:
        super().__init__()
        self.axes = axes
        self.heads = max(h for h in range(1, max(1, channels // head_dim) + 1) if channels % h == 0)
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,T,H,W) -> (B,C,T,H,W)."""
        B, C, T, H, W = x.shape
        order = (0, 3, 4, 2, 1) if self.axes == "temporal" else (0, 2, 3, 4, 1)
        batch = {"spatial": B * T, "temporal": B * H * W, "full": B}[self.axes]
        grid = x.permute(order)  # B C T H W -> B T H W C, or B H W T C
        tokens = grid.reshape(batch, -1, C)
        # batch N 3 heads D/heads -> 3 batch heads N D/heads
        qkv = self.qkv(self.norm(tokens)).unflatten(-1, (3, self.heads, C // self.heads))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        update = self.out(attended).reshape(grid.shape)
        inverse = (0, 4, 3, 1, 2) if self.axes == "temporal" else (0, 4, 1, 2, 3)
        return x + update.permute(inverse)


class ModulePair(nn.Module, Generic[M]):
    """One module per modality, registered as `audio` and `video`."""

    def __init__(self, modules: AV[M]) -> None:
        super().__init__()
        self.audio, self.video = modules

    @property
    def av(self) -> AV[M]:
        """The two modules as a pair, to map over."""
        return AV(self.audio, self.video)

    def forward(self, *inputs: AV[Tensor]) -> AV[Any]:
        """Each module's answer to its own modality of each of `inputs`, AV (B,...)."""
        return AV(
            self.audio(*(pair.audio for pair in inputs)),
            self.video(*(pair.video for pair in inputs)),
        )


def quiet_mlp(in_dim: int, out_dim: int) -> nn.Sequential:
    """(...,in_dim) -> (...,out_dim). Only the last of two linears starts at zero, so that both learn."""
    return nn.Sequential(
        nn.Linear(in_dim, out_dim), nn.SiLU(), zero_init(nn.Linear(out_dim, out_dim))
    )
