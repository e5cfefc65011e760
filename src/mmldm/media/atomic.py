"""Whole files or none: every output is written under a temporary name and then renamed.

path -> temporary path in the same folder, renamed to path when the block ends well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av

from mmldm.errors import UserError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
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
        temporary.replace(path)
    except (OSError, av.FFmpegError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot write {path}: {cause}; check that the folder is writable and has space"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
