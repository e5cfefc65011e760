"""What a scan says to a person.

Manifest -> lines: counts that add up, what was decided, warnings
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mmldm.data.rows import SILENT_SHARE, Row
from mmldm.text import printable

if TYPE_CHECKING:
    from mmldm.data.manifest import Manifest

MOST_NOTES = 6
"""Kinds of notes that are shown."""


def summary_lines(manifest: Manifest) -> Iterator[str]:
    """The lines, in which names of files cannot do anything."""
    rows, usable = manifest.rows, manifest.usable
    hours = _seconds(usable) / 3600
    noted = sum(row.status == "used_with_note" for row in rows)
    train, held_out = (len(manifest.split(name)) for name in ("train", "held_out"))
    root = printable(str(manifest.root))
    yield f"{root}: {len(rows)} media files, {len(usable)} usable, {hours:.2f} h"
    skipped = len(rows) - len(usable)
    yield f"  used {len(usable) - noted}, used with a note {noted}, skipped {skipped}"
    yield f"  training {train}, held out {held_out}"
    for cause, count in manifest.ignored.items():
        yield f"  ignored, {cause}: {count}"
    for sentence in manifest.notes:
        yield f"  {sentence}"
    for class_name in manifest.classes:
        members = [row for row in usable if row.class_name == class_name]
        minutes = _seconds(members) / 60
        yield f"  class {printable(class_name)}: {len(members)} clips, {minutes:.1f} min"
    for reason, count in Counter(row.reason for row in rows if row.reason).most_common():
        first = next(row for row in rows if row.reason == reason)
        yield f"  skipped, {reason}: {count} (such as {printable(first.path)})"
    yield from _notes(usable)
    yield from _recordings(usable)
    yield from _copies(usable)
    for stream, missing in (
        ("sound", [row for row in usable if not row.has_audio]),
        ("picture", [row for row in usable if not row.has_video]),
    ):
        if missing:
            yield f"  without {stream}: {len(missing)} (such as {printable(missing[0].path)})"
    silent = sum((row.silent_share or 0) >= SILENT_SHARE for row in usable)
    if silent:
        yield f"  warning: {silent} usable clips are silent; skip_silent leaves them out"
    if usable and not held_out:
        yield "  warning: nothing is held out; measurements will be on training clips"
    if any(row.class_name for row in usable) and any(row.class_name is None for row in usable):
        yield "  warning: some clips have a class and some have none"


def _notes(usable: Sequence[Row]) -> Iterator[str]:
    """What is noted of files that are used, a line for notes that differ in numbers alone."""
    kinds = defaultdict(list)
    for row in usable:
        if row.note:
            kinds[re.sub(r"[0-9.]+", "0", row.note)].append(row)
    common = sorted(kinds.values(), key=len, reverse=True)
    for rows in common[:MOST_NOTES]:
        first = rows[0]
        yield f"  noted in {len(rows)}, such as {printable(first.path)}: {printable(first.note or '')}"
    if len(common) > MOST_NOTES:
        rest = sum(map(len, common[MOST_NOTES:]))
        yield f"  noted in {rest} more: other things, see their rows in the manifest (--out)"


def _recordings(usable: Sequence[Row]) -> Iterator[str]:
    """Recordings that the clips are parts of, where they are known."""
    sides = defaultdict(set)
    for row in usable:
        if row.group is not None:
            sides[row.group].add(row.split)
    if not sides:
        return
    alone = sum(row.group is None for row in usable)
    without = f"; {alone} clips are of no known recording" if alone else ""
    yield f"  recordings: {len(sides)} in {len(usable) - alone} clips, each on one side{without}"
    both = [group for group, found in sides.items() if len(found) > 1]
    if both:
        yield (
            f"  warning: {len(both)} recordings stand on both sides, because the clips' own splits say so "
            f"(such as {printable(both[0])})"
        )


def _copies(usable: Sequence[Row]) -> Iterator[str]:
    """Files that repeat the content of another one."""
    same = defaultdict(list)
    for row in usable:
        if row.sha256 is not None:
            same[row.sha256].append(row)
    repeated = [rows for rows in same.values() if len(rows) > 1]
    if not repeated:
        return
    count = sum(len(rows) - 1 for rows in repeated)
    first, second = (printable(row.path) for row in repeated[0][:2])
    yield (
        f"  equal contents: {count} files repeat another one (such as {first} and {second}); copies stand "
        "on one side of the split"
    )
    mixed = [rows for rows in repeated if len({row.class_name for row in rows}) > 1]
    if mixed:
        first, second = (printable(row.path) for row in mixed[0][:2])
        yield f"  warning: {len(mixed)} contents stand in two classes (such as {first} and {second})"


def _seconds(rows: Sequence[Row]) -> float:
    return sum(row.duration or 0.0 for row in rows)
