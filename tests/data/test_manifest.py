"""Scanning folders: every file counted, stable splits, and a manifest that survives the disk."""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from mmldm.data.clips import WindowDataset
from mmldm.data.folder import find_media
from mmldm.data.latents import cache_key, files_key
from mmldm.data.loader import Failed
from mmldm.data.manifest import Entry, Manifest
from mmldm.data.scan import measure_files, scan
from mmldm.data.splits import assign_splits
from mmldm.errors import MediaError, UserError
from mmldm.media.clip import Clip
from mmldm.media.container import Limits
from mmldm.types import ClipSpec

from ..remux import marked_copy, without

pytestmark = pytest.mark.slow

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
        marked_copy(clip_file, root / name)
    (root / "drum/broken.mp4").write_bytes(clip_file.read_bytes()[:30])
    (root / "drum/page.webm").write_text("<html>not found</html>")
    (root / "notes.txt").write_text("not media")
    (root / ".hidden.mp4").write_bytes(b"")
    outside = tmp_path / "outside.mp4"
    shutil.copy(clip_file, outside)
    (root / "link.mp4").symlink_to(outside)
    return root


def entries_named(names: list[str], class_name: str | None = None) -> list[Entry]:
    return [
        Entry(path=name, status="used", class_name=class_name, duration=2.0, size=1, mtime_ns=1)
        for name in names
    ]


def test_scan_finds_every_media_file_and_the_counts_add_up(folder: Path) -> None:
    seen = []
    manifest = scan(folder, SPEC, progress=lambda done, total: seen.append((done, total)))
    assert len(manifest.entries) == 8
    assert len(manifest.usable) == 6
    assert {entry.path: entry.reason for entry in manifest.entries if not entry.usable} == {
        "drum/broken.mp4": "unreadable",
        "drum/page.webm": "unreadable",
    }
    assert manifest.ignored == {"not media": 1, "hidden": 1, "link out of the folder": 1}
    assert seen == [(n, 8) for n in range(1, 9)]


def test_classes_are_the_first_level_of_folders(folder: Path) -> None:
    manifest = scan(folder, SPEC)
    assert manifest.classes == ["bell", "drum"]
    names = {entry.path: entry.class_name for entry in manifest.usable}
    assert names["bell/deep/b.MP4"] == "bell"
    assert names["loose.mp4"] is None


def test_entries_hold_what_was_measured(folder: Path) -> None:
    entry = scan(folder, SPEC).usable[0]
    assert (entry.width, entry.height, entry.sample_rate, entry.channels) == (16, 16, 16000, 1)
    assert (entry.video_codec, entry.audio_codec, entry.decode_errors) == ("h264", "aac", 0)
    assert entry.duration == pytest.approx(2.0, abs=0.01)
    assert entry.fps == pytest.approx(10.0)
    assert entry.silent_share == pytest.approx(0.0, abs=0.05)


def test_too_short_for_the_clip_is_skipped_and_exactly_long_enough_is_not(folder: Path) -> None:
    exact = SPEC.model_copy(update={"num_frames": 20})
    assert len(scan(folder, exact).usable) == 6
    longer = SPEC.model_copy(update={"num_frames": 21})
    manifest = scan(folder, longer)
    assert Counter(entry.reason for entry in manifest.entries) == {"too_short": 6, "unreadable": 2}
    with pytest.raises(UserError, match=r"too_short \(6\)"):
        manifest.require_clips()


def test_a_usable_entry_is_never_shorter_than_a_clip(folder: Path) -> None:
    spec = ClipSpec(num_frames=151, fps=75.1, height=16, width=16)  # 2.0107 s: in the tolerance
    assert all(entry.duration >= spec.duration for entry in scan(folder, spec).usable)
    assert len(scan(folder, spec).usable) == 6


