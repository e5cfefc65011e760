"""What lies in a folder: names of any kind, a data set's own splits, links, and all of it counted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmldm.data.folder import Listed, find_media, read_list
from mmldm.data.manifest import json_lines
from mmldm.errors import UserError


def touched(root: Path, *names: str | bytes) -> Path:
    """A folder of empty files."""
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def places(root: Path, **options: object) -> dict[str, tuple[str | None, str | None]]:
    found = find_media(root, **options)
    return {listed.path: (listed.class_name, listed.split) for listed in found.listing}


def test_own_splits_of_a_data_set_are_recognised_below_them_classes(tmp_path: Path) -> None:
    touched(tmp_path, "train/dog/a.mp4", "train/cat/deep/b.mp4", "train/c.mp4")
    touched(tmp_path, "Val/dog/d.mp4", "test/cat/e.mp4", "validation/dog/f.mp4", "docs/readme.txt")
    assert places(tmp_path) == {
        "train/dog/a.mp4": ("dog", "train"),
        "train/cat/deep/b.mp4": ("cat", "train"),
        "train/c.mp4": (None, "train"),
        "Val/dog/d.mp4": ("dog", "held_out"),
        "test/cat/e.mp4": ("cat", "held_out"),
        "validation/dog/f.mp4": ("dog", "held_out"),
    }
    assert find_media(tmp_path).notes == [
        "split folders: train (3 files) is trained on; Val (1 files), test (1 files), validation (1 files) "
        "held out; data.held_out does not apply"
    ]
    named = places(tmp_path, class_pattern="([a-f])[.]mp4")
    assert named["test/cat/e.mp4"] == ("e", "held_out")


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("train/a.mp4", "test/b.mp4", "extra/c.mp4"), "extra stands beside: test, train;"),
        (("val/a.mp4", "test/b.mp4"), "there is no train: test, val;"),
        (("train/dog/a.mp4",), "there is no other split: train;"),
    ],
)
def test_folders_that_only_look_like_splits_are_classes_and_said_so(
    names: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    touched(tmp_path, *names)
    assert {split for _, split in places(tmp_path).values()} == {None}
    assert {name for name, _ in places(tmp_path).values()} == {Path(n).parts[0] for n in names}
    (note,) = find_media(tmp_path).notes
    assert why in note and "read as class" in note


def test_two_spellings_of_a_class_are_one_class_and_files_keep_their_paths(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    touched(tmp_path, f"{composed}/a.mp4", f"{apart}/b.mp4", "tea/c.mp4")
    assert places(tmp_path) == {
        f"{composed}/a.mp4": (composed, None),
        f"{apart}/b.mp4": (composed, None),
        "tea/c.mp4": ("tea", None),
    }
    assert find_media(tmp_path).notes == [
        f"class {composed} is spelled in 2 ways that look alike; they are one class"
    ]
    assert {c for c, _ in places(tmp_path, class_pattern=f"({composed}|tea)").values()} == {
        composed,
        "tea",
    }


def test_recordings_are_found_by_a_pattern(tmp_path: Path) -> None:
    touched(tmp_path, "fire_crackling_136_6_34.mp4", "fire_crackling_136_7.mp4", "unnamed.mp4")
    found = find_media(tmp_path, group_pattern="^([a-z_]+_[0-9]+)_")
    groups = {listed.path: listed.group for listed in found.listing}
    assert groups == {
        "fire_crackling_136_6_34.mp4": "fire_crackling_136",
        "fire_crackling_136_7.mp4": "fire_crackling_136",
        "unnamed.mp4": None,
    }


def test_names_that_are_not_utf8_are_shown_escaped_and_marked(tmp_path: Path) -> None:
    touched(tmp_path, b"caf\xe9/a.mp4", b"b\xff.mp4", "c.mp4")
    named = {listed.path: listed.named for listed in find_media(tmp_path).listing}
    assert named == {r"caf\xe9/a.mp4": False, r"b\xff.mp4": False, "c.mp4": True}
    assert find_media(tmp_path).notes == [
        "names that are not UTF-8: 2 files skipped; rename them or their folders"
    ]


def test_links_are_counted_by_what_they_are_and_one_is_named(tmp_path: Path) -> None:
    root = touched(tmp_path / "clips", "real/a.mp4", "note.txt", ".git/x.mp4", ".hidden.mp4")
    outside = touched(tmp_path / "blobs", "3f2a", "sub/b.mp4")
    (root / "a.mp4").symlink_to("../blobs/3f2a")
    (root / "inside.mp4").symlink_to("real/a.mp4")
    (root / "folder").symlink_to(outside)
    (root / "gone.mp4").symlink_to("nowhere.mp4")
    (root / "loop.mp4").symlink_to("loop.mp4")
    found = find_media(root)
    assert [listed.path for listed in found.listing] == ["inside.mp4", "real/a.mp4"]
    assert found.ignored == {
        "broken link": 2, "hidden": 2, "link out of the folder": 1, "link to a folder": 1,
        "not media": 1,
    }  # fmt: skip
    (note,) = found.notes
    assert note.startswith("2 links not followed (such as folder -> ")
    assert "data.follow_links" in note


def test_links_are_followed_where_asked_each_folder_once(tmp_path: Path) -> None:
    root = touched(tmp_path / "clips", "real/a.mp4")
    outside = touched(tmp_path / "disk", "dog/b.mp4", "dog/deep/c.mp4")
    (root / "dog").symlink_to(outside / "dog")
    (root / "again").symlink_to(outside / "dog" / "deep")
    (root / "same").symlink_to(root / "real")
    (root / "up").symlink_to(tmp_path)
    (outside / "dog" / "round").symlink_to(outside / "dog")
    (root / "c.mp4").symlink_to(outside / "dog" / "b.mp4")
    (root / "loop").symlink_to("loop")
    found = find_media(root, follow_links=True)
    assert [listed.path for listed in found.listing] == [
        "again/c.mp4", "c.mp4", "dog/b.mp4", "real/a.mp4",
    ]  # fmt: skip
    assert found.listing[2].class_name == "dog"
    assert found.ignored == {"link to a folder that is read anyway": 4, "not media": 1}
    assert found.notes == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folder_that_may_not_be_read_is_counted(tmp_path: Path) -> None:
    touched(tmp_path, "closed/a.mp4").joinpath("closed").chmod(0)
    assert find_media(tmp_path).ignored == {"folder that may not be read": 1}
    (tmp_path / "closed").chmod(0o700)


def test_lines_of_a_list_end_at_newlines_alone(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"path": "a\xe2\x80\xa8b.mp4", "group": "r"}\r\n{"path": "c\xc2\x85d.mp4"}\n'
    )
    assert [number for number, _ in json_lines(path)] == [1, 2]
    assert read_list(path).listing == [Listed("a\u2028b.mp4", group="r"), Listed("c\x85d.mp4")]


def test_names_in_a_list_that_no_file_can_have_are_marked(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"path": "a\\u0000.mp4"}\n{"path": "\\ud800.mp4"}\n')
    assert [(e.path, e.named) for e in read_list(path).listing] == [
        (r"a\x00.mp4", False), (r"\ud800.mp4", False),
    ]  # fmt: skip
    path.write_text('{"path": "a.mp4", "class_name": "\\ud800"}\n')
    with pytest.raises(UserError, match="line 1: class_name must be text"):
        read_list(path)
