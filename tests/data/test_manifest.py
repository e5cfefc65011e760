"""Scanning folders: every file counted, stable splits, and a manifest that survives the disk."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch

from mmldm.data.manifest import Manifest, Row, assign_splits, scan
from mmldm.errors import UserError
from mmldm.media.clip import Clip
from mmldm.media.limits import Limits
from mmldm.types import ClipSpec

from ..remux import without

SPEC = ClipSpec(height=16, width=16)


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    time = torch.arange(32000) / 16000
    frames = torch.randint(0, 255, (20, 3, 16, 16), dtype=torch.uint8)
    clip = Clip(frames, 0.3 * torch.sin(2 * math.pi * 440 * time), 10.0, 16000)
    return clip.save(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture()
def folder(tmp_path: Path, clip_file: Path) -> Path:
    """Two classes, a clip without class, bad files, and what a scan must pass over."""
    root = tmp_path / "clips"
    names = ["bell/a.mp4", "bell/deep/b.MP4", "bell/c.mp4", "drum/a.mp4", "drum/b.mp4", "loose.mp4"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip_file, root / name)
    (root / "drum/broken.mp4").write_bytes(clip_file.read_bytes()[:30])
    (root / "drum/page.webm").write_text("<html>not found</html>")
    (root / "notes.txt").write_text("not media")
    (root / ".hidden.mp4").write_bytes(b"")
    outside = tmp_path / "outside.mp4"
    shutil.copy(clip_file, outside)
    (root / "link.mp4").symlink_to(outside)
    return root


def rows_named(names: list[str], class_name: str | None = None) -> list[Row]:
    return [
        Row(path=name, status="used", class_name=class_name, duration=2.0, size=1, mtime_ns=1)
        for name in names
    ]


def test_scan_finds_every_media_file_and_the_counts_add_up(folder: Path) -> None:
    seen = []
    manifest = scan(folder, SPEC, progress=lambda done, total: seen.append((done, total)))
    assert len(manifest.rows) == 8
    assert len(manifest.usable) == 6
    assert {row.path: row.reason for row in manifest.rows if not row.usable} == {
        "drum/broken.mp4": "unreadable",
        "drum/page.webm": "unreadable",
    }
    assert manifest.ignored == {"not media": 1, "hidden": 1, "link": 1}
    assert seen == [(n, 8) for n in range(1, 9)]


def test_classes_are_the_first_level_of_folders(folder: Path) -> None:
    manifest = scan(folder, SPEC)
    assert manifest.classes == ["bell", "drum"]
    names = {row.path: row.class_name for row in manifest.usable}
    assert names["bell/deep/b.MP4"] == "bell"
    assert names["loose.mp4"] is None


def test_rows_hold_what_was_measured(folder: Path) -> None:
    row = scan(folder, SPEC).usable[0]
    assert (row.width, row.height, row.sample_rate, row.channels) == (16, 16, 16000, 1)
    assert (row.video_codec, row.audio_codec, row.decode_errors) == ("h264", "aac", 0)
    assert row.duration == pytest.approx(2.0, abs=0.01)
    assert row.fps == pytest.approx(10.0)
    assert row.silent_share == pytest.approx(0.0, abs=0.05)


def test_too_short_for_the_clip_is_skipped_and_exactly_long_enough_is_not(folder: Path) -> None:
    exact = SPEC.model_copy(update={"num_frames": 20})
    assert len(scan(folder, exact).usable) == 6
    longer = SPEC.model_copy(update={"num_frames": 21})
    manifest = scan(folder, longer)
    assert Counter(row.reason for row in manifest.rows) == {"too_short": 6, "unreadable": 2}
    with pytest.raises(UserError, match=r"too_short \(6\)"):
        manifest.require_clips()


def test_a_usable_row_is_never_shorter_than_a_clip(folder: Path) -> None:
    spec = ClipSpec(num_frames=151, fps=75.1, height=16, width=16)  # 2.0107 s: in the tolerance
    assert all(row.duration >= spec.duration for row in scan(folder, spec).usable)
    assert len(scan(folder, spec).usable) == 6


def test_a_file_over_its_time_limit_is_a_timeout(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alarm rings as soon as it is set, before any worker can answer."""
    monkeypatch.setattr(threading.Timer, "start", threading.Timer.run)
    manifest = scan(folder, SPEC, limits=Limits(seconds=0.001), workers=1)
    assert {row.reason for row in manifest.rows} == {"timeout"}


def test_saved_manifest_loads_equal(folder: Path, tmp_path: Path) -> None:
    manifest = scan(folder, SPEC)
    path = manifest.save(tmp_path / "manifest.jsonl")
    assert Manifest.load(path) == manifest
    assert json.loads(path.read_text().splitlines()[0])["version"] == 1


def test_files_without_sound_or_picture_are_kept_for_training_where_allowed(
    folder: Path, clip_file: Path, tmp_path: Path
) -> None:
    without("audio", clip_file, folder / "drum/mute.mp4")
    without("video", clip_file, folder / "drum/dark.mp4")
    sound = torch.sin(torch.arange(32000) / 9)
    Clip(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), sound, 10.0, 16000).save(
        folder / "bell/strike.wav"
    )
    strict = {row.path: row.reason for row in scan(folder, SPEC).rows}
    assert (strict["drum/mute.mp4"], strict["drum/dark.mp4"]) == ("no_audio", "no_video")
    assert "bell/strike.wav" not in strict

    manifest = scan(folder, SPEC, allow_missing=True, held_out=0.9)
    kept = {
        row.path: (row.has_audio, row.has_video, row.split, row.note)
        for row in manifest.usable
        if not row.complete
    }
    assert kept == {
        "bell/strike.wav": (True, False, "train", "no picture"),
        "drum/dark.mp4": (True, False, "train", "no picture"),
        "drum/mute.mp4": (False, True, "train", "no sound"),
    }
    assert len(manifest.complete.usable) == 6
    assert all(row.duration == pytest.approx(2.0, abs=0.07) for row in manifest.usable)
    assert "without picture: 2 (such as bell/strike.wav)" in manifest.summary()
    assert Manifest.load(manifest.save(tmp_path / "manifest.jsonl")) == manifest


