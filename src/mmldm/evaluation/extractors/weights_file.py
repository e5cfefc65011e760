"""Weights published by others: where they lie, whether they are the right ones, and the tensors inside.

file of weights (.safetensors, or a pickle of nothing but tensors) -> tensors by name, sha256

Nothing is downloaded. Networks for evaluation are published as pickles only. So one is read here, and
nowhere else: by torch's restricted reader, which builds tensors and calls nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # What torch.load raises.
from typing import NamedTuple

import torch
from torch import Tensor

from mmldm.errors import UserError
from mmldm.files import sha256_of
from mmldm.models.weights import read_tensors

FOLDER_VARIABLE = "MMLDM_WEIGHTS"


class Weights(NamedTuple):
    """What a file of weights holds.

    Attributes:
        path: Of the file.
        sha256: Of the file, in hex.
        tensors: The network's by name, without the file's prefix; without the batch norms' counters of
            batches, which old files lack, and without empty ones, which a bias that is none leaves.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class WeightsFile:
    """A file that a person has to fetch.

    Attributes:
        network: Whose weights they are.
        names: Accepted file names, the usual one first, each with the leading digits of the file's sha256,
            or "" where none is known.
        source: How to get it, as the end of "get it from".
        licence: Of the weights.
        prefix: Of the names of this network's tensors, in a file that holds others, too; those are left.
    """

    network: str
    names: Mapping[str, str]
    source: str
    licence: str
    prefix: str = ""

    def find(self, path: str | Path | None = None) -> Path:
        """The file at `path`, or under one of `names` in the folder at `path`; None: in that of weights.

        Raises:
            UserError: It is not there; the message says which file is missing and where to put it.
        """
        # A folder holds the file under one of its names; a file may have any name.
        given = weights_folder() if path is None else Path(path)
        in_folder = path is None or given.is_dir()
        for candidate in [given / name for name in self.names] if in_folder else [given]:
            if candidate.is_file():
                return candidate
        wanted = f"{' or '.join(self.names)} in {given}" if in_folder else given
        raise UserError(
            f"{self.network} needs its weights, and there is no {wanted}: get the file from "
            f"{self.source} and put it there, or name its folder in ${FOLDER_VARIABLE}"
        )

    def read(self, path: str | Path | None = None) -> Weights:
        """Reads the file at `path`, or the one that `find` finds.

        Raises:
            UserError: It is not there, its checksum is not the published one, or it holds more than
                tensors.
        """
        found = self.find(path)
        sha256, published = sha256_of(found), self.names.get(found.name, "")
        if not sha256.startswith(published):
            raise UserError(
                f"{found} is not the published file: its sha256 starts with {sha256[:8]}, not "
                f"{published[:8]}; it may be cut short, get it again"
            )
        # Only what this network's own tensors are.
        safe = found.suffix == ".safetensors"
        tensors = read_tensors(found) if safe else _read_pickled_tensors(found)
        own = {
            name.removeprefix(self.prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(self.prefix)
            and not name.endswith(".num_batches_tracked")
            and tensor.numel()
        }
        return Weights(found, sha256, own)


def weights_folder() -> Path:
    """$MMLDM_WEIGHTS, or mmldm/weights in the user's folder for caches."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(FOLDER_VARIABLE) or Path(cache) / "mmldm" / "weights")


def _read_pickled_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, any shapes. Torch's restricted reader refuses all but tensors."""
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} cannot be read as a file of tensors alone: {reason}") from error
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise UserError(f"{path} is no state dict: it holds something other than named tensors")
    return dict(tensors)
