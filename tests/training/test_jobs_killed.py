"""Every real job, killed and resumed, and run by another number of processes: the same numbers."""

import math
import shutil
import sys
from pathlib import Path
from shutil import copytree

import pytest

from mmldm.config import save_config
from mmldm.training import JOBS
from mmldm.training.checkpoint import CheckpointFolder
from mmldm.training.report import METRICS, read_metrics
from mmldm.training.run import Run

from ..cli.commandline import mmldm
from ..smallest import smallest_recipe
from .killing import TORCHRUN, assert_same_run, finish, kill

pytestmark = pytest.mark.slow

MMLDM = (sys.executable, "-m", "mmldm")
STEPS = 10
PACE = (
    f"steps={STEPS}", "log_every=1", "save_every=3", "preview_every=0", "validate_every=0",
)  # fmt: skip
CLOSE = 1e-5
"""Relative, of losses (measured: 1.4e-7): halves of a batch are summed otherwise than the whole."""
CLOSE_WEIGHTS = 2e-3
"""Absolute (measured: 4e-4): where a gradient is all rounding, AdamW makes a whole step of it."""
TRAINED = {
    "vae": ("workers=1", "accumulate=2"),
    "autoencoder": ("precision=bf16", "accumulate=2"),
    "generator": ("precision=bf16", "accumulate=2"),
    "vocoder": ("precision=bf16", "workers=1"),
}
SHARP = (
    "--set", "vae.loss.perceptual=0.5", "--set", "vae.loss.adversarial=0.5",
    "--set", "vae.critic={start_step: 1, learning_rate: 0.001, model: {channels: 8}}",
)  # fmt: skip
VOICED = (
    "--set", "vocoder.loss={adversarial: 0.5, decoded: 0.5}",
    "--set", "vocoder.critic={start_step: 1, learning_rate: 0.001, model: {channels: 4}}",
)  # fmt: skip
DISTILLED = {"generator": ("generator_2", "steps=[2]"), "decoder": ("decoder_1", "steps=[1]")}


def prepared(finished: Run, job: str, folder: Path) -> Path:
    """A run folder in which everything `job` needs is done and `job` itself is not."""
    folder.mkdir(parents=True)
    finished.manifest.save(folder / "manifest.jsonl")
    save_config(smallest_recipe(), folder / "config.yaml")
    for earlier in JOBS[: JOBS.index(job)]:
        copytree(finished.folder.export(earlier), folder / earlier / "export")
    if job != "vae":
        copytree(finished.folder.root / "caches", folder / "caches")
    return folder


def changes(section: str, *settings: str) -> tuple[str, ...]:
    pairs = (("--set", f"{section}.train.{setting}") for setting in (*PACE, *settings))
    return tuple(word for pair in pairs for word in pair)


def training(job: str, folder: Path, *settings: str) -> tuple[str, ...]:
    return ("train", job, "--out", str(folder), "--device", "cpu", *changes(job, *settings))


def distilling(part: str, folder: Path, *settings: str) -> tuple[str, ...]:
    section = f"distill_{part}"
    mine = (f"{section}.teacher_steps=4", f"{section}.{DISTILLED[part][1]}")
    own = tuple(word for setting in mine for word in ("--set", setting))
    return (
        "distill", part, str(folder), "--device", "cpu", *own, *changes(section, *settings),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("job", "terms"),
    [*((job, ()) for job in JOBS), ("vae", SHARP), ("vocoder", VOICED)],
    ids=[*JOBS, "vae with critic", "vocoder with critic and decoded rows"],
)
def test_real_job_killed_and_resumed_equals_the_unbroken_run(
    job: str, terms: tuple[str, ...], finished: Run, tmp_path: Path
) -> None:
    """In the midst of a write and of a step, between whose two turns those with a critic are struck."""
    unbroken, killed = (prepared(finished, job, tmp_path / name) for name in ("unbroken", "killed"))
    mmldm(*training(job, unbroken, *TRAINED[job]), *terms).succeeded()
    command = (*training(job, killed, *TRAINED[job]), *terms)
    for strike in (("write", 4), ("turn", 4)):
        kill((*MMLDM, *command), killed / job, strike)
    mmldm(*command).succeeded()
    assert_same_run(unbroken / job, killed / job)


@pytest.mark.parametrize("part", DISTILLED)
def test_killed_distillation_equals_the_unbroken_one(
    part: str, finished: Run, tmp_path: Path
) -> None:
    job, settings = DISTILLED[part][0], ("precision=bf16", "accumulate=2")
    runs = []
    for name in ("unbroken", "killed"):
        runs.append(Path(shutil.copytree(finished.folder.root, tmp_path / name)))
        # A model that samples in more steps than its student.
        index = runs[-1] / "model" / "model_index.json"
        text = index.read_text()
        assert '"decoder_steps": 1' in text
        index.write_text(text.replace('"decoder_steps": 1', '"decoder_steps": 4'))
        finished.manifest.save(runs[-1] / "manifest.jsonl")
        save_config(smallest_recipe(), runs[-1] / "config.yaml")
    mmldm(*distilling(part, runs[0], *settings)).succeeded()
    command = distilling(part, runs[1], *settings)
    for strike in (("turn", 6), ("write", 3)):
        kill((*MMLDM, *command), runs[1] / job, strike)
    mmldm(*command).succeeded()
    assert_same_run(runs[0] / job, runs[1] / job)
    assert (runs[1] / "distilled" / "model_index.json").is_file()


def losses(job: Path) -> list[float]:
    rows = [row for row in read_metrics(job / METRICS) if "model/loss" in row]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    return [row["model/loss"] for row in rows]


def test_job_goes_on_with_another_number_of_processes_after_a_kill(
    finished: Run, tmp_path: Path
) -> None:
    """The autoencoder has everything that could differ: two turns, gathered pairs, masks, noise."""
    job = "autoencoder"
    one, two_one, one_two = (
        prepared(finished, job, tmp_path / name) for name in ("one", "two_one", "one_two")
    )
    mmldm(*training(job, one)).succeeded()

    kill((*TORCHRUN, "-m", "mmldm", *training(job, two_one)), two_one / job, ("turn", 10))
    mmldm(*training(job, two_one)).succeeded()

    kill((*MMLDM, *training(job, one_two)), one_two / job, ("turn", 10))
    code, output = finish((*TORCHRUN, "-m", "mmldm", *training(job, one_two)))
    assert code == 0, output

    for other in (two_one, one_two):
        assert "resumed at step 3" in (other / job / "train.log").read_text()
        for a, b in zip(losses(one / job), losses(other / job), strict=True):
            assert math.isclose(a, b, rel_tol=CLOSE), (a, b)
        last = [
            CheckpointFolder(x / job / "checkpoints", 2, print).load(STEPS) for x in (one, other)
        ]
        for name, weights in last[0].tensors["ema"].items():
            assert weights.allclose(last[1].tensors["ema"][name], atol=CLOSE_WEIGHTS), name
