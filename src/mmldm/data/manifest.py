"""Which files of a folder are clips, what they hold, and which of them are held out.

folder -> Manifest (one Row per media file) <-> JSONL. Every file found is used, used with a note,
or skipped with a reason code; the counts add up. docs/data.md.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmldm.errors import UserError
from mmldm.media.atomic import atomic_path
from mmldm.media.container import Limits
from mmldm.media.isolated import Outcome, run_isolated
from mmldm.media.probe import measure
from mmldm.types import ClipSpec

FORMAT, VERSION = "mmldm-manifest", 1
MEDIA_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .ogv .flv .3gp .3g2".split()
)
# A file may be this much (seconds) shorter than a clip; the last frame and silence fill in.
TOLERANCE = 0.02
SILENT_SHARE = 0.99
Split = Literal["train", "held_out"]


class Row(BaseModel):
    """One media file. Measured fields are None where the file could not be measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    path: str
    """Relative to the manifest's root, with forward slashes."""
    status: Literal["used", "used_with_note", "skipped"]
    reason: str | None = None
    """Why it is skipped: a code of docs/data.md."""
    note: str | None = None
    class_name: str | None = None
    split: Split | None = None
    duration: float | None = None
    """Seconds: windows lie in [0, duration]. At least one clip long if the row is usable."""
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    sample_rate: int | None = None
    channels: int | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    silent_share: float | None = None
    decode_errors: int | None = None
    size: int
    """Bytes."""
    mtime_ns: int

    @property
    def usable(self) -> bool:
        return self.status != "skipped"


