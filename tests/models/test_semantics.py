"""Semantics: token counts, unit embeddings, temperatures within bounds, heads that learn."""

import pytest
import torch
import torch.nn.functional as F

from mmldm.models.perceptual_encoder import LatentLayout
from mmldm.models.semantics import ClassificationHead, ContrastiveHead, Projector
from mmldm.types import AV

SMALL = {"width": 8, "block_out_channels": (8, 8), "layers_per_block": 1, "head_dim": 4}


@pytest.mark.parametrize(
    ("shape", "grid", "tokens"),
    [
        ((4, 1, 8, 8), (1, 2, 2), 4),
        ((4, 1, 16, 16), (1, 2, 2), 4),
        ((4, 16, 1, 1), (4, 1, 1), 4),
        ((4, 8, 2, 2), (2, 1, 1), 2),
        ((4, 5, 1, 1), (2, 1, 1), 2),
    ],
)
def test_any_latent_becomes_n_tokens(shape, grid, tokens: int) -> None:
    projector = Projector(LatentLayout(shape), grid, **SMALL)
    assert projector(torch.randn(2, *shape)).shape == (2, tokens, 8)


def test_no_kernel_reads_only_padding() -> None:
    projector = Projector(LatentLayout((4, 16, 1, 1)), (4, 1, 1), **SMALL)
    kernels = {tuple(m.kernel_size) for m in projector.modules() if isinstance(m, torch.nn.Conv3d)}
    assert kernels == {(1, 1, 1), (3, 1, 1)}


def test_embeddings_have_length_one() -> None:
    head = ContrastiveHead(8, 5)
    for rows in head(AV(torch.randn(3, 4, 8), torch.randn(3, 4, 8))):
        assert rows.shape == (3, 5)
        assert torch.allclose(rows.norm(dim=1), torch.ones(3), atol=1e-5)


def test_temperatures_start_as_told_and_cannot_leave_their_limits() -> None:
    head = ContrastiveHead(8, 5, initial=0.07)
    assert [t.item() for t in head.temperatures] == pytest.approx([0.07, 0.07], rel=1e-4)
    with torch.no_grad():
        head.temperature_logits.copy_(torch.tensor([-1e3, 1e3]))
    assert [t.item() for t in head.temperatures] == pytest.approx([0.01, 1.0], rel=1e-4)


def test_contrastive_head_learns_to_pair() -> None:
    torch.manual_seed(0)
    head = ContrastiveHead(8, 8)
    source = torch.randn(16, 1, 8)
    semantics = AV(source, source @ torch.linalg.qr(torch.randn(8, 8))[0])
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    for _ in range(40):
        audio, video = head(semantics)
        logits = audio @ video.T / head.temperatures.audio
        loss = F.cross_entropy(logits, torch.arange(16))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (logits.argmax(1) == torch.arange(16)).float().mean() > 0.9
    assert head.temperature_logits.grad is not None
    assert head.temperature_logits.grad[0] != 0


def test_class_needs_both_modalities() -> None:
    torch.manual_seed(0)
    head = ClassificationHead(8, 3)
    semantics = AV(torch.randn(2, 4, 8), torch.randn(2, 4, 8))
    logits = head(semantics)
    assert logits.shape == (2, 3)
    for other in (
        semantics._replace(audio=torch.randn(2, 4, 8)),
        semantics._replace(video=torch.randn(2, 4, 8)),
    ):
        assert not torch.allclose(head(other), logits)


def test_order_of_modalities_matters() -> None:
    torch.manual_seed(0)
    head = ClassificationHead(8, 3)
    a, b = torch.randn(2, 4, 8), torch.randn(2, 4, 8)
    assert not torch.allclose(head(AV(a, b)), head(AV(b, a)))
