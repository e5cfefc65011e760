"""The paper's Table 1: one training step and one sampling of two clips, largest batches, in two ways.

System -> rows (all, from frames and sound; latents prepared, the generator alone) -> Markdown, JSON

"MM-LDM" encodes frames and sound in every step and decodes what it samples; "MM-LDM*" reads latents that lie
on the disk, and leaves them as latents. Times are of calls with two clips, as there; largest batches are
found by doubling and halving until memory ends, which a CPU does not tell.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmldm.benchmark.costs import SAMPLED_CLIPS, Clock, System, fits_training, release
from mmldm.benchmark.sampling import TOTAL, Sampling, untrained_pipeline
from mmldm.benchmark.timing import Call, Timing, interleaved, largest
from mmldm.benchmark.training_step import TrainingStep, media_rows, step_plans
from mmldm.media.spectrogram import AudioImage
from mmldm.models.image_codec import ImageCodec
from mmldm.pipelines.decoding import encode_media
from mmldm.pipelines.precision import sample_in
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.randomness import StepRandom
from mmldm.types import AV, Latents, Progress, WindowBatch

ALL, PREPARED = "MM-LDM", "MM-LDM*"
PAPER = (
    ("MM-Diffusion", "64²", "4", "1.70", "32", "33.1"),
    ("MM-Diffusion", "128²", "1", "2.36", "16", "90.0"),
    ("MM-LDM", "256²", "9", "0.46", "4", "70.7"),
    ("MM-LDM*", "256²", "12", "0.38", "33", "8.7"),
)
"""Method, resolution; training: largest batch, seconds a step; sampling: the same. On a V100 with 32 GB."""
HEAD = (
    "method", "resolution", "training: largest batch", "one step of 2, s", "sampling: largest batch",
    "2 clips, s",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One way of training and sampling.

    Attributes:
        method: Its name in the paper.
        step: Of a training step.
        sample: Of sampling.
        most_step: Largest batch of a step; None: memory has no end that is told.
        most_sample: The same of sampling.
    """

    method: str
    step: Timing
    sample: Timing
    most_step: int | None
    most_sample: int | None


class FromMedia(nn.Module):
    """The generator's turn on frames and sound, which it encodes first, as without prepared latents.

    Args:
        turn: Reads latents.
        pipeline: Whose codec and encoders make them; they are not trained.
    """

    def __init__(self, turn: nn.Module, pipeline: SoundingVideoPipeline) -> None:
        super().__init__()
        self.turn = turn
        codec = ImageCodec(pipeline.vae, pipeline.autoencoder.image_statistics)
        audio_image = AudioImage(pipeline.clip_spec)
        # A tuple, so that they are no submodules of what is trained.
        self.encoders = (
            pipeline.autoencoder,
            codec.to(pipeline.device),
            audio_image.to(pipeline.device),
        )

    def forward(self, batch: WindowBatch, random: StepRandom) -> dict[str, Tensor]:
        """Losses of a batch of B windows, each ()."""
        with torch.no_grad():
            media: AV[Tensor | None] = AV(batch.waveforms, batch.frames)
            mean: Any = encode_media(*self.encoders, media)
        latents = Latents(
            mean=mean,
            logvar=mean.map(torch.zeros_like),
            present=batch.present,
            class_labels=batch.class_labels,
        )
        losses: dict[str, Tensor] = self.turn(latents, random)
        return losses


