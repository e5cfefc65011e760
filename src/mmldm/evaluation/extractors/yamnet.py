"""YAMNet: the 1024 features before its 521 classes of AudioSet.

waveform (S,) -> patches (W,1,96,64) -> features (W,1024)

A MobileNet v1 with batch norms folded into its layers. Source: Plakal and Ellis, "YAMNet",
tensorflow/models, 2020; Howard et al., "MobileNets", 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmldm.evaluation.extractors.extractor import FileExtractor
from mmldm.evaluation.extractors.layers import covered, patches
from mmldm.evaluation.extractors.weights_file import WeightsFile
from mmldm.media.clip import Clip

LOG_OFFSET = 1e-3
HOP = 48
"""Columns between two patches: 0.48 s."""
NUM_CLASSES = 521
WIDTHS = (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
"""Channels after the first layer, and after each pair of a depthwise and a pointwise one."""
STRIDED = frozenset({2, 4, 6, 12})
"""Pairs, counted from 1, whose depthwise layer halves both axes."""

WEIGHTS = WeightsFile(
    network="YAMNet",
    names={
        "yamnet_relu6_fp16.safetensors": "797445261da0370f7d5853c5adc285934f222e96b16b1299ccc7669ebef06326"
    },
    source="models/yamnet_spectra_in.tflite of google-coral/coralmicro, converted (docs/evaluation.md)",
    licence="Apache-2.0",
)


class YAMNetNetwork(nn.Module):
    """The network: `layer1` to `layer27` and `fc`, as their file names them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Conv2d(1, WIDTHS[0], 3, stride=2)
        for pair, (width, wider) in enumerate(pairwise(WIDTHS), start=1):
            stride = 2 if pair in STRIDED else 1
            depthwise = nn.Conv2d(width, width, 3, stride, groups=width)
            self.add_module(f"layer{2 * pair}", depthwise)
            self.add_module(f"layer{2 * pair + 1}", nn.Conv2d(width, wider, 1))
        # The classes are not used here, but they are in the file, and files are read whole.
        self.fc = nn.Linear(WIDTHS[-1], NUM_CLASSES)

    def forward(self, patches: Tensor) -> Tensor:
        """Features (W,1024) of patches (W,96,64)."""
        hidden = patches[:, None]
        for number in range(1, 2 * len(WIDTHS)):
            layer = self.get_submodule(f"layer{number}")
            if layer.kernel_size == (3, 3):
                # All sizes are even, so that what halves them is padded at the far end alone.
                hidden = F.pad(hidden, (0, 1, 0, 1) if layer.stride == (2, 2) else (1, 1, 1, 1))
            hidden = F.relu6(layer(hidden))
        return hidden.mean((2, 3))


class YAMNet(FileExtractor):
    """Features of sound before the classes, one for each window; a window starts every 0.48 s."""

    name = "yamnet"
    modality = "audio"
    dim = WIDTHS[-1]
    weights_file = WEIGHTS
    network: YAMNetNetwork

    def build(self, file_name: str) -> YAMNetNetwork:
        return YAMNetNetwork()

    def reach(self, seconds: float) -> float:
        return covered(seconds, HOP)

    @torch.no_grad()
    def __call__(self, clips: Sequence[Clip]) -> list[Tensor]:
        """Features (W,1024) of each clip's sound."""
        windows = [patches(c.waveform, c.sample_rate, LOG_OFFSET, HOP) for c in clips]
        return [self.network(window.to(self.device)).cpu() for window in windows]
