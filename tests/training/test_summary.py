"""The numbers of a dry run are those of the real parts."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmldm.config import RunConfig
from mmldm.errors import UserError
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training import JOBS
from mmldm.training.run import Run
from mmldm.training.summary import summarise
from mmldm.types import AV

from ..smallest import smallest_recipe

pytestmark = pytest.mark.slow

CRITIC = {"start_step": 1, "learning_rate": 1e-3}


def changed(recipe: RunConfig, job: str, **sections: object) -> RunConfig:
    section = getattr(recipe, job).model_copy(update=sections)
    return recipe.model_copy(update={job: section})


def test_parameters_and_flops_are_those_of_the_trained_model(finished: Run) -> None:
    summary = summarise(finished.config, len(finished.manifest.classes))
    pipeline = SoundingVideoPipeline.from_pretrained(finished.folder.model)
    parts = {part.name: part for part in summary.parts}
    for name, network in (
        ("image VAE, encode", pipeline.vae),
        ("autoencoder, encode", pipeline.autoencoder),
        ("signal decoder, one step", pipeline.autoencoder.decoder),
        ("generator, one step", pipeline.generator),
    ):
        assert parts[name].parameters == sum(p.numel() for p in network.parameters())
    z = AV(*(torch.zeros(1, *shape) for shape in pipeline.autoencoder.latent_shapes))
    plain = sdpa_kernel(SDPBackend.MATH)
    with plain, FlopCounterMode(display=False) as counter, torch.no_grad():
        pipeline.generator(z, torch.zeros(1, dtype=torch.long))
    assert parts["generator, one step"].flops == counter.get_total_flops() > 0
    images = torch.zeros(5, 3, 32, 32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        pipeline.vae.encode(images)
    assert parts["image VAE, encode"].flops == counter.get_total_flops() > 0


def test_spaces_are_those_of_the_trained_model(finished: Run) -> None:
    summary = summarise(finished.config, len(finished.manifest.classes))
    pipeline = SoundingVideoPipeline.from_pretrained(finished.folder.model)
    assert summary.spaces["latents"] == pipeline.autoencoder.latent_shapes
    assert summary.spaces["images"] == ((1, 3, 32, 32), (4, 3, 32, 32))
    assert summary.spaces["image latents"] == ((1, 4, 8, 8), (4, 4, 8, 8))
    assert summary.spaces["media"] == ((3200,), (4, 3, 32, 32))


def test_checkpoints_are_as_large_as_predicted(finished: Run) -> None:
    summary = summarise(finished.config, len(finished.manifest.classes))
    for name, job in zip(JOBS, summary.jobs, strict=True):
        newest = sorted((finished.folder.job(name) / "checkpoints").glob("step_*"))[-1]
        size = sum(path.stat().st_size for path in newest.glob("*.safetensors"))
        headers = sum(
            8 + int.from_bytes(path.read_bytes()[:8], "little")
            for path in newest.glob("*.safetensors")
        )
        assert job.checkpoint_bytes == pytest.approx(size - headers, rel=0.02), name


def test_memory_held_while_training_is_that_of_the_real_tensors(finished: Run) -> None:
    """What the checkpoint holds, a gradient per trained weight, and the frozen networks."""
    jobs = {job.name: job for job in summarise(finished.config, 2).jobs}
    pipeline = SoundingVideoPipeline.from_pretrained(finished.folder.model)
    sizes = {
        name: sum(p.numel() for p in network.parameters())
        for name, network in pipeline.components.items()
        if isinstance(network, torch.nn.Module)
    }
    assert jobs["vae"].memory_bytes - jobs["vae"].checkpoint_bytes == 4 * sizes["vae"]
    beside = 4 * (sizes["generator"] + sizes["autoencoder"] + sizes["vae"])
    assert jobs["generator"].memory_bytes - jobs["generator"].checkpoint_bytes == beside


def test_fused_attention_is_counted() -> None:
    recipe = smallest_recipe()
    encoder = recipe.autoencoder.model["audio_encoder_config"]
    flops = []
    for attention in (False, True):
        model = {
            **recipe.autoencoder.model,
            "audio_encoder_config": {**encoder, "spatial_attention": attention},
        }
        parts = {
            p.name: p.flops for p in summarise(changed(recipe, "autoencoder", model=model), 0).parts
        }
        flops.append(parts["autoencoder, encode"])
    cells, width = 64, 16
    projections = 4 * cells * width * width
    assert flops[1] - flops[0] == 2 * (projections + 2 * cells * cells * width)


def test_a_large_recipe_is_counted_without_its_memory() -> None:
    wide = smallest_recipe()
    model = {**wide.generator.model, "width": 4096, "depth": 24, "heads": 32}
    parts = {p.name: p for p in summarise(changed(wide, "generator", model=model), 2).parts}
    parameters = parts["generator, one step"].parameters
    assert parameters is not None and parameters > 3e9


def test_text_names_spaces_parts_and_jobs() -> None:
    text = str(summarise(smallest_recipe(), 0))
    for word in ("image latents", "signal decoder, one step", "GFLOP", "checkpoint", *JOBS):
        assert word in text


def test_faulty_section_is_named() -> None:
    recipe = smallest_recipe()
    faulty = changed(recipe, "vae", model={**(recipe.vae.model or {}), "latent_channels": 0})
    with pytest.raises(UserError, match="vae.model: no network can be built"):
        summarise(faulty, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"critic": {**CRITIC, "model": {"patch_size": 3}}}, r"vae.critic.model: no network"),
        ({"critic": {**CRITIC, "model": {"patchsize": 3}}}, r"vae.critic.model.patchsize: unknown"),
        ({"features": "/nowhere"}, r"SqueezeNet needs its weights.*/nowhere"),
    ],
)
def test_what_sharpens_the_image_vae_is_refused_before_its_job_starts(
    changes: dict[str, Any], message: str
) -> None:
    base = smallest_recipe().model_dump(mode="json")
    base["vae"].update(loss={"perceptual": 1.0, "adversarial": 1.0}, critic=CRITIC)
    summarise(RunConfig.model_validate(base), 2)
    base["vae"].update(changes)
    with pytest.raises(UserError, match=message):
        summarise(RunConfig.model_validate(base), 2)
