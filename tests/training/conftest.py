"""A small folder of real clips and the three jobs trained on it once, for all tests of this folder."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from mmldm.config import RunConfig
from mmldm.data.manifest import Manifest
from mmldm.data.scan import scan
from mmldm.training import JOBS
from mmldm.training.distributed import Process
from mmldm.training.run import Run
from mmldm.training.run_folder import RunFolder
from mmldm.worlds.impacts.clips import ImpactsConfig, synthesize

from ..smallest import CLIP, smallest_recipe


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "impacts"
    materials = ("wood", "glass")
    synthesize(folder, ImpactsConfig(spec=CLIP, materials=materials), clips=12, workers=1)
    return folder


@pytest.fixture(scope="session")
def manifest(clip_folder: Path) -> Manifest:
    return scan(clip_folder, CLIP, workers=1, held_out=0.25)


def new_run(config: RunConfig, manifest: Manifest, folder: Path) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    return Run(
        config,
        RunFolder(folder),
        manifest,
        Process(device=torch.device("cpu")),
        Console(quiet=True),
        lambda what, done, total: None,
    )


@pytest.fixture(scope="session")
def finished(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run folder in which all three jobs are done."""
    run = new_run(smallest_recipe(), manifest, tmp_path_factory.mktemp("run"))
    for job in JOBS:
        run.run(job)
    return run
