"""Opens a model folder, or says what is wrong with it.

folder -> checked folder. Weights are safetensors only; classes come from diffusers and this
package only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mmldm.errors import UserError


def check_model_folder(
    folder: Path, components: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, set[str]]:
    """Checks that a folder holds these components, readable and of classes we know.

    Args:
        optional: Components that the folder may lack.

    Returns:
        The names of the stored tensors of each network.

    Raises:
        UserError: Names what is missing or foreign.
    """
    index = _read_json(folder / "model_index.json", "not a saved model")
    tensors: dict[str, set[str]] = {}
    for name in components:
        entry = index.get(name)
        if name in optional and entry in (None, [None, None]):
            continue
        if not isinstance(entry, list) or len(entry) != 2:
            raise UserError(f"{folder}: model_index.json does not name the component {name!r}")
        library = str(entry[0])
        # The index chooses what is imported: a foreign folder must not name any installed module.
        if library != "diffusers" and not library.startswith("mmldm.models."):
            raise UserError(f"{folder}: component {name!r} is of the unknown library {library!r}")
        part = folder / name
        if name.endswith("scheduler"):
            _read_json(part / "scheduler_config.json", f"the component {name!r} is missing")
            continue
        _read_json(part / "config.json", f"the component {name!r} is missing")
        weights = sorted(part.glob("*.safetensors"))
        if not weights:
            raise UserError(f"{folder}: the weights of {name!r} are missing (no .safetensors file)")
        tensors[name] = set().union(*map(_tensor_names, weights))
    return tensors


def check_parts(components: Mapping[str, Any], class_names: Sequence[str]) -> None:
    """Checks that the autoencoder, the generator and its student belong together.

    Raises:
        UserError: They model other latents, or another number of classes than there are names.
    """
    shapes = components["autoencoder"].latent_shapes
    for name in ("generator", "student"):
        part = components[name]
        if part is None:
            continue
        if part.latent_shapes != shapes:
            raise UserError(
                f"the {name} models latents {tuple(part.latent_shapes)}, but the autoencoder makes "
                f"{tuple(shapes)}: they do not belong together"
            )
        if len(class_names) != part.null_class:
            raise UserError(
                f"{len(class_names)} class names for the {name}'s {part.null_class} classes"
            )


def check_tensors(folder: str, component: str, stored: set[str], network: nn.Module) -> None:
    """Checks that every tensor of a loaded network came from its file, and every one was used.

    diffusers fills a missing tensor with random numbers and goes on.

    Raises:
        UserError: The weights are those of another architecture.
    """
    expected = set(network.state_dict())
    for problem, names in (("lacks", expected - stored), ("has in excess", stored - expected)):
        if names:
            raise UserError(
                f"{folder}: the weights of {component!r} do not fit its config.json: the file "
                f"{problem} {len(names)} tensors, for example {min(names)!r}"
            )


def _read_json(path: Path, problem: str) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent}: {problem} (no {path.name})") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return content


def _tensor_names(path: Path) -> set[str]:
    """The header's names; a truncated file is found by the size that the header states."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            if not 0 < header_size <= size - 8:
                raise ValueError("its header is cut off")
            header = json.loads(file.read(header_size))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); copy it again") from None
    expected = 8 + header_size + end
    if size != expected:
        raise UserError(
            f"{path}: incomplete, {size} bytes where its header states {expected}; copy it again"
        )
    return set(header)