def test_a_file_over_its_time_limit_is_a_timeout(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alarm rings as soon as it is set, before any worker can answer."""
    monkeypatch.setattr(threading.Timer, "start", threading.Timer.run)
    manifest = scan(folder, SPEC, limits=Limits(seconds=0.001), workers=1)
    assert {entry.reason for entry in manifest.entries} == {"timeout"}


def test_saved_manifest_loads_equal(folder: Path, tmp_path: Path) -> None:
    manifest = scan(folder, SPEC)
    path = manifest.save(tmp_path / "manifest.jsonl")
    assert Manifest.load(path) == manifest
    assert json.loads(path.read_text().split("\n")[0])["version"] == 2


def test_files_without_sound_or_picture_are_kept_for_training_where_allowed(
    folder: Path, clip_file: Path, tmp_path: Path
) -> None:
    without("audio", clip_file, folder / "drum/mute.mp4")
    without("video", clip_file, folder / "drum/dark.mp4")
    sound = torch.sin(torch.arange(32000) / 9)
    Clip(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), sound, 10.0, 16000).save(
        folder / "bell/strike.wav"
    )
    strict = {entry.path: entry.reason for entry in scan(folder, SPEC).entries}
    assert (strict["drum/mute.mp4"], strict["drum/dark.mp4"]) == ("no_audio", "no_video")
    assert "bell/strike.wav" not in strict

    manifest = scan(folder, SPEC, allow_missing=True, held_out=0.9)
    kept = {
        entry.path: (entry.has_audio, entry.has_video, entry.split, entry.note)
        for entry in manifest.usable
        if not entry.complete
    }
    assert kept == {
        "bell/strike.wav": (True, False, "train", "no picture"),
        "drum/dark.mp4": (True, False, "train", "no picture"),
        "drum/mute.mp4": (False, True, "train", "no sound"),
    }
    assert len(manifest.complete.usable) == 6
    assert all(entry.duration == pytest.approx(2.0, abs=0.07) for entry in manifest.usable)
    assert "without picture: 2 (such as bell/strike.wav)" in manifest.summary()
    assert "noted in 2, such as bell/strike.wav: no picture" in manifest.summary()
    assert Manifest.load(manifest.save(tmp_path / "manifest.jsonl")) == manifest


def test_moved_folder_is_found_beside_its_manifest(folder: Path, tmp_path: Path) -> None:
    scan(folder, SPEC).save(folder / "manifest.jsonl")
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    manifest = Manifest.load(moved / "manifest.jsonl")
    assert all(manifest.file(entry).is_file() for entry in manifest.usable)


def test_changed_files_are_noticed(folder: Path) -> None:
    manifest = scan(folder, SPEC)
    assert manifest.changed() == []
    (folder / "bell/a.mp4").unlink()
    with (folder / "drum/a.mp4").open("ab") as file:
        file.write(b"x")
    assert [entry.path for entry in manifest.changed()] == ["bell/a.mp4", "drum/a.mp4"]


def test_plain_list_gives_paths_and_classes(folder: Path) -> None:
    listing = folder / "list.jsonl"
    listing.write_text(
        '{"path": "bell/a.mp4", "class_name": "gong"}\n\n'
        '{"path": "loose.mp4", "split": "held_out"}\n{"path": "missing.mp4"}\n'
    )
    manifest = scan(listing, SPEC)
    assert [(r.path, r.class_name, r.split, r.reason) for r in manifest.entries] == [
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
        ('{"format": "mmldm-manifest", "version": 1}\n', "line 1 is not a manifest header"),
        (
            '{"format": "mmldm-manifest", "version": 1, "root": 7}\n',
            "line 1 is not a manifest header",
        ),
        (
            '{"format": "mmldm-manifest", "version": 1, "root": "."}\n{"path": "a", "size": "x"}\n',
            "line 2 is not a manifest entry",
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


def splits(entries: list[Entry], held_out: float = 0.1, seed: int = 0) -> dict[str, str]:
    return {entry.path: entry.split for entry in assign_splits(entries, held_out, seed)}


def test_a_files_split_does_not_depend_on_the_other_files() -> None:
    many = [f"{n}.mp4" for n in range(400)]
    whole = splits(entries_named(many))
    part = splits(entries_named(many[100:300]))
    assert all(whole[name] == split for name, split in part.items())
    assert 20 <= Counter(whole.values())["held_out"] <= 60
    assert splits(entries_named(many), seed=1) != whole


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_few_clips_keep_training_clips_and_hold_out_one_from_four_on(count: int) -> None:
    for seed in range(20):
        counts = Counter(
            splits(entries_named([f"{n}.mp4" for n in range(count)]), 0.1, seed).values()
        )
        assert counts["train"] >= 1
        assert counts["held_out"] >= (1 if count >= 4 else 0)


def test_every_class_keeps_a_training_clip() -> None:
    for seed in range(20):
        entries = [
            entry for k in range(30) for entry in entries_named([f"{k}/a", f"{k}/b"], str(k))
        ]
        chosen = splits(entries, 0.5, seed)
        for k in range(30):
            assert "train" in (chosen[f"{k}/a"], chosen[f"{k}/b"])


def test_nothing_is_held_out_when_asked() -> None:
    assert set(splits(entries_named([f"{n}" for n in range(50)]), 0.0).values()) == {"train"}


def test_pattern_finds_the_class_in_a_file_name(tmp_path: Path, clip_file: Path) -> None:
    for name in ("gBR_sBM_c01_d04_mBR0_ch01", "gHO_sFM_c01_d20_mHO5_ch02", "unnamed"):
        shutil.copy(clip_file, tmp_path / f"{name}.mp4")
    manifest = scan(tmp_path, SPEC, class_pattern="_m([A-Z]{2}[0-9])_")
    assert [entry.class_name for entry in manifest.entries] == ["BR0", "HO5", None]


def test_summary_names_counts_reasons_and_warnings(folder: Path) -> None:
    text = scan(folder, SPEC, held_out=0.0).summary()
    for part in (
        "8 media files, 6 usable",
        "skipped 2",
        "class bell: 3 clips",
        "unreadable: 2 (such as drum/broken.mp4)",
        "ignored, link out of the folder: 1",
        "nothing is held out",
        "some clips have a class and some have none",
    ):
        assert part in text


def test_class_of_one_clip_is_named(tmp_path: Path, clip_file: Path) -> None:
    for name in ("bell/a", "bell/b", "drum/a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(clip_file, tmp_path / f"{name}.mp4")
    text = scan(tmp_path, SPEC).summary()
    assert "warning: 1 class has one clip each (such as drum): it trains, none is held out" in text


def test_scanning_writes_nothing_into_the_folder(folder: Path) -> None:
    before = {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}
    scan(folder, SPEC)
    assert {path: path.lstat().st_mtime_ns for path in folder.rglob("*")} == before


def name_of(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.fsencode(folder) + b"/" + name))


def test_files_whose_names_are_not_utf8_are_skipped_and_the_rest_is_scanned(
    folder: Path, clip_file: Path, tmp_path: Path
) -> None:
    shutil.copy(clip_file, name_of(folder, b"bell/caf\xe9.mp4"))
    manifest = scan(folder, SPEC)
    entry = next(entry for entry in manifest.entries if entry.reason == "unreadable_name")
    assert entry.path == r"bell/caf\xe9.mp4"
    assert entry.note == r"the name bell/caf\xe9.mp4 is not UTF-8; rename the file or folder"
    assert len(manifest.usable) == 6 and len(manifest.entries) == 9
    assert Manifest.load(manifest.save(tmp_path / "m.jsonl")) == manifest
    assert r"unreadable_name: 1 (such as bell/caf\xe9.mp4)" in manifest.summary()
    assert manifest.changed() == [] and manifest.arrivals(find_media(folder).listing) == []
    with pytest.raises(UserError, match=r"the name of the folder .*/\\xff is not UTF-8"):
        scan(folder.rename(name_of(tmp_path, b"\xff")), SPEC)


@pytest.mark.parametrize(
    "mark", ["\u2028", "\x85", "\x0b", "\x1c", "\u2029", "\r", "\n", "\x1b[2J"]
)
def test_any_character_of_a_name_survives_the_manifest_and_none_reaches_the_terminal(
    mark: str, clip_file: Path, tmp_path: Path
) -> None:
    root = tmp_path / "clips"
    marked_copy(clip_file, root / f"class{mark}x/a{mark}b.mp4")
    marked_copy(clip_file, root / f"class{mark}x/copy{mark}.mp4", "same")
    marked_copy(clip_file, root / f"class{mark}x/twin{mark}.mp4", "same")
    (root / f"bad{mark}.mp4").write_text("no media")
    manifest = scan(root, SPEC)
    assert len(manifest.usable) == 3 and manifest.classes == [f"class{mark}x"]
    assert Manifest.load(manifest.save(tmp_path / "m.jsonl")) == manifest
    assert mark not in manifest.summary().replace("\n", "" if mark != "\n" else " ")
    assert mark not in (manifest.entries[0].note or "")
    lines = manifest.summary().split("\n")
    assert sum("copy" in line for line in lines) == 1
    assert all(line.startswith("  ") for line in lines[1:])


def test_test_clips_of_a_data_set_never_train(clip_file: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for split, count in (("train", 4), ("test", 3), ("val", 2)):
        for n in range(count):
            marked_copy(clip_file, root / split / ("dog", "cat")[n % 2] / f"{n}.mp4")
    marked_copy(clip_file, root / "test/dog/copy.mp4", "leak")
    marked_copy(clip_file, root / "train/dog/leak.mp4", "leak")
    manifest = scan(root, SPEC)
    assert manifest.classes == ["cat", "dog"]
    assert {entry.path.split("/")[0] for entry in manifest.split("train")} == {"train"}
    assert len(manifest.split("train")) == 4 and len(manifest.split("held_out")) == 6
    text = manifest.summary()
    assert (
        "split folders: train (5 files) is trained on; test (4 files), val (2 files) held out"
        in text
    )
    assert "skipped, copy_of_held_out: 1 (such as train/dog/leak.mp4)" in text
    assert Manifest.load(manifest.save(tmp_path / "m.jsonl")) == manifest


def test_equal_contents_are_told_and_so_are_those_in_two_classes(
    clip_file: Path, tmp_path: Path
) -> None:
    for path, mark in {"a/1": "x", "a/2": "x", "b/3": "x", "b/4": "y", "b/5": "z"}.items():
        marked_copy(clip_file, tmp_path / f"{path}.mp4", mark)
    manifest = scan(tmp_path, SPEC, held_out=0.5)
    shas = {entry.path: entry.sha256 for entry in manifest.entries}
    assert shas["a/1.mp4"] == sha256((tmp_path / "a/1.mp4").read_bytes()).hexdigest()
    assert len({entry.split for entry in manifest.entries if entry.sha256 == shas["a/1.mp4"]}) == 1
    text = manifest.summary()
    assert "equal contents: 2 files repeat another one (such as a/1.mp4 and a/2.mp4)" in text
    assert "warning: 1 contents stand in two classes" in text


def test_recordings_are_counted_and_stay_together(clip_file: Path, tmp_path: Path) -> None:
    for name in ("rain_1_a", "rain_1_b", "rain_2_a", "rain_3_a", "other"):
        marked_copy(clip_file, tmp_path / f"{name}.mp4")
    manifest = scan(tmp_path, SPEC, group_pattern="(rain_[0-9])", held_out=0.5)
    assert "recordings: 3 in 4 clips, each on one side; 1 clips are of no known recording" in (
        manifest.summary()
    )
    assert Manifest.load(manifest.save(tmp_path / "m.jsonl")).entries == manifest.entries


def test_folder_of_links_alone_says_that_links_are_not_followed(
    clip_file: Path, tmp_path: Path
) -> None:
    """A snapshot of the hub: every file is a link to a blob."""
    blob = marked_copy(clip_file, tmp_path / "blobs/3f2a")
    root = tmp_path / "snapshots/0a"
    root.mkdir(parents=True)
    (root / "a.mp4").symlink_to("../../blobs/3f2a")
    with pytest.raises(
        UserError, match=r"no media files;.*1 link not followed \(such as a.mp4 -> "
    ):
        scan(root, SPEC)
    manifest = scan(root, SPEC, follow_links=True)
    assert [entry.path for entry in manifest.usable] == ["a.mp4"]
    assert manifest.usable[0].sha256 == sha256(blob.read_bytes()).hexdigest()


def test_root_is_absolute_wherever_the_scan_was_started(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = scan("clips", SPEC)
    assert manifest.root == folder.resolve()
    path = manifest.save("m.jsonl").resolve()
    monkeypatch.chdir("/")
    assert Manifest.load(path) == manifest


def test_relative_root_of_version_1_is_where_the_clips_are(
    folder: Path, clip_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder of that name, with files of other sizes under the same names, is not it."""
    manifest = scan(folder, SPEC)
    path = manifest.save(tmp_path / "m.jsonl")
    as_version_1(path, root="clips")
    for entry in manifest.usable:
        marked_copy(clip_file, tmp_path / "elsewhere/clips" / entry.path, "something else")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Manifest.load(path).root == folder.resolve()


def as_version_1(path: Path, root: str | None = None) -> None:
    """Rewrites a manifest as version 1 wrote it."""
    header, *entries = [json.loads(line) for line in path.read_text().split("\n") if line]
    old: dict[str, Any] = {
        "format": "mmldm-manifest",
        "version": 1,
        "root": root or header["root"],
        "ignored": {},
    }
    entries = [
        {k: v for k, v in entry.items() if k not in ("sha256", "group")} for entry in entries
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in (old, *entries)))


