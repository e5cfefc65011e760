"""The three real jobs, killed and resumed, and run as two processes: the same numbers."""

import math
import sys
from pathlib import Path

import pytest

from mmldm.config import save_config
from mmldm.training.journey import JOBS, Journey, replace_folder
from mmldm.training.report import METRICS, read_metrics

from ..smallest import smallest_recipe
from .killing import assert_same_run, finish, run_until_done_with_kills

MMLDM = (sys.executable, "-m", "mmldm", "train")
TORCHRUN = (
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
    "-m", "mmldm", "train",
)  # fmt: skip
PACE = ("log_every=1", "save_every=3", "preview_every=0", "validate_every=0")


def prepared(finished: Journey, job: str, folder: Path) -> Path:
    """A run folder in which everything `job` needs is done and `job` itself is not."""
    folder.mkdir()
    finished.manifest.save(folder / "manifest.jsonl")
    save_config(smallest_recipe(), folder / "config.yaml")
    for earlier in JOBS[: JOBS.index(job)]:
        replace_folder(finished.folder.export(earlier), folder / earlier / "export")
    if job != "vae":
        replace_folder(finished.folder.root / "caches", folder / "caches")
    return folder


def command(launcher: tuple[str, ...], job: str, folder: Path, steps: int) -> tuple[str, ...]:
    settings = [f"{job}.train.{pace}" for pace in (*PACE, f"steps={steps}")]
    changes = [word for setting in settings for word in ("--set", setting)]
    return (*launcher, job, "--out", str(folder), "--device", "cpu", *changes)


@pytest.mark.parametrize("job", JOBS)
def test_real_job_killed_and_resumed_equals_the_unbroken_run(
    job: str, finished: Journey, tmp_path: Path
) -> None:
    folders = [prepared(finished, job, tmp_path / name) for name in ("unbroken", "killed")]
    code, output = finish(command(MMLDM, job, folders[0], 30))
    assert code == 0, output
    struck = run_until_done_with_kills(command(MMLDM, job, folders[1], 30), folders[1] / job, 2)
    assert struck
    assert_same_run(folders[0] / job, folders[1] / job)


@pytest.mark.parametrize("job", ["autoencoder"])
def test_two_processes_train_the_real_job_like_one(
    job: str, finished: Journey, tmp_path: Path
) -> None:
    """The autoencoder has everything that could differ: two turns, gathered pairs, masks, noise."""
    losses = []
    for name, launcher in (("one", MMLDM), ("two", TORCHRUN)):
        folder = prepared(finished, job, tmp_path / name)
        code, output = finish(command(launcher, job, folder, 8))
        assert code == 0, output
        rows = read_metrics(folder / job / METRICS)
        losses.append([row["model/loss"] for row in rows if "model/loss" in row])
    assert len(losses[0]) == len(losses[1]) == 8
    for a, b in zip(*losses, strict=True):
        assert math.isclose(a, b, rel_tol=2e-3)
