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
always plays the other's. Only predicted streams enter the loss. Where the recipe asks for it, a share of
every task's rows knows slots of the streams that it predicts (`training.known_slots`); they are shown as a
given modality is, and only the others enter the loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmldm.config import RunConfig
from mmldm.data.clips import NO_CLASS
from mmldm.data.latents import LatentCache, Splits
from mmldm.diffusion.schedules import NoiseProcess, ScheduleConfig
from mmldm.models.component import refuse_other_build
from mmldm.models.generator import JointGenerator, load_generator
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.sections import TASKS, GeneratorConfig
from mmldm.strict import bind, parse
from mmldm.training.known_slots import SlotPatterns, shown, unknown_slots
from mmldm.training.losses import loss_and_errors, weighted_mean
from mmldm.training.randomness import StepRandom
from mmldm.training.stage import PipelineStage
from mmldm.types import AV, MODALITIES, Latents

VALIDATED_CLIPS = 256


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
        joint, to_video, to_audio, audio_only, video_only = shares
        # How many rows of the mix predict a stream.
        self.predicted_share = AV(
            float(joint + to_audio + audio_only), float(joint + to_video + video_only)
        )
        # None: no row knows slots of what it predicts, and none is drawn.
        self.patterns = None
        if config.known_slots is not None:
            self.patterns = SlotPatterns(config.known_slots, generator.latent_shapes)

    def forward(self, batch: Latents, random: StepRandom) -> dict[str, Tensor]:
        """Raw latents of B clips -> "loss" (Eq. 7) and its two terms, each ()."""
        # Tasks (§3.3): drawn from the mix, but a clip that lacks a modality always plays the other's.
        rows = len(batch.class_labels)
        tasks = torch.searchsorted(self.task_ends, random.uniform((rows,)), right=True)
        tasks = tasks.clamp_max(len(TASKS) - 1)
        tasks = tasks.masked_fill(~batch.present.video, TASKS.index("audio_only"))
        tasks = tasks.masked_fill(~batch.present.audio, TASKS.index("video_only"))

        # Errors of the streams that the tasks predict. Their sum is divided by the share that is expected
        # to predict them, not by this batch's count: a mean over rows stays a mean of means.
        timesteps = self.timesteps(random, rows)
        slots = None
        if self.patterns is not None:
            slots = self.patterns.draw(random, _predicted(*_conditions(tasks)))
        errors, predicted = self.errors(batch, tasks, timesteps, random, self.class_dropout, slots)

        def mean(error: Tensor, counts: Tensor, share: float) -> Tensor:
            return (error * counts).mean() / (share or 1.0)

        loss = errors.map(mean, predicted, self.predicted_share)
        return loss_and_errors(loss.audio + loss.video, loss)

    def errors(
        self,
        batch: Latents,
        tasks: Tensor,
        timesteps: Tensor,
        random: StepRandom,
        class_dropout: float,
        slots: AV[Tensor] | None = None,
    ) -> tuple[AV[Tensor], AV[Tensor]]:
        """Per-row squared errors (B,) of both streams, and which rows predict that stream (B,) bool.

        Args:
            tasks: Numbers in `TASKS`, (B,) long.
            timesteps: (B,) long, of both streams.
            class_dropout: Share of rows whose class is not told.
            slots: Flags AV (B,T') of what the rows know of the streams that they predict, as from
                `SlotPatterns`, 0 in the other streams; None: nothing.
        """
        generator, process = self.generator, self.process

        # What each task shows (§3.3): a given modality, clean beside its noisy stream; an absent one as pure
        # noise; and for some rows no class. The last two teach the null half of guidance (Eq. 8).
        given, absent = _conditions(tasks)

        # Noisy latents at the level that both streams share (Eq. 5). The clean ones are the posterior's
        # mean, not a sample: what the posterior leaves open need not be modelled.
        clean = generator.normalise(batch.mean)
        noise = clean.map(lambda z: random.normal(z.shape))
        known, told = clean, given
        if slots is not None:
            known, told = shown(clean, given, slots, clean.map(lambda z: random.normal(z.shape)))
        noisy = known.map(lambda z, n: process.add_noise(z, n, timesteps), noise)
        noisy = noisy.map(_replaced, noise, absent)
        class_labels = batch.class_labels if generator.config.num_classes else None
        if class_labels is not None:
            forget = random.bernoulli(class_dropout, (len(tasks),))
            class_labels = class_labels.masked_fill(forget, NO_CLASS)

        # Joint prediction, and its squared error per row (Eq. 7).
        prediction = generator(noisy, timesteps, known, told, class_labels)
        target = clean.map(lambda z, n: process.target(z, n, timesteps), noise)
        squares = prediction.map(lambda p, wanted: (p - wanted).square(), target)
        if slots is None:
            errors = squares.map(lambda square: square.flatten(1).mean(1))
        else:
            errors = squares.map(weighted_mean, slots.map(unknown_slots))
        return errors, _predicted(given, absent)

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
    """Which rows play a task, (B,) bool."""
    return tasks == TASKS.index(name)


