"""A light image decoder: convolutions below the image's size, each doubling of it by pixel-shuffle.

image latents (N,c,h,w) -> images (N,3,H,W). Shi et al. 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmldm.models.layers import ResBlock, group_norm


def shuffle_decoder(
    latent_channels: int,
    width: int,
    blocks: int,
    upsample_channels: tuple[int, ...],
    image_channels: int = 3,
) -> nn.Sequential:
    """Image latents (N,c,h,w) -> images (N,3,H,W); the last doubling is the image itself."""
    layers: list[nn.Module] = [nn.Conv2d(latent_channels, width, 3, padding=1)]
    layers += [ResBlock(width, width) for _ in range(blocks)]
    for channels in upsample_channels:
        # Positions are the keys of weight files; in theirs the pixel-shuffle has one of its own.
        layers += [Doubling(width, channels, 1), nn.Identity(), ResConv(channels)]
        width = channels
    return nn.Sequential(*layers, Doubling(width, image_channels, 3))


class Doubling(nn.Conv2d):
    """A convolution to four values a cell and channel, which become 2 x 2 pixels: twice the size.

    Shi et al. 2016 (pixel-shuffle). Weights are in the order of torch's `PixelShuffle`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, 4 * out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C',2H,2W)."""
        if not x.is_contiguous(memory_format=torch.channels_last):
            return F.pixel_shuffle(super().forward(x), 2)

        # Weights C'(2 2) -> (2 2)C': the channels of a pixel and its neighbour come out side by side.
        assert self.bias is not None
        weight = self.weight.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1)
        bias = self.bias.unflatten(0, (-1, 4)).T.flatten()
        cells = F.conv2d(x, weight, bias, padding=self.padding).permute(0, 2, 3, 1)

        # So they move as one block: N H W 2 2C' -> N H 2 W 2C'.
        (N, H, W, _), C = cells.shape, self.out_channels // 4
        pixels = cells.unflatten(-1, (2, 2 * C)).transpose(2, 3)
        return pixels.reshape(N, 2 * H, 2 * W, C).permute(0, 3, 1, 2)


class ResConv(nn.Module):
    """One-convolution residual block, for resolutions where two would cost too much."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,H,W)."""
        return x + self.conv(F.silu(self.norm(x)))
