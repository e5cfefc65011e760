"""What goes wrong is told with the names of the clips: of windows, of cached rows, of held-out files."""

import shutil
from pathlib import Path

import torch

from mmldm.data.clips import WindowDataset
from mmldm.data.latents import LatentCache, Splits
from mmldm.data.loader import order
from mmldm.data.manifest import Manifest
from mmldm.data.scan import scan
from mmldm.models.image_vae import load_image_vae
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.health import NAMED, Counts, Withheld
from mmldm.training.jobs.autoencoder import AutoencoderStage
from mmldm.training.jobs.generator import GeneratorStage
from mmldm.training.jobs.vae import VaeStage
from mmldm.training.run import Run
from mmldm.training.stage import CachedStage

from ..smallest import CLIP, smallest_recipe
from .conftest import new_run

CPU = torch.device("cpu")


def test_job_on_files_names_the_windows_of_a_step(manifest: Manifest) -> None:
    config = smallest_recipe()
    stage = VaeStage(config, manifest, CPU)
    dataset = WindowDataset(manifest, CLIP, "train", config.seed)
    rows = manifest.split("train")
    for step, batch in zip(range(5), stage.batches(0, 0, 1), strict=False):
        epochs = [(4 * step + i) // len(rows) for i in range(4)]
        assert stage.clips_of(step) == [
            f"{rows[row].path} at {dataset.start(epoch, row):.2f} s"
            for epoch, row in zip(epochs, batch.indices.tolist(), strict=True)
        ]


def test_jobs_on_caches_name_the_files_of_a_step(finished: Run) -> None:
    config = smallest_recipe()
    vae = load_image_vae(finished.folder.export("vae"))
    image_latents = Splits.open(finished.folder.cache("image_latents"))
    pipeline = SoundingVideoPipeline.from_pretrained(finished.folder.model)
    latents = Splits.open(finished.folder.cache("latents"))
    stages: tuple[CachedStage, ...] = (
        AutoencoderStage(config, vae, image_latents, CPU),
        GeneratorStage(config, pipeline, latents, CPU),
    )
    classes, files = finished.manifest.classes, finished.manifest.split("train")
    for stage in stages:
        for step, batch in zip(range(5), stage.batches(0, 0, 1), strict=False):
            named = stage.clips_of(step)
            folders = [name.partition("/")[0] for name in named]
            assert folders == [classes[label] for label in batch.class_labels]
        epoch = [stage.clips_of(step) for step in range(len(files) // 4 + 1)]
        assert {name for clips in epoch for name in clips} == {row.path for row in files}


def test_cache_that_does_not_know_its_files_names_rows(finished: Run) -> None:
    cache = LatentCache(finished.folder.cache("latents") / "train")
    del cache.extra["files"]
    stage = CachedStage(smallest_recipe().generator.train, Splits(cache, cache), 0, CPU)
    rows = order(0, len(cache), 4, 2)
    assert stage.clips_of(2) == [f"row {row} of {cache.folder}" for row in rows]


def test_held_out_clips_that_cannot_be_read_are_told(clip_folder: Path, tmp_path: Path) -> None:
    clips = Path(shutil.copytree(clip_folder, tmp_path / "clips"))
    manifest = scan(clips, CLIP, workers=1, held_out=0.25)
    lost, *_ = manifest.split("held_out")
    manifest.file(lost).write_bytes(b"no clip any more")
    run = new_run(smallest_recipe(steps=2), manifest, tmp_path / "run")
    run.run("vae")
    log = (run.folder.job("vae") / "train.log").read_text()
    [told] = [line for line in log.splitlines() if "cannot read" in line]
    assert f"cannot read {lost.path}: " in told
    assert told.endswith("it is held out, and is left out of what is validated")


def test_of_a_large_batch_some_clips_are_named_and_the_others_counted() -> None:
    withheld = Withheld(CPU)
    withheld.update(torch.tensor(True), 7)
    counts = withheld.read()
    assert counts == Counts(1, 1, 1)
    sentence = withheld.tell(counts, 10, lambda step: [f"{step}-{i}" for i in range(NAMED + 5)] * 2)
    assert "in step 7 with 6-0, 6-1, " in sentence
    assert sentence.endswith(f"6-{NAMED - 1} and 5 more")
    assert withheld.tell(withheld.read(), 20, lambda step: []) == ""
