"""What a job does with networks that it does not train just then: in its own precision, as on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmldm.config import RunConfig, changed
from mmldm.data.latents import Splits
from mmldm.data.manifest import Manifest
from mmldm.models.image_vae import load_image_vae
from mmldm.pipelines import precision as precisions
from mmldm.training.jobs.autoencoder import AutoencoderStage
from mmldm.training.report import read_metrics
from mmldm.training.run import Run

from ..smallest import smallest_recipe
from .conftest import new_run

pytestmark = pytest.mark.slow

JOBS = ("vae", "autoencoder", "generator")


def in_bfloat16() -> RunConfig:
    recipe = changed(smallest_recipe(steps=2, critic=False), ["vocoder=null"])
    return changed(recipe, [f"{job}.train.precision=bf16" for job in JOBS])


@contextmanager
def products_without_gradients() -> Iterator[set[torch.dtype]]:
    """Types of what convolutions and linear layers give while nothing is trained."""
    seen: set[torch.dtype] = set()

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear) and not torch.is_grad_enabled():
            seen.add(output.dtype)

    hook = nn.modules.module.register_module_forward_hook(look)
    try:
        yield seen
    finally:
        hook.remove()


def test_caches_validation_and_previews_are_in_the_jobs_precision(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precisions, "WITHOUT_GRADIENTS", ("cpu",))
    run = new_run(in_bfloat16(), manifest, tmp_path)
    run.run("vae")
    with products_without_gradients() as seen:
        run.image_latents()
    assert seen == {torch.bfloat16}, "image latents are encoded"
    run.run("autoencoder")
    with products_without_gradients() as seen:
        caches = run.latents()
    assert seen == {torch.bfloat16}, "latents are encoded"
    assert all(x.isfinite().all() for x in caches.train[torch.arange(2)].mean)
    run.run("generator")
    for job in JOBS:
        folder = run.folder.job(job)
        validated = [
            record
            for record in read_metrics(folder / "metrics.jsonl")
            if any(name.startswith("validate/") for name in record)
        ]
        assert validated and list((folder / "previews").glob("*.mp4")), job


def test_a_look_at_a_bf16_job_is_in_bfloat16_and_on_a_cpu_in_float32(
    finished: Run, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (devices, expected) in enumerate(
        ((("cpu",), torch.bfloat16), (precisions.WITHOUT_GRADIENTS, torch.float32))
    ):
        monkeypatch.setattr(precisions, "WITHOUT_GRADIENTS", devices)
        run = new_run(in_bfloat16(), manifest, tmp_path / str(number))
        with products_without_gradients() as seen:
            run.run("vae")
        assert seen == {expected}


def test_a_decoder_of_many_steps_is_validated_in_few_and_shown_in_all(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = changed(smallest_recipe(), ["sample.decoder_steps=20"])
    vae = load_image_vae(finished.folder.export("vae"))
    caches = Splits.open(finished.folder.cache("image_latents"))
    stage = AutoencoderStage(recipe, vae, caches, torch.device("cpu"))
    stage.autoencoder.eval()
    timesteps: set[int] = set()
    denoise = stage.autoencoder.denoise

    def counted(noisy: Any, steps: Any, *rest: Any) -> Any:
        timesteps.update(steps.video.flatten().tolist())
        return denoise(noisy, steps, *rest)

    monkeypatch.setattr(stage.autoencoder, "denoise", counted)
    with torch.no_grad():
        stage.validate()
        assert len(timesteps) == 10
        timesteps.clear()
        tmp_path.mkdir(exist_ok=True)
        stage.preview(tmp_path, 1)
    assert len(timesteps) == 20
