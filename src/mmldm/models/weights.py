"""Published weights as they lie on disk or hub, and loading that accepts nothing by halves.

.safetensors file, folder or hub name -> tensors by name, config -> network, or a refusal that names
what differs. Nothing here reads a pickle. The original layout is that of latent-diffusion's single
files, which diffusers' own conversion renames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mmldm.errors import UserError
from mmldm.strict import read_json

PICKLES = frozenset({".ckpt", ".pt", ".pth", ".bin"})
MOST_NAMED = 4
"""Tensors of a kind that a refusal lists."""


def is_file_name(name: str | Path) -> bool:
    """Whether `name` means one file of weights, and not a folder or hub name.

    Raises:
        UserError: It is a pickle.
    """
    suffix = Path(name).suffix
    if suffix in PICKLES:
        raise UserError(
            f"{name} is a pickle, which can run any code when it is read: take the model's "
            ".safetensors file, or convert this one to safetensors first."
        )
    return suffix == ".safetensors"


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of one .safetensors file.

    Raises:
        UserError: It is not there or not readable.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error


def find_config(name: str, part: str, what: str) -> tuple[dict[str, Any], str | None]:
    """config.json of a folder or hub name, at its root or in its sub-folder `part`.

    Args:
        what: The network looked for, for the message.

    Returns:
        The configuration, and the sub-folder it is in.

    Raises:
        UserError: There is none, or the hub did not give it.
    """
    path = Path(name)
    if path.is_dir():
        for subfolder in (None, part):
            file = path / (subfolder or "") / "config.json"
            if file.is_file():
                return read_json(file, f"no {what}"), subfolder
        raise UserError(
            f"{name} holds no {what}: neither config.json nor {part}/config.json is there."
        )
    reasons = []
    for subfolder in (None, part):
        try:
            # Any class reads any component's file.
            return AutoencoderKL.load_config(name, subfolder=subfolder), subfolder
        except (OSError, ValueError) as error:
            reasons.append(str(error).strip().split("\n")[0])
    raise UserError(
        f"'{name}' is neither a folder here nor a name for which the Hugging Face hub gave us "
        f"its {what} ({reasons[-1]}). Give a folder, or download the model first."
    )


def rename_original(
    tensors: Mapping[str, Tensor],
    prefixes: Sequence[str],
    convert: Callable[[dict[str, Tensor], Mapping[str, Any]], dict[str, Tensor]],
    config: Mapping[str, Any],
) -> tuple[dict[str, Tensor], list[str]]:
    """One network out of a single file of the original layout, in diffusers' names.

    Args:
        tensors: Of the whole file.
        prefixes: Names of this network's tensors start with one of them.
        convert: diffusers' conversion, called as convert(tensors, config).

    Returns:
        The renamed tensors, and the names that the conversion did not use.
    """
    own = {key: value for key, value in tensors.items() if key.startswith(tuple(prefixes))}
    renamed = convert(dict(own), config)
    # Conversion keeps or views each tensor, so its address says where it went.
    used = {tensor.data_ptr() for tensor in renamed.values()}
    return renamed, sorted(key for key, value in own.items() if value.data_ptr() not in used)


def load_exactly(
    network: nn.Module, tensors: Mapping[str, Tensor], where: str, unexpected: Sequence[str] = ()
) -> None:
    """Loads tensors whose names and shapes are exactly the network's.

    Args:
        where: File, folder or hub name, for the message.
        unexpected: Names already found to be without a place.

    Raises:
        UserError: Names or shapes differ; those tensors are named, with both shapes.
    """
    own = network.state_dict()
    refuse_differences(
        where,
        missing=sorted(own.keys() - tensors.keys()),
        unexpected=sorted({*unexpected, *(tensors.keys() - own.keys())}),
        mismatched=[
            f"{key} {tuple(tensors[key].shape)} there, {tuple(own[key].shape)} here"
            for key in sorted(own.keys() & tensors.keys())
            if tensors[key].shape != own[key].shape
        ],
    )
    refuse_non_finite(tensors.items(), where)
    network.load_state_dict(dict(tensors))


def refuse_non_finite(tensors: Iterable[tuple[str, Tensor]], where: str | Path) -> None:
    """Raises a UserError that names the first tensor with NaN or infinite numbers, if there is one."""
    for name, tensor in tensors:
        # One pass and no memory; a sum can overflow, so that only what it finds is looked at closely.
        suspicious = tensor.is_floating_point() and not tensor.sum(dtype=torch.float32).isfinite()
        if suspicious and not tensor.isfinite().all():
            bad = int((~tensor.isfinite()).sum())
            raise UserError(
                f"{where}: {bad} of the {tensor.numel()} numbers of the tensor {name} are NaN or infinite: "
                "the weights are damaged, or their training failed; take other ones"
            )


def refuse_differences(
    where: str,
    missing: Sequence[str] = (),
    unexpected: Sequence[str] = (),
    mismatched: Sequence[str] = (),
) -> None:
    """Raises a UserError that counts and names the tensors that differ, if any do."""
    problems = {"missing": missing, "unexpected": unexpected, "of the wrong shape": mismatched}
    found = "; ".join(
        f"{len(keys)} {what} ({', '.join(keys[:MOST_NAMED])}{', ...' * (len(keys) > MOST_NAMED)})"
        for what, keys in problems.items()
        if keys
    )
    if found:
        raise UserError(f"{where} does not fit the network it is for: tensors {found}.")
