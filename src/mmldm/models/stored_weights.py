"""What files of weights say before they are read: names, shapes, kinds of number, and whether all are finite.

folder -> .safetensors files -> headers, held against a network on the meta device -> a sentence or nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from mmldm.errors import UserError
from mmldm.models.weights import refuse_differences, refuse_non_finite
from mmldm.strict import plain_json, read_json

WEIGHTS = "diffusion_pytorch_model"
"""What diffusers calls a component's weights."""
LARGEST_HEADER = 100_000_000
"""Bytes, as in the safetensors library."""
WEIGHT_KINDS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
OTHER_KINDS = {
    "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
EXPONENTS = {
    "F16": (np.uint16, 0x7FFF, 0x7C00), "BF16": (np.uint16, 0x7FFF, 0x7F80),
    "F32": (np.uint32, 0x7FFFFFFF, 0x7F800000),
}  # fmt: skip
"""Of each kind: its bits as an integer, those without the sign, and the least that is no finite number."""
PIECE = 1 << 19
"""Bytes of weights that are looked at together."""


class Stored(NamedTuple):
    """What a file's header says of a tensor.

    Attributes:
        kind: Of number, in the file format's words.
        begin: Of its bytes, from the file's start on.
    """

    kind: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The files that diffusers reads a component from: one, or those that an index names.

    Raises:
        UserError: There are none, or the index names files elsewhere.
    """
    for ending in [f".{variant}", ""] if variant else [""]:
        index = folder / f"{WEIGHTS}.safetensors.index{ending}.json"
        if index.is_file():
            shards = read_json(index, "its index is missing").get("weight_map")
            names = list(shards.values()) if isinstance(shards, dict) else []
            if not names or not all(isinstance(name, str) and _is_own(name) for name in names):
                raise UserError(f"{index}: must name .safetensors files of its own folder")
            files = [folder / name for name in sorted(set(names))]
        else:
            files = [folder / f"{WEIGHTS}{ending}.safetensors"]
        if all(file.is_file() for file in files):
            return files
    raise UserError(
        f"{folder.parent}: the weights of {folder.name!r} are missing (no {files[0].name})"
    )


def _is_own(name: str) -> bool:
    return Path(name).name == name and name.endswith(".safetensors")


def read_headers(files: Sequence[Path]) -> dict[str, Stored]:
    """Every tensor's header.

    Raises:
        UserError: A file is cut off, which is found by the size that its header states, or no such file.
    """
    return {name: stored for file in files for name, stored in _read_header(file).items()}


def _read_header(path: Path) -> dict[str, Stored]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            if not 0 < header_size <= min(size - 8, LARGEST_HEADER):
                raise ValueError("its header is cut off")
            header = plain_json(file.read(header_size))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        start = 8 + header_size
        stored = {
            name: Stored(
                str(entry["dtype"]), tuple(map(int, entry["shape"])), path,
                *(start + int(offset) for offset in entry["data_offsets"]),
            )
            for name, entry in header.items()
        }  # fmt: skip
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); copy it again") from None
    expected = 8 + header_size + end
    if size != expected:
        raise UserError(
            f"{path}: incomplete, {size} bytes where its header states {expected}; copy it again"
        )
    try:
        with safe_open(path, framework="pt"):
            return stored
    except SafetensorError as error:  # offsets that overlap, leave holes or do not fit the shapes
        raise UserError(f"{path}: not a whole safetensors file ({error}); copy it again") from None


def check_finite(stored: Mapping[str, Stored]) -> None:
    """Checks that no weight is NaN or infinite: by its exponent bits, in pieces that stay in a CPU's caches.

    Raises:
        UserError: Naming a tensor.
    """
    for file in {tensor.file for tensor in stored.values()}:
        content = np.memmap(file, np.uint8, "r")
        tensors = [t for t in stored.values() if t.file == file and t.kind in WEIGHT_KINDS]
        for kind, begin, end in _pieces(tensors):
            bits, all_but_sign, infinity = EXPONENTS[kind]
            if np.bitwise_and(content[begin:end].view(bits), all_but_sign).max() >= infinity:
                with safe_open(file, framework="pt") as opened:
                    named = (
                        (name, opened.get_tensor(name))
                        for name in stored
                        if stored[name].file == file
                    )
                    refuse_non_finite(named, file)


def _pieces(tensors: Sequence[Stored]) -> Iterator[tuple[str, int, int]]:
    """Runs of bytes that hold tensors of one kind, each of at most PIECE bytes."""
    runs: list[tuple[str, int, int]] = []
    for tensor in sorted(tensors, key=lambda tensor: tensor.begin):
        if runs and (runs[-1][0], runs[-1][2]) == (tensor.kind, tensor.begin):
            runs[-1] = (tensor.kind, runs[-1][1], tensor.end)
        else:
            runs.append((tensor.kind, tensor.begin, tensor.end))
    for kind, begin, end in runs:
        for start in range(begin, end, PIECE):
            yield kind, start, min(start + PIECE, end)


def check_tensors(
    network: nn.Module, stored: Mapping[str, Stored], folder: Path, *, whole: bool = True
) -> None:
    """Checks names, shapes and kinds of number against a network's own.

    Raises:
        UserError: Naming the tensors that differ.
    """
    own = network.state_dict()
    found = dict(stored)
    rename: Any = getattr(network, "_fix_state_dict_keys_on_load", None)
    if rename is not None:
        rename(found)  # names of diffusers' first attention blocks
    refuse_differences(
        str(folder),
        missing=sorted(own.keys() - found.keys()) if whole else (),
        unexpected=sorted(found.keys() - own.keys()) if whole else (),
        mismatched=[
            f"{name} {found[name].shape} there, {tuple(own[name].shape)} by config.json"
            for name in sorted(own.keys() & found.keys())
            if found[name].shape != tuple(own[name].shape)
        ],
    )
    for name in own.keys() & found.keys():
        kind = found[name].kind
        fits = (
            kind in WEIGHT_KINDS
            if own[name].is_floating_point()
            else OTHER_KINDS.get(kind) == own[name].dtype
        )
        if not fits:
            wanted = (
                f"one of {', '.join(WEIGHT_KINDS)}"
                if own[name].is_floating_point()
                else str(own[name].dtype).removeprefix("torch.")
            )
            raise UserError(
                f"{folder}: the tensor {name} is of the kind {kind:.20}, and this network's is {wanted}: "
                "the weights were converted for something else; take the original ones"
            )
