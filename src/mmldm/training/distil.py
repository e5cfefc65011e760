"""From a finished run to its fast model: the students of `mmldm distill`, one after the other.

model/ -> generator_8/, generator_4/ (or decoder_4/, decoder_2/, decoder_1/) -> distilled/, a model folder.
Each number of steps is a job of its own, whose export is the next one's teacher. Jobs that are done are
passed over, so the same command resumes.
"""

from __future__ import annotations

import gc
from itertools import pairwise

from mmldm.config import RunConfig
from mmldm.errors import UserError
from mmldm.files import whole_folder
from mmldm.pipelines.settings import student_row
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.sections import DistillationConfig
from mmldm.training.calibration import calibrated
from mmldm.training.jobs.students import (
    DecoderDistillation,
    DistillationStage,
    DistilledPart,
    GeneratorDistillation,
    section_of,
)
from mmldm.training.live import say
from mmldm.training.loop import TrainResult
from mmldm.training.rounds import known_steps
from mmldm.training.run import Run

STEPS: dict[DistilledPart, tuple[int, ...]] = {"generator": (16, 8, 4), "decoder": (20, 4, 2, 1)}
"""The teacher's and the students' steps, unless the recipe has others."""
SHARE = 8
"""A student is trained for one part in so many of its teacher's steps."""


def with_distillation(config: RunConfig, part: DistilledPart) -> RunConfig:
    """The recipe with a `distill_<part>` section: its own, or one like the teacher's job, shortened."""
    name = f"distill_{part}"
    if getattr(config, name) is not None:
        return config
    train = (config.generator if part == "generator" else config.autoencoder).train
    # A teacher that was trained for minutes alone may have had any number of steps.
    teacher_steps = train.steps or known_steps(
        "generator" if part == "generator" else "autoencoder"
    )
    matrices, steps = train.matrix_learning_rate, max(1, (teacher_steps or SHARE) // SHARE)
    shorter = {
        "steps": steps,
        "warmup_steps": min(train.warmup_steps, steps // 10),
        "learning_rate": train.learning_rate / 2,
        "matrix_learning_rate": None if matrices is None else matrices / 2,
        "minutes": None,
        "max_minutes": None,
    }
    teacher, *students = STEPS[part]
    section = DistillationConfig(
        teacher_steps=teacher, steps=tuple(students), train=train.model_copy(update=shorter)
    )
    return config.model_copy(update={name: section})


def distil(run: Run, part: DistilledPart) -> TrainResult:
    """Trains every student of a part, and puts the last one into distilled/.

    Args:
        run: Of a finished run, with a `distill_<part>` section in its recipe.

    Returns:
        How the last job ended, or the one that a signal stopped.

    Raises:
        UserError: There is no finished model, or it makes as few steps as its student would.
    """
    folder, job = run.folder, section_of(run.config, part)
    source = folder.model
    if not source.is_dir():
        raise UserError(f"{folder.root} holds no finished model: run mmldm train to its end first.")
    # What the part is made of: its job, the caches it reads, the setting that counts its steps.
    stage_class: type[DistillationStage] = GeneratorDistillation
    caches_for, own_steps = run.latents, "num_inference_steps"
    if part == "decoder":
        stage_class = DecoderDistillation
        caches_for, own_steps = run.image_latents, "decoder_steps"

    # Each student's export is the next one's teacher; one that is done returns at once.
    for teacher_steps, steps in pairwise((job.teacher_steps, *job.steps)):
        pipeline = SoundingVideoPipeline.from_pretrained(source)
        if pipeline.config[own_steps] <= job.steps[-1]:
            raise UserError(
                f"the {part} samples in {pipeline.config[own_steps]} already ({own_steps} of the model): "
                f"a student of {job.steps[-1]} would not be faster."
            )
        caches, device = caches_for(f"{part}_{steps}", job.train), run.process.device
        student = stage_class(
            run.config, pipeline, caches, device, steps=steps, teacher_steps=teacher_steps
        )
        result = run.train(student, job.train)
        if result.interrupted:
            return result
        source = folder.export(student.name)
        # Two models at once are enough: a student and its teacher.
        del pipeline, student
        gc.collect()
    run.process.on_main(lambda: _publish(run))
    return result


def _publish(run: Run) -> None:
    """Writes distilled/: model/ with its last students, the generator's for the row "fast"."""

    def last(part: DistilledPart) -> SoundingVideoPipeline | None:
        """The model of a part's last student, where it is trained."""
        if getattr(run.config, f"distill_{part}") is None:
            return None
        steps = section_of(run.config, part).steps[-1]
        export = run.folder.export(f"{part}_{steps}")
        return SoundingVideoPipeline.from_pretrained(export) if export.is_dir() else None

    # A decoder takes the teacher's place; a generator stands beside it, for those who want it fast.
    pipeline = SoundingVideoPipeline.from_pretrained(run.folder.model)
    if (fast := last("decoder")) is not None:
        pipeline.register_modules(
            autoencoder=fast.autoencoder, decoder_scheduler=fast.decoder_scheduler
        )
        steps, rows = fast.config.decoder_steps, pipeline.config.quality_rows or {}
        # A row that asks for other steps asks for the teacher's decoder, and stays with it.
        kept = {name: row for name, row in rows.items() if row.get("decoder_steps", steps) == steps}
        if left := sorted(rows.keys() - kept.keys()):
            say(
                run.console,
                f"quality {', '.join(left)} samples the decoder before it was distilled: "
                f"mmldm generate --model {run.folder.model} --quality {left[0]}",
            )
        pipeline.register_to_config(decoder_steps=steps, quality_rows=kept or None)
    if (fast := last("generator")) is not None:
        pipeline.register_modules(student=fast.generator, student_scheduler=fast.scheduler)
        row = student_row(fast.config.num_inference_steps)
        rows = {**(pipeline.config.quality_rows or {}), "fast": row}
        pipeline.register_to_config(quality_rows=rows, default_quality="fast")
    # The limits of its world are those of its decoder.
    known = pipeline.config.outliers
    pipeline.to(run.process.device)
    detector = pipeline.outlier_detector()
    outliers = calibrated(detector, run.manifest, run.config.seed, run.console.print, known)
    pipeline.register_to_config(outliers=outliers)
    with whole_folder(run.folder.distilled) as unfinished:
        pipeline.save_pretrained(unfinished)
