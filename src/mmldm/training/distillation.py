"""What the two distillation jobs share: a student on cached latents, its frozen teacher, a number of steps.

model folder, caches -> `training.stage.Stage` whose student makes in `steps` steps what its teacher makes in
`teacher_steps`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import nn

from mmldm.config import DistillationConfig
from mmldm.data.latents import Splits
from mmldm.diffusion.distillation import StepMatching
from mmldm.diffusion.schedules import NoiseProcess, ScheduleConfig, schedule_of
from mmldm.pipelines.decoding import save_clips
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.cached_stage import CachedStage
from mmldm.training.caching import weights_key


class DistillationStage(CachedStage):
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
        super().__init__(job.train, caches, seed, device)
        self.name = name
        self.pipeline = pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.teacher = teacher.to(device).eval().requires_grad_(False)
        schedule = schedule_of(scheduler)
        self.matching = StepMatching(NoiseProcess(schedule).to(device), steps, teacher_steps)
        self.process = NoiseProcess(student_schedule(schedule)).to(device)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "stops": self.matching.stops.tolist(),
            "teacher": weights_key(self.teacher),
            "cache": self.caches.train.identity,
        }

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
