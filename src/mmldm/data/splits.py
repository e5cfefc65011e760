"""Which files are held out: a draw by name, one for all parts of a recording and all copies of a file.

rows -> rows with a split; what belongs together never stands on both sides
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

from mmldm.data.rows import Row, Split

COPY = "copy_of_held_out"
"""Reason of a training file whose content its own data set holds out, too."""


def assign_splits(rows: Sequence[Row], held_out: float, seed: int) -> list[Row]:
    """Holds out what draws a number below `held_out`, so that its split does not depend on the rest.

    A file draws by its path; files of one recording (`Row.group`) or of equal content draw together, by the
    recording's name or by the content. Rows that have a split keep it, and what belongs to them follows: to
    the held-out side, if they stand on both. A training row whose content is held out is skipped.

    Every class keeps a training clip, and from four clips on at least one is held out. What lacks
    sound or picture trains, because held-out clips are for measuring.
    """
    rows = _without_copies(rows)
    units = together(rows)
    sides: dict[int, Split] = {}
    drawn: list[list[int]] = []
    for unit in units:
        stated = {rows[i].split for i in unit} - {None}
        if stated:
            side: Split = "held_out" if "held_out" in stated else "train"
            sides |= {i: rows[i].split or side for i in unit}
        else:
            sides |= dict.fromkeys(unit, "train")
            drawn += [unit] if all(rows[i].complete for i in unit) else []
    draws = {unit[0]: draw(_name([rows[i] for i in unit]), seed) for unit in drawn}
    drawn.sort(key=lambda unit: draws[unit[0]])
    chosen = {unit[0] for unit in drawn if draws[unit[0]] < held_out}
    free = Counter(
        rows[i].class_name
        for unit in units
        for i in unit
        if unit[0] not in chosen and sides[i] == "train"
    )
    members = {unit[0]: Counter(rows[i].class_name for i in unit) for unit in drawn}
    for unit in reversed(drawn):
        if unit[0] in chosen and not all(free[name] for name in members[unit[0]]):
            chosen.remove(unit[0])
            free += members[unit[0]]
    fixed = any(row.split == "held_out" for row in rows)
    if held_out > 0 and not chosen and not fixed and sum(map(len, drawn)) >= 4:
        for unit in drawn:
            if all(free[name] > count for name, count in members[unit[0]].items()):
                chosen.add(unit[0])
                break
    sides |= {i: "held_out" for unit in drawn if unit[0] in chosen for i in unit}
    return [
        row.model_copy(update={"split": sides[i]}) if i in sides else row
        for i, row in enumerate(rows)
    ]


def together(rows: Sequence[Row]) -> list[list[int]]:
    """Indices of the usable rows that belong together, in the order of the first of each.

    Two rows do if they are of one recording or of equal content, or if a third belongs to both.
    """
    return joined([None if not row.usable else _marks(row.sha256, row.group) for row in rows])


def _marks(sha256: str | None, group: str | None) -> list[Hashable]:
    return [(kind, mark) for kind, mark in (("content", sha256), ("group", group)) if mark]


def joined(marks: Sequence[Sequence[Hashable] | None]) -> list[list[int]]:
    """Indices of the things that share a mark, directly or through others; None: left out."""
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


def _name(unit: Sequence[Row]) -> str:
    """What a unit draws by: its recording, its content, or a lone file's path."""
    groups = [row.group for row in unit if row.group]
    if groups:
        return f"group:{min(groups)}"
    return unit[0].path if len(unit) == 1 else f"content:{unit[0].sha256}"


def _without_copies(rows: Sequence[Row]) -> list[Row]:
    """Skips the training rows whose content other rows hold out, where both have a split of their own."""
    held = {
        row.sha256: row.path
        for row in reversed(rows)
        if row.usable and row.split == "held_out" and row.sha256
    }
    return [
        row.model_copy(
            update={
                "status": "skipped",
                "reason": COPY,
                "note": f"its content is held out, too, as {held[row.sha256]}",
            }
        )
        if row.usable and row.split == "train" and row.sha256 in held
        else row
        for row in rows
    ]
