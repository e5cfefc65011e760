"""What the two distillation jobs share: a student on cached latents, its frozen teacher, a number of steps.

model folder, caches -> `training.stage.Stage` whose student makes in `steps` steps what its teacher makes in
`teacher_steps`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from mmldm.config import DistillationConfig
from mmldm.data.clips import spread
from mmldm.data.latents import Splits, cached_batches
from mmldm.diffusion.distillation import StepMatching
from mmldm.diffusion.schedules import NoiseProcess, ScheduleConfig, schedule_of
from mmldm.pipelines.previews import save_clips
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.caching import weights_key


class DistillationStage:
    """The part of a `training.stage.Stage` that does not depend on what is distilled.

    Args:
        name: Of the job; each number of steps is a job of its own.
        job: Its section of the recipe.
        pipeline: The model, which becomes the student's.
        scheduler: The teacher's.
        teacher: Frozen.
        seed: Of the run.
        steps: Of the student.
        teacher_steps: A multiple of them.
    """

    def __init__(
        self,
        name: str,
        job: DistillationConfig,
        pipeline: SoundingVideoPipeline,
        scheduler: SchedulerMixin,
        teacher: nn.Module,
        caches: Splits,
        device: torch.device,
        *,
        seed: int,
        steps: int,
        teacher_steps: int,
    ) -> None:
        self.name, self.job, self.seed, self.caches, self.device = name, job, seed, caches, device
        self.pipeline = pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.teacher = teacher.to(device).eval().requires_grad_(False)
        schedule = schedule_of(scheduler)
        self.matching = StepMatching(NoiseProcess(schedule).to(device), steps, teacher_steps)
        self.process = NoiseProcess(student_schedule(schedule)).to(device)
        self.turns: dict[str, nn.Module] = {}
        self.ema_modules: dict[str, nn.Module] = {}
        self.learning_rates: Mapping[str, float] = {}

    def active_turns(self, step: int) -> tuple[str, ...]:
        return ("model",)

    def batches(self, start_step: int, rank: int, world: int) -> Iterator[dict[str, Tensor]]:
        return cached_batches(
            self.caches.train,
            batch_size=self.job.train.batch_size,
            seed=self.seed,
            start_step=start_step,
            rank=rank,
            world=world,
            device=self.device,
        )

    def fingerprint(self) -> dict[str, Any]:
        return {
            "stops": self.matching.stops.tolist(),
            "teacher": weights_key(self.teacher),
            "cache": self.caches.train.key,
        }

    @property
    def failures(self) -> dict[str, str]:
        return {}

    def held_out(self, count: int) -> dict[str, Tensor]:
        """Cached rows of at most `count` held-out clips."""
        cache = self.caches.held_out
        rows = torch.tensor(spread(count, len(cache)))
        return {name: value.to(self.device) for name, value in cache[rows].items()}

    def preview(self, folder: Path, step: int) -> None:
        output = self.pipeline(num_samples=4, seed=0)
        save_clips(output.clips, folder, f"joint_{step:07d}")

    def export(self, folder: Path) -> None:
        self.pipeline.save_pretrained(folder)


def student_schedule(teacher: ScheduleConfig) -> ScheduleConfig:
    """The teacher's, with v in place of epsilon, which says nothing about the sample at high noise."""
    if teacher.prediction != "epsilon":
        return teacher
    return teacher.model_copy(update={"prediction": "v_prediction"})
