"""The `vae` job: a pretrained VAE keeps its latents, whatever decoder is trained on them."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmldm.config import RunConfig
from mmldm.data.manifest import Manifest
from mmldm.errors import UserError
from mmldm.models.discriminator import PatchDiscriminator
from mmldm.models.image_vae import (
    ImageVAE,
    PatchAutoencoderKL,
    TinyImageAutoencoder,
    load_image_vae,
    pixels_per_cell,
)
from mmldm.pipelines.decoding import decode_to_image_latents
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.adversary import PatchAdversary
from mmldm.training.jobs.vae import VaeStage, VaeTurn, build_turns, build_vae, sum_of
from mmldm.training.losses import adversarial_loss
from mmldm.training.randomness import StepRandom
from mmldm.training.report import METRICS, read_metrics
from mmldm.training.run import Run
from mmldm.types import AV, MODALITIES, ClipSpec, WindowBatch

from ...smallest import CLIP, smallest_recipe
from ..conftest import new_run

pytestmark = pytest.mark.slow

LIGHT = {"decoder_channels": 8, "decoder_blocks": 1, "upsample_channels": [4]}


def recipe(pretrained: Path, **vae: object) -> RunConfig:
    base = smallest_recipe().model_dump(mode="json")
    base["vae"].update(pretrained=str(pretrained), model=None, **vae)
    return RunConfig.model_validate(base)


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    vae = PatchAutoencoderKL(base_channels=16, upsample_channels=(16,))
    vae.encoder[-1].bias.data[4:] = -10  # a posterior as narrow as a trained one's
    vae.save_pretrained(tmp_path)
    return tmp_path


def decoder_flops(vae: ImageVAE) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        vae.decode(torch.zeros(1, 4, 8, 8))
    return counter.get_total_flops()


def test_new_decoder_keeps_the_latents_and_is_lighter(pretrained: Path) -> None:
    teacher, light = build_vae(recipe(pretrained)), build_vae(recipe(pretrained, decoder=LIGHT))
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    ours, theirs = (vae.encode(images).latent_dist.parameters for vae in (light, teacher))
    assert torch.equal(ours, theirs)
    assert decoder_flops(light) < decoder_flops(teacher) / 3


def kl_vae(folder: Path) -> Path:
    """A narrow VAE in Stable Diffusion's layout, f=8."""
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    torch.manual_seed(1)
    AutoencoderKL(
        block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=4, **blocks
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_kl_vae_keeps_its_latents_under_a_new_decoder(tmp_path: Path) -> None:
    widths = {"decoder_channels": 8, "decoder_blocks": 1, "upsample_channels": [8, 4]}
    config = recipe(kl_vae(tmp_path / "kl"), decoder=widths)
    teacher, light = load_image_vae(tmp_path / "kl"), build_vae(config)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    kept: list[str] = []
    trained: list[str] = []
    for name, parameter in light.named_parameters():
        (trained if parameter.requires_grad else kept).append(name.split(".")[0])
    assert (set(kept), set(trained)) == ({"encoder", "quant_conv"}, {"decoder"})
    light.save_pretrained(tmp_path / "light")
    for vae in (light, load_image_vae(tmp_path / "light")):
        ours, theirs = (x.encode(images).latent_dist.parameters for x in (vae, teacher))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)  # kernels may differ
        assert vae.decode(theirs[:, :4]).sample.shape == images.shape
    assert decoder_flops(light) < decoder_flops(teacher) / 3
    assert pixels_per_cell(light) == 8


def test_widths_of_a_kl_vaes_new_decoder_are_counted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs 2 entries for a KL-VAE of 4 levels, got "):
        build_vae(recipe(kl_vae(tmp_path), decoder=LIGHT))


def test_only_the_decoder_is_trained_and_it_learns(pretrained: Path) -> None:
    config = recipe(pretrained, decoder=LIGHT)
    vae = build_vae(config)
    encoder = {name: x.clone() for name, x in vae.encoder.state_dict().items()}
    turn = VaeTurn(vae, CLIP, config.vae)
    optimizer = torch.optim.AdamW([p for p in vae.parameters() if p.requires_grad], lr=1e-2)
    frames = torch.randint(0, 255, (2, 4, 3, 4, 4), dtype=torch.uint8)
    both = torch.ones(2, dtype=torch.bool)
    batch = WindowBatch(
        frames.repeat_interleave(8, -1).repeat_interleave(8, -2),
        torch.randn(2, CLIP.num_samples) / 4,
        present=AV(both, both),
        class_labels=torch.zeros(2, dtype=torch.long),
        indices=torch.arange(2),
    )
    losses = []
    for step in range(40):
        loss = turn(batch, StepRandom(0, step, "model", batch_size=2))["loss"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]
    assert all(torch.equal(encoder[name], x) for name, x in vae.encoder.state_dict().items())


