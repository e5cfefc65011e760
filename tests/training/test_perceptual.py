"""The perceptual term: it grows with blur and grain, counts where it is told to, and moves nothing frozen."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmldm.errors import UserError
from mmldm.evaluation.classifiers import Classifiers, ImageClassifier
from mmldm.evaluation.extractors.squeezenet import WEIGHTS
from mmldm.training.perceptual import PerceptualDistance, build_perceptual
from mmldm.types import AV


def textures() -> Tensor:
    """Images (2,3,48,64) in [-1,1]: grain that is as fine as a few pixels."""
    grain = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(grain, 3, 1, 1).clamp(-1, 1)


@pytest.fixture
def classifiers(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    networks = AV(ImageClassifier(1, 2), ImageClassifier(3, 2))
    Classifiers(networks, ("a", "b"), 8000, 4000).save(tmp_path)
    return tmp_path


@pytest.fixture(params=["laplacian", "squeezenet", "classifiers"])
def distance(request: pytest.FixtureRequest, classifiers: Path) -> PerceptualDistance:
    if request.param == "classifiers":
        return build_perceptual(str(classifiers))
    if request.param == "squeezenet":
        folder: Path = request.getfixturevalue("shared") / "weights"
        return build_perceptual(str(WEIGHTS.find(folder)))
    return build_perceptual(request.param)


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_blur_is_farther_the_stronger_it_is(distance: PerceptualDistance, modality: str) -> None:
    images = textures()
    flat = torch.ones_like(images[:, :1])
    blurred = [F.avg_pool2d(images, size, 1, size // 2) for size in (1, 3, 7)]
    same, soft, softer = (distance(x, images, flat, modality) for x in blurred)
    assert same.abs().max() < 1e-6
    assert (soft > 1e-3).all() and (softer > soft).all()


def test_only_weighted_pixels_count(distance: PerceptualDistance) -> None:
    images, weights = textures(), torch.zeros(2, 1, 48, 64)
    weights[..., :16] = 1.0
    elsewhere = images.clone()
    elsewhere[..., 48:] = 0.0
    there = images.clone()
    there[..., :16] = 0.0
    # But for the norms of the classifier, which see the whole image.
    far, near = (distance(x, images, weights, "video") for x in (elsewhere, there))
    assert (far < 0.05 * near).all()


def test_gradient_reaches_the_image_and_no_feature(distance: PerceptualDistance) -> None:
    images = textures()
    made = (0.5 * images).requires_grad_()
    distance(made, images, torch.ones_like(images[:, :1]), "video").sum().backward()
    assert made.grad is not None and made.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in distance.parameters())


def test_features_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"SqueezeNet needs its weights.*nothing-here"):
        build_perceptual(str(tmp_path / "nothing-here"))
