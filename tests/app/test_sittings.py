"""Visitors' files: their own alone, bounded, and gone after their time."""

from pathlib import Path

import pytest

from mmldm.app.safety import Bounds
from mmldm.app.sittings import PREFIX, Entry, Result, Sitting, Sittings
from mmldm.errors import UserError

BOUNDS = Bounds(uploads=2, clips=3, visitors=2, kept_seconds=100)


@pytest.fixture
def sittings(tmp_path: Path):
    sittings = Sittings(BOUNDS, tmp_path)
    yield sittings
    sittings.close()


def made(sitting: Sitting, when: float = 0.0, count: int = 1) -> Entry:
    """An entry whose files are there."""
    results = []
    for _ in range(count):
        result = Result(sitting.new_id(), sitting.folder, "glass", 3, "glass", 1.6)
        for file in result.files:
            file.write_text("x")
        results.append(result)
    entry = Entry("made", "", tuple(results), (), when)
    sitting.add(entry)
    return entry


def test_a_visitor_keeps_his_sitting(sittings: Sittings) -> None:
    assert sittings.of("ann") is sittings.of("ann")
    assert sittings.of("ann") is not sittings.of("bob")


def test_a_file_is_served_to_its_visitor_alone(sittings: Sittings) -> None:
    sitting = sittings.of("ann")
    name = made(sitting).results[0].mp4.name
    folder = sitting.folder.name
    assert sittings.clip_file("ann", folder, name) == sitting.folder / name
    assert sittings.clip_file("bob", folder, name) is None
    sittings.of("bob")
    assert sittings.clip_file("bob", folder, name) is None


@pytest.mark.parametrize(
    "name", ["../secret", "settings", ".hidden", "clip_0002.mp4", "/etc/passwd"]
)
def test_only_files_of_results_are_served(sittings: Sittings, name: str) -> None:
    sitting = sittings.of("ann")
    made(sitting)
    (sittings.root / "secret").write_text("x")
    (sitting.folder / ".hidden").write_text("x")
    assert sittings.clip_file("ann", sitting.folder.name, name) is None


def test_an_upload_belongs_to_who_gave_it(sittings: Sittings) -> None:
    path = sittings.uploads / "a.wav"
    path.write_text("x")
    assert not sittings.is_own("ann", str(path))
    sittings.own("ann", str(path))
    assert sittings.is_own("ann", str(path)) and not sittings.is_own("bob", str(path))
    # Two who give the same both have it.
    sittings.own("bob", str(path))
    assert sittings.is_own("ann", str(path)) and sittings.is_own("bob", str(path))


def test_a_way_round_does_not_make_a_file_ones_own(sittings: Sittings) -> None:
    path = sittings.uploads / "a.wav"
    path.write_text("x")
    sittings.own("ann", str(path))
    assert not sittings.is_own("ann", str(sittings.uploads / ".." / "uploads" / ".." / "b"))
    assert sittings.is_own("ann", str(sittings.uploads / ".." / "uploads" / "a.wav"))


def test_uploads_are_bounded_in_number(sittings: Sittings) -> None:
    for name in ("a", "b"):
        assert sittings.may_upload("ann")
        (sittings.uploads / name).write_text("x")
        sittings.own("ann", str(sittings.uploads / name))
    assert not sittings.may_upload("ann") and sittings.may_upload("bob")


def test_everything_goes_after_its_time(sittings: Sittings) -> None:
    sitting = sittings.of("ann")
    old, new = made(sitting, when=1000.0), made(sitting, when=1090.0)
    upload = sittings.uploads / "x" / "a.wav"
    upload.parent.mkdir()
    upload.write_text("x")
    sittings.own("ann", str(upload))
    sittings.sweep(now=1101.0)
    assert not any(file.exists() for file in old.results[0].files)
    assert all(file.exists() for file in new.results[0].files)
    assert sitting.entries == [new] and upload.exists()

    sittings.sweep(now=upload.stat().st_mtime + 101)
    assert sitting.entries == [] and not sitting.folder.exists() and not upload.exists()
    assert not sittings.is_own("ann", str(upload))


def test_of_too_many_clips_the_oldest_go(sittings: Sittings) -> None:
    sitting = sittings.of("ann")
    first = made(sitting, count=2)
    second = made(sitting, count=2)
    assert sitting.entries == [second] and not first.results[0].mp4.exists()
    with pytest.raises(UserError, match="not here any more"):
        sitting.find(first.results[0].id)
    assert sitting.find(second.results[1].id) == second.results[1]


def test_of_too_many_visitors_the_one_who_was_away_longest_goes(sittings: Sittings) -> None:
    ann = sittings.of("ann")
    sittings.of("bob")
    sittings.of("cid")
    assert not ann.folder.exists() and sittings.of("bob").folder.exists()


def test_a_closed_page_leaves_nothing(tmp_path: Path) -> None:
    sittings = Sittings(BOUNDS, tmp_path)
    made(sittings.of("ann"))
    sittings.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_page_left_goes_with_the_next(tmp_path: Path) -> None:
    left = tmp_path / f"{PREFIX}{2**22 + 1}-x"  # above the largest process number
    left.mkdir()
    other = tmp_path / f"{PREFIX}not-a-number"
    other.mkdir()
    Sittings(BOUNDS, tmp_path).close()
    assert not left.exists() and other.exists()
