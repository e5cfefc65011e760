"""The signal decoder's start from Stable Diffusion (MM-LDM §3.1): a U-Net's tensors into an autoencoder.

hub name, diffusers folder or .safetensors file -> MultiModalAutoencoder.decoder, LoadReport. It is
initialised from a pretrained image diffusion model, and all parameters are open. Adapters, prompts and
semantics stay as they were built; their last layers are zero, so that the first step sees the stock
U-Net with another context.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from mmldm.errors import UserError
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.component import check_component, class_of, component_folder, find_config
from mmldm.models.weights import (
    is_file_name,
    load_exactly,
    read_tensors,
    rename_original,
    weight_files,
)

UNETS = {"UNet2DConditionModel": UNet2DConditionModel, "SignalDecoder": UNet2DConditionModel}
NOT_THE_FUNCTION = frozenset({"sample_size"})
"""Settings of a U-Net on which its output does not depend."""


@dataclass(frozen=True)
class LoadReport:
    """Which tensors of a network came from where.

    Attributes:
        source: File, folder or hub name.
        loaded: The network's tensors that were taken from the source.
        new: The network's other tensors, as they were built.
        unexpected: The source's tensors of the same part that had no place.
    """

    source: str
    loaded: tuple[str, ...]
    new: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        counts = Counter(name.partition(".")[0] for name in self.new)
        new = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        strangers = f" ({', '.join(self.unexpected)})" if self.unexpected else ""
        return (
            f"signal decoder from {self.source}: {len(self.loaded)} tensors loaded, "
            f"{len(self.new)} new ({new}), {len(self.unexpected)} unexpected{strangers}"
        )


def initialise_decoder(autoencoder: MultiModalAutoencoder, source: str) -> LoadReport:
    """Gives the signal decoder the weights of a pretrained U-Net.

    Args:
        source: Name on the Hugging Face hub or diffusers folder, of a U-Net or of a pipeline with
            a `unet` sub-folder; or one .safetensors file, in the original layout of Stable
            Diffusion 1.x (`model.diffusion_model.*`) or in diffusers' names.

    Raises:
        UserError: It cannot be read, its architecture differs (every differing tensor or setting is
            named), or this autoencoder folds cells in front of its U-Net.
    """
    refuse_folding(autoencoder)
    decoder = autoencoder.decoder
    if is_file_name(source):
        tensors, unexpected = _from_file(source, decoder.config)
    else:
        tensors, unexpected = _from_folder(source, decoder.config)
    # Tensors without a place here are reported; missing ones are refused.
    own = decoder.state_dict().keys()
    known = {name: tensor for name, tensor in tensors.items() if name in own}
    load_exactly(decoder, known, source)
    loaded = tuple(f"decoder.{name}" for name in own)
    return LoadReport(
        source=source,
        loaded=loaded,
        new=tuple(name for name in autoencoder.state_dict() if name not in set(loaded)),
        unexpected=tuple(sorted({*unexpected, *(tensors.keys() - own)})),
    )


def refuse_folding(autoencoder: MultiModalAutoencoder) -> None:
    """Refuses an autoencoder that folds cells in front of its U-Net, which no published one expects.

    Raises:
        UserError: It does.
    """
    fold = autoencoder.config.decoder_patch_size
    if fold != 1:
        raise UserError(
            f"decoder_init: a pretrained U-Net reads image latents cell by cell, so "
            f"decoder_patch_size must be 1, not {fold}."
        )


def require_unet(source: str) -> None:
    """Refuses what `initialise_decoder` could not find, before any earlier job has cost time.

    Raises:
        UserError: No such file, folder or hub name.
    """
    if not is_file_name(source):
        find_config(source, "unet", "U-Net")
    elif not Path(source).is_file():
        raise UserError(f"decoder_init: {source} is not there.")


def _from_file(path: str, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by diffusers' names, and those that its conversion has no place for."""
    from diffusers.loaders.single_file_utils import LDM_UNET_KEY, convert_ldm_unet_checkpoint

    tensors = read_tensors(path)
    if not any(name.startswith(LDM_UNET_KEY) for name in tensors):
        return tensors, []
    return rename_original(tensors, [LDM_UNET_KEY], convert_ldm_unet_checkpoint, config)


def _from_folder(source: str, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by diffusers' names, of a U-Net with the same settings as `config`."""
    described, subfolder = find_config(source, "unet", "U-Net")
    class_of(described, UNETS, source)
    folder = component_folder(source, subfolder)
    # What is missing or has no place is told tensor by tensor by `initialise_decoder`.
    unet = check_component(folder, UNETS, whole=False)
    # Heads, groups and activations leave no trace in the shapes, and change the function.
    here, there = _settings(config), _settings(unet.config)
    for name in here:
        if here[name] != there[name]:
            raise UserError(
                f"{source}: the U-Net's {name} is {there[name]} there and {here[name]} here; "
                "change decoder_config, or take another U-Net."
            )
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        tensors |= read_tensors(file)
    return tensors, []


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a U-Net's function depends on, as plain JSON: tuples and lists compare as equal."""
    plain = json.loads(json.dumps(dict(config), default=str))
    return {k: v for k, v in plain.items() if k[0] != "_" and k not in NOT_THE_FUNCTION}
