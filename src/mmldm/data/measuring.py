"""Decodes files in workers, keeps what they found until the scan is whole, and makes entries of it.

root, listing -> an Outcome each, as they finish; interrupted, the next call goes on where it was
Outcome, ClipSpec -> Entry
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from mmldm.data.entries import SILENT_SHARE, Entry, Status, content, fingerprint
from mmldm.data.folder import Listed
from mmldm.data.splits import COPY
from mmldm.media.clock import TOLERANCE
from mmldm.media.container import Limits
from mmldm.media.isolated import Outcome, run_isolated
from mmldm.media.probe import measure
from mmldm.text import printable
from mmldm.types import ClipSpec

PASSING = ("timeout", "crashed")
"""Reasons that a busy machine may have caused: such a file is tried again."""
UNNAMED = "unreadable_name"


def measure_files(
    root: Path,
    listing: Sequence[Listed],
    limits: Limits,
    allow_missing: bool,
    workers: int,
    unfinished: Path | None = None,
) -> Iterator[Outcome]:
    """What `measure` finds in each file; `Outcome.index` is its place in `listing`.

    Args:
        unfinished: A file that outcomes are kept in until all are there, and taken from. None: nowhere.
    """
    settings = {
        "format": "mmldm-unfinished-scan",
        "limits": limits.model_dump(),
        "allow_missing": allow_missing,
        "versions": [version(name) for name in ("mmldm", "av")],
    }
    kept = _Kept(unfinished, settings)
    known = [kept.outcome(listed.path, fingerprint(root / listed.path)) for listed in listing]
    for index, outcome in enumerate(known):
        if outcome is not None:
            yield replace(outcome, index=index)
    todo = [index for index, outcome in enumerate(known) if outcome is None]
    calls = [(str(root / listing[i].path), limits.model_dump(), allow_missing) for i in todo]
    with kept:
        for outcome in run_isolated(measure, calls, workers=workers, seconds=limits.seconds):
            found = replace(outcome, index=todo[outcome.index])
            path = listing[found.index].path
            kept.add(path, fingerprint(root / path), found)
            yield found
    kept.remove()


def unnamed_entry(listed: Listed) -> Entry:
    """The entry of a file whose name cannot be written down."""
    note = f"the name {listed.path} is not UTF-8; rename the file or folder"
    return Entry(path=listed.path, status="skipped", reason=UNNAMED, note=note, size=0, mtime_ns=0)


def kept_entry(old: Entry, listed: Listed, path: Path) -> Entry | None:
    """The entry of a file that is as it was; None if it must be measured."""
    if old.reason in (*PASSING, COPY, UNNAMED) or old.state(path) not in ("same", "touched"):
        return None
    now = fingerprint(path) or (0, 0)
    changes: dict[str, Any] = {
        "class_name": listed.class_name,
        "group": listed.group,
        "split": listed.split or old.split,
        "mtime_ns": now[1],
        "sha256": old.sha256 or (content(path) if old.usable else None),
    }
    return old.model_copy(update=changes)


def measured_entry(
    root: Path, listed: Listed, outcome: Outcome, spec: ClipSpec, skip_silent: bool
) -> Entry:
    """The entry of what was found in a file, with what is wanted of a clip."""
    size, mtime_ns = fingerprint(root / listed.path) or (0, 0)
    common: dict[str, Any] = {
        "path": listed.path,
        "class_name": listed.class_name,
        "group": listed.group,
        "split": listed.split,
        "size": size,
        "mtime_ns": mtime_ns,
    }
    if outcome.reason is not None:
        message = outcome.message.replace(printable(f"{root}{os.sep}"), "")
        return Entry(**common, status="skipped", reason=outcome.reason, note=message)
    info = dict(outcome.value)
    note = "; ".join(info.pop("notes")) or None
    del info["path"], info["num_frames"]
    info |= {name: info[f"{name[4:]}_codec"] is not None for name in ("has_audio", "has_video")}
    reason: str | None = None
    if info["duration"] < spec.duration - TOLERANCE:
        reason = "corrupt" if info["decode_errors"] else "too_short"
        note = f"{info['duration']:.2f} s can be used, a clip needs {spec.duration:g} s"
    elif skip_silent and (info["silent_share"] or 0) >= SILENT_SHARE:
        reason = "silent"
    else:
        info["duration"] = max(info["duration"], spec.duration)
    status: Status = "skipped" if reason else "used_with_note" if note else "used"
    return Entry(**common, **info, status=status, reason=reason, note=note)


class _Kept:
    """Outcomes as JSON lines, written as they come; lines that a crash has torn are passed over."""

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self._path, self._settings = path, settings
        self._file: IO[str] | None = None
        self._made: list[Path] = []
        self._known = {} if path is None else dict(self._read(path))
        self._append = bool(self._known)

    def _read(self, path: Path) -> Iterator[tuple[tuple[str, int, int], Outcome]]:
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return
        values = [_value(line) for line in lines]
        if values[0] != self._settings:
            return
        for value in values[1:]:
            with suppress(KeyError, TypeError):
                key = (str(value["path"]), int(value["size"]), int(value["mtime_ns"]))
                yield key, Outcome(**value["outcome"])

    def outcome(self, path: str, now: tuple[int, int] | None) -> Outcome | None:
        return None if now is None else self._known.get((path, *now))

    def __enter__(self) -> _Kept:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def add(self, path: str, now: tuple[int, int] | None, outcome: Outcome) -> None:
        """Keeps an outcome. A disk that takes no more costs the keeping, not the scan."""
        if self._path is None or now is None or outcome.reason in PASSING:
            return
        entry = {"path": path, "size": now[0], "mtime_ns": now[1], "outcome": asdict(outcome)}
        with suppress(OSError):
            if self._file is None:
                self._open(self._path)
            assert self._file is not None
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()

    def _open(self, path: Path) -> None:
        above = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._made = above
        self._file = path.open("a" if self._append else "w", encoding="utf-8")
        # After a torn line, a new one.
        self._file.write("\n" if self._append else json.dumps(self._settings) + "\n")

    def remove(self) -> None:
        """Leaves nothing: neither the file nor the folders that were made for it."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
                for folder in self._made:
                    folder.rmdir()


def _value(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