class Manifest(BaseModel):
    """A scanned folder of clips.

    Attributes:
        root: The folder, as given to `scan`.
        ignored: Files that were not read, by cause: not media, hidden, or a link out of the folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    root: Path
    rows: tuple[Row, ...]
    ignored: dict[str, int] = Field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """Sorted names of the classes that have a usable clip."""
        return sorted({row.class_name for row in self.usable if row.class_name is not None})

    @property
    def usable(self) -> list[Row]:
        return [row for row in self.rows if row.usable]

    def split(self, name: Split) -> list[Row]:
        """Usable rows of one split."""
        return [row for row in self.usable if row.split == name]

    def file(self, row: Row) -> Path:
        """Where the row's file is."""
        return self.root / row.path

    def require_clips(self) -> None:
        """Raises UserError with the commonest reasons if no file is usable."""
        if not self.usable:
            reasons = Counter(row.reason for row in self.rows).most_common(3)
            listed = ", ".join(f"{reason} ({count})" for reason, count in reasons)
            raise UserError(
                f"none of the {len(self.rows)} media files in {self.root} can be used: {listed};"
                " see docs/data.md for what these mean"
            )

    def changed(self) -> list[Row]:
        """Rows whose file is gone or differs in size or modification time from when it was read."""
        return [row for row in self.rows if _fingerprint(self.file(row)) != (row.size, row.mtime_ns)]

    def summary(self) -> str:
        """A table for a person: counts by class and by reason, hours, and warnings."""
        return "\n".join(_summary_lines(self))

    def save(self, path: str | Path) -> Path:
        """Writes JSON lines: a header, then a row each; the file appears whole or not at all.

        Raises:
            UserError: The file cannot be written.
        """
        header = {
            "format": FORMAT,
            "version": VERSION,
            "root": self.root.as_posix(),
            "ignored": self.ignored,
        }
        lines = [json.dumps(header, ensure_ascii=False)]
        lines += [row.model_dump_json(exclude_none=True) for row in self.rows]
        with atomic_path(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Manifest:
        """Reads what `save` wrote. A moved data set is found beside the manifest, too.

        Raises:
            UserError: Not a manifest of this version, or a damaged line, named.
        """
        path = Path(path)
        lines = _json_lines(path)
        _, header = next(lines, (0, {}))
        if header.get("format") != FORMAT:
            raise UserError(
                f"{path} has no manifest header; a plain list of files must be scanned first"
            )
        if header.get("version") != VERSION:
            raise UserError(
                f"{path} is a manifest of version {header.get('version')}, this program reads"
                f" version {VERSION}; scan the folder again"
            )
        rows = []
        for number, value in lines:
            try:
                rows.append(Row(**value))
            except (ValidationError, TypeError) as error:
                raise UserError(f"{path}, line {number} is not a manifest row: {error}") from error
        root = _find_root(path, Path(header["root"]), rows)
        return cls(root=root, rows=tuple(rows), ignored=header.get("ignored", {}))


def scan(
    source: str | Path,
    spec: ClipSpec,
    *,
    workers: int = 2,
    limits: Limits | None = None,
    skip_silent: bool = False,
    held_out: float = 0.1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Decodes every media file of a folder, each in a worker that may hang or die.

    Args:
        source: A folder (`root/*.mp4`, `root/<class>/*.mp4`, any depth), or a JSONL list of files
            with `path` (relative to the list) and optionally `class_name` and `split`.
        workers: Processes decoding at once.
        limits: What one file may cost.
        skip_silent: Skip files whose sound is digital silence.
        held_out: Share of the clips kept from training.
        seed: Of the split. A file keeps its split when others come or go.
        progress: Called with (files done, files in all).

    Raises:
        UserError: `source` is missing, or holds no media files.
    """
    source = Path(source)
    limits = limits or Limits()
    if source.is_dir():
        root = source
        entries, ignored = _find_media(source)
    elif source.is_file():
        root = source.parent
        entries, ignored = _read_list(source), {}
    else:
        raise UserError(f"{source} does not exist; give a folder of video clips")
    if not entries:
        raise UserError(
            f"{source} holds no media files; looked for {' '.join(sorted(MEDIA_SUFFIXES))}"
        )

    calls = [(str(root / entry["path"]), limits.model_dump()) for entry in entries]
    rows: list[Row | None] = [None] * len(entries)
    outcomes = run_isolated(measure, calls, workers=workers, seconds=limits.seconds)
    for done, outcome in enumerate(outcomes, start=1):
        rows[outcome.index] = _row(root, entries[outcome.index], outcome, spec, skip_silent)
        if progress is not None:
            progress(done, len(entries))
    return Manifest(root=root, rows=tuple(_assign_splits(rows, held_out, seed)), ignored=ignored)


def _find_media(root: Path) -> tuple[list[dict[str, Any]], dict[str, int]]:
    ignored: Counter[str] = Counter()
    found = []
    inside = root.resolve()
    for folder, folders, names in os.walk(root):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        hidden = [name for name in folders if name.startswith(".")]
        ignored["link"] += len(links)
        folders[:] = sorted(set(folders) - set(links) - set(hidden))
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith("."):
                ignored["hidden"] += 1
            elif path.suffix.lower() not in MEDIA_SUFFIXES:
                ignored["not media"] += 1
            elif path.is_symlink() and not path.resolve().is_relative_to(inside):
                ignored["link"] += 1
            else:
                relative = path.relative_to(root)
                class_name = relative.parts[0] if len(relative.parts) > 1 else None
                found.append({"path": relative.as_posix(), "class_name": class_name})
    return sorted(found, key=lambda entry: entry["path"]), {k: n for k, n in ignored.items() if n}


def _read_list(path: Path) -> list[dict[str, Any]]:
    entries = []
    for number, value in _json_lines(path):
        if value.get("format") == FORMAT:
            continue
        if not isinstance(value.get("path"), str):
            raise UserError(f'{path}, line {number} has no "path"; write {{"path": "a.mp4"}} lines')
        entry = {key: value.get(key) for key in ("path", "class_name", "split")}
        entries.append(entry)
    return entries


def _row(
    root: Path, entry: dict[str, Any], outcome: Outcome, spec: ClipSpec, skip_silent: bool
) -> Row:
    size, mtime_ns = _fingerprint(root / entry["path"]) or (0, 0)
    common = {**entry, "size": size, "mtime_ns": mtime_ns}
    if outcome.reason is not None:
        note = outcome.message.replace(f"{root}{os.sep}", "")
        return Row(**common, status="skipped", reason=outcome.reason, note=note)
    info = dict(outcome.value)
    notes = "; ".join(info.pop("notes")) or None
    del info["path"], info["num_frames"]
    reason, note = None, notes
    if info["duration"] < spec.duration - TOLERANCE:
        reason = "corrupt" if info["decode_errors"] else "too_short"
        note = f"{info['duration']:.2f} s can be used, a clip needs {spec.duration:g} s"
    elif skip_silent and info["silent_share"] >= SILENT_SHARE:
        reason = "silent"
    else:
        info["duration"] = max(info["duration"], spec.duration)
    status = "skipped" if reason else "used_with_note" if note else "used"
    return Row(**common, **info, status=status, reason=reason, note=note)


def _assign_splits(rows: list[Row], held_out: float, seed: int) -> list[Row]:
    """Holds out the rows whose hash falls below `held_out`, so that each file's split is its own.

    Every class keeps a training clip, and from four clips on at least one is held out.
    """
    open_rows = [row for row in rows if row.usable and row.split is None]
    draws = {row.path: _draw(row.path, seed) for row in open_rows}
    ordered = sorted(open_rows, key=lambda row: draws[row.path])
    chosen = {row.path for row in ordered if draws[row.path] < held_out}
    free: Counter[str | None] = Counter(
        row.class_name for row in rows if row.usable and row.path not in chosen
        and row.split != "held_out"
    )
    for row in reversed(ordered):
        if row.path in chosen and not free[row.class_name]:
            chosen.remove(row.path)
            free[row.class_name] += 1
    fixed = any(row.split == "held_out" for row in rows)
    if held_out > 0 and not chosen and not fixed and len(ordered) >= 4:
        spare = next((row for row in ordered if free[row.class_name] > 1), None)
        chosen |= {spare.path} if spare else set()
    return [
        row.model_copy(update={"split": "held_out" if row.path in chosen else "train"})
        if row.path in draws
        else row
        for row in rows
    ]


def _draw(path: str, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed}:{path}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _fingerprint(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise UserError(f"{path}, line {number} is not a JSON object")
        yield number, value


def _find_root(manifest: Path, root: Path, rows: list[Row]) -> Path:
    probe_row = next((row for row in rows if row.usable), None)
    for candidate in (root, manifest.parent / root, manifest.parent / root.name, manifest.parent):
        if probe_row is None or (candidate / probe_row.path).is_file():
            return candidate
    return root


def _summary_lines(manifest: Manifest) -> Iterator[str]:
    rows, usable = manifest.rows, manifest.usable
    hours = sum(row.duration for row in usable) / 3600
    noted = sum(row.status == "used_with_note" for row in rows)
    train, held_out = (len(manifest.split(name)) for name in ("train", "held_out"))
    yield f"{manifest.root}: {len(rows)} media files, {len(usable)} usable, {hours:.2f} h"
    yield f"  used {len(usable) - noted}, used with a note {noted}, skipped {len(rows) - len(usable)}"
    yield f"  training {train}, held out {held_out}"
    for cause, count in manifest.ignored.items():
        yield f"  ignored, {cause}: {count}"
    for class_name in manifest.classes:
        members = [row for row in usable if row.class_name == class_name]
        minutes = sum(row.duration for row in members) / 60
        yield f"  class {class_name}: {len(members)} clips, {minutes:.1f} min"
    for reason, count in Counter(row.reason for row in rows if row.reason).most_common():
        example = next(row.path for row in rows if row.reason == reason)
        yield f"  skipped, {reason}: {count} (such as {example})"
    silent = sum((row.silent_share or 0) >= SILENT_SHARE for row in usable)
    if silent:
        yield f"  warning: {silent} usable clips are silent; skip_silent leaves them out"
    if usable and not held_out:
        yield "  warning: nothing is held out; measurements will be on training clips"
    if any(row.class_name for row in usable) and any(row.class_name is None for row in usable):
        yield "  warning: some clips lie in class folders and some do not; the latter have no class"