def _conditions(tasks: Tensor) -> tuple[AV[Tensor], AV[Tensor]]:
    """Which modalities the tasks (B,) give, and which are absent: each AV (B,) bool."""
    given = AV(_is(tasks, "audio_to_video"), _is(tasks, "video_to_audio"))
    return given, AV(_is(tasks, "video_only"), _is(tasks, "audio_only"))


def _predicted(given: AV[Tensor], absent: AV[Tensor]) -> AV[Tensor]:
    """Which streams the rows predict: neither given nor absent, AV (B,) bool."""
    return given.map(torch.logical_or, absent).map(torch.logical_not)


def _replaced(x: Tensor, other: Tensor, rows: Tensor) -> Tensor:
    """`x` (B,...) with the rows (B,) bool of `other` in its place."""
    return torch.where(rows.view(-1, *(1,) * (x.ndim - 1)), other, x)


class GeneratorStage(PipelineStage):
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
        super().__init__(config.generator.train, caches, config.seed, device, pipeline)
        self.job = config.generator
        self.generator: JointGenerator = pipeline.generator.train()
        schedule = parse(ScheduleConfig, self.job.schedule, "generator.schedule")
        self.process = NoiseProcess(schedule).to(device)
        self.turn = GeneratorTurn(self.generator, self.process, self.job).to(device)
        self.turns["model"] = self.turn
        self.ema_modules["generator"] = self.generator

    def fingerprint(self) -> dict[str, Any]:
        return {"job": self.job.model_dump(exclude={"train"}), "cache": self.caches.train.identity}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Held-out errors per task without a class, and what the other modality is worth (null minus given).

        A class would tell the material, which is what a model should read from the given modality. A
        generator that learns from known slots has two tasks more: `prefix` and `retake`.
        """
        batch = self.held_out(VALIDATED_CLIPS)
        rows = len(batch.class_labels)
        results: dict[str, float] = {}
        measured: list[tuple[str, str, AV[Tensor] | None]] = [(task, task, None) for task in TASKS]
        if self.turn.patterns is not None:
            flags = self.turn.patterns.validated(rows, self.device)
            measured += [(name, "joint", slots) for name, slots in flags.items()]
        for name, task, slots in measured:
            tasks = torch.full((rows,), TASKS.index(task), device=self.device)
            # Every task sees the same noise levels and the same noise.
            random = StepRandom(self.seed, 0, "validate", rows, device=self.device)
            timesteps = random.integers(0, self.process.num_timesteps, (rows,))
            errors, predicted = self.turn.errors(batch, tasks, timesteps, random, 1.0, slots)
            for modality, error, counts in zip(MODALITIES, errors, predicted, strict=True):
                if bool(counts.any()):
                    results[f"{name}/{modality}"] = float(error.mean())
        results["gap/video"] = results["video_only/video"] - results["audio_to_video/video"]
        results["gap/audio"] = results["audio_only/audio"] - results["video_to_audio/audio"]
        return results


def generator_arguments(
    config: RunConfig,
    latent_shapes: AV[tuple[int, ...]],
    statistics: dict[str, Any] | None,
    classes: int,
) -> dict[str, Any]:
    """The recipe's section with what follows from the latents and the data.

    Raises:
        UserError: The recipe asks for known slots, and the latents have no time axis.
    """
    if config.generator.known_slots is not None:
        SlotPatterns(config.generator.known_slots, latent_shapes)
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


def build_generator(
    config: RunConfig, cache: LatentCache, classes: int, statistics: dict[str, Any] | None = None
) -> JointGenerator:
    """A fresh generator whose shapes and normalisation come from the cached latents, or the recipe's
    pretrained one.

    Args:
        statistics: Of the latents; None: the cache's.

    Raises:
        UserError: That does not load, or is built otherwise.
    """
    statistics = statistics or cache.extra["statistics"]
    torch.manual_seed(config.seed)
    arguments = generator_arguments(config, cache.shapes, statistics, classes)
    fresh = JointGenerator(**arguments)
    source = config.generator.pretrained
    if source is None:
        return fresh
    # Its statistics are its own: its layers know no others.
    pretrained = load_generator(source)
    settings = arguments.keys() - {"latent_statistics"}
    refuse_other_build(pretrained, fresh, sorted(settings), "generator.pretrained", source)
    return pretrained
