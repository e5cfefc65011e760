"""A job goes on with the rows it began with or is refused, and nothing is thrown away before; finished ones
need none."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mmldm.config import RunConfig
from mmldm.data.cache_writer import weights_key
from mmldm.data.latents import Splits, files_key
from mmldm.data.manifest import Manifest
from mmldm.errors import UserError
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.image_vae import load_image_vae
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.checkpoint import CheckpointFolder
from mmldm.training.distil import distil, with_distillation
from mmldm.training.run import Run

from ..smallest import smallest_recipe
from .conftest import new_run
from .test_caching import contents

pytestmark = pytest.mark.slow


def windowed(windows: int, config: RunConfig | None = None) -> RunConfig:
    config = config or smallest_recipe()
    data = config.data.model_copy(update={"windows_per_clip": windows})
    return config.model_copy(update={"data": data})


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    """A copy of a finished run that a test may change."""
    shutil.copytree(finished.folder.root, tmp_path / "run")
    return new_run(smallest_recipe(), finished.manifest, tmp_path / "run")


def set_back(run: Run, job: str, to: int = 4) -> None:
    """Makes a finished job one that was killed after its checkpoint of step `to`."""
    folder = run.folder.job(job)
    shutil.rmtree(folder / "export")
    for checkpoint in (folder / "checkpoints").glob("step_*"):
        if int(checkpoint.name.removeprefix("step_")) > to:
            shutil.rmtree(checkpoint)


def change_state(run: Run, job: str, cache: Any) -> None:
    """Lets a job's checkpoints say that it trained on other caches."""
    for path in run.folder.job(job).glob("checkpoints/step_*/state.json"):
        state = json.loads(path.read_text())
        del state["sha256_of_state"]
        state["identity"][job]["cache"] = cache
        digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps({**state, "sha256_of_state": digest}))


def last(run: Run, job: str) -> dict[str, torch.Tensor]:
    checkpoints = CheckpointFolder(run.folder.job(job) / "checkpoints", 2, print)
    newest = checkpoints.load(checkpoints.steps()[-1])
    # Copies: the files are mapped, and a test may cut one.
    return {
        f"{file}/{n}": x.clone() for file, some in newest.tensors.items() for n, x in some.items()
    }


