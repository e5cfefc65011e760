"""Films of many windows: which there are, and their windows and joins as clips.

folder, manifest, instants -> Films (windows of each film in order; a clip around each instant of each film)

A film is never in memory: it is read window by window, so what was measured of one is kept as that of clips.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmldm.data.clips import spread
from mmldm.data.manifest import Entry, Manifest
from mmldm.errors import UserError
from mmldm.evaluation.measuring import Measured
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.sets import ClipSet, ClipSource, window_of
from mmldm.evaluation.sides import Finder
from mmldm.media.clock import TOLERANCE

REFERENCE_WINDOWS = 1200
"""Real windows that those of films are compared with, at most."""


@dataclass(frozen=True)
class Films:
    """Films of equally many windows, end to end.

    Attributes:
        windows: All windows, film by film.
        count: W, of a film.
        joins: A window around each instant, film by film; each instant lies in its middle.
        instants: J seconds of each film.
    """

    windows: ClipSet
    count: int
    joins: ClipSet
    instants: tuple[float, ...] = ()

    @property
    def files(self) -> list[str]:
        """Of the films, in order."""
        return list(dict.fromkeys(clip.file for clip in self.windows.clips))

    def whole(self, windows: Measured, joins: Measured | None) -> tuple[Measured, Measured | None]:
        """What was measured of films of which every window, and every join, could be read."""
        counts = Counter(clip.file for clip in windows.clips.clips)
        kept = {file for file, count in counts.items() if count == self.count}
        if joins is not None:
            counts = Counter(clip.file for clip in joins.clips.clips)
            kept &= {file for file, count in counts.items() if count == len(self.instants)}
        parts = [
            part and part.take([i for i, c in enumerate(part.clips.clips) if c.file in kept])
            for part in (windows, joins)
        ]
        assert parts[0] is not None
        return parts[0], parts[1]


def films(
    name: str,
    manifest: Manifest,
    entries: Iterable[Entry],
    contents: Mapping[str, str],
    protocol: Protocol,
    count: int,
    instants: Sequence[float] = (),
) -> Films:
    """The entries that last for `count` windows of the protocol, as films.

    Args:
        contents: The sha256 of each file that is used.
        instants: In the middle of windows that the films hold.
    """
    spec = protocol.spec
    length, half = count * spec.duration, spec.num_frames // 2 / spec.fps
    instants = [x for x in instants if half <= x <= length - (spec.duration - half)]
    long = [
        entry
        for entry in entries
        if entry.path in contents and (entry.duration or 0) >= length - TOLERANCE
    ]

    def at(entry: Entry, start: float) -> ClipSource:
        return window_of(manifest, entry, start, contents[entry.path])

    ends = [i * spec.duration for i in range(count)]
    windows = tuple(at(entry, start) for entry in long for start in ends)
    around = tuple(at(entry, x - half) for entry in long for x in instants)
    origin = str(manifest.root)
    return Films(
        ClipSet(name, origin, windows),
        count,
        ClipSet(f"{name}, joins", origin, around),
        tuple(instants),
    )


def real_films(
    finder: Finder,
    reference: Path,
    held_out: Path | None,
    count: int,
    most: int,
    instants: Sequence[float] = (),
) -> tuple[Films | None, ClipSet, ClipSet]:
    """Real films, the windows that all are compared with, and a clip of each file that the films are of.

    The files are split as for an evaluation of clips.

    Args:
        held_out: As in `Finder.real_sets`.
        count: Windows of a film.
        most: Films.

    Raises:
        UserError: There are too few files.
    """
    known = finder.real_sets(reference, held_out)
    manifest = finder.manifest("reference", reference)
    others = manifest if held_out is None else finder.manifest("real", held_out)
    # Films: as many as are made, spread over the classes.
    contents = _contents(known.real)
    lasting = count * finder.protocol.spec.duration - TOLERANCE
    entries = [e for e in others.entries if e.path in contents and (e.duration or 0) >= lasting]
    entries = [entries[i] for i in spread(most, len(entries))]
    found = films("real", others, entries, contents, finder.protocol, count, instants)
    # All windows of the other files, end to end.
    contents = _contents(known.anchor)
    duration = finder.protocol.spec.duration
    windows = [
        window_of(manifest, entry, i * duration, contents[entry.path])
        for entry in manifest.entries
        if entry.path in contents
        for i in range(max(1, int(((entry.duration or 0) + TOLERANCE) / duration)))
    ]
    chosen = tuple(windows[i] for i in spread(REFERENCE_WINDOWS, len(windows)))
    anchor = replace(known.anchor, name="reference", clips=chosen)
    return (found if len(entries) > 1 else None), anchor, known.real


def _contents(clips: ClipSet) -> dict[str, str]:
    """The sha256 of each file of a set."""
    return {clip.file: clip.content for clip in clips.clips if clip.content is not None}


def folder_films(
    finder: Finder, name: str, folder: Path, count: int, most: int, instants: Sequence[float] = ()
) -> Films:
    """The films of a folder that last for `count` windows.

    Raises:
        UserError: They are fewer than two.
    """
    manifest = finder.manifest(name, folder)
    usable = [entry for entry in manifest.entries if entry.usable and entry.complete]
    lasting = count * finder.protocol.spec.duration
    long = [e for e in usable if (e.duration or 0) >= lasting - TOLERANCE and e.sha256]
    if len(long) < 2:
        raise UserError(
            f"{folder} holds {len(long)} films of {lasting:g} s with sound, and 2 are the least that can be "
            "measured: ask for fewer --seconds"
        )
    contents = {entry.path: entry.sha256 or "" for entry in long}
    chosen = [long[i] for i in spread(most, len(long))]
    return films(name, manifest, chosen, contents, finder.protocol, count, instants)
