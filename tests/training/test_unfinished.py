"""A run that trains or was stopped gives a model of its newest average weights, and is not disturbed."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmldm.config import save_config
from mmldm.errors import UserError
from mmldm.training.checkpoint import CheckpointFolder
from mmldm.training.run import Run
from mmldm.training.unfinished import finished_model, newer_step, newest_pipeline

pytestmark = pytest.mark.slow


@pytest.fixture
def running(finished: Run, tmp_path: Path) -> Path:
    """A run whose generator has not exported yet."""
    root = Path(shutil.copytree(finished.folder.root, tmp_path / "run"))
    save_config(finished.config, root / "config.yaml")
    finished.manifest.save(root / "manifest.jsonl")
    shutil.rmtree(root / "model")
    shutil.rmtree(root / "generator" / "export")
    return root


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_newest_average_weights_are_taken_and_nothing_is_touched(
    running: Path, finished: Run
) -> None:
    before = files(running)
    pipeline, step = newest_pipeline(running)
    assert files(running) == before
    checkpoints = running / "generator" / "checkpoints"
    assert step == CheckpointFolder(checkpoints, 1, print).steps()[-1]
    # The export of the finished run was made of the same average.
    export = finished.folder.export("generator") / "generator"
    wanted = load_file(export / "diffusion_pytorch_model.safetensors")
    for name, tensor in pipeline.generator.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name
    made = finished.folder.model
    assert len(pipeline(num_samples=1, seed=0).clips) == 1 and made.is_dir()


@pytest.mark.parametrize("harm", ["gone", "torn"])
def test_checkpoint_that_goes_under_our_hands_is_passed_over(running: Path, harm: str) -> None:
    checkpoints = CheckpointFolder(running / "generator" / "checkpoints", 1, print)
    *_, before, newest = checkpoints.steps()
    if harm == "gone":
        (checkpoints.folder(newest) / "state.json").unlink()
    else:
        (checkpoints.folder(newest) / "ema.safetensors").write_bytes(b"torn")
    names = sorted(path.name for path in (running / "generator" / "checkpoints").iterdir())
    assert newest_pipeline(running)[1] == before
    assert sorted(p.name for p in (running / "generator" / "checkpoints").iterdir()) == names


def test_run_without_a_generator_so_far_is_a_sentence(running: Path) -> None:
    shutil.rmtree(running / "generator")
    with pytest.raises(UserError, match="its generator job has no checkpoint yet"):
        newest_pipeline(running)


def test_finished_model_stands_before_a_checkpoint(running: Path, finished: Run) -> None:
    steps = CheckpointFolder(running / "generator" / "checkpoints", 1, print).steps()
    assert finished_model(running) is None and newer_step(running) == steps[-1]
    shutil.copytree(finished.folder.model, running / "model")
    shutil.copytree(finished.folder.export("generator"), running / "generator" / "export")
    assert finished_model(running) == running / "model" and newer_step(running) is None
    shutil.copytree(running / "model", running / "distilled")
    assert finished_model(running) == running / "distilled"
