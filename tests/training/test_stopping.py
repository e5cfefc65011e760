"""One process holds a run folder, whatever a dead one left in it; it leaves between steps, once asked."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmldm.errors import UserError
from mmldm.training.distributed import Process
from mmldm.training.stopping import LOCK, run_lock, stop_signals


@pytest.fixture
def notes() -> list[str]:
    return []


HOLD = """
import sys
from pathlib import Path
from mmldm.training.stopping import run_lock
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


@pytest.mark.parametrize(
    ("torn", "heard"),
    [
        (b"", []),
        (b"\0" * 4096, []),
        (b"\xff\xfe\n", []),
        (b"process 12 on h\0\0\xff", ["recovered the lock left by process 12 on h"]),
    ],
)
def test_torn_lock_file_holds_nobody_up(
    torn: bytes, heard: list[str], tmp_path: Path, notes: list[str]
) -> None:
    (tmp_path / LOCK).write_bytes(torn)
    with run_lock(tmp_path, notes.append):
        pass
    assert notes == heard


def test_disk_without_locks_is_not_called_a_second_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes: list[str]
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with (
        pytest.raises(UserError, match=r"cannot be locked \(No locks available\): choose"),
        run_lock(tmp_path, notes.append),
    ):
        pass


def test_folder_that_a_crash_left_under_another_name_is_back(
    tmp_path: Path, notes: list[str]
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    from mmldm import files

    aside = tmp_path / f".export.{files._host()}-{dead.pid}.replaced"
    aside.mkdir()
    (aside / "weights").touch()
    with run_lock(tmp_path, notes.append):
        assert (tmp_path / "export" / "weights").is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_is_a_reason_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_signals(None, Process()) as stop:
        assert stop.reason(1) is None
        os.kill(os.getpid(), number)
        assert stop.reason(2) == number.name
    assert signal.getsignal(number) is before


def test_second_interrupt_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), stop_signals(None, Process()):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal was swallowed")


def test_time_limit_is_a_reason_and_a_signal_outranks_it() -> None:
    with stop_signals(0.0, Process()) as stop:
        assert stop.reason(1) == "max_minutes"
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason(2) == "SIGTERM"
