"""The clips that a run is about: found once, known from then on, changed only where a person says so.

folder of clips, run folder -> Manifest -> recorded beside the recipe, while this process holds the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mmldm.config import RunConfig, load_config, save_config
from mmldm.data.folder import find_files
from mmldm.data.latents import files_key
from mmldm.data.manifest import Entry, Manifest, is_manifest
from mmldm.data.scan import scan
from mmldm.errors import UserError
from mmldm.files import is_blank, whole_file
from mmldm.text import printable
from mmldm.training.checkpoint import SaveError, refuse_changes
from mmldm.training.distributed import Process
from mmldm.training.run_folder import RunFolder
from mmldm.training.stopping import run_lock
from mmldm.types import Progress, Say

SCANNED = {
    "held_out", "seed", "skip_silent", "allow_missing", "class_pattern", "group_pattern",
    "follow_links",
}  # fmt: skip
"""The settings of `data` that a manifest was made with."""


def find_manifest(
    folder: RunFolder,
    source: str | None,
    config: RunConfig,
    progress: Progress,
    *,
    note: Say = print,
    moved_to: str | None = None,
    rescan: bool = False,
    keep: bool = True,
    sound_only: bool = False,
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
        sound_only: Whether clips without a picture will do for what is trained.

    Raises:
        UserError: There is neither, no clip is usable, the run is about other clips, or clips
            changed on disk since the scan.
    """
    data = config.data

    def scanned(source: Path, known: Manifest | None = None) -> Manifest:
        manifest = scan(
            source,
            config.clip,
            workers=max(1, data.workers),
            **data.model_dump(include=SCANNED),
            known=known,
            unfinished=folder.unfinished_scan if keep else None,
            progress=lambda done, total: progress("scan", done, total),
        )
        manifest.require_clips()
        clips, what = (
            (manifest.sounding, "sound")
            if sound_only
            else (manifest.complete, "both sound and picture")
        )
        if not clips.split("train"):
            raise UserError(
                f"{_shown(manifest.root)}: no clip with {what} is left to train on; the others are held "
                "out or lack it."
            )
        return manifest

    # A new run: its clips are those that were named.
    if not folder.manifest.is_file():
        first = moved_to or source
        if moved_to and source and Path(source).exists() and not Path(source).samefile(moved_to):
            raise UserError(f"name the clips once: {source}, or --data {moved_to}.")
        if first is None:
            raise UserError("no clips: set data.folder in the recipe, or name a folder of clips.")
        return scanned(Path(first))

    # A run that knows its clips: they have to be there, and the same ones.
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

    # What is not the same is refused, or taken in if the person says so.
    changed, arrived = fresh.changed(), _arrived(fresh, config)
    if rescan:
        return _scanned_again(folder, fresh, scanned, note, changed, arrived)
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


def _require_same(folder: RunFolder, manifest: Manifest, source: Path) -> None:
    """Refuses clips of another place than the manifest's; for a list, the place that its paths are below."""
    # A list or a manifest of files stands for the folder that their paths are below.
    place = source.resolve()
    if place.is_file():
        place = Manifest.load(source).root if is_manifest(source) else place.parent
    if place == manifest.root:
        return
    # The same files in another folder are a copy, or the clips have moved; other files are another run.
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


def _moved(manifest: Manifest, place: Path, note: Say) -> Manifest:
    """The manifest with its clips in another folder, all of which must be there."""
    if not place.is_dir():
        raise UserError(f"--data {place} is not a folder.")
    # All of them have to be there, by content where the manifest knows it.
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
    # A scan of version 1 did not keep the name of its list: a folder's other files would all look new.
    data = config.data
    source = _source(manifest)
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
    scanned: Callable[[Path, Manifest], Manifest],
    note: Say,
    changed: Sequence[Entry],
    arrived: Sequence[str],
) -> Manifest:
    """The folder as it is now; known clips keep their side."""
    if not (changed or arrived):
        note("rescan: the clips are as they were.")
        return manifest
    # Other clips are other numbers: too late once a job has been trained on them.
    refuse_begun(folder, f"{len(arrived)} new and {len(changed)} changed or gone")
    fresh = scanned(_source(manifest), manifest)
    now = {entry.path for entry in fresh.entries}
    gone = [entry.path for entry in changed if entry.path not in now]
    note(
        f"rescan: {len(arrived)} clips new or mended, {len(changed) - len(gone)} with new content, "
        f"{len(gone)} gone"
        + (f" (such as {printable(gone[0])})" if gone else "")
        + f"; {len(fresh.usable)} usable, {len(manifest.usable)} before."
    )
    return fresh


def _source(manifest: Manifest) -> Path:
    """What was scanned: a folder, or a list of files in it."""
    return manifest.root if manifest.list_name is None else manifest.root / manifest.list_name


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


@contextmanager
def claim(
    folder: RunFolder, config: RunConfig, manifest: Manifest | None, process: Process
) -> Iterator[Manifest]:
    """Holds the run folder for this process, and records recipe and manifest in it.

    Rank 0 does; a recipe that is refused leaves the earlier one in its place.

    Args:
        manifest: Of rank 0; the others read what it has recorded.

    Yields:
        The manifest, on every process.

    Raises:
        UserError: Another process holds the folder, the clips would be split differently than
            the run's manifest says, or a job has begun on other clips.
    """
    with ExitStack() as held:
        process.on_main(lambda: held.enter_context(_recorded(folder, config, manifest)))
        yield manifest or Manifest.load(folder.manifest)


@contextmanager
def _recorded(folder: RunFolder, config: RunConfig, manifest: Manifest | None) -> Iterator[None]:
    # What is refused here leaves recipe and manifest as they are.
    with run_lock(folder.root, lambda sentence: None):
        earlier = folder.config.read_bytes() if folder.config.is_file() else b""
        recorded = Manifest.load(folder.manifest) if folder.manifest.is_file() else None
        if recorded is not None and not is_blank(earlier):
            # Other settings would scan other clips, or split them otherwise.
            old, new = (
                {"data": recipe.data.model_dump(include=SCANNED)}
                for recipe in (load_config(folder.config), config)
            )
            refuse_changes(old, new, str(folder.root))
        if recorded is None:
            assert manifest is not None, "rank 0 has scanned"
        elif manifest is not None and files_key(manifest) != files_key(recorded):
            refuse_begun(folder, "other clips or sides")
        # Recorded before the first job begins, so that the same command resumes whatever happens to it.
        if manifest is not None and manifest != recorded:
            manifest.save(folder.manifest)
        save_config(config, folder.config)
        try:
            yield
        # A job may refuse a setting that it cannot resume with: the run keeps the recipe that it can. A full
        # disk refuses none.
        except UserError as error:
            if not is_blank(earlier) and not isinstance(error, SaveError):
                with whole_file(folder.config) as partial:
                    partial.write_bytes(earlier)
            raise


def refuse_begun(folder: RunFolder, what: str) -> None:
    """Refuses a manifest of other clips than those that a job has been trained on.

    Raises:
        UserError: A job has a checkpoint.
    """
    begun = folder.begun()
    if begun:
        raise UserError(
            f"{folder.root}: the {begun[0]} job has been trained on the clips as they were scanned, and the "
            f"manifest would change ({what}): finish the run without --rescan, or start another one with "
            f"--config {folder.config}."
        )
