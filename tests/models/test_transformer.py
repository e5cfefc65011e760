import math

import pytest
import torch

from mmldm.models.transformer import Block, TimestepEmbedding, grid_positions, time_positions


def test_grid_position_tells_every_cell_from_every_other():
    positions = grid_positions((8, 5), 64)
    assert positions.shape == (40, 64)
    distances = torch.cdist(positions, positions) + 10 * torch.eye(40)
    assert distances.min() > 0.5


def test_rows_and_columns_have_their_own_half_of_the_grid_position():
    grid = grid_positions((4, 6), 32).reshape(4, 6, 32)
    assert torch.equal(grid[2, :, :16], grid[2, :1, :16].expand(6, -1))
    assert torch.equal(grid[:, 3, 16:], grid[:1, 3, 16:].expand(4, -1))


def test_time_position_depends_on_the_instant_only():
    video = time_positions(torch.arange(16) * 0.1, 64, shortest=0.4, longest=6.4)
    audio = time_positions((torch.arange(32) + 0.5) * 0.05, 64, shortest=0.4, longest=6.4)
    again = time_positions(torch.tensor([0.075]), 64, shortest=0.4, longest=6.4)
    assert torch.equal(audio[1], again[0])
    # Nearest in time is nearest in embedding: audio slot j, at (j + 1/2) * 0.05 s, to frame j / 2.
    nearest = torch.cdist(audio, video).argmin(dim=1)
    expected = [min(15, round((j + 0.5) / 2)) for j in range(32)]
    assert nearest.tolist() == expected


def test_time_positions_of_neighbouring_frames_differ_in_many_dimensions():
    positions = time_positions(torch.arange(16) * 0.1, 64, shortest=0.4, longest=6.4)
    effective = torch.linalg.svdvals(positions - positions.mean(0))
    assert int((effective > 0.1 * effective[0]).sum()) >= 8


def test_timestep_embedding_is_computed_in_float32_under_autocast():
    embedding = TimestepEmbedding(16)
    timesteps = torch.tensor([0, 500, 999])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = embedding(timesteps)
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, embedding(timesteps))


@pytest.mark.parametrize("shared", [False, True])
def test_block_with_zero_modulation_is_the_identity(shared):
    block = Block(16, 2, 4.0, shared_modulation=shared)
    for parameter in block.modulation.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 5, 16)
    conditioning = torch.zeros(2, 96) if shared else torch.randn(2, 16)
    assert torch.equal(block(x, conditioning), x)


def test_attention_without_positions_ignores_token_order():
    block = Block(16, 2, 4.0, shared_modulation=True)
    conditioning = torch.full((1, 96), 1 / math.sqrt(2))
    x, order = torch.randn(1, 7, 16), torch.randperm(7)
    assert torch.allclose(
        block(x, conditioning)[:, order], block(x[:, order], conditioning), atol=1e-5
    )
