"""`mmldm distill`: a finished run gets a fast model; mistakes cost a sentence."""

import json
import shutil
from pathlib import Path

import pytest

from mmldm.config import load_config
from mmldm.pipelines.settings import student_row

from .commandline import contents, mmldm

pytestmark = pytest.mark.slow

SETTINGS = ("--set", "distill_generator.teacher_steps=4", "--set", "distill_generator.steps=[2, 1]")


@pytest.fixture
def copied_run(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


def test_generator_of_a_run_gets_students_and_the_same_command_passes_over_them(
    copied_run: Path, tmp_path: Path
) -> None:
    words = ("distill", "generator", copied_run, *SETTINGS, "--device", "cpu")
    assert f"mmldm generate --model {copied_run / 'distilled'}" in mmldm(*words).succeeded()
    recorded = load_config(copied_run / "config.yaml").distill_generator
    assert recorded is not None
    assert recorded.steps == (2, 1)
    page = (copied_run / "report.html").read_text()
    assert "<h2>generator_2</h2>" in page
    assert "<h2>generator_1</h2>" in page
    before = contents(copied_run / "distilled")
    mmldm("distill", "generator", copied_run, "--device", "cpu").succeeded()
    assert contents(copied_run / "distilled") == before
    index = json.loads((copied_run / "distilled" / "model_index.json").read_text())
    assert index["default_quality"] == "fast"
    assert index["quality_rows"]["fast"] == student_row(1)
    model, distilled = contents(copied_run / "model"), contents(copied_run / "distilled")
    assert (
        model["generator/diffusion_pytorch_model.safetensors"]
        == (distilled["generator/diffusion_pytorch_model.safetensors"])
    )
    assert "already done" in (copied_run / "generator_1" / "train.log").read_text()
    out = ("--out", tmp_path / "clips", "-n", 1, "--device", "cpu")
    mmldm("generate", "--model", copied_run / "distilled", *out).succeeded()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("decoder",), "the decoder samples in 1 already (decoder_steps of the model)"),
        (("generator",), "the generator samples in 4 already (num_inference_steps of the model)"),
        (
            ("generator", "--set", "distill_generator.steps=[6]"),
            "a student of 6 steps cannot follow a teacher of 16",
        ),
        (("generator", "--set", "distill_generator.stepps=[6]"), "did you mean steps?"),
        (
            ("generator", "--set", "generator.tasks={audio_only: 0.5, video_only: 0.5}"),
            "distill_generator: nothing that is sampled is among generator.tasks",
        ),
    ],
)
def test_what_cannot_be_distilled_is_refused_in_a_sentence(
    copied_run: Path, words: tuple[str, ...], sentence: str
) -> None:
    part, *changes = words
    refused = mmldm("distill", part, copied_run, *changes, "--device", "cpu")
    assert sentence in refused.complaint()
    assert not (copied_run / "distilled").exists()


def test_unfinished_run_is_refused(copied_run: Path, tmp_path: Path) -> None:
    shutil.rmtree(copied_run / "model")
    words = ("distill", "generator", copied_run, *SETTINGS, "--device", "cpu")
    assert "holds no finished model" in mmldm(*words).complaint()
    assert "it has no config.yaml" in mmldm("distill", "generator", tmp_path).complaint()
