"""The autoencoder job: what its turns move, what stays frozen, and which way gradients go."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from mmldm.data.latents import Splits
from mmldm.errors import UserError
from mmldm.models.autoencoder import load_autoencoder
from mmldm.models.image_vae import load_image_vae
from mmldm.training.distributed import Process
from mmldm.training.job_caches import RememberedCache
from mmldm.training.jobs.autoencoder import AutoencoderStage
from mmldm.training.optim import Turn
from mmldm.training.randomness import StepRandom
from mmldm.training.run import Run
from mmldm.types import AV, Latents

from ...smallest import smallest_recipe

pytestmark = pytest.mark.slow

ROWS = 4


@pytest.fixture
def stage(finished: Run) -> AutoencoderStage:
    return AutoencoderStage(
        smallest_recipe(),
        load_image_vae(finished.folder.export("vae")),
        Splits.open(finished.folder.cache("image_latents")),
        torch.device("cpu"),
    )


def batches(stage: AutoencoderStage) -> Iterator[Latents]:
    return stage.batches(0, 0, 1)


def play(stage: AutoencoderStage, steps: int) -> dict[str, dict[str, Tensor]]:
    """A few optimiser steps of every turn; the last terms."""
    optimizers = {
        name: torch.optim.AdamW(module.parameters(), lr=1e-3)
        for name, module in stage.turns.items()
    }
    terms: dict[str, dict[str, Tensor]] = {}
    for step, batch in zip(range(steps), batches(stage), strict=False):
        for name in stage.active_turns(step):
            for other, module in stage.turns.items():
                module.requires_grad_(other == name)
            terms[name] = stage.turns[name](batch, StepRandom(0, step, name, ROWS))
            optimizers[name].zero_grad()
            terms[name]["loss"].backward()
            optimizers[name].step()
    return terms


def test_all_terms_of_equation_3_are_there_and_finite(stage: AutoencoderStage) -> None:
    terms = play(stage, 3)
    assert set(terms["model"]) == {
        "loss", "mse/audio", "mse/video", "kl/audio", "kl/video",
        "classification", "contrastive", "adversarial",
    }  # fmt: skip
    assert set(terms["critic"]) == {"loss", "score/real", "score/fake"}
    for turn in terms.values():
        assert all(value.isfinite() for value in turn.values())


def test_frozen_image_vae_never_moves_nor_gets_gradients(stage: AutoencoderStage) -> None:
    before = {name: value.clone() for name, value in stage.vae.state_dict().items()}
    play(stage, 3)
    assert all(parameter.grad is None for parameter in stage.vae.parameters())
    assert all(torch.equal(before[k], v) for k, v in stage.vae.state_dict().items())


def test_every_parameter_of_the_model_turn_learns_within_three_steps(
    stage: AutoencoderStage,
) -> None:
    before = {n: p.detach().clone() for n, p in stage.autoencoder.named_parameters()}
    play(stage, 3)
    still = [n for n, p in stage.autoencoder.named_parameters() if torch.equal(before[n], p)]
    assert not still


def test_adversarial_gradient_reaches_the_autoencoder_through_the_image_decoder(
    stage: AutoencoderStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(stage, 2)
    batch = next(batches(stage))
    stage.autoencoder.requires_grad_(True)
    stage.autoencoder.zero_grad()
    turn = stage.turns["model"]
    terms: dict[str, Tensor] = {}
    assert stage.adversary is not None
    original = stage.adversary.model_loss

    def keep(*arguments: Any) -> Tensor:
        terms["adversarial"] = original(*arguments)
        return terms["adversarial"]

    # The turn logs the term without its gradient; this keeps the one it adds to the loss.
    monkeypatch.setattr(stage.adversary, "model_loss", keep)
    turn(batch, StepRandom(0, 5, "model", ROWS))
    terms["adversarial"].backward()
    decoder = [p.grad for p in stage.autoencoder.decoder.parameters() if p.grad is not None]
    encoder = [p.grad for p in stage.autoencoder.encoders.parameters() if p.grad is not None]
    assert sum(float(g.abs().sum()) for g in decoder) > 0
    assert sum(float(g.abs().sum()) for g in encoder) > 0


def test_critic_turn_moves_the_critic_alone(stage: AutoencoderStage) -> None:
    batch = next(batches(stage))
    stage.turns["model"](batch, StepRandom(0, 5, "model", ROWS))
    stage.turns["model"].requires_grad_(False)
    stage.turns["critic"](batch, StepRandom(0, 5, "critic", ROWS))["loss"].backward()
    assert all(p.grad is not None for p in stage.turns["critic"].parameters())
    assert all(p.grad is None for p in stage.autoencoder.parameters())


def test_model_turn_does_not_own_the_critic_or_the_image_vae(stage: AutoencoderStage) -> None:
    owned = {id(p) for p in stage.turns["model"].parameters()}
    assert not owned & {id(p) for p in stage.turns["critic"].parameters()}
    assert not owned & {id(p) for p in stage.vae.parameters()}


def test_latent_scale_takes_the_place_of_fitted_statistics(finished: Run) -> None:
    recipe = smallest_recipe()
    section = recipe.autoencoder.model_copy(update={"latent_scale": 0.18215})
    caches = Splits.open(finished.folder.cache("image_latents"))
    stage = AutoencoderStage(
        recipe.model_copy(update={"autoencoder": section}),
        load_image_vae(finished.folder.export("vae")),
        caches,
        torch.device("cpu"),
    )
    raw = caches.train[torch.tensor([0])].mean.video
    assert torch.allclose(stage.codec.normalise(raw, "video"), 0.18215 * raw)
    assert stage.autoencoder.image_statistics.audio.std == (1 / 0.18215,) * 4


def going_on(finished: Run, **changed: Any) -> AutoencoderStage:
    """A job that goes on with the finished run's autoencoder."""
    recipe = smallest_recipe(critic=False)
    section = recipe.autoencoder.model_copy(
        update={"pretrained": str(finished.folder.export("autoencoder")), **changed}
    )
    return AutoencoderStage(
        recipe.model_copy(update={"autoencoder": section}),
        load_image_vae(finished.folder.export("vae")),
        Splits.open(finished.folder.cache("image_latents")),
        torch.device("cpu"),
    )


