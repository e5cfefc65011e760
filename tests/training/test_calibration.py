"""A published model knows the limits of its world, once per network, from its run's held-out clips."""

import json

import pytest
from rich.console import Console

from mmldm.data.scan import scan
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training import JOBS, calibration
from mmldm.training.calibration import calibrated
from mmldm.training.distributed import Process
from mmldm.training.run import Run
from mmldm.training.run_clips import claim
from mmldm.training.run_folder import RunFolder
from mmldm.worlds.impacts.clips import ImpactsConfig, synthesize

from ..smallest import CLIP, smallest_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of one training step a job, whose model is calibrated on three held-out clips."""
    root = tmp_path_factory.mktemp("calibration")
    synthesize(root / "clips", ImpactsConfig(spec=CLIP, materials=("wood", "glass")), 12, 1)
    manifest = scan(root / "clips", CLIP, workers=1, held_out=0.25)
    folder, config, process = RunFolder(root / "run"), smallest_recipe(1, critic=False), Process()
    with pytest.MonkeyPatch.context() as patch, claim(folder, config, manifest, process):
        patch.setattr(calibration, "LEAST_CLIPS", 2)
        run = Run(config, folder, manifest, process, Console(quiet=True), lambda *_: None)
        for job in JOBS:
            run.run(job)
    return run


def stored(run: Run) -> dict:
    return json.loads((run.folder.model / "model_index.json").read_text())["outliers"]


def test_finished_run_stores_the_limits_of_its_world(run: Run) -> None:
    outliers = stored(run)
    assert set(outliers) == {"audio", "video", "networks", "held_out"}
    assert outliers["held_out"] == len(run.manifest.split("held_out"))
    for modality in ("audio", "video"):
        assert set(outliers[modality]) == {"mean", "std", "deviation", "error"}
    pipeline = SoundingVideoPipeline.from_pretrained(run.folder.model)
    assert pipeline.outlier_reference is not None


def test_what_is_known_of_the_same_networks_is_kept_without_any_clip(run: Run) -> None:
    pipeline = SoundingVideoPipeline.from_pretrained(run.folder.model)
    no_clips = run.manifest.model_copy(update={"entries": ()})
    assert calibrated(pipeline.outlier_detector(), no_clips, 0, print, stored(run)) == stored(run)


def test_without_clips_or_with_too_few_it_says_so(run: Run) -> None:
    pipeline = SoundingVideoPipeline.from_pretrained(run.folder.model)
    said: list[str] = []
    no_clips = run.manifest.model_copy(update={"entries": ()})
    assert calibrated(pipeline.outlier_detector(), no_clips, 0, said.append) is None
    assert calibrated(pipeline.outlier_detector(), run.manifest, 0, said.append) is None
    assert len(said) == 2
    assert "none of them" in said[0] and "too few" in said[1]


def test_other_networks_are_measured_anew(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "LEAST_CLIPS", 2)
    pipeline = SoundingVideoPipeline.from_pretrained(run.folder.model)
    known = stored(run)
    parameter = next(pipeline.autoencoder.parameters())
    parameter.data.add_(0.5)
    made = calibrated(pipeline.outlier_detector(), run.manifest, 0, print, known)
    assert made is not None
    assert made["networks"] != known["networks"] and made["audio"] != known["audio"]
