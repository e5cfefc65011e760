"""What a scan found: one entry for each media file, and when it still is the same file.

Manifest (one Entry per media file: used, used with a note, or skipped with a reason code) <-> JSON lines;
Entry, file -> same, touched, changed or gone. docs/data.md.
"""

from __future__ import annotations

import json
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmldm.errors import MediaError, UserError, first_line
from mmldm.files import once_per_file, sha256_of, write_text
from mmldm.strict import explained

if TYPE_CHECKING:
    from mmldm.data.folder import Listed

FORMAT, VERSION = "mmldm-manifest", 2
READ = (1, 2)
"""Versions that open: 1 has no hashes, recordings, notes and count of entries."""
PROBED = 5
"""Files that a folder must hold to count as where the clips are."""
SILENT_SHARE = 0.99
"""From this share of silence on, a sound is digital silence."""

Split = Literal["train", "held_out"]
Status = Literal["used", "used_with_note", "skipped"]
State = Literal["same", "touched", "changed", "gone"]


class Entry(BaseModel):
    """One media file. Measured fields are None where the file could not be measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    path: str
    """Relative to the manifest's root, with forward slashes."""
    status: Status
    reason: str | None = None
    """Why it is skipped: a code of docs/data.md."""
    note: str | None = None
    class_name: str | None = None
    group: str | None = None
    """The recording that it is a part of; all parts stand on one side of the split."""
    split: Split | None = None
    duration: float | None = None
    """Seconds: windows lie in [0, duration]. At least one clip long if the entry is usable."""
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    sample_rate: int | None = None
    channels: int | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    silent_share: float | None = None
    decode_errors: int | None = None
    has_audio: bool = True
    has_video: bool = True
    """Whether there is sound, and picture; a usable entry without one is for `allow_missing` alone."""
    size: int
    """Bytes."""
    mtime_ns: int
    sha256: str | None = None
    """Of the content, in hex; None where the file could not be measured, and in manifests of version 1."""

    @property
    def usable(self) -> bool:
        """Whether clips are read from it."""
        return self.status != "skipped"

    @property
    def complete(self) -> bool:
        """Whether the file has both sound and picture."""
        return self.has_audio and self.has_video

    def state(self, path: Path) -> State:
        """What has become of the file at `path` since it was scanned.

        Only a file with another time of change is read. Without a hash to compare with, it has changed.
        """
        now = fingerprint(path)
        if now is None:
            return "gone"
        if now == (self.size, self.mtime_ns):
            return "same"
        same_content = now[0] == self.size and self.sha256 is not None
        return "touched" if same_content and content(path) == self.sha256 else "changed"


