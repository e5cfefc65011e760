"""Latents -> images -> clips, by the signal decoder and the image VAE: what sampling and previews share.

latents AV((B,C,T',H',W')) -> image latents -> images AV((B,1,3,H,W), (B,F,3,H,W)). MM-LDM §3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from mmldm.diffusion.sampling import initial_noise, sample
from mmldm.media.clip import Clip
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.image_codec import ImageCodec
from mmldm.pipelines.denoising import decoder_denoiser
from mmldm.types import AV, MODALITIES, ClipSpec

IMAGES_PER_CALL = 34
"""Two clips of 16 frames and their sounds: fewer fill no GPU, more are slower on a CPU and need memory."""


@torch.no_grad()
def decode_to_image_latents(
    autoencoder: MultiModalAutoencoder,
    scheduler: SchedulerMixin,
    latents: AV[Tensor],
    *,
    num_frames: int,
    steps: int,
    generators: Sequence[torch.Generator],
    class_labels: Tensor | None = None,
    images_per_call: int | None = None,
) -> AV[Tensor]:
    """The signal decoder's part: the audio image and the first `num_frames` frames of every clip.

    Args:
        latents: AV((B,C,T',H',W')), as the autoencoder encodes them.
        generators: One CPU generator per clip, for the decoder's noise.
        class_labels: (B,); None: the autoencoder predicts the class from the latents.
        images_per_call: Images the signal decoder sees at once; bounds memory, changes no number.
            None: IMAGES_PER_CALL.

    Returns:
        Normalised image latents AV((B,1,c,h,w), (B,F,c,h,w)).
    """
    device = latents.video.device
    count = len(latents.audio)
    indices = torch.arange(num_frames, device=device).expand(count, -1)
    inputs = latents.map(lambda z: z.to(autoencoder.dtype))
    conditions = autoencoder.condition(inputs, indices, class_labels)
    shape = tuple(autoencoder.config.image_latent_shape)
    noise = initial_noise(AV((1, *shape), (num_frames, *shape)), generators, device)
    return sample(
        decoder_denoiser(autoencoder, conditions, images_per_call or IMAGES_PER_CALL),
        noise,
        scheduler,
        steps,
        generator=list(generators),
    )


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
    images_per_call: int | None = None,
) -> AV[Tensor]:
    """Decodes clips to images about [-1, 1], not clamped. Arguments as `decode_to_image_latents`."""
    image_latents = decode_to_image_latents(
        autoencoder,
        scheduler,
        latents,
        num_frames=num_frames,
        steps=steps,
        generators=generators,
        class_labels=class_labels,
        images_per_call=images_per_call,
    )
    return image_latents.map(codec.decode, MODALITIES)


def clips_of(waveforms: Tensor, frames: Tensor, count: int, spec: ClipSpec) -> list[Clip]:
    """Waveforms (B,S) and frames uint8 (B,T,3,H,W) -> `count` clips; one row of either serves all."""
    return [
        Clip(
            frames=frames[i if len(frames) > 1 else 0],
            waveform=waveforms[i if len(waveforms) > 1 else 0],
            fps=spec.fps,
            sample_rate=spec.sample_rate,
        )
        for i in range(count)
    ]
