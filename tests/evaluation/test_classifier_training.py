"""Training of the judges is reproducible, reports its progress and refuses what has no class."""

import pytest
import torch

from mmldm.errors import UserError
from mmldm.evaluation.classifier_training import augment, train_classifiers
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip

NAMES = ("drum", "glass", "rubber")


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
