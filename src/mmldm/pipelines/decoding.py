"""Latents -> images, by the signal decoder and the image VAE: what sampling and previews share.

latents AV((B,C,T',H',W')) -> image latents -> images AV((B,1,3,H,W), (B,F,3,H,W)). MM-LDM §3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from mmldm.diffusion.sampling import initial_noise, sample
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.image_codec import ImageCodec
from mmldm.pipelines.denoising import decoder_denoiser
from mmldm.types import AV


@torch.no_grad()
def decode_latents(
    autoencoder: MultiModalAutoencoder,
    codec: ImageCodec,
    scheduler: SchedulerMixin,
    latents: AV[Tensor],
    *,
    num_frames: int,
    steps: int,
    generators: Sequence[torch.Generator],
    class_labels: Tensor | None = None,
) -> AV[Tensor]:
    """Decodes the audio image and the first `num_frames` frames of every clip.

    Args:
        latents: AV((B,C,T',H',W')), as the autoencoder encodes them.
        generators: One CPU generator per clip, for the decoder's noise.
        class_labels: (B,); None: the autoencoder predicts the class from the latents.

    Returns:
        Images about [-1, 1], not clamped.
    """
    device = latents.video.device
    count = len(latents.audio)
    indices = torch.arange(num_frames, device=device).expand(count, -1)
    inputs = latents.map(lambda z: z.to(autoencoder.dtype))
    conditions = autoencoder.condition(inputs, indices, class_labels)
    shape = tuple(autoencoder.config.image_latent_shape)
    noise = initial_noise(AV((1, *shape), (num_frames, *shape)), generators, device)
    image_latents = sample(
        decoder_denoiser(autoencoder, conditions),
        noise,
        scheduler,
        steps,
        generator=list(generators),
    )
    return AV(
        codec.decode(image_latents.audio, "audio"), codec.decode(image_latents.video, "video")
    )
