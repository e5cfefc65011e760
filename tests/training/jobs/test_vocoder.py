"""The `vocoder` job on real clips: it learns, its model joins the pipeline, and old runs get one later."""

from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch

from mmldm.config import RunConfig
from mmldm.data.clips import WindowDataset
from mmldm.data.manifest import Manifest
from mmldm.errors import UserError
from mmldm.models.vocoder import FourierVocoder
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.jobs.vocoder import build_vocoder
from mmldm.training.report import METRICS, read_metrics
from mmldm.training.run import Run, jobs_of
from mmldm.types import WindowBatch

from ...smallest import CLIP, smallest_recipe
from ..conftest import new_run

pytestmark = pytest.mark.slow


def with_vocoder(recipe: RunConfig, **changes: Any) -> RunConfig:
    """A recipe with changed keys in its vocoder section."""
    assert recipe.vocoder is not None
    section = {**recipe.vocoder.model_dump(mode="json"), **changes}
    return RunConfig.model_validate({**recipe.model_dump(mode="json"), "vocoder": section})


def test_short_training_brings_the_sound_nearer(manifest: Manifest, tmp_path: Path) -> None:
    recipe = smallest_recipe(steps=60)
    assert recipe.vocoder is not None and recipe.vocoder.train is not None
    train = recipe.vocoder.train.model_dump() | {
        "learning_rate": 3e-3, "validate_every": 10, "preview_every": 0, "save_every": 0,
    }  # fmt: skip
    run = new_run(with_vocoder(recipe, train=train), manifest, tmp_path)
    run.run("vocoder")
    rows = read_metrics(run.folder.job("vocoder") / METRICS)
    losses = [row["model/loss"] for row in rows if "model/loss" in row]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    held_out = [row for row in rows if "validate/convergence" in row]
    for name in ("validate/convergence", "validate/log_magnitude"):
        assert held_out[-1][name] < held_out[0][name]


def test_finished_vocoder_is_a_part_of_the_model(finished: Run) -> None:
    pipeline = SoundingVideoPipeline.from_pretrained(finished.folder.model)
    export = FourierVocoder.from_pretrained(finished.folder.export("vocoder"))
    assert isinstance(pipeline.vocoder, FourierVocoder)
    mel = -70 * torch.rand(1, 32, 10)
    with torch.no_grad():
        assert torch.equal(pipeline.vocoder(mel), export(mel))
    without = SoundingVideoPipeline.from_pretrained(finished.folder.export("generator"))
    assert without.vocoder is None


def test_run_finished_without_a_vocoder_gets_one_later(
    finished: Run, manifest: Manifest, tmp_path: Path
) -> None:
    run = new_run(smallest_recipe(steps=1), manifest, tmp_path)
    copytree(finished.folder.export("generator"), run.folder.model)
    run.folder.job("generator").mkdir()
    copytree(finished.folder.export("generator"), run.folder.export("generator"))
    assert SoundingVideoPipeline.from_pretrained(run.folder.model).vocoder is None
    run.run("vocoder")
    pipeline = SoundingVideoPipeline.from_pretrained(run.folder.model)
    assert pipeline.vocoder is not None
    pipeline.set_progress_bar_config(disable=True)
    [clip] = pipeline(num_samples=1, seed=0).clips
    assert clip.waveform.shape == (CLIP.num_samples,)


def test_pretrained_vocoder_is_taken_as_it_is(
    finished: Run, manifest: Manifest, tmp_path: Path
) -> None:
    source = finished.folder.export("vocoder")
    recipe = with_vocoder(smallest_recipe(), pretrained=str(source), model=None, train=None)
    run = new_run(recipe, manifest, tmp_path)
    assert run.run("vocoder") is None
    ours, theirs = (
        FourierVocoder.from_pretrained(f) for f in (run.folder.export("vocoder"), source)
    )
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name])


def test_vocoder_of_other_clips_is_refused(finished: Run) -> None:
    source = str(finished.folder.export("vocoder"))
    recipe = with_vocoder(smallest_recipe(), pretrained=source, model=None, train=None)
    assert recipe.vocoder is not None
    faster = CLIP.model_copy(update={"sample_rate": 16000})
    with pytest.raises(UserError, match="trained on sound of 8000 Hz"):
        build_vocoder(recipe.vocoder, faster, seed=0)


def test_noise_on_the_spectrogram_changes_the_loss_and_nothing_else(
    manifest: Manifest, tmp_path: Path
) -> None:
    losses = []
    for noise in (0.0, 3.0):
        recipe = with_vocoder(smallest_recipe(steps=1), loss={"mel_noise": noise})
        run = new_run(recipe, manifest, tmp_path / str(noise))
        run.run("vocoder")
        [row] = [r for r in read_metrics(run.folder.job("vocoder") / METRICS) if "model/loss" in r]
        losses.append(row["model/loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


def test_recipe_without_the_section_has_three_jobs() -> None:
    recipe = smallest_recipe()
    assert jobs_of(recipe) == ("vae", "autoencoder", "generator", "vocoder")
    without = recipe.model_copy(update={"vocoder": None})
    assert jobs_of(without) == ("vae", "autoencoder", "generator")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": None}, "exactly one of pretrained and model"),
        ({"train": None}, "a model needs a train section"),
        ({"pretrained": "x", "model": None}, "a pretrained vocoder is used as it is"),
        ({"spectrogram": {}}, "spectrogram describes a pretrained vocoder"),
    ],
)
def test_section_that_contradicts_itself_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        with_vocoder(smallest_recipe(), **changes)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("wdth", r"vocoder.model.wdth: unknown key, did you mean width\?"),
        ("sample_rate", "vocoder.model.sample_rate: derived from the rest of the recipe"),
    ],
)
def test_wrong_key_of_the_model_is_named(key: str, sentence: str) -> None:
    recipe = with_vocoder(smallest_recipe(), model={key: 1})
    assert recipe.vocoder is not None
    with pytest.raises(UserError, match=sentence):
        build_vocoder(recipe.vocoder, CLIP, seed=0)


def test_reading_the_sound_alone_gives_the_same_sound(manifest: Manifest) -> None:
    both = WindowDataset(manifest, CLIP, "train", seed=0)
    sound = WindowDataset(manifest, CLIP, "train", seed=0, sound_only=True)
    for index in range(2):
        whole, part = both[(1, index)], sound[(1, index)]
        assert isinstance(whole, WindowBatch) and isinstance(part, WindowBatch)
        assert torch.equal(part.waveforms, whole.waveforms)
        assert len(whole.frames) == CLIP.num_frames and len(part.frames) == 0
