"""Media -> latents, by the image VAE and the perceptual encoders: what is given to the generator.

media AV((B,S), (B,T,3,H,W) u8) -> images -> image latents -> latents AV((B,C,T',H',W')).
MM-LDM §3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmldm.media.clip import frames_to_images
from mmldm.media.spectrogram import AudioImage
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.image_codec import ImageCodec
from mmldm.types import AV


@torch.no_grad()
def encode_media(
    autoencoder: MultiModalAutoencoder,
    codec: ImageCodec,
    audio_image: AudioImage,
    media: AV[Tensor | None],
) -> AV[Tensor | None]:
    """The mode of the posterior over latents, not normalised; None stays None."""
    waveforms, frames = media
    image_latents: AV[Tensor | None] = AV(
        None if waveforms is None else codec.encode(audio_image.image(waveforms), "audio"),
        None if frames is None else codec.encode(frames_to_images(frames), "video"),
    )
    posterior = autoencoder.encode(
        image_latents.map(lambda x: None if x is None else x.to(autoencoder.dtype))
    )
    return posterior.map(lambda p: None if p is None else p.mode().float())
