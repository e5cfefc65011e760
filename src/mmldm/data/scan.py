"""Scans a data set: decodes every file in a worker, and says of each whether and how it is used.

folder, list or manifest -> files -> an Outcome each -> Entry each -> Manifest with splits. Every file is
used, used with a note, or skipped with a reason code; the counts add up. docs/data.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmldm.data.folder import MEDIA_SUFFIXES, UNNAMED, Listed, find_files
from mmldm.data.manifest import SILENT_SHARE, Entry, Manifest, Status, content, fingerprint
from mmldm.data.splits import COPY, assign_splits
from mmldm.errors import UserError
from mmldm.media.clock import TOLERANCE
from mmldm.media.container import Limits
from mmldm.media.isolated import Outcome, run_isolated
from mmldm.media.probe import probe_apart
from mmldm.text import is_utf8, printable
from mmldm.types import ClipSpec

PASSING = ("timeout", "crashed")
"""Reasons that a busy machine may have caused: such a file is tried again."""


def scan(
    source: str | Path,
    spec: ClipSpec,
    *,
    workers: int = 2,
    limits: Limits | None = None,
    skip_silent: bool = False,
    allow_missing: bool = False,
    held_out: float = 0.1,
    seed: int = 0,
    class_pattern: str | None = None,
    group_pattern: str | None = None,
    follow_links: bool = False,
    known: Manifest | None = None,
    unfinished: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    further: frozenset[str] = frozenset(),
) -> Manifest:
    """Decodes every media file of a folder, each in a worker that may hang or die.

    Args:
        source: A folder (`root/*.mp4`, `root/<class>/*.mp4`, any depth, perhaps below `train`, `val` and
            `test`), a JSONL list of files with `path` (relative to the list) and optionally
            `class_name`, `group` and `split`, or a manifest, whose splits stand.
        workers: Processes decoding at once.
        limits: What one file may cost.
        skip_silent: Skip files whose sound is digital silence.
        allow_missing: Keep files without sound or without picture, audio files among them, for
            training; they are never held out.
        held_out: Share of the clips kept from training, where the source does not say which.
        seed: Of the split. A file keeps its split when others come or go.
        class_pattern: Where a folder's classes are in its file names, see `find_media`.
        group_pattern: The same for recordings, whose files stay on one side of the split.
        follow_links: Whether links out of the folder are followed.
        known: An earlier scan with the same settings: files that are as they were then are not decoded
            again, and all keep their split.
        unfinished: Where results are kept until the scan is whole, and found again after an
            interruption. None: nowhere.
        progress: Called with (files done, files in all).

    Raises:
        UserError: `source` is missing, or holds no media files.
    """
    # What there is to look at.
    source = Path(source)
    found = find_files(source, allow_missing, class_pattern, group_pattern, follow_links, further)
    root, listing = found.root, found.listing
    if not listing:
        links = f"; {'; '.join(found.notes)}" if found.notes else ""
        raise UserError(
            f"{source} holds no media files; looked for {' '.join(sorted(MEDIA_SUFFIXES))}{links}"
        )
    if not is_utf8(str(root)):
        raise UserError(f"the name of the folder {printable(str(root))} is not UTF-8; rename it")

    # What is known of it without decoding: files that are as they were, and names that nobody can write.
    before = {} if known is None else {entry.path: entry for entry in known.entries}
    entries: dict[int, Entry] = {}
    for index, listed in enumerate(listing):
        entry = _known_entry(root, listed, before.get(listed.path))
        if entry is not None:
            entries[index] = entry

    # The rest is decoded, in workers, and comes back in any order. A file keeps its side of the split.
    todo = [index for index in range(len(listing)) if index not in entries]
    files = [listing[index] for index in todo]
    for outcome in measure_files(
        root, files, limits or Limits(), allow_missing, workers, unfinished
    ):
        listed = files[outcome.index]
        old = before.get(listed.path)
        if old is not None and old.usable and listed.split is None:
            listed = replace(listed, split=old.split)
        entries[todo[outcome.index]] = _measured_entry(root, listed, outcome, spec, skip_silent)
        if progress is not None:
            progress(len(entries), len(listing))

    in_order = assign_splits([entries[index] for index in sorted(entries)], held_out, seed)
    return Manifest(
        root=root,
        entries=tuple(in_order),
        ignored=found.ignored,
        notes=tuple(found.notes),
        list_name=found.list_name,
    )


def measure_files(
    root: Path,
    listing: Sequence[Listed],
    limits: Limits,
    allow_missing: bool,
    workers: int,
    unfinished: Path | None = None,
) -> Generator[Outcome]:
    """What `probe` finds in each file, as they finish; `Outcome.index` is its place in `listing`.

    Interrupted, the next call goes on where it was.

    Args:
        unfinished: A file that outcomes are kept in until all are there, and taken from. None: nowhere.
    """
    # Outcomes of other limits or of another decoder are not taken over.
    settings = {
        "format": "mmldm-unfinished-scan",
        "limits": limits.model_dump(),
        "allow_missing": allow_missing,
        "versions": [version(name) for name in ("mmldm", "av")],
    }

    # What an earlier scan has found comes first, the rest as workers finish.
    kept = _Kept(unfinished, root, settings)
    todo = []
    for index, listed in enumerate(listing):
        outcome = kept.outcome(listed.path)
        if outcome is None:
            todo.append(index)
        else:
            yield replace(outcome, index=index)
    calls = [(str(root / listing[i].path), limits.model_dump(), allow_missing) for i in todo]
    for outcome in run_isolated(probe_apart, calls, workers=workers, seconds=limits.seconds):
        outcome = replace(outcome, index=todo[outcome.index])
        kept.add(listing[outcome.index].path, outcome)
        yield outcome
    kept.remove()


def _known_entry(root: Path, listed: Listed, old: Entry | None) -> Entry | None:
    """The entry of a file that needs no measuring; None for one that does."""
    if not listed.named:
        note = f"the name {listed.path} is not UTF-8; rename the file or folder"
        return Entry(
            path=listed.path, status="skipped", reason=UNNAMED, note=note, size=0, mtime_ns=0
        )
    if old is None or old.reason in (*PASSING, COPY, UNNAMED):
        return None
    path = root / listed.path
    if old.state(path) not in ("same", "touched"):
        return None
    changes: dict[str, Any] = {
        "class_name": listed.class_name,
        "group": listed.group,
        "split": listed.split or old.split,
        "mtime_ns": (fingerprint(path) or (0, 0))[1],
        "sha256": old.sha256 or (content(path) if old.usable else None),
    }
    return old.model_copy(update=changes)


def _measured_entry(
    root: Path, listed: Listed, outcome: Outcome, spec: ClipSpec, skip_silent: bool
) -> Entry:
    """The entry of what was found in a file, with what is wanted of a clip."""
    size, mtime_ns = fingerprint(root / listed.path) or (0, 0)
    common: dict[str, Any] = asdict(listed) | {"size": size, "mtime_ns": mtime_ns}
    del common["named"]
    if outcome.reason is not None:
        message = outcome.message.replace(printable(f"{root}{os.sep}"), "")
        return Entry(**common, status="skipped", reason=outcome.reason, note=message)

    # A usable entry is at least one clip long; it may be shorter by what readers tolerate.
    info = dict(outcome.value)
    note = "; ".join(info.pop("notes")) or None
    del info["path"], info["num_frames"]
    info |= {name: info[f"{name[4:]}_codec"] is not None for name in ("has_audio", "has_video")}
    reason: str | None = None
    is_short = info["duration"] < spec.duration - TOLERANCE
    if is_short and not info["has_video"] and not info["decode_errors"]:
        # A sound ends in silence anyway; a picture would have to stand still.
        said = f"{info['duration']:.2f} s of sound, continued with silence"
        note, is_short = "; ".join(filter(None, [note, said])), False
    if is_short:
        reason = "corrupt" if info["decode_errors"] else "too_short"
        note = f"{info['duration']:.2f} s can be used, a clip needs {spec.duration:g} s"
    elif skip_silent and (info["silent_share"] or 0) >= SILENT_SHARE:
        reason = "silent"
    else:
        info["duration"] = max(info["duration"], spec.duration)
    status: Status = "skipped" if reason else "used_with_note" if note else "used"
    return Entry(**common, **info, status=status, reason=reason, note=note)


class _Kept:
    """What is kept of an unfinished scan: outcomes as JSON lines, written as they come.

    Lines that a crash has torn are passed over. An outcome belongs to a path, a size and a time of change: a
    file that changes is measured anew.
    """

    def __init__(self, path: Path | None, root: Path, settings: dict[str, Any]) -> None:
        self._path, self._root, self._settings = path, root, settings
        self._begun = False
        self._made: list[Path] = []
        self._known = {} if path is None else dict(self._read(path))

    def _read(self, path: Path) -> Iterator[tuple[tuple[str, int, int], Outcome]]:
        """Outcomes that were found with the same settings, by path, size and time of change."""
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

    def outcome(self, path: str) -> Outcome | None:
        """What an earlier scan has found in a file that is still the same."""
        now = fingerprint(self._root / path)
        return None if now is None else self._known.get((path, *now))

    def add(self, path: str, outcome: Outcome) -> None:
        """Keeps an outcome. A disk that takes no more costs the keeping, not the scan."""
        now = fingerprint(self._root / path)
        if self._path is None or now is None or outcome.reason in PASSING:
            return
        line = {"path": path, "size": now[0], "mtime_ns": now[1], "outcome": asdict(outcome)}
        with suppress(OSError):
            if not self._begun:
                self._begin(self._path)
            _append(self._path, json.dumps(line) + "\n")

    def _begin(self, path: Path) -> None:
        """Makes the file, and the folders above it; what an earlier scan has kept stays."""
        above = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._made = above
        if self._known:
            _append(path, "\n")  # A crash may have torn the last line.
        else:
            path.write_text(json.dumps(self._settings) + "\n", encoding="utf-8")
        self._begun = True

    def remove(self) -> None:
        """Leaves nothing: neither the file nor the folders that were made for it."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
                for folder in self._made:
                    folder.rmdir()


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _value(line: str) -> Any:
    """What a line of JSON says; None where it is torn."""
    try:
        return json.loads(line)
    except ValueError:
        return None