def test_manifest_of_version_1_opens_and_keeps_its_files_key(folder: Path, tmp_path: Path) -> None:
    manifest = scan(folder, SPEC)
    path = manifest.save(tmp_path / "m.jsonl")
    as_version_1(path)
    old = Manifest.load(path)
    assert [entry.path for entry in old.entries] == [entry.path for entry in manifest.entries]
    entries = [[r.path, r.size, r.mtime_ns, r.class_name, r.split, r.duration] for r in old.usable]
    assert files_key(old) == cache_key(files=entries)
    assert old.changed() == []
    os.utime(old.file(old.usable[0]), ns=(1, 1))
    assert old.changed() == old.usable[:1]


def test_touched_file_is_the_same_file_and_other_content_is_not(folder: Path) -> None:
    manifest = scan(folder, SPEC)
    first, second, third, *_ = manifest.usable
    os.utime(folder / first.path, ns=(10**18, 10**18))
    data = bytearray((folder / second.path).read_bytes())
    data[-1] ^= 1
    (folder / second.path).write_bytes(data)
    (folder / "drum/broken.mp4").unlink()
    assert manifest.changed() == [second]
    touched = manifest.touched()
    assert [entry.mtime_ns for entry in touched.entries if entry.path == first.path] == [10**18]
    assert {entry.path for entry in touched.entries if entry not in manifest.entries} == {
        first.path
    }
    assert files_key(touched) == files_key(manifest)
    assert touched.touched() == touched


