"""A component's folder as a stranger may have made it, checked before a network is built from it.

config.json, .safetensors -> network, or a sentence. The config decides how much memory and time a network
takes. It is therefore held against the headers of the weights on the meta device, where a tensor takes no
memory. diffusers alone ignores unknown settings, fills missing tensors with random numbers and computes
with NaN.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_utils import no_init_weights
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from mmldm.errors import UserError, first_line
from mmldm.models.weights import (
    WEIGHTS,
    check_finite,
    check_tensors,
    read_headers,
    weight_files,
)
from mmldm.strict import did_you_mean, read_json

Classes = Mapping[str, type[Any]]
"""What a component may be: classes by the name that its config.json states."""
PRIVATE = frozenset({"_class_name", "_diffusers_version", "_name_or_path", "_use_default_values"})
"""What diffusers itself writes beside a network's settings."""
LARGEST_NUMBER = 1 << 20
"""Of a setting: wider than any layer, longer than any list of layers."""


def load_component(name: str | Path, classes: Classes, part: str, what: str) -> Any:
    """A network from a folder or a name on the Hugging Face hub, in eval mode, float32.

    Args:
        classes: What it may be.
        part: Sub-folder in which it may lie.
        what: The network, for the message.

    Raises:
        UserError: Nothing usable is there; the sentence says what is wrong.
    """
    config, subfolder = find_config(str(name), part, what)
    class_of(config, classes, str(name))
    folder = component_folder(str(name), subfolder)
    network_class = type(check_component(folder, classes))
    try:
        network = network_class.from_pretrained(
            str(folder), torch_dtype=torch.float32, use_safetensors=True, low_cpu_mem_usage=False
        )
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{name}: the {what} cannot be read: {first_line(error)}") from error
    return network.eval()


def refuse_other_build(
    pretrained: Any, fresh: Any, settings: Iterable[str], key: str, source: str | Path
) -> None:
    """Refuses a network to go on with that is built otherwise than the recipe's.

    Args:
        pretrained: With a `config`, as has
        fresh: The recipe's.
        settings: Names in these configs that must agree.
        key: Of the recipe, that names `source`.

    Raises:
        UserError: They differ.
    """
    own, wanted = (
        {name: json.dumps(model.config[name], sort_keys=True) for name in settings}
        for model in (pretrained, fresh)
    )
    if different := [name for name in own if own[name] != wanted[name]]:
        raise UserError(
            f"{key}: {source} differs from the recipe in {', '.join(different)}: take its recipe, or leave "
            "the key out"
        )


def find_config(name: str, part: str, what: str) -> tuple[dict[str, Any], str]:
    """config.json of a folder or hub name, at its root or in its sub-folder `part`.

    Args:
        what: The network looked for, for the message.

    Returns:
        The configuration, and the sub-folder it is in; "" is the root.

    Raises:
        UserError: There is none, or the hub did not give it.
    """
    path = Path(name)
    if path.is_dir():
        for subfolder in ("", part):
            if (path / subfolder / "config.json").is_file():
                return read_json(path / subfolder / "config.json", f"no {what}"), subfolder
        raise UserError(
            f"{name} holds no {what}: neither config.json nor {part}/config.json is there."
        )
    reason = ""
    for subfolder in ("", part):
        try:
            # Any class reads any component's file.
            return AutoencoderKL.load_config(name, subfolder=subfolder or None), subfolder
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
    raise UserError(
        f"'{name}' is neither a folder here nor a name for which the Hugging Face hub gave us "
        f"its {what} ({reason}). Give a folder, or download the model first."
    )


def component_folder(name: str, subfolder: str) -> Path:
    """The folder here, downloaded if need be, of a component that `find_config` found.

    Raises:
        UserError: The hub did not give it.
    """
    root = Path(name)
    return (root if root.is_dir() else download(name, [subfolder])) / subfolder