def old_key(**parts: Any) -> str:
    """Of a cache of format 1, as version 0.1 computed it."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.fixture
def old(run: Run) -> Run:
    """A finished run of before format 2: caches and checkpoints."""
    config, folder = run.config, run.folder
    images = old_key(
        clip=config.clip.model_dump(),
        windows=config.data.windows_per_clip,
        files=files_key(run.manifest),
        vae=weights_key(load_image_vae(folder.export("vae"))),
    )
    autoencoder = MultiModalAutoencoder.from_pretrained(folder.export("autoencoder"))
    latents = old_key(images=images, autoencoder=weights_key(autoencoder))
    change_state(run, "autoencoder", images)
    change_state(run, "generator", latents)
    shutil.rmtree(folder.root / "caches")
    for cache, key in (("image_latents", images), ("latents", latents)):
        for split in Splits._fields:
            part = folder.cache(cache) / split
            part.mkdir(parents=True)
            (part / "started.json").write_text(json.dumps({"format": 1, "key": key}))
            index = {"format": 1, "key": key, "rows": [9], "extra": {}}
            (part / "index.json").write_text(json.dumps(index))
            (part / "shard_00000.safetensors").write_bytes(b"rows")
    return run


def test_finished_jobs_need_no_caches_and_take_new_sampling_settings(run: Run) -> None:
    shutil.rmtree(run.folder.root / "caches")
    sample = run.config.sample.model_copy(update={"num_inference_steps": 7})
    run.config = run.config.model_copy(update={"sample": sample})
    before = last(run, "generator")
    for job in ("autoencoder", "generator"):
        result = run.run(job)
        assert result is not None and result.stopped_by is None
    assert not (run.folder.root / "caches").exists()
    model = SoundingVideoPipeline.from_pretrained(run.folder.model)
    assert model.config.num_inference_steps == 7
    weights = dict(model.generator.named_parameters())
    assert all(torch.equal(x, before[f"ema/generator.{n}"]) for n, x in weights.items())


def test_changed_windows_are_refused_before_caches_are_thrown_away(run: Run) -> None:
    set_back(run, "generator")
    run.config = windowed(3)
    before = contents(run.folder.root / "caches")
    for job in ("generator", "autoencoder"):
        with pytest.raises(UserError, match=r"windows_per_clip was 1 and is now 3"):
            run.run(job)
    assert contents(run.folder.root / "caches") == before


def test_network_trained_anew_is_refused_for_what_was_trained_on_it(run: Run) -> None:
    """Also where the later job is finished: the model would be put together from parts that do not fit."""
    vae = load_image_vae(run.folder.export("vae"))
    with torch.no_grad():
        next(vae.parameters()).add_(0.1)
    vae.save_pretrained(run.folder.export("vae"))
    before = contents(run.folder.root / "caches")
    with pytest.raises(UserError, match=r"caches.image_vae was .* and is now"):
        run.run("autoencoder")
    assert contents(run.folder.root / "caches") == before


def test_job_half_way_on_caches_of_an_earlier_version_is_refused_and_they_stay(
    old: Run,
) -> None:
    set_back(old, "generator")
    before = contents(old.folder.root / "caches")
    old.run("autoencoder")  # is finished, so it passes
    with pytest.raises(
        UserError, match=r"half-way \(step 4 of 6\) on caches of an earlier version"
    ):
        old.run("generator")
    assert contents(old.folder.root / "caches") == before


def test_run_finished_on_caches_of_an_earlier_version_stays_finished(old: Run) -> None:
    before = contents(old.folder.root / "caches")
    for job in ("autoencoder", "generator"):
        result = old.run(job)
        assert result is not None and result.step == 6
    assert contents(old.folder.root / "caches") == before
    pipeline = SoundingVideoPipeline.from_pretrained(old.folder.model)
    pipeline.set_progress_bar_config(disable=True)
    assert len(pipeline(num_samples=1, seed=0).clips) == 1


def test_job_that_begins_after_an_update_gets_new_caches_with_a_line_each(
    old: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    shutil.rmtree(old.folder.job("generator"))
    old.console = Console(width=1000)
    result = old.run("generator")
    assert result is not None and result.step == 6
    said = [line for line in capsys.readouterr().out.splitlines() if "encoded again" in line]
    assert len(said) == 2
    assert all("it has format 1, this version writes format 2" in line for line in said)
    assert len(Splits.open(old.folder.cache("latents")).train) == len(old.manifest.split("train"))


def test_finished_job_of_an_earlier_version_does_not_pass_with_other_windows(old: Run) -> None:
    old.config = windowed(3)
    with pytest.raises(UserError, match="cannot resume, because the clips, windows_per_clip"):
        old.run("autoencoder")


def test_finished_job_whose_last_checkpoint_is_damaged_trains_on_no_empty_rows(
    run: Run,
) -> None:
    expected = last(run, "generator")
    steps = sorted((run.folder.job("generator") / "checkpoints").glob("step_*"))
    (steps[-1] / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="the same command goes on from the checkpoint before"):
        run.run("generator")
    result = new_run(run.config, run.manifest, run.folder.root).run("generator")
    assert result is not None and result.step == 6
    found = last(run, "generator")
    assert all(torch.equal(found[name], x) for name, x in expected.items())


def test_latents_at_hand_need_no_image_latents(run: Run) -> None:
    expected = last(run, "generator")
    set_back(run, "generator")
    shutil.rmtree(run.folder.cache("image_latents"))
    run.run("generator")
    assert not run.folder.cache("image_latents").exists()
    found = last(run, "generator")
    assert all(torch.equal(found[name], x) for name, x in expected.items())


def test_job_begun_without_a_file_resumes_bit_for_bit_though_the_file_is_back(
    clip_folder: Path, finished: Run, tmp_path: Path
) -> None:
    clips = Path(shutil.copytree(clip_folder, tmp_path / "clips"))
    manifest = finished.manifest.model_copy(update={"root": clips})
    run = new_run(smallest_recipe(), manifest, tmp_path / "run")
    shutil.copytree(finished.folder.export("vae"), run.folder.export("vae"))
    row = manifest.split("train")[2]
    manifest.file(row).rename(tmp_path / "away.mp4")
    run.run("autoencoder")
    log = run.folder.job("autoencoder") / "train.log"
    assert log.read_text().count(f"cannot read {row.path}") == 1
    expected = last(run, "autoencoder")

    (tmp_path / "away.mp4").rename(manifest.file(row))
    set_back(run, "autoencoder")
    shutil.rmtree(run.folder.root / "caches")
    run.run("autoencoder")
    found = last(run, "autoencoder")
    assert all(torch.equal(found[name], x) for name, x in expected.items())
    assert "is left out, because the job began without it" in log.read_text()

    run.run("generator")  # begins anew: with the file
    assert len(Splits.open(run.folder.cache("latents")).train) == len(manifest.split("train"))


def test_students_that_are_done_need_no_caches(run: Run, manifest: Manifest) -> None:
    base = smallest_recipe().model_dump(mode="json")
    base["distill_generator"] = {
        "teacher_steps": 8, "steps": [4, 2], "train": {**base["generator"]["train"], "steps": 2},
    }  # fmt: skip
    base["sample"]["num_inference_steps"] = 8
    config = with_distillation(RunConfig.model_validate(base), "generator")
    run.config = config
    run.run("generator")
    distil(run, "generator")
    shutil.rmtree(run.folder.root / "caches")
    assert distil(run, "generator").step == 2
    assert not (run.folder.root / "caches").exists()
