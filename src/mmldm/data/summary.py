"""What a scan says to a person.

Manifest -> lines: counts that add up, what was decided, warnings
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mmldm.data.manifest import SILENT_SHARE, Entry
from mmldm.text import printable

if TYPE_CHECKING:
    from mmldm.data.manifest import Manifest

TOO_FEW, FEW = 20, 200
"""Training clips below which a model repeats them, and below which it may."""
MOST_NOTES = 6
"""Kinds of notes that are shown."""


def summary_lines(manifest: Manifest) -> Iterator[str]:
    """The lines, in which names of files cannot do anything."""
    # Counts that add up.
    entries, usable = manifest.entries, manifest.usable
    hours = _seconds(usable) / 3600
    noted = sum(entry.status == "used_with_note" for entry in entries)
    train, held_out = (len(manifest.split(name)) for name in ("train", "held_out"))
    root = printable(str(manifest.root))
    yield f"{root}: {len(entries)} media files, {len(usable)} usable, {hours:.2f} h"
    skipped = len(entries) - len(usable)
    yield f"  used {len(usable) - noted}, used with a note {noted}, skipped {skipped}"
    yield f"  training {train}, held out {held_out}"

    # What was passed over, and what was decided in reading the folder.
    for cause, count in manifest.ignored.items():
        yield f"  ignored, {cause}: {count}"
    for sentence in manifest.notes:
        yield f"  {sentence}"

    # What the files are, and why some cannot be used.
    for class_name in manifest.classes:
        members = [entry for entry in usable if entry.class_name == class_name]
        minutes = _seconds(members) / 60
        yield f"  class {printable(class_name)}: {len(members)} clips, {minutes:.1f} min"
    for reason, count in Counter(entry.reason for entry in entries if entry.reason).most_common():
        first = next(entry for entry in entries if entry.reason == reason)
        yield f"  skipped, {reason}: {count} (such as {printable(first.path)})"
    yield from _notes(usable)
    yield from _recordings(usable)
    yield from _copies(usable)
    for stream, missing in (
        ("sound", [entry for entry in usable if not entry.has_audio]),
        ("picture", [entry for entry in usable if not entry.has_video]),
    ):
        if missing:
            yield f"  without {stream}: {len(missing)} (such as {printable(missing[0].path)})"

    # Warnings.
    silent = sum((entry.silent_share or 0) >= SILENT_SHARE for entry in usable)
    if silent:
        yield f"  warning: {silent} usable clips are silent; skip_silent leaves them out"
    yield from _few(manifest)
    if usable and not held_out:
        yield "  warning: nothing is held out; measurements will be on training clips"
    counts = Counter(entry.class_name for entry in usable if entry.class_name is not None)
    single = sorted(name for name, count in counts.items() if count == 1)
    if single and len(counts) > 1:
        number = "1 class has" if len(single) == 1 else f"{len(single)} classes have"
        yield (
            f"  warning: {number} one clip each (such as {printable(single[0])}): it "
            "trains, none is held out, and samples of that class will repeat it; add clips or join classes"
        )
    classes = {entry.class_name for entry in usable}
    if None in classes and any(classes):
        yield "  warning: some clips have a class and some have none"


def _few(manifest: Manifest) -> Iterator[str]:
    """Too few clips to learn from."""
    train = manifest.split("train")
    count = f"{len(train)} clip{'s' * (len(train) != 1)} to train on"
    if 0 < len(train) < TOO_FEW:
        yield (
            f"  warning: {count}: too few to learn a kind of clip from; what comes will repeat them, and "
            "held-out numbers say next to nothing"
        )
    elif 0 < len(train) < FEW:
        yield f"  warning: {count}: few; expect repeats. A few hundred are a start"


def _notes(usable: Sequence[Entry]) -> Iterator[str]:
    """What is noted of files that are used, a line for notes that differ in numbers alone."""
    kinds = defaultdict(list)
    for entry in usable:
        if entry.note:
            kinds[re.sub(r"[0-9.]+", "0", entry.note)].append(entry)
    common = sorted(kinds.values(), key=len, reverse=True)
    for entries in common[:MOST_NOTES]:
        first = entries[0]
        yield f"  noted in {len(entries)}, such as {printable(first.path)}: {printable(first.note or '')}"
    if len(common) > MOST_NOTES:
        rest = sum(map(len, common[MOST_NOTES:]))
        yield f"  noted in {rest} more: other things, see their entries in the manifest (--out)"


def _recordings(usable: Sequence[Entry]) -> Iterator[str]:
    """Recordings that the clips are parts of, where they are known."""
    sides = defaultdict(set)
    for entry in usable:
        if entry.group is not None:
            sides[entry.group].add(entry.split)
    if not sides:
        return
    alone = sum(entry.group is None for entry in usable)
    without = f"; {alone} clips are of no known recording" if alone else ""
    yield f"  recordings: {len(sides)} in {len(usable) - alone} clips, each on one side{without}"
    both = [group for group, found in sides.items() if len(found) > 1]
    if both:
        yield (
            f"  warning: {len(both)} recordings stand on both sides, because the clips' own splits say so "
            f"(such as {printable(both[0])})"
        )


def _copies(usable: Sequence[Entry]) -> Iterator[str]:
    """Files that repeat the content of another one."""
    same = defaultdict(list)
    for entry in usable:
        if entry.sha256 is not None:
            same[entry.sha256].append(entry)
    repeated = [entries for entries in same.values() if len(entries) > 1]
    if not repeated:
        return
    count = sum(len(entries) - 1 for entries in repeated)
    first, second = (printable(entry.path) for entry in repeated[0][:2])
    yield (
        f"  equal contents: {count} files repeat another one (such as {first} and {second}); copies stand "
        "on one side of the split"
    )
    mixed = [entries for entries in repeated if len({entry.class_name for entry in entries}) > 1]
    if mixed:
        first, second = (printable(entry.path) for entry in mixed[0][:2])
        yield f"  warning: {len(mixed)} contents stand in two classes (such as {first} and {second})"


def _seconds(entries: Sequence[Entry]) -> float:
    return sum(entry.duration or 0.0 for entry in entries)
