"""Which clips have the same content: within a set, and on two sides of a comparison.

ClipSets -> clips that stand twice, by name; a set without what stands in another; sentences
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

from mmldm.errors import UserError
from mmldm.evaluation.sets import ClipSet, Skipped
from mmldm.text import printable

IN_REFERENCE = "in_reference"
"""Reason of a held-out clip that the reference holds, too."""


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


def sentences(report: Mapping[str, Any]) -> list[str]:
    """What a report says of equal contents, an example each."""
    told = []
    for pair in report["equal"]:
        (one, other), count = map(printable, pair["clips"][0]), len(pair["clips"])
        told.append(
            f"{count} {pair['first']} clip{'s have' if count > 1 else ' has'} the content of "
            f"{pair['second']} clips (such as {one} and {other})."
        )
    for name, found in report["sets"].items():
        taken = [skipped for skipped in found["skipped"] if skipped["reason"] == IN_REFERENCE]
        if taken:
            told.append(
                f"{len(taken)} held-out clips are in the reference, too, and were taken out of the {name} "
                f"set (such as {printable(taken[0]['file'])})."
            )
        if found["repeated"]:
            count = sum(len(files) - 1 for files in found["repeated"])
            one, other = map(printable, found["repeated"][0][:2])
            told.append(
                f"{name}: {count} file{'s repeat' if count > 1 else ' repeats'} the content of another one "
                f"(such as {one} and {other})."
            )
    return told
