"""Two CPU processes under torchrun train what one process trains."""

import math
import sys
from pathlib import Path

import pytest

from mmldm.errors import UserError
from mmldm.training.checkpoint import CheckpointFolder
from mmldm.training.distributed import Process, process_group
from mmldm.training.report import read_metrics

from .killing import TINY, finish

TORCHRUN = (
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
)  # fmt: skip


def losses(folder: Path) -> list[float]:
    return [r["model/loss"] for r in read_metrics(folder / "metrics.jsonl") if "model/loss" in r]


def test_two_processes_train_like_one_and_only_the_first_writes(tmp_path: Path) -> None:
    settings = ("steps=12", "dropout=0.0", "poison=7")
    for name, launcher, accumulate in (("one", (), 1), ("two", (*TORCHRUN, TINY[1]), 2)):
        program = launcher or TINY
        code, output = finish(
            (*program, str(tmp_path / name), *settings, f"accumulate={accumulate}")
        )
        assert code == 0, output
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 12
    assert one[7] is None
    assert two[7] is None
    for a, b in zip(one[:7] + one[8:], two[:7] + two[8:], strict=True):
        assert math.isclose(a, b, rel_tol=1e-4)
    states = [
        CheckpointFolder(tmp_path / n / "checkpoints", 2, print).load(12) for n in ("one", "two")
    ]
    for file, tensors in states[0].tensors.items():
        for name, tensor in tensors.items():
            assert tensor.allclose(states[1].tensors[file][name], atol=1e-4), f"{file}: {name}"


def test_rows_of_all_processes_make_up_the_batch() -> None:
    rows = [row for rank in range(4) for row in Process(rank, 4).rows(12)]
    assert rows == list(range(12))


def test_alone_there_is_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group("cpu") as process:
        assert (process.rank, process.world, process.device.type) == (0, 1, "cpu")


def test_announced_group_without_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match="start with torchrun"), process_group("cpu"):
        pass


@pytest.mark.parametrize("name", ["abacus", "cuda:99"])
def test_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"device {name}: not usable here"), process_group(name):
        pass
