"""Which files are held out: a draw by name, one for all parts of a recording and all copies of a file.

entries -> units of what belongs together -> entries with a split. No unit ever stands on both sides.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

from mmldm.data.manifest import Entry, Split

COPY = "copy_of_held_out"
"""Reason of a training file whose content its own data set holds out, too."""


def assign_splits(entries: Sequence[Entry], held_out: float, seed: int) -> list[Entry]:
    """Holds out what draws a number below `held_out`, so that its split does not depend on the rest.

    A file draws by its path; files of one recording (`Entry.group`) or of equal content draw together, by the
    recording's name or by the content. Entries that have a split keep it, and what belongs to them follows:
    to the held-out side, if they stand on both. A training entry whose content is held out is skipped.

    Every class keeps a training clip, and from four clips on at least one is held out. What lacks
    sound or picture trains, as held-out clips are for measuring; unless all do, as in a folder of sounds.
    """
    entries = _without_copies(entries)
    units = together(entries)

    # Who has a side already: by the data set, by what belongs to it, or for lack of sound or picture.
    sides: dict[int, Split] = {}
    drawn: list[list[int]] = []
    any_complete = any(entries[i].complete for unit in units for i in unit)
    for unit in units:
        stated = {entries[i].split for i in unit} - {None}
        if stated:
            side: Split = "held_out" if "held_out" in stated else "train"
            sides |= {i: entries[i].split or side for i in unit}
        else:
            sides |= dict.fromkeys(unit, "train")
            may_draw = not any_complete or all(entries[i].complete for i in unit)
            drawn += [unit] if may_draw else []

    # The others draw.
    draws = {unit[0]: draw(_name([entries[i] for i in unit]), seed) for unit in drawn}
    drawn.sort(key=lambda unit: draws[unit[0]])
    chosen = {unit[0] for unit in drawn if draws[unit[0]] < held_out}

    # Every class keeps a training clip: the highest draws are given back where one would keep none.
    members = {unit[0]: Counter(entries[i].class_name for i in unit) for unit in drawn}
    free = Counter(
        entries[i].class_name
        for unit in units
        for i in unit
        if unit[0] not in chosen and sides[i] == "train"
    )
    for unit in reversed(drawn):
        if unit[0] in chosen and not all(free[name] for name in members[unit[0]]):
            chosen.remove(unit[0])
            free += members[unit[0]]

    # From four clips on, one is held out at least: the lowest draw that leaves its classes a clip.
    fixed = any(entry.split == "held_out" for entry in entries)
    if held_out > 0 and not chosen and not fixed and sum(map(len, drawn)) >= 4:
        for unit in drawn:
            if all(free[name] > count for name, count in members[unit[0]].items()):
                chosen.add(unit[0])
                break

    sides |= {i: "held_out" for unit in drawn if unit[0] in chosen for i in unit}
    return [
        entry.model_copy(update={"split": sides[i]}) if i in sides else entry
        for i, entry in enumerate(entries)
    ]


def together(entries: Sequence[Entry]) -> list[list[int]]:
    """Indices of the usable entries that belong together, in the order of the first of each.

    Two entries do if they are of one recording or of equal content, or if a third belongs to both.
    """
    return joined([_marks(entry) if entry.usable else None for entry in entries])


def _marks(entry: Entry) -> list[Hashable]:
    """What an entry may share with others: its content and its recording, as far as they are known."""
    marks = (("content", entry.sha256), ("group", entry.group))
    return [(kind, mark) for kind, mark in marks if mark]


def joined(marks: Sequence[Sequence[Hashable] | None]) -> list[list[int]]:
    """Indices of the things that share a mark, directly or through others; None: left out."""
    # Each thing points towards the first of its unit (union-find, with paths halved on the way).
    parent = list(range(len(marks)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[Hashable, int] = {}
    for i, own in enumerate(marks):
        for mark in own or ():
            a, b = root(first.setdefault(mark, i)), root(i)
            parent[max(a, b)] = min(a, b)
    units = defaultdict(list)
    for i, own in enumerate(marks):
        if own is not None:
            units[root(i)].append(i)
    return list(units.values())


def draw(name: str, seed: int) -> float:
    """A number in [0, 1) that a name keeps whatever other names there are."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _name(unit: Sequence[Entry]) -> str:
    """What a unit draws by: its recording, its content, or a lone file's path."""
    groups = [entry.group for entry in unit if entry.group]
    if groups:
        return f"group:{min(groups)}"
    return unit[0].path if len(unit) == 1 else f"content:{unit[0].sha256}"


def _without_copies(entries: Sequence[Entry]) -> list[Entry]:
    """Skips training entries whose content others hold out, where both have a split of their own."""
    held = {
        entry.sha256: entry.path
        for entry in reversed(entries)
        if entry.usable and entry.split == "held_out" and entry.sha256
    }
    return [
        entry.model_copy(
            update={
                "status": "skipped",
                "reason": COPY,
                "note": f"its content is held out, too, as {held[entry.sha256]}",
            }
        )
        if entry.usable and entry.split == "train" and entry.sha256 in held
        else entry
        for entry in entries
    ]
