"""Real clips, a recipe file and runs trained through the command line, once for this folder."""

from pathlib import Path

import pytest

from mmldm.config import save_config
from mmldm.worlds.impacts.clips import ImpactsConfig, synthesize

from ..smallest import CLIP, smallest_recipe
from .commandline import mmldm


@pytest.fixture(autouse=True)
def no_lines_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine gets more lines of progress: what is printed must not depend on it."""
    monkeypatch.setattr("mmldm.training.live.EVERY", float("inf"))


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "impacts"
    config = ImpactsConfig(spec=CLIP, materials=("wood", "glass"))
    synthesize(folder, config, clips=10, workers=1)
    return folder


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    save_config(smallest_recipe(steps=2, critic=False), path)
    return path


@pytest.fixture(scope="session")
def run_folder(clip_folder: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    mmldm("train", clip_folder, "--config", recipe, "--out", folder, "--device", "cpu").succeeded()
    return folder
