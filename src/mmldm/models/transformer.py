"""The diffusion transformer's parts (MM-LDM §3.2): positions, time embedding, adaLN-Zero blocks.

tokens (B,N,D) and conditioning (B,D) -> tokens (B,N,D). DiT (Peebles & Xie 2022).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmldm.arithmetic import without_autocast
from mmldm.models.layers import Linear, sinusoidal_embedding


def grid_positions(size: tuple[int, int], width: int) -> Tensor:
    """(H*W, D) sin-cos of integer cell coordinates: half of D for rows, the other for columns."""
    rows, columns = (sinusoidal_embedding(torch.arange(n), width // 2) for n in size)
    grid = [rows[:, None].expand(-1, size[1], -1), columns[None].expand(size[0], -1, -1)]
    return torch.cat(grid, dim=-1).flatten(0, 1)


def time_positions(seconds: Tensor, width: int, shortest: float, longest: float) -> Tensor:
    """(T,) seconds -> (T, D) sin-cos with periods from `shortest` to `longest` seconds.

    The periods are spaced geometrically. Those of an embedding of integer positions would leave
    almost every dimension constant over a clip of a few seconds.
    """
    periods = shortest * (longest / shortest) ** torch.linspace(0, 1, width // 2)
    angles = 2 * math.pi * seconds[:, None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TimestepEmbedding(nn.Module):
    """(B,) timesteps -> (B, D); computed in float32 also under autocast."""

    def __init__(self, width: int, dim: int = 256) -> None:
        super().__init__()
        self.dim = dim
        self.mlp = nn.Sequential(nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timestep: Tensor) -> Tensor:
        """(B,) -> (B,D)."""
        embedding = sinusoidal_embedding(timestep, self.dim)
        with without_autocast(timestep.device):
            return self.mlp(embedding.to(next(self.mlp.parameters()).dtype))


class JointAttention(nn.Module):
    """Full multi-head attention over all tokens of both modalities."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B,N,D) -> (B,N,D)."""
        batch, num_tokens, width = x.shape
        # B N 3 heads D/heads -> 3 B heads N D/heads
        q, k, v = self.qkv(x).reshape(batch, num_tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.out(attended.transpose(1, 2).reshape(batch, num_tokens, width))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(B,N,D) tokens shifted and scaled by (B,D) vectors."""
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


class Modulation(nn.Sequential):
    """(B, D) conditioning -> (B, n D)."""

    def __init__(self, width: int, num_vectors: int) -> None:
        super().__init__(nn.SiLU(), nn.Linear(width, num_vectors * width))


class Shift(nn.Module):
    """Adds a learned vector (D,), zero at the start of training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B,D) -> (B,D)."""
        return x + self.bias


class Block(nn.Module):
    """Attention and MLP, each modulated and gated by the conditioning (adaLN-Zero).

    Args:
        shared_modulation: False: the block maps (B, D) conditioning to its own six vectors, as in
            the paper. True: conditioning is (B, 6 D) from one map shared by all blocks, to which
            the block adds a learned bias (adaLN-single of PixArt-alpha); a third fewer parameters.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, shared_modulation: bool) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.attention_norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = JointAttention(width, heads)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = nn.Sequential(
            # Weights were saved by these indices when GELU stood between the two.
            Linear(width, hidden, gelu=True),
            nn.Identity(),
            Linear(hidden, width),
        )
        self.modulation: nn.Module = Shift(6 * width) if shared_modulation else Modulation(width, 6)

    def forward(self, x: Tensor, conditioning: Tensor) -> Tensor:
        """Tokens (B,N,D), conditioning (B,D) or (B,6 D) -> (B,N,D)."""
        # Six vectors (B,D): shift, scale and gate of attention (a) and MLP (m).
        vectors = self.modulation(conditioning).chunk(6, dim=-1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = vectors
        attended = self.attention(modulate(self.attention_norm(x), shift_a, scale_a))
        x = torch.addcmul(x, gate_a[:, None], attended)
        changed = self.mlp(modulate(self.mlp_norm(x), shift_m, scale_m))
        return torch.addcmul(x, gate_m[:, None], changed)
