"""Extractors by the names that commands and reports use.

name, weights -> Extractor
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch

from mmldm.errors import UserError
from mmldm.evaluation.extractors.audioclip import AudioCLIP
from mmldm.evaluation.extractors.clap import CLAP, DEFAULT
from mmldm.evaluation.extractors.extractor import Extractor
from mmldm.evaluation.extractors.i3d import I3D
from mmldm.evaluation.extractors.squeezenet import SqueezeNet
from mmldm.evaluation.extractors.vggish import VGGish
from mmldm.evaluation.extractors.weights_file import weights_folder
from mmldm.evaluation.extractors.yamnet import YAMNet

BUILDERS: dict[str, Callable[..., Extractor]] = {
    "yamnet": YAMNet,
    "vggish": VGGish,
    "audioclip": AudioCLIP,
    "i3d": I3D,
    "i3d-pooled": partial(I3D, pooled=True),
    "squeezenet": SqueezeNet,
}
FILES = {
    "yamnet": YAMNet.weights_file,
    "vggish": VGGish.weights_file,
    "audioclip": AudioCLIP.weights_file,
    "i3d": I3D.weights_file,
    "i3d-pooled": I3D.weights_file,
    "squeezenet": SqueezeNet.weights_file,
}
"""What each reads."""


def missing_weights(names: Iterable[str], weights: str | Path | None = None) -> dict[str, str]:
    """Which of these extractors lack their weights, and the sentence on each; nothing is loaded.

    Args:
        names: Others than those of `FILES` are passed over: "clap" may come from the hub.
        weights: As in `load_extractor`.
    """
    missing = {}
    for name in sorted(FILES.keys() & set(names)):
        try:
            FILES[name].find(weights)
        except UserError as error:
            missing[name] = str(error)
    return missing


def load_extractor(
    name: str, weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> Extractor:
    """Builds an extractor with its weights.

    Args:
        name: One of `BUILDERS`, or "clap".
        weights: File, or folder that holds it; for CLAP a hub name, its folder, or one that holds
            `clap-htsat-unfused`. None: the folder of weights, and for CLAP `laion/clap-htsat-unfused`.
        device: Where it runs.

    Raises:
        UserError: There is no such extractor, or its weights are not there.
    """
    # A hub name, or the folder of that name among the other weights.
    if name == "clap":
        beside = Path(weights or weights_folder()) / DEFAULT.rpartition("/")[2]
        return CLAP(beside if beside.is_dir() else weights or DEFAULT, device)
    if name not in BUILDERS:
        raise UserError(
            f"there is no extractor {name!r}; there are {', '.join([*BUILDERS, 'clap'])}"
        )
    return BUILDERS[name](weights, device=device)
