"""Runs that start from a finished model: its weights, its recipe, what does not fit, and other sizes."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from mmldm.config import RunConfig, changed
from mmldm.data.manifest import Manifest
from mmldm.data.scan import scan
from mmldm.errors import UserError
from mmldm.models.autoencoder import load_autoencoder
from mmldm.models.image_vae import load_image_vae
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training import JOBS
from mmldm.training.recipe import choose_recipe
from mmldm.training.run import TABLE, Run
from mmldm.training.start_model import describe, require_fit
from mmldm.training.start_recipe import started_recipe, with_start

from ..smallest import CLIP, smallest_recipe
from .conftest import new_run

pytestmark = pytest.mark.slow

SHORT = (
    "vocoder.train.steps=1", "vocoder.train.batch_size=4", "vocoder.train.workers=0",
    "vocoder.train.validate_every=1", "vocoder.train.preview_every=0",
)  # fmt: skip


def from_model(model: Path, freeze: str | None = None, *changes: str, steps: int = 1) -> RunConfig:
    base = smallest_recipe(steps=steps, critic=False)
    recipe = started_recipe(base, str(model), freeze, changes)
    return changed(recipe, [*SHORT, *changes])


def log(run: Run, job: str) -> str:
    return (run.folder.job(job) / "train.log").read_text()


@pytest.fixture(scope="module")
def frozen(finished: Run, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with the codec of a finished one, before its generator job."""
    recipe = from_model(finished.folder.root, "vae,autoencoder,vocoder")
    run = new_run(recipe, manifest, tmp_path_factory.mktemp("frozen"))
    for job in ("vae", "autoencoder", "vocoder"):
        run.run(job)
    return run


def test_recipe_of_a_model_builds_the_models_networks(finished: Run) -> None:
    recipe = from_model(finished.folder.root)
    theirs = finished.config
    assert recipe.clip == CLIP
    assert recipe.autoencoder.schedule["prediction"] == "sample"
    assert recipe.sample == theirs.sample
    assert recipe.start is not None
    assert recipe.start.model == str(finished.folder.root.resolve())
    require_fit(recipe, describe(recipe.start, Path("/nowhere")))


def test_generator_on_a_frozen_codec_is_the_models_before_its_first_step(
    frozen: Run, finished: Run
) -> None:
    for job in ("vae", "autoencoder", "vocoder"):
        files = (folder.export(job) for folder in (frozen.folder, finished.folder))
        exports = {next(path.glob("*.safetensors")).read_bytes() for path in files}
        assert len(exports) == 1
    stage = TABLE["generator"].stage(frozen)
    model = SoundingVideoPipeline.from_pretrained(finished.folder.model).generator
    ours = stage.ema_modules["generator"]
    assert ours.config.latent_statistics == model.config.latent_statistics
    state = ours.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert any("tensors taken" in note and "new" not in note for note in frozen.notes)
    assert any("the model's own, because its autoencoder is kept" in note for note in frozen.notes)


def test_frozen_codec_is_measured_on_these_clips(frozen: Run) -> None:
    for job in ("vae", "autoencoder"):
        found = json.loads((frozen.folder.root / "start" / f"{job}.json").read_text())
        assert found["clips"] == len(frozen.manifest.split("held_out"))
        assert found["psnr"] > 5
        assert found["mean_psnr"] > 5
        assert 0 < found["mel_error"] < 70


def test_every_job_goes_on_with_the_models_weights_which_a_begun_one_does_not_need(
    finished: Run, manifest: Manifest, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(finished.folder.model, tmp_path / "model"))
    run = new_run(from_model(model, steps=2), manifest, tmp_path / "run")
    run.run("vae")
    model.rename(tmp_path / "gone")
    run.run("vae")
    with pytest.raises(UserError, match="no such model folder"):
        run.run("autoencoder")
    (tmp_path / "gone").rename(model)
    for job in JOBS[1:]:
        run.run(job)
        assert f"{job} from {model}: " in log(run, job)
    assert log(run, "vae").count(f"vae from {model}: ") == 1
    assert "these clips' own, because the vae is trained on" in log(run, "autoencoder")
    pipeline = SoundingVideoPipeline.from_pretrained(run.folder.model)
    pipeline.set_progress_bar_config(disable=True)
    assert len(pipeline(num_samples=1, seed=0).clips) == 1


def test_other_classes_take_the_rows_of_their_names(finished: Run, tmp_path: Path) -> None:
    manifest = finished.manifest
    renamed = manifest.model_copy(
        update={
            "entries": tuple(
                entry.model_copy(
                    update={"class_name": "stone" if entry.class_name == "wood" else "glass"}
                )
                for entry in manifest.entries
            )
        }
    )
    run = new_run(from_model(finished.folder.root, "vae,autoencoder"), renamed, tmp_path)
    for job in ("vae", "autoencoder", "generator"):
        run.run(job)
    assert "known to the model glass; new stone" in log(run, "generator")
    ours, theirs = (
        load_autoencoder(folder.export("autoencoder")) for folder in (run.folder, finished.folder)
    )
    assert ours.class_tokens is not None and theirs.class_tokens is not None
    assert torch.equal(ours.class_tokens.weight[0], theirs.class_tokens.weight[0])
    pipeline = SoundingVideoPipeline.from_pretrained(run.folder.model)
    pipeline.set_progress_bar_config(disable=True)
    assert len(pipeline(num_samples=1, seed=0, class_labels="stone").clips) == 1


