"""Runs a training command, kills it at chosen events, and compares what two runs left."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from mmldm.training.checkpoint import CheckpointFolder
from mmldm.training.report import METRICS, read_metrics

SOURCE = Path(__file__).parents[2] / "src"
STRIKING = str(Path(__file__).parents[1] / "striking.py")
TINY = (sys.executable, str(Path(__file__).with_name("tiny_stage.py")))
TORCHRUN = (
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
)  # fmt: skip
PATIENCE = 1500.0
"""Seconds after which a command counts as hanging, on however slow a machine."""

Strike = tuple[str, int]
"""A moment of tests/striking.py, and the how-manieth."""


def environment() -> dict[str, str]:
    """One thread per process, and the tree under test importable, its tests too."""
    paths = os.pathsep.join(map(str, (SOURCE, SOURCE.parent)))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


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


def finish(command: Sequence[str]) -> tuple[int, str]:
    """Runs a command to its end: exit code and what it printed."""
    process = start(command)
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, output


def struck(
    command: Sequence[str], folder: Path, strike: Strike, number: signal.Signals
) -> tuple[str, ...]:
    """The command, as one that signals itself.

    Args:
        command: Begins with the interpreter, or with `TORCHRUN`, whose first process is struck.
        folder: The job's folder.
    """
    launcher = len(TORCHRUN) if tuple(command[: len(TORCHRUN)]) == TORCHRUN else 1
    moment, count = strike
    words = (STRIKING, moment, str(count), number.name, str(folder))
    return (*command[:launcher], *words, *command[launcher:])


def kill(command: Sequence[str], folder: Path, strike: Strike) -> None:
    """Runs the command until SIGKILL strikes it."""
    code, output = finish(struck(command, folder, strike, signal.SIGKILL))
    # torchrun outlives the process that it tells of.
    assert code == -signal.SIGKILL or "Signal 9 (SIGKILL)" in output, output
    assert any((folder / "checkpoints").glob(".*.partial")) == (strike[0] == "write")


def run_until_done_with_kills(
    command: Sequence[str], folder: Path, strikes: Sequence[Strike]
) -> None:
    """Kills the command once for each strike, then lets it finish.

    Args:
        command: A training command that writes metrics and checkpoints below `folder`.
        folder: The job's folder.
    """
    for strike in strikes:
        kill(command, folder, strike)
    code, output = finish(command)
    assert code == 0, output


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
