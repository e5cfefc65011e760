"""A recipe's networks as a pipeline.

recipe, image VAE, autoencoder, generator -> SoundingVideoPipeline, without a vocoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmldm.config import RunConfig, parse
from mmldm.diffusion.schedules import ScheduleConfig, make_scheduler
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.generator import JointGenerator
from mmldm.models.image_vae import ImageVAE
from mmldm.pipelines.sounding_video import SoundingVideoPipeline


def assemble(
    config: RunConfig,
    vae: ImageVAE,
    autoencoder: MultiModalAutoencoder,
    generator: JointGenerator,
    classes: Sequence[str],
) -> SoundingVideoPipeline:
    """The pipeline of a recipe's networks, without a vocoder."""
    sample = config.sample
    scheduler, decoder_scheduler = schedulers(config)
    return SoundingVideoPipeline(
        vae=vae,
        autoencoder=autoencoder,
        generator=generator,
        scheduler=scheduler,
        decoder_scheduler=decoder_scheduler,
        clip_spec=config.clip.model_dump(mode="json"),
        class_names=list(classes) if generator.null_class else [],
        num_inference_steps=sample.num_inference_steps,
        decoder_steps=sample.decoder_steps,
        guidance_scale=sample.guidance_scale,
        default_quality=sample.quality,
        quality_rows=sample.rows,
        known_slots=config.generator.known_slots is not None,
    )


def schedulers(config: RunConfig) -> tuple[Any, Any]:
    """How the generator and the signal decoder of a recipe sample.

    Raises:
        UserError: A `schedule` section is wrong, or does not suit the scheduler.
    """
    generator, autoencoder = (
        parse(ScheduleConfig, section.schedule, f"{job}.schedule")
        for job, section in (("generator", config.generator), ("autoencoder", config.autoencoder))
    )
    return make_scheduler(generator, config.sample.scheduler), make_scheduler(autoencoder, "ddim")
