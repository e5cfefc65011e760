"""The signal decoder's distillation: an epsilon decoder of twenty steps becomes one of a single step."""

from pathlib import Path

import pytest
import torch

from mmldm.data.manifest import Manifest
from mmldm.models.image_codec import ImageCodec
from mmldm.pipelines.decoding import decode_to_image_latents
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.distil import distil, with_distillation
from mmldm.training.run import Run
from mmldm.types import AV, MODALITIES

from ...smallest import CLIP, smallest_recipe
from ..conftest import new_run

pytestmark = pytest.mark.slow

TEACHER_STEPS = 20


@pytest.fixture(scope="module")
def distilled(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the paper's form with an epsilon decoder, distilled to 4, 2 and 1 steps."""
    recipe = smallest_recipe(steps=2, critic=False, paper_form=True)
    quiet = {"validate_every": 0, "preview_every": 0, "save_every": 0, "log_every": 50}
    # A teacher that has not learned to find noise divides its error by the little signal there is at first.
    length = {"steps": 120, "learning_rate": 1e-2, "matrix_learning_rate": 0.02, "ema_decay": 0.8}
    train = recipe.autoencoder.train.model_copy(update={**quiet, **length})
    section = recipe.autoencoder.model_copy(update={"train": train})
    sample = recipe.sample.model_copy(update={"decoder_steps": TEACHER_STEPS})
    recipe = recipe.model_copy(update={"autoencoder": section, "sample": sample, "vocoder": None})
    run = new_run(recipe, manifest, tmp_path_factory.mktemp("decoder"))
    for job in ("vae", "autoencoder", "generator"):
        run.run(job)
    run.config = with_distillation(recipe, "decoder")
    distilled = run.config.distill_decoder
    assert distilled is not None
    distilled = distilled.model_copy(update={"train": train.model_copy(update={"steps": 60})})
    run.config = run.config.model_copy(update={"distill_decoder": distilled})
    distil(run, "decoder")
    return run


def decoded(pipeline: SoundingVideoPipeline, run: Run, steps: int) -> AV[torch.Tensor]:
    """Normalised image latents of held-out clips, from the same noise whatever the model."""
    batch = run.image_latents().held_out[torch.arange(2)]
    codec = ImageCodec(pipeline.vae, pipeline.autoencoder.image_statistics)
    mean = batch.mean.map(codec.normalise, MODALITIES)
    return decode_to_image_latents(
        pipeline.autoencoder,
        pipeline.decoder_scheduler,
        pipeline.autoencoder.encode(mean).map(lambda posterior: posterior.mode()),
        num_frames=CLIP.num_frames,
        steps=steps,
        generators=[torch.Generator().manual_seed(i) for i in range(2)],
    )


def test_one_step_of_the_student_is_nearer_to_the_teachers_twenty_than_its_own_one_is(
    distilled: Run,
) -> None:
    teacher = SoundingVideoPipeline.from_pretrained(distilled.folder.model)
    student = SoundingVideoPipeline.from_pretrained(distilled.folder.distilled)
    wanted = decoded(teacher, distilled, TEACHER_STEPS)
    ones = [decoded(pipeline, distilled, 1) for pipeline in (teacher, student)]
    alone, learnt = (x.map(lambda a, b: float((a - b).square().mean()), wanted) for x in ones)
    assert learnt.audio < 0.5 * alone.audio
    assert learnt.video < 0.5 * alone.video


def test_student_predicts_v_and_only_its_u_net_differs(distilled: Run) -> None:
    teacher = SoundingVideoPipeline.from_pretrained(distilled.folder.model)
    student = SoundingVideoPipeline.from_pretrained(distilled.folder.distilled)
    assert student.decoder_scheduler.config.prediction_type == "v_prediction"
    assert student.config.decoder_steps == 1
    before, after = (x.autoencoder.state_dict() for x in (teacher, student))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("decoder.") for name in moved)


def test_every_number_of_steps_is_a_job_with_a_model_of_its_own(distilled: Run) -> None:
    for steps in (4, 2, 1):
        export: Path = distilled.folder.export(f"decoder_{steps}")
        assert SoundingVideoPipeline.from_pretrained(export).config.decoder_steps == steps


def test_generator_and_decoder_are_distilled_in_either_order(distilled: Run) -> None:
    config = with_distillation(distilled.config, "generator")
    job = config.distill_generator
    assert job is not None
    job = job.model_copy(update={"teacher_steps": 2, "steps": (1,)})
    distilled.config = config.model_copy(update={"distill_generator": job})
    distil(distilled, "generator")
    fast = SoundingVideoPipeline.from_pretrained(distilled.folder.distilled)
    settings = fast.settings()
    assert settings.student
    assert (settings.num_inference_steps, settings.decoder_steps, settings.guidance_scale) == (
        1,
        1,
        1,
    )
    fast.set_progress_bar_config(disable=True)
    assert fast(num_samples=1, seed=0, class_labels="glass").clips[0].waveform.isfinite().all()
