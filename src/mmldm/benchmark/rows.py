"""What a clip costs in each row of quality of a recipe's models, counted and not timed.

recipe -> TFLOP a clip by row; a multiplication and an addition are two

The recipe's own rows ("paper") are those of model/, with its signal decoder and image decoder. "best",
"balanced" and "fast" are of the model that `mmldm distill` and a light image decoder make of it
(runs/paper.sh).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmldm.benchmark.sampling import CLASSES
from mmldm.config import RunConfig
from mmldm.models.image_vae import LightAutoencoderKL, sd_image_vae
from mmldm.pipelines.settings import Qualities, student_row
from mmldm.training.distil import STEPS
from mmldm.training.flops import count_flops
from mmldm.training.summary import summarise


class RowCost(NamedTuple):
    """One row.

    Attributes:
        generator_steps: Evaluations of the generator, without guidance.
        decoder_steps: Evaluations of the signal decoder for each image.
        light: Whether the light image decoder makes the images.
        tflop: Of a clip, without vocoder or Griffin-Lim.
    """

    generator_steps: int
    decoder_steps: int
    light: bool
    tflop: float


def row_costs(config: RunConfig) -> dict[str, RowCost]:
    """Costs by row, of a recipe that samples without guidance on a KL-VAE of Stable Diffusion."""
    # Each network's pass over one clip, and the light decoder's.
    summary = summarise(config, len(CLASSES))
    passes = {part.name: part.flops / 1e12 for part in summary.parts}
    shapes = summary.spaces["image latents"]
    images = shapes.audio[0] + shapes.video[0]
    light = images * light_decoding(shapes.video[1:]) / 1e12

    # Rows as the two model folders publish them.
    sample = config.sample
    own = {
        "num_inference_steps": sample.num_inference_steps,
        "decoder_steps": sample.decoder_steps,
        "guidance_scale": 1.0,
    }
    distilled = own | {"decoder_steps": STEPS["decoder"][-1]}
    students = {"fast": student_row(STEPS["generator"][-1])}
    papers = sample.rows or {}
    rows = {name: (False, Qualities(own, papers).settings(name)) for name in papers}
    published = Qualities(distilled, students)
    rows |= {name: (True, published.settings(name)) for name in published}

    costs = {}
    for name, (is_light, row) in rows.items():
        total = (
            row.num_inference_steps * passes["generator, one step"]
            + passes["autoencoder, condition"]
            + row.decoder_steps * passes["signal decoder, one step"]
            + (light if is_light else passes["image VAE, decode"])
        )
        costs[name] = RowCost(row.num_inference_steps, row.decoder_steps, is_light, total)
    return costs


def light_decoding(shape: tuple[int, ...]) -> int:
    """FLOP for an image of the light decoder of Stable Diffusion's latents, from image latents (c,h,w)."""
    with FakeTensorMode():
        vae = LightAutoencoderKL.of(sd_image_vae())
        flops, _ = count_flops(lambda: vae.decode(torch.empty(1, *shape)))
    return flops
