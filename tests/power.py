"""What a power cut would take: files and names that were changed and not synced after that."""

import os
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

State = tuple[int, int, int]


class Disk:
    """Watches this process's fsync and rename calls; a context manager.

    Nothing is replaced: the calls are made, and what they were made on is remembered.

    Attributes:
        renamed_before_sync: Files that got their name before their content was on the disk.
    """

    def __init__(self) -> None:
        self.renamed_before_sync: list[str] = []
        self._synced: set[State] = set()
        self._names: dict[int, set[tuple[str, int]]] = {}
        self._calls = {name: getattr(os, name) for name in ("fsync", "rename", "replace")}

    def __enter__(self) -> "Disk":
        patched: Any = os
        patched.fsync = self._fsync
        patched.rename = partial(self._rename, "rename")
        patched.replace = partial(self._rename, "replace")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name, call in self._calls.items():
            setattr(os, name, call)

    def unsynced(self, root: Path) -> list[str]:
        """Files below `root` that changed after their last sync, and names newer than their folder's."""
        paths = [path for path in sorted(root.rglob("*")) if not path.is_symlink()]
        return [
            path.relative_to(root).as_posix()
            for path in paths
            if (path.name, path.stat().st_ino) not in self._names.get(path.parent.stat().st_ino, ())
            or not (path.is_dir() or _state(path.stat()) in self._synced)
        ]

    def _fsync(self, descriptor: int) -> None:
        self._calls["fsync"](descriptor)
        status = os.fstat(descriptor)
        self._synced.add(_state(status))
        if (place := Path(f"/proc/self/fd/{descriptor}")).is_dir():
            entries = {(entry.name, entry.inode()) for entry in os.scandir(place)}
            self._names[status.st_ino] = entries

    def _rename(self, name: str, source: str | Path, target: str | Path) -> None:
        path = Path(source).absolute()
        lost = self.unsynced(path) if path.is_dir() else []
        if path.is_file() and _state(path.stat()) not in self._synced:
            lost = ["content"]
        self.renamed_before_sync += [f"{target}: {each}" for each in lost]
        self._calls[name](source, target)


def _state(status: os.stat_result) -> State:
    """Changes with every write."""
    return status.st_ino, status.st_mtime_ns, status.st_size
