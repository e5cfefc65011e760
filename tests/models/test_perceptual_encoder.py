"""Encoder: paper-form and time-aligned latents from one class, and what each slot can see."""

import math

import pytest
import torch

from mmldm.errors import UserError
from mmldm.models.perceptual_encoder import PerceptualEncoder, Posterior

SMALL = {"block_out_channels": (8, 16), "layers_per_block": 1, "head_dim": 4}


def spread(encoder: PerceptualEncoder) -> PerceptualEncoder:
    """Random weights everywhere: zero layers would hide every dependence."""
    torch.manual_seed(0)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return encoder


@pytest.mark.parametrize(
    ("config", "frames", "latent_shape"),
    [
        ({**SMALL, "block_out_channels": (8, 8, 16)}, 1, (16, 1, 8, 8)),  # the paper's audio
        ({**SMALL, "key_frames": 4, "temporal_attention": True}, 16, (16, 1, 16, 16)),  # its video
    ],
)
def test_paper_shapes(config: dict, frames: int, latent_shape: tuple[int, ...]) -> None:
    encoder = PerceptualEncoder((4, 32, 32), frames, latent_shape, **config)
    posterior = encoder(torch.randn(1, frames, 4, 32, 32))
    assert posterior.mean.shape == posterior.logvar.shape == (1, *latent_shape)


@pytest.mark.parametrize(
    ("frames", "config", "latent_shape"),
    [
        (16, {"patch_size": 2}, (12, 16, 1, 1)),
        (16, {"patch_size": 2}, (16, 8, 2, 2)),
        (1, {"patch_size": (4, 1), "time_axis": "width"}, (16, 16, 1, 1)),
        (1, {"patch_size": (2, 2), "time_axis": "width"}, (16, 8, 1, 1)),
        (1, {"patch_size": (2, 1), "time_axis": "width"}, (16, 16, 2, 1)),
    ],
)
def test_time_aligned_shapes(frames: int, config: dict, latent_shape: tuple[int, ...]) -> None:
    encoder = PerceptualEncoder(
        (4, 16, 16), frames, latent_shape, block_out_channels=(8,), layers_per_block=1, **config
    )
    assert encoder(torch.randn(2, frames, 4, 16, 16)).mean.shape == (2, *latent_shape)


def test_key_frames_are_uniform_and_only_they_are_read() -> None:
    encoder = PerceptualEncoder((4, 8, 8), 16, (4, 1, 4, 4), key_frames=4, **SMALL)
    assert encoder.key_frames == (0, 5, 10, 15)
    x = torch.randn(1, 16, 4, 8, 8)
    changed = x.clone()
    changed[:, [1, 4, 6, 14]] += 1
    assert torch.equal(encoder(x).mean, encoder(changed).mean)
    changed[:, 5] += 1
    assert not torch.equal(encoder(x).mean, encoder(changed).mean)


def test_frame_moves_only_its_own_slot_without_temporal_attention() -> None:
    encoder = spread(PerceptualEncoder((4, 8, 8), 8, (4, 4, 1, 1), **SMALL))
    x = torch.randn(1, 8, 4, 8, 8)
    changed = x.clone()
    changed[:, 5] += torch.randn(4, 8, 8)
    moved = (encoder(changed).mean - encoder(x).mean).abs().sum((0, 1, 3, 4)) > 1e-6
    assert moved.tolist() == [False, False, True, False]


def test_temporal_attention_tells_the_order_of_frames() -> None:
    x = torch.randn(1, 4, 4, 8, 8)
    for temporal in (False, True):
        encoder = spread(
            PerceptualEncoder((4, 8, 8), 4, (4, 1, 4, 4), temporal_attention=temporal, **SMALL)
        )
        same = torch.allclose(encoder(x).mean, encoder(x.flip(1)).mean, atol=1e-5)
        assert same is not temporal


