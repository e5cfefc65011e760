"""Which files of a folder are clips, what they hold, and which of them are held out.

folder -> Manifest (one Entry per media file) <-> JSONL. Every file found is used, used with a note,
or skipped with a reason code; the counts add up. docs/data.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmldm.data.entries import SILENT_SHARE, Entry, Split, Status, content, fingerprint
from mmldm.data.folder import (
    AUDIO_SUFFIXES,
    MEDIA_SUFFIXES,
    Found,
    Listed,
    find_media,
    json_lines,
    read_list,
)
from mmldm.data.measuring import UNNAMED, kept_entry, measure_files, measured_entry, unnamed_entry
from mmldm.data.splits import assign_splits, draw
from mmldm.data.summary import summary_lines
from mmldm.errors import MediaError, UserError
from mmldm.files import write_text
from mmldm.media.clock import TOLERANCE
from mmldm.media.container import Limits
from mmldm.text import is_utf8, printable
from mmldm.types import ClipSpec

__all__ = [
    "SILENT_SHARE", "TOLERANCE", "Manifest", "Entry", "Split", "Status", "assign_splits", "draw", "scan",
]  # fmt: skip

FORMAT, VERSION = "mmldm-manifest", 2
READ = (1, 2)
"""Versions that open: 1 has no hashes, recordings, notes and count of entries."""
PROBED = 5
"""Files that a folder must hold to count as where the clips are."""


class Manifest(BaseModel):
    """A scanned folder of clips.

    Attributes:
        root: The folder, absolute.
        ignored: Files that were not looked at, by cause.
        notes: Sentences on how the folder was read.
        listed: Name of the list in `root` that the files were taken from; None: all of the folder's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    root: Path
    entries: tuple[Entry, ...]
    ignored: dict[str, int] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    listed: str | None = None

    @property
    def classes(self) -> list[str]:
        """Sorted names of the classes that have a usable clip."""
        return sorted({entry.class_name for entry in self.usable if entry.class_name is not None})

    @property
    def usable(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.usable]

    def split(self, name: Split) -> list[Entry]:
        """Usable entries of one split."""
        return [entry for entry in self.usable if entry.split == name]

    @property
    def complete(self) -> Manifest:
        """Without the files that lack sound or picture."""
        return self.model_copy(
            update={"entries": tuple(entry for entry in self.entries if entry.complete)}
        )

    def file(self, entry: Entry) -> Path:
        """Where the entry's file is, to read it; a process reads its content once to see that it is the same.

        Raises:
            MediaError: `changed`: the file has another content than when it was scanned.
        """
        path = self.root / entry.path
        if entry.sha256 is not None and content(path) not in (entry.sha256, None):
            raise MediaError(
                "changed",
                f"{path} has another content than when it was scanned; restore it or scan again",
            )
        return path

    def require_clips(self) -> None:
        """Raises UserError with the commonest reasons if no file is usable."""
        if not self.usable:
            reasons = Counter(entry.reason for entry in self.entries).most_common(3)
            listed = ", ".join(f"{reason} ({count})" for reason, count in reasons)
            raise UserError(
                f"none of the {len(self.entries)} media files in {self.root} can be used: {listed};"
                " see docs/data.md for what these mean"
            )

    def changed(self) -> list[Entry]:
        """Usable entries whose file is gone, or has another content than when scanned.

        Content is compared where size or time of change differ; `file` compares it where they do not.
        """
        return [
            entry
            for entry in self.usable
            if entry.state(self.root / entry.path) in ("changed", "gone")
        ]

    def touched(self) -> Manifest:
        """This manifest with the times of change of today, where a file's content is the scanned one."""
        entries = [
            entry.model_copy(update={"mtime_ns": now[1]})
            if entry.state(path := self.root / entry.path) == "touched"
            and (now := fingerprint(path))
            else entry
            for entry in self.entries
        ]
        return self.model_copy(update={"entries": tuple(entries)})

    def arrivals(self, listing: Sequence[Listed]) -> list[str]:
        """Paths of files that the scan did not know, or could not use and that have changed since."""
        entries = {entry.path: entry for entry in self.entries}
        return [
            listed.path
            for listed in listing
            if listed.named and self._has_arrived(entries.get(listed.path), self.root / listed.path)
        ]

    @staticmethod
    def _has_arrived(entry: Entry | None, path: Path) -> bool:
        if entry is None:
            return True
        return not entry.usable and fingerprint(path) not in ((entry.size, entry.mtime_ns), None)

    def at(self, root: Path) -> Manifest:
        """The same clips in another place."""
        return self.model_copy(update={"root": root.resolve()})

    def summary(self) -> str:
        """A table for a person: counts by class and by reason, hours, and warnings."""
        return "\n".join(summary_lines(self))

    def save(self, path: str | Path) -> Path:
        """Writes JSON lines: a header, then an entry each; the file appears whole or not at all.

        Raises:
            UserError: The file cannot be written.
        """
        header = {
            "format": FORMAT,
            "version": VERSION,
            "root": self.root.as_posix(),
            "rows": len(self.entries),
            "ignored": self.ignored,
            "notes": list(self.notes),
            "listed": self.listed,
        }
        lines = [json.dumps(header, ensure_ascii=False)]
        lines += [entry.model_dump_json(exclude_defaults=True) for entry in self.entries]
        write_text(path, "\n".join(lines) + "\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Manifest:
        """Reads what `save` wrote. A moved data set is found beside the manifest, too.

        Raises:
            UserError: Not a manifest of this version, or a damaged line, named.
        """
        path = Path(path)
        lines = json_lines(path)
        _, header = next(lines, (0, {}))
        if header.get("format") != FORMAT:
            raise UserError(
                f"{path} has no manifest header; a plain list of files must be scanned first"
            )
        if header.get("version") not in READ:
            raise UserError(
                f"{path} is a manifest of version {header.get('version')}, this program reads"
                f" versions up to {VERSION}; scan the folder again"
            )
        entries = []
        for number, value in lines:
            try:
                entries.append(Entry(**value))
            except (ValidationError, TypeError) as error:
                raise UserError(
                    f"{path}, line {number} is not a manifest entry: {error}"
                ) from error
        if header["version"] > 1 and header.get("rows") != len(entries):
            raise UserError(
                f"{path} is cut: it holds {len(entries)} of {header.get('rows')} files; copy it again, or "
                "scan the folder again"
            )
        try:
            root = _find_root(path, Path(header["root"]), entries)
            return cls(
                root=root,
                entries=tuple(entries),
                ignored=header.get("ignored", {}),
                notes=tuple(header.get("notes", ())),
                listed=header.get("listed"),
            )
        except (KeyError, TypeError, ValidationError) as error:
            raise UserError(f"{path}, line 1 is not a manifest header: {error}") from error


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
    source = Path(source)
    root, found, list_name = find_files(
        source, allow_missing, class_pattern, group_pattern, follow_links
    )
    if not found.listing:
        links = f"; {'; '.join(found.notes)}" if found.notes else ""
        raise UserError(
            f"{source} holds no media files; looked for {' '.join(sorted(MEDIA_SUFFIXES))}{links}"
        )
    if not is_utf8(str(root)):
        raise UserError(f"the name of the folder {printable(str(root))} is not UTF-8; rename it")
    before = {} if known is None else {entry.path: entry for entry in known.entries}
    entries: dict[int, Entry] = {}
    todo: list[int] = []
    for index, listed in enumerate(found.listing):
        old = before.get(listed.path)
        entry = unnamed_entry(listed) if not listed.named else None
        if entry is None and old is not None:
            entry = kept_entry(old, listed, root / listed.path)
        if entry is not None:
            entries[index] = entry
        else:
            todo.append(index)
    outcomes = measure_files(
        root,
        [found.listing[index] for index in todo],
        limits or Limits(),
        allow_missing,
        workers,
        unfinished,
    )
    for outcome in outcomes:
        index = todo[outcome.index]
        listed = found.listing[index]
        entry = measured_entry(root, listed, outcome, spec, skip_silent)
        old = before.get(listed.path)
        if old is not None and old.usable and entry.split is None:
            entry = entry.model_copy(update={"split": old.split})
        entries[index] = entry
        if progress is not None:
            progress(len(entries), len(found.listing))
    in_order = assign_splits([entries[index] for index in sorted(entries)], held_out, seed)
    return Manifest(
        root=root,
        entries=tuple(in_order),
        ignored=found.ignored,
        notes=tuple(found.notes),
        listed=list_name,
    )


def find_files(
    source: Path,
    allow_missing: bool = False,
    class_pattern: str | None = None,
    group_pattern: str | None = None,
    follow_links: bool = False,
) -> tuple[Path, Found, str | None]:
    """The root, what lies or is listed there, and the list's name: what `scan` looks at.

    Raises:
        UserError: `source` is missing, or a list that cannot be read.
    """
    if source.is_dir():
        suffixes = MEDIA_SUFFIXES | AUDIO_SUFFIXES if allow_missing else MEDIA_SUFFIXES
        found = find_media(source, class_pattern, suffixes, group_pattern, follow_links)
        return source.resolve(), found, None
    if not source.is_file():
        raise UserError(f"{source} does not exist; give a folder of video clips")
    if is_manifest(source):
        manifest = Manifest.load(source)
        listing = [
            Listed(entry.path, entry.class_name, entry.group, entry.split, entry.reason != UNNAMED)
            for entry in manifest.entries
        ]
        return (
            manifest.root,
            Found(listing, manifest.ignored, list(manifest.notes)),
            manifest.listed,
        )
    return source.parent.resolve(), read_list(source), source.name


def is_manifest(path: Path) -> bool:
    """Whether a JSONL file begins with a manifest's header.

    Raises:
        UserError: It cannot be read, or its first line is not a JSON object.
    """
    return "format" in next(json_lines(path), (0, {}))[1]


def _find_root(manifest: Path, root: Path, entries: list[Entry]) -> Path:
    """The folder itself, or where its clips are beside the manifest; absolute.

    A relative root is one of an earlier version, which wrote it down as it was typed.
    """
    if root.is_absolute() and root.is_dir():
        return root.resolve()
    usable = [entry for entry in entries if entry.usable]
    probed = usable[:: max(1, len(usable) // PROBED)]

    def holds(folder: Path) -> bool:
        found = (fingerprint(folder / entry.path) for entry in probed)
        return all(
            now is not None and now[0] == entry.size
            for now, entry in zip(found, probed, strict=True)
        )

    places = (root, manifest.parent / root, manifest.parent / root.name, manifest.parent)
    return next((place for place in places if place.is_dir() and holds(place)), root).absolute()
