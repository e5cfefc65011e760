"""From a finished run to its fast model: the jobs of `mmldm distill`, each number of steps a job of its own.

model/ -> generator_8/, generator_4/ (or decoder_4/, decoder_2/, decoder_1/) -> distilled/, a model folder. A
student's export is the next one's teacher. Jobs that are done are passed over, so the same command resumes.
"""

from __future__ import annotations

import gc
from itertools import pairwise
from typing import Literal

from mmldm.config import DistillationConfig, RunConfig, TrainConfig
from mmldm.errors import UserError
from mmldm.files import whole_folder
from mmldm.pipelines.settings import student_row
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.decoder_distillation import DecoderDistillation
from mmldm.training.generator_distillation import GeneratorDistillation
from mmldm.training.journey import Journey
from mmldm.training.loop import TrainResult

Student = Literal["generator", "decoder"]
STEPS: dict[Student, tuple[int, ...]] = {"generator": (16, 8, 4), "decoder": (20, 4, 2, 1)}
"""The teacher's and the students' steps, unless the recipe has others."""
OWN_STEPS: dict[Student, str] = {"generator": "num_inference_steps", "decoder": "decoder_steps"}
"""The setting of a model folder that counts them."""
SHARE = 8
"""A student is trained for one part in so many of its teacher's steps."""


def with_distillation(config: RunConfig, student: Student) -> RunConfig:
    """The recipe with a `distill_<student>` section: its own, or one like the teacher's job, shortened."""
    name = f"distill_{student}"
    if getattr(config, name) is not None:
        return config
    job = config.generator if student == "generator" else config.autoencoder
    teacher, *steps = STEPS[student]
    section = DistillationConfig(
        teacher_steps=teacher, steps=tuple(steps), train=_shorter(job.train)
    )
    return config.model_copy(update={name: section})


def _shorter(train: TrainConfig) -> TrainConfig:
    matrices = train.matrix_learning_rate
    steps = max(1, train.steps // SHARE)
    return train.model_copy(
        update={
            "steps": steps,
            "warmup_steps": min(train.warmup_steps, steps // 10),
            "learning_rate": train.learning_rate / 2,
            "matrix_learning_rate": None if matrices is None else matrices / 2,
            "max_minutes": None,
        }
    )


def distil(journey: Journey, student: Student) -> TrainResult:
    """Trains every student of a part, and puts the last one into distilled/.

    Args:
        journey: Of a finished run, with a `distill_<student>` section in its recipe.

    Returns:
        How the last job ended, or the one that a signal stopped.

    Raises:
        UserError: There is no finished model, or it makes as few steps as its student would.
    """
    folder, job = journey.folder, _section(journey.config, student)
    source = folder.model
    if not source.is_dir():
        raise UserError(f"{folder.root} holds no finished model: run mmldm train to its end first.")
    stage_class = GeneratorDistillation if student == "generator" else DecoderDistillation
    for teacher_steps, steps in pairwise((job.teacher_steps, *job.steps)):
        pipeline = SoundingVideoPipeline.from_pretrained(source)
        _refuse_fast(pipeline, student, job.steps[-1])
        name = f"{student}_{steps}"
        if student == "generator":
            caches = journey.latents(name, job.train)
        else:
            caches = journey.image_latents(name, job.train)
        stage = stage_class(
            journey.config,
            pipeline,
            caches,
            journey.process.device,
            steps=steps,
            teacher_steps=teacher_steps,
        )
        result = journey.train(stage, job.train)
        if result.stopped_by in ("SIGINT", "SIGTERM"):
            return result
        source = folder.export(stage.name)
        del pipeline, stage
        gc.collect()
    journey.process.on_main(lambda: _publish(journey))
    return result


def _refuse_fast(pipeline: SoundingVideoPipeline, student: Student, steps: int) -> None:
    name = OWN_STEPS[student]
    if pipeline.config[name] <= steps:
        raise UserError(
            f"the {student} samples in {pipeline.config[name]} already ({name} of the model): a "
            f"student of {steps} would not be faster."
        )


def _section(config: RunConfig, student: Student) -> DistillationConfig:
    section: DistillationConfig = getattr(config, f"distill_{student}")
    return section


def _publish(journey: Journey) -> None:
    """Writes distilled/: model/ with its last students, the generator's for the row "fast"."""
    folder = journey.folder
    pipeline = SoundingVideoPipeline.from_pretrained(folder.model)
    if (fast := _last(journey, "decoder")) is not None:
        pipeline.register_modules(
            autoencoder=fast.autoencoder, decoder_scheduler=fast.decoder_scheduler
        )
        pipeline.register_to_config(decoder_steps=fast.config.decoder_steps)
    if (fast := _last(journey, "generator")) is not None:
        pipeline.register_modules(student=fast.generator, student_scheduler=fast.scheduler)
        row = student_row(fast.config.num_inference_steps)
        rows = {**(pipeline.config.quality_rows or {}), "fast": row}
        pipeline.register_to_config(quality_rows=rows, default_quality="fast")
    with whole_folder(folder.distilled) as unfinished:
        pipeline.save_pretrained(unfinished)


def _last(journey: Journey, student: Student) -> SoundingVideoPipeline | None:
    """The model of a part's last student, where it is trained."""
    job = getattr(journey.config, f"distill_{student}")
    export = None if job is None else journey.folder.export(f"{student}_{job.steps[-1]}")
    if export is None or not export.is_dir():
        return None
    return SoundingVideoPipeline.from_pretrained(export)
