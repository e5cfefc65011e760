"""The clips that a run is about: the same ones from everywhere, moved, touched, come and gone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmldm.config import RunConfig, changed
from mmldm.data.latents import files_key
from mmldm.data.manifest import Manifest
from mmldm.errors import UserError
from mmldm.training.distributed import Process
from mmldm.training.run_clips import claim, find_manifest
from mmldm.training.run_folder import RunFolder

from ..data.test_manifest import as_version_1
from ..remux import marked_copy
from ..smallest import smallest_recipe

pytestmark = pytest.mark.slow


@pytest.fixture
def clips(clip_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clip_folder, tmp_path / "data" / "impacts"))


@pytest.fixture
def run(clips: Path, tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    record(folder, find_manifest(folder, str(clips), recipe(), quiet))
    return folder


def recipe(*changes: str) -> RunConfig:
    return changed(smallest_recipe(), ["data.held_out=0.3", *changes])


def quiet(what: str, done: int, total: int) -> None:
    """No progress is looked at here."""


def record(folder: RunFolder, manifest: Manifest, config: RunConfig | None = None) -> None:
    with claim(folder, config or recipe(), manifest, Process()):
        pass


def found(
    folder: RunFolder, source: Path | str | None = None, **options: Any
) -> tuple[Manifest, list[str]]:
    notes: list[str] = []
    options.setdefault("progress", quiet)
    progress = options.pop("progress")
    name = None if source is None else str(source)
    manifest = find_manifest(folder, name, recipe(), progress, note=notes.append, **options)
    return manifest, notes


def sides(manifest: Manifest) -> dict[str, str | None]:
    return {row.path: row.split for row in manifest.usable}


def begin(folder: RunFolder) -> None:
    (folder.job("vae") / "checkpoints" / "step_00000002").mkdir(parents=True)


def test_run_is_about_the_same_clips_from_every_working_directory(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clips.parent)
    folder = RunFolder(tmp_path / "run")
    first, _ = found(folder, "impacts")
    record(folder, first)
    other = tmp_path / "other"
    shutil.copytree(clips / "wood", other / "impacts")
    monkeypatch.chdir(other)
    assert found(folder)[0] == first and found(folder, "../data/impacts")[0] == first
    with pytest.raises(UserError) as refused:
        found(folder, "impacts")
    assert str(refused.value) == (
        f"the run in {folder.root} is about the clips in {clips}, not about {other / 'impacts'}: "
        "choose another run folder."
    )


def test_moved_clips_are_told_once(run: RunFolder, clips: Path, tmp_path: Path) -> None:
    before = Manifest.load(run.manifest)
    moved = tmp_path / "moved"
    shutil.copytree(clips, moved, copy_function=shutil.copyfile)  # With times of today.
    with pytest.raises(UserError, match="all of them are in .*/moved, too; .* add --data"):
        found(run, moved)
    shutil.rmtree(clips)
    with pytest.raises(UserError, match="were in .*/impacts, which is not there: .* with --data"):
        found(run)
    manifest, notes = found(run, moved_to=str(moved))
    assert manifest.root == moved and sides(manifest) == sides(before)
    assert notes[0].endswith(f"are in {moved} now: all are there.")
    begin(run)
    record(run, manifest)
    assert found(run)[0] == found(run, moved)[0] == manifest
    assert files_key(manifest) == files_key(before)


def test_folder_that_holds_other_clips_is_not_where_they_are_now(
    run: RunFolder, clips: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(clips, tmp_path / "moved"))
    first, second = sorted(moved.glob("*/*.mp4"))[:2]
    first.unlink()
    data = bytearray(second.read_bytes())
    data[-1] ^= 1
    second.write_bytes(data)
    with pytest.raises(
        UserError, match="1 clips are gone and 1 clips changed from what was scanned"
    ):
        found(run, moved_to=str(moved))
    with pytest.raises(UserError, match="is not a folder"):
        found(run, moved_to=str(tmp_path / "nowhere"))


def test_moved_clips_of_version_1_are_known_by_size_and_time(
    run: RunFolder, clips: Path, tmp_path: Path
) -> None:
    as_version_1(run.manifest)
    old = Manifest.load(run.manifest)
    shutil.copytree(clips, tmp_path / "kept")
    assert files_key(found(run, moved_to=str(tmp_path / "kept"))[0]) == files_key(old)
    shutil.copytree(clips, tmp_path / "lost", copy_function=shutil.copyfile)
    with pytest.raises(UserError, match="sizes and times alone: copy with times kept"):
        found(run, moved_to=str(tmp_path / "lost"))


def test_touched_clips_are_taken_as_the_same_once(run: RunFolder, clips: Path) -> None:
    before = Manifest.load(run.manifest)
    for path in clips.glob("*/*.mp4"):
        os.utime(path, ns=(10**18, 10**18))
    manifest, notes = found(run)
    assert notes == [
        "12 clips have another time of change and the same content: taken as the same."
    ]
    assert files_key(manifest) == files_key(before) and manifest != before
    begin(run)
    record(run, manifest)
    assert found(run) == (manifest, [])


def test_clips_that_came_since_the_scan_are_counted_and_taken_in_by_a_rescan(
    run: RunFolder, clips: Path
) -> None:
    before = Manifest.load(run.manifest)
    source = next(clips.glob("wood/*.mp4"))
    for n in range(3):
        marked_copy(source, clips / "wood" / f"new_{n}.mp4")
    marked_copy(source, clips / "wood" / "copy.mp4", "x").write_bytes(source.read_bytes())
    manifest, notes = found(run)
    assert manifest == before
    assert notes == [
        "4 clips have come or been mended since the scan and are not trained on (such as "
        "wood/copy.mp4): --rescan takes them in."
    ]
    counts: list[tuple[int, int]] = []
    again, notes = found(run, rescan=True, progress=lambda what, *done: counts.append(done))
    assert counts == [(n, 16) for n in range(13, 17)]
    assert notes == [
        "rescan: 4 clips new or mended, 0 with new content, 0 gone; 16 usable, 12 before."
    ]
    assert sides(before).items() <= sides(again).items()
    known = next(row for row in before.entries if clips / row.path == source)
    assert sides(again)["wood/copy.mp4"] == known.split
    record(run, again)
    assert found(run, rescan=True) == (again, ["rescan: the clips are as they were."])


def test_clips_that_are_gone_or_changed_are_refused_or_dropped_and_told(
    run: RunFolder, clips: Path
) -> None:
    before = Manifest.load(run.manifest)
    train = [row.path for row in before.split("train")]
    (clips / train[0]).unlink()
    marked_copy(clips / train[1], clips / train[2], "other content")
    with pytest.raises(
        UserError, match="1 clips are gone and 1 clips changed since they were scan"
    ):
        found(run)
    again, notes = found(run, rescan=True)
    assert notes == [
        "rescan: 0 clips new or mended, 1 with new content, 1 gone (such as "
        f"{train[0]}); 11 usable, 12 before."
    ]
    assert sides(again).items() <= sides(before).items() and train[0] not in sides(again)


def test_rescan_is_refused_where_a_job_has_begun_and_nothing_is_decoded(
    run: RunFolder, clips: Path
) -> None:
    begin(run)
    assert found(run, rescan=True)[1] == ["rescan: the clips are as they were."]
    marked_copy(next(clips.glob("wood/*.mp4")), clips / "wood" / "new.mp4")
    bytes_before = run.manifest.read_bytes()

    def progress(what: str, done: int, total: int) -> None:
        raise AssertionError("decoded")

    with pytest.raises(UserError) as refused:
        found(run, rescan=True, progress=progress)
    assert "the vae job has been trained on the clips as they were scanned" in str(refused.value)
    assert "(1 new and 0 changed or gone)" in str(refused.value)
    assert f"start another one with --config {run.config}" in str(refused.value)
    fewer = Manifest.load(run.manifest)
    fewer = fewer.model_copy(update={"entries": fewer.entries[:-1]})
    with pytest.raises(UserError, match="the vae job has been trained on"):
        record(run, fewer)
    assert run.manifest.read_bytes() == bytes_before


def test_files_beside_a_list_have_not_come_since_the_scan(clips: Path, tmp_path: Path) -> None:
    listing = clips / "list.jsonl"
    names = sorted(path.relative_to(clips).as_posix() for path in clips.glob("*/*.mp4"))
    lines = [f'{{"path": "{name}"}}\n' for name in names]
    listing.write_text("".join(lines[:8]))
    folder = RunFolder(tmp_path / "run")
    manifest, _ = found(folder, listing)
    record(folder, manifest)
    assert found(folder, listing) == (manifest, [])
    listing.write_text("".join(lines[:10]))
    again, notes = found(folder, listing, rescan=True)
    assert len(again.usable) == 10 and notes[0].startswith("rescan: 2 clips new")


def test_broken_files_may_come_and_go(run: RunFolder, clips: Path, tmp_path: Path) -> None:
    (clips / "broken.mp4").write_text("no media")
    folder = RunFolder(tmp_path / "second")
    manifest, _ = found(folder, clips)
    record(folder, manifest)
    (clips / "broken.mp4").unlink()
    assert found(folder) == (manifest, [])


def test_interrupted_scan_of_a_run_goes_on_and_leaves_nothing(clips: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")

    def stop(after: int) -> Callable[[str, int, int], None]:
        def progress(what: str, done: int, total: int) -> None:
            if done > after:
                raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        found(folder, clips, progress=stop(4), keep=False)
    assert not folder.root.exists()
    with pytest.raises(KeyboardInterrupt):
        found(folder, clips, progress=stop(4))
    assert folder.unfinished_scan.is_file()
    counts: list[int] = []
    found(folder, clips, progress=lambda what, done, total: counts.append(done))
    assert counts == list(range(1, 13)) and not folder.unfinished_scan.exists()
