"""Sets of clips, each clip read when it is needed: what all sides of an evaluation are.

folder or manifest -> ClipSet (names, keys of content, classes, readers; what was skipped, and why)

A corrupted set is another ClipSet whose readers change what they read, and whose keys say so.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmldm.data.clips import read_entry, spread, windows
from mmldm.data.folder import AUDIO_SUFFIXES, MEDIA_SUFFIXES, find_media, first_group
from mmldm.data.manifest import SILENT_SHARE, Entry, Manifest, content, is_manifest
from mmldm.data.scan import scan
from mmldm.errors import MediaError, UserError
from mmldm.evaluation.protocol import Protocol
from mmldm.media.clip import Clip
from mmldm.media.clock import TOLERANCE
from mmldm.media.reader import READING, read_clip
from mmldm.text import printable
from mmldm.types import ClipSpec, Modality, Progress

GIF = frozenset((".gif",))
"""Pictures without sound, as samplers of some baselines write them."""
WORDS: dict[Modality, str] = {"audio": "sound", "video": "picture"}


@dataclass(frozen=True)
class ClipSource:
    """A clip that is not in memory.

    Attributes:
        name: Different from all others of its set.
        file: What it is cut from: windows of one file have one.
        key: Hash of what `read` gives but for the spec: content, window and the reader's version.
        class_name: None where it has none.
        read: Gives the clip; raises MediaError where it cannot be read.
        content: The sha256 of the file; None where it is of no file.
        group: The recording that the file is a part of, where that is known.
        start: Of the window in the file, in seconds.
    """

    name: str
    file: str
    key: str
    class_name: str | None
    read: Callable[[ClipSpec], Clip]
    content: str | None = None
    group: str | None = None
    start: float = 0.0


@dataclass(frozen=True)
class Skipped:
    """A file that could not be used: a code of docs/data.md and a sentence."""

    file: str
    reason: str
    sentence: str


@dataclass(frozen=True)
class ClipSet:
    """Clips that are measured and compared as one.

    Attributes:
        name: Of the set in reports.
        origin: Where its clips come from.
        clips: In a fixed order.
        skipped: What else there was.
        notes: Sentences on clips that are used.
        lacks: The modality that none of its clips has.
        given: The modality that its clips were given, and that is no work of theirs.
    """

    name: str
    origin: str
    clips: tuple[ClipSource, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    lacks: Modality | None = None
    given: Modality | None = None

    @property
    def unread(self) -> str:
        """Why what one modality shows is not told of this set; "" where all is."""
        if self.lacks is not None:
            return f"its clips have no {WORDS[self.lacks]}"
        return "" if self.given is None else f"its {WORDS[self.given]} is given"

    @property
    def sha256(self) -> str:
        """Of the contents and windows, whatever their names and order."""
        return hashlib.sha256(
            "\n".join(sorted(clip.key for clip in self.clips)).encode()
        ).hexdigest()

    def require(self, least: int = 2) -> ClipSet:
        """This set.

        Raises:
            UserError: It has fewer clips than `least`; the message says what was skipped.
        """
        if len(self.clips) >= least:
            return self
        reasons = Counter(skipped.reason for skipped in self.skipped).most_common(3)
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons)
        raise UserError(
            f"the {self.name} set ({self.origin}) has {len(self.clips)} usable "
            f"clip{'s' * (len(self.clips) != 1)}, and {least} are the least that can be measured"
            + (f"; skipped: {listed} (docs/data.md)" if listed else "")
        )


def kept_manifest(
    source: Path,
    kept: Path,
    spec: ClipSpec,
    workers: int = 1,
    progress: Progress | None = None,
    held_out: float = 0.0,
    one_modality: bool = False,
) -> Manifest:
    """The manifest of a folder or list, or the manifest that `source` is.

    Args:
        kept: Where an earlier run has left the manifest of this folder; written if it is not there, or the
            folder has changed.
        workers: Decoding processes.
        held_out: Share of the clips that is held out, where the folder has no split of its own.
        one_modality: Whether files without sound or picture are kept, sounds and GIFs among them.

    Raises:
        UserError: There is no such folder, or no media file in it.
    """
    if source.is_file() and is_manifest(source):
        manifest = Manifest.load(source)
        if not manifest.root.is_dir():
            raise UserError(
                f"{source}: its clips were in {printable(str(manifest.root))}, which is not there; copy the "
                "manifest into the folder where they are now, and name that copy"
            )
        return manifest
    # A scan decodes every file: an earlier one stands as long as no file has changed, come or gone.
    earlier = _earlier(source, kept)
    if earlier is not None and not earlier.changed():
        listing = find_media(source, suffixes=_suffixes(one_modality)).listing
        same = {listed.path for listed in listing} == {entry.path for entry in earlier.entries}
        if same and not earlier.arrivals(listing):
            return earlier
    manifest = scan(
        source,
        spec,
        workers=workers,
        held_out=held_out,
        allow_missing=one_modality,
        further=GIF if one_modality else frozenset(),
        known=earlier,
        unfinished=kept.with_name(f"{kept.name}.unfinished"),
        progress=None if progress is None else partial(progress, f"scan {printable(source.name)}"),
    )
    manifest.save(kept)
    return manifest


def _suffixes(one_modality: bool) -> frozenset[str]:
    return MEDIA_SUFFIXES | AUDIO_SUFFIXES | GIF if one_modality else MEDIA_SUFFIXES


def regrouped(manifest: Manifest, group_pattern: str | None) -> Manifest:
    """A manifest whose entries are of the recordings that a pattern finds in their paths.

    Args:
        group_pattern: Regular expression with a group; None: those that it already says.
    """
    if group_pattern is None:
        return manifest
    entries = tuple(
        entry.model_copy(update={"group": first_group(group_pattern, entry.path) or entry.group})
        for entry in manifest.entries
    )
    return manifest.model_copy(update={"entries": entries})


def _earlier(source: Path, kept: Path) -> Manifest | None:
    """The manifest of a folder's last scan, if it knows the contents of the files."""
    if not (kept.is_file() and source.is_dir()):
        return None
    try:
        manifest = Manifest.load(kept)
    except UserError:
        return None
    known = all(entry.sha256 for entry in manifest.usable)
    return manifest if known and manifest.root == source.resolve() else None


