"""The clips that a run is about: found once, known from then on, changed only where a person says so.

folder of clips, run folder -> Manifest
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mmldm.config import RunConfig
from mmldm.data.folder import find_files
from mmldm.data.manifest import Entry, Manifest, is_manifest
from mmldm.data.scan import scan
from mmldm.errors import UserError
from mmldm.text import printable
from mmldm.training.run_folder import RunFolder, refuse_begun
from mmldm.types import Progress

Note = Callable[[str], None]
"""Called with a sentence for the person who trains."""


def find_manifest(
    folder: RunFolder,
    source: str | None,
    config: RunConfig,
    progress: Progress,
    *,
    note: Note = print,
    moved_to: str | None = None,
    rescan: bool = False,
    keep: bool = True,
) -> Manifest:
    """The run's manifest: the one in the run folder, else a fresh scan of `source`.

    The run folder stays as it is; `claim` records what this returns. What a scan has found stands there
    only while the scan is unfinished.

    Args:
        source: Clips that the run must be about; None: those of its manifest.
        note: Is told what has changed since the scan and what can be done.
        moved_to: Where the clips of the manifest are now.
        rescan: Takes the folder as it is today: see `scan`, `known`.
        keep: Whether an interrupted scan leaves its results in the run folder for the next one.

    Raises:
        UserError: There is neither, no clip is usable, the run is about other clips, or clips
            changed on disk since the scan.
    """
    if not folder.manifest.is_file():
        first = moved_to or source
        if moved_to and source and Path(source).exists() and not Path(source).samefile(moved_to):
            raise UserError(f"name the clips once: {source}, or --data {moved_to}.")
        if first is None:
            raise UserError("no clips: set data.folder in the recipe, or name a folder of clips.")
        return _usable(_scan(Path(first), folder, config, progress, keep))
    manifest = Manifest.load(folder.manifest)
    if moved_to is not None:
        manifest = _moved(manifest, Path(moved_to), note)
    elif source is not None:
        _require_same(folder, manifest, Path(source))
    if not manifest.root.is_dir():
        raise UserError(
            f"the clips of {folder.root} were in {_shown(manifest.root)}, which is not there: if they have "
            "moved, name their folder once with --data."
        )
    fresh = manifest.touched()
    touched = sum(a != b for a, b in zip(manifest.entries, fresh.entries, strict=True))
    if touched:
        note(
            f"{touched} clips have another time of change and the same content: taken as the same."
        )
    changed, arrived = fresh.changed(), _arrived(fresh, config)
    if rescan:
        return _scanned_again(folder, fresh, config, progress, note, changed, arrived, keep)
    if changed:
        raise UserError(
            f"{_changes(fresh, changed)} since they were scanned, for example "
            f"{printable(changed[0].path)}: restore them, or take the folder as it is now with --rescan."
        )
    if arrived:
        note(
            f"{len(arrived)} clips have come or been mended since the scan and are not trained on (such as "
            f"{printable(arrived[0])}): --rescan takes them in."
        )
    return fresh


def _scan(
    source: Path,
    folder: RunFolder,
    config: RunConfig,
    progress: Progress,
    keep: bool,
    known: Manifest | None = None,
) -> Manifest:
    data = config.data
    return scan(
        source,
        config.clip,
        workers=max(1, data.workers),
        held_out=data.held_out,
        seed=data.seed,
        class_pattern=data.class_pattern,
        group_pattern=data.group_pattern,
        follow_links=data.follow_links,
        skip_silent=data.skip_silent,
        allow_missing=data.allow_missing,
        known=known,
        unfinished=folder.unfinished_scan if keep else None,
        progress=lambda done, total: progress("scan", done, total),
    )


def _usable(manifest: Manifest) -> Manifest:
    manifest.require_clips()
    if not manifest.complete.split("train"):
        raise UserError(
            f"{_shown(manifest.root)}: no clip with both sound and picture is left to train on; the others "
            "are held out or lack one of them."
        )
    return manifest


def _require_same(folder: RunFolder, manifest: Manifest, source: Path) -> None:
    """Refuses clips of another place than the manifest's; for a list, the place that its paths are below."""
    place = source.resolve()
    if place.is_file():
        place = Manifest.load(source).root if is_manifest(source) else place.parent
    if place == manifest.root:
        return
    here = not manifest.at(place).changed()
    hint = (
        f"all of them are in {_shown(source)}, too; if that is where they are now, add --data {source} once"
        if here
        else "choose another run folder"
    )
    raise UserError(
        f"the run in {folder.root} is about the clips in {_shown(manifest.root)}, not about "
        f"{_shown(place)}: {hint}."
    )


def _moved(manifest: Manifest, place: Path, note: Note) -> Manifest:
    """The manifest with its clips in another folder, all of which must be there."""
    if not place.is_dir():
        raise UserError(f"--data {place} is not a folder.")
    moved = manifest.at(place)
    if moved.root == manifest.root:
        return manifest
    missing = moved.changed()
    if missing:
        old = any(entry.sha256 is None for entry in missing)
        without_hash = "; this run knows their sizes and times alone: copy with times kept" * old
        raise UserError(
            f"--data {place}: {_changes(moved, missing)} from what was scanned in "
            f"{_shown(manifest.root)}, for example {printable(missing[0].path)}{without_hash}."
        )
    note(f"the clips of {_shown(manifest.root)} are in {_shown(moved.root)} now: all are there.")
    return moved


def _arrived(manifest: Manifest, config: RunConfig) -> list[str]:
    """Files that the scan did not know. What a list of version 1 named is not known any more."""
    data = config.data
    source = manifest.root if manifest.list_name is None else manifest.root / manifest.list_name
    listed_once = data.folder is not None and Path(data.folder).is_file()
    if not source.exists() or (manifest.list_name is None and listed_once):
        return []
    found = find_files(
        source, data.allow_missing, data.class_pattern, data.group_pattern, data.follow_links
    )
    return manifest.arrivals(found.listing)


def _scanned_again(
    folder: RunFolder,
    manifest: Manifest,
    config: RunConfig,
    progress: Progress,
    note: Note,
    changed: Sequence[Entry],
    arrived: Sequence[str],
    keep: bool,
) -> Manifest:
    """The folder as it is now; known clips keep their side."""
    if not (changed or arrived):
        note("rescan: the clips are as they were.")
        return manifest
    refuse_begun(folder, f"{len(arrived)} new and {len(changed)} changed or gone")
    source = manifest.root if manifest.list_name is None else manifest.root / manifest.list_name
    fresh = _usable(_scan(source, folder, config, progress, keep, known=manifest))
    now = {entry.path for entry in fresh.entries}
    gone = [entry.path for entry in changed if entry.path not in now]
    note(
        f"rescan: {len(arrived)} clips new or mended, {len(changed) - len(gone)} with new content, "
        f"{len(gone)} gone"
        + (f" (such as {printable(gone[0])})" if gone else "")
        + f"; {len(fresh.usable)} usable, {len(manifest.usable)} before."
    )
    return fresh


def _changes(manifest: Manifest, entries: Sequence[Entry]) -> str:
    """How many are gone, and how many differ."""
    gone = sum(entry.state(manifest.root / entry.path) == "gone" for entry in entries)
    parts = []
    if gone:
        parts.append(f"{gone} clips are gone")
    if len(entries) > gone:
        parts.append(f"{len(entries) - gone} clips changed")
    return " and ".join(parts)


def _shown(path: Path) -> str:
    return printable(str(path))
