"""I3D of Kinetics-400: the 400 logits of FVD and KVD, or the 1024 features before them.

frames u8 (T,3,H,W), T >= 9 -> images (1,3,T,224,224) in [-1,1] -> features (1,400) or (1,1024)

Inception v1 inflated to three dimensions. Source: Carreira and Zisserman, "Quo vadis, action
recognition?", CVPR 2017; Unterthiner et al., "FVD", 2019. Names and shapes of tensors are those of
piergiaj/pytorch-i3d. Frames are prepared as MM-Diffusion does it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmldm.errors import UserError
from mmldm.evaluation.extractors.extractor import FileExtractor
from mmldm.evaluation.extractors.layers import FrozenNorm
from mmldm.evaluation.extractors.weights_file import WeightsFile
from mmldm.media.clip import Clip

SIZE = 224
LEAST_FRAMES = 9
"""With fewer, nothing is left for the last pooling over two time steps."""
NUM_CLASSES = 400
MIXED = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
"""Channels read, and those written by b0, b1a, b1b, b2a, b2b and b3b."""
POOLED_BEFORE = {"Mixed_4b": ("MaxPool3d_4a_3x3", 3), "Mixed_5b": ("MaxPool3d_5a_2x2", 2)}
"""Names and kernels of what halves time, height and width before a module."""
WIDTH = 1024

EPSILONS = {"rgb_imagenet.pt": 1e-3}
"""Of the batch norms, by file: what the code that is published with it has. All others have 1e-5."""
WEIGHTS = WeightsFile(
    network="I3D",
    names={"i3d_pretrained_400.pt": "", "rgb_imagenet.pt": "", "i3d.safetensors": ""},
    source="wilson1yan/VideoGPT (i3d_pretrained_400.pt, the one of MM-Diffusion) or piergiaj/pytorch-i3d "
    "(rgb_imagenet.pt), both linked from their pages on GitHub",
    licence="Apache-2.0",
)


class Unit(nn.Module):
    """Convolution, batch norm, rectifier, with TensorFlow's padding."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, epsilon: float, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, bias=False)
        self.bn = FrozenNorm(out_channels, epsilon)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B,C',T/s,H/s,W/s), rounded up, of maps (B,C,T,H,W), with stride s."""
        kernel, stride = self.conv3d.kernel_size, self.conv3d.stride
        return F.relu(self.bn(self.conv3d(pad_same(maps, kernel, stride))))


class MaxPool(nn.Module):
    """The largest value of each window, with TensorFlow's padding. What is pooled is not negative."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B,C,T/s,H/s,W/s), rounded up, of maps (B,C,T,H,W) >= 0, with stride s of each axis."""
        return F.max_pool3d(pad_same(maps, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """An Inception module: four branches side by side, their channels one after the other."""

    def __init__(self, in_channels: int, widths: Sequence[int], epsilon: float) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = Unit(in_channels, b0, 1, epsilon)
        self.b1a = Unit(in_channels, b1a, 1, epsilon)
        self.b1b = Unit(b1a, b1b, 3, epsilon)
        self.b2a = Unit(in_channels, b2a, 1, epsilon)
        self.b2b = Unit(b2a, b2b, 3, epsilon)
        self.b3a = MaxPool((3, 3, 3), (1, 1, 1))
        self.b3b = Unit(in_channels, b3b, 1, epsilon)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B,C',T,H,W) of maps (B,C,T,H,W)."""
        branches = [
            self.b0(maps),
            self.b1b(self.b1a(maps)),
            self.b2b(self.b2a(maps)),
            self.b3b(self.b3a(maps)),
        ]
        return torch.cat(branches, dim=1)


class InceptionI3D(nn.Module):
    """The network, its parts named as in its files.

    Args:
        epsilon: Of the batch norms.
    """

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        stages: dict[str, nn.Module] = {
            "Conv3d_1a_7x7": Unit(3, 64, 7, epsilon, stride=2),
            "MaxPool3d_2a_3x3": MaxPool((1, 3, 3), (1, 2, 2)),
            "Conv3d_2b_1x1": Unit(64, 64, 1, epsilon),
            "Conv3d_2c_3x3": Unit(64, 192, 3, epsilon),
            "MaxPool3d_3a_3x3": MaxPool((1, 3, 3), (1, 2, 2)),
        }
        for name, channels in MIXED.items():
            if name in POOLED_BEFORE:
                pool, side = POOLED_BEFORE[name]
                stages[pool] = MaxPool((side, side, side), (2, 2, 2))
            stages[name] = Mixed(*channels, epsilon)
        self.stages = tuple(stages)
        for name, stage in stages.items():
            self.add_module(name, stage)
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(WIDTH, NUM_CLASSES, 1)})

    def maps(self, images: Tensor) -> Tensor:
        """Feature maps (B,1024,ceil(T/8),ceil(H/32),ceil(W/32)) of images (B,3,T,H,W)."""
        maps = images
        for name in self.stages:
            maps = self.get_submodule(name)(maps)
        return maps

    def features(self, images: Tensor) -> Tensor:
        """Pooled features (B,1024,T',1,1) of images (B,3,T,224,224), T' = ceil(T/8) - 1."""
        return F.avg_pool3d(self.maps(images), (2, 7, 7), stride=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B,400), mean over time, of images (B,3,T,224,224)."""
        return self.classify(self.features(images))

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B,400), mean over time, of pooled features (B,1024,T',1,1)."""
        return self.logits["conv3d"](features).mean((2, 3, 4))