class Manifest(BaseModel):
    """A scanned folder of clips.

    Attributes:
        root: The folder, absolute.
        entries: One for each media file found, in the order of their paths, or of the list.
        ignored: Files that were not looked at, by cause.
        notes: Sentences on how the folder was read.
        list_name: Name of the list in `root` that the files were taken from; None: all of the folder's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    root: Path
    entries: tuple[Entry, ...]
    ignored: dict[str, int] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    list_name: str | None = None

    @property
    def classes(self) -> list[str]:
        """Sorted names of the classes that have a usable clip."""
        return sorted({entry.class_name for entry in self.usable if entry.class_name is not None})

    @property
    def usable(self) -> list[Entry]:
        """Entries whose files are used, with a note or without."""
        return [entry for entry in self.entries if entry.usable]

    def split(self, name: Split) -> list[Entry]:
        """Usable entries of one split."""
        return [entry for entry in self.usable if entry.split == name]

    @property
    def complete(self) -> Manifest:
        """Without the files that lack sound or picture."""
        entries = tuple(entry for entry in self.entries if entry.complete)
        return self.model_copy(update={"entries": entries})

    @property
    def sounding(self) -> Manifest:
        """Without the files that lack sound."""
        entries = tuple(entry for entry in self.entries if entry.has_audio)
        return self.model_copy(update={"entries": entries})

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
            commonest = ", ".join(f"{reason} ({count})" for reason, count in reasons)
            raise UserError(
                f"none of the {len(self.entries)} media files in {self.root} can be used: {commonest};"
                " see docs/data.md for what these mean"
            )

    def changed(self) -> list[Entry]:
        """Usable entries whose file is gone, or has another content than when scanned.

        Content is compared where size or time of change differ; `file` compares it where they do not.
        """
        states = [(entry, entry.state(self.root / entry.path)) for entry in self.usable]
        return [entry for entry, state in states if state in ("changed", "gone")]

    def touched(self) -> Manifest:
        """This manifest with the times of change of today, where a file's content is the scanned one."""

        def renewed(entry: Entry) -> Entry:
            path = self.root / entry.path
            now = fingerprint(path) if entry.state(path) == "touched" else None
            return entry if now is None else entry.model_copy(update={"mtime_ns": now[1]})

        return self.model_copy(update={"entries": tuple(map(renewed, self.entries))})

    def arrivals(self, listing: Sequence[Listed]) -> list[str]:
        """Paths of files that the scan did not know, or could not use and that have changed since."""
        entries = {entry.path: entry for entry in self.entries}

        def is_new(listed: Listed) -> bool:
            entry = entries.get(listed.path)
            if entry is None:
                return True
            known = (entry.size, entry.mtime_ns)
            return not entry.usable and fingerprint(self.root / entry.path) not in (known, None)

        return [listed.path for listed in listing if listed.named and is_new(listed)]

    def at(self, root: Path) -> Manifest:
        """The same clips in another place."""
        return self.model_copy(update={"root": root.resolve()})

    def summary(self) -> str:
        """A table for a person: counts by class and by reason, hours, and warnings."""
        from mmldm.data.summary import summary_lines

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
            "listed": self.list_name,
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
        # A header that this program understands.
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

        # As many entries as it says.
        entries = []
        for number, value in lines:
            try:
                entries.append(Entry(**value))
            except ValidationError as error:
                raise UserError(
                    f"{path}, line {number} is not a manifest entry: {explained(Entry, error)[0]}"
                ) from error
        if header["version"] > 1 and header.get("rows") != len(entries):
            raise UserError(
                f"{path} is cut: it holds {len(entries)} of {header.get('rows')} files; copy it again, or "
                "scan the folder again"
            )

        # Where the files are now.
        try:
            root = _find_root(path, Path(header["root"]), entries)
            return cls(
                root=root,
                entries=tuple(entries),
                ignored=header.get("ignored", {}),
                notes=tuple(header.get("notes", ())),
                list_name=header.get("listed"),
            )
        except ValidationError as error:
            reason = explained(cls, error)[0]
            raise UserError(f"{path}, line 1 is not a manifest header: {reason}") from error
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line 1 is not a manifest header: it does not say which folder it is of (root)"
            ) from error


def fingerprint(path: Path) -> tuple[int, int] | None:
    """Size in bytes and time of change in ns; None if there is no such file, or only a pipe or the like."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def content(path: Path) -> str | None:
    """The sha256 of a file, in hex; None if it cannot be read. A process reads a file once for it."""
    return None if fingerprint(path) is None else _content(path)


@once_per_file
def _content(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None


def is_manifest(path: Path) -> bool:
    """Whether a JSONL file begins with a manifest's header.

    Raises:
        UserError: It cannot be read, or its first line is not a JSON object.
    """
    return "format" in next(json_lines(path), (0, {}))[1]


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSONL file with their line numbers; blank lines are passed over.

    Raises:
        UserError: The file cannot be read or a line is not a JSON object.
    """
    try:
        # Not splitlines: names may hold what Unicode counts as an end of line.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number} is not JSON; it may be cut or damaged"
            ) from error
        if not isinstance(value, dict):
            raise UserError(f"{path}, line {number} is not a JSON object")
        yield number, value


def _find_root(manifest: Path, root: Path, entries: list[Entry]) -> Path:
    """The folder itself, or where its clips are beside the manifest; absolute.

    A relative root is one of an earlier version, which wrote it down as it was typed.
    """
    if root.is_absolute() and root.is_dir():
        return root.resolve()
    usable = [entry for entry in entries if entry.usable]
    probed = usable[:: max(1, len(usable) // PROBED)]

    def holds(folder: Path) -> bool:
        found = [fingerprint(folder / entry.path) for entry in probed]
        return [now and now[0] for now in found] == [entry.size for entry in probed]

    places = (root, manifest.parent / root, manifest.parent / root.name, manifest.parent)
    return next((place for place in places if place.is_dir() and holds(place)), root).absolute()
