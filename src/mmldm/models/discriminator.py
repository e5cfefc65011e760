"""Critics. The autoencoder's (MM-LDM Eq. 2): does this sound belong to these two frames, in this order?

images <audio image, frame i, frame j> (N,3,3,H,W) -> scores (N,)
images (N,3,H,W) -> scores of patches (N,1,H/f,W/f), for the image VAE (Isola et al. 2017, "PatchGAN")
waveforms (N,S) -> scores of patches of spectrograms (N,P), for the vocoder (Jang et al. 2021, "UnivNet")
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmldm.models.layers import ResBlock, SelfAttention

SLOTS = 3
"""Images of a tuple, stacked on the depth axis: audio image, earlier frame, later frame."""

DETAIL_GAIN = 40.0
"""Of what a mean of 3 x 3 pixels takes away."""


class TupleDiscriminator(nn.Module):
    """Spatio-temporal levels with full attention over slots and cells where the grid is small.

    A level is a residual block within each slot; between levels a 3x3x3 convolution halves the grid
    and lets neighbouring slots meet. The three slots are kept apart up to the final average. A
    learned vector per slot tells them apart (the authors' release learns a whole picture per slot,
    which ties the critic to one image size).

    Args:
        channels: Width of the first level.
        multipliers: Width of each level in units of `channels`.
        attention_levels: Levels, counted from 0, that end in full attention over (slots, rows,
            columns); a level's grid is the image's divided by patch_size * 2**level.
        patch_size: Pixels folded into channels before the first level; 1 in the paper.
    """

    def __init__(
        self,
        channels: int = 32,
        multipliers: Sequence[int] = (1, 2, 3, 4, 4, 6, 6),
        attention_levels: Sequence[int] = (4, 5),
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.conv_in = nn.Conv3d(3 * patch_size**2, channels, 3, padding=1)
        self.slot_embedding = nn.Parameter(torch.randn(channels, SLOTS, 1, 1))
        # Kernels of (1,3,3) stay within a slot; those between levels, (3,3,3), reach the neighbours.
        levels: list[nn.Module] = []
        width = channels
        for level, multiplier in enumerate(multipliers):
            if level > 0:
                levels.append(nn.Conv3d(width, width, 3, stride=(1, 2, 2), padding=1))
            levels.append(ResBlock(width, channels * multiplier, kernel_size=(1, 3, 3)))
            width = channels * multiplier
            if level in attention_levels:
                levels.append(SelfAttention(width, axes="full", head_dim=32))
        self.levels = nn.Sequential(*levels)
        # One group: with a group per channel, the average below would see no channel's mean.
        self.norm_out = nn.GroupNorm(1, width)
        self.score = nn.Linear(width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,3,3,H,W) in [-1,1], slot before colour -> scores (N,); real is high."""
        # Colours and folded pixels become channels, slots the depth of 3-D convolutions.
        patches = F.pixel_unshuffle(images, self.patch_size).transpose(1, 2)
        h = self.levels(self.conv_in(patches) + self.slot_embedding)
        return self.score(F.silu(self.norm_out(h)).mean(dim=(2, 3, 4)))[:, 0]


