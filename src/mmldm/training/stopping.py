"""How a run is held by one process, and how it leaves early and knows of it later.

folder -> folder/run.lock, which names the holder for whoever is refused.
(SIGINT | SIGTERM | max_minutes) -> a reason, the same on every process, asked for between steps.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import torch

from mmldm.errors import UserError
from mmldm.files import make_folder, tidy, write_json
from mmldm.training.distributed import Process
from mmldm.types import Say

try:
    import fcntl
except ImportError:  # Windows: the command line refuses it, and sampling needs no lock.
    fcntl = None  # type: ignore[assignment]

LOCK = "run.lock"
REASONS = (None, "max_minutes", "SIGTERM", "SIGINT")
SIGNALS = ("SIGTERM", "SIGINT")
"""The reasons after which nothing is exported, and no further job begins."""
AGREE_EVERY = 10
"""Steps between the points at which several processes agree whether to leave."""
OUT_OF_TIME = "out_of_time.json"
"""Written when `max_minutes` ends a job: the step and the budget it had."""


@contextmanager
def run_lock(folder: Path, note: Say) -> Iterator[None]:
    """Holds a run folder for this process, and removes what dead ones left half-written in it.

    A record lock, which the kernel drops with the process however it dies, and which workers that
    outlive it for a moment do not inherit. What the file holds is for reading only: it may be torn.

    Raises:
        UserError: Another process holds the folder, or it is on a disk that cannot lock files.
    """
    if fcntl is None:
        raise UserError("a run folder cannot be locked on this system: train on Linux or macOS")
    make_folder(folder)
    with (folder / LOCK).open("a+b") as file:
        # Who holds it is read before we try, for the sentence that refuses us.
        file.seek(0)
        text = file.read(1000).decode(errors="ignore")
        holder = "".join(letter for letter in text if letter.isprintable()).strip()
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise UserError(
                    f"{folder / LOCK} cannot be locked ({error.strerror}): choose a run folder on "
                    "another disk"
                ) from error
            raise UserError(
                f"{folder}: already in use by {holder or 'another process'}; "
                "wait for it, stop it, or choose another folder"
            ) from None
        # The lock is ours. A name in the file is of a process that died without taking it out.
        if holder:
            note(f"recovered the lock left by {holder}")
        tidy(folder)
        _replace_text(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n")
        try:
            yield
        finally:
            _replace_text(file.fileno(), "")


def _replace_text(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


class Stop:
    """Collects reasons to leave.

    Args:
        max_minutes: Time limit from now; None: none.
        process: Asks the others, where there are any: a signal may reach one process first.
    """

    def __init__(self, max_minutes: float | None, process: Process) -> None:
        self._deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._process = process
        self.signal: str | None = None

    def reason(self, step: int) -> str | None:
        """Why to leave after `step`, or None; a collective call."""
        reason = self.signal
        if reason is None and self._deadline is not None and time.monotonic() > self._deadline:
            reason = "max_minutes"
        if self._process.world == 1:
            return reason
        # All have to leave after the same step, or the others would wait for the one that has left.
        if step % AGREE_EVERY:
            return None
        # The gravest of all reasons is everyone's.
        number = torch.tensor(REASONS.index(reason), device=self._process.device)
        return REASONS[int(self._process.maximum(number).item())]


@contextmanager
def stop_signals(max_minutes: float | None, process: Process) -> Iterator[Stop]:
    """Inside, a first SIGINT or SIGTERM is a reason to leave; a second has its usual effect."""
    stop = Stop(max_minutes, process)
    # Python lets the main thread alone handle signals.
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.signal = signal.Signals(number).name
        restore()

    for number in previous:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        restore()


def reason_to_leave(
    stop: Stop, folder: Path, step: int, max_minutes: float | None, note: Callable[..., None]
) -> str | None:
    """Why to leave a job after `step`, said; None: there is no reason. A collective call.

    Args:
        folder: Of the job, whose mark tells that the same `max_minutes` were used up by an earlier start.
        note: Called with a sentence, and with `once` where it may come again.
    """
    used_up = was_out_of_time(folder, step, max_minutes, partial(note, once=True))
    reason = "max_minutes" if used_up else stop.reason(step)
    if reason == "max_minutes":
        note(f"max_minutes are over after step {step}; a larger budget goes on")
    elif reason is not None:
        note(f"stopped by {reason} after step {step}; the same command resumes")
    return reason


def mark_out_of_time(folder: Path, step: int, minutes: float | None) -> None:
    """Records that a budget was used up after `step`."""
    write_json(folder / OUT_OF_TIME, [step, minutes])


def was_out_of_time(folder: Path, step: int, minutes: float | None, note: Say) -> bool:
    """Whether an earlier start of a job has used up the same budget after `step`.

    Args:
        note: Called with a sentence if the record cannot be read.
    """
    path = folder / OUT_OF_TIME
    try:
        return bool(json.loads(path.read_bytes()) == [step, minutes])
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        note(f"{path} cannot be read ({error}): training goes on as if time were left")
        return False
