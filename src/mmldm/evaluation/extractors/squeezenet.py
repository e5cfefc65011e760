"""SqueezeNet 1.0 of ImageNet: 512 features of single frames, and its 1000 classes.

frames u8 (T,3,H,W) -> images (T,3,227,227), BGR, 0 to 255 less a mean -> features (T,512)

For a Fréchet distance per frame, which knows pictures and not motion. Source: Iandola et al.,
"SqueezeNet", 2016. Names of tensors are those of its Caffe layers, written with dots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmldm.evaluation.extractors.extractor import FileExtractor
from mmldm.evaluation.extractors.weights_file import WeightsFile
from mmldm.media.clip import Clip

SIZE = 227
MEAN_BGR = (104.0, 117.0, 123.0)
FIRES = {2: (96, 16, 64), 3: (128, 16, 64), 4: (128, 32, 128), 5: (256, 32, 128), 6: (256, 48, 192),
         7: (384, 48, 192), 8: (384, 64, 256), 9: (512, 64, 256)}  # fmt: skip
"""Channels read, squeezed to, and written by each of the two expansions."""
POOLED_BEFORE = frozenset({2, 5, 9})
FEATURES, NUM_CLASSES = 512, 1000

WEIGHTS = WeightsFile(
    network="SqueezeNet",
    names={
        "squeezenet1_0_imagenet_caffe_bgr.safetensors": (
            "ff23af35246d60672feb7ebb34001f1b3818dda23f6e1b0f0d43f44ca7450c57"
        )
    },
    source="songhan/SqueezeNet-Deep-Compression, converted (docs/evaluation.md)",
    licence="BSD-2-Clause",
)


class Fire(nn.Module):
    """One squeezing and two expanding convolutions, each with a rectifier."""

    def __init__(self, in_channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (T,2E,H,W) of maps (T,C,H,W), with E expanded channels."""
        squeezed = F.relu(self.squeeze(maps))
        return F.relu(torch.cat([self.expand1x1(squeezed), self.expand3x3(squeezed)], dim=1))


class SqueezeNetNetwork(nn.Module):
    """The network, its parts named as in its file."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, stride=2)
        for number, channels in FIRES.items():
            self.add_module(f"fire{number}", Fire(*channels))
        self.conv_final = nn.Conv2d(FEATURES, NUM_CLASSES, 1, padding=1)

    def layers(self, images: Tensor) -> Iterator[Tensor]:
        """Maps (T,C,h,w) of images (T,3,H,W), layer by layer; none is computed before it is asked for."""
        maps = F.relu(self.conv1(images))
        yield maps
        for number in FIRES:
            # Caffe rounds sizes up where torch rounds them down.
            if number in POOLED_BEFORE:
                maps = F.max_pool2d(maps, 3, stride=2, ceil_mode=True)
            maps = self.get_submodule(f"fire{number}")(maps)
            yield maps

    def maps(self, images: Tensor) -> Tensor:
        """The last feature maps (T,512,13,13) of images (T,3,227,227)."""
        *_, last = self.layers(images)
        return last

    def forward(self, images: Tensor) -> Tensor:
        """Logits (T,1000) of images (T,3,227,227)."""
        return F.relu(self.conv_final(self.maps(images))).mean((2, 3))


class SqueezeNet(FileExtractor):
    """Features of frames, one for each: means over the last maps before the classes."""

    name = "squeezenet"
    modality = "video"
    dim = FEATURES
    weights_file = WEIGHTS
    network: SqueezeNetNetwork

    def build(self, file_name: str) -> SqueezeNetNetwork:
        return SqueezeNetNetwork()

    @torch.no_grad()
    def __call__(self, clips: Sequence[Clip]) -> list[Tensor]:
        """Features (T,512) of each clip's frames."""
        images = (prepared(clip.frames).to(self.device) for clip in clips)
        return [self.network.maps(image).mean((2, 3)).cpu() for image in images]


def prepared(frames: Tensor) -> Tensor:
    """Frames u8 (T,3,H,W), RGB -> images (T,3,227,227), BGR, 0 to 255 less the mean."""
    # Caffe's order of colours, and its range.
    images = F.interpolate(frames.float(), (SIZE, SIZE), mode="bilinear", antialias=True)
    return images.flip(1) - torch.tensor(MEAN_BGR)[:, None, None]
