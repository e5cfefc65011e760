"""The `vae` job: a pretrained VAE keeps its latents, whatever decoder is trained on them."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmldm.config import RunConfig
from mmldm.errors import UserError
from mmldm.models.image_vae import PatchAutoencoderKL, TinyImageAutoencoder, load_image_vae
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.jobs.vae import VaeTurn, build_vae
from mmldm.training.randomness import StepRandom
from mmldm.training.run import Run
from mmldm.types import AV, WindowBatch

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


def decoder_flops(vae: PatchAutoencoderKL) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        vae.decode(torch.zeros(1, 4, 8, 8))
    return counter.get_total_flops()


def test_new_decoder_keeps_the_latents_and_is_lighter(pretrained: Path) -> None:
    teacher, light = build_vae(recipe(pretrained)), build_vae(recipe(pretrained, decoder=LIGHT))
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    ours, theirs = (vae.encode(images).latent_dist.parameters for vae in (light, teacher))
    assert torch.equal(ours, theirs)
    assert decoder_flops(light) < decoder_flops(teacher) / 3


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
