"""Loss terms against hand-made cases."""

import math

import pytest
import torch

from mmldm.training.losses import (
    adversarial_loss,
    classification_loss,
    contrastive_loss,
    critic_loss,
    salience,
    texture_distance,
    weighted_mean,
)
from mmldm.types import AV


def test_salience_marks_what_moves_and_not_the_background() -> None:
    clip = torch.zeros(1, 5, 3, 4, 4)
    clip[0, 2, :, 1, 1] = 1.0
    weights = salience(clip, strength=3.0, threshold=0.1)
    assert weights.shape == (1, 5, 1, 4, 4)
    assert weights[0, 2, 0, 1, 1] == 4.0
    assert weights.sum() == weights.numel() + 3.0


def test_salience_of_an_audio_image_looks_along_time() -> None:
    image = torch.zeros(1, 1, 3, 4, 8)
    image[..., 2, :] = 1.0  # a steady tone: background
    image[..., 0, 5] = 1.0  # a short event
    weights = salience(image, strength=1.0, threshold=0.1)
    assert weights[0, 0, 0, 0, 5] == 2.0
    assert weights.sum() == weights.numel() + 1.0


def test_weighted_mean_is_per_sample_and_equals_the_mean_for_equal_weights() -> None:
    errors = torch.rand(3, 2, 4, 5)
    weights = torch.full((3, 2, 1, 5), 2.5)
    assert torch.allclose(weighted_mean(errors, weights), errors.flatten(1).mean(1))


def test_contrastive_loss_of_indistinguishable_pairs_is_log_batch_and_of_matched_ones_small() -> (
    None
):
    same = torch.nn.functional.normalize(torch.ones(8, 16), dim=1)
    one, all_pairs = AV(torch.tensor(0.07), torch.tensor(0.07)), torch.ones(8, dtype=torch.bool)
    assert math.isclose(
        contrastive_loss(AV(same, same), one, all_pairs).item(), math.log(8), rel_tol=1e-5
    )
    distinct = torch.eye(8, 16)
    assert contrastive_loss(AV(distinct, distinct), one, all_pairs).item() < 1e-4
    assert contrastive_loss(AV(distinct, distinct.roll(1, 0)), one, all_pairs).item() > 10


def test_incomplete_pairs_are_neither_matches_nor_counterexamples() -> None:
    torch.manual_seed(0)
    one = AV(torch.tensor(0.5), torch.tensor(0.5))
    audio, video = torch.nn.functional.normalize(torch.randn(2, 6, 16), dim=2)
    complete = torch.tensor([True, True, False, True, True, False])
    alone = AV(audio[complete], video[complete])
    expected = contrastive_loss(alone, one, torch.ones(4, dtype=torch.bool)) * 4 / 6
    assert torch.allclose(contrastive_loss(AV(audio, video), one, complete), expected)
    nobody = torch.zeros(6, dtype=torch.bool)
    assert contrastive_loss(AV(audio, video), one, nobody) == 0


def test_clips_without_a_class_add_nothing_to_the_classification_loss() -> None:
    logits = torch.tensor([[9.0, -9.0], [0.0, 0.0]])
    assert classification_loss(logits, torch.tensor([0, -1])).item() < 1e-6
    assert classification_loss(logits, torch.tensor([-1, -1])).item() == 0
    assert math.isclose(
        classification_loss(logits, torch.tensor([0, 1])).item(), math.log(2) / 2, rel_tol=1e-5
    )


def test_critic_is_content_with_separated_scores_and_the_model_with_high_ones() -> None:
    real, fake = torch.full((2,), 1.5), torch.full((8,), -1.5)
    assert critic_loss(real, fake).tolist() == [0.0, 0.0]
    assert critic_loss(torch.zeros(2), torch.zeros(8)).tolist() == [1.0, 1.0]
    assert critic_loss(-real, -fake).tolist() == [2.5, 2.5]
    for opinion in (-1.0, 0.0, 1.0):  # the same of everything is worth the same
        assert critic_loss(torch.full((2,), opinion), torch.full((8,), opinion)).tolist() == [1, 1]
    assert adversarial_loss(torch.tensor([1.5, 0.0, -1.0])).tolist() == [0.0, 1.0, 2.0]


def test_texture_counts_by_its_strength_and_not_by_its_place() -> None:
    torch.manual_seed(0)
    grain = 0.2 * torch.randn(2, 3, 64, 64)
    other, smooth = 0.2 * torch.randn(2, 3, 64, 64), torch.zeros(2, 3, 64, 64)
    assert texture_distance(grain, grain).max() == 0
    # Another grain of the same strength is nearer than none by far, and than one twice as strong.
    near = texture_distance(other, grain)
    assert near.shape == (2,)
    assert (8 * near < texture_distance(smooth, grain)).all()
    assert (8 * near < texture_distance(2 * other, grain)).all()
    # Where it is, to the place: grain in the wrong half is missed in one and too much in the other.
    left, right = grain.clone(), grain.clone()
    left[..., 32:], right[..., :32] = 0, 0
    assert (texture_distance(left, right) > 0.8 * texture_distance(smooth, grain)).all()


@pytest.mark.parametrize("size", [(32, 32), (8, 12), (4, 4)])
def test_texture_pulls_where_nothing_is_drawn(size: tuple[int, int]) -> None:
    drawn = (1e-3 * torch.randn(1, 3, *size)).requires_grad_()
    texture_distance(drawn, 0.2 * torch.randn(1, 3, *size)).sum().backward()
    assert drawn.grad is not None and drawn.grad.isfinite().all() and drawn.grad.abs().sum() > 0
