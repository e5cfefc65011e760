"""Operations are counted without running anything, and they are those that run."""

from pathlib import Path

import pytest
import torch

from mmldm.benchmark import training_step
from mmldm.benchmark.sampling import SHEET, TOTAL, Sampling, untrained_pipeline
from mmldm.benchmark.training_step import TrainingStep, step_plans
from mmldm.config import RunConfig, changed
from mmldm.models.generator import JointGenerator
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.flops import count_flops, count_without_running
from mmldm.training.summary import Summary

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.mark.parametrize("with_vocoder", [True, False])
def test_sampling_is_counted_as_it_runs(
    recipe: RunConfig, summary: Summary, tmp_path: Path, with_vocoder: bool
) -> None:
    own = recipe if with_vocoder else recipe.model_copy(update={"vocoder": None})
    pipeline = untrained_pipeline(own, summary)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 3, "decoder_steps": 2, "guidance_scale": 2.0}
    sampling = Sampling(pipeline, 1, options, tmp_path)
    counted = sampling.flops()
    run = {name: count_flops(call)[0] for name, call in sampling.calls().items() if name in counted}
    assert counted == run
    assert set(sampling.calls()) - set(counted) == {"mp4 files", SHEET}
    assert counted[TOTAL] == sum(counted.values()) - counted[TOTAL]


def test_no_network_runs_while_sampling_is_counted(
    pipeline: SoundingVideoPipeline, tmp_path: Path
) -> None:
    sampling = Sampling(pipeline, 1, {"num_inference_steps": 2}, tmp_path)
    real: list[torch.device] = []
    for network in (pipeline.generator, pipeline.autoencoder.decoder, pipeline.vae):
        for part in network.modules():
            part.register_forward_hook(
                lambda module, inputs, output: (
                    real.append(output.device) if type(output) is torch.Tensor else None
                )
            )
    assert sampling.flops()[TOTAL] > 0
    assert real == [], "these outputs hold numbers"


@pytest.mark.parametrize("name", ["autoencoder", "autoencoder with critic", "generator"])
def test_a_training_step_is_counted_as_it_runs_and_leaves_no_gradients(
    name: str, recipe: RunConfig, summary: Summary, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = name.partition(" ")[0]
    plans = {plan.name: plan for plan in step_plans(recipe, summary, (job,), CPU)}
    step = TrainingStep(plans[name], 1, CPU)
    counted = step.flops()
    assert all(p.grad is None for turn in step.turns.values() for p in turn.module.parameters())
    monkeypatch.setattr(training_step, "count_without_running", lambda call: count_flops(call)[0])
    assert counted == step.flops()


def test_numbers_that_decide_shapes_are_run_for() -> None:
    def call() -> torch.Tensor:
        chosen = torch.tensor([0.0, 1.0, 1.0]).nonzero()[:, 0]
        return torch.ones(len(chosen), 3) @ torch.ones(3, 5)

    assert count_without_running(call) == 2 * 2 * 3 * 5


def test_a_generator_without_memory_is_counted_too(pipeline: SoundingVideoPipeline) -> None:
    """Autocast knows no device "meta", and says so with an error."""
    generator: JointGenerator = pipeline.generator
    latents = generator.latent_shapes.map(lambda shape: torch.zeros(1, *shape))
    timestep = torch.zeros(1, dtype=torch.long)
    real, _ = count_flops(generator, latents, timestep)
    meta = generator.to("meta")
    empty, _ = count_flops(meta, latents.map(lambda z: z.to("meta")), timestep.to("meta"))
    assert empty == real > 0


def test_a_vocoder_with_a_critic_has_both_steps(recipe: RunConfig, summary: Summary) -> None:
    assert recipe.vocoder is not None
    critic = "{start_step: 3, learning_rate: 0.001, model: {}}"
    changes = [f"vocoder.critic={critic}", "vocoder.loss.adversarial=0.1"]
    plans = {p.name: p for p in step_plans(changed(recipe, changes), summary, ("vocoder",), CPU)}
    assert list(plans) == ["vocoder", "vocoder with critic"]
    flops = [TrainingStep(plan, 1, CPU).flops() for plan in plans.values()]
    assert 0 < flops[0] < flops[1]
