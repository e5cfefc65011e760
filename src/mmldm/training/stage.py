"""What a training job must say about itself; the loop knows nothing else.

stage.batches -> batch (rows, ...) -> turn module -> {"loss": (), term: ()} -> loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from mmldm.training.randomness import StepRandom


class Stage(Protocol):
    """One job: `vae`, `autoencoder`, `generator`, `vocoder`, or a student of `mmldm distill`.

    A turn is one optimiser's share of a step. Its module's `forward(batch, random: StepRandom)`
    returns a dict of 0-d tensors, means over its rows, among them "loss", which is minimised; the
    others are logged. The module's trainable parameters are the turn's: what it only uses (a frozen
    codec, the other turn's network) must not be registered as a submodule, or must not require
    gradients. While one turn runs, the parameters of the others do not require gradients. With
    several processes every trainable parameter must take part in its turn's loss in every step.

    A batch is a nest of dicts and `AV`s of tensors whose first dimension is the rows. Turns run one
    after the other, each over all accumulated passes; what a turn keeps for the next belongs to
    `random.micro`.

    Networks are compiled, where the recipe asks, by the stage: a turn's forward is not compilable
    as a whole, because it takes a new `StepRandom` each time.

    Attributes:
        name: Name of the job.
        turns: Turn name -> module, in the order they run; at least "model".
        learning_rates: Turn name -> peak learning rate where it is not the recipe's; may be empty.
        ema_modules: Name -> module whose trainable weights are averaged.
        files: Clips that training reads from disk; 0: none, it reads caches.
        failures: Those that could not be read so far -> reason. Each process has its own, and is told
            the others' when the loop reports.
        held_out_failures: The same of clips that are validated and shown, on rank 0.
    """

    name: str
    turns: dict[str, nn.Module]
    learning_rates: Mapping[str, float]
    ema_modules: dict[str, nn.Module]

    @property
    def files(self) -> int: ...

    @property
    def failures(self) -> dict[str, str]: ...

    @property
    def held_out_failures(self) -> Mapping[str, str]: ...

    def active_turns(self, step: int) -> tuple[str, ...]:
        """Turns that run in the step after `step` completed ones."""

    def batches(self, start_step: int, rank: int, world: int) -> Iterator[Any]:
        """Endless batches from `start_step` on: this process's rows, nested dicts of tensors."""

    def clips_of(self, step: int) -> list[str]:
        """Where the rows of the global batch after `step` completed steps came from: names of clips."""

    def validate(self, random: StepRandom) -> dict[str, float]:
        """Held-out numbers, with averaged weights; the same draws each time. Rank 0 only."""

    def preview(self, folder: Path, step: int) -> None:
        """Writes something to look at and listen to. Rank 0 only."""

    def export(self, folder: Path) -> None:
        """Writes the model, averaged weights in place, as the folder that a user loads."""

    def fingerprint(self) -> dict[str, Any]:
        """JSON values of everything that a resumed run must share: data, schedule, architecture."""