def test_audio_column_follows_its_moment_not_its_pitch() -> None:
    encoder = spread(
        PerceptualEncoder(
            (4, 16, 16),
            1,
            (4, 16, 1, 1),
            block_out_channels=(8,),
            layers_per_block=1,
            patch_size=(4, 1),
            time_axis="width",
            spatial_attention=False,
        )  # fmt: skip
    )
    x = torch.zeros(1, 1, 4, 16, 16)
    changed = x.clone()
    changed[..., 10] += torch.randn(4, 16)
    change = (encoder(changed).mean - encoder(x).mean).abs().sum(1)[0, :, 0, 0]
    assert change.argmax() == 10


def test_one_cell_latent_still_knows_where() -> None:
    encoder = spread(
        PerceptualEncoder((4, 8, 8), 1, (4, 1, 1, 1), block_out_channels=(8,), layers_per_block=1)
    )
    x = torch.zeros(2, 1, 4, 8, 8)
    x[0, ..., 2, 2] = 1
    x[1, ..., 5, 5] = 1
    left, right = encoder(x).mean
    assert (left - right).abs().max() > 1e-3


def test_batch_equals_singles() -> None:
    encoder = spread(
        PerceptualEncoder((4, 8, 8), 4, (4, 1, 4, 4), temporal_attention=True, **SMALL)
    )
    x = torch.randn(3, 4, 4, 8, 8)
    singles = torch.cat([encoder(row[None]).mean for row in x])
    assert torch.allclose(encoder(x).mean, singles, atol=1e-5)


def test_every_parameter_gets_gradient_by_the_second_step() -> None:
    torch.manual_seed(0)
    encoder = PerceptualEncoder((4, 8, 8), 4, (4, 1, 4, 4), temporal_attention=True, **SMALL)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    for _ in range(2):
        posterior = encoder(torch.randn(2, 4, 4, 8, 8))
        loss = posterior.sample(torch.randn_like(posterior.mean)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # The bias of the keys shifts all attention logits alike, so its gradient is only rounding.
    silent = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_posterior_starts_as_told_and_samples_as_it_says() -> None:
    encoder = PerceptualEncoder((4, 8, 8), 1, (4, 1, 4, 4), initial_logvar=-4.0, **SMALL)
    posterior = encoder(torch.randn(2, 1, 4, 8, 8))
    assert torch.allclose(posterior.logvar, torch.full_like(posterior.logvar, -4.0))
    noise = torch.ones_like(posterior.mean)
    drawn = posterior.sample(noise) - posterior.mode()
    assert torch.allclose(drawn, torch.full_like(drawn, math.exp(-2)), atol=1e-6)


def test_kl_is_per_clip_and_zero_for_the_prior() -> None:
    assert torch.equal(
        Posterior(torch.zeros(2, 3, 1, 1, 1), torch.zeros(2, 3, 1, 1, 1)).kl(), torch.zeros(2)
    )
    shifted = Posterior(torch.full((1, 3, 1, 1, 1), 2.0), torch.zeros(1, 3, 1, 1, 1))
    assert shifted.kl().item() == pytest.approx(6.0)  # 3 dimensions of mean^2 / 2


def test_log_variance_is_bounded() -> None:
    encoder = PerceptualEncoder((4, 8, 8), 1, (4, 1, 4, 4), initial_logvar=1e3, **SMALL)
    assert encoder(torch.randn(1, 1, 4, 8, 8)).logvar.max() == 20


@pytest.mark.parametrize(
    ("latent_shape", "config", "message"),
    [
        ((4, 1, 3, 4), {}, "latent rows"),
        ((4, 3, 4, 4), {}, "slots"),
        ((4, 1, 4, 4), {"patch_size": 3}, "patch rows"),
        ((4, 4, 1, 4), {"time_axis": "width"}, "must end in 1"),
        ((4, 1, 4, 4), {"time_axis": "height"}, "time_axis"),
        ((4, 1, 4, 4), {"key_frames": 5}, "key_frames"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(latent_shape, config: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PerceptualEncoder((4, 8, 8), 4, latent_shape, **{**SMALL, **config})
