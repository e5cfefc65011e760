"""Files of weights: what their headers say, whether they are whole and finite, and the tensors inside.

.safetensors file -> headers, held against a network's names and shapes -> tensors by name -> network, or a
sentence that names what differs: nothing is taken by halves. Nothing here reads a pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from mmldm.errors import UserError
from mmldm.strict import plain_json, read_json

PICKLES = frozenset({".ckpt", ".pt", ".pth", ".bin"})
WEIGHTS = "diffusion_pytorch_model"
"""What diffusers calls a component's weights."""
LARGEST_HEADER = 100_000_000
"""Bytes, as in the safetensors library."""
KINDS = {
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Kinds of number by their names in a header."""
EXPONENTS = {
    "F16": (np.uint16, 0x7FFF, 0x7C00), "BF16": (np.uint16, 0x7FFF, 0x7F80),
    "F32": (np.uint32, 0x7FFFFFFF, 0x7F800000),
}  # fmt: skip
"""The kinds that weights may be of. Of each: its bits as an integer, those without the sign, and the least
that is no finite number."""
PIECE = 1 << 19
"""Bytes of weights that are looked at together."""
MOST_NAMED = 4
"""Tensors of a sort that a refusal lists."""


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


def read_header(path: Path) -> dict[str, Stored]:
    """The header of a .safetensors file: of each tensor its kind, shape and place. Reads no tensor.

    Raises:
        UserError: The file is cut off, which is found by the size that its header states, or no such file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            if not 0 < header_size <= min(size - 8, LARGEST_HEADER):
                raise ValueError("its header is cut off")
            header = plain_json(file.read(header_size))
        header.pop("__metadata__", None)
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
    expected = max((tensor.end for tensor in stored.values()), default=start)
    if size != expected:
        raise UserError(
            f"{path}: incomplete, {size} bytes where its header states {expected}; copy it again"
        )
    try:
        with safe_open(path, framework="pt"):
            return stored
    except SafetensorError as error:  # offsets that overlap, leave holes or do not fit the shapes
        raise UserError(f"{path}: not a whole safetensors file ({error}); copy it again") from None


def read_headers(files: Sequence[Path]) -> dict[str, Stored]:
    """Every tensor's header. Raises a UserError as `read_header`."""
    return {name: stored for file in files for name, stored in read_header(file).items()}


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of one .safetensors file, by name.

    Raises:
        UserError: It is not there or not readable.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error


def rename_original(
    tensors: Mapping[str, Tensor],
    prefixes: Sequence[str],
    convert: Callable[[dict[str, Tensor], Mapping[str, Any]], dict[str, Tensor]],
    config: Mapping[str, Any],
) -> tuple[dict[str, Tensor], list[str]]:
    """One network out of a single file of latent-diffusion's original layout, in diffusers' names.

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
        UserError: Names or shapes differ, and those tensors are named, with both shapes; or one is not
            finite.
    """
    _refuse_differences(where, network.state_dict(), tensors, unexpected=unexpected)
    _refuse_non_finite(tensors.items(), where)
    network.load_state_dict(dict(tensors))


def check_tensors(
    network: nn.Module, stored: Mapping[str, Stored], folder: Path, *, whole: bool = True
) -> None:
    """Checks names, shapes and kinds of number of stored tensors against a network's own.

    Args:
        whole: The files must hold all of the network's tensors, and no others.

    Raises:
        UserError: Naming the tensors that differ.
    """
    own, found = network.state_dict(), dict(stored)
    rename: Any = getattr(network, "_fix_state_dict_keys_on_load", None)
    if rename is not None:
        rename(found)  # names of diffusers' first attention blocks
    _refuse_differences(str(folder), own, found, whole=whole, here="by config.json")
    for name in own.keys() & found.keys():
        kind, dtype = found[name].kind, own[name].dtype
        if dtype.is_floating_point:
            fits, wanted = kind in EXPONENTS, f"one of {', '.join(EXPONENTS)}"
        else:
            fits, wanted = KINDS.get(kind) == dtype, str(dtype).removeprefix("torch.")
        if not fits:
            raise UserError(
                f"{folder}: the tensor {name} is of the kind {kind:.20}, and this network's is {wanted}: "
                "the weights were converted for something else; take the original ones"
            )


def check_finite(stored: Mapping[str, Stored]) -> None:
    """Checks that no weight is NaN or infinite: by its exponent bits, in pieces that stay in a CPU's caches.

    Raises:
        UserError: Naming a tensor.
    """
    for file in {tensor.file for tensor in stored.values()}:
        content = np.memmap(file, np.uint8, "r")
        own = {name: tensor for name, tensor in stored.items() if tensor.file == file}
        # Tensors follow each other without holes, so a run of one kind is looked at as one.
        in_order = sorted(own.values(), key=lambda tensor: tensor.begin)
        for kind, tensors in groupby(in_order, key=lambda tensor: tensor.kind):
            run = list(tensors)
            if kind not in EXPONENTS:
                continue
            bits, all_but_sign, infinity = EXPONENTS[kind]
            for begin in range(run[0].begin, run[-1].end, PIECE):
                piece = content[begin : min(begin + PIECE, run[-1].end)].view(bits)
                if np.bitwise_and(piece, all_but_sign).max() >= infinity:
                    with safe_open(file, framework="pt") as opened:
                        _refuse_non_finite(((name, opened.get_tensor(name)) for name in own), file)


def _refuse_non_finite(tensors: Iterable[tuple[str, Tensor]], where: str | Path) -> None:
    """Refuses tensors of any shape with NaN or infinite numbers: a UserError that names the first one."""
    for name, tensor in tensors:
        # One pass and no memory; a sum can overflow, so that only what it finds is looked at closely.
        suspicious = tensor.is_floating_point() and not tensor.sum(dtype=torch.float32).isfinite()
        if suspicious and not tensor.isfinite().all():
            bad = int((~tensor.isfinite()).sum())
            raise UserError(
                f"{where}: {bad} of the {tensor.numel()} numbers of the tensor {name} are NaN or infinite: "
                "the weights are damaged, or their training failed; take other ones"
            )


def _refuse_differences(
    where: str,
    own: Mapping[str, Tensor],
    found: Mapping[str, Tensor] | Mapping[str, Stored],
    *,
    unexpected: Sequence[str] = (),
    whole: bool = True,
    here: str = "here",
) -> None:
    """Raises a UserError that counts and names the tensors that differ from the network's own, if any do."""
    problems = {
        "missing": sorted(own.keys() - found.keys()) if whole else [],
        "unexpected": sorted({*unexpected, *(found.keys() - own.keys())}) if whole else [],
        "of the wrong shape": [
            f"{name} {tuple(found[name].shape)} there, {tuple(own[name].shape)} {here}"
            for name in sorted(own.keys() & found.keys())
            if tuple(found[name].shape) != tuple(own[name].shape)
        ],
    }
    sentence = "; ".join(
        f"{len(names)} {what} ({', '.join(names[:MOST_NAMED])}{', ...' * (len(names) > MOST_NAMED)})"
        for what, names in problems.items()
        if names
    )
    if sentence:
        raise UserError(f"{where} does not fit the network it is for: tensors {sentence}.")
