"""How far apart two images look to features that no training moves: the perceptual term of the `vae` job.

images (N,3,H,W) in [-1,1] -> maps (N,C,h,w) of several scales -> distance (N,). A distance of pixels asks for
the mean of all that could be; one of features asks for as much fine structure as there was.
Sources: Johnson, Alahi & Li 2016 (features); Zhang et al. 2018, "LPIPS" (unit vectors of channels); Laparra
et al. 2016, "normalised Laplacian pyramid" (no weights at all).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmldm.evaluation.classifiers import Classifiers, ImageClassifier
from mmldm.evaluation.extractors.squeezenet import MEAN_BGR, SqueezeNet, SqueezeNetNetwork
from mmldm.training.losses import weighted_mean
from mmldm.types import AV

SQUEEZENET_LAYERS = 4
"""The first convolution and three "fires": strides of 2 and 4, edges and textures."""
CLASSIFIER_LAYERS = 2
LAPLACIAN_LEVELS = 4
CONTRAST_FLOOR = 0.1
"""Local amplitude, in image units of [-1, 1], below which a band of the pyramid is no longer amplified."""

AMPLITUDE_FLOOR = 0.01
"""The same, below which its logarithm levels off: a grey level of 255."""


class SqueezeNetMaps(nn.Module):
    """Early maps of SqueezeNet at the images' own size, as unit vectors of channels."""

    mean: Tensor

    def __init__(self, network: SqueezeNetNetwork) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN_BGR)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (N,3,H,W) in [-1,1] -> maps (N,C,h,w)."""
        # Caffe's order of colours, and its range.
        layers = self.network.layers((images.flip(1) + 1) * 127.5 - self.mean)
        return [F.normalize(maps, dim=1) for maps in islice(layers, SQUEEZENET_LAYERS)]


class ClassifierMaps(nn.Module):
    """Early maps of a classifier of `mmldm evaluate`, as unit vectors of channels."""

    def __init__(self, network: ImageClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (N,3,H,W) in [-1,1] -> maps (N,C,h,w)."""
        return [
            F.normalize(maps, dim=1) for maps in islice(self._layers(images), CLASSIFIER_LAYERS)
        ]

    def _layers(self, images: Tensor) -> Iterator[Tensor]:
        """Maps (N,C,h,w) of images (N,3,H,W), block by block of convolution, norm and activation."""
        # The sound's classifier sees one of the audio image's three equal channels.
        first = self.network.trunk[0]
        assert isinstance(first, nn.Conv2d)
        maps = images[:, : first.in_channels]
        for layer in self.network.trunk:
            maps = layer(maps)
            if isinstance(layer, nn.SiLU):
                yield maps


class LaplacianMaps(nn.Module):
    """Bands of a Laplacian pyramid, each divided by the amplitude around it, and the log of that amplitude.

    The first say where structure is, the second how strong it is: a blurred texture is far in them
    even where the best guess of its pixels is none.
    """

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (N,3,H,W) in [-1,1] -> bands (N,3,h,w) and amplitudes (N,1,h,w), finest first."""
        maps = []
        for _ in range(LAPLACIAN_LEVELS):
            coarse = F.avg_pool2d(images, 2)
            band = images - F.interpolate(coarse, images.shape[-2:], mode="bilinear")
            around = F.avg_pool2d(band.abs().mean(1, keepdim=True), 5, 1, 2)
            maps += [band / (around + CONTRAST_FLOOR), (around + AMPLITUDE_FLOOR).log()]
            images = coarse
        return maps


class PerceptualDistance(nn.Module):
    """Mean squared difference of frozen maps, weighted as the pixels are.

    Args:
        maps: Gives maps of the images of a modality.
    """

    def __init__(self, maps: AV[nn.Module]) -> None:
        super().__init__()
        self.maps = nn.ModuleDict(maps._asdict()).requires_grad_(False).eval()

    def forward(self, images: Tensor, originals: Tensor, weights: Tensor, modality: str) -> Tensor:
        """Images and originals (N,3,H,W) in [-1,1], weights (N,1,H,W) -> distances (N,)."""
        maps = self.maps[modality]
        with torch.no_grad():
            wanted = maps(originals)
        distances = [
            # A cell of a map counts as much as the pixels it stands for; channels are summed.
            weighted_mean((ours - theirs).square(), F.adaptive_avg_pool2d(weights, ours.shape[-2:]))
            * ours.shape[1]
            for ours, theirs in zip(maps(images), wanted, strict=True)
        ]
        return torch.stack(distances).mean(0)


def build_perceptual(features: str) -> PerceptualDistance:
    """The distance of a recipe's `vae.features`.

    Args:
        features: "laplacian", "squeezenet" (of the folder of weights), its file, or a folder of classifiers.

    Raises:
        UserError: The weights are not there or not those of such a network.
    """
    if features == "laplacian":
        return PerceptualDistance(AV(LaplacianMaps(), LaplacianMaps()))
    if (Path(features) / "classifiers.json").is_file():
        networks = Classifiers.load(features).networks
        return PerceptualDistance(networks.map(ClassifierMaps))
    network = SqueezeNet(None if features == "squeezenet" else features).network
    return PerceptualDistance(AV(SqueezeNetMaps(network), SqueezeNetMaps(network)))
