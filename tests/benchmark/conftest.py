"""The smallest recipes: their summaries, and an untrained system of each."""

import pytest

from mmldm.benchmark.sampling import CLASSES, untrained_pipeline
from mmldm.config import RunConfig
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.summary import Summary, summarise

from ..smallest import smallest_recipe


@pytest.fixture(scope="session")
def recipe() -> RunConfig:
    """The paper's form, with a critic from step 1 on, and a vocoder."""
    return smallest_recipe(paper_form=True)


@pytest.fixture(scope="session")
def summary(recipe: RunConfig) -> Summary:
    return summarise(recipe, len(CLASSES))


@pytest.fixture
def pipeline(recipe: RunConfig, summary: Summary) -> SoundingVideoPipeline:
    pipeline = untrained_pipeline(recipe, summary)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
