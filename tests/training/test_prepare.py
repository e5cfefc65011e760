"""Recomputed activations and compiled blocks: the same numbers and names. Sharding: test_distributed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from mmldm.data.latents import Splits
from mmldm.models.image_vae import load_image_vae
from mmldm.models.layers import ResBlock
from mmldm.models.transformer import Block
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.distributed import Process
from mmldm.training.jobs.autoencoder import AutoencoderStage
from mmldm.training.jobs.generator import GeneratorStage
from mmldm.training.optim import Turn
from mmldm.training.run import Run
from mmldm.training.stage import Stage

from ..smallest import smallest_recipe
from .test_loop import losses, run
from .tiny_stage import tiny_config

CPU = torch.device("cpu")


@pytest.fixture(params=["autoencoder", "generator"])
def stage(request: pytest.FixtureRequest, finished: Run) -> Stage:
    recipe, folder = smallest_recipe(critic=False), finished.folder
    if request.param == "autoencoder":
        vae = load_image_vae(folder.export("vae"))
        return AutoencoderStage(recipe, vae, Splits.open(folder.cache("image_latents")), CPU)
    pipeline = SoundingVideoPipeline.from_pretrained(folder.model)
    return GeneratorStage(recipe, pipeline, Splits.open(folder.cache("latents")), CPU)


def play(stage: Stage, **settings: Any) -> tuple[dict[str, Tensor], int, float]:
    """Every gradient of a step, how often a block ran in it, and the loss."""
    config = tiny_config(batch_size=4, clip_norm=1e9, **settings)
    turn = Turn("model", stage.turns["model"], config, 0.0, Process())
    calls: list[nn.Module] = []
    counters = [
        block.register_forward_pre_hook(lambda module, args: calls.append(module))
        for block in turn.module.modules()
        if isinstance(block, Block | ResBlock)
    ]
    terms, _ = turn.step([next(stage.batches(0, 0, 1))], seed=0, step=0, factor=0.0)
    for counter in counters:
        counter.remove()
    gradients = {n: p.grad.clone() for n, p in turn.parameters.items() if p.grad is not None}
    return gradients, len(calls), float(terms["loss"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputing_activations_changes_no_bit(stage: Stage, precision: str) -> None:
    gradients, calls, loss = play(stage, precision=precision)
    again, more_calls, same_loss = play(stage, precision=precision, gradient_checkpointing=True)
    assert same_loss == loss
    assert gradients.keys() == again.keys()
    assert all(torch.equal(gradient, again[name]) for name, gradient in gradients.items())
    assert more_calls > calls, "nothing was computed again"


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.reset()
    # The default one needs a C++ compiler on a CPU, and half a minute.
    torch.compiler.set_default_backend("aot_eager")
    yield
    torch.compiler.set_default_backend(None)
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = limit


def test_compiled_blocks_give_the_same_losses_and_names(
    tmp_path: Path, fresh_compiler: None
) -> None:
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    for folder, wanted in ((plain, False), (compiled, True)):
        run(folder, {"dropout": 0.0}, steps=6, compile=wanted, validate_every=0)
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
    checkpoint = Path("checkpoints", "step_00000006", "model.safetensors")
    with safe_open(plain / checkpoint, "pt") as a, safe_open(compiled / checkpoint, "pt") as b:
        assert a.keys() == b.keys()
