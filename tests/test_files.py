"""A file appears whole or not at all, is on the disk then, and what prevents it is said in a sentence."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import save_file

from mmldm import files
from mmldm.errors import UserError
from mmldm.files import tidy, whole_file, whole_folder, write_json, write_text

from .power import Disk


def dead_process() -> int:
    """The number of a process that was ours and is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def leftover(name: str, process: int, ending: str, host: str | None = None) -> str:
    return f".{name}.{host or files._host()}-{process}.{ending}"


def test_file_appears_at_the_end_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.suffix == ".txt"
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, OSError])
def test_failure_leaves_what_stood_there(failure: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    expected = UserError if failure is OSError else failure
    with pytest.raises(expected), whole_file(path) as temporary:
        temporary.write_text("half")
        raise failure
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["file/a.txt", "file/folder/a.txt"])
def test_file_in_place_of_a_parent_folder_is_a_sentence(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write"), whole_file(tmp_path / place) as path:
        path.write_text("never")
    assert (tmp_path / "file").read_text() == "mine"


def test_folder_in_place_of_the_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with (
        pytest.raises(UserError, match="cannot write"),
        whole_file(tmp_path / "a.txt") as temporary,
    ):
        temporary.write_text("never")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_file_in_place_of_a_whole_folder_is_a_sentence_and_stays(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(UserError, match="model is a file"), whole_folder(tmp_path / "model"):
        pass
    assert (tmp_path / "model").read_text() == "mine"


def test_long_name_in_any_script_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / f"{'夜' * 80}.txt"  # 240 of the 255 bytes that a name may have
    write_text(path, "whole")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_full_disk_in_a_folder_of_weights_is_a_sentence(tmp_path: Path) -> None:
    """The library that writes weights has an exception of its own."""
    with (
        pytest.raises(UserError, match="cannot write .*model: .*No such file"),
        whole_folder(tmp_path / "model") as partial,
    ):
        save_file({}, partial / "missing" / "weights.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_every_file_and_every_name_is_synced_before_it_counts(tmp_path: Path) -> None:
    with Disk() as disk:
        write_text(tmp_path / "a" / "b" / "text.txt", "1")
        write_json(tmp_path / "a" / "value.json", {"x": 1})
        for text in ("first", "second"):
            with whole_folder(tmp_path / "model") as partial:
                (partial / "part").mkdir()
                (partial / "part" / "weights").write_text(text)
                (partial / "index.json").write_text("{}")
    assert disk.unsynced(tmp_path) == []
    assert disk.renamed_before_sync == []
    assert (tmp_path / "model" / "part" / "weights").read_text() == "second"


def test_file_that_need_not_be_durable_costs_no_sync(tmp_path: Path) -> None:
    with Disk() as disk, whole_file(tmp_path / "row", durable=False) as temporary:
        temporary.write_text("row")
    assert disk.unsynced(tmp_path) == ["row"]


def test_failing_disk_is_noticed_before_the_old_file_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "before")

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(UserError, match=r"cannot write .*a\.txt: Input/output error"):
        write_text(path, "after")
    assert path.read_text() == "before"


def test_folder_that_cannot_be_synced_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def files_only(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead = dead_process()
    gone = [leftover("out", dead, "tmp.mp4"), leftover("model", dead, "partial")]
    stay = [
        leftover("out", os.getppid(), "tmp.mp4"),
        leftover("out", dead, "tmp.mp4", host="0123abcd"),
        f".out.{dead}.tmp.mp4",  # of an earlier version: of which host is not known
        ".DS_Store", "._out.mp4", ".out.tmp.mp4", "out.mp4", ".x.partial", ".model.replaced",
    ]  # fmt: skip
    for name in (*gone, *stay):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / gone[1]).unlink()
    (tmp_path / gone[1] / "vae").mkdir(parents=True)
    write_text(tmp_path / "new.txt", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {*stay, "new.txt"}


def test_leftovers_of_other_hosts_go_after_a_day(tmp_path: Path) -> None:
    path = tmp_path / leftover("model", dead_process(), "partial", host="0123abcd")
    path.mkdir()
    (path / "weights").write_bytes(b"half")
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(path, (two_days_ago, two_days_ago))
    tidy(tmp_path)
    assert path.exists()  # a file in it is new
    os.utime(path / "weights", (two_days_ago, two_days_ago))
    os.utime(path, (two_days_ago, two_days_ago))
    tidy(tmp_path)
    assert not path.exists()


def test_folder_changes_places_in_one_step_where_the_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    target.mkdir()
    if not files._exchange(tmp_path / "model", tmp_path / "model"):
        pytest.skip("this file system cannot exchange two names")

    def never(self: Path, other: Path) -> Path:
        raise AssertionError("model would be missing for a moment")

    monkeypatch.setattr(Path, "rename", never)
    with whole_folder(target) as partial:
        (partial / "new").touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


REPLACE = """
import os, signal, sys
from pathlib import Path
from mmldm import files
files._exchange = lambda first, second: False
real, count = Path.rename, 0
def rename(self, other):
    global count
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
    return real(self, other)
Path.rename = rename
with files.whole_folder(Path(sys.argv[1])) as partial:
    (partial / "new").touch()
"""


@pytest.mark.parametrize("renames", [0, 1])
def test_crash_between_two_renames_loses_no_folder(tmp_path: Path, renames: int) -> None:
    """On disks where two names cannot be exchanged: killed before the first rename, and before the second."""
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()
    environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1])}
    killed = subprocess.run(
        [sys.executable, "-c", REPLACE, str(target), str(renames)], env=environment, check=False
    )
    assert killed.returncode == -9
    tidy(tmp_path)
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


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


def test_weights_are_readable_for_those_whom_the_umask_lets(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.safetensors") as temporary:
        save_file({}, temporary)
    with whole_folder(tmp_path / "model") as partial:
        save_file({}, partial / "a.safetensors")
    (tmp_path / "usual").touch()
    for name in ("a.safetensors", "model/a.safetensors"):
        assert (tmp_path / name).stat().st_mode == (tmp_path / "usual").stat().st_mode
