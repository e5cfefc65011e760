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

    The null prediction of a modality knows neither the other modality nor the class. A generator
    with `null_stream="noise"` was taught to predict one modality alone, so it has a null prediction
    for each of the two: jointly generated sound and picture then guide each other, which the paper's
    form (`"renoised"`) cannot do. Null rows ride in one call with the conditional ones, one set per
    predicted modality, and are left out when there is nothing to be guided by or the scale is 1.

    Args:
        noise: The clips' own noise AV((B,C,T',H',W')): what the other modality's stream holds in
            the null rows of a generator with `null_stream="noise"`.
        given: Clean normalised latents of the known modality.
        class_labels: (B,), as `JointGenerator.forward`.
        scale: phi of Eq. 8 per modality.
    """
    batch, dtype, device = len(noise.audio), generator.dtype, noise.audio.device
    nulls: list[AV[bool]] = []
    """Sets of null rows, as which streams they keep; a stream not kept holds noise."""
    if scale != (1.0, 1.0):
        if generator.config.null_stream == "noise":
            alone = (AV(True, False), AV(False, True))
            nulls = [kept for kept, known in zip(alone, given, strict=True) if known is None]
        elif class_labels is not None or any(known is not None for known in given):
            nulls = [AV(True, True)]
    copies = 1 + len(nulls)
    # A modality's null prediction stands where its stream was kept; a known one is its own.
    null_set = AV(*(next((i for i, kept in enumerate(nulls, 1) if kept[m]), 0) for m in range(2)))
    present: AV[Tensor | None] = given.map(
        lambda known: None if known is None else torch.cat([known.to(dtype)] * copies)
    )
    mask: AV[Tensor | None] = AV(None, None)
    labels = class_labels
    if nulls:
        own_rows = torch.arange(copies * batch, device=device) < batch
        mask = present.map(lambda known: None if known is None else own_rows)
        if labels is not None:
            null_labels = torch.full_like(labels, generator.null_class)
            labels = torch.cat([labels, *[null_labels] * len(nulls)])

    def denoise(sample: AV[Tensor], t: Tensor) -> AV[Tensor]:
        sets = [sample, *(sample.map(lambda x, n, k: x if k else n, noise, k) for k in nulls)]
        inputs = AV(*(torch.cat(streams).to(dtype) for streams in zip(*sets, strict=True)))
        times = t.to(device).expand(batch).repeat(copies)
        prediction = generator(inputs, times, present, mask, labels)
        predictions = prediction.map(lambda p: p.float().split(batch))
        null = predictions.map(lambda p, i: p[i], null_set)
        return guide(predictions.map(lambda p: p[0]), null, scale)

    return denoise


def decoder_denoiser(
    autoencoder: MultiModalAutoencoder, conditions: Conditions, images_per_call: int | None = None
) -> Denoiser:
    """The signal decoder with the clips' conditions, at one noise level for all images of a clip.

    Args:
        images_per_call: As `MultiModalAutoencoder.denoise`.
    """

    def denoise(sample: AV[Tensor], t: Tensor) -> AV[Tensor]:
        timesteps = sample.map(lambda x: t.to(x.device).reshape(-1, 1).expand(x.shape[:2]))
        inputs = sample.map(lambda x: x.to(autoencoder.dtype))
        prediction = autoencoder.denoise(inputs, timesteps, conditions, images_per_call)
        return prediction.map(Tensor.float)

    return denoise
