"""Adapter: zero before training, right shapes, each frame reads its own time."""

import pytest
import torch

from mmldm.errors import UserError
from mmldm.models.feature_adapter import FeatureAdapter
from mmldm.models.perceptual_encoder import LatentLayout

TAPS = [(8, 8, 8), (8, 8, 8), (8, 4, 4), (12, 4, 4)]


def adapter(shape, frames: int = 16, axis="frames", open_: bool = True, **config) -> FeatureAdapter:
    # noqa: ANN001, ANN003
    torch.manual_seed(0)
    module = FeatureAdapter(LatentLayout(shape, axis), frames, TAPS, embedding_dim=16, **config)
    if open_:
        for out in module.outs:
            torch.nn.init.normal_(out.weight)
    return module


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((4, 1, 16, 16), "frames"), ((4, 1, 8, 8), "frames"), ((4, 1, 4, 4), "frames"),
     ((4, 16, 1, 1), "frames"), ((4, 8, 2, 2), "frames"), ((4, 16, 1, 1), "width"),
     ((4, 8, 2, 1), "width")],
)  # fmt: skip
@pytest.mark.parametrize("hidden", [None, 6])
def test_maps_fit_the_taps_and_start_at_zero(shape, axis: str, hidden: int | None) -> None:
    frames = 1 if axis == "width" else 16
    module = adapter(shape, frames, axis, open_=False, hidden_channels=hidden)
    maps = module(torch.randn(2, *shape), torch.zeros(2, 3, dtype=torch.long))
    assert [m.shape for m in maps] == [(6, *tap) for tap in TAPS]
    assert all(torch.count_nonzero(m) == 0 for m in maps)


def test_only_the_last_convolutions_start_at_zero() -> None:
    module = adapter((4, 16, 1, 1), open_=False)
    zero = {n for n, p in module.named_parameters() if n.endswith("weight") and not p.any()}
    assert zero == {f"outs.{i}.weight" for i in range(len(TAPS))}


def test_frame_index_moves_the_maps_at_every_frame() -> None:
    module = adapter((4, 1, 4, 4))
    maps = module(torch.ones(1, 4, 1, 4, 4), torch.arange(16)[None])[0]
    steps = (maps[1:] - maps[:-1]).flatten(1).norm(dim=1)
    # With indices in 0..1, as in the release, the same blocks give steps below 0.001 of the norm.
    assert steps.min() > 0.005 * maps.flatten(1).norm(dim=1).mean()


def test_frame_reads_its_own_slot_and_its_neighbours() -> None:
    module = adapter((4, 8, 1, 1))
    z = torch.randn(1, 8, 4).transpose(1, 2)[..., None, None]
    changed = z.clone()
    changed[:, :, 3] += 1
    frames = torch.arange(16)[None]
    moved = (module(changed, frames)[0] - module(z, frames)[0]).flatten(1).abs().amax(1) > 1e-6
    assert moved.nonzero().flatten().tolist() == [4, 5, 6, 7, 8, 9]  # slots 2, 3, 4


def test_audio_time_becomes_image_width() -> None:
    module = adapter((4, 8, 1, 1), 1, "width")
    z = torch.zeros(1, 4, 8, 1, 1)
    changed = z.clone()
    changed[:, :, 6] += torch.randn(4, 1, 1)
    zero = torch.zeros(1, 1, dtype=torch.long)
    base = module.expand[0](module.mix(module.layout.to_grid(z))[:, :, 0])
    moved = module.expand[0](module.mix(module.layout.to_grid(changed))[:, :, 0]) - base
    assert (moved.abs().sum((0, 1, 2)) > 1e-6).nonzero().flatten().tolist() == [6]
    assert module(changed, zero)[0].shape == (1, 8, 8, 8)


def test_every_parameter_gets_gradient_by_the_second_step() -> None:
    module = adapter((4, 16, 1, 1), open_=False)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    for _ in range(2):
        maps = module(torch.randn(2, 4, 16, 1, 1), torch.randint(0, 16, (2, 3)))
        loss = sum((m - torch.randn_like(m)).square().mean() for m in maps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_grid_that_cannot_reach_the_decoder_is_refused() -> None:
    with pytest.raises(UserError, match="cannot reach"):
        adapter((4, 1, 3, 3))
