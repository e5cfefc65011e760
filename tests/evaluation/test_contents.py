"""Equal contents are found within sets and between them, and no clip is compared with itself as real."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmldm.data.scan import scan
from mmldm.errors import UserError
from mmldm.evaluation.protocol import find_protocol
from mmldm.evaluation.recordings import apart, halves, repeated, shared
from mmldm.evaluation.sets import ClipSet, ClipSource, clip_set
from mmldm.evaluation.sides import Finder, RealSets
from mmldm.types import ClipSpec
from mmldm.worlds.impacts.clips import ImpactsConfig, synthesize

from ..remux import marked_copy

pytestmark = pytest.mark.slow

RULES = find_protocol("default")


def clips(name: str, **contents: str) -> ClipSet:
    def read(spec: ClipSpec) -> None:
        raise AssertionError("not needed")

    sources = (ClipSource(file, file, f"key of {file}", None, read, sha)
               for file, sha in contents.items())  # fmt: skip
    return ClipSet(name, "here", tuple(sources))


def test_contents_that_stand_twice_are_named() -> None:
    first, second = clips("generated", a="1", b="2", c="2", d="3"), clips("reference", x="2", y="4")
    third = clips("real", z="1")
    assert repeated(first) == [["b", "c"]] and repeated(second) == []
    sets = {"generated": first, "reference": second, "real": third}
    assert shared(sets) == [
        {"first": "generated", "second": "reference", "clips": [["b", "x"], ["c", "x"]]},
        {"first": "generated", "second": "real", "clips": [["a", "z"]]},
    ]


def test_held_out_clips_that_the_reference_holds_are_taken_out_and_named() -> None:
    reference = clips("reference", a="1", b="2")
    left = apart(clips("real", p="1", q="3", r="4"), reference)
    assert [clip.name for clip in left.clips] == ["q", "r"]
    assert [(s.file, s.reason, s.sentence) for s in left.skipped] == [
        ("p", "in_reference", "its content is in the reference, too, as a")
    ]
    other = clips("real", q="3", r="4")
    assert apart(other, reference) is other
    with pytest.raises(UserError) as refused:
        apart(clips("real", p="1", q="3"), reference)
    assert str(refused.value) == (
        "1 of 2 held-out clips are in the reference, too (such as p, there a), and 1 are left: name a "
        "reference without them"
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "clips"
    synthesize(folder, ImpactsConfig(materials=("wood", "glass")), 8, workers=1)
    return folder


def real_sets(out: Path, reference: Path, held_out: Path | None = None) -> RealSets:
    finder = Finder(out, RULES, 1, lambda what, done, total: None)
    return finder.real_sets(reference, held_out)


def contents(found: ClipSet) -> set[str | None]:
    return {clip.content for clip in found.clips}


def test_halves_of_a_reference_with_copies_share_no_content(world: Path, tmp_path: Path) -> None:
    for path in world.glob("*/*.mp4"):
        for k in range(2):
            copy = tmp_path / "twice" / path.parent.name / f"{path.stem}_{k}.mp4"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    found = real_sets(tmp_path / "out", tmp_path / "twice")
    assert not contents(found.anchor) & contents(found.real)
    assert len(found.anchor.clips) == len(found.real.clips) == 8
    assert len(repeated(found.reference)) == 8
    lone = real_sets(tmp_path / "lone", world)
    assert len(lone.anchor.clips) == 4 and repeated(lone.reference) == []
    few = tmp_path / "few"
    for k in range(4):
        marked_copy(next(world.glob("wood/*.mp4")), few / f"{k}.mp4", "same")
    with pytest.raises(UserError, match="cannot be split in two: its clips are copies"):
        real_sets(tmp_path / "few_out", few)


def test_halves_keep_recordings_together(world: Path) -> None:
    manifest = scan(world, RULES.spec, held_out=0.0)
    pairs = [
        row.model_copy(update={"group": str(int(Path(row.path).stem) // 2)})
        for row in manifest.entries
    ]
    for seed in range(5):
        parts = halves(clip_set("reference", manifest, pairs, RULES), seed)
        groups = [{clip.group for clip in part.clips} for part in parts]
        assert not groups[0] & groups[1] and len(groups[0] | groups[1]) == 4


def test_held_out_clips_out_of_the_reference_are_not_real_clips_against_themselves(
    world: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="4 of 4 held-out clips are in the reference, too"):
        real_sets(tmp_path / "out", world, world / "wood")


def test_folders_own_split_is_the_reference_and_its_held_out_clips(
    world: Path, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    for n, path in enumerate(sorted(world.glob("*/*.mp4"))):
        marked_copy(path, root / ("test" if n % 4 == 0 else "train") / path.parent.name / path.name)
    marked_copy(path, root / "test/wood/000099.mp4", (root / "train/wood" / path.name).as_posix())
    found = real_sets(tmp_path / "out", root)
    assert {clip.file.split("/")[0] for clip in found.reference.clips} == {"train"}
    assert {clip.file.split("/")[0] for clip in found.real.clips} == {"test"}
    assert {clip.class_name for clip in found.reference.clips} == {"wood", "glass"}
    assert found.anchor is found.reference and found.reference.origin == str(root)
    assert not contents(found.reference) & contents(found.real)


def test_file_with_another_content_than_scanned_is_left_out_of_a_set(
    world: Path, tmp_path: Path
) -> None:
    for path in world.glob("wood/*.mp4"):
        marked_copy(path, tmp_path / path.name)
    manifest = scan(tmp_path, RULES.spec)
    marked_copy(path, tmp_path / path.name, "x" * len((tmp_path / path.name).as_posix()))
    found = clip_set("generated", manifest, manifest.entries, RULES)
    assert [(skipped.file, skipped.reason) for skipped in found.skipped] == [(path.name, "changed")]
    assert len(found.clips) == 3
