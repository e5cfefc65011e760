"""What belongs together stands on one side; what stands alone draws as it always did."""

from __future__ import annotations

import pytest

from mmldm.data.manifest import Entry
from mmldm.data.splits import assign_splits, draw, joined


def entry(path: str, **facts: object) -> Entry:
    common = {"status": "used", "duration": 2.0, "size": 1, "mtime_ns": 1}
    return Entry(path=path, **{**common, **facts})


def sides(entries: list[Entry], held_out: float = 0.3, seed: int = 0) -> dict[str, str | None]:
    return {
        entry.path: entry.split for entry in assign_splits(entries, held_out, seed) if entry.usable
    }


def test_lone_files_draw_by_their_paths_as_in_version_1() -> None:
    """Golden: sides that version 1 of the manifest gave these names (commit 950a8b9)."""
    entries = [entry(f"{n}.mp4", sha256=f"{n:064x}") for n in range(40)]
    held = {int(path[:-4]) for path, side in sides(entries, 0.1).items() if side == "held_out"}
    assert held == {n for n in range(40) if draw(f"{n}.mp4", 0) < 0.1}
    assert held == {3, 14, 21, 34, 38}


@pytest.mark.parametrize("seed", range(10))
def test_equal_contents_and_parts_of_a_recording_stand_on_one_side(seed: int) -> None:
    copies = [entry(f"{n}_{k}.mp4", sha256=f"{n}") for n in range(30) for k in range(3)]
    found = sides(copies, seed=seed)
    assert all(len({found[f"{n}_{k}.mp4"] for k in range(3)}) == 1 for n in range(30))
    assert set(found.values()) == {"train", "held_out"}
    parts = [entry(f"{n}_{k}.mp4", group=f"take {n}") for n in range(30) for k in range(3)]
    found = sides(parts, seed=seed)
    assert all(len({found[f"{n}_{k}.mp4"] for k in range(3)}) == 1 for n in range(30))


@pytest.mark.parametrize("seed", range(10))
def test_a_recordings_side_does_not_depend_on_how_many_parts_there_are(seed: int) -> None:
    def entries(parts: int) -> list[Entry]:
        return [entry(f"{n}_{k}.mp4", group=f"take {n}") for n in range(40) for k in range(parts)]

    few, many = sides(entries(1), seed=seed), sides(entries(4), seed=seed)
    assert all(many[path] == side for path, side in few.items())
    fewer = sides(entries(4)[40:120], seed=seed)
    assert all(many[path] == side for path, side in fewer.items())


def test_a_copy_in_another_recording_joins_both() -> None:
    entries = [
        entry("a1.mp4", group="a", sha256="1"), entry("a2.mp4", group="a", sha256="2"),
        entry("b1.mp4", group="b", sha256="2"), entry("b2.mp4", group="b", sha256="3"),
        *(entry(f"{n}.mp4") for n in range(20)),
    ]  # fmt: skip
    for seed in range(20):
        found = sides(entries, 0.5, seed)
        assert len({found[f"{name}.mp4"] for name in ("a1", "a2", "b1", "b2")}) == 1


def test_what_belongs_to_clips_with_a_split_of_their_own_follows_them() -> None:
    entries = [
        entry("test/a.mp4", sha256="1", split="held_out"), entry("copy of a.mp4", sha256="1"),
        entry("train/b.mp4", group="b", split="train"), entry("more of b.mp4", group="b"),
    ]  # fmt: skip
    for seed in range(20):
        assert sides(entries, 0.5, seed) == {
            "test/a.mp4": "held_out", "copy of a.mp4": "held_out",
            "train/b.mp4": "train", "more of b.mp4": "train",
        }  # fmt: skip


def test_training_copy_of_what_its_data_set_holds_out_is_skipped_and_named() -> None:
    entries = [
        entry("train/a.mp4", sha256="1", split="train"), entry("train/b.mp4", sha256="2", split="train"),
        entry("test/c.mp4", sha256="1", split="held_out"),
    ]  # fmt: skip
    first, second, third = assign_splits(entries, 0.1, 0)
    assert (first.status, first.reason) == ("skipped", "copy_of_held_out")
    assert first.note == "its content is held out, too, as test/c.mp4"
    assert (second, third) == (entries[1], entries[2])


def test_recording_with_an_incomplete_part_trains_as_a_whole() -> None:
    entries = [
        entry(f"{n}_{k}.mp4", group=str(n), has_audio=k > 0) for n in range(9) for k in range(3)
    ]
    assert set(sides(entries, 0.9).values()) == {"train"}


@pytest.mark.parametrize("seed", range(20))
def test_every_class_keeps_a_training_clip_when_recordings_are_drawn(seed: int) -> None:
    entries = [
        entry(f"{name}{n}_{k}.mp4", group=f"{name}{n}", class_name=name)
        for name in ("dog", "cat")
        for n in range(2)
        for k in range(5)
    ]
    found = assign_splits(entries, 0.8, seed)
    assert {entry.class_name for entry in found if entry.split == "train"} == {"dog", "cat"}
    lone = assign_splits([r.model_copy(update={"group": "one"}) for r in entries], 0.8, seed)
    assert {entry.split for entry in lone} == {"train"}


def test_things_that_share_marks_are_joined_through_others() -> None:
    assert joined([["a"], ["b"], None, ["b", "c"], [], ["a", "c"]]) == [[0, 1, 3, 5], [4]]


def test_folder_of_sounds_alone_holds_some_out() -> None:
    sounds = [entry(f"{i}.wav", has_video=False) for i in range(20)]
    assert set(sides(sounds).values()) == {"train", "held_out"}
    beside_a_film = sides([*sounds, entry("film.mp4")])
    assert {beside_a_film[f"{i}.wav"] for i in range(20)} == {"train"}
