"""Which clips of a set, and of two sets, hang together: of one recording, or of equal content.

ClipSet -> a number for all clips of a recording; halves that share none
ClipSets -> a set without what stands in another, clips that stand twice

Whatever files are called: what they hold decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from mmldm.data.splits import draw, joined
from mmldm.errors import UserError
from mmldm.evaluation.sets import ClipSet, ClipSource, Skipped
from mmldm.text import printable

IN_REFERENCE = "in_reference"
"""Reason of a held-out clip that the reference holds, too."""


def _units(clips: Sequence[ClipSource]) -> list[list[int]]:
    """Indices of the clips of each recording: of one file, of files of equal content, or of one group."""
    marks = [
        [("content", clip.content or clip.file), *([("group", clip.group)] if clip.group else [])]
        for clip in clips
    ]
    return joined(marks)


def units_by_content(clips: Sequence[ClipSource]) -> np.ndarray:
    """A number (N,) for each clip, one for all of a recording; numbered by content, whatever the names."""
    units = sorted(_units(clips), key=lambda unit: min(clips[i].key for i in unit))
    numbers = np.empty(len(clips), dtype=int)
    for number, unit in enumerate(units):
        numbers[unit] = number
    return numbers


def halves(reference: ClipSet, seed: int) -> tuple[ClipSet, ClipSet]:
    """Two disjoint sets of about equally many files of each class, by a seeded hash of their contents.

    Files of equal content, and those of one recording, stand in one half.
    """
    files = {clip.file: clip for clip in reference.clips}
    clips = list(files.values())
    # Units go to the smaller half, in turn.
    units = _units(clips)

    def turn(unit: list[int]) -> tuple[str, float]:
        """When a unit is dealt out: class by class, in the order of its contents' first draw."""
        return min(
            (clips[i].class_name or "", draw(clips[i].content or clips[i].file, seed)) for i in unit
        )

    units.sort(key=turn)
    chosen: set[str] = set()
    rest: set[str] = set()
    for unit in units:
        (chosen if len(chosen) <= len(rest) else rest).update(clips[i].file for i in unit)
    first, second = (
        tuple(clip for clip in reference.clips if (clip.file in chosen) is wanted)
        for wanted in (True, False)
    )
    return (
        replace(reference, name="first half of the reference", clips=first),
        replace(reference, name="real", clips=second, skipped=(), notes=()),
    )


def repeated(clips: ClipSet) -> list[list[str]]:
    """Files of a set that have one content."""
    files: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for clip in clips.clips:
        if clip.content is not None:
            files[clip.content][clip.file] = None
    return [list(names) for names in files.values() if len(names) > 1]


def shared(sets: Mapping[str, ClipSet]) -> list[dict[str, Any]]:
    """Clips of two sets that are cut from one content, for every two sets that have some."""
    found = []
    for first, second in combinations(sets, 2):
        names = {clip.content: clip.name for clip in sets[second].clips if clip.content}
        clips = [
            [clip.name, names[clip.content]] for clip in sets[first].clips if clip.content in names
        ]
        if clips:
            found.append({"first": first, "second": second, "clips": clips})
    return found


def apart(held_out: ClipSet, reference: ClipSet) -> ClipSet:
    """The held-out clips without those whose content is in the reference: no distance to itself is one.

    Raises:
        UserError: Fewer than two clips are left.
    """
    # File by file, with the reference's file of that content.
    names = {clip.content: clip.file for clip in reference.clips if clip.content}
    taken = {clip.file: names[clip.content] for clip in held_out.clips if clip.content in names}
    if not taken:
        return held_out
    clips = tuple(clip for clip in held_out.clips if clip.content not in names)
    if len(clips) < 2:
        file, other = next(iter(taken.items()))
        raise UserError(
            f"{len(taken)} of {len(taken) + len(clips)} held-out clips are in the reference, too (such as "
            f"{printable(file)}, there {printable(other)}), and {len(clips)} are left: name a reference "
            "without them"
        )
    skipped = tuple(
        Skipped(file, IN_REFERENCE, f"its content is in the reference, too, as {other}")
        for file, other in taken.items()
    )
    return replace(held_out, clips=clips, skipped=(*held_out.skipped, *skipped))
