"""VGGish: the 128 features of sound that FAD was defined on.

waveform (S,) -> patches (W,1,96,64) -> features (W,128)

Source: Hershey et al., "CNN architectures for large-scale audio classification", ICASSP 2017; Kilgour et al.,
"Fréchet audio distance", Interspeech 2019. Names and shapes of tensors are those of harritaylor/torchvggish.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmldm.evaluation.extractors.extractor import FileExtractor
from mmldm.evaluation.extractors.layers import BANDS, COLUMNS, covered, patches
from mmldm.evaluation.extractors.weights_file import WeightsFile
from mmldm.media.clip import Clip

LOG_OFFSET = 0.01
HOP = COLUMNS
"""Patches do not overlap."""
WIDTHS = ((64,), (128,), (256, 256), (512, 512))
"""Channels of the convolutions before each pooling."""
HIDDEN, FEATURES = 4096, 128

WEIGHTS = WeightsFile(
    network="VGGish",
    names={"vggish-10086976.pth": "10086976", "vggish.safetensors": ""},
    source="the release v0.1 of harritaylor/torchvggish on GitHub",
    licence="Apache-2.0",
)


class VGGishNetwork(nn.Module):
    """The network up to its embedding, before the last rectifier."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for widths in WIDTHS:
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        # Each pooling halves both axes of a patch.
        shrink = 2 ** len(WIDTHS)
        self.embeddings = nn.Sequential(
            nn.Linear(channels * (COLUMNS // shrink) * (BANDS // shrink), HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, FEATURES),
        )

    def forward(self, patches: Tensor) -> Tensor:
        """Features (W,128) of patches (W,96,64)."""
        maps = self.features(patches[:, None])
        # The original keeps channels last.
        return self.embeddings(maps.permute(0, 2, 3, 1).flatten(1))


class VGGish(FileExtractor):
    """Features of sound, one for each 0.96 s, without the PCA of the released AudioSet features."""

    name = "vggish"
    modality = "audio"
    dim = FEATURES
    weights_file = WEIGHTS

    def build(self, file_name: str) -> VGGishNetwork:
        return VGGishNetwork()

    def reach(self, seconds: float) -> float:
        return covered(seconds, HOP)

    @torch.no_grad()
    def __call__(self, clips: Sequence[Clip]) -> list[Tensor]:
        """Features (W,128) of each clip's sound."""
        windows = [patches(c.waveform, c.sample_rate, LOG_OFFSET, HOP) for c in clips]
        return [self.network(window.to(self.device)).cpu() for window in windows]
