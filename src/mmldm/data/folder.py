"""Finds the files of a data set: walks a folder, or reads a list. Nothing is decoded here.

folder, JSONL list or manifest -> Found (files with class, recording and split; what was passed over)
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mmldm.data.manifest import Manifest, Split, is_manifest, json_lines
from mmldm.errors import UserError
from mmldm.text import is_utf8, printable

MEDIA_SUFFIXES = frozenset((
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".ogv",
    ".flv", ".3gp", ".3g2", ".wmv", ".asf",
))  # fmt: skip
AUDIO_SUFFIXES = frozenset((
    ".wav", ".mp3", ".flac", ".aac", ".m4a", ".aiff", ".oga", ".ogg", ".opus", ".wma", ".ac3",
    ".eac3", ".caf", ".w64",
))  # fmt: skip
HELD_OUT_FOLDERS = ("val", "valid", "validation", "test")
SPLIT_FOLDERS: dict[str, Split] = {"train": "train", **dict.fromkeys(HELD_OUT_FOLDERS, "held_out")}
"""What a data set's own folders mean, in capitals or not."""
UNNAMED = "unreadable_name"
"""Reason of a file whose name is not UTF-8."""
LINK_OUT, LINK_TO_FOLDER = "link out of the folder", "link to a folder"


@dataclass(frozen=True)
class Listed:
    """A file to look at.

    Attributes:
        path: Below the root, with forward slashes; where `named` is false, the name as it can be shown.
        class_name: In Unicode's composed form (NFC), so that two spellings are one class.
        group: The recording it is a part of, where a pattern or a list says so.
        split: Its own, where a split folder or a list says so.
        named: Whether the name is UTF-8.
    """

    path: str
    class_name: str | None = None
    group: str | None = None
    split: Split | None = None
    named: bool = True


@dataclass(frozen=True)
class Found:
    """What lies in a folder, or stands in a list.

    Attributes:
        root: The folder that paths are relative to, absolute.
        listing: Sorted by path; a list's in its own order.
        ignored: Files and folders that were not looked at, by cause.
        notes: Sentences on what was decided and what can be done about it.
        list_name: Of the list in `root`; None where all files of the folder were looked at.
    """

    root: Path
    listing: list[Listed]
    ignored: dict[str, int]
    notes: list[str]
    list_name: str | None = None


def find_files(
    source: Path,
    allow_missing: bool = False,
    class_pattern: str | None = None,
    group_pattern: str | None = None,
    follow_links: bool = False,
    further: frozenset[str] = frozenset(),
) -> Found:
    """What lies in a folder, stands in a list or is known to a manifest: what `scan` looks at.

    Args:
        allow_missing: Whether audio files are looked at, too.
        class_pattern: As for `find_media`, like the rest.
        further: Suffixes of other files that are looked at, too.

    Raises:
        UserError: `source` is missing, or a list that cannot be read.
    """
    if source.is_dir():
        suffixes = MEDIA_SUFFIXES | AUDIO_SUFFIXES if allow_missing else MEDIA_SUFFIXES
        return find_media(source, class_pattern, suffixes | further, group_pattern, follow_links)
    if not source.is_file():
        raise UserError(f"{source} does not exist; give a folder of video clips")
    if not is_manifest(source):
        return read_list(source)
    manifest = Manifest.load(source)
    listing = [
        Listed(entry.path, entry.class_name, entry.group, entry.split, entry.reason != UNNAMED)
        for entry in manifest.entries
    ]
    notes = list(manifest.notes)
    return Found(manifest.root, listing, manifest.ignored, notes, manifest.list_name)


def find_media(
    root: Path,
    class_pattern: str | None = None,
    suffixes: frozenset[str] = MEDIA_SUFFIXES,
    group_pattern: str | None = None,
    follow_links: bool = False,
) -> Found:
    """Media files under `root`.

    Hidden files and folders, links to folders and links out of `root` are ignored and counted.

    Args:
        class_pattern: Regular expression searched in the path below `root`; its first group names
            the class. None: the first folder below `root` (or below a split folder) does.
        group_pattern: The same; its first group names the recording that the file is a part of.
        follow_links: Links out of `root` are followed, to files and to folders.
    """
    # Whether the top folders are classes, or the data set's own splits, depends on all of them.
    walk = _Walk(root, suffixes, follow_links)
    relatives = sorted(walk.files(), key=Path.as_posix)
    tops = Counter(relative.parts[0] for relative in relatives if len(relative.parts) > 1)
    own = _own_splits(tops)

    # Split, class and recording of each file, from where it lies or from its name.
    listing, spellings = [], defaultdict(set)
    for relative in relatives:
        folders = relative.parts[:-1]
        split = own.get(folders[0]) if folders else None
        folders = folders[1:] if split else folders
        top = unicodedata.normalize("NFC", folders[0]) if folders else None
        if class_pattern is None and top is not None:
            spellings[top].add(folders[0])
        path = relative.as_posix()
        if not is_utf8(path):
            listing.append(Listed(printable(path), split=split, named=False))
            continue
        group = None if group_pattern is None else first_group(group_pattern, path)
        class_name = top if class_pattern is None else first_group(class_pattern, path)
        listing.append(Listed(path, class_name, group, split))

    # What was decided, and what can be done about it.
    notes = [*walk.notes(), *_about_splits(tops, own)]
    notes += [
        f"class {printable(name)} is spelled in {len(ways)} ways that look alike; they are one class"
        for name, ways in sorted(spellings.items())
        if len(ways) > 1
    ]
    unnamed = sum(not listed.named for listed in listing)
    if unnamed:
        notes.append(
            f"names that are not UTF-8: {unnamed} files skipped; rename them or their folders"
        )
    return Found(root.resolve(), listing, walk.ignored, notes)


