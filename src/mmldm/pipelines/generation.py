"""A request, batch by batch: noise -> latents -> clips. MM-LDM §3.2-3.3.

Request -> latents AV((B,C,T',H',W')) on the CPU, and the clips decoded from them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from mmldm.diffusion.sampling import initial_noise, sample
from mmldm.media.clip import Clip
from mmldm.models.generator import JointGenerator
from mmldm.pipelines.coding import ClipCoder, parts_of, rows_of
from mmldm.pipelines.denoising import generator_denoiser
from mmldm.pipelines.quality import Settings
from mmldm.pipelines.request import Request
from mmldm.types import AV


@torch.no_grad()
def generate(
    coder: ClipCoder,
    model: JointGenerator,
    sampler: SchedulerMixin,
    asked: Request,
    chosen: Settings,
    *,
    decode: bool,
    after_step: Callable[[int, Tensor, AV[Tensor]], AV[Tensor] | None],
) -> tuple[list[Clip], AV[Tensor]]:
    """What a call asks for.

    A given clip that serves all samples is encoded once.

    Args:
        decode: Whether clips are wanted beside the latents.
        after_step: Called after each step with (step, t, noisy latents); may return a replacement.

    Returns:
        The clips, none unless wanted, and the latents as the autoencoder encodes them.
    """
    device, scale = coder.device, AV(chosen.guidance_scale, chosen.guidance_scale)
    clips: list[Clip] = []
    latents: list[AV[Tensor]] = []
    shared = coder.encode(asked.media) if asked.one_for_all else None
    for rows in parts_of(asked.count, asked.batch_size):
        generators = [torch.Generator().manual_seed(seed) for seed in asked.seeds[rows]]
        media = rows_of(asked.media, rows)
        labels = None if asked.labels is None else asked.labels[rows].to(device)
        encoded: AV[Any] = coder.encode(media) if shared is None else shared
        given = model.normalise(encoded).map(
            lambda z, g=generators: None if z is None else z.expand(len(g), *z.shape[1:])
        )
        noise = initial_noise(model.latent_shapes, generators, device)
        denoise = generator_denoiser(model, noise, given, labels, scale)
        normal = sample(
            denoise, noise, sampler, chosen.num_inference_steps, given, generators, after_step
        )
        batch = model.denormalise(normal)
        latents.append(batch.map(Tensor.cpu))
        if decode:
            clips += coder.decode(batch, media, labels, generators, chosen, asked.images_per_call)
    return clips, AV(*(torch.cat(parts) for parts in zip(*latents, strict=True)))
