"""Which windows of which files a cache holds, and in which blocks they are encoded.

entries of a split -> blocks of sources (a file, where its windows start) -> pieces that are read at once.
Everything here is a function of manifest, recipe and seed: any number of processes makes the same cache.
What changes here changes caches, and raises `cache_writer.FORMAT`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mmldm.data.clips import windows
from mmldm.data.manifest import Entry
from mmldm.types import ClipSpec

BLOCK_WINDOWS = 512
"""A block has whole files and at most so many windows; a file with more fills blocks of its own."""
PIECE_BYTES = 96 * 2**20
"""Of the pictures that are held at once while a long file is read."""
FAR = 3.0
"""Seconds without a window that are worth a seek rather than decoding."""

Starts = Callable[[Entry], Sequence[float]]
"""Where the windows of a file are asked for, ascending, in seconds."""


@dataclass(frozen=True)
class Source:
    """A file's windows in one block.

    Attributes:
        name: Its path; with the windows' numbers where the file fills several blocks.
        starts: Seconds on the file's clock.
    """

    entry: Entry
    name: str
    starts: tuple[float, ...]


def fixed_starts(entry: Entry, spec: ClipSpec, count: int) -> list[float]:
    """Evenly spread over the clip, the middle for one: for what is measured."""
    return [start for _, start in windows([entry], spec, min(count, _frames(entry, spec)))]


def random_starts(entry: Entry, spec: ClipSpec, count: int, seed: int) -> list[float]:
    """A random frame in each of `count` equal parts of the clip; every frame where it has no more than that.

    They depend on (seed, path) alone, so that a file keeps its windows whatever other files there are.
    """
    # One draw in each part, from a stream of numbers of the file's own.
    frames = _frames(entry, spec)
    edges = np.arange(min(count, frames) + 1) * frames // min(count, frames)
    name = hashlib.sha256(entry.path.encode("utf-8", "surrogateescape")).digest()[:8]
    draws = np.random.default_rng([seed, int.from_bytes(name, "big")]).random(len(edges) - 1)
    numbers = edges[:-1] + np.floor(draws * np.diff(edges)).astype(int)
    return [float(number) / _rate(entry, spec) for number in numbers]


def _frames(entry: Entry, spec: ClipSpec) -> int:
    """At how many of its frames a window may begin."""
    # A usable entry's duration is measured, and at least one window long but for the tolerance.
    assert entry.duration is not None
    return int(max(0.0, entry.duration - spec.duration) * _rate(entry, spec) + 1e-6) + 1


def _rate(entry: Entry, spec: ClipSpec) -> float:
    """Frames a second of the file; the clip's where there is no picture."""
    return entry.fps or spec.fps


def plan(entries: Sequence[Entry], starts: Starts) -> list[list[Source]]:
    """Consecutive files in blocks of at most BLOCK_WINDOWS windows."""
    blocks: list[list[Source]] = []
    room = 0
    for entry in entries:
        for source in _sources(entry, tuple(starts(entry))):
            if len(source.starts) > room:
                blocks.append([])
                room = BLOCK_WINDOWS
            blocks[-1].append(source)
            room -= len(source.starts)
    return blocks


def _sources(entry: Entry, starts: tuple[float, ...]) -> Iterator[Source]:
    """A file's windows as one source, or as several where they fill blocks of their own."""
    if len(starts) <= BLOCK_WINDOWS:
        yield Source(entry, entry.path, starts)
        return
    for first in range(0, len(starts), BLOCK_WINDOWS):
        part = starts[first : first + BLOCK_WINDOWS]
        yield Source(entry, f"{entry.path}, windows {first} to {first + len(part) - 1}", part)


def pieces(source: Source, spec: ClipSpec) -> list[tuple[float, ...]]:
    """The starts of consecutive windows that are read at once, in bounded memory.

    Windows that lie far apart are read each for itself.
    """
    most = max(spec.num_frames, PIECE_BYTES // (3 * spec.height * spec.width))
    cut: list[list[float]] = []
    for start in source.starts:
        if cut:
            # Pictures from the first of these windows to this one, or theirs alone where they lie apart.
            first, last = cut[-1][0], cut[-1][-1]
            span = (start + spec.duration - first) * _rate(source.entry, spec)
            shown = min(span, (len(cut[-1]) + 1) * spec.num_frames)
            if shown <= most and start - (last + spec.duration) <= FAR:
                cut[-1].append(start)
                continue
        cut.append([start])
    return [tuple(piece) for piece in cut]