def read_list(path: Path) -> Found:
    """Files of a JSONL list: `path`, and optionally `class_name`, `group` and `split`.

    Raises:
        UserError: A line is not JSON, has no path, or another value is not allowed.
    """
    listing = []
    for number, value in json_lines(path):
        if "format" in value:  # The header of a manifest, which may serve as a list, too.
            continue
        name = value.get("path")
        if not isinstance(name, str) or not name:
            raise UserError(f'{path}, line {number} has no "path"; write {{"path": "a.mp4"}} lines')
        for key in ("class_name", "group"):
            text = value.get(key)
            if not isinstance(text, str | None) or not is_utf8(text or ""):
                raise UserError(f"{path}, line {number}: {key} must be text")
        if value.get("split") not in (None, "train", "held_out"):
            raise UserError(f'{path}, line {number}: split must be "train" or "held_out"')
        class_name = value.get("class_name")
        listed = Listed(
            name,
            None if class_name is None else unicodedata.normalize("NFC", class_name),
            value.get("group"),
            value.get("split"),
        )
        if not is_utf8(name) or "\0" in name:
            listed = replace(listed, path=printable(name), named=False)
        listing.append(listed)
    return Found(path.parent.resolve(), listing, {}, [], path.name)


class _Walk:
    """Goes through the folders, and counts what it passes over."""

    def __init__(self, root: Path, suffixes: frozenset[str], follow_links: bool) -> None:
        self._root, self._suffixes, self._follow = root, suffixes, follow_links
        self._inside = os.path.realpath(root)
        self._entered = {self._inside}
        self._counts: Counter[str] = Counter()
        self._example = ""

    @property
    def ignored(self) -> dict[str, int]:
        """How many files and folders were passed over, by cause."""
        return {cause: count for cause, count in sorted(self._counts.items()) if count}

    def files(self) -> Iterator[Path]:
        """Media files as paths below the root."""
        walk = os.walk(self._root, onerror=self._refused, followlinks=self._follow)
        for folder, folders, names in walk:
            folders[:] = sorted(name for name in folders if self._enters(Path(folder, name)))
            for path in (Path(folder, name) for name in names):
                if self._takes(path):
                    yield path.relative_to(self._root)

    def notes(self) -> list[str]:
        """What to do about links."""
        left = self._counts[LINK_OUT] + self._counts[LINK_TO_FOLDER]
        if not left:
            return []
        return [
            f"{left} link{'s' * (left > 1)} not followed (such as {self._example}): to read what they lead "
            "to, set data.follow_links (scan --follow-links), or name that folder instead"
        ]

    def _refused(self, error: OSError) -> None:
        self._counts["folder that may not be read"] += 1

    def _enters(self, path: Path) -> bool:
        """Whether the walk goes on in a folder; a link to one is followed only where that was asked for."""
        if path.name.startswith("."):
            return self._ignore("hidden")
        if not self._follow:
            return self._ignore_link(LINK_TO_FOLDER, path) if path.is_symlink() else True
        real = os.path.realpath(path)
        # A folder inside is read under its own name; one above it would be read for ever.
        around = path.is_symlink() and (_within(real, self._inside) or _within(self._inside, real))
        if around or real in self._entered:
            return self._ignore("link to a folder that is read anyway")
        self._entered.add(real)
        return True

    def _takes(self, path: Path) -> bool:
        """Whether a file is media, and of this folder."""
        if path.name.startswith("."):
            return self._ignore("hidden")
        if path.suffix.lower() not in self._suffixes:
            return self._ignore("not media")
        if path.is_symlink():
            if not path.exists():
                return self._ignore("broken link")
            if not self._follow and not _within(os.path.realpath(path), self._inside):
                return self._ignore_link(LINK_OUT, path)
        return True

    def _ignore(self, cause: str) -> bool:
        """Counts what is passed over; always false."""
        self._counts[cause] += 1
        return False

    def _ignore_link(self, cause: str, path: Path) -> bool:
        """The same for a link, the first of which is named as an example."""
        if not self._example:
            name = os.path.relpath(path, self._root)
            self._example = f"{printable(name)} -> {printable(str(path.readlink()))}"
        return self._ignore(cause)


def _within(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def _own_splits(tops: Iterable[str]) -> dict[str, Split]:
    """Top folder -> split, if all of them are a data set's splits, training and another one."""
    splits = {top: SPLIT_FOLDERS.get(top.casefold()) for top in tops}
    known = {top: split for top, split in splits.items() if split is not None}
    return known if len(known) == len(splits) and len(set(known.values())) == 2 else {}


def _about_splits(tops: Counter[str], own: dict[str, Split]) -> list[str]:
    """What was taken for a split, or why folders with such names are classes."""
    if own:
        train, held_out = (
            ", ".join(f"{top} ({tops[top]} files)" for top in own if own[top] == split)
            for split in ("train", "held_out")
        )
        return [
            f"split folders: {train} is trained on; {held_out} held out; data.held_out does not apply"
        ]
    alike = sorted(top for top in tops if top.casefold() in SPLIT_FOLDERS)
    if not alike:
        return []
    others = sorted(set(tops) - set(alike))
    if others:
        why = f"{printable(others[0])} stands beside"
    else:
        why = "there is no train" if len(alike) > 1 else "there is no other split"
    return [
        f"read as class{'es' * (len(alike) > 1)}, not as split{'s' * (len(alike) > 1)}, because {why}: "
        f"{', '.join(alike)}; else name the folder that is meant, or write a list"
    ]


def first_group(pattern: str, path: str) -> str | None:
    """What the first group of a pattern matches; None where that is nothing."""
    match = re.search(pattern, unicodedata.normalize("NFC", path))
    return (match[1] or None) if match else None
