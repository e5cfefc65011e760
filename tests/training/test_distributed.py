"""Two CPU processes under torchrun train what one process trains, with whole weights or sharded ones."""

import math
import shutil
from pathlib import Path

import pytest
import torch

from mmldm.data.loader import order
from mmldm.errors import RefusedElsewhereError, UserError
from mmldm.training.checkpoint import CheckpointFolder
from mmldm.training.distributed import Process, agrees_with_cpu, choose_device, process_group
from mmldm.training.report import read_metrics

from .killing import TINY, TORCHRUN, finish
from .test_loop import run, stop_at

pytestmark = pytest.mark.slow

TWO = (*TORCHRUN, TINY[1])
CLOSE = 1e-4
"""Sums over two halves are rounded otherwise than sums over the whole."""
ROUNDED = 2e-3
"""The same where Muon multiplies in bfloat16, as it does on GPUs and CPUs with AMX."""
MUON = {"matrix_learning_rate": 0.02}


def train_two(folder: Path, *settings: str) -> None:
    code, output = finish((*TWO, str(folder), "steps=12", "dropout=0.0", *settings))
    assert code == 0, output


def assert_close_runs(first: Path, second: Path, from_step: int = 1, close: float = CLOSE) -> None:
    """Losses from `from_step` on and the last checkpoints agree to rounding."""
    losses = [
        {
            record["step"]: record["model/loss"]
            for record in read_metrics(folder / "metrics.jsonl")
            if "model/loss" in record and record["step"] >= from_step
        }
        for folder in (first, second)
    ]
    assert losses[0].keys() == losses[1].keys() == set(range(from_step, 13))
    for step, loss in losses[0].items():
        other = losses[1][step]
        assert loss == other or math.isclose(loss, other, rel_tol=close), step
    states = [CheckpointFolder(n / "checkpoints", 2, print).load(12) for n in (first, second)]
    for file, tensors in states[0].tensors.items():
        assert tensors.keys() == states[1].tensors[file].keys()
        for name, tensor in tensors.items():
            assert tensor.allclose(states[1].tensors[file][name], atol=close), f"{file}: {name}"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, with a withheld update."""
    folder = tmp_path_factory.mktemp("one")
    run(folder, {"dropout": 0.0, "poison": (7,)}, accumulate=2)
    return folder


@pytest.fixture(scope="module")
def one_with_muon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("muon")
    run(folder, {"dropout": 0.0}, **MUON)
    return folder


def test_two_processes_train_like_one_and_only_the_first_writes(one: Path, tmp_path: Path) -> None:
    train_two(tmp_path, "poison=7", "accumulate=2")
    assert_close_runs(one, tmp_path)


def test_sharded_weights_train_like_whole_ones_and_their_checkpoint_resumes_in_one_process(
    one: Path, tmp_path: Path
) -> None:
    """Clipping, a withheld update, average, accumulation, validation and export included."""
    settings = ("poison=7", "accumulate=2", "sharding=full", "gradient_checkpointing=true")
    train_two(tmp_path, *settings)
    assert_close_runs(one, tmp_path)
    assert {p.name for p in (tmp_path / "export").iterdir()} == {"model.safetensors"}
    shutil.rmtree(tmp_path / "checkpoints" / "step_00000012")
    result = run(tmp_path, {"dropout": 0.0, "poison": (7,)}, accumulate=2)
    assert "resumed at step 9" in (tmp_path / "train.log").read_text()
    assert result.step == 12
    assert_close_runs(one, tmp_path)


@pytest.mark.parametrize(("sharding", "parts"), [("full", 2), ("none", 1)])
def test_accumulated_passes_reduce_gradients_once_a_step(sharding: str, parts: int) -> None:
    """Sharded, a block and what is left of the module each have a reduction of their own."""
    code, output = finish((*TORCHRUN, "-m", "tests.training.counting", sharding, "4"))
    assert code == 0, output
    assert f"reductions {parts} " in output, output


def test_checkpoint_of_one_process_resumes_sharded_over_two_with_muon(
    one_with_muon: Path, tmp_path: Path
) -> None:
    stop_at(tmp_path, 8, {"dropout": 0.0}, **MUON)
    train_two(tmp_path, "sharding=full", "matrix_learning_rate=0.02")
    assert "resumed at step 6" in (tmp_path / "train.log").read_text()
    assert_close_runs(one_with_muon, tmp_path, close=ROUNDED)


def test_rows_that_the_second_process_cannot_read_are_told_once_and_counted(tmp_path: Path) -> None:
    first, second = order(0, 37, 8, 0)[:4], order(0, 37, 8, 0)[4:]
    train_two(tmp_path, f"unreadable={first[0]},{second[0]}", "poison=0")
    log = (tmp_path / "train.log").read_text()
    for row in (first[0], second[0]):
        assert log.count(f"cannot read number {row}: gone; another clip stands in") == 1
    records = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "model/loss" in r]
    assert [r["data/failed"] for r in records] == [2] * 12
    named = log.partition("in step 1 with ")[2].partition("\n")[0].split(", ")
    assert {f"number {row}" for row in (*first[1:], *second[1:])} < set(named)
    assert not {f"number {first[0]}", f"number {second[0]}"} & set(named)


def test_processes_that_together_cannot_read_a_fifth_stop_with_one_sentence(tmp_path: Path) -> None:
    """Each of them alone lacks less than a fifth."""
    rows = ",".join(str(row) for row in sorted(order(0, 37, 8, 0)))
    code, output = finish((*TWO, str(tmp_path), "steps=12", f"unreadable={rows}"))
    assert code != 0
    assert output.count("8 of 37 clips cannot be read any more, for example number") == 1


def test_refusal_of_the_first_process_reaches_its_caller() -> None:
    def refuse() -> None:
        raise UserError("no")

    with pytest.raises(UserError, match="no") as refusal:
        Process().on_main(refuse)
    assert not isinstance(refusal.value, RefusedElsewhereError)


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


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("abacus", "there is no such device; known are cpu, cuda, mps"),
        ("cuda:99", "not usable here"),
        ("cpu:x", "not usable here"),
        ("xpu", "there is no such device"),
    ],
)
def test_device_that_is_not_there_is_refused(name: str, reason: str) -> None:
    with (
        pytest.raises(UserError, match=f"device {name}: {reason}") as refusal,
        process_group(name),
    ):
        pass
    assert len(str(refusal.value)) < 150


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="mps is here")
def test_mps_where_there_is_none_is_refused_in_a_short_sentence() -> None:
    with pytest.raises(UserError, match="device mps: not usable here") as refusal:
        choose_device("mps")
    assert len(str(refusal.value)) < 150


def test_a_device_is_held_against_the_cpu_before_it_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = torch.get_rng_state()
    assert agrees_with_cpu("cpu")
    # It computes nothing.
    assert not agrees_with_cpu("meta")
    assert torch.equal(torch.get_rng_state(), state)
    # A Mac whose GPU fails: here any use of it does.
    monkeypatch.setattr("torch.cuda.is_available", bool)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    if torch.backends.mps.is_built():
        pytest.skip("mps may work here")
    assert choose_device(None) == torch.device("cpu")


def test_device_that_a_library_refuses_without_a_word_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object, **named: object) -> None:
        raise AssertionError

    monkeypatch.setattr("torch.empty", refuse)
    with pytest.raises(UserError, match="device cpu: not usable here"):
        choose_device("cpu")