def test_changed_content_of_the_same_size_and_time_is_noticed_when_it_is_read(folder: Path) -> None:
    manifest = scan(folder, SPEC)
    entry, other = manifest.usable[:2]
    path = folder / entry.path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))
    assert manifest.changed() == []
    with pytest.raises(MediaError, match="another content than when it was scanned") as error:
        manifest.file(entry)
    assert error.value.reason == "changed"
    assert manifest.file(other) == folder / other.path
    everything = manifest.model_copy(
        update={"entries": tuple(r.model_copy(update={"split": "train"}) for r in manifest.usable)}
    )
    items = [WindowDataset(everything, SPEC, "train", 0)[(0, index)] for index in range(2)]
    assert isinstance(items[0], Failed) and items[0].file == entry.path
    assert not isinstance(items[1], Failed)


def test_files_that_came_or_were_mended_since_the_scan_are_found(
    folder: Path, clip_file: Path
) -> None:
    manifest = scan(folder, SPEC)
    assert manifest.arrivals(find_media(folder).listing) == []
    marked_copy(clip_file, folder / "bell/new.mp4")
    marked_copy(clip_file, folder / "drum/broken.mp4")
    arrived = manifest.arrivals(find_media(folder).listing)
    assert arrived == ["bell/new.mp4", "drum/broken.mp4"]
    assert manifest.changed() == []


