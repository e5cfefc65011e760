"""Weights of a finished network in another of other sizes and classes: what is the same stays the same."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from mmldm.errors import UserError
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.generator import JointGenerator
from mmldm.models.image_codec import LatentStatistics
from mmldm.models.transfer import ClassMatch, transfer, transfer_autoencoder, transfer_generator
from mmldm.training.jobs.autoencoder import autoencoder_arguments
from mmldm.types import AV

from ..smallest import smallest_recipe

Network = TypeVar("Network", bound=nn.Module)
SAME = ClassMatch(["a", "b"], ["a", "b"])


def trained(network: Network, seed: int = 1) -> Network:
    """As if it were: no tensor is zero any more."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return network.eval()


def autoencoder(size: tuple[int, int] = (8, 8), classes: int = 2) -> MultiModalAutoencoder:
    shapes: AV[tuple[int, ...]] = AV((4, 8, 8), (4, *size))
    statistics = LatentStatistics.scalar(1.0, 4).to_dict()
    return MultiModalAutoencoder(
        **autoencoder_arguments(smallest_recipe(), shapes, statistics, classes)
    )


def generator(slots: int = 4, classes: int = 2) -> JointGenerator:
    shape = [4, slots, 1, 1]
    return JointGenerator(
        audio_latent_shape=shape,
        video_latent_shape=shape,
        width=32,
        depth=2,
        heads=2,
        adaln="single",
        null_stream="noise",
        num_classes=classes,
        duration=slots / 10,
    )


def predicted(model: JointGenerator, labels: Tensor | None = None) -> AV[Tensor]:
    z = torch.randn(2, 4, 4, 1, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(AV(z, z), torch.tensor([10, 700]), class_labels=labels)


def equal(one: AV[Tensor], other: AV[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("build", "move"), [(autoencoder, transfer_autoencoder), (generator, transfer_generator)]
)
def test_network_of_the_same_build_becomes_the_finished_one(
    build: Callable[[], nn.Module], move: Callable[..., Any]
) -> None:
    theirs, ours = trained(build()), build()
    report = move(ours, theirs, "model", SAME)
    state = ours.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in theirs.state_dict().items())
    assert (report.resized, report.new, report.left) == ({}, [], [])
    assert len(report.taken) + len(report.by_class) == len(state)


def test_classes_go_by_their_names_and_a_new_one_starts_as_none() -> None:
    theirs, ours = trained(generator()), generator(classes=3)
    transfer_generator(ours, theirs, "model", ClassMatch(["a", "b"], ["b", "c", "d"]))
    b = predicted(theirs, torch.tensor([1, 1]))
    assert equal(predicted(ours, torch.tensor([0, 0])), b)
    assert not equal(predicted(ours, torch.tensor([1, 1])), b)
    assert equal(predicted(ours, torch.tensor([1, 1])), predicted(theirs))
    assert equal(predicted(ours), predicted(theirs))


@pytest.mark.parametrize(("there", "here"), [(2, 0), (0, 2)])
def test_generator_without_a_class_does_what_it_did(there: int, here: int) -> None:
    theirs, ours = trained(generator(classes=there)), generator(classes=here)
    names = ["a", "b"]
    transfer_generator(ours, theirs, "model", ClassMatch(names[:there], names[:here]))
    for one, other in zip(predicted(ours), predicted(theirs), strict=True):
        torch.testing.assert_close(one, other)


def test_autoencoders_class_token_of_a_new_class_is_the_mean_one() -> None:
    theirs, ours = trained(autoencoder()), autoencoder(classes=3)
    report = transfer_autoencoder(ours, theirs, "model", ClassMatch(["a", "b"], ["b", "c", "d"]))
    assert theirs.class_tokens is not None and ours.class_tokens is not None
    table = theirs.class_tokens.weight
    wanted = torch.stack([table[1], table.mean(0), table.mean(0)])
    torch.testing.assert_close(ours.class_tokens.weight, wanted)
    assert len(report.by_class) == 3


def test_longer_clips_keep_what_is_learnt_of_times_by_their_share() -> None:
    theirs, ours = trained(generator(slots=4)), generator(slots=8)
    with torch.no_grad():
        theirs.video.token_embedding[:] = torch.arange(4.0)[:, None]
    report = transfer_generator(ours, theirs, "model", SAME)
    middle = ours.video.token_embedding[:, 0]
    torch.testing.assert_close(middle[1:-1], torch.arange(6) / 2 + 0.25)
    assert set(report.resized) == {"audio.token_embedding", "video.token_embedding"}


def test_other_picture_size_resizes_places_and_keeps_a_flat_pictures_latents() -> None:
    theirs, ours = trained(autoencoder()), autoencoder(size=(8, 12))
    report = transfer_autoencoder(ours, theirs, "model", SAME)
    kinds = {name.split(".")[2] for name in report.resized}
    assert kinds == {"mean", "logvar", "expand", "positions"}
    assert all(".video." in name for name in report.resized)
    assert report.new == report.left == []
    # Away from its borders a flat picture looks the same at every place; a head sums over all of them.
    head, wide = (model.encoders.video.mean for model in (theirs, ours))
    flat = torch.ones(1, head.in_channels, 1, 1)
    for one, image in ((head, flat.expand(-1, -1, 8, 8)), (wide, flat.expand(-1, -1, 8, 12))):
        assert one(image).shape[2:] == (1, 1)
    torch.testing.assert_close(
        head(flat.expand(-1, -1, 8, 8)), wide(flat.expand(-1, -1, 8, 12)), atol=1e-4, rtol=1e-4
    )


def test_shape_without_a_rule_is_refused_by_name() -> None:
    refused = partial(transfer, nn.Linear(3, 2), nn.Linear(4, 2), "generator", "model")
    with pytest.raises(
        UserError, match="the tensor weight of model is 2x4, and this recipe's is 2x3"
    ):
        refused()


def test_report_says_what_became_of_every_tensor() -> None:
    ours, theirs = nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    report = transfer(ours, theirs, "vae", "model")
    assert str(report) == "vae from model: 2 tensors taken, 2 left behind (1.weight, 1.bias)"
    assert str(ClassMatch(["a", "b"], ["b", "c"])) == (
        "classes: known to the model b; new c; the model's without clips here, left behind a"
    )
