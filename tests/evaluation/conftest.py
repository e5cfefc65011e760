"""A world of three materials: clips rendered and classifiers trained once for all tests here."""

import pytest

from mmldm.evaluation.classifiers import train_classifiers
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip

NAMES = ("drum", "glass", "rubber")


@pytest.fixture(scope="session")
def rendered():
    """72 clips with their events; the materials come in turn."""
    config = ImpactsConfig(seed=11, materials=NAMES)
    return [render_clip(config, index) for index in range(72)]


@pytest.fixture(scope="session")
def real(rendered):
    return [r.clip for r in rendered[:24]]


@pytest.fixture(scope="session")
def classifiers():
    config = ImpactsConfig(seed=4, materials=NAMES)
    rendered = (render_clip(config, index) for index in range(100, 184))
    return train_classifiers(((r.clip, r.material) for r in rendered), NAMES, steps=70)
