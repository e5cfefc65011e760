"""Runs a training command, kills it at chosen moments, and compares what two runs left."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from mmldm.training.checkpoint import CheckpointFolder
from mmldm.training.report import METRICS, read_metrics

SOURCE = Path(__file__).parents[2] / "src"
TINY = (sys.executable, str(Path(__file__).with_name("tiny_stage.py")))


def environment() -> dict[str, str]:
    """One thread per process, and the tree under test importable."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)}


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    """Starts a command in its own process group."""
    return subprocess.Popen(
        list(command),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(command: Sequence[str], timeout: float = 120) -> tuple[int, str]:
    """Runs a command to its end: exit code and what it printed."""
    process = start(command)
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


def run_until_done_with_kills(
    command: Sequence[str], folder: Path, kills: int, seed: int = 0, timeout: float = 240
) -> list[str]:
    """Kills the command `kills` times, then lets it finish.

    Every second kill waits for a checkpoint being written and strikes inside the write; the others
    strike at a random moment after the first new metrics line.

    Args:
        command: A training command that writes metrics and checkpoints below `folder`.
        folder: The job's folder.
        kills: How many SIGKILLs are wanted; fewer if the command is done before.
        seed: Chooses the moments.
        timeout: Seconds for the whole.

    Returns:
        What each kill struck: "write" or "step".
    """
    moments = random.Random(seed)
    struck: list[str] = []
    deadline = time.monotonic() + timeout
    while len(struck) < kills:
        assert time.monotonic() < deadline, f"only {len(struck)} of {kills} kills in {timeout} s"
        process = start(command)
        in_write = len(struck) % 2 == 0
        if not _wait_for_moment(process, folder, in_write, moments, deadline):
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        partial = any((folder / "checkpoints").glob(".*.partial"))
        struck.append("write" if partial else "step")
    code, output = finish(command, max(1.0, deadline - time.monotonic()))
    assert code == 0, output
    return struck


def _wait_for_moment(
    process: subprocess.Popen[str],
    folder: Path,
    in_write: bool,
    moments: random.Random,
    deadline: float,
) -> bool:
    metrics, checkpoints = folder / METRICS, folder / "checkpoints"
    began, before = time.monotonic(), _size(metrics)
    while process.poll() is None and time.monotonic() < deadline:
        if in_write and any(checkpoints.glob(".*.partial/*.safetensors")):
            return True
        if not in_write and time.monotonic() - began > 1 and _size(metrics) not in (0, before):
            time.sleep(moments.uniform(0, 0.3))
            return process.poll() is None
        time.sleep(0.0005)
    return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def assert_same_run(first: Path, second: Path) -> None:
    """Every logged loss and every tensor of the last checkpoint are the same bits in both runs."""
    losses = [
        {r["step"]: r["loss_hex"] for r in read_metrics(folder / METRICS) if "loss_hex" in r}
        for folder in (first, second)
    ]
    assert losses[0], f"{first} holds no losses"
    assert losses[0] == losses[1]
    states = []
    for folder in (first, second):
        checkpoints = CheckpointFolder(folder / "checkpoints", 2, print)
        states.append(checkpoints.load(checkpoints.steps()[-1]))
    assert states[0].step == states[1].step
    assert states[0].tensors.keys() == states[1].tensors.keys()
    for file, tensors in states[0].tensors.items():
        assert tensors.keys() == states[1].tensors[file].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, states[1].tensors[file][name]), f"{file}: {name} differs"
