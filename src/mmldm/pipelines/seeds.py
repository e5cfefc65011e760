"""Who each clip of a call is: its class and its seed.

names or indices, seeds or generators -> class labels (B,) long, one seed per clip.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmldm.errors import UserError
from mmldm.pipelines.settings import unknown

Labels = int | str | Sequence[int | str]
Seeds = int | Sequence[int]
SEEDS = 1 << 64
"""torch's generators know so many."""
GOLDEN = 0x9E3779B97F4A7C15
"""2**64 over the golden ratio: its multiples fill the circle of seeds as evenly as can be."""


def class_indices(labels: Labels | None, names: Sequence[str], count: int) -> Tensor | None:
    """Class names or indices, one or `count` of them -> (count,) long.

    Raises:
        UserError: A class is unknown, or the number of labels does not fit.
    """
    if labels is None:
        return None
    if not names:
        raise UserError("this model was trained without classes: leave class_labels out")
    one = isinstance(labels, str) or _whole(labels) is not None
    listed = [labels] * count if one else _listed(labels, "class_labels")
    if len(listed) != count:
        raise UserError(f"{len(listed)} class labels for {count} clips: give one, or one per clip")
    return torch.tensor([_class_index(label, names) for label in listed])


def _class_index(label: Any, names: Sequence[str]) -> int:
    """The index of a class given by name or index, or a UserError that lists those there are."""
    if isinstance(label, str) and label in names:
        return names.index(label)
    index = _whole(label)
    if index is not None and 0 <= index < len(names):
        return index
    raise unknown("class", label, names)


def spread_classes(seeds: Sequence[int], shares: Sequence[float]) -> Tensor:
    """A class for each seed, (B,) long: seeds in a row have classes by their shares, as evenly as can be.

    A joint clip has some class, whoever chooses it. A generator that is not told one chooses by what it has
    learnt of the noisiest latents, and that is uneven (docs/lab-notes.md).

    Args:
        shares: Of each class among the training clips.
    """
    places = torch.tensor([(seed * GOLDEN % SEEDS) / SEEDS for seed in seeds], dtype=torch.float64)
    ends = torch.tensor(shares, dtype=torch.float64).cumsum(0)
    return torch.searchsorted(ends / ends[-1], places, right=True).clamp_max(len(shares) - 1)


def check_shares(shares: Any, names: Sequence[str], where: str) -> None:
    """Checks that shares of classes are some: None, or a positive number for each.

    Raises:
        UserError: They are something else.
    """
    if shares is None:
        return
    numbers = isinstance(shares, list) and all(isinstance(x, int | float) and x > 0 for x in shares)
    if not numbers or len(shares) != len(names) or not np.isfinite(shares).all():
        raise UserError(f"{where} must be a positive number for each of the {len(names)} classes")


def clip_seeds(
    count: int,
    seed: Seeds | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
) -> list[int]:
    """One seed per clip.

    A seed s stands for s, s + 1, ... From generators, of any device, one seed per clip is drawn.

    Raises:
        UserError: Both are given, their number does not fit, or one is no integer from 0 to 2**64 - 1.
    """
    if seed is not None and generator is not None:
        raise UserError("give seed or generator, not both")
    if seed is not None:
        # One seed stands for consecutive ones, so that more clips are the same clips and some.
        first = _whole(seed)
        listed = _listed(seed, "seed") if first is None else [first + i for i in range(count)]
    elif generator is None or isinstance(generator, torch.Generator):
        listed = _draw(count, generator)
    else:
        listed = [_draw(1, one)[0] for one in generator]
    if len(listed) != count:
        raise UserError(f"{len(listed)} seeds or generators for {count} clips: give one per clip")
    return [_seed(value) for value in listed]


def _seed(value: Any) -> int:
    """A seed of torch's generators, or a UserError."""
    number = _whole(value)
    if number is None or not 0 <= number < SEEDS:
        raise UserError(f"a seed is an integer from 0 to 2**64 - 1, and {value!r:.80} is none")
    return number


def _draw(count: int, generator: torch.Generator | None) -> list[int]:
    """Seeds drawn from a generator, or from torch's global one."""
    device = None if generator is None else generator.device
    return torch.randint(2**62, (count,), generator=generator, device=device).tolist()


def _whole(value: Any) -> int | None:
    """Python's integer of an integer of Python, numpy or torch; None for all else, truth values too."""
    if isinstance(value, bool | np.bool_) or getattr(value, "dtype", None) == torch.bool:
        return None
    if isinstance(value, np.ndarray | Tensor) and value.ndim > 0:
        return None  # an array of one integer counts as a list of one
    try:
        return operator.index(value)
    except TypeError:
        return None


def _listed(values: Any, name: str) -> list[Any]:
    """A list of an argument's values, of which a string is one."""
    try:
        return list(values) if not isinstance(values, str) else [values]
    except TypeError:
        raise UserError(f"{name} {values!r:.80} is neither an integer nor a list") from None


def at_least_one(value: Any, name: str) -> int:
    """A positive integer of an argument, or a UserError that names it."""
    number = _whole(value)
    if number is None or number < 1:
        raise UserError(f"{name} must be at least 1, a whole number, not {value!r:.80}")
    return number
