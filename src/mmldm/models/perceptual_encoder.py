"""The audio and video perceptual encoders (MM-LDM §3.1, Fig. 3a): what a latent is, and who makes it.

image latents (B,T,c,h,w) -> Posterior over latents (B,C,T',H',W'). The paper's form is T'=1 from four key
frames; a time-aligned latent (one slot per frame, or one column per moment of the audio image) is the same
code with another `latent_shape`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmldm.errors import UserError
from mmldm.models.layers import (
    ResBlock,
    SelfAttention,
    group_norm,
    patchify,
    sinusoidal_embedding,
    zero_init,
)

TimeAxis = Literal["frames", "width"]


@dataclass(frozen=True)
class LatentLayout:
    """Shape of one modality's latents and where their time comes from.

    A latent of the audio image may carry its time on T' although it was read off the image's width; the
    grid is the same numbers in image order, so that one encoder and one adapter serve every shape.

    Attributes:
        shape: (C, T', H', W').
        time_axis: "frames": T' slots along the frames. "width": T' columns along the image's width
            (an audio image, whose height is frequency); W' must be 1.
    """

    shape: tuple[int, int, int, int]
    time_axis: TimeAxis = "frames"

    def __post_init__(self) -> None:
        if self.time_axis not in ("frames", "width"):
            raise UserError(f"time_axis is {self.time_axis!r}; it must be 'frames' or 'width'.")
        if self.time_axis == "width" and self.shape[3] != 1:
            raise UserError(
                f"latent_shape {list(self.shape)} with time_axis 'width' must end in 1: "
                "the image's width is the latent's T'."
            )

    @property
    def channels(self) -> int:
        """C."""
        return self.shape[0]

    @property
    def grid(self) -> tuple[int, int, int]:
        """(slots, rows, columns)."""
        _, T, H, W = self.shape
        return (1, H, T) if self.time_axis == "width" else (T, H, W)

    def to_grid(self, latents: Tensor) -> Tensor:
        """(B,C,T',H',W') -> (B,C,slots,rows,columns), a view."""
        return latents.transpose(2, 4) if self.time_axis == "width" else latents

    def from_grid(self, grid: Tensor) -> Tensor:
        """(B,C,slots,rows,columns) -> (B,C,T',H',W'); the swap is its own inverse."""
        return self.to_grid(grid)


@dataclass(frozen=True)
class Posterior:
    """Diagonal Gaussian over latents (B,C,T',H',W')."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Reparameterised draw (B,C,T',H',W') from standard-normal `noise` of the same shape."""
        return self.mean + noise * (0.5 * self.logvar).exp()

    def mode(self) -> Tensor:
        """The mean, (B,C,T',H',W')."""
        return self.mean

    def kl(self) -> Tensor:
        """KL(posterior || N(0,1)) in nats, summed over the latent's dimensions: (B,)."""
        terms = self.mean.square() + self.logvar.exp() - 1.0 - self.logvar
        return 0.5 * terms.flatten(1).sum(1)


class PerceptualEncoder(nn.Module):
    """The first half of a U-Net over the image latents of one clip, ending in a Gaussian.

    Frames are convolved one by one; only temporal attention and the pooling to T' slots mix them.
    The head is a convolution whose kernel equals its stride, so a latent of H'=W'=1 still knows
    where things are.

    Args:
        image_latent_shape: (c,h,w) of one image latent.
        num_frames: T; 1 for the audio image.
        latent_shape: (C,T',H',W').
        block_out_channels: Width per level; a stride-2 convolution between levels.
        patch_size: Cells folded into channels before the first convolution, one number or (rows,
            columns); 1 is the paper's form, more is cheaper.
        key_frames: Frames looked at, spread evenly over the clip (4 of 16: 0, 5, 10, 15);
            None: all.
        time_axis: What T' comes from, see `LatentLayout`.
        temporal_attention: Attention through time after each spatial attention, with the frame's
            time as a position (the paper's video encoder).
        initial_logvar: Log-variance before training; the release starts at 0, a posterior as wide
            as the prior.
    """

    _gradient_checkpointing_func: Callable[..., Any]

    def __init__(
        self,
        image_latent_shape: Sequence[int],
        num_frames: int,
        latent_shape: Sequence[int],
        block_out_channels: Sequence[int] = (320, 640),
        layers_per_block: int = 2,
        patch_size: int | Sequence[int] = 1,
        key_frames: int | None = None,
        time_axis: TimeAxis = "frames",
        spatial_attention: bool = True,
        temporal_attention: bool = False,
        head_dim: int = 64,
        initial_logvar: float = -6.0,
    ) -> None:
        super().__init__()
        # The grid of the latent, and the kernel (= stride) by which the head reaches it from the trunk's.
        c, h, w = image_latent_shape
        ph, pw = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        C, T, H, W = latent_shape
        self.layout = LatentLayout((C, T, H, W), time_axis)
        self.patch = (ph, pw)
        slots, rows, columns = self.layout.grid
        if key_frames is not None and not 1 <= key_frames <= num_frames:
            raise UserError(f"encoder: key_frames {key_frames} of a clip of {num_frames} frames.")
        last, count = num_frames - 1, key_frames or num_frames
        self.key_frames = tuple(round(i * last / max(1, count - 1)) for i in range(count))
        self.frames_per_slot = _ratio(
            len(self.key_frames), slots, "encoder: T' slots of key frames"
        )
        halvings = 2 ** (len(block_out_channels) - 1)
        trunk_rows = _ratio(h, ph * halvings, "encoder: patch rows and levels of h")
        trunk_columns = _ratio(w, pw * halvings, "encoder: patch columns and levels of w")
        kernel = (
            _ratio(trunk_rows, rows, "encoder: latent rows"),
            _ratio(trunk_columns, columns, "encoder: latent columns"),
        )

        # The trunk: per level residual blocks, each followed by attention within and through frames.
        width = block_out_channels[0]
        self.stem = nn.Conv2d(c * ph * pw, width, 3, padding=1)
        self.time_embedding = nn.Linear(width, width) if temporal_attention else None
        self.blocks = nn.ModuleList()
        for level, channels in enumerate(block_out_channels):
            if level:
                self.blocks.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
            for _ in range(layers_per_block):
                self.blocks.append(ResBlock(width, channels))
                width = channels
                if spatial_attention:
                    self.blocks.append(SelfAttention(channels, "spatial", head_dim))
                if temporal_attention:
                    self.blocks.append(SelfAttention(channels, "temporal", head_dim))

        # The head: mean and log-variance of the posterior.
        self.norm = group_norm(width)
        self.mean = nn.Conv2d(width, C, kernel, stride=kernel)
        self.logvar = zero_init(nn.Conv2d(width, C, kernel, stride=kernel))
        nn.init.constant_(self.logvar.get_parameter("bias"), initial_logvar)
        self.gradient_checkpointing = False  # switched by the model that owns this part

    def forward(self, image_latents: Tensor) -> Posterior:
        """(B,T,c,h,w) -> Posterior over (B,C,T',H',W'). With key frames, only those are read."""
        if len(self.key_frames) < image_latents.shape[1]:
            image_latents = image_latents[:, list(self.key_frames)]
        B, K = image_latents.shape[:2]
        h = self.stem(patchify(image_latents.flatten(0, 1), self.patch))
        if self.time_embedding is not None:
            # The sinusoid is made for steps of about 1: the clip is spread over 0..1000.
            spread = 1000 / (self.key_frames[-1] + 1)
            times = torch.tensor(self.key_frames, device=h.device) * spread
            position = self.time_embedding(sinusoidal_embedding(times, h.shape[1]).to(h.dtype))
            h = h + position.repeat(B, 1)[:, :, None, None]

        for block in self.blocks:
            run: Callable[[Tensor], Tensor] = block
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                run = partial(self._gradient_checkpointing_func, block)
            if isinstance(block, SelfAttention):
                clips = run(h.unflatten(0, (B, K)).transpose(1, 2))  # B C K H W
                h = clips.transpose(1, 2).flatten(0, 1)
            else:
                h = run(h)

        # Pooling before the last layer keeps the head's cost per slot, as in the paper.
        h = h.unflatten(0, (-1, self.frames_per_slot)).mean(1)  # (B slots) C H W
        h = F.silu(self.norm(h))
        mean, logvar = (
            self.layout.from_grid(head(h).unflatten(0, (B, -1)).transpose(1, 2))
            for head in (self.mean, self.logvar)
        )
        return Posterior(mean, logvar.clamp(-30.0, 20.0))


def _ratio(size: int, parts: int, what: str) -> int:
    """size / parts when it is whole.

    Raises:
        UserError: `parts` does not divide `size`; `what` names them.
    """
    if parts < 1 or size % parts:
        raise UserError(f"{what}: {parts} does not divide {size}; choose sizes that divide.")
    return size // parts
