"""Sets are windows of files with names and keys of their own; halves share nothing."""

from collections import Counter

import pytest

from mmldm.errors import UserError
from mmldm.evaluation.protocol import find_protocol
from mmldm.evaluation.recordings import halves
from mmldm.evaluation.sets import clip_set, kept_manifest
from mmldm.types import ClipSpec
from mmldm.worlds.impacts.clips import ImpactsConfig, synthesize

RULES = find_protocol("default")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight clips of 3.3 s, of two classes: two windows fit into each."""
    folder = tmp_path_factory.mktemp("clips") / "long"
    config = ImpactsConfig(materials=("wood", "glass"), spec=ClipSpec(num_frames=33))
    synthesize(folder, config, 8, workers=1)
    return folder


@pytest.fixture(scope="module")
def manifest(folder, tmp_path_factory):
    return kept_manifest(folder, tmp_path_factory.mktemp("kept") / "set.jsonl", RULES.spec)


def of(manifest, samples=None, windows=1):
    rules = find_protocol("default", samples, windows=windows)
    return clip_set("reference", manifest, manifest.entries, rules)


def test_file_gives_one_window_from_its_middle(manifest):
    clips = of(manifest).clips
    assert len(clips) == 8 and {clip.class_name for clip in clips} == {"wood", "glass"}
    clip = clips[0].read(RULES.spec)
    assert clip.frames.shape == (16, 3, 224, 224) and clip.waveform.shape == (25_600,)
    assert clips[0].name == "glass/000001.mp4" and clips[0].file == clips[0].name


def test_more_windows_than_files_do_not_overlap_and_fewer_are_spread(manifest):
    clips = of(manifest, samples=100).clips
    assert Counter(Counter(clip.file for clip in clips).values()) == {2: 8}
    assert len({clip.name for clip in clips}) == len({clip.key for clip in clips}) == 16
    first, second = (clip.read(RULES.spec) for clip in clips[:2])
    assert not first.frames.equal(second.frames)
    assert clips[1].name == "glass/000001.mp4 at 1.70 s"
    assert {clip.class_name for clip in of(manifest, samples=4).clips} == {"wood", "glass"}


def test_longer_clips_give_the_windows_that_are_asked_for(manifest):
    middle, two, every = (of(manifest, windows=count) for count in (1, 2, None))
    assert [len(clips.clips) for clips in (middle, two, every)] == [8, 16, 16]
    assert {clip.key for clip in two.clips} == {clip.key for clip in every.clips}
    assert not {clip.key for clip in two.clips} & {clip.key for clip in middle.clips}
    with pytest.raises(UserError, match="4 clips are asked for, whatever files they are of"):
        of(manifest, samples=4, windows=2)
    with pytest.raises(UserError, match="2048 clips are asked for"):
        find_protocol("mm-diffusion", windows=None)


def test_halves_share_no_file_and_as_many_of_each_class(manifest):
    whole = of(manifest, samples=100)
    first, second = halves(whole, seed=0)
    files = [Counter(clip.file for clip in half.clips) for half in (first, second)]
    assert not files[0].keys() & files[1].keys() and sum(files, Counter()).total() == 16
    for half in (first, second):
        assert Counter(clip.class_name for clip in half.clips) == {"wood": 4, "glass": 4}
    assert halves(whole, seed=0) == (first, second) and halves(whole, seed=3) != (first, second)


def test_hash_of_a_set_is_that_of_its_contents(manifest):
    whole = of(manifest)
    shorter = clip_set("other", manifest, manifest.entries[::-1], RULES)
    assert shorter.sha256 == whole.sha256
    assert clip_set("other", manifest, manifest.entries[1:], RULES).sha256 != whole.sha256


def test_folder_is_scanned_again_only_when_it_has_changed(folder, tmp_path):
    kept, scanned = tmp_path / "set.jsonl", []

    def progress(what, done, total):
        scanned.append(done)

    first = kept_manifest(folder, kept, RULES.spec, progress=progress)
    assert len(scanned) == 8
    assert kept_manifest(folder, kept, RULES.spec, progress=progress).entries == first.entries
    assert kept_manifest(kept, tmp_path / "other.jsonl", RULES.spec).entries == first.entries
    assert len(scanned) == 8 and not (tmp_path / "other.jsonl").exists()


def test_other_rates_and_sizes_are_noted_with_an_example(manifest):
    notes = " ".join(of(manifest).notes)
    assert "8 files of another size than 224x224" in notes and "glass/000001.mp4: 64x64" in notes
    assert "frame rate" not in notes and "silent" not in notes


def test_clips_shorter_than_the_protocols_are_skipped_by_name(manifest):
    row = manifest.entries[0].model_copy(update={"duration": 0.9})
    found = clip_set("generated", manifest, [row, *manifest.entries[1:2]], RULES)
    assert [skipped.reason for skipped in found.skipped] == ["too_short"]
    assert found.skipped[0].sentence == "0.90 s can be used, a clip needs 1.6 s"
    with pytest.raises(UserError, match="has 1 usable clip, and 2 are the least.*1 too_short"):
        found.require()
