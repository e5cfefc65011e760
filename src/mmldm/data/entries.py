"""One media file as a manifest knows it, and when it still is the same file.

file -> Entry; Entry, file -> same, touched, changed or gone
"""

from __future__ import annotations

import stat
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from mmldm.files import sha256_of

SILENT_SHARE = 0.99
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


def fingerprint(path: Path) -> tuple[int, int] | None:
    """Size in bytes and time of change in ns; None if there is no such file, or only a pipe or the like."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def content(path: Path) -> str | None:
    """The sha256 of a file, in hex; None if it cannot be read. A process reads a file once for it."""
    now = fingerprint(path)
    return None if now is None else _content(path, *now)


@cache
def _content(path: Path, size: int, mtime_ns: int) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None
