"""Whole files and folders or none, and on the disk when we say that they are written.

path -> a temporary path beside it; synced and renamed to `path` when the block ends well, and the folder
synced after that. What a power cut leaves is the old file or the new one, never half of either.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

from safetensors import SafetensorError

from mmldm.errors import UserError

Result = TypeVar("Result")
Others = TypeVarTuple("Others")

_LEFTOVER = re.compile(
    r"\.(?P<name>.+)\.(?:(?P<host>[0-9a-f]{8})-)?(?P<process>[0-9]+)"
    r"\.(?P<kind>tmp|partial|replaced)(?:\.[^.]*)?",
    re.DOTALL,
)
_REMEMBERED = 1 << 17
"""Files of which `once_per_file` remembers what was found, for each function."""
_A_DAY = 24 * 3600.0
_UMASK = os.umask(0o077)
os.umask(_UMASK)
_NO_SYNC_OF_FOLDERS = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM}
"""What file systems say that cannot sync a folder, and folders that may be written but not read."""


@contextmanager
def whole_file(path: str | Path, durable: bool = True) -> Iterator[Path]:
    """Yields a temporary path beside `path`, with its suffix; renames it when the block ends.

    If the block fails, the temporary file is removed and whatever stood at `path` is untouched.
    Missing parent folders are made. What dead processes left half-written beside it is removed.

    Args:
        durable: Whether the file is on the disk when the block has ended. False is for files that are
            many, can be made again and carry a checksum: a power cut may leave zeros in them.

    Raises:
        UserError: The folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{_short(path.stem)}.{_owner()}.tmp{path.suffix}")
    try:
        with _refusals(path):
            make_folder(path.parent)
            _tidy_once(path.parent.absolute())
            yield temporary
            _share(temporary)
            if durable:
                sync(temporary)
            temporary.replace(path)
            if durable:
                sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Gives a folder to fill, which takes the place of `target` only if nothing goes wrong.

    Where the system can, the two change places in one step. Where it cannot, a crash between two
    renames leaves the old folder under another name, and `tidy` puts it back.

    Raises:
        UserError: The folder cannot be written, the disk is full, or `target` is a file.
    """
    # Filled beside its place, put on the disk, and only then given its name.
    partial = target.with_name(f".{_short(target.name)}.{_owner()}.partial")
    try:
        with _refusals(target):
            if os.path.lexists(target) and not target.is_dir():
                raise UserError(f"{target} is a file where a folder belongs: move it away")
            make_folder(target.parent)
            tidy(target.parent)
            partial.mkdir()
            yield partial
            _sync_tree(partial)
            if not (os.path.lexists(target) and _exchange(partial, target)):
                _take_place(partial, target)
            sync(target.parent)
            # What earlier versions left, under names without an owner.
            for ending in ("partial", "replaced"):
                _remove(target.with_name(f".{target.name}.{ending}"))
    finally:
        _remove(partial)


def tidy(folder: Path) -> None:
    """Removes what dead processes left half-written in a folder; nothing in it was ever whole.

    A whole folder that was about to be replaced is put back if its successor did not take its place.
    What belongs to a living process of this host stays, what belongs to another host stays for a day.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return
    for path in paths:
        found = _LEFTOVER.fullmatch(path.name)
        if found is None or not _is_abandoned(path, found):
            continue

        # An old folder whose successor never took its place is the only whole one there is.
        target = path.with_name(found["name"])
        if found["kind"] == "replaced" and not os.path.lexists(target):
            with suppress(OSError):
                path.rename(target)
        else:
            _remove(path)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it; their names are on the disk when it returns.

    Raises:
        OSError: A file is in the way, or the folder above may not be written to.
    """
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text; the file appears whole or not at all.

    Raises:
        UserError: As `whole_file`.
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, indent: int | None = 1) -> None:
    """Writes a JSON file; it appears whole or not at all.

    Raises:
        UserError: As `whole_file`.
    """
    write_text(path, json.dumps(value, indent=indent) + "\n")


def sha256_of(path: Path) -> str:
    """Of a file's content, in hex.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def once_per_file(look: Callable[[Path, *Others], Result]) -> Callable[[Path, *Others], Result]:
    """Remembers in this process what `look(path, ...)` found in a file, until the file changes."""

    @lru_cache(maxsize=_REMEMBERED)
    def remembered(state: tuple[int, ...], path: Path, *others: Any) -> Result:
        return look(path, *others)

    @wraps(look)
    def found(path: Path, *others: *Others) -> Result:
        return remembered(_state(path), path, *others)

    return found


def _state(path: Path) -> tuple[int, ...]:
    """What changes when a file does, or when another one takes its place; () where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def sync(path: Path) -> None:
    """Returns when a file, or the names in a folder, are on the disk.

    Raises:
        OSError: The file could not be written. Folders that cannot be synced are passed over.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in _NO_SYNC_OF_FOLDERS):
            raise


def _sync_tree(folder: Path) -> None:
    """Returns when all files of a folder are on the disk, and all that may read them may."""
    for place, _, names in os.walk(folder):
        for name in names:
            _share(Path(place, name))
            sync(Path(place, name))
        sync(Path(place))


def _share(path: Path) -> None:
    """Lets those read a file whom the umask lets: safetensors writes for its owner alone."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode != (wanted := mode | (0o666 & ~_UMASK)):
        path.chmod(wanted)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Refusals of the disk as a sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot write {path}: {cause}; check that the folder is writable and has space"
        ) from error


def _take_place(new: Path, old: Path) -> None:
    """Puts a folder where another one may be, in two steps, and removes that one."""
    aside = old.with_name(f".{old.name}.{_owner()}.replaced")
    if os.path.lexists(old):
        old.rename(aside)
    new.rename(old)
    sync(old.parent)
    _remove(aside)


def _exchange(first: Path, second: Path) -> bool:
    """Whether two names have changed places, in one step; some systems and network disks cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    # AT_FDCWD and RENAME_EXCHANGE of Linux; Python has no function for it.
    here, exchange = -100, 2
    paths = [ctypes.c_char_p(os.fsencode(path)) for path in (first, second)]
    return rename is not None and rename(here, paths[0], here, paths[1], exchange) == 0


@cache
def _host() -> str:
    """This host and its space of process numbers, in eight digits: elsewhere a number means another
    process."""
    # Hosts may share a name, and containers of one host count their processes apart.
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    with suppress(OSError):
        parts.append(Path("/etc/machine-id").read_text(encoding="ascii", errors="replace"))
    return hashlib.sha256("\n".join(parts).encode(errors="replace")).hexdigest()[:8]


def _owner() -> str:
    return f"{_host()}-{os.getpid()}"


def _short(name: str) -> str:
    """At most 80 bytes of a name, of the 255 that a file's name may have."""
    return os.fsencode(name)[:80].decode(errors="ignore")


@cache
def _tidy_once(folder: Path) -> None:
    """Once a process: a folder may hold many thousand files."""
    tidy(folder)


def _is_abandoned(path: Path, found: re.Match[str]) -> bool:
    """Whether nobody is at work on it any more."""
    # Only this host can say whether a process of it lives; elsewhere a day without a change must do.
    if found["host"] == _host() and not _is_alive(int(found["process"])):
        return True
    try:
        newest = max(file.lstat().st_mtime for file in (path, *path.rglob("*")))
    except OSError:
        return False
    return time.time() - newest > _A_DAY


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def is_blank(content: bytes) -> bool:
    """Whether a file of text holds nothing, or what a power cut leaves in place of it: zeros."""
    return not content.strip(b"\0 \r\n")