def clip_set(
    name: str, manifest: Manifest, entries: Sequence[Entry], protocol: Protocol
) -> ClipSet:
    """Windows of the usable entries: one from the middle of each, or as many as the protocol asks for.

    Each begins at a source frame; several of a file overlap by less than one. Which are taken of too many is
    spread over the entries.

    Args:
        entries: Of the manifest. Where none has both sound and picture, those that have one.

    Raises:
        UserError: Some have sound alone, others pictures alone, and none has both.
    """
    lacks = _lacking(name, entries)
    # Entries that a clip fits into; of the others, why not.
    spec, wanted = protocol.spec, protocol.samples
    usable, skipped = [], []
    for entry in entries:
        length = entry.duration or 0
        if not (entry.usable and (entry.complete or lacks is not None)):
            why = entry.note or "it lacks sound or picture"
            skipped.append(Skipped(entry.path, entry.reason or "incomplete", why))
        elif length < spec.duration - TOLERANCE:
            why = f"{length:.2f} s can be used, a clip needs {spec.duration:g} s"
            skipped.append(Skipped(entry.path, "too_short", why))
        else:
            usable.append(entry.model_copy(update={"duration": max(length, spec.duration)}))

    # Windows: several of a file only where there are fewer files than clips are asked for.
    per_file = protocol.windows
    if wanted is not None:
        per_file = -(-wanted // max(1, len(usable)))
    chosen = [
        window
        for entry in usable
        for window in windows([entry], spec, _fitting(entry, spec, per_file))
    ]
    if wanted is not None and wanted < len(chosen):
        # Spread over classes and contents, which no file's name moves.
        order = sorted(range(len(chosen)), key=lambda i: _place(*chosen[i]))
        chosen = [chosen[i] for i in sorted(order[k] for k in spread(wanted, len(chosen)))]

    # The content of each file, read now: it may have changed since the scan, or have gone.
    contents: dict[str, str] = {}
    for entry in {entry.path: entry for entry, _ in chosen}.values():
        try:
            sha256 = content(manifest.file(entry))
        except MediaError as error:
            skipped.append(Skipped(entry.path, error.reason, str(error)))
            continue
        if sha256 is None:
            skipped.append(Skipped(entry.path, "unreadable", "it has gone since it was scanned"))
        else:
            contents[entry.path] = sha256

    windows_of = Counter(entry.path for entry, _ in chosen)
    clips = [
        window_of(
            manifest,
            entry,
            start,
            contents[entry.path],
            entry.path if windows_of[entry.path] == 1 else None,
        )
        for entry, start in chosen
        if entry.path in contents
    ]
    return ClipSet(
        name,
        str(manifest.root),
        tuple(clips),
        tuple(skipped),
        tuple(_notes(usable, spec, windows_of)),
        lacks,
    )


def _lacking(name: str, entries: Sequence[Entry]) -> Modality | None:
    """The modality that all usable entries lack."""
    usable = [entry for entry in entries if entry.usable]
    if not usable or any(entry.complete for entry in usable):
        return None
    sounding = [entry for entry in usable if entry.has_audio]
    if 0 < len(sounding) < len(usable):
        silent = next(entry for entry in usable if not entry.has_audio)
        raise UserError(
            f"the {name} set has files of sound alone ({printable(sounding[0].path)}) and of pictures alone "
            f"({printable(silent.path)}), and none of both: name a folder of either"
        )
    return "video" if sounding else "audio"


def _place(entry: Entry, start: float) -> tuple[str, str, float]:
    """Of a window in an order by class and content, as far as that is known."""
    return entry.class_name or "", entry.sha256 or entry.path, start


def window_of(
    manifest: Manifest, entry: Entry, start: float, sha256: str, name: str | None = None
) -> ClipSource:
    """A window of an entry's file.

    Args:
        start: Of the window in the file, in seconds.
        sha256: Of the file.
        name: None: file and start.
    """
    return ClipSource(
        name=name or f"{entry.path} at {start:.2f} s",
        file=entry.path,
        key=hashlib.sha256(f"{sha256} {start:.6f} {READING}".encode()).hexdigest(),
        class_name=entry.class_name,
        read=partial(read_clip, manifest.root / entry.path, start)
        if entry.complete
        else partial(read_entry, manifest, entry, start),
        content=sha256,
        group=entry.group,
        start=start,
    )


def _fitting(entry: Entry, spec: ClipSpec, most: int | None) -> int:
    """At most this many windows of an entry (None: any), so that they overlap by less than a source frame."""
    fitting = max(1, int((entry.duration or 0) / spec.duration + TOLERANCE))
    return fitting if most is None else min(most, fitting)


def _notes(entries: Sequence[Entry], spec: ClipSpec, windows_of: Mapping[str, int]) -> list[str]:
    """One sentence each on other lengths, rates and sizes than the protocol's, on silence and on damage.

    Args:
        windows_of: How many of each file are measured, by its path.
    """
    size = f"{spec.width}x{spec.height}"
    kinds: dict[str, list[str]] = {
        f"with another frame rate than {spec.fps:g}; frames are those nearest to the protocol's instants": [
            f"{entry.path}: {entry.fps:.4g}"
            for entry in entries
            if entry.fps and abs(entry.fps - spec.fps) > 0.01
        ],
        f"of another size than {size}; brought to it by scaling and cutting": [
            f"{entry.path}: {entry.width}x{entry.height}"
            for entry in entries
            if (entry.width, entry.height) != (spec.width, spec.height)
        ],
        f"with another sample rate than {spec.sample_rate} Hz; resampled": [
            f"{entry.path}: {entry.sample_rate}"
            for entry in entries
            if entry.sample_rate != spec.sample_rate
        ],
        f"of which less than half is measured, in windows of {spec.duration:g} s; --windows all takes all": [
            f"{entry.path}: {spec.duration * windows_of[entry.path]:.3g} of {entry.duration:.3g} s"
            for entry in entries
            if 0 < 2 * spec.duration * windows_of.get(entry.path, 0) < (entry.duration or 0)
        ],
        "digitally silent": [
            entry.path for entry in entries if (entry.silent_share or 0) >= SILENT_SHARE
        ],
        "damaged; what decodes is used": [entry.path for entry in entries if entry.decode_errors],
    }
    return [
        f"{len(found)} file{'s' * (len(found) > 1)} {kind} (such as {found[0]})"
        for kind, found in kinds.items()
        if found
    ]