def test_pretrained_autoencoder_goes_on_with_its_encoders_frozen(finished: Run) -> None:
    stage = going_on(finished)
    trained = load_autoencoder(finished.folder.export("autoencoder")).state_dict()
    assert all(torch.equal(trained[k], v) for k, v in stage.autoencoder.state_dict().items())
    turn = Turn("model", stage.turns["model"], stage.job.train, 1e-3, Process())
    for step, batch in zip(range(3), batches(stage), strict=False):
        turn.open(trainable=True)
        turn.step([batch], 0, step, 1.0)
    moved = {k for k, v in stage.autoencoder.state_dict().items() if not torch.equal(trained[k], v)}
    assert {name.split(".")[0] for name in moved} >= {"decoder", "adapters", "projectors"}
    assert not [name for name in moved if name.startswith("encoders.")]


def test_pretrained_autoencoder_of_another_shape_is_refused(finished: Run) -> None:
    model = {**smallest_recipe().autoencoder.model, "prompt_tokens": 3}
    with pytest.raises(UserError, match=r"pretrained: .* differs from the recipe in prompt_tokens"):
        going_on(finished, model=model)


def test_critic_stays_out_before_its_start_step(stage: AutoencoderStage) -> None:
    assert stage.active_turns(0) == ("model",)
    assert stage.active_turns(1) == ("model", "critic")
    terms = stage.turns["model"](next(batches(stage)), StepRandom(0, 0, "model", ROWS))
    assert "adversarial" not in terms


def test_leaving_the_adversarial_loss_out_leaves_weights_and_other_terms_as_they_were(
    finished: Run, stage: AutoencoderStage
) -> None:
    recipe = smallest_recipe(critic=False)
    vae = load_image_vae(finished.folder.export("vae"))
    without = AutoencoderStage(recipe, vae, stage.caches, torch.device("cpu"))
    assert set(without.turns) == {"model"}
    theirs, ours = stage.autoencoder.state_dict(), without.autoencoder.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    batch = next(batches(stage))
    with_critic = stage.turns["model"](batch, StepRandom(0, 5, "model", ROWS))
    alone = without.turns["model"](batch, StepRandom(0, 5, "model", ROWS))
    assert with_critic.keys() - alone.keys() == {"adversarial"}
    for name in alone.keys() - {"loss"}:
        assert torch.equal(alone[name], with_critic[name]), name