def test_second_scan_decodes_what_is_new_and_known_clips_keep_their_side(
    folder: Path, clip_file: Path
) -> None:
    manifest = scan(folder, SPEC, held_out=0.5)
    turned = {"train": "held_out", "held_out": "train", None: None}
    known = manifest.model_copy(
        update={"entries": tuple(r.model_copy(update={"split": turned[r.split], "fps": 99.0})
                              for r in manifest.entries)}
    )  # fmt: skip
    marked_copy(clip_file, folder / "bell/new.mp4")
    (folder / "bell/a.mp4").unlink()
    os.utime(folder / "drum/a.mp4", ns=(10**18, 10**18))
    marked_copy(clip_file, folder / "drum/b.mp4", "other content")
    seen = []
    again = scan(
        folder, SPEC, held_out=0.5, known=known, progress=lambda *counts: seen.append(counts)
    )
    assert len(seen) == 2 and seen[-1] == (8, 8)
    fps = {entry.path: entry.fps for entry in again.usable}
    assert {path for path, rate in fps.items() if rate != 99.0} == {"bell/new.mp4", "drum/b.mp4"}
    sides = {entry.path: entry.split for entry in known.usable}
    assert all(entry.split == sides[entry.path] for entry in again.usable if entry.path in sides)
    assert "bell/a.mp4" not in fps and again.changed() == []


