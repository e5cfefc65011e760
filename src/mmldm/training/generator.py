"""The `generator` job: joint denoising of both latents by the diffusion transformer. Paper §3.2-3.3.

cached latents AV (B,C,T',H',W') -> noisy at one shared level -> prediction -> squared error (Eq. 7).
Each row of a batch plays one task, drawn from the configured mix:

    joint           both streams noisy, both predicted
    audio_to_video  clean audio given; its stream is noised to the same level (Eq. 5); video predicted
    video_to_audio  the same the other way round
    audio_only      nothing given, the video stream is pure noise; audio predicted
    video_only      the same the other way round

The paper has the first three, with 5 % each of the given ones; the single-modality tasks teach the null
half of cross-modal guidance (Eq. 8) a state it will meet when sampling. A clip that lacks a modality
always plays the other's. Only predicted streams enter the loss.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmldm.config import TASKS, GeneratorConfig, RunConfig, bind, parse
from mmldm.data.clips import present
from mmldm.data.latents import LatentCache, Splits
from mmldm.diffusion.schedules import NoiseProcess, ScheduleConfig
from mmldm.models.generator import JointGenerator
from mmldm.pipelines.decoding import save_clips
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.cached_stage import CachedStage
from mmldm.training.randomness import StepRandom
from mmldm.types import AV, MODALITIES


class GeneratorTurn(nn.Module):
    """Eq. 7 over a mix of tasks."""

    task_ends: Tensor

    def __init__(
        self, generator: JointGenerator, process: NoiseProcess, config: GeneratorConfig
    ) -> None:
        super().__init__()
        self.generator, self.process = generator, process
        self.class_dropout, self.logit_normal = config.class_dropout, config.logit_normal
        shares = torch.tensor([config.tasks.get(task, 0.0) for task in TASKS])
        self.register_buffer("task_ends", shares.cumsum(0), persistent=False)
        self.predicted_share = AV(
            float(shares[0] + shares[2] + shares[3]), float(shares[0] + shares[1] + shares[4])
        )

    def forward(self, batch: dict[str, Tensor], random: StepRandom) -> dict[str, Tensor]:
        rows = len(batch["label"])
        tasks = torch.searchsorted(self.task_ends, random.uniform((rows,)), right=True)
        here = present(batch)
        tasks = tasks.clamp_max(len(TASKS) - 1)
        tasks = tasks.masked_fill(~here.video, TASKS.index("audio_only"))
        tasks = tasks.masked_fill(~here.audio, TASKS.index("video_only"))
        timesteps = self.timesteps(random, rows)
        errors, predicted = self.errors(batch, tasks, timesteps, random, self.class_dropout)
        # Divided by the expected share, not by this batch's count: a mean over rows stays a mean of means.
        loss = errors.map(
            lambda e, p, s: (e * p).mean() / (s or 1.0), predicted, self.predicted_share
        )
        return {
            "loss": loss.audio + loss.video,
            "mse/audio": loss.audio.detach(),
            "mse/video": loss.video.detach(),
        }

    def errors(
        self,
        batch: dict[str, Tensor],
        tasks: Tensor,
        timesteps: Tensor,
        random: StepRandom,
        class_dropout: float,
    ) -> tuple[AV[Tensor], AV[Tensor]]:
        """Per-row squared errors (B,) of both streams, and which rows predict that stream (B,) bool.

        Args:
            class_dropout: Share of rows whose class is not told.
        """
        generator, process = self.generator, self.process
        # The posterior's mean, not a sample: what the posterior leaves open need not be modelled.
        latents = generator.normalise(MODALITIES.map(lambda m: batch[f"{m}_mean"]))
        rows = len(tasks)
        noise = latents.map(lambda z: random.normal(z.shape))
        noisy = latents.map(lambda z, n: process.add_noise(z, n, timesteps), noise)

        given_mask = AV(_is(tasks, "audio_to_video"), _is(tasks, "video_to_audio"))
        absent = AV(_is(tasks, "video_only"), _is(tasks, "audio_only"))
        noisy = noisy.map(lambda x, n, m: torch.where(_rows(m, x), n, x), noise, absent)
        labels = batch["label"] if generator.config.num_classes else None
        if labels is not None:
            forget = random.bernoulli(class_dropout, (rows,))
            labels = torch.where(forget, torch.full_like(labels, -1), labels)
        prediction = generator(noisy, timesteps, latents, given_mask, labels)
        target = latents.map(lambda z, n: process.target(z, n, timesteps), noise)
        errors = prediction.map(lambda p, w: (p - w).square().flatten(1).mean(1), target)
        predicted = given_mask.map(lambda given, gone: ~(given | gone), absent)
        return errors, predicted

    def timesteps(self, random: StepRandom, rows: int) -> Tensor:
        """(rows,) long: uniform, or logit-normal, which dwells where structure is decided.

        Source of the latter: Esser et al., "Scaling rectified flow transformers for high-resolution
        image synthesis", 2024, §3.1.
        """
        count = self.process.num_timesteps
        if self.logit_normal is None:
            return random.integers(0, count, (rows,))
        mean, std = self.logit_normal
        share = torch.sigmoid(random.normal((rows,)) * std + mean)
        return (share * count).long().clamp_max(count - 1)


def _is(tasks: Tensor, name: str) -> Tensor:
    return tasks == TASKS.index(name)


def _rows(mask: Tensor, like: Tensor) -> Tensor:
    return mask.view(-1, *(1,) * (like.ndim - 1))


class GeneratorStage(CachedStage):
    """Trains the joint generator on cached latents. See `training.stage.Stage`.

    Args:
        pipeline: The parts trained so far with this generator in place, for previews and export.
    """

    name = "generator"

    def __init__(
        self,
        config: RunConfig,
        pipeline: SoundingVideoPipeline,
        caches: Splits,
        device: torch.device,
    ) -> None:
        super().__init__(config.generator.train, caches, config.seed, device)
        self.job = config.generator
        self.pipeline = pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.generator: JointGenerator = pipeline.generator.train()
        self.process = NoiseProcess(
            parse(ScheduleConfig, self.job.schedule, "generator.schedule")
        ).to(device)
        self.turn = GeneratorTurn(self.generator, self.process, self.job).to(device)
        self.turns["model"] = self.turn
        self.ema_modules["generator"] = self.generator

    def fingerprint(self) -> dict[str, Any]:
        return {"job": self.job.model_dump(exclude={"train"}), "cache": self.caches.train.identity}

    @torch.no_grad()
    def validate(self, random: StepRandom) -> dict[str, float]:
        """Held-out errors per task without a class, and what the other modality is worth (null minus given).

        A class would tell the material, which is what a model should read from the given modality.
        """
        batch = self.held_out(256)
        rows = len(batch["label"])
        results: dict[str, float] = {}
        for task in TASKS:
            tasks = torch.full((rows,), TASKS.index(task), device=self.device)
            random = StepRandom(self.seed, 0, "validate", rows, device=self.device)
            timesteps = random.integers(0, self.process.num_timesteps, (rows,))
            errors, predicted = self.turn.errors(batch, tasks, timesteps, random, class_dropout=1.0)
            for modality, error, used in zip(("audio", "video"), errors, predicted, strict=True):
                if bool(used.any()):
                    results[f"{task}/{modality}"] = float(error.mean())
        results["gap/video"] = results["video_only/video"] - results["audio_to_video/video"]
        results["gap/audio"] = results["audio_only/audio"] - results["video_to_audio/audio"]
        return results

    def preview(self, folder: Path, step: int) -> None:
        output = self.pipeline(num_samples=4, seed=0)
        save_clips(output.clips, folder, f"joint_{step:07d}")

    def export(self, folder: Path) -> None:
        self.pipeline.save_pretrained(folder)


def generator_arguments(
    config: RunConfig,
    latent_shapes: AV[tuple[int, ...]],
    statistics: dict[str, Any] | None,
    classes: int,
) -> dict[str, Any]:
    """The recipe's section with what follows from the latents and the data."""
    return bind(
        config.generator.model,
        JointGenerator,
        "generator.model",
        audio_latent_shape=list(latent_shapes.audio),
        video_latent_shape=list(latent_shapes.video),
        duration=config.clip.duration,
        latent_statistics=statistics,
        # Rows that all forget their class teach nothing about it.
        num_classes=classes if classes > 1 and config.generator.class_dropout < 1 else 0,
    )


def build_generator(config: RunConfig, cache: LatentCache, classes: int) -> JointGenerator:
    """A fresh generator whose shapes and normalisation come from the cached latents."""
    rows = cache.row_shapes()
    shapes = MODALITIES.map(lambda modality: rows[f"{modality}_mean"])
    torch.manual_seed(config.seed)
    return JointGenerator(**generator_arguments(config, shapes, cache.extra["statistics"], classes))
