"""Training steps of a recipe without its data: the stages' own turns, on random rows.

RunConfig -> step plans -> training steps. Weights and rows are random, which changes no shape and no time.
The turns, the optimisers and the running average are those that `mmldm train` uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmldm.benchmark.sampling import CLASSES, untrained_pipeline
from mmldm.config import RunConfig
from mmldm.data.latents import LatentCache, Splits
from mmldm.sections import TrainConfig
from mmldm.training.adversary import CriticTurn
from mmldm.training.distributed import Process
from mmldm.training.flops import count_without_running
from mmldm.training.jobs.autoencoder import AutoencoderStage
from mmldm.training.jobs.generator import GeneratorStage
from mmldm.training.jobs.vae import build_turns, build_vae
from mmldm.training.jobs.vocoder import VocoderTurn, build_adversary, build_vocoder
from mmldm.training.optim import Average, Turn
from mmldm.training.randomness import StepRandom
from mmldm.training.summary import Summary
from mmldm.types import AV, MODALITIES, Latents, WindowBatch

Rows = Callable[[int], Latents | WindowBatch]
LOG_VARIANCE = -8.0
"""Of the random posteriors: a narrow one, as trained encoders give."""


class RandomCache(LatentCache):
    """Any number of random rows where a cache on disk has encoded clips.

    Args:
        shapes: Of one clip's means, per modality.
        channel_axis: Where a shape has its channels.
    """

    def __init__(self, shapes: AV[tuple[int, ...]], channel_axis: int) -> None:
        self._shapes, self.key = shapes, "random"
        statistics = {
            modality: {"mean": [0.0] * shape[channel_axis], "std": [1.0] * shape[channel_axis]}
            for modality, shape in zip(MODALITIES, shapes, strict=True)
        }
        self.extra = {"classes": list(CLASSES), "statistics": statistics}

    @property
    def shapes(self) -> AV[tuple[int, ...]]:
        return self._shapes

    def __getitem__(self, indices: Tensor) -> Latents:
        """Random posteriors in place of the rows `indices` (B,)."""
        mean = self.shapes.map(lambda shape: torch.randn(len(indices), *shape))
        return Latents(
            mean,
            logvar=mean.map(lambda x: torch.full_like(x, LOG_VARIANCE)),
            present=_everything(len(indices)),
            class_labels=indices % len(CLASSES),
        )


def _everything(rows: int) -> AV[Tensor]:
    """Clips with both modalities, AV (B,) bool."""
    return AV(*torch.ones(2, rows, dtype=torch.bool))


@dataclass(frozen=True)
class StepPlan:
    """What one training step of a job consists of.

    Attributes:
        name: Of the job: "vae", "autoencoder", ...; "vae with critic", ... once its critic plays.
        train: Its settings.
        turns: Turn name -> module, those that run.
        averaged: Modules with a running average.
        rows: Number of clips -> a batch on the device.
        learning_rates: Turn name -> rate where it is not the recipe's.
        step: Steps that count as completed.
    """

    name: str
    train: TrainConfig
    turns: Mapping[str, nn.Module]
    averaged: Mapping[str, nn.Module]
    rows: Rows
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    step: int = 0


class TrainingStep:
    """Calling it takes one step on `batch_size` rows in one pass: every turn, then the average."""

    def __init__(self, plan: StepPlan, batch_size: int, device: torch.device) -> None:
        # One pass of the whole batch: gradients that accumulate would cost the same, piece by piece.
        config = plan.train.model_copy(update={"batch_size": batch_size, "accumulate": 1})
        process = Process(device=device)
        self.step, self.batch, self.device = plan.step, plan.rows(batch_size), device
        self.turns = {}
        for name, module in plan.turns.items():
            rate = plan.learning_rates.get(name, config.learning_rate)
            self.turns[name] = Turn(name, module, config, rate, process)
        self.average = Average(plan.averaged, config.ema_decay)

    def __call__(self) -> None:
        for turn in self._in_order():
            turn.step([self.batch], seed=0, step=self.step, factor=1.0)
        self.average.update(self.step)

    def optimise(self) -> None:
        """What a step does after the backward passes: every optimiser again, then the average.

        Call a step first: its gradients are there until the next one.
        """
        for turn in self.turns.values():
            for optimizer in turn.optimizers:
                optimizer.step()
        self.average.update(self.step)

    def flops(self) -> int:
        """Of the forward and backward passes of the whole batch, without the optimisers'.

        Counted on tensors without numbers where shapes do not depend on them.
        """
        rows = len(self.batch.class_labels)

        # The optimisers' own operations do not grow with the batch.
        def forward_and_backward() -> None:
            for turn in self._in_order():
                random = StepRandom(0, self.step, turn.name, rows, device=self.device)
                turn.module(self.batch, random)["loss"].backward()

        flops = count_without_running(forward_and_backward)
        # Gradients without numbers must reach no optimiser.
        for turn in self.turns.values():
            turn.module.zero_grad(set_to_none=True)
        return flops

    def _in_order(self) -> Iterator[Turn]:
        """The turns. While one runs, it alone is open to gradients; in the end all are open again."""
        try:
            for name, turn in self.turns.items():
                for other in self.turns.values():
                    other.open(trainable=other.name == name)
                yield turn
        finally:
            for turn in self.turns.values():
                turn.open(trainable=True)


def step_plans(
    config: RunConfig, summary: Summary, wanted: Sequence[str], device: torch.device
) -> Iterator[StepPlan]:
    """The wanted jobs of a recipe, built one at a time: memory for one is enough.

    Args:
        summary: Of the recipe.
        wanted: Names of jobs; those that the recipe does not train are left out.
    """
    if "vae" in wanted and config.vae.train is not None:
        yield from _vae(config, config.vae.train, device)
    if "autoencoder" in wanted:
        yield from _autoencoder(config, summary, device)
    if "generator" in wanted:
        yield _generator(config, summary, device)
    if "vocoder" in wanted and config.vocoder is not None and config.vocoder.train is not None:
        yield from _vocoder(config, config.vocoder.train, device)


def _vae(config: RunConfig, train: TrainConfig, device: torch.device) -> Iterator[StepPlan]:
    vae, critic = build_vae(config, weights=False), config.vae.critic
    turns, rows = build_turns(config, vae, device), media_rows(config, device)
    # The critic joins late, here as below.
    plain = {"model": turns["model"]}
    if critic is None or critic.start_step > 0:
        yield StepPlan("vae", train, plain, {"vae": vae}, rows)
    if critic is not None:
        rates, step = {"critic": critic.learning_rate}, critic.start_step
        yield StepPlan("vae with critic", train, turns, {"vae": vae}, rows, rates, step)


def _autoencoder(config: RunConfig, summary: Summary, device: torch.device) -> Iterator[StepPlan]:
    cache = RandomCache(summary.spaces["image latents"], channel_axis=1)
    # The critic decodes images: it needs the VAE.
    vae = untrained_pipeline(config, summary).vae
    stage = AutoencoderStage(config, vae, Splits(cache, cache), device)
    job = config.autoencoder
    # The critic joins late: a step without it, and one with it, where they differ.
    steps = [0] if job.critic is None else [0, job.critic.start_step]
    for step in dict.fromkeys(steps):
        active = stage.active_turns(step)
        yield StepPlan(
            "autoencoder with critic" if "critic" in active else "autoencoder",
            job.train,
            {name: stage.turns[name] for name in active},
            stage.ema_modules,
            _cached(cache, device),
            stage.learning_rates,
            step,
        )


def _generator(config: RunConfig, summary: Summary, device: torch.device) -> StepPlan:
    cache = RandomCache(summary.spaces["latents"], channel_axis=0)
    pipeline = untrained_pipeline(config, summary)
    stage = GeneratorStage(config, pipeline, Splits(cache, cache), device)
    rows = _cached(cache, device)
    return StepPlan("generator", config.generator.train, stage.turns, stage.ema_modules, rows)


def _vocoder(config: RunConfig, train: TrainConfig, device: torch.device) -> Iterator[StepPlan]:
    job: Any = config.vocoder
    vocoder: Any = build_vocoder(job, config.clip, config.seed)
    critic = job.critic
    adversary = None if critic is None else build_adversary(critic, job.loss, config.seed, device)
    turn = VocoderTurn(vocoder, config.clip, job.loss, adversary=adversary).to(device)
    plain, rows = {"model": turn}, media_rows(config, device)
    if critic is None or critic.start_step > 0:
        yield StepPlan("vocoder", train, plain, {"vocoder": vocoder}, rows)
    if critic is not None and adversary is not None:
        turns = {**plain, "critic": CriticTurn(adversary).to(device)}
        rates, step = {"critic": critic.learning_rate}, critic.start_step
        yield StepPlan("vocoder with critic", train, turns, {"vocoder": vocoder}, rows, rates, step)


def _cached(cache: RandomCache, device: torch.device) -> Rows:
    return lambda rows: cache[torch.arange(rows)].to(device)


def media_rows(config: RunConfig, device: torch.device) -> Rows:
    """Batches of random frames and sounds."""
    spec = config.clip

    def random_windows(rows: int) -> WindowBatch:
        frames = (rows, spec.num_frames, 3, spec.height, spec.width)
        return WindowBatch(
            frames=torch.randint(0, 256, frames, dtype=torch.uint8).to(device),
            waveforms=(2 * torch.rand(rows, spec.num_samples) - 1).to(device),
            present=_everything(rows).map(lambda x: x.to(device)),
            class_labels=torch.zeros(rows, dtype=torch.long, device=device),
            indices=torch.arange(rows, device=device),
        )

    return random_windows
