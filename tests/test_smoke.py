"""The whole journey as a person types it: every command in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmldm.config import save_config
from mmldm.media.reader import read_audio, read_clip

from .cli.commandline import contents, environment, in_process
from .smallest import CLIP, smallest_recipe

pytestmark = pytest.mark.smoke


def mmldm(*words: object) -> str:
    return in_process(*words).succeeded()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, and a run in which all three jobs are done."""
    place = tmp_path_factory.mktemp("smoke")
    clips = ("--clips", 12, "--size", 32, "--seconds", 0.4, "--sample-rate", 8000)
    assert "12 clips in" in mmldm("synthesize", place / "clips", *clips)
    assert "12 usable" in mmldm("scan", place / "clips", "--frames", 4)
    save_config(smallest_recipe(), place / "recipe.yaml")
    words = ("--config", place / "recipe.yaml", "--out", place / "run")
    out = mmldm("train", place / "clips", *words)
    assert f"next:   mmldm generate --model {place / 'run'}" in out
    return place


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()


def test_joint_generation_and_by_class(place: Path) -> None:
    words = ("--model", place / "run", "--out", place / "joint", "-n", 2)
    mmldm("generate", *words)
    mmldm("generate", *words, "--class", "glass")
    made = sorted((place / "joint").glob("*/*.mp4"))
    assert [path.name for path in made] == [
        "joint-0_000.mp4", "joint-0_001.mp4", "joint-glass-0_000.mp4", "joint-glass-0_001.mp4",
    ]  # fmt: skip
    clip = read_clip(made[0], 0, CLIP)
    assert clip.waveform.isfinite().all()


def test_given_sound_is_the_sound_of_every_clip(place: Path) -> None:
    given = max(
        (place / "clips").glob("*/*.mp4"), key=lambda path: read_audio(path, CLIP).square().sum()
    )
    words = ("--model", place / "run", "--audio", given, "--out", place / "a2v", "-n", 2)
    mmldm("generate", *words)
    made = sorted((place / "a2v").glob("*/*.mp4"))
    assert len(made) == 2
    for path in made:
        assert correlation(read_audio(path, CLIP), read_audio(given, CLIP)) > 0.98


def test_given_picture_is_the_picture_of_every_clip(place: Path) -> None:
    given = next((place / "clips").glob("*/*.mp4"))
    words = ("--model", place / "run", "--video", given, "--out", place / "v2a", "-n", 1)
    mmldm("generate", *words)
    made = read_clip(next((place / "v2a").glob("*/*.mp4")), 0, CLIP).frames.float()
    assert (made - read_clip(given, 0, CLIP).frames.float()).abs().mean() < 6


def test_reconstruction_is_measured(place: Path) -> None:
    given = next((place / "clips").glob("*/*.mp4"))
    out = mmldm("reconstruct", given, "--model", place / "run", "--out", place / "kept")
    assert "PSNR" in out
    assert len(list((place / "kept").glob("*/*.mp4"))) == 2


def test_same_command_on_a_finished_run_changes_no_weight_and_no_number(place: Path) -> None:
    def results() -> dict[str, bytes]:
        files = contents(place / "run")
        return {k: v for k, v in files.items() if k.endswith((".safetensors", ".jsonl", ".yaml"))}

    before = results()
    mmldm("train", place / "clips", "--out", place / "run")
    assert results() == before


def test_recipe_chosen_without_a_config_trains(place: Path) -> None:
    """The default sizes, for two steps a job."""
    clips = place / "default"
    mmldm("synthesize", clips, "--clips", 4)
    words = ["train", clips, "--out", place / "chosen", "--minutes", 1, "--device", "cpu"]
    for job in ("vae", "autoencoder", "generator"):
        words += ["--set", f"{job}.train.steps=2"]
    mmldm(*words, "--set", "vae.train.workers=0", "--set", "data.windows_per_clip=1")
    mmldm("generate", "--model", place / "chosen", "--out", place / "default_out", "-n", 1)
    assert len(list((place / "default_out").glob("*/*.mp4"))) == 1


def test_module_and_console_script_are_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from mmldm.cli.main import run; run()", "--version"],
        capture_output=True, text=True, check=True, env=environment(),
    )  # fmt: skip
    assert done.stdout == mmldm("--version")
