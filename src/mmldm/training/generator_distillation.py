"""The generator's part of `mmldm distill`: fewer steps, and one evaluation in each. Meng et al. 2023.

cached latents AV (B,C,T',H',W') -> noisy at the start of a step -> prediction -> squared error against the
clean estimate that leads where the guided teacher's steps do (`diffusion.distillation`). The student learns
the guided prediction, at the scale its teacher samples with, and is sampled without guidance. Tasks are those
of sampling: joint, audio_to_video, video_to_audio, each with and without a class.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from mmldm.config import RunConfig
from mmldm.data.clips import NO_CLASS, present
from mmldm.data.latents import Splits
from mmldm.diffusion.distillation import StepMatching
from mmldm.diffusion.schedules import NoiseProcess, make_scheduler
from mmldm.models.generator import JointGenerator
from mmldm.pipelines.guidance import generator_denoiser
from mmldm.pipelines.settings import UNCHANGED_STEPS
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.distillation import DistillationStage
from mmldm.training.randomness import StepRandom
from mmldm.types import AV, MODALITIES

KNOWN = {
    "joint": AV(False, False),
    "audio_to_video": AV(True, False),
    "video_to_audio": AV(False, True),
}
"""Task -> which modality is given."""


class GeneratorDistillationTurn(nn.Module):
    """A student's step against its teacher's, over a fixed mix of tasks.

    Args:
        student: Trained.
        process: Says what it predicts.
        teacher: Frozen, and not among what this turn saves.
        scale: Guidance of the teacher.
        tasks: Shares of the tasks in `KNOWN`; they need not sum to 1.
        class_dropout: Share of rows whose class is not told.
    """

    def __init__(
        self,
        student: JointGenerator,
        process: NoiseProcess,
        teacher: JointGenerator,
        matching: StepMatching,
        scale: float,
        tasks: Mapping[str, float],
        class_dropout: float,
    ) -> None:
        super().__init__()
        self.student, self.process, self.matching = student, process, matching
        self.frozen = (teacher,)  # a tuple, so that it is no submodule
        self.scale, self.class_dropout = scale, class_dropout
        shares = [tasks.get(task, 0.0) for task in KNOWN]
        self.ends = [sum(shares[: i + 1]) / sum(shares) for i in range(len(shares))]
        self.predicted_share = AV(1 - (self.ends[1] - self.ends[0]), self.ends[1])

    def forward(self, batch: dict[str, Tensor], random: StepRandom) -> dict[str, Tensor]:
        errors = self.errors(batch, self._parts(random), random, self.class_dropout)
        # Divided by the expected share, not by this batch's count: a mean over rows stays a mean of means.
        loss = errors.map(lambda e, share: e.mean() / (share or 1.0), self.predicted_share)
        return {
            "loss": loss.audio + loss.video,
            "mse/audio": loss.audio.detach(),
            "mse/video": loss.video.detach(),
        }

    def _parts(self, random: StepRandom) -> dict[str, slice]:
        """The local rows of each task: the whole batch has one after the other, so no draw decides it.

        The teacher then knows the rows of each call without asking the device.
        """
        borders = [0, *(round(end * random.batch_size) for end in self.ends)]
        local = [min(max(b, random.rows.start), random.rows.stop) for b in borders]
        starts = [border - random.rows.start for border in local]
        return {
            task: slice(start, end)
            for task, start, end in zip(KNOWN, starts, starts[1:], strict=False)
            if start < end
        }

    def errors(
        self,
        batch: dict[str, Tensor],
        parts: Mapping[str, slice],
        random: StepRandom,
        class_dropout: float,
    ) -> AV[Tensor]:
        """Squared errors (B,) of each modality; zero where it is given or the clip is not whole.

        Args:
            parts: Task -> its rows; together all of them.
            class_dropout: Share of rows whose class is not told.
        """
        matching, rows = self.matching, len(batch["label"])
        clean: AV[Any] = self.student.normalise(MODALITIES.map(lambda m: batch[f"{m}_mean"]))
        noise = clean.map(lambda z: random.normal(z.shape))
        step = random.integers(0, matching.steps, (rows,))
        forget = random.bernoulli(class_dropout, (rows,))
        labels = batch["label"].masked_fill(forget, NO_CLASS) if self.student.null_class else None
        state = matching.start(clean, noise, step)

        known = AV(*torch.zeros(2, rows, dtype=torch.bool, device=step.device))
        targets = []
        for task, part in parts.items():
            for mask, is_given in zip(known, KNOWN[task], strict=True):
                mask[part] = is_given
            own = [AV(x.audio[part], x.video[part]) for x in (clean, noise, state)]
            told = None if labels is None else labels[part]
            targets.append(self._target(KNOWN[task], own[0], own[1], own[2], step[part], told))
        target = AV(*(torch.cat(streams) for streams in zip(*targets, strict=True)))

        t = matching.timesteps(step)
        prediction = self.student(state, t, clean, known, labels)
        estimate = prediction.map(lambda p, x: self.process.to_x0(p, x, t), state)
        errors = estimate.map(lambda x0, wanted: matching.error(x0, wanted, step), target)
        here = present(batch)
        whole = here.audio & here.video
        return errors.map(lambda error, is_given: error * (~is_given & whole), known)

    def _target(
        self,
        known: AV[bool],
        clean: AV[Tensor],
        noise: AV[Tensor],
        state: AV[Tensor],
        step: Tensor,
        labels: Tensor | None,
    ) -> AV[Tensor]:
        """Where the guided teacher leads the rows of one task, bound to them as in sampling."""
        given = clean.map(lambda z, is_given: z if is_given else None, known)
        scale = AV(self.scale, self.scale)
        teacher = generator_denoiser(self.frozen[0], noise, given, labels, scale)
        return self.matching.target(teacher, state, step, given, noise)


class GeneratorDistillation(DistillationStage):
    """Distils a model's generator to `steps` unguided steps. See `training.stage.Stage`.

    Args:
        config: The recipe, with a `distill_generator` section.
        pipeline: The model, which becomes the student's; its guidance is the teacher's.
    """

    def __init__(
        self,
        config: RunConfig,
        pipeline: SoundingVideoPipeline,
        caches: Splits,
        device: torch.device,
        *,
        steps: int,
        teacher_steps: int,
    ) -> None:
        teacher = deepcopy(pipeline.generator)
        assert config.distill_generator is not None, "the caller adds what the recipe lacks"
        super().__init__(
            f"generator_{steps}",
            config.distill_generator,
            pipeline,
            pipeline.scheduler,
            teacher,
            caches,
            device,
            seed=config.seed,
            steps=steps,
            teacher_steps=teacher_steps,
        )
        self.guidance_scale = pipeline.config.guidance_scale
        self.turn = GeneratorDistillationTurn(
            pipeline.generator.train(),
            self.process,
            teacher,
            self.matching,
            self.guidance_scale,
            config.generator.tasks,
            config.generator.class_dropout,
        )
        self.turns["model"] = self.turn
        self.ema_modules["generator"] = pipeline.generator
        pipeline.register_modules(scheduler=make_scheduler(self.process.config))
        pipeline.register_to_config(
            num_inference_steps=steps, guidance_scale=1.0, quality_rows=dict(UNCHANGED_STEPS)
        )

    def fingerprint(self) -> dict[str, Any]:
        mix = {"ends": self.turn.ends, "class_dropout": self.turn.class_dropout}
        return super().fingerprint() | mix | {"guidance_scale": self.guidance_scale}

    @torch.no_grad()
    def validate(self, random: StepRandom) -> dict[str, float]:
        """Held-out errors against the teacher, per task, without a class."""
        batch = self.held_out(64)
        rows = len(batch["label"])
        results: dict[str, float] = {}
        for task, known in KNOWN.items():
            draws = StepRandom(self.seed, 0, "validate", rows, device=self.device)
            errors = self.turn.errors(batch, {task: slice(rows)}, draws, class_dropout=1.0)
            for modality, error, is_given in zip(MODALITIES, errors, known, strict=True):
                if not is_given:
                    results[f"{task}/{modality}"] = float(error.mean())
        return results
