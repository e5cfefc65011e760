"""Layers: patching is exact, norms divide, FiLM and attention reach what they should."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from mmldm.arithmetic import ONE_DNN_LINEAR
from mmldm.models.layers import (
    Linear,
    ResBlock,
    SelfAttention,
    group_norm,
    patchify,
    sampling_fast,
    sinusoidal_embedding,
    unpatchify,
    zero_init,
)
from mmldm.training.flops import count_flops


@pytest.mark.parametrize("channels", [1, 7, 16, 48, 65, 320])
def test_groups_divide_channels(channels: int) -> None:
    norm = group_norm(channels)
    assert channels % norm.num_groups == 0
    assert norm.num_groups <= 32
    assert norm(torch.randn(2, channels, 4)).shape == (2, channels, 4)


def test_group_norm_uses_32_groups_where_it_can() -> None:
    assert group_norm(320).num_groups == 32
    assert group_norm(16).num_groups == 16


@pytest.mark.parametrize("patch", [(1, 1), (2, 2), (4, 1)])
def test_unpatchify_inverts_patchify(patch: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 8, 4)
    folded = patchify(x, patch)
    assert folded.shape == (2, 3 * patch[0] * patch[1], 8 // patch[0], 4 // patch[1])
    assert torch.equal(unpatchify(folded, patch), x)


def test_square_patchify_is_pixel_unshuffle() -> None:
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(patchify(x, (2, 2)), nn.PixelUnshuffle(2)(x))


def test_neighbouring_frames_are_told_apart_only_when_scaled() -> None:
    frames = torch.arange(16.0)
    near = sinusoidal_embedding(frames / 16, 320)
    far = sinusoidal_embedding(frames * 1000 / 16, 320)
    assert (near[1] - near[0]).norm() < 0.5  # the release's scaling: almost the same vector
    assert (far[1] - far[0]).norm() > 10


def test_zero_init_makes_a_layer_silent_but_trainable() -> None:
    layer = zero_init(nn.Linear(4, 4))
    out = layer(torch.randn(2, 4))
    assert torch.count_nonzero(out) == 0
    out.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("kernel", "shape"), [((3, 3), (2, 4, 6, 6)), ((3, 1, 1), (2, 4, 5, 2, 2))]
)
def test_film_embedding_moves_a_block(kernel: tuple[int, ...], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    block = ResBlock(4, 6, kernel, embedding_dim=3)
    x = torch.randn(shape)
    one, two = block(x, torch.randn(2, 3)), block(x, torch.randn(2, 3))
    assert one.shape == (2, 6, *shape[2:])
    assert (one - two).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("axes", "reaches"),
    [("spatial", (False, True)), ("temporal", (True, False)), ("full", (True, True))],
)
def test_attention_stays_on_its_axes(axes: str, reaches: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    layer = SelfAttention(8, axes, head_dim=4)
    nn.init.normal_(layer.out.weight)
    x = torch.randn(1, 8, 3, 2, 2)
    changed = x.clone()
    changed[:, 0, 0, 0, 0] += 1
    moved = (layer(changed) - layer(x)).abs().sum(1)[0] > 1e-6  # T H W
    assert bool(moved[1, 0, 0]) is reaches[0]  # another frame, same cell
    assert bool(moved[0, 1, 1]) is reaches[1]  # same frame, another cell


def test_attention_is_the_identity_before_training() -> None:
    x = torch.randn(2, 8, 3, 2, 2)
    assert torch.equal(SelfAttention(8, "full", head_dim=4)(x), x)


@pytest.mark.parametrize("gelu", [False, True])
def test_a_linear_layer_that_samples_gives_what_it_gives_in_training(gelu: bool) -> None:
    torch.manual_seed(0)
    layer, x = Linear(24, 40, gelu=gelu), torch.randn(3, 5, 24)
    learnt = layer(x)
    plain = F.linear(x, layer.weight, layer.bias)
    assert torch.equal(learnt, F.gelu(plain, approximate="tanh") if gelu else plain)
    learnt.sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        assert torch.allclose(layer(x), learnt, atol=1e-6)


@pytest.mark.skipif(ONE_DNN_LINEAR is None, reason="this build of torch has no such product")
def test_a_linear_layer_costs_the_same_however_it_is_multiplied() -> None:
    layer = Linear(24, 40)
    with torch.no_grad():
        by_one_dnn = count_flops(layer, torch.randn(3, 5, 24))[0]
        with FakeTensorMode(allow_non_fake_inputs=True):
            by_torch = count_flops(layer, torch.randn(3, 5, 24))[0]
    assert by_one_dnn == by_torch == 2 * 15 * 24 * 40


def test_networks_of_others_sample_by_our_layers_with_their_weights() -> None:
    torch.manual_seed(0)
    inner = nn.ModuleList([nn.Linear(8, 4, bias=False)])
    network = nn.Sequential(nn.Linear(6, 8), inner)
    before = dict(network.named_parameters())
    sampling_fast(network)
    assert {type(network[0]), type(inner[0])} == {Linear}
    assert [*before] == [name for name, _ in network.named_parameters()]
    assert all(parameter is before[name] for name, parameter in network.named_parameters())
