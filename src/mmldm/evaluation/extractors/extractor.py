"""The interface of all feature extractors: what they are told, what they give, how they are named.

clips -> features (W,D) of each, one row per window that the network sees

An extractor does its own resizing, resampling and windowing, so that two sets of clips are seen alike
whatever their sizes and rates. `distances` and `manifolds` know nothing of where features come from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from mmldm.evaluation.extractors.weights_file import WeightsFile
from mmldm.media.clip import Clip
from mmldm.models.weights import load_exactly


class Extractor(ABC):
    """A network that describes clips by features, in eval mode.

    Attributes:
        name: Of network and layer, as reports write it.
        modality: What of a clip it reads.
        dim: D, numbers in a feature.
        licence: Of the weights.
        sha256: Of the file of weights, in hex.
    """

    name: str
    modality: Literal["audio", "video"]
    dim: int
    licence: str
    sha256: str

    def reach(self, seconds: float) -> float:
        """Seconds from its start that the windows of a clip cover; what comes after is not seen or heard."""
        return seconds

    @abstractmethod
    def __call__(self, clips: Sequence[Clip]) -> list[Tensor]:
        """Features (W,D) f32 of each clip, on the CPU, W the windows that fit into it.

        Raises:
            UserError: A clip is too short for one window; the message names it by its number.
        """


class FileExtractor(Extractor):
    """An extractor whose network is written here, and whose weights are a file of somebody else's.

    Args:
        weights: File, or folder that holds it; None: the folder of weights.
        device: Where the network runs.

    Raises:
        UserError: The weights are not there, or not those of this network.
    """

    weights_file: WeightsFile
    network: nn.Module

    def __init__(
        self, weights: str | Path | None = None, device: str | torch.device = "cpu"
    ) -> None:
        found = self.weights_file.read(weights)
        self.licence, self.sha256 = self.weights_file.licence, found.sha256
        # Without numbers first: drawing some would take longer, and move the caller's random generator.
        with torch.device("meta"):
            self.network = self.build(found.path.name)
        self.network.to_empty(device=device).eval()
        load_exactly(self.network, found.tensors, str(found.path))
        self.device = device

    @abstractmethod
    def build(self, file_name: str) -> nn.Module:
        """The network that a file of this name holds the weights of."""


def of_windows(features: Sequence[Tensor]) -> Tensor:
    """All windows of all clips as one set (N,D): what FAD and per-frame distances compare."""
    return torch.cat(list(features))


def of_clips(features: Sequence[Tensor]) -> Tensor:
    """The mean over each clip's windows (N,D), where every clip is to count once."""
    return torch.stack([windows.mean(0) for windows in features])
