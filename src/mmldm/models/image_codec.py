"""Where a picture's latents are normalised, and nowhere else: `ImageCodec`, an image VAE and its statistics.

images (B,F,3,H,W) in [-1,1] <-> raw VAE latents <-> normalised image latents (B,F,c,h,w), about mean 0 and
variance 1 per channel. MM-LDM §2 (KL-VAE). The paper multiplies SD's latents by 0.18215 (release:
`scale_factor`); here that is one choice of statistics. The generator's own latents are another space, which
`JointGenerator.normalise` scales.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from mmldm.models.image_vae import ImageVAE
from mmldm.types import AV, MODALITIES, Modality

VAE_IMAGES_PER_CALL = 17
"""A clip of 16 frames: a GPU is busy, and what passes between layers stays in a CPU's caches."""
PROBE = 0.3
"""Deviation of the errors by which the image VAE is probed, in normalised latents."""


class ChannelStatistics(BaseModel):
    """Mean and standard deviation per channel, as plain numbers so that they store as JSON."""

    model_config = ConfigDict(frozen=True)

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def neutral(cls, channels: int, std: float = 1.0) -> ChannelStatistics:
        """Mean 0 and the same deviation for every channel."""
        return cls(mean=(0.0,) * channels, std=(std,) * channels)


class LatentStatistics(BaseModel):
    """Per-channel statistics of raw VAE latents; the modalities' scales differ by about two."""

    model_config = ConfigDict(frozen=True)

    audio: ChannelStatistics
    video: ChannelStatistics

    @classmethod
    def scalar(cls, scale: float, channels: int) -> LatentStatistics:
        """Multiplication by `scale` for both modalities: 0.18215 for Stable Diffusion's VAE."""
        both = ChannelStatistics.neutral(channels, 1.0 / scale)
        return cls(audio=both, video=both)

    @classmethod
    def fit(cls, batches: Iterable[AV[Tensor]]) -> LatentStatistics:
        """Streams moments in float64 over batches of raw latents AV (...,c,h,w); one side may be empty.

        Raises:
            ValueError: No batch came.
        """
        sums: AV[Tensor] | None = None
        for batch in batches:
            moments = batch.map(_moments)
            sums = moments if sums is None else sums.map(torch.add, moments)
        if sums is None:
            raise ValueError("LatentStatistics.fit: no latents to take statistics of")
        return cls(audio=_finish(sums.audio), video=_finish(sums.video))

    def to_dict(self) -> dict[str, dict[str, list[float]]]:
        """Plain JSON, read back by `from_dict`."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LatentStatistics:
        """Inverse of `to_dict`."""
        return cls.model_validate(values)


def _moments(latents: Tensor) -> Tensor:
    """(...,c,h,w) -> (3,c) count, sum and sum of squares, float64."""
    x = latents.detach().double().movedim(-3, 0).flatten(1)
    return torch.stack([x.new_full(x.shape[:1], x.shape[1]), x.sum(1), x.square().sum(1)])


def _finish(moments: Tensor) -> ChannelStatistics:
    """(3,c) of `_moments` -> statistics. Float64: the difference of two large numbers is small here."""
    count, total, squares = moments
    mean = total / count
    # A channel that never changes would be divided by zero.
    std = (squares / count - mean.square()).clamp_min(1e-12).sqrt()
    return ChannelStatistics(mean=mean.tolist(), std=std.tolist())


class ImageCodec(nn.Module):
    """Images to normalised image latents and back; differentiable both ways.

    It does not freeze the VAE: that is the training stage's decision.

    Args:
        vae: From `load_image_vae`.
        statistics: What makes its raw latents standard.
        images_per_call: Images the VAE sees at once; bounds memory, changes no number.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        vae: ImageVAE,
        statistics: LatentStatistics,
        images_per_call: int = VAE_IMAGES_PER_CALL,
    ) -> None:
        super().__init__()
        self.vae = vae
        self.images_per_call = images_per_call
        both = (statistics.audio, statistics.video)
        self.register_buffer("mean", torch.tensor([s.mean for s in both]), persistent=False)
        self.register_buffer("std", torch.tensor([s.std for s in both]), persistent=False)

    def _constants(self, modality: Modality, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation, (c,1,1) each."""
        # On the latents' device: moving this module would move the VAE, which may be offloaded.
        row, device = MODALITIES.index(modality), latents.device
        return self.mean[row].to(device)[:, None, None], self.std[row].to(device)[:, None, None]

    def normalise(self, latents: Tensor, modality: Modality) -> Tensor:
        """Raw VAE latents (...,c,h,w) -> normalised ones, same shape."""
        mean, std = self._constants(modality, latents)
        return (latents - mean) / std

    def denormalise(self, latents: Tensor, modality: Modality) -> Tensor:
        """Normalised latents (...,c,h,w) -> raw ones: the inverse of `normalise`."""
        mean, std = self._constants(modality, latents)
        return latents * std + mean

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B,F,3,H,W) -> raw mean and log-variance (B,F,c,h,w): what a cache stores."""
        dtype = next(self.vae.parameters()).dtype
        dists = [
            self.vae.encode(_laid_out(chunk, dtype)).latent_dist
            for chunk in images.flatten(0, 1).split(self.images_per_call)
        ]
        mean = torch.cat([dist.mean for dist in dists]).float()
        logvar = torch.cat([dist.logvar for dist in dists]).float()
        return mean.unflatten(0, images.shape[:2]), logvar.unflatten(0, images.shape[:2])

    def encode(
        self, images: Tensor, modality: Modality, generator: torch.Generator | None = None
    ) -> Tensor:
        """Images (B,F,3,H,W) in [-1,1] -> normalised image latents (B,F,c,h,w).

        Args:
            generator: Draws from the posterior; None takes its mode.
        """
        # The posterior is over raw latents; what leaves is normalised.
        mean, logvar = self.posterior(images)
        if generator is not None:
            noise = torch.randn(mean.shape, generator=generator, device=generator.device)
            mean = mean + noise.to(mean) * (0.5 * logvar).exp()
        return self.normalise(mean, modality)

    @torch.no_grad()
    def pixel_power(self, latents: Tensor, modality: Modality) -> Tensor:
        """What equal errors in each channel cost in pixels: (c,), mean 1.

        Normalised channels look alike to a squared error, and a few of them hold nearly all that one sees.

        Args:
            latents: Normalised image latents (B,F,c,h,w), about which the image VAE is probed.
        """
        generator = torch.Generator().manual_seed(0)
        error = PROBE * torch.randn(latents[:, :, 0].shape, generator=generator).to(latents)
        images = self.decode(latents, modality)
        powers = []
        for channel in range(latents.shape[2]):
            moved = latents.clone()
            moved[:, :, channel] += error
            powers.append((self.decode(moved, modality) - images).square().mean())
        power = torch.stack(powers)
        return power / power.mean()

    def decode(
        self,
        latents: Tensor,
        modality: Modality,
        finish: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Normalised image latents (B,F,c,h,w) -> images (B,F,3,H,W), about [-1,1], not clamped.

        Args:
            finish: What becomes of the images (N,3,H,W) of each call, while caches hold them.
        """
        raw = self.denormalise(latents, modality).flatten(0, 1)
        dtype = next(self.vae.parameters()).dtype
        images = []
        for chunk in raw.split(self.images_per_call):
            image = self.vae.decode(_laid_out(chunk, dtype)).sample.float()
            images.append(image if finish is None else finish(image))
        return torch.cat(images).unflatten(0, latents.shape[:2])


def _laid_out(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Images or raw latents (N,C,H,W) in this type, as its convolutions are fastest.

    Channels last in memory, narrow ones take a fifth less time on a CPU. Not with gradients: their backward
    pass has crashed there (docs/lab-notes.md, 2026-11-23).
    """
    layout = torch.preserve_format if torch.is_grad_enabled() else torch.channels_last
    return images.to(dtype, memory_format=layout)
