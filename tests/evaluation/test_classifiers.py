"""The judges know real clips, are not fooled by grain or phase, and notice a change of material.

Their training is reproducible, reports its progress and refuses what has no class.
"""

import dataclasses
import json

import pytest
import torch

from mmldm.errors import UserError
from mmldm.evaluation.classifiers import (
    Classifiers,
    accuracy,
    audio_spec,
    augment,
    small_images,
    train_classifiers,
)
from mmldm.media.spectrogram import AudioImage
from mmldm.types import AV, ClipSpec
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip

pytestmark = pytest.mark.slow

NAMES = ("drum", "glass", "rubber")


@pytest.fixture(scope="module")
def labels():
    return torch.arange(24) % 3


def test_new_clips_are_named_right_by_sound_and_by_picture(classifiers, real, labels):
    right = accuracy(classifiers.judge(real).classes, labels)
    assert right.audio >= 0.95
    assert right.video >= 0.95


def test_swapped_sounds_are_heard_and_the_picture_still_seen(classifiers, real, labels):
    sounds = [real[(i + 1) % 24].waveform for i in range(24)]
    swapped = [dataclasses.replace(c, waveform=w) for c, w in zip(real, sounds, strict=True)]
    verdicts = classifiers.judge(swapped)
    assert (verdicts.classes.video == labels).float().mean() >= 0.95
    assert (verdicts.classes.audio == labels.roll(-1)).float().mean() >= 0.95


def test_grain_and_a_phase_found_anew_do_not_change_the_verdict(classifiers, real, labels):
    generator = torch.Generator().manual_seed(0)
    audio_image = AudioImage(ClipSpec())
    worn = [
        dataclasses.replace(
            clip,
            frames=(clip.frames + 8 * torch.randn(clip.frames.shape, generator=generator))
            .clamp(0, 255)
            .to(torch.uint8),
            waveform=audio_image.waveform(audio_image.image(clip.waveform[None]))[0],
        )
        for clip in real
    ]
    right = accuracy(classifiers.judge(worn).classes, labels)
    assert right.audio >= 0.9
    assert right.video >= 0.95


def test_ball_that_turns_into_another_is_a_change_and_a_real_ball_is_none(classifiers, real):
    assert not classifiers.judge(real).changed.any()
    turned = [
        dataclasses.replace(a, frames=torch.cat([a.frames[:12], b.frames[12:]]))
        for a, b in zip(real, real[1:] + real[:1], strict=True)
    ]
    verdicts = classifiers.judge(turned)
    assert verdicts.changed.float().mean() > 0.9
    assert verdicts.strays.max() <= 0.5


def test_verdict_does_not_depend_on_the_batch_or_the_picture_size(classifiers, real):
    whole = classifiers.judge(real[:4])
    parts = [classifiers.judge(real[i : i + 1]) for i in range(4)]
    classes = AV.zip(part.classes for part in parts).map(torch.cat)
    features = AV.zip(part.features for part in parts).map(torch.cat)
    for modality in range(2):
        assert torch.equal(whole.classes[modality], classes[modality])
        torch.testing.assert_close(whole.features[modality], features[modality])
    large = [
        dataclasses.replace(c, frames=c.frames.repeat_interleave(2, 2).repeat_interleave(2, 3))
        for c in real[:4]
    ]
    torch.testing.assert_close(classifiers.judge(large).features.video, whole.features.video)


def test_saved_classifiers_say_the_same(classifiers, real, tmp_path):
    classifiers.save(tmp_path / "judges")
    again = Classifiers.load(tmp_path / "judges")
    assert again.class_names == NAMES
    a, b = classifiers.judge(real[:6]), again.judge(real[:6])
    assert all(map(torch.equal, a.features, b.features))
    assert torch.equal(a.classes.video, b.classes.video)


def test_folders_without_classifiers_are_named(classifiers, tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        Classifiers.load(tmp_path)
    classifiers.save(tmp_path)
    described = tmp_path / "classifiers.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | {"version": 9}))
    with pytest.raises(UserError, match="train them again"):
        Classifiers.load(tmp_path)
    classifiers.save(tmp_path)
    weights = tmp_path / "classifiers.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be loaded"):
        Classifiers.load(tmp_path)


def test_sound_of_another_length_is_refused(classifiers, real):
    short = dataclasses.replace(real[0], waveform=real[0].waveform[:-1])
    with pytest.raises(UserError, match="25600 samples at 16000 Hz, not 25599"):
        classifiers.judge([short])


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("seconds", [0.8, 1.6, 4.0])
def test_audio_image_of_any_clip_is_a_square(rate, seconds):
    samples = round(rate * seconds)
    spec = audio_spec(rate, samples)
    assert spec.num_samples == samples
    sound = 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(0))
    assert AudioImage(spec).image(sound).shape == (1, 1, 3, 64, 64)


def test_pictures_are_the_means_of_their_blocks():
    frames = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    blocks = frames.float().reshape(2, 3, 64, 2, 64, 2).mean((3, 5)) / 127.5 - 1
    torch.testing.assert_close(small_images(frames), blocks)


@pytest.fixture(scope="module")
def clips():
    config = ImpactsConfig(seed=4, materials=NAMES)
    return [render_clip(config, index).clip for index in range(9)]


def test_training_is_reproducible(clips):
    named = [(clip, NAMES[i % 3]) for i, clip in enumerate(clips[:9])]
    first, second = (train_classifiers(named, NAMES, steps=2, seed=5) for _ in range(2))
    verdicts = [c.judge(clips[:2]) for c in (first, second)]
    assert all(map(torch.equal, verdicts[0].features, verdicts[1].features))


def test_progress_counts_the_steps_of_both(clips):
    seen = []
    train_classifiers([(clips[0], "drum")], NAMES, steps=2, progress=lambda *x: seen.append(x))
    assert seen == [("audio", 1, 2), ("audio", 2, 2), ("video", 1, 2), ("video", 2, 2)]


def test_augmented_images_stay_in_range_and_near_the_original():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(16, 3, 64, 64, generator=generator) * 2 - 1
    changed = augment(images, generator)
    assert changed.abs().max() <= 1
    assert 0.01 < (changed - images).abs().mean() < 0.3


def test_what_cannot_be_learnt_is_refused(clips):
    with pytest.raises(UserError, match="no clips"):
        train_classifiers([], NAMES)
    with pytest.raises(UserError, match="'stone' is none of"):
        train_classifiers([(clips[0], "stone")], NAMES)
