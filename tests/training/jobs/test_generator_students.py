"""The generator's distillation: what a student is shown, and that it learns its teacher's guidance."""

import shutil
from pathlib import Path

import pytest
import torch

from mmldm.config import RunConfig
from mmldm.data.latents import Splits
from mmldm.errors import UserError
from mmldm.pipelines.settings import QUALITY_ROWS
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.sections import DistillationConfig, KnownSlotsConfig
from mmldm.training.jobs.students import KNOWN, GeneratorDistillation
from mmldm.training.loop import train
from mmldm.training.randomness import StepRandom
from mmldm.training.run import Run
from mmldm.types import AV

from ...smallest import smallest_recipe
from ..rows import rows_of

pytestmark = pytest.mark.slow

ROWS = 8


def recipe(steps: int = 6) -> RunConfig:
    base = smallest_recipe(steps)
    job = base.generator.train.model_copy(update={"batch_size": ROWS, "preview_every": 0})
    section = DistillationConfig(teacher_steps=4, steps=(2,), train=job)
    return base.model_copy(update={"distill_generator": section})


def distillation(
    finished: Run,
    scale: float = 2.0,
    steps: int = 2,
    teacher_steps: int = 4,
    length: int = 6,
    known_slots: KnownSlotsConfig | None = None,
) -> GeneratorDistillation:
    pipeline = SoundingVideoPipeline.from_pretrained(finished.folder.model)
    pipeline.register_to_config(guidance_scale=scale)
    torch.manual_seed(0)
    with torch.no_grad():  # leave adaLN-Zero's all-zero start, so that every condition counts
        for parameter in pipeline.generator.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    config = recipe(length)
    section = config.generator.model_copy(update={"known_slots": known_slots})
    return GeneratorDistillation(
        config.model_copy(update={"generator": section}),
        pipeline,
        Splits.open(finished.folder.cache("latents")),
        torch.device("cpu"),
        steps=steps,
        teacher_steps=teacher_steps,
    )


def test_student_of_an_unguided_teacher_with_equal_steps_starts_without_error(
    finished: Run,
) -> None:
    slots = KnownSlotsConfig()
    same = distillation(finished, scale=1.0, steps=4, known_slots=slots).validate()
    assert max(same.values()) < 1e-9
    guided = distillation(finished, scale=2.0, steps=4, known_slots=slots).validate()
    assert min(guided.values()) > 1e-6
    assert {"prefix/audio", "prefix/video", "retake/audio", "retake/video"} <= set(same)


def test_student_learns_the_guided_prediction(finished: Run) -> None:
    stage = distillation(finished)
    before = stage.validate()
    optimizer = torch.optim.AdamW(stage.turn.parameters(), lr=2e-3)
    for step, batch in zip(range(150), stage.batches(0, 0, 1), strict=False):
        optimizer.zero_grad()
        stage.turn(batch, StepRandom(0, step, "model", ROWS))["loss"].backward()
        optimizer.step()
    after = stage.validate()
    assert set(after) == {
        "joint/audio", "joint/video", "audio_to_video/video", "video_to_audio/audio",
    }  # fmt: skip
    assert all(after[name] < 0.5 * before[name] for name in before), (before, after)


def test_teacher_stays_as_it_was(finished: Run) -> None:
    stage = distillation(finished)
    before = {name: value.clone() for name, value in stage.teacher.state_dict().items()}
    stage.turn(next(stage.batches(0, 0, 1)), StepRandom(0, 0, "model", ROWS))["loss"].backward()
    assert all(parameter.grad is None for parameter in stage.teacher.parameters())
    assert all(parameter.grad is not None for parameter in stage.turn.parameters())
    torch.optim.SGD(stage.turn.parameters(), lr=0.1).step()
    assert all(torch.equal(value, before[n]) for n, value in stage.teacher.state_dict().items())


