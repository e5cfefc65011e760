"""Classifiers of three materials, trained once for all tests of the evaluation."""

import pytest

from mmldm.data.impacts import ImpactsConfig, render_clip
from mmldm.evaluation.classifier_training import train_classifiers

NAMES = ("drum", "glass", "rubber")


@pytest.fixture(scope="session")
def classifiers():
    config = ImpactsConfig(seed=4, materials=NAMES)
    rendered = (render_clip(config, index) for index in range(100, 184))
    return train_classifiers(((r.clip, r.material) for r in rendered), NAMES, steps=70)
