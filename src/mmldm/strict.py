"""Strict reading of settings: what is unknown, missing or of the wrong type is named with its path.

YAML or JSON text -> plain values -> pydantic model, or keyword arguments checked against a signature.
"""

from __future__ import annotations

import difflib
import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from mmldm.errors import UserError, first_line

Model = TypeVar("Model", bound=BaseModel)

LARGEST_JSON = 1 << 20
"""Bytes of a JSON file of settings; ours have some thousands."""
DEEPEST_JSON = 32
"""Lists and objects within each other; ours have five."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as people mean it: 1e-4 is a number, dates stay text, a key stands once."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    "-+0123456789",
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    # PyYAML's own lets the last of two equal keys win, in silence.
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for position, key in enumerate(keys):
        if key in keys[:position]:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} stands twice", node.value[position][0].start_mark
            )
    return {
        str(key): loader.construct_object(value, deep=True)
        for key, (_, value) in zip(keys, node.value, strict=True)
    }


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse(model: type[Model], data: Any, where: str, changes: Sequence[str] = ()) -> Model:
    """Builds a section from plain values.

    Args:
        model: The section's class.
        data: What YAML or JSON held.
        where: File or key that the error message starts with.
        changes: `a.b=value`, applied to the values, in place, before they are checked.

    Raises:
        UserError: Naming each offending key with its path, and the nearest known key.
    """
    for change in changes:
        override(data, change)
    # From JSON, a strict model takes a list for a tuple, and still no text for a number.
    try:
        return model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        lines = explained(model, error)
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from None


def explained(model: type[BaseModel], error: ValidationError) -> list[str]:
    """A sentence for each thing that pydantic finds wrong with values of a model."""
    return [_explain(model, problem) for problem in error.errors(include_url=False)]


def bind(
    section: Mapping[str, Any],
    constructor: Callable[..., Any],
    where: str,
    **given: Any,
) -> dict[str, Any]:
    """Checks a model section against the signature of what it will build.

    Args:
        section: Keyword arguments from the recipe.
        constructor: Class or function that takes them.
        where: The section's key, for the message.
        **given: Arguments that the job derives itself; the section may not repeat them.

    Returns:
        All keyword arguments for `constructor`.

    Raises:
        UserError: A key is unknown, missing, or not the recipe's to set.
    """
    # What the section says has to be known, and the recipe's to say.
    parameters = inspect.signature(constructor).parameters
    names = [name for name in parameters if name not in given]
    for key in section:
        if key in given:
            raise UserError(f"{where}.{key}: derived from the rest of the recipe, remove it")
        if key not in names:
            raise UserError(f"{where}.{key}: unknown key{did_you_mean(key, names)}")
    # What it does not say has to have a default.
    for name in names:
        parameter = parameters[name]
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.default is parameter.empty and not variadic and name not in section:
            raise UserError(f"{where}.{name}: missing key")
    return {**section, **given}


def read_yaml(text: str, where: str) -> Any:
    """Plain values of a YAML text.

    Raises:
        UserError: It is not YAML, or holds what JSON cannot.
    """
    loader = _Loader(text)
    try:
        # Through JSON, which parts what YAML aliases share: one `--set` must not change two
        # sections.
        return json.loads(json.dumps(loader.get_single_data()))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()


def read_json(path: Path, missing: str) -> dict[str, Any]:
    """The object in a JSON file that a stranger may have written.

    Args:
        missing: What the file's absence means, for the message.

    Raises:
        UserError: It is not there, not readable, larger than settings are, or what `plain_json` refuses.
    """
    try:
        # Before it is read: a stranger's file may be larger than the memory.
        if path.stat().st_size > LARGEST_JSON:
            raise UserError(f"{path}: larger than {LARGEST_JSON} bytes, which no settings are")
        content = plain_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent}: {missing} (no {path.name})") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return content


def plain_json(text: str | bytes) -> Any:
    """JSON of finite numbers, not deeper than `DEEPEST_JSON`.

    Raises:
        ValueError: It is not; the message says what was met.
    """
    try:
        content = json.loads(text, parse_constant=_refuse_number, parse_float=_finite)
        depth = _depth(content)
    except RecursionError:
        depth = DEEPEST_JSON + 1
    if depth > DEEPEST_JSON:
        raise ValueError("nested too deeply")
    return content


def _depth(value: Any) -> int:
    """How many lists and objects lie around the innermost value; an empty one counts as a value."""
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, inner), default=-1)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_number(text)


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")


def override(data: dict[str, Any], change: str) -> None:
    """Applies one `a.b=value` change to a recipe's plain values, in place; the value is YAML.

    Raises:
        UserError: It is not of that form, or passes through a value.
    """
    key, equals, text = change.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise UserError(f"--set {change}: write it as section.key=value")
    section = data
    for name in path[:-1]:
        if section.get(name) is None:
            section[name] = {}
        section = section[name]
        if not isinstance(section, dict):
            raise UserError(f"--set {change}: {name} is a value, not a section")
    section[path[-1]] = read_yaml(text, f"--set {change}")


def _explain(model: type[BaseModel], problem: Mapping[str, Any]) -> str:
    # Our own words for the two commonest mistakes, pydantic's shortened for the others.
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        section = _section(model, path[:-1])
        known = list(section.model_fields) if section else []
        elsewhere = [] if path[-1] in known else list(_keys(model))
        return f"{key}: unknown key{did_you_mean(path[-1], known, elsewhere)}"
    if problem["type"] == "missing":
        return f"{key}: missing key"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if problem["type"] in ("value_error", "json_invalid"):
        return f"{key}: {message}" if key else message
    return f"{key}: {problem['input']!r} is wrong, expected {message}"


def _section(model: type[BaseModel], path: Iterable[str]) -> type[BaseModel] | None:
    """The class of the section at a path, None where a plain value is."""
    for name in path:
        field = model.model_fields.get(name)
        if field is None:
            return None
        # Of `VocoderConfig | None`, the section is one of the alternatives.
        kinds = getattr(field.annotation, "__args__", (field.annotation,))
        sections = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if not sections:
            return None
        model = sections[0]
    return model


def _keys(model: type[BaseModel], prefix: str = "") -> Iterable[str]:
    """Paths of all keys of a recipe, sections included."""
    for name in model.model_fields:
        yield prefix + name
        section = _section(model, [name])
        if section is not None:
            yield from _keys(section, f"{prefix}{name}.")


def did_you_mean(key: str, known: Sequence[str], elsewhere: Sequence[str] = ()) -> str:
    """The end of a sentence about an unknown key: the one that was probably meant, or all there are."""
    # `lr_warmup` is nearer to `warmup_steps` than letters alone would say: they share a word.
    words = set(key.split("_"))
    related = [name for name in known if words & set(name.split("_"))]
    close = difflib.get_close_matches(key, related or known, n=1, cutoff=0.5)
    homes = [path for path in elsewhere if path.rpartition(".")[2] == key]
    if homes:
        return f"; it belongs to {' or '.join(homes)}"
    return f", did you mean {close[0]}?" if close else f"; known here: {', '.join(known) or 'none'}"