def test_another_picture_size_goes_on_from_the_model(
    finished: Run, clip_folder: Path, tmp_path: Path
) -> None:
    recipe = from_model(finished.folder.root, None, "clip.width=48")
    manifest = scan(clip_folder, recipe.clip, workers=1, held_out=0.25)
    run = new_run(recipe, manifest, tmp_path)
    for job in JOBS:
        run.run(job)
    assert "resized (" in log(run, "autoencoder")
    clip = SoundingVideoPipeline.from_pretrained(run.folder.model)(num_samples=1).clips[0]
    assert clip.frames.shape == (CLIP.num_frames, 3, CLIP.height, 48)


def test_longer_clips_have_more_slots_of_the_same_length(finished: Run) -> None:
    recipe = from_model(finished.folder.root, None, "clip.num_frames=8")
    model = recipe.autoencoder.model
    assert model["video_encoder_config"]["latent_shape"] == [4, 8, 1, 1]
    assert recipe.clip.num_frames == 8


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("generator.model.depth=3", "generator.model.depth is 2 in .* and 3 in the recipe"),
        ("vae.model.latent_channels=8", "vae.model.latent_channels is 4 in .* and 8 in"),
        (
            "autoencoder.model.video_encoder_config.latent_shape=[8, 4, 1, 1]",
            r"video_encoder_config.latent_shape is \[4, \"n\", 1, 1\] in .* and \[8, \"n\", 1, 1\]",
        ),
        ("generator.schedule.prediction=sample", 'schedule.prediction is "v_prediction" in'),
        ("autoencoder.decoder_init=sd", "start and autoencoder.decoder_init exclude each other"),
        (
            "start.freeze=[generator]",
            "'generator' cannot be frozen, only vae, autoencoder, vocoder",
        ),
        ("start.freeze=[autoencoder]", "freeze vae,autoencoder"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(finished: Run, change: str, sentence: str) -> None:
    recipe = from_model(finished.folder.root)
    assert recipe.start is not None
    with pytest.raises(UserError, match=sentence):
        require_fit(changed(recipe, [change]), describe(recipe.start, Path("/nowhere")))


def test_frozen_autoencoder_of_other_clips_is_refused(finished: Run) -> None:
    recipe = from_model(finished.folder.root, "vae,autoencoder", "clip.width=48")
    assert recipe.start is not None
    with pytest.raises(UserError, match=r"--freeze autoencoder: .* height and width \[32, 32\]"):
        require_fit(recipe, describe(recipe.start, Path("/nowhere")))


def test_run_that_began_otherwise_is_refused(frozen: Run, finished: Run, tmp_path: Path) -> None:
    recipe = from_model(finished.folder.root, "vae")
    with pytest.raises(UserError, match="began from .* frozen, and is now to start from"):
        new_run(recipe, frozen.manifest, frozen.folder.root).run("generator")
    with pytest.raises(UserError, match="began from nothing, and is now to start from"):
        new_run(recipe, finished.manifest, finished.folder.root).run("vae")


def test_frozen_jobs_get_no_share_of_the_time(finished: Run, manifest: Manifest) -> None:
    base = from_model(finished.folder.root, "vae,autoencoder")
    chosen = choose_recipe(manifest, 10, base=base)
    assert chosen.clip == CLIP
    assert chosen.vae.train is not None and base.vae.train is not None
    assert chosen.vae.train.steps == base.vae.train.steps
    assert [job for job in JOBS if chosen.training_of(job)] == ["generator", "vocoder"]


def test_recipe_at_hand_can_name_its_start(finished: Run) -> None:
    plain = smallest_recipe()
    with pytest.raises(UserError, match="name the model with --from"):
        with_start(plain, None, "vae")
    started = with_start(plain, "impacts", "vae")
    assert started.start is not None
    assert (started.start.model, started.start.freeze) == ("impacts", ("vae",))
    assert with_start(started, "impacts", None) == started
    assert finished.config.start is None


@pytest.mark.parametrize(("height", "width"), [(32, 48), (48, 32)])
def test_pictures_that_are_not_square_train_end_to_end(
    height: int, width: int, clip_folder: Path, tmp_path: Path
) -> None:
    # The audio image has the size of its spectrogram, as in the chosen recipe.
    size = [
        f"clip.height={height}",
        f"clip.width={width}",
        "clip.native_audio=true",
        "vocoder=null",
    ]
    recipe = changed(smallest_recipe(steps=2), size)
    run = new_run(
        recipe, scan(clip_folder, recipe.clip, workers=1, held_out=0.25), tmp_path / "run"
    )
    for job in JOBS[:3]:
        run.run(job)
    assert load_image_vae(run.folder.export("vae")) is not None
    pipeline = SoundingVideoPipeline.from_pretrained(run.folder.model)
    pipeline.set_progress_bar_config(disable=True)
    clip = pipeline(num_samples=1, seed=0).clips[0]
    assert clip.frames.shape == (CLIP.num_frames, 3, height, width)
    assert list((run.folder.job("generator") / "previews").glob("*.png"))
