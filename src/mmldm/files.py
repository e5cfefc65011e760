"""Whole files and folders or none, and on the disk when we say that they are written.

path -> a temporary path beside it; synced and renamed to `path` when the block ends well, and the folder
synced after that. What a power cut leaves is the old file or the new one, never half of either.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmldm.errors import UserError


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, with its suffix; renames it when the block ends.

    If the block fails, the temporary file is removed and whatever stood at `path` is untouched.
    Missing parent folders are made.

    Raises:
        UserError: The folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem[:80]}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        cause = error.strerror or str(error)
        raise UserError(
            f"cannot write {path}: {cause}; check that the folder is writable and has space"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Gives a folder to fill, which takes the place of `target` only if nothing goes wrong."""
    partial = target.with_name(f".{target.name}.partial")
    replaced = target.with_name(f".{target.name}.replaced")
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    for path in partial.rglob("*"):
        sync(path)
    sync(partial)
    if target.exists():
        target.rename(replaced)
    partial.rename(target)
    sync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


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


def sync(path: Path) -> None:
    """Returns when a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