def test_only_generated_modalities_of_whole_clips_have_an_error(finished: Run) -> None:
    stage = distillation(finished)
    batch = next(stage.batches(0, 0, 1))
    lacking = torch.tensor([[True, True]] * 6 + [[False, True], [True, False]])
    batch = batch._replace(present=AV(*lacking.unbind(1)))
    for task, known in KNOWN.items():
        errors = stage.turn.errors(batch, {task: slice(ROWS)}, StepRandom(0, 0, "t", ROWS), 0.5)
        for error, is_given in zip(errors, known, strict=True):
            assert (error[:6] > 0).tolist() == [not is_given] * 6
            assert error[6:].tolist() == [0, 0]


@pytest.mark.parametrize("task", KNOWN)
def test_student_and_teacher_are_told_the_same_known_slots(finished: Run, task: str) -> None:
    stage = distillation(finished, scale=2.0, steps=4, known_slots=KnownSlotsConfig())
    batch = next(stage.batches(0, 0, 1))
    parts, start = {task: slice(ROWS)}, torch.tensor([[1.0, 0.9, 0, 0]] * ROWS)
    slots = KNOWN[task].map(lambda is_given: start * (not is_given))
    told: list[AV] = []
    hooks = [
        network.register_forward_hook(lambda module, inputs, output: told.append(inputs[3]))
        for network in (stage.teacher, stage.student)
    ]
    stage.turn.errors(batch, parts, StepRandom(0, 0, "t", ROWS), 0.0, slots)
    for hook in hooks:
        hook.remove()
    teacher, student = told
    for flags, others, wanted, is_given in zip(student, teacher, slots, KNOWN[task], strict=True):
        assert torch.equal(flags, torch.ones_like(wanted) if is_given else wanted)
        if is_given:
            assert others.tolist() == [row < ROWS for row in range(len(others))]
        else:
            assert torch.equal(others[:ROWS], wanted)


@pytest.mark.parametrize("known_slots", [None, KnownSlotsConfig(share=0.8)], ids=["none", "some"])
def test_loss_does_not_depend_on_how_the_batch_is_split(
    finished: Run, known_slots: KnownSlotsConfig | None
) -> None:
    stage = distillation(finished, known_slots=known_slots)
    batch = next(stage.batches(0, 0, 1))
    whole = stage.turn(batch, StepRandom(0, 0, "model", ROWS))["loss"]
    parts = [
        stage.turn(
            rows_of(batch, rows),
            StepRandom(0, 0, "model", ROWS, rows),
        )["loss"]
        for rows in (range(2), range(2, 4), range(4, 6), range(6, 8))
    ]
    assert torch.allclose(whole, torch.stack(parts).mean(), rtol=1e-4)


def test_job_resumes_to_the_same_bits_and_exports_unguided_steps(
    finished: Run, tmp_path: Path
) -> None:
    job = recipe().distill_generator
    assert job is not None
    exports = []
    for name in ("unbroken", "resumed"):
        train(distillation(finished), job.train, tmp_path / name, seed=0)
        if name == "resumed":
            shutil.rmtree(tmp_path / name / "checkpoints" / "step_00000006")
            result = train(distillation(finished), job.train, tmp_path / name, seed=0)
            assert result.step == 6
            assert "resumed at step 4" in (tmp_path / name / "train.log").read_text()
        exports.append(SoundingVideoPipeline.from_pretrained(tmp_path / name / "export"))
    weights = [export.generator.state_dict() for export in exports]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert exports[0].config.num_inference_steps == 2
    assert exports[0].config.guidance_scale == 1.0
    for quality in QUALITY_ROWS:
        chosen = exports[0].settings(quality)
        assert (chosen.scheduler, chosen.num_inference_steps, chosen.guidance_scale) == (None, 2, 1)


def test_resuming_with_another_teacher_is_refused(finished: Run, tmp_path: Path) -> None:
    job = recipe().distill_generator
    assert job is not None
    train(distillation(finished), job.train, tmp_path, seed=0)
    with pytest.raises(UserError, match="guidance_scale"):
        train(distillation(finished, scale=3.0), job.train, tmp_path, seed=0)