class I3D(FileExtractor):
    """Features of frames, one for a whole clip.

    Args:
        weights: File; None: the one in the folder of weights.
        device: Where the network runs.
        pooled: The 1024 features before the logits, mean over time, in place of the logits.

    Raises:
        UserError: The weights are not there, or not those of this network.
    """

    modality = "video"
    weights_file = WEIGHTS
    network: InceptionI3D

    def __init__(
        self,
        weights: str | Path | None = None,
        device: str | torch.device = "cpu",
        pooled: bool = False,
    ) -> None:
        super().__init__(weights, device)
        self.pooled = pooled
        self.name, self.dim = ("i3d-pooled", WIDTH) if pooled else ("i3d", NUM_CLASSES)

    def build(self, file_name: str) -> InceptionI3D:
        return InceptionI3D(EPSILONS.get(file_name, 1e-5))

    @torch.no_grad()
    def __call__(self, clips: Sequence[Clip]) -> list[Tensor]:
        """Features (1,400) or (1,1024) of each clip's frames."""
        features = []
        for number, clip in enumerate(clips):
            if len(clip.frames) < LEAST_FRAMES:
                raise UserError(
                    f"clip {number} has {len(clip.frames)} frames, and I3D needs {LEAST_FRAMES} or more"
                )
            images = resized(clip.frames).to(self.device)
            pooled = self.network.features(images)
            seen = pooled.mean((2, 3, 4)) if self.pooled else self.network.classify(pooled)
            features.append(seen.cpu())
        return features


def resized(frames: Tensor) -> Tensor:
    """Frames u8 (T,3,H,W) -> images (1,3,T,224,224) in [-1,1]: the shorter side to 224, then the centre."""
    shorter = min(frames.shape[-2:])
    # The shorter side by name: 224 / 360 * 360 may be a little more than 224.
    size = [
        SIZE if side == shorter else math.ceil(side * (SIZE / shorter))
        for side in frames.shape[-2:]
    ]
    # Without antialiasing, as there.
    images = F.interpolate(frames.float() / 127.5 - 1, size, mode="bilinear")
    top, left = ((side - SIZE) // 2 for side in size)
    return images[..., top : top + SIZE, left : left + SIZE].transpose(0, 1)[None]


def pad_same(maps: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Maps (B,C,T,H,W) with zeros around: a stride s gives ceil(size / s). An odd zero is at the far end."""
    pads: list[int] = []
    for size, k, s in zip(maps.shape[2:], kernel, stride, strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads = [total // 2, total - total // 2, *pads]
    return F.pad(maps, pads)
