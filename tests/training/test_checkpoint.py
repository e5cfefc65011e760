"""A checkpoint is whole or absent; the last good one is never touched before the next is whole."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmldm.errors import UserError
from mmldm.files import whole_folder
from mmldm.training import checkpoint as checkpoint_module
from mmldm.training.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    SaveError,
    refuse_changes,
    run_lock,
)


def state(step: int) -> Checkpoint:
    shared = torch.arange(6.0) + step
    return Checkpoint(
        step,
        {"model": {"a": shared, "tied": shared.view(2, 3)}, "optimizer": {"n": torch.tensor(1.5)}},
        {"window": {"model/loss": [0.1, step / 3]}},
    )


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def folder(tmp_path: Path, notes: list[str]) -> CheckpointFolder:
    folder = CheckpointFolder(tmp_path / "checkpoints", 2, notes.append)
    folder.clean()
    return folder


def test_saved_state_loads_bit_for_bit(folder: CheckpointFolder) -> None:
    folder.save(state(3))
    loaded = folder.load(3)
    assert loaded.values["window"] == {"model/loss": [0.1, 1.0]}
    for file, tensors in state(3).tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(loaded.tensors[file][name], tensor)


def test_only_the_newest_are_kept(folder: CheckpointFolder) -> None:
    for step in (1, 2, 30):
        folder.save(state(step))
    assert folder.steps() == [2, 30]


def test_every_file_of_a_checkpoint_is_readable_without_pickle(folder: CheckpointFolder) -> None:
    path = folder.save(state(1))
    assert sorted(p.name for p in path.iterdir()) == [
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    assert json.loads((path / "state.json").read_text())["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("call", ["_write_tensors", "sync", "rename"])
def test_old_checkpoints_survive_a_failure_at_every_call(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Lets the n-th system-facing call fail, for every n, until a save gets through."""
    folder.save(state(1))
    folder.save(state(2))
    owner = Path if call == "rename" else checkpoint_module
    real = getattr(owner, call)
    for nth in range(20):
        calls = iter(range(20))

        def failing(*args, nth=nth, calls=calls, **kwargs):  # type: ignore[no-untyped-def]
            if next(calls) == nth:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, call, failing)
        before = folder.steps()
        try:
            folder.save(state(3))
        except SaveError as error:
            assert "No space left" in str(error)
        monkeypatch.undo()
        assert len(folder.steps()) >= 2
        assert set(folder.steps()) - {3} <= set(before)
        for step in folder.steps():
            folder.load(step)
        if 3 in folder.steps():
            break
    assert nth > 0
    assert 3 in folder.steps()


def test_half_written_checkpoint_is_removed_and_named(
    folder: CheckpointFolder, tmp_path: Path, notes: list[str]
) -> None:
    folder.save(state(1))
    partial = tmp_path / "checkpoints" / ".step_00000002.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    folder.clean()
    assert folder.steps() == [1]
    assert not partial.exists()
    assert ".step_00000002.partial" in notes[-1]


def test_flipped_bit_anywhere_is_noticed_and_the_one_before_is_used(
    folder: CheckpointFolder, notes: list[str]
) -> None:
    folder.save(state(1))
    generator = torch.Generator().manual_seed(0)
    for trial in range(60):
        path = folder.save(state(2))
        files = sorted(path.iterdir())
        file = files[trial % len(files)]
        content = bytearray(file.read_bytes())
        bit = int(torch.randint(len(content) * 8, (), generator=generator))
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        assert folder.newest_whole() == 1, f"bit {bit} of {file.name} went unnoticed"
        assert "damaged_step_00000002" in notes[-1]


def test_run_without_any_whole_checkpoint_is_refused(folder: CheckpointFolder) -> None:
    path = folder.save(state(1))
    (path / "model.safetensors").unlink()
    for _ in range(2):
        with pytest.raises(UserError, match="no checkpoint is whole"):
            folder.newest_whole()


def test_changed_settings_are_refused_with_old_and_new_value() -> None:
    old = {"train": {"learning_rate": 0.1, "betas": [0.9, 0.99]}, "seed": 0}
    refuse_changes(old, {"train": {"learning_rate": 0.1, "betas": (0.9, 0.99)}, "seed": 0}, "run")
    new = {"train": {"learning_rate": 0.2, "betas": (0.9, 0.99)}, "seed": 1}
    with pytest.raises(UserError) as error:
        refuse_changes(old, new, "run")
    assert "seed was 0 and is now 1" in str(error.value)
    assert "train.learning_rate was 0.1 and is now 0.2" in str(error.value)
    assert "betas" not in str(error.value)


HOLD = """
import sys
from pathlib import Path
from mmldm.training.checkpoint import run_lock
with run_lock(Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_process_is_refused_and_a_dead_ones_lock_is_recovered(
    tmp_path: Path, notes: list[str]
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with (
        pytest.raises(UserError, match=f"in use by process {holder.pid} on "),
        run_lock(tmp_path, notes.append),
    ):
        pass
    holder.kill()
    holder.communicate()
    with run_lock(tmp_path, notes.append):
        assert f"recovered the lock left by process {holder.pid}" in notes[-1]
    assert (tmp_path / "run.lock").read_text() == ""


def test_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "export"
    with whole_folder(target) as partial:
        (partial / "first").touch()
    with pytest.raises(UserError), whole_folder(target) as partial:
        (partial / "second").touch()
        raise UserError("disk full")
    assert [path.name for path in target.iterdir()] == ["first"]
    with whole_folder(target) as partial:
        (partial / "third").touch()
    assert [path.name for path in target.iterdir()] == ["third"]
    assert list(tmp_path.iterdir()) == [target]
