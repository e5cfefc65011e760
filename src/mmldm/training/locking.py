"""A lock on a run folder: one process writes in it.

folder -> folder/run.lock, which names the holder for whoever is refused.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmldm.errors import UserError
from mmldm.files import make_folder, tidy

try:
    import fcntl
except ImportError:  # Windows: the command line refuses it, and sampling needs no lock.
    fcntl = None  # type: ignore[assignment]

LOCK = "run.lock"


@contextmanager
def run_lock(folder: Path, note: Callable[[str], None]) -> Iterator[None]:
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
        file.seek(0)
        holder = _readable(file.read(1000))
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
        if holder:
            note(f"recovered the lock left by {holder}")
        tidy(folder)
        _replace_text(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n")
        try:
            yield
        finally:
            _replace_text(file.fileno(), "")


def _readable(content: bytes) -> str:
    text = content.decode(errors="ignore")
    return "".join(letter for letter in text if letter.isprintable()).strip()


def _replace_text(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
