"""Feature adapters (MM-LDM Fig. 3b): latents -> maps added after each input block of the signal decoder.

latents (B,C,T',H',W'), frame_indices (B,F) -> one map (B*F,C_i,H_i,W_i) per tap: "latent of the modality,
with the frame index embedded". Maps are exactly zero
before training: the last convolution of each tap, and nothing else, starts at zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmldm.errors import UserError
from mmldm.models.layers import ResBlock, sinusoidal_embedding, zero_init
from mmldm.models.perceptual_encoder import LatentLayout

TapShape = tuple[int, int, int]
"""(channels, rows, columns) of one tap."""


class FeatureAdapter(nn.Module):
    """Spreads a latent over the resolutions of the signal decoder, frame by frame.

    A latent with T'>1 slots is first mixed with its neighbouring slots; each frame then reads its
    own slot. The grid of each resolution is reached by a convolution with kernel = stride, the
    transpose of the encoder's head, and gets a learned position map, since a 1x1 latent carries no
    place of its own.

    Args:
        layout: Shape of this modality's latents.
        num_frames: Frames that share the clip's T' slots; 1 for audio.
        tap_shapes: Where the maps go, from `SignalDecoder.tap_shapes`.
        hidden_channels: Width of the blocks; None: the tap's own channels, as in the paper (and the
            first tap's before them).
        embedding_dim: Width of the frame index embedding.
    """

    def __init__(
        self,
        layout: LatentLayout,
        num_frames: int,
        tap_shapes: Sequence[TapShape],
        hidden_channels: int | None = None,
        embedding_dim: int = 320,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.num_frames = num_frames
        self.embedding_dim = embedding_dim
        slots, rows, columns = layout.grid
        self.frame_embedding = nn.Sequential(
            nn.Linear(embedding_dim, embedding_dim),
            nn.SiLU(),
            nn.Linear(embedding_dim, embedding_dim),
        )

        # From the latent's grid, its slots mixed, to each resolution of the U-Net.
        width = hidden_channels or tap_shapes[0][0]
        kernel = 3 if slots > 1 else 1
        self.mix = nn.Conv3d(layout.channels, width, (kernel, 1, 1), padding=(kernel // 2, 0, 0))
        self.resolutions = sorted({shape[1:] for shape in tap_shapes}, reverse=True)
        self.expand = nn.ModuleList(
            _resample(width, (rows, columns), size) for size in self.resolutions
        )
        self.positions = nn.ParameterList(
            nn.Parameter(torch.zeros(width, *size)) for size in self.resolutions
        )

        # From a resolution's map to each tap there, told which frame it is.
        self.tap_resolutions = [self.resolutions.index(shape[1:]) for shape in tap_shapes]
        self.blocks = nn.ModuleList(
            ResBlock(width, hidden_channels or shape[0], embedding_dim=embedding_dim)
            for shape in tap_shapes
        )
        self.outs = nn.ModuleList(
            zero_init(nn.Conv2d(hidden_channels or shape[0], shape[0], 1)) for shape in tap_shapes
        )

    def slots(self, frame_indices: Tensor) -> Tensor:
        """Which of the latent's slots each frame reads: (B,F) -> (B,F)."""
        return frame_indices * self.layout.grid[0] // self.num_frames

    def forward(self, latents: Tensor, frame_indices: Tensor) -> list[Tensor]:
        """(B,C,T',H',W'), frame_indices (B,F) in [0,num_frames) -> maps (B*F,C_i,H_i,W_i)."""
        mixed = self.mix(self.layout.to_grid(latents)).transpose(1, 2)  # B slots C rows columns
        own = gather_slots(mixed, self.slots(frame_indices)).flatten(0, 1)
        # The sinusoid is made for steps of about 1: spread the clip over 0..1000, not over 0..1.
        times = frame_indices.flatten() * (1000 / self.num_frames)
        frame = self.frame_embedding(sinusoidal_embedding(times, self.embedding_dim).to(own.dtype))
        # One map per resolution, with a learned place for each cell; then one per tap.
        maps = [
            expand(own) + position
            for expand, position in zip(self.expand, self.positions, strict=True)
        ]
        return [
            out(block(maps[resolution], frame))
            for resolution, block, out in zip(
                self.tap_resolutions, self.blocks, self.outs, strict=True
            )
        ]

    def pooled_slots(self, latents: Tensor, frame_indices: Tensor) -> Tensor:
        """Average of each frame's slot over its cells: (B,C,T',H',W'), (B,F) -> (B*F,C).

        With T'=1 this is the paper's average pooling of the whole latent.
        """
        # (B,C,slots,rows,columns) -> (B,slots,C)
        means = self.layout.to_grid(latents).mean((3, 4)).transpose(1, 2)
        return gather_slots(means, self.slots(frame_indices)).flatten(0, 1)


def gather_slots(values: Tensor, slots: Tensor) -> Tensor:
    """values (B,slots,...), slots (B,F) -> (B,F,...): each frame's own slot."""
    rows = torch.arange(len(values), device=values.device)[:, None]
    return values[rows, slots]


def _resample(channels: int, grid: tuple[int, int], size: tuple[int, int]) -> nn.Sequential:
    """Convolutions with kernel = stride from `grid` to `size`, down and up axis by axis."""
    for have, want in zip(grid, size, strict=True):
        if max(have, want) % min(have, want):
            raise UserError(
                f"adapter: a latent grid of {grid} cannot reach the decoder's {size}; "
                "choose latent sizes that divide it, or that it divides."
            )
    (rows, columns), (height, width) = grid, size
    down = (max(1, rows // height), max(1, columns // width))
    up = (max(1, height // rows), max(1, width // columns))
    layers: list[nn.Module] = []
    if down != (1, 1):
        layers.append(nn.Conv2d(channels, channels, down, stride=down))
    if up != (1, 1) or not layers:
        layers.append(nn.ConvTranspose2d(channels, channels, up, stride=up))
    return nn.Sequential(*layers)