def test_moved_folder_is_found_beside_its_manifest(folder: Path, tmp_path: Path) -> None:
    scan(folder, SPEC).save(folder / "manifest.jsonl")
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    manifest = Manifest.load(moved / "manifest.jsonl")
    assert all(manifest.file(row).is_file() for row in manifest.usable)


def test_changed_files_are_noticed(folder: Path) -> None:
    manifest = scan(folder, SPEC)
    assert manifest.changed() == []
    (folder / "bell/a.mp4").unlink()
    with (folder / "drum/a.mp4").open("ab") as file:
        file.write(b"x")
    assert [row.path for row in manifest.changed()] == ["bell/a.mp4", "drum/a.mp4"]


def test_plain_list_gives_paths_and_classes(folder: Path) -> None:
    listing = folder / "list.jsonl"
    listing.write_text(
        '{"path": "bell/a.mp4", "class_name": "gong"}\n\n'
        '{"path": "loose.mp4", "split": "held_out"}\n{"path": "missing.mp4"}\n'
    )
    manifest = scan(listing, SPEC)
    assert [(r.path, r.class_name, r.split, r.reason) for r in manifest.rows] == [
        ("bell/a.mp4", "gong", "train", None),
        ("loose.mp4", None, "held_out", None),
        ("missing.mp4", None, None, "unreadable"),
    ]
    assert Manifest.load(manifest.save(folder / "manifest.jsonl")) == manifest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "header"),
        ("not json\n", "line 1 is not JSON"),
        ('{"path": "a.mp4"}\n', "scanned first"),
        ('{"format": "mmldm-manifest", "version": 99, "root": "."}\n', "version 99"),
        (
            '{"format": "mmldm-manifest", "version": 1, "root": "."}\n{"path": "a", "size": "x"}\n',
            "line 2 is not a manifest row",
        ),
    ],
)
def test_a_damaged_manifest_is_a_user_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        Manifest.load(path)


def test_missing_and_empty_sources_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        scan(tmp_path / "nowhere", SPEC)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no media files"):
        scan(tmp_path / "empty", SPEC)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file": "a.mp4"}', 'line 1 has no "path"'),
        ('{"path": "a.mp4", "class_name": 3}', "class_name must be text"),
        ('{"path": "a.mp4", "split": "test"}', 'split must be "train" or "held_out"'),
        ("[1]", "not a JSON object"),
    ],
)
def test_a_wrong_list_is_a_user_error_with_its_line(
    tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "list.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        scan(tmp_path / "list.jsonl", SPEC)


def splits(rows: list[Row], held_out: float = 0.1, seed: int = 0) -> dict[str, str]:
    return {row.path: row.split for row in assign_splits(rows, held_out, seed)}


def test_a_files_split_does_not_depend_on_the_other_files() -> None:
    many = [f"{n}.mp4" for n in range(400)]
    whole = splits(rows_named(many))
    part = splits(rows_named(many[100:300]))
    assert all(whole[name] == split for name, split in part.items())
    assert 20 <= Counter(whole.values())["held_out"] <= 60
    assert splits(rows_named(many), seed=1) != whole


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_few_clips_keep_training_clips_and_hold_out_one_from_four_on(count: int) -> None:
    for seed in range(20):
        counts = Counter(splits(rows_named([f"{n}.mp4" for n in range(count)]), 0.1, seed).values())
        assert counts["train"] >= 1
        assert counts["held_out"] >= (1 if count >= 4 else 0)


def test_every_class_keeps_a_training_clip() -> None:
    for seed in range(20):
        rows = [row for k in range(30) for row in rows_named([f"{k}/a", f"{k}/b"], str(k))]
        chosen = splits(rows, 0.5, seed)
        for k in range(30):
            assert "train" in (chosen[f"{k}/a"], chosen[f"{k}/b"])


def test_nothing_is_held_out_when_asked() -> None:
    assert set(splits(rows_named([f"{n}" for n in range(50)]), 0.0).values()) == {"train"}


def test_pattern_finds_the_class_in_a_file_name(tmp_path: Path, clip_file: Path) -> None:
    for name in ("gBR_sBM_c01_d04_mBR0_ch01", "gHO_sFM_c01_d20_mHO5_ch02", "unnamed"):
        shutil.copy(clip_file, tmp_path / f"{name}.mp4")
    manifest = scan(tmp_path, SPEC, class_pattern="_m([A-Z]{2}[0-9])_")
    assert [row.class_name for row in manifest.rows] == ["BR0", "HO5", None]


def test_summary_names_counts_reasons_and_warnings(folder: Path) -> None:
    text = scan(folder, SPEC, held_out=0.0).summary()
    for part in (
        "8 media files, 6 usable",
        "skipped 2",
        "class bell: 3 clips",
        "unreadable: 2 (such as drum/broken.mp4)",
        "ignored, link: 1",
        "nothing is held out",
        "some clips have a class and some have none",
    ):
        assert part in text


def test_scanning_writes_nothing_into_the_folder(folder: Path) -> None:
    before = {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}
    scan(folder, SPEC)
    assert {path: path.lstat().st_mtime_ns for path in folder.rglob("*")} == before
