"""The model of a run that is still training, or was stopped: its newest average weights, as they lie there.

run folder -> pipeline, and from which step. Only read: the folder may be another process's that is at work
in it and deletes old checkpoints meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmldm.config import load_config
from mmldm.data.cache_writer import json_of
from mmldm.data.manifest import Manifest
from mmldm.errors import UserError
from mmldm.models.autoencoder import load_autoencoder
from mmldm.models.generator import JointGenerator
from mmldm.models.image_vae import load_image_vae
from mmldm.models.pretrained_vocoder import load_vocoder
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.assembly import assemble
from mmldm.training.checkpoint import CheckpointFolder, DamagedError
from mmldm.training.jobs.generator import generator_arguments
from mmldm.training.run_folder import RunFolder
from mmldm.types import MODALITIES

JOB = "generator"
INDEX = "model_index.json"


def finished_model(run: Path) -> Path | None:
    """The model folder that a run has made: distilled/, else model/; None while it has neither."""
    folder = RunFolder(run)
    if not folder.manifest.is_file():
        return None
    return next((p for p in (folder.distilled, folder.model) if (p / INDEX).is_file()), None)


def newer_step(run: Path) -> int | None:
    """The newest step of a generator that trains on after model/ was written; None: it does not.

    Without model/, the newest step that there is.
    """
    folder = RunFolder(run)
    steps = _checkpoints(folder).steps()
    if not steps:
        return None
    exported = folder.export(JOB) / INDEX
    if not exported.is_file():
        return steps[-1]
    # Times may be those of a copy: a job that has all its steps does not train on.
    if folder.config.is_file() and steps[-1] == load_config(folder.config).generator.train.steps:
        return None
    # The export is written after the job's last checkpoint.
    try:
        written = (_checkpoints(folder).folder(steps[-1]) / "state.json").stat().st_mtime_ns
    except OSError:
        return None
    return steps[-1] if written > exported.stat().st_mtime_ns else None


def newest_pipeline(run: Path) -> tuple[SoundingVideoPipeline, int]:
    """The pipeline of a run with the newest average weights of its generator, and their step.

    Raises:
        UserError: The generator job has no checkpoint yet, or what it stands on is not there.
    """
    folder = RunFolder(run)
    begun = folder.begun()
    if JOB not in begun:
        raise UserError(
            f"{run} is a training run without a model so far: its generator job has no checkpoint yet"
            + (f" (it is at the {begun[-1]} job)" if begun else "")
            + "; repeat the mmldm train command, or wait for it."
        )
    config = load_config(folder.config)
    classes = Manifest.load(folder.manifest).classes
    vae = load_image_vae(config.autoencoder.image_vae or folder.export("vae"))
    autoencoder = load_autoencoder(config.generator.autoencoder or folder.export("autoencoder"))

    weights, step = _newest_weights(folder)
    statistics = _statistics(weights, folder)
    arguments = generator_arguments(config, autoencoder.latent_shapes, statistics, len(classes))
    generator = JointGenerator(**arguments)
    _take(generator, weights, f"{folder.job(JOB)}, step {step}")

    pipeline = assemble(config, vae, autoencoder, generator.eval(), classes)
    vocoder = folder.export("vocoder")
    if config.vocoder is not None and vocoder.is_dir():
        pipeline.register_modules(vocoder=load_vocoder(vocoder, config.clip))
    return pipeline, step


def _checkpoints(folder: RunFolder) -> CheckpointFolder:
    return CheckpointFolder(folder.job(JOB) / "checkpoints", 1, _hush)


def _newest_weights(folder: RunFolder) -> tuple[dict[str, Tensor], int]:
    """The generator's weights, of any shapes, averaged where they were, and their step."""
    checkpoints = _checkpoints(folder)
    seen: set[int] = set()
    # What is deleted or replaced under our hands is passed over; what has come since is looked at.
    while todo := [step for step in checkpoints.steps() if step not in seen]:
        step = todo[-1]
        seen.add(step)
        try:
            found = checkpoints.load(step).tensors
        except DamagedError:
            continue
        # The average holds what is trained; where nothing is averaged, the weights are in the turn.
        weights = _of_generator(found["model"]) | _of_generator(found.get("ema", {}))
        return weights, step
    raise UserError(
        f"{folder.job(JOB)}: no checkpoint is whole; `mmldm train` says more about them."
    )


def _of_generator(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The generator's own tensors of any shapes, by its names for them."""
    prefix = f"{JOB}."
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _take(generator: JointGenerator, weights: dict[str, Tensor], where: str) -> None:
    """Puts weights of any shapes into the generator."""
    # Buffers that follow from the config are averaged, too, and are no part of the state.
    own = generator.state_dict()
    try:
        generator.load_state_dict({name: t for name, t in weights.items() if name in own})
    except RuntimeError as error:
        raise UserError(
            f"{where}: the weights are not of the recipe in config.yaml, which has changed since."
        ) from error


def _statistics(weights: dict[str, Tensor], folder: RunFolder) -> dict[str, Any]:
    """The latents' statistics that the generator normalises with.

    Args:
        weights: The average has them, (C,1,1,1) each; else they are those of the cached latents.
    """
    if all(f"{m}.{name}" in weights for m in MODALITIES for name in ("mean", "std")):
        return {
            m: {name: weights[f"{m}.{name}"].flatten().tolist() for name in ("mean", "std")}
            for m in MODALITIES
        }
    index = folder.cache("latents") / "train" / "index.json"
    statistics: dict[str, Any] | None = json_of(index).get("extra", {}).get("statistics")
    if statistics is None:
        raise UserError(
            f"{index} is missing: the weights mean nothing without the statistics that it holds; repeat "
            "the mmldm train command, which makes it again."
        )
    return statistics


def _hush(*sentence: object) -> None:
    """The training loop says what is wrong with checkpoints; here they are only read."""
