"""Quality rows: what they change, and what goes before them."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from mmldm.errors import UserError
from mmldm.pipelines.settings import QUALITY_ROWS, Qualities, student_row
from mmldm.pipelines.sounding_video import SoundingVideoPipeline

from .conftest import build_pipeline

ROW = student_row(2)
OWN = {"num_inference_steps": 50, "decoder_steps": 3, "guidance_scale": 2.5}


def test_best_is_the_models_own_settings() -> None:
    best = Qualities(OWN, {}).settings("best")
    assert best.model_dump(include=set(OWN)) == OWN
    assert best.scheduler is None


def test_what_is_asked_for_goes_before_the_row_and_the_row_before_the_model() -> None:
    qualities = Qualities(OWN, {})
    row, changed = qualities.settings("fast"), qualities.settings("fast", num_inference_steps=4)
    assert row.num_inference_steps == QUALITY_ROWS["fast"]["num_inference_steps"]
    assert (row.decoder_steps, row.guidance_scale) == (3, 2.5)
    assert changed == row.model_copy(update={"num_inference_steps": 4})


def test_unknown_quality_is_answered_with_the_names_there_are(
    pipeline: SoundingVideoPipeline,
) -> None:
    with pytest.raises(UserError, match="unknown quality 'fats', did you mean 'fast'"):
        pipeline(quality="fats")


@pytest.mark.parametrize(
    "row", [{"steps": 3}, {"num_inference_steps": "many"}, 3, {"student": True}]
)
def test_published_row_that_is_none_is_refused(row: object) -> None:
    with pytest.raises(UserError, match="quality row 'fast'"):
        Qualities(OWN, {"fast": row})


def test_model_folder_publishes_rows_and_its_default(tmp_path: Path) -> None:
    pipeline = build_pipeline()
    rows = {"fast": {"num_inference_steps": 2, "phase_iterations": 4}}
    published = SoundingVideoPipeline(
        **pipeline.components,
        clip_spec=pipeline.config.clip_spec,
        class_names=list(pipeline.class_names),
        default_quality="fast",
        quality_rows=rows,
    )
    published.save_pretrained(tmp_path)
    loaded = SoundingVideoPipeline.from_pretrained(tmp_path)
    assert loaded.settings().num_inference_steps == 2
    assert loaded.settings().phase_iterations == 4
    assert loaded.settings("best").num_inference_steps == 50


def test_default_quality_that_is_no_row_is_refused() -> None:
    pipeline = build_pipeline()
    with pytest.raises(UserError, match="unknown quality 'good'"):
        SoundingVideoPipeline(
            **pipeline.components,
            clip_spec=pipeline.config.clip_spec,
            class_names=list(pipeline.class_names),
            default_quality="good",
        )


def with_student(**changed: Any) -> SoundingVideoPipeline:
    """A pipeline whose default row is that of a student, which is not its generator."""
    pipeline = build_pipeline(guidance_scale=2.5)
    student = deepcopy(pipeline.generator)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    arguments = {
        **pipeline.components,
        "student": student,
        "student_scheduler": deepcopy(pipeline.scheduler),
        "clip_spec": pipeline.config.clip_spec,
        "class_names": list(pipeline.class_names),
        "num_inference_steps": 4,
        "guidance_scale": 2.5,
        "default_quality": "fast",
        "quality_rows": {"fast": ROW},
    }
    made = SoundingVideoPipeline(**{**arguments, **changed})
    made.set_progress_bar_config(disable=True)
    return made


def test_row_of_a_student_samples_with_it_in_its_steps(tmp_path: Path) -> None:
    with_student().save_pretrained(tmp_path)
    pipeline = SoundingVideoPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.student is not None
    alone = SoundingVideoPipeline.from_pretrained(
        tmp_path, generator=pipeline.student, scheduler=pipeline.student_scheduler
    )
    alone.set_progress_bar_config(disable=True)
    fast = pipeline(num_samples=2, seed=0, output_type="latent").latents
    steps = {"num_inference_steps": 2, "guidance_scale": 1.0}
    same = alone(num_samples=2, seed=0, output_type="latent", quality="best", **steps).latents
    best = pipeline(num_samples=2, seed=0, output_type="latent", quality="best", **steps).latents
    assert all(map(torch.equal, fast, same))
    assert not torch.allclose(fast.video, best.video)


def test_steps_or_guidance_of_ones_own_are_the_teachers() -> None:
    pipeline = with_student()
    assert pipeline.settings().student
    assert pipeline.settings(guidance_scale=1.0, decoder_steps=3).student
    for asked in ({"num_inference_steps": 3}, {"guidance_scale": 2.0}, {"scheduler": "unipc"}):
        assert pipeline.settings(**asked) == pipeline.settings("best", **asked)
        assert not pipeline.settings(**asked).student
        with pytest.raises(UserError, match=f"distilled to 2 steps.*leave {next(iter(asked))} out"):
            pipeline.settings("fast", **asked)


def test_row_of_a_student_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="'fast' samples with a student, and there is none"):
        with_student(student=None)


def test_student_of_other_latents_is_refused() -> None:
    other = deepcopy(build_pipeline().generator)
    other.register_to_config(video_latent_shape=[6, 4, 1, 1])
    other = type(other).from_config(other.config)
    with pytest.raises(UserError, match="do not belong together"):
        with_student(student=other)
