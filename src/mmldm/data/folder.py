"""Finding the files: a folder walked, or a list read. Nothing is decoded here.

folder or JSONL list -> entries (path, class_name, split), what was passed over and why.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmldm.errors import UserError

MEDIA_SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"),
        *(".ts", ".mts", ".m2ts", ".ogv", ".flv", ".3gp", ".3g2"),
    }
)
AUDIO_SUFFIXES = frozenset({".wav", ".mp3", ".flac", ".aac", ".m4a", ".aiff", ".oga", ".ogg"})


def find_media(
    root: Path,
    class_pattern: str | None = None,
    suffixes: frozenset[str] = MEDIA_SUFFIXES,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Media files under `root`, sorted by path, and the number of files ignored by cause.

    Hidden files and folders, links to folders and links to files outside `root` are ignored.

    Args:
        class_pattern: Regular expression searched in the path below `root`; its first group names
            the class. None: the first folder below `root` does.
    """
    ignored: Counter[str] = Counter()
    found = []
    inside = root.resolve()
    for folder, folders, names in os.walk(root):
        links = {name for name in folders if Path(folder, name).is_symlink()}
        ignored["link"] += len(links)
        folders[:] = sorted(n for n in folders if n not in links and not n.startswith("."))
        for name in names:
            path = Path(folder, name)
            if name.startswith("."):
                ignored["hidden"] += 1
            elif path.suffix.lower() not in suffixes:
                ignored["not media"] += 1
            elif path.is_symlink() and not path.resolve().is_relative_to(inside):
                ignored["link"] += 1
            else:
                relative = path.relative_to(root)
                found.append(
                    {
                        "path": relative.as_posix(),
                        "class_name": _class_name(relative, class_pattern),
                    }
                )
    return sorted(found, key=lambda entry: entry["path"]), {k: n for k, n in ignored.items() if n}


def _class_name(relative: Path, pattern: str | None) -> str | None:
    if pattern is not None:
        match = re.search(pattern, relative.as_posix())
        return (match[1] or None) if match else None
    return relative.parts[0] if len(relative.parts) > 1 else None


def read_list(path: Path) -> list[dict[str, Any]]:
    """Entries of a JSONL list: `path`, and optionally `class_name` and `split`.

    Raises:
        UserError: A line is not JSON, has no path, or another value is not allowed.
    """
    entries = []
    for number, value in json_lines(path):
        if "format" in value:  # the header of a manifest, which may serve as a list, too
            continue
        if not isinstance(value.get("path"), str):
            raise UserError(f'{path}, line {number} has no "path"; write {{"path": "a.mp4"}} lines')
        entry = {key: value.get(key) for key in ("path", "class_name", "split")}
        if not isinstance(entry["class_name"], str | None):
            raise UserError(f"{path}, line {number}: class_name must be text")
        if entry["split"] not in (None, "train", "held_out"):
            raise UserError(f'{path}, line {number}: split must be "train" or "held_out"')
        entries.append(entry)
    return entries


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSONL file with their line numbers; blank lines are passed over.

    Raises:
        UserError: The file cannot be read or a line is not a JSON object.
    """
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
