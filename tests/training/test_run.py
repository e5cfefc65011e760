"""The three jobs in one run folder, from clips to a model that generates."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from mmldm.data.latents import Splits
from mmldm.data.manifest import Manifest
from mmldm.errors import UserError
from mmldm.models.image_vae import load_image_vae
from mmldm.models.signal_decoder import SignalDecoder
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training import JOBS
from mmldm.training.report import METRICS, read_metrics
from mmldm.training.run import Run
from mmldm.training.run_clips import find_manifest

from ..smallest import CLIP, smallest_recipe
from .conftest import new_run

pytestmark = pytest.mark.slow


def test_run_ends_in_a_model_that_generates_clips(finished: Run) -> None:
    pipeline = SoundingVideoPipeline.from_pretrained(finished.folder.model)
    pipeline.set_progress_bar_config(disable=True)
    clips = pipeline(num_samples=2, seed=3, class_labels="glass").clips
    assert len(clips) == 2
    for clip in clips:
        assert clip.frames.shape == (CLIP.num_frames, 3, CLIP.height, CLIP.width)
        assert clip.waveform.shape == (CLIP.num_samples,)
        assert clip.waveform.isfinite().all()


def test_every_job_leaves_metrics_previews_and_a_model(finished: Run) -> None:
    for job in JOBS:
        folder = finished.folder.job(job)
        rows = read_metrics(folder / METRICS)
        assert any(name.startswith("validate/") for row in rows for name in row)
        assert list((folder / "previews").glob("*.png"))
        assert list((folder / "previews").glob("*.mp4"))
        assert (finished.folder.export(job)).is_dir()


def test_caches_hold_every_usable_clip_once(finished: Run) -> None:
    for name in ("image_latents", "latents"):
        caches = Splits.open(finished.folder.cache(name))
        assert len(caches.train) == len(finished.manifest.split("train"))
        assert len(caches.held_out) == len(finished.manifest.split("held_out"))


def test_generators_latents_are_standardised_by_the_caches_statistics(finished: Run) -> None:
    cache = Splits.open(finished.folder.cache("latents")).train
    pipeline = SoundingVideoPipeline.from_pretrained(finished.folder.model)
    latents = cache[torch.arange(len(cache))]
    streams = pipeline.generator.streams
    for z, logvar, stream in zip(latents.mean, latents.logvar, streams, strict=True):
        spread = logvar.exp()
        normal = (z - stream.mean) / stream.std
        posterior = spread / stream.std**2
        assert normal.mean((0, 2, 3, 4)).abs().max() < 1e-2
        total = normal.var((0, 2, 3, 4), correction=0) + posterior.mean((0, 2, 3, 4))
        assert (total - 1).abs().max() < 2e-2


def test_fine_tuning_a_pretrained_image_vae_moves_its_decoder_alone(
    finished: Run, tmp_path: Path
) -> None:
    recipe = smallest_recipe(steps=2)
    source = str(finished.folder.export("vae"))
    section = recipe.vae.model_copy(update={"pretrained": source, "model": None})
    run = new_run(recipe.model_copy(update={"vae": section}), finished.manifest, tmp_path)
    run.run("vae")
    before, after = load_image_vae(source), load_image_vae(run.folder.export("vae"))
    moved = {
        name
        for name, weight in after.state_dict().items()
        if not torch.equal(weight, before.state_dict()[name])
    }
    decoder = {name for name in after.state_dict() if name.startswith("decoder.")}
    assert moved == decoder


def test_paper_form_trains_with_the_same_code(manifest: Manifest, tmp_path: Path) -> None:
    run = new_run(smallest_recipe(steps=2, critic=False, paper_form=True), manifest, tmp_path)
    for job in JOBS:
        run.run(job)
    pipeline = SoundingVideoPipeline.from_pretrained(run.folder.model)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.autoencoder.latent_shapes == ((4, 1, 4, 4), (4, 1, 4, 4))
    assert pipeline.decoder_scheduler.config.prediction_type == "epsilon"
    assert len(pipeline(num_samples=1, seed=0).clips) == 1


def test_decoder_starts_from_a_pretrained_unet_that_a_resumed_run_does_not_need(
    manifest: Manifest, tmp_path: Path
) -> None:
    recipe = smallest_recipe(steps=2, critic=False, paper_form=True)
    sizes = recipe.autoencoder.model["decoder_config"]
    SignalDecoder.from_sizes(channels=4, **sizes).save_pretrained(tmp_path / "sd" / "unet")
    section = recipe.autoencoder.model_copy(update={"decoder_init": str(tmp_path / "sd")})
    recipe = recipe.model_copy(update={"autoencoder": section})
    run = new_run(recipe, manifest, tmp_path / "run")
    run.run("vae")
    run.run("autoencoder")
    (tmp_path / "sd").rename(tmp_path / "gone")
    run.run("autoencoder")
    lines = (run.folder.job("autoencoder") / "train.log").read_text().splitlines()
    loaded = [line for line in lines if "signal decoder from" in line]
    assert len(loaded) == 1
    assert "0 unexpected" in loaded[0]
    with pytest.raises(UserError, match="neither a folder here nor a name"):
        new_run(recipe, manifest, tmp_path / "another").run("vae")


def test_generator_whose_rows_all_forget_their_class_has_none(
    finished: Run, manifest: Manifest, tmp_path: Path
) -> None:
    recipe = smallest_recipe(steps=1)
    section = recipe.generator.model_copy(
        update={"class_dropout": 1.0, "autoencoder": str(finished.folder.export("autoencoder"))}
    )
    run = new_run(recipe.model_copy(update={"generator": section}), manifest, tmp_path)
    shutil.copytree(finished.folder.export("vae"), run.folder.export("vae"))
    run.run("generator")
    pipeline = SoundingVideoPipeline.from_pretrained(run.folder.model)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.class_names == ()
    assert pipeline.autoencoder.config.num_classes == 2
    assert len(pipeline(num_samples=1, seed=0).clips) == 1


def test_a_later_job_without_the_earlier_one_says_which_is_missing(
    manifest: Manifest, tmp_path: Path
) -> None:
    run = new_run(smallest_recipe(), manifest, tmp_path)
    with pytest.raises(UserError, match="run the vae job first"):
        run.run("autoencoder")


def test_changed_clip_is_noticed_before_training_goes_on(
    finished: Run, tmp_path: Path, manifest: Manifest
) -> None:
    run = new_run(smallest_recipe(), manifest, tmp_path)
    first, *rest = manifest.entries
    stale = manifest.model_copy(
        update={"entries": (first.model_copy(update={"size": first.size + 1}), *rest)}
    )
    stale.save(run.folder.manifest)
    with pytest.raises(UserError, match="1 clips changed since they were scanned"):
        find_manifest(run.folder, None, run.config, run.progress)


def test_bundled_index_names_only_pinned_module_paths(finished: Run) -> None:
    """These strings are a file format: old model folders hold them."""
    index = json.loads((finished.folder.model / "model_index.json").read_text())
    assert index["vae"] == ["mmldm.models.image_vae", "PatchAutoencoderKL"]
    assert index["autoencoder"] == ["mmldm.models.autoencoder", "MultiModalAutoencoder"]
    assert index["generator"] == ["mmldm.models.generator", "JointGenerator"]
    assert index["scheduler"][0] == index["decoder_scheduler"][0] == "diffusers"


def test_job_begins_anew_where_the_one_before_it_was_trained_further(
    finished: Run, tmp_path: Path
) -> None:
    """Only where that is wanted; what it was is kept, and the model stays until its own job is done."""
    folder = Path(shutil.copytree(finished.folder.root, tmp_path / "run"))
    recipe = finished.config.model_dump(mode="json")
    recipe["vae"]["train"]["steps"] += 2
    run = new_run(type(finished.config).model_validate(recipe), finished.manifest, folder)
    run.run("vae")
    with pytest.raises(UserError, match=r"caches.image_vae was .* --jobs autoencoder"):
        run.run("autoencoder")
    assert not (folder / "before").exists()

    run.anew = ("autoencoder",)
    run.run("autoencoder")
    assert (
        "begins anew on what the jobs before it"
        in (folder / "autoencoder" / "train.log").read_text()
    )
    old = folder / "before" / "autoencoder_1"
    assert (old / "export").is_dir() and (old / METRICS).is_file()
    index = json.loads((folder / "model" / "model_index.json").read_text())
    assert index["autoencoder"][1] == "MultiModalAutoencoder"
