import torch

from mmldm.diffusion.guidance import guide
from mmldm.types import AV


def pair(seed: int) -> AV:
    generator = torch.Generator().manual_seed(seed)
    return AV(torch.randn(2, 3, generator=generator), torch.randn(2, 4, 5, generator=generator))


def test_scale_one_is_the_conditional_prediction_and_zero_the_null_one():
    given, null = pair(0), pair(1)
    assert all(map(torch.equal, guide(given, null, AV(1.0, 1.0)), given))
    assert all(map(torch.equal, guide(given, null, AV(0.0, 0.0)), null))


def test_each_modality_is_extrapolated_by_its_own_scale():
    given, null = pair(0), pair(1)
    guided = guide(given, null, AV(3.0, 0.5))
    assert torch.allclose(guided.audio, null.audio + 3.0 * (given.audio - null.audio), atol=1e-5)
    assert torch.allclose(guided.video, (given.video + null.video) / 2, atol=1e-6)


def test_equal_predictions_stay_as_they_are_at_any_scale():
    given = pair(0)
    guided = guide(given, given, AV(7.5, 7.5))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(guided, given, strict=True))