def table1(system: System, clock: Clock, progress: Progress | None = None) -> list[Row]:
    """Both rows of a system that has a recipe, whose calls take turns in the same rounds.

    Args:
        progress: Told what is measured.
    """
    assert system.recipe is not None
    tell = progress or (lambda what, done, total: None)
    recipe, summary = system.recipe
    # Training: the generator's step on latents, and the same on frames and sound.
    tell("training steps", 0, 2)
    (prepared,) = step_plans(recipe, summary, ["generator"], clock.device)
    # Of the recipe, whatever model stands beside it: no time depends on what is learnt.
    pipeline = untrained_pipeline(recipe, summary).to(clock.device)
    sample_in(pipeline, recipe.generator.train.precision)
    pipeline.set_progress_bar_config(disable=True)
    turns = {name: FromMedia(turn, pipeline) for name, turn in prepared.turns.items()}
    whole = replace(prepared, turns=turns, rows=media_rows(recipe, clock.device))
    plans = {ALL: whole, PREPARED: prepared}
    steps: dict[str, Call] = {
        name: TrainingStep(plan, SAMPLED_CLIPS, clock.device) for name, plan in plans.items()
    }
    step_times = interleaved(steps, clock.repeats, clock.device)
    steps.clear()
    most = {
        name: _largest(partial(fits_training, plan, clock.device), clock)
        for name, plan in plans.items()
    }
    release(clock.device)

    # Sampling: noise to files, and noise to latents.
    tell("sampling", 1, 2)
    with tempfile.TemporaryDirectory() as folder:
        calls = _sampling(pipeline, SAMPLED_CLIPS, system.options, Path(folder))
        sample_times = interleaved(calls, clock.repeats, clock.device)
        most_sample = {
            name: _largest(
                partial(_samples, pipeline, system.options, Path(folder), name, clock.device), clock
            )
            for name in calls
        }
    tell("sampling", 2, 2)
    return [
        Row(name, step_times[name], sample_times[name], most[name], most_sample[name])
        for name in (ALL, PREPARED)
    ]


def _sampling(
    pipeline: SoundingVideoPipeline, clips: int, options: Mapping[str, Any], folder: Path
) -> dict[str, Call]:
    calls = Sampling(pipeline, clips, options, folder).calls()
    return {ALL: calls[TOTAL], PREPARED: calls["generator"]}


def _samples(
    pipeline: SoundingVideoPipeline,
    options: Mapping[str, Any],
    folder: Path,
    name: str,
    device: torch.device,
    clips: int,
) -> bool:
    """Whether so many clips are sampled at once within the memory."""
    try:
        pipeline(
            num_samples=clips,
            seed=0,
            batch_size=clips,
            output_type="clip" if name == ALL else "latent",
            **options,
        )
        fits = True
    except torch.OutOfMemoryError:
        fits = False
    release(device)
    return fits


def _largest(fits: Callable[[int], bool], clock: Clock) -> int | None:
    # A CPU's memory ends in a swap, or in a process that is killed: nothing that can be asked.
    return largest(fits) if clock.device.type == "cuda" else None


def to_table1(rows: Sequence[Row], size: tuple[int, int], facts: Mapping[str, Any]) -> str:
    """Markdown: the paper's rows, and these.

    Args:
        size: Height and width of the clips.
        facts: As `costs.facts` has them.
    """
    place = f"{size[0]}²" if size[0] == size[1] else f"{size[1]}x{size[0]}"
    ours = [
        (
            f"{row.method}, here",
            place,
            "-" if row.most_step is None else str(row.most_step),
            f"{row.step.median:.3g}",
            "-" if row.most_sample is None else str(row.most_sample),
            f"{row.sample.median:.3g}",
        )
        for row in rows
    ]
    paper = [(f"{method}, paper", *cells) for method, *cells in PAPER]
    lines = [HEAD, ("---",) * len(HEAD), *paper, *ours]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return (
        f"{table}\n\nThe paper: V100, 32 GB. Here: {facts['device']}, {facts['threads']} threads, torch "
        f"{facts['torch']}, {facts['precision']}, {facts['date']}. \\* with latents prepared: the generator "
        "alone. Medians of interleaved calls with 2 clips"
        + ("." if rows[0].most_step is not None else "; a CPU does not tell where its memory ends.")
    )


def to_json(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """Seconds of every round, and largest batches."""
    found = [
        {
            "method": row.method,
            "step_seconds": list(row.step.rounds),
            "sample_seconds": list(row.sample.rounds),
            "largest_step": row.most_step,
            "largest_sample": row.most_sample,
        }
        for row in rows
    ]
    return json.dumps({**facts, "clips": SAMPLED_CLIPS, "table1": found}, indent=1) + "\n"