class PatchDiscriminator(nn.Module):
    """Judges small overlapping patches of an image: is it as sharp, and as grainy, as a real one?

    It never convolves at full resolution: patches are folded into channels first. Fine details, whose
    power is a thousandth of the rest's, go in amplified beside the image. A score sees about
    patch_size * (2 * len(multipliers) + 1) pixels each way; 28 by default.

    Args:
        channels: Width of the first layer.
        multipliers: Width of each layer in units of `channels`.
        patch_size: Pixels folded into channels; a score stands for one such patch.
    """

    def __init__(
        self, channels: int = 16, multipliers: Sequence[int] = (1, 2, 2), patch_size: int = 4
    ) -> None:
        super().__init__()
        # No norms: over an image they would tell a patch of the others, and hide how strong its grain is.
        layers: list[nn.Module] = [nn.PixelUnshuffle(patch_size)]
        width = 2 * 3 * patch_size**2
        for multiplier in multipliers:
            layers += [nn.Conv2d(width, channels * multiplier, 3, padding=1), nn.LeakyReLU(0.2)]
            width = channels * multiplier
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,3,H,W) in [-1,1] -> scores (N,1,H/f,W/f), f the patch size; real is high."""
        details = images - F.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
        scores: Tensor = self.layers(torch.cat([images, DETAIL_GAIN * details], dim=1))
        return scores


class SpectrogramDiscriminator(nn.Module):
    """Judges patches of a sound's log-magnitude spectrograms at several resolutions, each by its own layers.

    Short windows see when an attack begins, and what was before it; long ones tell pitches apart.

    Args:
        windows: Samples of each resolution's window, which moves on by a quarter.
        channels: Width of the layers.
        depth: Layers of a resolution; each halves the frequencies.
    """

    def __init__(
        self, windows: Sequence[int] = (1024, 256, 64), channels: int = 16, depth: int = 4
    ) -> None:
        super().__init__()
        self.windows = tuple(windows)
        stacks = []
        for _ in self.windows:
            # No norms, as in `PatchDiscriminator`.
            layers: list[nn.Module] = []
            for level in range(depth):
                width = channels if level else 1
                conv = nn.Conv2d(width, channels, (5, 3), stride=(2, 1), padding=(2, 1))
                layers.append(nn.Sequential(conv, nn.LeakyReLU(0.2)))
            stacks.append(nn.ModuleList([*layers, nn.Conv2d(channels, 1, 1)]))
        self.stacks = nn.ModuleList(stacks)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Waveforms (N,S) in [-1,1] -> scores (N,P), P patches of all resolutions; real is high."""
        return torch.cat([maps[-1] for maps in self.maps(waveforms)], dim=1)

    def maps(self, waveforms: Tensor) -> list[list[Tensor]]:
        """Waveforms (N,S) -> for each resolution what its layers see (N,C,F',L), and its scores (N,P')."""
        found = []
        for size, stack in zip(self.windows, self.stacks, strict=True):
            h = self._levels(waveforms, size)
            maps: list[Tensor] = []
            for layer in stack.children():
                h = layer(h)
                maps.append(h.float())
            found.append([*maps[:-1], maps[-1].flatten(1)])
        return found

    @staticmethod
    def _levels(waveforms: Tensor, size: int) -> Tensor:
        """Log magnitudes (N,1,F,L) of waveforms (N,S): -1 is 100 dB below a full-scale sine, 1 that sine."""
        window = torch.hann_window(size, device=waveforms.device)
        spectrum = torch.stft(
            waveforms.float(), size, size // 4, window=window, center=True, return_complex=True
        )
        power = (spectrum.real.square() + spectrum.imag.square()) * (2 / window.sum()) ** 2
        # The floor is in the sum: the logarithm of nothing has no gradient.
        return (0.2 * torch.log10(power + 1e-10) + 1)[:, None]


def tuples(
    audio: Tensor,
    frame_i: Tensor,
    frame_j: Tensor,
    fake_audio: Tensor,
    fake_i: Tensor,
    fake_j: Tensor,
) -> tuple[Tensor, Tensor]:
    """The critic's five tuples per clip, frame i earlier than frame j (§3.1, "Training Targets").

    The paper's text is followed: real <a, v_i, v_j>; fake <a', v'_i, v'_j>, <a', v_i, v_j>,
    <a', v_i, v'_j> and, out of order, <a', v'_j, v'_i>, where ' marks decoded signals. Eq. 2 puts
    <a', v_i, v_j> in the place of the real tuple and adds <a', v'_i, v_j>, as the release does.

    Args:
        audio: (B,3,H,W), as all others.

    Returns:
        Real tuples (B,3,3,H,W) and fake ones (4B,3,3,H,W), the four kinds one after the other.
    """
    # All decoded; the sound alone; the sound and the later frame; all, out of order.
    real = torch.stack([audio, frame_i, frame_j], dim=1)
    fakes = [(fake_i, fake_j), (frame_i, frame_j), (frame_i, fake_j), (fake_j, fake_i)]
    return real, torch.cat([torch.stack([fake_audio, *pair], dim=1) for pair in fakes])
