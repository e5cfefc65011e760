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
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmldm.data.folder import AUDIO_SUFFIXES, MEDIA_SUFFIXES, find_media, json_lines, read_list
from mmldm.errors import UserError
from mmldm.files import whole_file
from mmldm.media.clock import TOLERANCE
from mmldm.media.isolated import Outcome, run_isolated
from mmldm.media.limits import Limits
from mmldm.media.probe import measure
from mmldm.types import ClipSpec

FORMAT, VERSION = "mmldm-manifest", 1
SILENT_SHARE = 0.99
Split = Literal["train", "held_out"]
Status = Literal["used", "used_with_note", "skipped"]


class Row(BaseModel):
    """One media file. Measured fields are None where the file could not be measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    path: str
    """Relative to the manifest's root, with forward slashes."""
    status: Status
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
    has_audio: bool = True
    has_video: bool = True
    """Whether there is sound, and picture; a usable row without one is for `allow_missing` alone."""
    size: int
    """Bytes."""
    mtime_ns: int

    @property
    def usable(self) -> bool:
        return self.status != "skipped"

    @property
    def complete(self) -> bool:
        """Whether the file has both sound and picture."""
        return self.has_audio and self.has_video


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

    @property
    def complete(self) -> Manifest:
        """Without the files that lack sound or picture."""
        return self.model_copy(update={"rows": tuple(row for row in self.rows if row.complete)})

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
        """Rows whose file is gone, or has another size or modification time than when scanned."""

        def same(row: Row) -> bool:
            return _fingerprint(self.file(row)) == (row.size, row.mtime_ns)

        return [row for row in self.rows if not same(row)]

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
        lines += [row.model_dump_json(exclude_defaults=True) for row in self.rows]
        with whole_file(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
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
    allow_missing: bool = False,
    held_out: float = 0.1,
    seed: int = 0,
    class_pattern: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Decodes every media file of a folder, each in a worker that may hang or die.

    Args:
        source: A folder (`root/*.mp4`, `root/<class>/*.mp4`, any depth), or a JSONL list of files
            with `path` (relative to the list) and optionally `class_name` and `split`.
        workers: Processes decoding at once.
        limits: What one file may cost.
        skip_silent: Skip files whose sound is digital silence.
        allow_missing: Keep files without sound or without picture, audio files among them, for
            training; they are never held out.
        held_out: Share of the clips kept from training.
        seed: Of the split. A file keeps its split when others come or go.
        class_pattern: Where a folder's classes are in its file names, see `find_media`.
        progress: Called with (files done, files in all).

    Raises:
        UserError: `source` is missing, or holds no media files.
    """
    source = Path(source)
    limits = limits or Limits()
    if source.is_dir():
        root = source
        suffixes = MEDIA_SUFFIXES | AUDIO_SUFFIXES if allow_missing else MEDIA_SUFFIXES
        entries, ignored = find_media(source, class_pattern, suffixes)
    elif source.is_file():
        root = source.parent
        entries, ignored = read_list(source), {}
    else:
        raise UserError(f"{source} does not exist; give a folder of video clips")
    if not entries:
        raise UserError(
            f"{source} holds no media files; looked for {' '.join(sorted(MEDIA_SUFFIXES))}"
        )

    calls = [(str(root / entry["path"]), limits.model_dump(), allow_missing) for entry in entries]
    rows: dict[int, Row] = {}
    outcomes = run_isolated(measure, calls, workers=workers, seconds=limits.seconds)
    for done, outcome in enumerate(outcomes, start=1):
        rows[outcome.index] = _row(root, entries[outcome.index], outcome, spec, skip_silent)
        if progress is not None:
            progress(done, len(entries))
    rows_in_order = assign_splits([rows[index] for index in sorted(rows)], held_out, seed)
    return Manifest(root=root, rows=tuple(rows_in_order), ignored=ignored)


def _row(
    root: Path, entry: dict[str, Any], outcome: Outcome, spec: ClipSpec, skip_silent: bool
) -> Row:
    size, mtime_ns = _fingerprint(root / entry["path"]) or (0, 0)
    common = {**entry, "size": size, "mtime_ns": mtime_ns}
    if outcome.reason is not None:
        message = outcome.message.replace(f"{root}{os.sep}", "")
        return Row(**common, status="skipped", reason=outcome.reason, note=message)
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
    return Row(**common, **info, status=status, reason=reason, note=note)


def assign_splits(rows: list[Row], held_out: float, seed: int) -> list[Row]:
    """Holds out the rows whose hash falls below `held_out`, so that each file's split is its own.

    Every class keeps a training clip, and from four clips on at least one is held out. What lacks
    sound or picture trains, because held-out clips are for measuring.
    """
    open_rows = [row for row in rows if row.usable and row.split is None]
    draws = {row.path: draw(row.path, seed) for row in open_rows}
    ordered = sorted((row for row in open_rows if row.complete), key=lambda row: draws[row.path])
    chosen = {row.path for row in ordered if draws[row.path] < held_out}
    free: Counter[str | None] = Counter(
        row.class_name
        for row in rows
        if row.usable and row.path not in chosen and row.split != "held_out"
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


def draw(path: str, seed: int) -> float:
    """A number in [0, 1) that a file keeps whatever other files there are."""
    digest = hashlib.blake2b(f"{seed}:{path}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _fingerprint(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _find_root(manifest: Path, root: Path, rows: list[Row]) -> Path:
    probe_row = next((row for row in rows if row.usable), None)
    for candidate in (root, manifest.parent / root, manifest.parent / root.name, manifest.parent):
        if probe_row is None or (candidate / probe_row.path).is_file():
            return candidate
    return root


def _summary_lines(manifest: Manifest) -> Iterator[str]:
    rows, usable = manifest.rows, manifest.usable
    hours = _seconds(usable) / 3600
    noted = sum(row.status == "used_with_note" for row in rows)
    train, held_out = (len(manifest.split(name)) for name in ("train", "held_out"))
    yield f"{manifest.root}: {len(rows)} media files, {len(usable)} usable, {hours:.2f} h"
    skipped = len(rows) - len(usable)
    yield f"  used {len(usable) - noted}, used with a note {noted}, skipped {skipped}"
    yield f"  training {train}, held out {held_out}"
    for cause, count in manifest.ignored.items():
        yield f"  ignored, {cause}: {count}"
    for class_name in manifest.classes:
        members = [row for row in usable if row.class_name == class_name]
        minutes = _seconds(members) / 60
        yield f"  class {class_name}: {len(members)} clips, {minutes:.1f} min"
    for reason, count in Counter(row.reason for row in rows if row.reason).most_common():
        example = next(row.path for row in rows if row.reason == reason)
        yield f"  skipped, {reason}: {count} (such as {example})"
    for stream, missing in (
        ("sound", [row for row in usable if not row.has_audio]),
        ("picture", [row for row in usable if not row.has_video]),
    ):
        if missing:
            yield f"  without {stream}: {len(missing)} (such as {missing[0].path})"
    silent = sum((row.silent_share or 0) >= SILENT_SHARE for row in usable)
    if silent:
        yield f"  warning: {silent} usable clips are silent; skip_silent leaves them out"
    if usable and not held_out:
        yield "  warning: nothing is held out; measurements will be on training clips"
    if any(row.class_name for row in usable) and any(row.class_name is None for row in usable):
        yield "  warning: some clips have a class and some have none"


def _seconds(rows: list[Row]) -> float:
    return sum(row.duration or 0.0 for row in rows)
