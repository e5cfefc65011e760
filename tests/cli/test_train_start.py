"""`mmldm train --from`: what it prints, how it resumes, and mistakes that cost a sentence."""

import shutil
from pathlib import Path

import pytest

from mmldm.config import load_config

from .commandline import mmldm

pytestmark = pytest.mark.slow


def test_frozen_codec_is_measured_and_a_begun_run_does_not_need_the_model(
    run_folder: Path, clip_folder: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(run_folder / "model", tmp_path / "model"))
    out = tmp_path / "run"
    short = [
        word
        for change in (
            "generator.train.steps=2", "vocoder.train.steps=2", "vocoder.train.batch_size=4",
            "vocoder.train.workers=0", "data.windows_per_clip=1", "data.workers=0",
        )
        for word in ("--set", change)
    ]  # fmt: skip
    start = ("--from", model, "--freeze", "vae,autoencoder")
    words = ("train", clip_folder, "--out", out, "--device", "cpu")
    result = mmldm(*words, *start, *short, "--minutes", 1)
    result.succeeded()
    assert "it keeps frames at" in result.err
    assert "one mean spectrogram" in result.err
    recipe = load_config(out / "config.yaml")
    assert recipe.start is not None
    assert (recipe.start.model, recipe.start.freeze) == (str(model), ("vae", "autoencoder"))

    model.rename(tmp_path / "gone")
    mmldm(*words).succeeded()
    mmldm(*words, *start).succeeded()
    assert "began from" in mmldm(*words, "--from", "impacts").complaint()
    assert "began from" in mmldm(*words, "--freeze", "vae").complaint()
    assert load_config(out / "config.yaml") == recipe


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--freeze", "vae"), "name the model with --from"),
        (("--from", "/nowhere"), "/nowhere: no such model folder"),
        (("--from", "impacts", "--freeze", "generator"), "'generator' cannot be frozen"),
        (("--from", "impacts", "--freeze", "autoencoder"), "freeze vae,autoencoder"),
        (("--from", "impacts", "--freeze", "vocoder"), "no vocoder section to freeze"),
        (
            ("--from", "impacts", "--set", "generator.model.depth=3"),
            "generator.model.depth is 8 in",
        ),
        (
            ("--from", "impacts", "--freeze", "vae,autoencoder", "--set", "clip.width=96"),
            "impacts is made for clips of height and width [128, 128], not [128, 96]",
        ),
    ],
)
def test_start_that_cannot_be_is_a_sentence(
    words: tuple[str, ...], sentence: str, clip_folder: Path, tmp_path: Path
) -> None:
    assert sentence in mmldm("train", clip_folder, "--out", tmp_path / "run", *words).complaint()
    assert not (tmp_path / "run").exists()


def test_folder_that_is_no_model_of_ours_is_a_sentence(clip_folder: Path, tmp_path: Path) -> None:
    words = ("train", clip_folder, "--out", tmp_path / "run", "--from", tmp_path / "sd")
    (tmp_path / "sd").mkdir()
    assert "not a saved model" in mmldm(*words).complaint()
    (tmp_path / "sd" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    assert "not of SoundingVideoPipeline" in mmldm(*words).complaint()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("clip.height=44", "clip.height 44 is not a multiple of 16: choose 32 or 48"),
        ("clip.width=8", "clip.width 8 is not a multiple of 16: choose 16"),
    ],
)
def test_size_that_does_not_divide_is_one_line(
    change: str, sentence: str, clip_folder: Path, recipe: Path, tmp_path: Path
) -> None:
    words = ("--config", recipe, "--out", tmp_path / "run", "--set", change)
    result = mmldm("train", clip_folder, *words)
    assert result.complaint() == sentence
    assert "scan" not in result.err, "it needs no clips"
    assert result.err.count("\n") == 3, "two lines of what is about to happen, and it"