def test_adversary_decodes_only_what_counts_and_the_loss_is_that_of_all_clips(
    stage: AutoencoderStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clips of four are below the highest noise level; one of them is incomplete."""
    adversary = stage.adversary
    assert adversary is not None
    generator = torch.Generator().manual_seed(0)
    batch = next(batches(stage))
    shapes = AV(batch.mean.audio[:, :1].shape, batch.mean.video[:, :2].shape)
    prediction, noisy, target = (
        shapes.map(lambda shape: torch.randn(shape, generator=generator)) for _ in range(3)
    )
    prediction = prediction.map(lambda x: x.requires_grad_())
    last = stage.process.num_timesteps - 1
    levels = AV(
        torch.tensor([[0], [9], [9], [last]]), torch.tensor([[9, 9], [9, last], [0, 9], [9, 9]])
    )
    complete = torch.tensor([True, True, False, True])
    monkeypatch.setattr(adversary, "max_noise", 0.5)
    decoded: list[int] = []
    decode = stage.vae.decode

    def counted(z: Tensor) -> Any:
        decoded.append(len(z))
        return decode(z)

    monkeypatch.setattr(stage.vae, "decode", counted)
    stage.adversary.critic.requires_grad_(False)
    loss = adversary.model_loss(prediction, noisy, levels, target, stage.process, 0, complete)
    own = torch.autograd.grad(loss, tuple(prediction))

    assert sum(decoded) == 2 * 3 * 2  # two clips of three images, real and fake
    estimate = prediction.map(stage.process.to_x0, noisy, levels)
    scores = adversary.critic(adversary.images(estimate))
    expected = torch.relu(1 - scores[0]) / 4
    wanted = torch.autograd.grad(expected, tuple(prediction))
    assert torch.allclose(loss, expected, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(own, wanted, strict=True))


def test_step_of_both_turns_asks_the_device_for_nothing(
    stage: AutoencoderStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = smallest_recipe().autoencoder.train
    turns = {name: Turn(name, m, config, 1e-3, Process()) for name, m in stage.turns.items()}
    batch = next(batches(stage))
    asked: list[str] = []
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__"):
        original = getattr(Tensor, name)

        def noted(self: Tensor, *args: Any, name: str = name, original: Any = original) -> Any:
            asked.append(name)
            return original(self, *args)

        monkeypatch.setattr(Tensor, name, noted)
    for step in (1, 2):
        for name, turn in turns.items():
            for other in turns.values():
                other.open(trainable=other.name == name)
            turn.step([batch], seed=0, step=step, factor=1.0)
    assert asked == []


def test_errors_count_by_what_they_cost_in_pixels_as_far_as_the_recipe_says(finished: Run) -> None:
    recipe = smallest_recipe()
    caches = Splits.open(finished.folder.cache("image_latents"))

    def with_strength(strength: float) -> AutoencoderStage:
        loss = recipe.autoencoder.loss.model_copy(update={"pixels": strength})
        job = recipe.autoencoder.model_copy(update={"loss": loss})
        vae = load_image_vae(finished.folder.export("vae"))
        torch.manual_seed(0)
        return AutoencoderStage(
            recipe.model_copy(update={"autoencoder": job}), vae, caches, torch.device("cpu")
        )

    stages = [with_strength(strength) for strength in (0.0, 0.5, 1.0)]
    told = [stage.fingerprint()["job"]["loss"].get("pixels") for stage in stages]
    assert told == [None, 0.5, 1.0]  # without it a job is what it was before
    none, half, whole = (stage._channels() for stage in stages)
    assert none is None and half is not None and whole is not None
    for roots, powers in zip(half, whole, strict=True):
        assert powers.mean().item() == pytest.approx(1) and powers.max() > 1.05
        assert torch.allclose(roots, powers.sqrt() / powers.sqrt().mean())

    # The errors alone count otherwise: the other terms are what they were.
    terms = [play(stage, 1)["model"] for stage in stages]
    assert terms[0]["mse/video"] != terms[1]["mse/video"] != terms[2]["mse/video"]
    assert torch.equal(terms[0]["kl/video"], terms[2]["kl/video"])


def test_a_finished_job_weighs_no_errors(finished: Run) -> None:
    """It has no caches to measure them on, and is asked for no step."""
    recipe = smallest_recipe()
    loss = recipe.autoencoder.loss.model_copy(update={"pixels": 1.0})
    job = recipe.autoencoder.model_copy(update={"loss": loss})
    caches = Splits.open(finished.folder.cache("image_latents"))
    shapes, extra = caches.train.shapes, caches.train.extra
    ended = RememberedCache(caches.train.identity, shapes, extra)
    stage = AutoencoderStage(
        recipe.model_copy(update={"autoencoder": job}),
        load_image_vae(finished.folder.export("vae")),
        Splits(ended, ended),
        torch.device("cpu"),
    )
    assert stage.fingerprint()["job"]["loss"]["pixels"] == 1
