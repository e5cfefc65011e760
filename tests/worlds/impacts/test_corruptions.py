"""Corruptions touch what they say, grow with their grade, and are the same each time they are read."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from mmldm.evaluation.extractors.extractor import of_windows
from mmldm.evaluation.extractors.squeezenet import SqueezeNet
from mmldm.evaluation.kernels import kernel_distance
from mmldm.evaluation.sets import ClipSet, ClipSource
from mmldm.evaluation.values import Value
from mmldm.media.clip import Clip
from mmldm.types import ClipSpec
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip
from mmldm.worlds.impacts.corruptions import CORRUPTIONS, Corruption, corrupted, noise, smear
from mmldm.worlds.impacts.metrics import numbers_of
from mmldm.worlds.impacts.motion import background

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


# Controls: an instrument moves under the damage that it is for, and under no other.


@pytest.fixture(scope="module")
def bounces() -> list[Clip]:
    config = ImpactsConfig(seed=6, spec=ClipSpec(height=96, width=96))
    return [render_clip(config, index).clip for index in range(48)]


@pytest.fixture(scope="module")
def undamaged(bounces: list[Clip]) -> dict[str, Value]:
    return numbers_of(bounces)


def damaged(clips: list[Clip], name: str, grade: float) -> dict[str, Value]:
    apply = BY_NAME[name].apply
    assert apply is not None
    made = [apply(clip, grade, np.random.default_rng(i)) for i, clip in enumerate(clips)]
    return numbers_of(made, background([clip.frames for clip in clips]))


def moved(found: dict[str, Value], other: dict[str, Value]) -> set[str]:
    """Numbers whose intervals have nothing in common."""
    names = set()
    for name, value in found.items():
        (low, high), (least, most) = value.interval, other[name].interval
        if low > most or high < least:
            names.add(name)
    return names


def test_a_smeared_hit_rises_slowly_after_an_echo_and_is_otherwise_what_it_was(
    bounces: list[Clip], undamaged: dict[str, Value]
) -> None:
    found = damaged(bounces, "smear", 10)
    assert found["attack"].value - undamaged["attack"].value == pytest.approx(10, abs=4)
    assert found["pre-echo"].value > undamaged["pre-echo"].value + 25
    # What rises for so long has no moment to a millisecond; it is matched and counted as before.
    assert moved(found, undamaged) <= {"attack", "pre-echo", "sync-timing", "sync-offset-50"}
    assert found["sync-timing"].value < 7


def test_grain_on_the_picture_moves_its_sharpness_and_nothing_else(
    bounces: list[Clip], undamaged: dict[str, Value]
) -> None:
    found = damaged(bounces, "picture noise", 4)
    # A Laplacian sums 20 squares; grey has this share of the variance of noise on each channel.
    expected = 20 * 4**2 * (0.299**2 + 0.587**2 + 0.114**2)
    more = found["laplacian"].value - undamaged["laplacian"].value
    assert more == pytest.approx(expected, rel=0.15)
    assert found["fine-power"].value > undamaged["fine-power"].value
    assert moved(found, undamaged) == set()
    for name in ("attack", "pre-echo", "onsets-per-clip"):
        assert found[name] == undamaged[name]


def test_grain_moves_the_distance_of_frozen_features_and_a_smear_does_not(
    bounces: list[Clip], shared: Path
) -> None:
    extractor = SqueezeNet(shared / "weights" / "squeezenet1_0_imagenet_caffe_bgr.safetensors")
    own = bounces[12:24]
    grainy = [noise(clip, 4, np.random.default_rng(i)) for i, clip in enumerate(own)]
    smeared = [smear(clip, 10, np.random.default_rng(i)) for i, clip in enumerate(own)]
    real, plain, grain, smears = (
        of_windows(extractor(clips)).double() for clips in (bounces[:12], own, grainy, smeared)
    )
    assert kernel_distance(grain, real) > 2 * kernel_distance(plain, real)
    assert torch.equal(smears, plain)


def test_a_smear_keeps_the_energy_and_the_spectrum_of_a_sound() -> None:
    waveform = torch.zeros(16_000)
    waveform[8000:8100] = torch.randn(100, generator=torch.Generator().manual_seed(0)) / 10
    clip = Clip(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), waveform, 10, 16_000)
    smeared = smear(clip, 5, np.random.default_rng(0)).waveform
    assert float(smeared.square().sum() / waveform.square().sum()) == pytest.approx(1, abs=0.01)
    spectra = [torch.fft.rfft(x.double()).abs()[:-1] for x in (waveform, smeared)]
    torch.testing.assert_close(*spectra, atol=0.02, rtol=0.05)
    assert float(smeared[:8000].square().sum()) > 0.05 * float(waveform.square().sum())
