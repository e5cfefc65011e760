"""Binds the two networks to their conditions, as the functions that `diffusion.sampling` steps.

conditions -> (noisy AV((B,...)), t) -> prediction AV((B,...)). MM-LDM §3.1 (decoder), §3.3
(guidance).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmldm.diffusion.guidance import guide
from mmldm.diffusion.sampling import Denoiser
from mmldm.models.autoencoder import Conditions, MultiModalAutoencoder
from mmldm.models.generator import JointGenerator
from mmldm.types import AV


def generator_denoiser(
    generator: JointGenerator,
    noise: AV[Tensor],
    given: AV[Tensor | None],
    class_labels: Tensor | None,
    scale: AV[float],
) -> Denoiser:
    """The generator under classifier-free and cross-modal guidance (Eq. 8).

    The null half knows neither the given modality nor the class. It is evaluated in one call with
    the conditional half, and not at all when there is nothing to be guided by or the scale is 1.

    Args:
        noise: The clips' own noise AV((B,C,T',H',W')): what a given modality's stream holds in the
            null half of a generator with `null_stream="noise"`.
        given: Clean normalised latents of the known modality.
        class_labels: (B,), as `JointGenerator.forward`.
        scale: phi of Eq. 8 per modality.
    """
    conditional = class_labels is not None or any(known is not None for known in given)
    guided = conditional and scale != (1.0, 1.0)
    dtype = generator.dtype
    batch = len(noise.audio)
    present = given.map(lambda known: None if known is None else known.to(dtype))
    mask: AV[Tensor | None] = AV(None, None)
    labels = class_labels
    if guided:
        present = present.map(lambda known: None if known is None else torch.cat([known, known]))
        first_half = torch.arange(2 * batch, device=noise.audio.device) < batch
        mask = present.map(lambda known: None if known is None else first_half)
        if labels is not None:
            labels = torch.cat([labels, torch.full_like(labels, generator.null_class)])

    def null_half(x: Tensor, own_noise: Tensor, known: Tensor | None) -> Tensor:
        if known is not None and generator.config.null_stream == "noise":
            return own_noise
        return x

    def denoise(sample: AV[Tensor], t: Tensor) -> AV[Tensor]:
        if guided:
            null = sample.map(null_half, noise, given)
            sample = sample.map(lambda x, n: torch.cat([x, n]), null)
        timesteps = t.expand(len(sample.audio))
        inputs = sample.map(lambda x: x.to(dtype))
        prediction = generator(inputs, timesteps, present, mask, labels).map(Tensor.float)
        if not guided:
            return prediction
        halves = AV(*(p.chunk(2) for p in prediction))
        return guide(halves.map(lambda h: h[0]), halves.map(lambda h: h[1]), scale)

    return denoise


def decoder_denoiser(autoencoder: MultiModalAutoencoder, conditions: Conditions) -> Denoiser:
    """The signal decoder with the clips' conditions, at one noise level for all images."""

    def denoise(sample: AV[Tensor], t: Tensor) -> AV[Tensor]:
        timesteps = sample.map(lambda x: t.expand(x.shape[:2]))
        inputs = sample.map(lambda x: x.to(autoencoder.dtype))
        return autoencoder.denoise(inputs, timesteps, conditions).map(Tensor.float)

    return denoise