def download(name: str, parts: Sequence[str], **options: Any) -> Path:
    """A model of the Hugging Face hub as a folder here: settings and weights, never code.

    Args:
        parts: Sub-folders of components; "" is the root.
        options: Of `huggingface_hub.snapshot_download`.

    Raises:
        UserError: The hub did not give it.
    """
    # What may come is listed: a repository's code, pickles and other files are never asked for.
    files = (
        "config.json", "scheduler_config.json", f"{WEIGHTS}*.safetensors",
        f"{WEIGHTS}*.safetensors.index.json", "model.safetensors",
    )  # fmt: skip
    patterns = [f"{part}/{file}".lstrip("/") for part in parts for file in files]
    try:
        return Path(
            snapshot_download(name, allow_patterns=["model_index.json", *patterns], **options)
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{name}: the model cannot be loaded: {reason}") from error


def check_component(
    folder: Path,
    classes: Classes,
    *,
    variant: str | None = None,
    whole: bool = True,
) -> Any:
    """Checks that a folder holds a network that can be built and loaded as it stands.

    Args:
        variant: Of the weights' file names, as in diffusers.
        whole: The file must hold the network's tensors and no others.

    Returns:
        The network on the meta device, without numbers: its class and its config.

    Raises:
        UserError: A setting is unknown, too large or no number; the weights are missing, cut off, not those
            of this config, of another kind of number, or not finite.
    """
    # What it says it is: a class of ours, its settings known and of reasonable size.
    config = read_json(folder / "config.json", f"the component {folder.name!r} is missing")
    network_class = class_of(config, classes, str(folder))
    settings = check_settings(config, settings_of(network_class), folder / "config.json")
    if (folder / "model_index.json").exists():
        raise UserError(f"{folder}: holds a model_index.json, which belongs to whole models alone")

    # What its weights hold, by their headers alone.
    stored = read_headers(weight_files(folder, variant))

    # Both agree, shown by a network that takes no memory, and every number is one.
    build = partial(network_class.from_config, settings)
    network = on_meta(build, folder / "config.json", len(stored))
    check_tensors(network, stored, folder, whole=whole)
    check_finite(stored)
    return network


def class_of(config: Mapping[str, Any], classes: Classes, where: str) -> type[Any]:
    """The class that a config names.

    Raises:
        UserError: It is none of these.
    """
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in classes:
        raise UserError(
            f"{where}: config.json describes {name!r:.80}, which is none of {', '.join(classes)}"
        )
    return classes[name]


def settings_of(network_class: Callable[..., Any]) -> frozenset[str]:
    """Names of a class's settings."""
    # `register_to_config` keeps the constructor's signature.
    parameters = inspect.signature(network_class).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)


def check_settings(
    config: Mapping[str, Any], known: Set[str], path: Path, private: frozenset[str] = PRIVATE
) -> dict[str, Any]:
    """Checks that all settings are known, and that no number in them is out of all proportion.

    Returns:
        The settings alone.

    Raises:
        UserError: Naming the setting.
    """
    settings = {name: value for name, value in config.items() if name not in private}
    for name, value in settings.items():
        if name not in known:
            raise UserError(
                f"{path}: unknown setting {name!r:.80}{did_you_mean(name, sorted(known))}"
            )
        if (number := max(map(abs, _numbers(value)), default=0)) > LARGEST_NUMBER:
            raise UserError(
                f"{path}: {name} {number:.6g} is too large: no setting is above {LARGEST_NUMBER}"
            )
    return settings


def on_meta(build: Callable[[], nn.Module], where: str | Path, stored: int) -> nn.Module:
    """A network without memory for its tensors.

    Args:
        build: Makes it.
        stored: Tensors of its weights; the building of far more than these is stopped.

    Raises:
        UserError: The settings describe no network, or one of far more tensors.
    """
    try:
        # Twice the stored tensors: a network may hold some that it does not store, but not a million layers.
        with no_init_weights(), torch.device("meta"), _at_most(2 * stored + 64):
            return build()
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    # Whatever a stranger's settings make a constructor raise.
    except (
        ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError,
        ValueError,
    ) as error:  # fmt: skip
        raise UserError(f"{where}: describes no network: {' '.join(str(error).split())}") from error


@contextmanager
def _at_most(most: int) -> Iterator[None]:
    """Stops building a network at so many parameters."""
    left = most

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise UserError("describes a network of far more tensors than its weights hold")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in a JSON value, however deep."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _numbers(inner)
    elif isinstance(value, int | float):
        yield value
