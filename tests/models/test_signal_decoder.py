"""Signal decoder: stock U-Net without conditions, taps at every input block."""

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from mmldm.errors import UserError
from mmldm.models.signal_decoder import SignalDecoder

SMALL = {
    "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 2,
    "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip


def decoder() -> SignalDecoder:
    torch.manual_seed(0)
    return SignalDecoder(**SMALL).eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(3, 4, 8, 8), torch.tensor([3, 500, 999]), torch.randn(3, 5, 8)


def test_without_conditions_it_is_the_stock_unet_bit_for_bit() -> None:
    ours = decoder()
    stock = UNet2DConditionModel(**SMALL).eval()
    stock.load_state_dict(ours.state_dict())
    with torch.no_grad():
        assert torch.equal(ours(*inputs()), stock(*inputs()).sample)


def test_zero_taps_and_zero_pooled_change_nothing() -> None:
    ours = decoder()
    taps = [torch.zeros(3, *shape) for shape in ours.tap_shapes(8, 8)]
    with torch.no_grad():
        conditioned = ours(*inputs(), taps=taps, pooled=torch.zeros(3, ours.time_embedding_dim))
        assert torch.equal(conditioned, ours(*inputs()))


def test_every_tap_and_the_pooled_embedding_move_the_output() -> None:
    ours = decoder()
    shapes = ours.tap_shapes(8, 8)
    with torch.no_grad():
        plain = ours(*inputs())
        for index in range(len(shapes)):
            taps = [torch.zeros(3, *shape) for shape in shapes]
            taps[index] += 1
            assert not torch.allclose(ours(*inputs(), taps=taps), plain), index
        pooled = torch.ones(3, ours.time_embedding_dim)
        assert not torch.allclose(ours(*inputs(), pooled=pooled), plain)


def test_sd_layout_has_the_twelve_published_taps() -> None:
    with torch.device("meta"):
        sd = SignalDecoder.from_sizes(channels=4)
    # Shapes of the classic latent-diffusion input blocks at a 32x32 latent; parameters as
    # published.
    channels = [320] * 4 + [640] * 3 + [1280] * 5
    cells = [32] * 3 + [16] * 3 + [8] * 3 + [4] * 3
    assert sd.tap_shapes(32, 32) == [(c, n, n) for c, n in zip(channels, cells, strict=True)]
    assert sum(p.numel() for p in sd.parameters()) == 859_520_964


def test_gradient_checkpointing_changes_no_gradient() -> None:
    grads = []
    for checkpointing in (False, True):
        ours = decoder().train()
        if checkpointing:
            ours.enable_gradient_checkpointing()
        taps = [torch.ones(3, *shape) for shape in ours.tap_shapes(8, 8)]
        ours(*inputs(), taps=taps).square().mean().backward()
        grads.append(torch.cat([p.grad.flatten() for p in ours.parameters()]))
    assert torch.allclose(grads[0], grads[1], atol=1e-6)


def test_stock_checkpoints_load_unchanged(tmp_path) -> None:
    stock = UNet2DConditionModel(**SMALL).eval()
    stock.save_pretrained(tmp_path / "unet")
    ours = SignalDecoder.from_pretrained(tmp_path, subfolder="unet")
    with torch.no_grad():
        assert torch.equal(ours(*inputs()), stock(*inputs()).sample)


def test_size_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(UserError, match="halved"):
        decoder().tap_shapes(7, 8)


def test_cross_attention_sits_on_the_levels_named() -> None:
    ours = SignalDecoder.from_sizes(
        4, (8, 16), 1, (False, True), cross_attention_dim=8, attention_heads=2, norm_num_groups=4
    )
    assert [hasattr(block, "attentions") for block in ours.down_blocks] == [False, True]
    assert [hasattr(block, "attentions") for block in ours.up_blocks] == [True, False]
    assert ours.mid_block.attentions[0].transformer_blocks[0].attn2.heads == 2


@pytest.mark.parametrize(
    "sizes", [{"cross_attention": (True,)}, {"norm_num_groups": 3}, {"attention_heads": 5}]
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict) -> None:
    fitting = {
        "block_out_channels": (8, 16), "cross_attention": (False, False), "norm_num_groups": 4,
        "attention_heads": 2,
    }  # fmt: skip
    with pytest.raises(UserError, match="signal decoder"):
        SignalDecoder.from_sizes(4, **{**fitting, **sizes})