def test_second_scan_of_version_1_skips_training_copies_of_what_is_held_out(
    folder: Path, clip_file: Path
) -> None:
    marked_copy(clip_file, folder / "bell/twin.mp4", (folder / "bell/a.mp4").as_posix())
    sides = {"bell/a.mp4": "held_out", "bell/twin.mp4": "train"}
    entries = [
        entry.model_copy(update={"sha256": None, "split": sides.get(entry.path, entry.split)})
        for entry in scan(folder, SPEC).entries
    ]
    old = Manifest(root=folder, entries=tuple(entries))
    again = {entry.path: entry for entry in scan(folder, SPEC, known=old).entries}
    assert again["bell/a.mp4"].split == "held_out" and again["bell/a.mp4"].sha256
    assert again["bell/twin.mp4"].reason == "copy_of_held_out"


@pytest.mark.parametrize("lines", [1, 4, 8])
def test_manifest_cut_at_the_end_of_a_line_is_noticed(
    lines: int, folder: Path, tmp_path: Path
) -> None:
    path = scan(folder, SPEC).save(tmp_path / "m.jsonl")
    kept = path.read_bytes().split(b"\n")[:lines]
    path.write_bytes(b"\n".join(kept) + b"\n")
    with pytest.raises(UserError, match=f"is cut: it holds {lines - 1} of 8 files"):
        Manifest.load(path)


def test_interrupted_scan_goes_on_and_ends_as_if_it_had_not_been(
    folder: Path, tmp_path: Path
) -> None:
    unfinished = tmp_path / "new" / "m.jsonl.unfinished"
    whole = scan(folder, SPEC)
    assert not unfinished.parent.exists()

    def stop_at(count: int) -> Callable[[int, int], None]:
        def progress(done: int, total: int) -> None:
            if done == count:
                raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        scan(folder, SPEC, workers=1, unfinished=unfinished, progress=stop_at(3))
    assert len(unfinished.read_text().split("\n")) == 1 + 3 + 1
    with unfinished.open("a") as file:
        file.write('{"path": "torn')
    lines = [json.loads(line) for line in unfinished.read_text().split("\n")[1:4]]
    seen: list[int] = []
    (folder / lines[0]["path"]).touch()
    with pytest.raises(KeyboardInterrupt):
        scan(folder, SPEC, workers=1, unfinished=unfinished, progress=stop_at(5))
    kept = [json.loads(line)["path"] for line in unfinished.read_text().split("\n")
            if line.endswith("}}")]  # fmt: skip
    assert len(kept) == 6 and set(kept) >= {line["path"] for line in lines}
    other = Limits(seconds=99)
    resumed = scan(folder, SPEC, unfinished=unfinished, progress=lambda done, _: seen.append(done))
    assert seen == [*range(1, 9)]
    drop = {"mtime_ns": 0}
    assert [r.model_copy(update=drop) for r in resumed.entries] == [
        r.model_copy(update=drop) for r in whole.entries
    ]
    assert not unfinished.parent.exists() or not list(unfinished.parent.iterdir())
    assert scan(folder, SPEC, limits=other, unfinished=unfinished).entries == resumed.entries


def test_results_under_other_limits_are_not_taken_over(folder: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "m.unfinished"
    entries = find_media(folder).listing
    strict = Limits(max_pixels=16)
    first = next(iter(measure_files(folder, entries, strict, False, 1, unfinished)))
    assert first.reason == "too_large" and unfinished.is_file()
    again = measure_files(folder, entries, Limits(), False, 1, unfinished)
    assert {outcome.reason for outcome in again} == {None, "unreadable"}


def test_manifest_as_a_source_stands_for_its_folder_and_keeps_its_splits(
    folder: Path, tmp_path: Path
) -> None:
    manifest = scan(folder, SPEC, held_out=0.5, seed=3)
    path = manifest.save(tmp_path / "elsewhere.jsonl")
    again = scan(path, SPEC, held_out=0.0)
    assert again.entries == manifest.entries and again.root == manifest.root
