"""A checkpoint is whole or absent; the last good one is never touched before the next is whole."""

import errno
import json
import os
import resource
from pathlib import Path

import pytest
import torch

from mmldm.errors import UserError
from mmldm.training import checkpoint as checkpoint_module
from mmldm.training.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    SaveError,
    refuse_changes,
)

from ..power import Disk


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


@pytest.mark.parametrize("call", ["_write_tensors", "fsync", "rename"])
def test_old_checkpoints_survive_a_failure_at_every_call(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Lets the n-th system-facing call fail, for every n, until a save gets through."""
    folder.save(state(1))
    folder.save(state(2))
    owner = {"fsync": os, "rename": Path}.get(call, checkpoint_module)
    real = getattr(owner, call)
    for nth in range(30):
        calls = iter(range(30))

        def failing(*args, nth=nth, calls=calls, **kwargs):
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
    # A hash of the clips says nothing to a person.
    with pytest.raises(UserError, match="the clips are not those that it began on") as error:
        refuse_changes({"vae": {"clips": "729b"}}, {"vae": {"clips": "11aa"}}, "run")
    assert "729b" not in str(error.value)


READ_ERRORS = [errno.EMFILE, errno.ENFILE, errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOMEM]


@pytest.mark.parametrize("number", READ_ERRORS)
@pytest.mark.parametrize("call", ["sha256_of", "load_file"])
def test_error_of_reading_is_not_damage(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    folder.save(state(1))
    folder.save(state(2))

    def failing(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(checkpoint_module, call, failing)
    for _ in range(2):
        with pytest.raises(
            UserError, match=rf"model.* cannot be read now \({os.strerror(number)}\)"
        ):
            folder.newest_whole()
    monkeypatch.undo()
    assert folder.steps() == [1, 2]
    assert folder.newest_whole() == 2


def test_too_many_open_files_rename_nothing(folder: CheckpointFolder) -> None:
    """The real thing, at every open of a verification: as many descriptors are free as the loop counts."""
    folder.save(state(1))
    folder.save(state(2))
    folder.load(2)  # everything that is imported late is imported
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    refused = []
    for free in range(4):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, hard))
        try:
            assert folder.newest_whole() == 2
        except UserError as error:
            refused.append(str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(refused) >= 1
    assert all("cannot be read now" in sentence for sentence in refused)
    assert folder.steps() == [1, 2]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE])
def test_folder_that_cannot_be_listed_is_not_an_empty_one(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A run would start from step 0, over its own checkpoints."""
    folder.save(state(1))

    def failing(path: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "listdir", failing)
    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(UserError, match=rf"cannot be read now \({os.strerror(number)}\)"):
        folder.newest_whole()


STRANGERS = [
    ".DS_Store", "._step_00000002", ".nfs000000000123", "Thumbs.db", "step_00000020.tar",
    "step_00000030", "step_20", "damaged_notes.txt", ".step_notes.partial",
]  # fmt: skip
STRANGE_FOLDERS = ["step_00000020 copy", "step_abc", "step_00000002.bak", ".git", "step_ 0000002"]


def test_what_others_left_in_the_folder_is_passed_over_and_kept(
    folder: CheckpointFolder, tmp_path: Path, notes: list[str]
) -> None:
    place = tmp_path / "checkpoints"
    for name in STRANGERS:
        (place / name).write_text("mine")
    for name in STRANGE_FOLDERS:
        (place / name).mkdir()
        (place / name / "thesis.txt").write_text("mine")
    folder.clean()
    assert folder.newest_whole() == 0
    for step in (1, 2, 3):
        folder.save(state(step))
    folder.clean()
    assert folder.newest_whole() == 3
    assert folder.steps() == [2, 3]
    assert notes == []
    assert all((place / name).read_text() == "mine" for name in STRANGERS)
    assert all((place / name / "thesis.txt").read_text() == "mine" for name in STRANGE_FOLDERS)


def test_file_where_a_checkpoint_belongs_makes_way(
    folder: CheckpointFolder, tmp_path: Path, notes: list[str]
) -> None:
    (tmp_path / "checkpoints" / "step_00000003").write_text("mine")
    folder.save(state(3))
    assert folder.newest_whole() == 3
    assert (tmp_path / "checkpoints" / "damaged_step_00000003").read_text() == "mine"
    assert "step_00000003 is not a checkpoint; set aside as damaged_step_00000003" in notes[-1]


def test_damaged_checkpoints_are_never_written_over(
    folder: CheckpointFolder, tmp_path: Path
) -> None:
    folder.save(state(1))
    for content in ("first", "second"):
        (folder.save(state(2)) / "state.json").write_text(content)
        assert folder.newest_whole() == 1
    kept = sorted((tmp_path / "checkpoints").glob("damaged_*/state.json"))
    assert [path.read_text() for path in kept] == ["first", "second"]


@pytest.mark.parametrize("name", [".step_00000002.partial", ".step_00000002.retired"])
def test_leftovers_are_removed_whoever_left_them(
    folder: CheckpointFolder, tmp_path: Path, name: str, notes: list[str]
) -> None:
    """Who holds the run's lock need not ask for host and process."""
    other = name.replace("2.", "2.0123abcd-1.")
    for each in (name, other):
        (tmp_path / "checkpoints" / each).mkdir()
    folder.clean()
    assert list((tmp_path / "checkpoints").iterdir()) == []
    assert [note.split()[4] for note in notes] == sorted([name, other])


def test_every_file_is_synced_before_the_checkpoint_has_its_name(
    folder: CheckpointFolder, tmp_path: Path
) -> None:
    with Disk() as disk:
        CheckpointFolder(tmp_path / "new" / "checkpoints", 2, print).clean()
        for step in (1, 2, 3):
            CheckpointFolder(tmp_path / "new" / "checkpoints", 2, print).save(state(step))
    assert disk.renamed_before_sync == []
    assert disk.unsynced(tmp_path / "new") == []
