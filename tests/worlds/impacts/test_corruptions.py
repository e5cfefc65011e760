"""Corruptions touch what they say, grow with their grade, and are the same each time they are read."""

import hashlib

import numpy as np
import pytest
import torch

from mmldm.evaluation.sets import ClipSet, ClipSource
from mmldm.media.clip import Clip
from mmldm.types import ClipSpec
from mmldm.worlds.impacts.corruptions import CORRUPTIONS, Corruption, corrupted

SPEC = ClipSpec(num_frames=16, fps=10, height=64, width=64, sample_rate=16_000)
BY_NAME = {corruption.name: corruption for corruption in CORRUPTIONS}


def source(number: int) -> ClipSource:
    rng = torch.Generator().manual_seed(number)
    frames = torch.randint(0, 256, (SPEC.num_frames, 3, 64, 64), dtype=torch.uint8, generator=rng)
    waveform = 0.2 * torch.randn(SPEC.num_samples, generator=rng)
    clip = Clip(frames, waveform.clamp(-1, 1), SPEC.fps, SPEC.sample_rate)
    key = hashlib.sha256(str(number).encode()).hexdigest()
    return ClipSource(str(number), str(number), key, None, lambda spec: clip)


@pytest.fixture
def clips() -> ClipSet:
    return ClipSet("real", "nowhere", tuple(source(i) for i in range(6)))


def read(clips: ClipSet) -> list[Clip]:
    return [clip.read(SPEC) for clip in clips.clips]


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: c.name)
def test_what_is_not_damaged_stays_bit_for_bit(clips: ClipSet, corruption: Corruption) -> None:
    damaged = read(corrupted(clips, corruption, corruption.grades[-1]))
    for before, after in zip(read(clips), damaged, strict=True):
        same_picture = torch.equal(before.frames, after.frames)
        same_sound = torch.equal(before.waveform, after.waveform)
        assert (same_picture, same_sound) == {
            "picture": (False, True),
            "sound": (True, False),
            "pair": (True, False),
        }[corruption.damaged]


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: c.name)
def test_damage_is_the_same_at_every_reading_and_other_keys_say_so(
    clips: ClipSet, corruption: Corruption
) -> None:
    first, second = (corrupted(clips, corruption, corruption.grades[0]) for _ in range(2))
    assert [clip.key for clip in first.clips] == [clip.key for clip in second.clips]
    for one, other in zip(read(first), read(second), strict=True):
        assert torch.equal(one.frames, other.frames)
        assert torch.equal(one.waveform, other.waveform)
    changed = [a.key != b.key for a, b in zip(clips.clips, first.clips, strict=True)]
    assert sum(changed) == (6 if corruption.apply else 2)
    other_grade = corrupted(clips, corruption, corruption.grades[1])
    assert {clip.key for clip in other_grade.clips} != {clip.key for clip in first.clips}


@pytest.mark.parametrize("name", ["picture noise", "blur", "frame order", "hiss", "gain"])
def test_damage_grows_with_the_grade(clips: ClipSet, name: str) -> None:
    corruption = BY_NAME[name]

    def distance(grade: float) -> float:
        pairs = zip(read(clips), read(corrupted(clips, corruption, grade)), strict=True)
        return sum(
            float((a.frames.float() - b.frames.float()).square().mean())
            + float((a.waveform - b.waveform).square().mean())
            for a, b in pairs
        )

    distances = [distance(grade) for grade in corruption.grades]
    assert distances == sorted(distances)
    assert distances[0] > 0


def test_hiss_lies_as_far_below_the_sound_as_it_says(clips: ClipSet) -> None:
    for before, after in zip(read(clips), read(corrupted(clips, BY_NAME["hiss"], 15)), strict=True):
        ratio = before.waveform.square().mean() / (after.waveform - before.waveform).square().mean()
        assert abs(10 * float(ratio.log10()) - 15) < 0.3


def test_a_delay_moves_the_sound_by_its_milliseconds_and_loses_none(clips: ClipSet) -> None:
    (before, *_), (after, *_) = read(clips), read(corrupted(clips, BY_NAME["delay"], 100))
    assert torch.equal(after.waveform[1600:], before.waveform[:-1600])
    assert torch.equal(after.waveform[:1600], before.waveform[-1600:])


def test_shuffled_frames_are_the_same_frames(clips: ClipSet) -> None:
    (before, *_), (after, *_) = read(clips), read(corrupted(clips, BY_NAME["frame order"], 0.5))
    moved = [not torch.equal(a, b) for a, b in zip(before.frames, after.frames, strict=True)]
    assert sum(moved) == 8
    sums = [
        sorted(frames.long().sum((1, 2, 3)).tolist()) for frames in (before.frames, after.frames)
    ]
    assert sums[0] == sums[1]


def test_other_clips_sounds_are_those_of_the_set_each_once(clips: ClipSet) -> None:
    before, after = read(clips), read(corrupted(clips, BY_NAME["other clips' sounds"], 1))
    own = [float(clip.waveform.sum()) for clip in before]
    found = [float(clip.waveform.sum()) for clip in after]
    assert sorted(own) == sorted(found)
    assert all(a != b for a, b in zip(own, found, strict=True))


def test_blur_keeps_the_mean_and_a_flat_picture() -> None:
    flat = Clip(torch.full((2, 3, 40, 24), 77, dtype=torch.uint8), torch.zeros(10), 10, 8000)
    blurred = BY_NAME["blur"].apply
    assert blurred is not None
    assert torch.equal(blurred(flat, 2, np.random.default_rng(0)).frames, flat.frames)