def test_new_decoder_takes_the_place_of_a_finished_models_own(
    finished: Run, tmp_path: Path
) -> None:
    run = new_run(
        recipe(finished.folder.export("vae"), decoder={**LIGHT, "decoder_channels": 4}),
        finished.manifest,
        tmp_path,
    )
    run.run("vae")
    light = load_image_vae(run.folder.export("vae"))
    own = SoundingVideoPipeline.from_pretrained(finished.folder.model)
    SoundingVideoPipeline.from_pretrained(finished.folder.model, vae=light).save_pretrained(
        tmp_path / "model"
    )
    changed = SoundingVideoPipeline.from_pretrained(tmp_path / "model")
    assert changed.vae.config.decoder_channels == 4
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    latents = [pipeline.vae.encode(images).latent_dist.mean for pipeline in (own, changed)]
    assert torch.equal(*latents)
    changed.set_progress_bar_config(disable=True)
    [clip] = changed(num_samples=1, seed=0).clips
    assert clip.frames.shape == (4, 3, 32, 32)


def test_new_decoder_of_another_kind_of_vae_is_refused(tmp_path: Path) -> None:
    TinyImageAutoencoder().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"vae.decoder: .*TinyImageAutoencoder.*remove the key"):
        build_vae(recipe(tmp_path, decoder=LIGHT))


def test_wrong_key_of_the_decoder_is_named(pretrained: Path) -> None:
    with pytest.raises(UserError, match=r"vae.decoder.decoder_chanels: unknown key"):
        build_vae(recipe(pretrained, decoder={**LIGHT, "decoder_chanels": 8}))


CRITIC = {"start_step": 1, "learning_rate": 1e-3, "model": {"channels": 8, "multipliers": [1, 1]}}
SHARP = {"loss": {"perceptual": 0.5, "adversarial": 0.5}, "critic": CRITIC}


def sharp_recipe(**vae: object) -> RunConfig:
    base = smallest_recipe().model_dump(mode="json")
    base["vae"].update({**SHARP, **vae})
    return RunConfig.model_validate(base)


