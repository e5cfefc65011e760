"""The scripts of examples/ do what they say, started as a person starts them."""

import subprocess
import sys
from pathlib import Path

import pytest

from mmldm.config import save_config
from mmldm.media.probe import probe
from mmldm.worlds.impacts.clips import ImpactsConfig, synthesize

from .cli.commandline import environment
from .smallest import CLIP, smallest_recipe

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.slow


def example(name: str, *words: object) -> str:
    """What an example prints."""
    command = [sys.executable, EXAMPLES / f"{name}.py", *map(str, words)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of two classes."""
    folder = tmp_path_factory.mktemp("examples") / "clips"
    config = ImpactsConfig(spec=CLIP, materials=("glass", "drum"), seed=5)
    synthesize(folder, config, 12)
    return folder


def test_generated_clips_have_picture_and_sound(tmp_path: Path) -> None:
    files = example("generate", "impacts", tmp_path).split()
    assert [Path(file).name for file in files] == [
        "joint_0.mp4", "joint_1.mp4",
        "for_the_sound_0.mp4", "for_the_sound_1.mp4", "for_the_sound_2.mp4",
    ]  # fmt: skip
    for file in files:
        info = probe(Path(file))
        assert (info.width, info.height, info.num_frames, info.sample_rate) == (128, 128, 16, 16000)


def test_a_folder_trains_and_a_second_start_finds_it_done(clips: Path, tmp_path: Path) -> None:
    save_config(smallest_recipe(steps=2), tmp_path / "config.yaml")
    told = example("train_on_a_folder", clips, tmp_path)
    assert told.splitlines()[-1] == f"model: {tmp_path / 'model'}"
    weights = {path: path.read_bytes() for path in (tmp_path / "model").rglob("*.safetensors")}
    assert len(weights) == 4
    example("train_on_a_folder", clips, tmp_path)
    assert all(path.read_bytes() == before for path, before in weights.items())


def test_a_folder_of_samples_is_measured(tmp_path: Path) -> None:
    synthesize(tmp_path / "clips", ImpactsConfig(materials=("glass", "drum")), 12)
    glass, drum = tmp_path / "clips/glass", tmp_path / "clips/drum"
    table = example("evaluate_a_folder", glass, drum, tmp_path / "out")
    assert "sound and motion events in common" in table and "silent clips" in table
