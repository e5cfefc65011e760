"""The bundled model: it loads, it shows a ball, it sounds, and the two belong together."""

from pathlib import Path

import pytest
import torch

from mmldm.media.clip import Clip
from mmldm.media.spectrogram import AudioImage
from mmldm.pipelines.published import BUNDLED
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip
from mmldm.worlds.impacts.metrics import numbers_of

pytestmark = pytest.mark.slow

CLIPS = 24


@pytest.fixture(scope="module")
def pipeline() -> SoundingVideoPipeline:
    pipeline = SoundingVideoPipeline.from_pretrained(BUNDLED)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def samples(pipeline: SoundingVideoPipeline) -> list[Clip]:
    return pipeline(num_samples=CLIPS, seed=1000).clips


def test_bundled_model_is_small_and_holds_no_path_of_the_machine_that_made_it() -> None:
    files = [file for file in BUNDLED.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 40e6
    home = str(Path.home())
    for file in files:
        if file.suffix == ".json":
            text = file.read_text()
            assert home not in text
            assert "/tmp" not in text


def test_half_precision_weights_come_back_as_float32(pipeline: SoundingVideoPipeline) -> None:
    for part in (pipeline.vae, pipeline.autoencoder, pipeline.generator):
        assert part.dtype == torch.float32


def test_joint_samples_show_one_ball_that_bounces_and_sounds(samples: list[Clip]) -> None:
    found = numbers_of(samples)
    assert found["ball-kept"].value > 0.9
    assert 2 < found["impacts-per-clip"].value < 6
    assert 2 < found["onsets-per-clip"].value < 6


def test_joint_samples_are_in_sync_more_than_the_same_samples_shuffled(samples: list[Clip]) -> None:
    found = numbers_of(samples)
    for near in (found["sync-recall-50"], found["sync-precision-50"]):
        assert near.value > near.shuffled + 0.1


def test_every_class_has_a_sound_and_a_picture_of_its_own(pipeline: SoundingVideoPipeline) -> None:
    """The ball's colour and the mean spectrum: two samples of a class are alike, classes are not."""
    names = [name for name in pipeline.class_names for _ in range(3)]
    clips = pipeline(num_samples=len(names), class_labels=names, seed=7).clips
    frames = torch.stack([clip.frames for clip in clips]).float()
    empty = frames.flatten(0, 1).median(0).values
    ball = (frames - empty).abs().amax(2, keepdim=True) > 40
    colours = (frames * ball).sum((1, 3, 4)) / ball.sum((1, 3, 4)).clamp_min(1)
    audio_image = AudioImage(pipeline.clip_spec)
    spectra = audio_image.decibels(torch.stack([clip.waveform for clip in clips])).mean(2)
    for features in (colours, spectra):
        per_class = features.view(len(pipeline.class_names), 3, -1)
        within = per_class.std(1).mean()
        between = per_class.mean(1).std(0).mean()
        assert between > 1.5 * within


@pytest.mark.parametrize("task", ["audio", "frames"])
def test_what_is_given_decides_the_material_without_a_class(
    pipeline: SoundingVideoPipeline, task: str
) -> None:
    """Judged by the autoencoder's class head, which reads both modalities."""
    config = ImpactsConfig(seed=7, spec=pipeline.clip_spec)
    rendered = [render_clip(config, index) for index in range(12)]
    field = "waveform" if task == "audio" else "frames"
    given = {task: torch.stack([getattr(r.clip, field) for r in rendered])}
    latents = pipeline(seed=0, output_type="latent", **given).latents
    with torch.no_grad():
        logits = pipeline.autoencoder.class_logits(pipeline.autoencoder.semantics(latents))
    names = [pipeline.class_names[i] for i in logits.argmax(1)]
    right = [name == r.material for name, r in zip(names, rendered, strict=True)]
    assert sum(right) >= 11
