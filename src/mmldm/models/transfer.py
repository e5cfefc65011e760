"""Weights of a finished network as the start of another, whose sizes or classes may differ.

network, finished network -> the network with that one's tensors, `Transfer`. What has the same name and shape
is taken. What lies on a grid of places or times is resized, rows that belong to classes go by the classes'
names, and what is left stays as it was built. Tables that are computed, such as sin-cos positions, are no
weights: the network has its own. Positional tables are resized as Dosovitskiy et al. 2020 (ViT, §3.2) do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmldm.errors import UserError
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.generator import JointGenerator

Rule = Callable[[Tensor, Tensor], Tensor]
"""(theirs, ours) of one name -> what ours becomes."""
MOST_NAMED = 3
"""Tensors of a sort that the sentence lists."""
CLASS_HEAD = r"classifier\.out\.2\.(weight|bias)"
"""Of an autoencoder: a row for each class."""


@dataclass
class Transfer:
    """What became of every tensor.

    Attributes:
        what: The network.
        source: Where the tensors are from.
        taken: As they were.
        resized: Name -> shapes there and here.
        by_class: Of rows that belong to classes.
        new: The network's own, as they were built.
        left: The source's, without a place here.
    """

    what: str
    source: str
    taken: list[str] = field(default_factory=list)
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    by_class: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        resized = [f"{name} {_times(a)} -> {_times(b)}" for name, (a, b) in self.resized.items()]
        parts = [f"{len(self.taken)} tensors taken"]
        for names, what in (
            (resized, "resized"), (self.by_class, "by class name"), (self.new, "new"),
            (self.left, "left behind"),
        ):  # fmt: skip
            if names:
                more = ", ..." * (len(names) > MOST_NAMED)
                parts.append(f"{len(names)} {what} ({', '.join(names[:MOST_NAMED])}{more})")
        return f"{self.what} from {self.source}: {', '.join(parts)}"


@dataclass(frozen=True)
class ClassMatch:
    """Classes of a finished model and of these clips, matched by name.

    Attributes:
        there: The model's, in the order of their rows.
        here: The clips', likewise; fewer than two count as none.
    """

    there: Sequence[str]
    here: Sequence[str]

    def rows(self, theirs: Tensor, ours: Tensor) -> Tensor:
        """Rows (K,...) of classes there -> (K',...) of those here; of a new class, the row of `ours`."""
        rows = ours.clone()
        for number, name in enumerate(self.here[: len(ours)]):
            if name in self.there:
                rows[number] = theirs[list(self.there).index(name)]
        return rows

    def __str__(self) -> str:
        def listed(names: list[str]) -> str:
            return ", ".join(names) or "none"

        known = [name for name in self.here if name in self.there]
        fresh = [name for name in self.here if name not in self.there]
        gone = [name for name in self.there if name not in self.here]
        return (
            f"classes: known to the model {listed(known)}; new {listed(fresh)}; the model's without clips "
            f"here, left behind {listed(gone)}"
        )


def transfer(
    network: nn.Module,
    theirs: nn.Module,
    what: str,
    source: str,
    rules: Mapping[str, Rule] | None = None,
    class_rules: Mapping[str, Rule] | None = None,
) -> Transfer:
    """Loads a finished network's tensors, of any shapes, into another.

    Args:
        network: Receives them; what has no counterpart stays.
        theirs: The finished one.
        rules: Patterns of names -> how such a tensor is resized if its shape differs.
        class_rules: Patterns of names -> how such a tensor's rows are matched, whatever its shape.

    Raises:
        UserError: A shape differs for which there is no rule.
    """
    report = Transfer(what, source)
    own, found = network.state_dict(), theirs.state_dict()
    made: dict[str, Tensor] = {}
    for name, tensor in own.items():
        if name not in found or not _same_kind(network, theirs, name):
            report.new.append(name)
        elif (match := _rule(name, class_rules)) is not None:
            made[name] = match(found[name], tensor)
            report.by_class.append(name)
        elif found[name].shape == tensor.shape:
            made[name] = found[name]
            report.taken.append(name)
        elif (resize := _rule(name, rules)) is not None:
            made[name] = resize(found[name], tensor)
            report.resized[name] = (tuple(found[name].shape), tuple(tensor.shape))
        else:
            raise UserError(
                f"{what}: the tensor {name} of {source} is {_times(found[name].shape)}, and this recipe's is "
                f"{_times(tensor.shape)}: leave the section {what}.model as the model has it"
            )
    report.left = [name for name in found if name not in made]
    network.load_state_dict({**own, **made})
    return report


def transfer_autoencoder(
    network: MultiModalAutoencoder, theirs: MultiModalAutoencoder, source: str, classes: ClassMatch
) -> Transfer:
    """An autoencoder from one of other picture sizes, lengths or classes."""
    modality = r"\.(audio|video)\."
    rules: dict[str, Rule] = {
        # A head reads all cells of an image latent at once: its kernel has a weight for each place.
        rf"encoders{modality}(mean|logvar)\.weight": _read_kernel,
        rf"adapters{modality}positions\.\d+": _resized,
    }
    # An adapter writes places by transposed convolutions, and reads them by others.
    for name, module in network.named_modules():
        if re.fullmatch(rf"adapters{modality}expand\.\d+\.\d+", name):
            reads = isinstance(module, nn.Conv2d)
            rules[rf"{re.escape(name)}\.weight"] = _read_kernel if reads else _resized

    def tokens(table: Tensor, ours: Tensor) -> Tensor:
        """Tokens (K,D) of the classes -> (K',D); a new class has the mean one."""
        return classes.rows(table, table.mean(0, keepdim=True).expand_as(ours))

    by_class: dict[str, Rule] = {r"class_tokens\.weight": tokens, CLASS_HEAD: classes.rows}
    return transfer(network, theirs, "autoencoder", source, rules, by_class)


def transfer_generator(
    network: JointGenerator, theirs: JointGenerator, source: str, classes: ClassMatch
) -> Transfer:
    """A generator from one of other lengths or classes. A new class starts as no class does."""

    def tokens(name: str) -> Rule:
        """A stream's learned places (N,D), on their grid (T',H',W')."""
        there, here = (getattr(model, name).shape[1:] for model in (theirs, network))

        def resize(table: Tensor, ours: Tensor) -> Tensor:
            """(N,D) -> (N',D)."""
            grid = table.T.unflatten(1, there)[None]
            return F.interpolate(grid, here, mode="trilinear")[0].flatten(1).T

        return resize

    def embeddings(table: Tensor, ours: Tensor) -> Tensor:
        """Rows (K+1,D) of the classes, the last one for none -> (K'+1,D)."""
        return classes.rows(table, table[-1:].expand_as(ours))

    rules = {rf"{name}\.token_embedding": tokens(name) for name in ("audio", "video")}
    report = transfer(
        network, theirs, "generator", source, rules, {r"class_embedding\.weight": embeddings}
    )
    # Every block reads the sum of time and class. Where one side has no classes, no class is in the time.
    with torch.no_grad():
        if network.class_embedding is None and theirs.class_embedding is not None:
            bias = network.time_embedding.mlp.get_parameter("2.bias")
            bias.data += theirs.class_embedding.weight[-1]
        elif network.class_embedding is not None and theirs.class_embedding is None:
            network.class_embedding.weight.zero_()
    return report


def _same_kind(network: nn.Module, theirs: nn.Module, name: str) -> bool:
    """Whether both networks have the same kind of layer where a tensor is."""
    path = name.rpartition(".")[0]
    try:
        return type(network.get_submodule(path)) is type(theirs.get_submodule(path))
    except AttributeError:
        return False


def _rule(name: str, rules: Mapping[str, Rule] | None) -> Rule | None:
    return next(
        (rule for pattern, rule in (rules or {}).items() if re.fullmatch(pattern, name)), None
    )


def _resized(theirs: Tensor, ours: Tensor) -> Tensor:
    """Values on places, (...,h,w) -> (...,h',w') of `ours`: between two places, what lies between."""
    places = theirs.flatten(0, -3)[None]
    size = (ours.shape[-2], ours.shape[-1])
    between = F.interpolate(places, size, mode="bilinear", antialias=True)
    return between[0].unflatten(0, theirs.shape[:-2])


def _read_kernel(theirs: Tensor, ours: Tensor) -> Tensor:
    """Weights on places that are summed, (o,i,h,w) -> (o,i,h',w'): the sum over all places stays."""
    share = theirs[0, 0].numel() / ours[0, 0].numel()
    between = _resized(theirs, ours)
    # At the rims a table counts more than between them, so its mean is put right.
    drift = theirs.mean((2, 3), keepdim=True) - between.mean((2, 3), keepdim=True)
    return (between + drift) * share


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