def windows(spec: ClipSpec = CLIP, rows: int = 4) -> WindowBatch:
    """Random blocks that move, and sounds."""
    generator = torch.Generator().manual_seed(0)
    shape = (rows, spec.num_frames, 3, spec.height // 8, spec.width // 8)
    frames = torch.randint(0, 255, shape, dtype=torch.uint8, generator=generator)
    both = torch.ones(rows, dtype=torch.bool)
    return WindowBatch(
        frames.repeat_interleave(8, -1).repeat_interleave(8, -2),
        torch.randn(rows, spec.num_samples, generator=generator) / 4,
        present=AV(both, both),
        class_labels=torch.zeros(rows, dtype=torch.long),
        indices=torch.arange(rows),
    )


def play(config: RunConfig, steps: int, learning_rate: float = 3e-3) -> list[dict[str, float]]:
    """Optimiser steps of both turns on one batch; the terms of each."""
    turns = build_turns(config, build_vae(config), torch.device("cpu"))
    optimizers = {
        name: torch.optim.AdamW([p for p in turn.parameters() if p.requires_grad], learning_rate)
        for name, turn in turns.items()
    }
    moved = {name: [p for p in t.parameters() if p.requires_grad] for name, t in turns.items()}
    batch, history = windows(), []
    for step in range(steps):
        start = config.vae.critic.start_step if config.vae.critic else steps
        terms: dict[str, float] = {}
        for name in ("model", "critic") if step >= start else ("model",):
            for other, parameters in moved.items():
                for parameter in parameters:
                    parameter.requires_grad_(other == name)
            found = turns[name](batch, StepRandom(0, step, name, batch_size=4))
            optimizers[name].zero_grad()
            found["loss"].backward()
            optimizers[name].step()
            terms |= {f"{name}/{term}": value.item() for term, value in found.items()}
        history.append(terms)
    return history


def test_perceptual_and_adversarial_terms_are_off_unless_asked_for() -> None:
    [terms] = play(smallest_recipe(), 1)
    assert set(terms) == {"model/loss", "model/l1/audio", "model/l1/video", "model/kl"}
    before, after = play(sharp_recipe(), 2)
    assert set(before) - set(terms) == {"model/perceptual"}
    assert set(after) - set(before) == {
        "model/adversarial", "critic/loss", "critic/score/real", "critic/score/fake",
    }  # fmt: skip


def test_critic_learns_to_tell_and_perceptual_distance_falls() -> None:
    history = play(sharp_recipe(loss={"perceptual": 0.5, "adversarial": 1e-6}), 60)
    assert history[-1]["model/perceptual"] < 0.8 * history[0]["model/perceptual"]
    late = history[-10:]
    assert all(terms["critic/score/real"] > terms["critic/score/fake"] for terms in late)
    assert sum(terms["critic/loss"] for terms in late) / 10 < 0.9


def test_critics_term_pulls_each_image_as_hard_as_its_pixels_do() -> None:
    torch.manual_seed(0)
    adversary = PatchAdversary(PatchDiscriminator(channels=8), start_step=0)
    decoded = AV(torch.rand(2, 3, 16, 32) - 0.5, torch.rand(3, 3, 8, 8) - 0.5)
    decoded.map(lambda x: x.requires_grad_())
    images = decoded.map(lambda x: torch.rand_like(x) - 0.5)
    weights = decoded.map(lambda x: torch.ones_like(x[:, :1]))
    share = AV(torch.tensor([0.2, 0.0]), torch.full((3,), 0.2))
    errors = decoded.map(torch.sub, images).map(lambda e: e.square().mean((1, 2, 3)))
    closeness = sum(part.sum() for part in errors.map(torch.mul, share))
    assert isinstance(closeness, torch.Tensor)
    loss, paid = adversary.model_loss(decoded, images, weights, share, AV(0.5, 1.0), closeness, 0)
    pull = torch.autograd.grad(closeness, tuple(decoded), retain_graph=True)
    push = torch.autograd.grad(loss, tuple(decoded))
    for emphasis, wanted, found in zip((0.5, 1.0), pull, push, strict=True):
        norms = [gradient.flatten(1).norm(dim=1) for gradient in (emphasis * wanted, found)]
        torch.testing.assert_close(*norms)
    scores = decoded.map(lambda x: adversarial_loss(adversary.critic(x)).mean((1, 2, 3)))
    assert paid.item() == pytest.approx(sum_of(scores, share).item(), rel=1e-4)
    assert not push[0][1].any()  # an image that is not there
    assert [handoff.share.sum().item() for handoff in adversary.handoff[0]] == pytest.approx(
        [0.1, 0.6]
    )


def test_terms_reach_the_decoder_of_a_pretrained_vae_alone(pretrained: Path) -> None:
    config = recipe(pretrained, decoder=LIGHT, **SHARP)
    vae = build_vae(config)
    turns = build_turns(config, vae, torch.device("cpu"))
    loss = turns["model"](windows(), StepRandom(0, 1, "model", batch_size=4))["loss"]
    turns["critic"].requires_grad_(False)
    loss.backward()
    assert all(p.grad is None for p in vae.encoder.parameters())
    assert all(p.grad is not None for p in vae.decoder.parameters())


@pytest.mark.parametrize(
    ("loss", "critic"), [({"adversarial": 0.5}, None), ({"adversarial": 0.0}, CRITIC)]
)
def test_weight_and_section_of_the_critic_belong_together(
    loss: dict[str, float], critic: dict[str, object] | None
) -> None:
    with pytest.raises(ValueError, match=r"loss.adversarial above 0 and a critic section"):
        sharp_recipe(loss=loss, critic=critic)


def test_autoencoder_without_a_pretrained_vae_is_refused() -> None:
    with pytest.raises(ValueError, match="an autoencoder belongs to a pretrained VAE"):
        sharp_recipe(autoencoder="somewhere")


def test_decoder_learns_from_latents_that_went_through_the_autoencoder(
    finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(
        finished.folder.export("vae"),
        autoencoder=str(finished.folder.export("autoencoder")),
        decoder=LIGHT,
    )
    vae = build_vae(config)
    turn = build_turns(config, vae, torch.device("cpu"))["model"]
    images = AV(torch.rand(2, 1, 3, 32, 32) * 2 - 1, torch.rand(2, 4, 3, 32, 32) * 2 - 1)
    chosen = torch.tensor([[3, 0], [1, 2]])
    latents = turn.passage(images, chosen, StepRandom(0, 0, "model", batch_size=2))
    assert latents.map(lambda x: tuple(x.shape)) == ((2, 1, 4, 8, 8), (2, 2, 4, 8, 8))

    # As the pipeline decodes whole clips, from the same noise: the first frames, as many as there are.
    autoencoder, codec = turn.passage.autoencoder, turn.passage.codec
    drawn = StepRandom(0, 0, "model", batch_size=2)
    noise = AV(drawn.normal((2, 1, 4, 8, 8)), torch.zeros(2, 4, 4, 8, 8))
    rows = torch.arange(2)[:, None]
    noise.video[rows, chosen] = drawn.normal((2, 2, 4, 8, 8))
    monkeypatch.setattr("mmldm.pipelines.decoding.initial_noise", lambda *_: noise)
    whole = decode_to_image_latents(
        autoencoder,
        turn.passage.scheduler,
        autoencoder.encode(images.map(codec.encode, MODALITIES)).map(lambda p: p.mode()),
        num_frames=4,
        steps=1,
        generators=[],
    )
    wanted = AV(whole.audio, whole.video[rows, chosen]).map(codec.denormalise, MODALITIES)
    latents.map(torch.testing.assert_close, wanted)

    terms = turn(windows(), StepRandom(0, 0, "model", batch_size=4))
    terms["loss"].backward()
    assert "kl" not in terms
    assert all(p.grad is not None for p in vae.decoder.parameters())


def test_checkpoints_without_the_new_terms_are_still_resumed(manifest: Manifest) -> None:
    stage = VaeStage(smallest_recipe(), manifest, torch.device("cpu"))
    job = stage.fingerprint()["job"]
    assert set(job["loss"]) == {"l1", "l2", "kl", "salience"}
    assert {name for name, value in job.items() if value is not None} == {
        "model", "frames_per_clip", "loss",
    }  # fmt: skip
    sharp = VaeStage(sharp_recipe(), manifest, torch.device("cpu"))
    job = sharp.fingerprint()["job"]
    assert {"perceptual", "adversarial", "audio_weight"} < set(job["loss"])
    assert job["features"] == "laplacian" and job["critic"]["start_step"] == 1


def test_validation_tells_a_blurred_picture_by_its_fine_power(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = VaeStage(smallest_recipe(), manifest, torch.device("cpu"))
    sharpness = {}
    for name, blur in (("same", 1), ("blurred", 3)):

        def copied(windows: WindowBatch, blur: int = blur) -> tuple[AV[Tensor], AV[Tensor]]:
            images = AV(stage.audio_image.image(windows.waveforms), windows.frames / 127.5 - 1)
            soft = images.map(lambda x: F.avg_pool2d(x.flatten(0, 1), blur, 1, blur // 2))
            return images, soft.map(lambda x, like: x.view_as(like), images)

        monkeypatch.setattr(stage, "_reconstruct", copied)
        sharpness[name] = stage.validate()
    for modality in ("audio", "video"):
        assert sharpness["same"][f"sharpness/{modality}"] == pytest.approx(1.0)
        assert sharpness["blurred"][f"sharpness/{modality}"] < 0.6


def test_sharp_run_from_end_to_end_validates_and_exports(
    manifest: Manifest, tmp_path: Path
) -> None:
    run = new_run(sharp_recipe(), manifest, tmp_path)
    run.run("vae")
    rows = read_metrics(run.folder.job("vae") / METRICS)
    assert {"validate/sharpness/audio", "validate/sharpness/video"} < set().union(*rows)
    assert load_image_vae(run.folder.export("vae")).config.latent_channels == 4


def test_critic_cannot_tell_fakes_by_their_rounding() -> None:
    config = sharp_recipe()
    turns = build_turns(config, build_vae(config), torch.device("cpu"))
    with torch.autocast("cpu", torch.bfloat16):
        turns["model"](windows(), StepRandom(0, 1, "model", batch_size=4))
    for handoff in turns["critic"].handoff[0]:
        assert handoff.real.dtype == handoff.fake.dtype == torch.bfloat16
