"""The codec: standard latents per modality, exact inverse, gradients pass."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from mmldm.media.clip import images_to_frames
from mmldm.models.image_codec import ImageCodec, LatentStatistics
from mmldm.models.image_vae import PatchAutoencoderKL, TinyImageAutoencoder
from mmldm.types import AV


def vae() -> PatchAutoencoderKL:
    torch.manual_seed(0)
    return PatchAutoencoderKL(
        base_channels=16, encoder_blocks=1, decoder_blocks=1, upsample_channels=(8,)
    )


def fitted(model: PatchAutoencoderKL, images: AV) -> ImageCodec:
    raw = ImageCodec(model, LatentStatistics.scalar(1.0, 4))
    with torch.no_grad():
        statistics = LatentStatistics.fit([images.map(lambda x: raw.posterior(x)[0])])
    return ImageCodec(model, statistics)


def images() -> AV:
    torch.manual_seed(1)
    return AV(torch.rand(3, 1, 3, 16, 16) - 1, torch.rand(3, 4, 3, 16, 16))


def test_fitted_statistics_make_each_modality_standard() -> None:
    data = images()
    codec = fitted(vae(), data)
    for modality in ("audio", "video"):
        latents = codec.encode(getattr(data, modality), modality)
        flat = latents.transpose(0, 2).flatten(1)
        assert torch.allclose(flat.mean(1), torch.zeros(4), atol=1e-4)
        assert torch.allclose(flat.std(1, correction=0), torch.ones(4), atol=1e-4)


def test_statistics_do_not_depend_on_how_data_is_batched() -> None:
    data = AV(torch.randn(6, 1, 4, 2, 2) + 100, torch.randn(6, 3, 4, 2, 2))
    whole = LatentStatistics.fit([data])
    split = LatentStatistics.fit([data.map(lambda x: x[:1]), data.map(lambda x: x[1:])])
    assert whole.audio.mean == pytest.approx(split.audio.mean, rel=1e-12)
    assert whole.audio.std == pytest.approx(split.audio.std, rel=1e-9)
    assert whole.audio.std == pytest.approx(
        data.audio.transpose(0, 2).flatten(1).double().std(1, correction=0).tolist(), rel=1e-6
    )


def test_no_data_is_no_statistics() -> None:
    with pytest.raises(ValueError, match="no latents"):
        LatentStatistics.fit([])


def test_statistics_survive_json() -> None:
    statistics = LatentStatistics.fit([AV(torch.randn(2, 1, 4, 2, 2), torch.randn(2, 2, 4, 2, 2))])
    text = json.dumps(statistics.to_dict())
    assert LatentStatistics.from_dict(json.loads(text)) == statistics


def test_scalar_statistics_multiply() -> None:
    codec = ImageCodec(vae(), LatentStatistics.scalar(0.18215, 4))
    raw = torch.randn(2, 1, 4, 2, 2)
    assert torch.allclose(codec.normalise(raw, "video"), raw * 0.18215)
    assert torch.equal(codec.normalise(raw, "audio"), codec.normalise(raw, "video"))


def test_denormalise_inverts_normalise() -> None:
    codec = fitted(vae(), images())
    raw = torch.randn(2, 3, 4, 2, 2)
    for modality in ("audio", "video"):
        back = codec.denormalise(codec.normalise(raw, modality), modality)
        assert torch.allclose(back, raw, atol=1e-5)


def test_images_per_call_changes_no_number() -> None:
    model = vae()
    statistics = LatentStatistics.scalar(0.5, 4)
    data = images().video
    all_at_once, one_by_one = ImageCodec(model, statistics), ImageCodec(model, statistics, 1)
    latents = all_at_once.encode(data, "video")
    assert torch.allclose(one_by_one.encode(data, "video"), latents, atol=1e-5)
    assert torch.allclose(
        one_by_one.decode(latents, "video"), all_at_once.decode(latents, "video"), atol=1e-5
    )


def test_what_finishes_images_is_given_them_call_by_call() -> None:
    codec = ImageCodec(vae(), LatentStatistics.scalar(0.5, 4), images_per_call=5)
    latents = torch.randn(3, 4, 4, 2, 2)
    seen: list[int] = []

    def finish(part: Tensor) -> Tensor:
        seen.append(len(part))
        return images_to_frames(part)

    frames = codec.decode(latents, "video", finish)
    assert seen == [5, 5, 2] and frames.shape[:2] == (3, 4)
    assert torch.equal(frames, images_to_frames(codec.decode(latents, "video")))


def test_cached_posterior_normalises_to_what_encode_returns() -> None:
    codec = fitted(vae(), images())
    data = images().audio
    mean, logvar = codec.posterior(data)
    assert mean.shape == logvar.shape == (3, 1, 4, 4, 4)
    assert torch.equal(codec.normalise(mean, "audio"), codec.encode(data, "audio"))


def test_generator_draws_from_the_posterior() -> None:
    codec = fitted(vae(), images())
    data = images().video
    draw = [codec.encode(data, "video", torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    assert not torch.equal(draw[0], codec.encode(data, "video"))


def test_point_posterior_has_nothing_to_draw() -> None:
    codec = ImageCodec(TinyImageAutoencoder(), LatentStatistics.scalar(1.0, 4))
    data = torch.rand(1, 2, 3, 16, 16)
    with torch.no_grad():
        drawn = codec.encode(data, "video", torch.Generator().manual_seed(0))
        assert torch.allclose(drawn, codec.encode(data, "video"), atol=1e-5)


def test_gradient_passes_through_decode_and_frozen_vae() -> None:
    model = vae().requires_grad_(False)
    codec = ImageCodec(model, LatentStatistics.scalar(1.0, 4))
    latents = torch.randn(1, 2, 4, 4, 4, requires_grad=True)
    codec.decode(latents, "video").square().mean().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.parameters())


class Gains(nn.Module):
    """An image VAE whose pixels are its channels, each times a number of its own."""

    def __init__(self, gains: list[float]) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.tensor(gains))

    def decode(self, latents: Tensor) -> SimpleNamespace:
        """(B,c,h,w) -> (B,c,h,w)."""
        return SimpleNamespace(sample=latents * self.gains[:, None, None])


def test_pixel_power_is_the_square_of_what_a_channel_moves() -> None:
    codec = ImageCodec(Gains([0.0, 1.0, 2.0, 3.0]), LatentStatistics.scalar(1.0, 4))
    power = codec.pixel_power(torch.randn(2, 3, 4, 8, 8), "video")
    assert power.mean() == pytest.approx(1)
    assert torch.allclose(power / power[1], torch.tensor([0.0, 1.0, 4.0, 9.0]), rtol=1e-4)


def test_pixel_power_is_of_normalised_channels() -> None:
    """A channel that varies twice as much moves pixels twice as far for the same normalised error."""
    deviations = [1.0, 2.0]
    own = {"mean": [5.0, -1.0], "std": deviations}
    statistics = LatentStatistics.from_dict({"audio": own, "video": own})
    power = ImageCodec(Gains([1.0, 1.0]), statistics).pixel_power(
        torch.randn(1, 2, 2, 8, 8), "audio"
    )
    assert power[1] / power[0] == pytest.approx(4, rel=1e-4)
