"""Quality rows: what they change, and what goes before them."""

import pytest

from mmldm.errors import UserError
from mmldm.pipelines.quality import QUALITY_ROWS, Qualities
from mmldm.pipelines.sounding_video import SoundingVideoPipeline

from .conftest import build_pipeline

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


@pytest.mark.parametrize("row", [{"steps": 3}, {"num_inference_steps": "many"}, 3])
def test_published_row_that_is_none_is_refused(row: object) -> None:
    with pytest.raises(UserError, match="quality row 'fast'"):
        Qualities(OWN, {"fast": row})


def test_model_folder_publishes_rows_and_its_default(tmp_path) -> None:  # type: ignore[no-untyped-def]
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
