"""What goes wrong in a job without ending it, counted and named: withheld updates, clips that cannot be read.

on-device flags, failures of every process -> sentences and numbers for the report. The device is asked, and
the processes talk, only when something is reported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmldm.data.loader import refuse_many
from mmldm.training.distributed import Process
from mmldm.training.stage import Stage

MAX_BAD_STEPS = 10
"""Withheld updates in a row after which a run is stopped."""
REMEMBERED = 4
"""Withheld steps whose numbers are kept between two reports."""
NAMED = 64
"""At most so many clips of a step are named."""


@dataclass(frozen=True)
class Counts:
    """Withheld updates: now in a row, most in a row since the last report, in all."""

    in_a_row: int
    most: int
    total: int


def means_of(terms: Mapping[str, list[Tensor]], process: Process) -> dict[str, float]:
    """Mean of each term over its finite values () and over processes; one transfer for all."""
    if not terms:
        return {}
    values = [torch.stack(steps) for steps in terms.values()]
    means = torch.stack([v.where(v.isfinite(), torch.nan).nanmean() for v in values])
    return dict(zip(terms, process.mean(means).tolist(), strict=True))


def untold(window: Mapping[str, Sequence[float]], device: torch.device) -> dict[str, list[Tensor]]:
    """Terms () of the steps since the last report, by name, as a checkpoint has them."""
    return {
        name: list(torch.tensor(values, device=device).unbind()) for name, values in window.items()
    }


class Withheld:
    """Updates that were withheld because a loss or gradient was not finite.

    Args:
        device: Where counts and numbers stay until they are read.
    """

    def __init__(self, device: torch.device) -> None:
        self._counts = torch.zeros(3, dtype=torch.int64, device=device)
        self._steps = torch.zeros(REMEMBERED, dtype=torch.int64, device=device)
        self._places = torch.arange(REMEMBERED, device=device)
        self._told = 0

    def update(self, bad: Tensor, step: int) -> None:
        """Counts a step; nothing waits for the device.

        Args:
            bad: Whether its update was withheld, () bool.
            step: Completed with it.
        """
        # All on the device and without a branch: an `if` would wait for it.
        in_a_row, most, total = self._counts.unbind()
        # The first free place, if the step is bad and there is one; else no place.
        here = (self._places == total - self._told) & bad
        self._steps = torch.where(here, step, self._steps)
        in_a_row = (in_a_row + 1) * bad
        self._counts = torch.stack([in_a_row, torch.maximum(most, in_a_row), total + bad])

    def read(self) -> Counts:
        """The counts, from the device."""
        counts = Counts(*self._counts.tolist())
        # The next report counts from here: a row of bad steps that goes on is not forgotten.
        self._counts[1] = counts.in_a_row
        return counts

    def tell(self, counts: Counts, step: int, clips_of: Callable[[int], Sequence[str]]) -> str:
        """A sentence about what was withheld since the last one; "" where nothing was.

        Args:
            counts: Just read.
            step: Now.
            clips_of: The clips of the step after so many completed ones.
        """
        count = counts.total - self._told
        if not count:
            return ""
        # The slice is shorter than the count where more steps were bad than are remembered.
        steps = self._steps[:count].tolist()
        self._told = counts.total
        named = [f"in step {number} with {_listed(clips_of(number - 1))}" for number in steps]
        if count > len(named):
            named.append(f"and in {count - len(named)} more")
        return (
            f"{count} update(s) withheld before step {step}: the loss or a gradient was not finite, "
            + "; ".join(named)
        )

    def state(self) -> dict[str, Any]:
        """JSON values for a checkpoint."""
        total = self.read().total
        steps = self._steps[: total - self._told].tolist()
        return {"skipped_updates": total, "withheld": {"told": self._told, "steps": steps}}

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint: what was not told yet will be; bad steps in a row are counted anew."""
        self._counts[2] = total = state["skipped_updates"]
        # Earlier versions kept the count alone.
        untold = state.get("withheld", {"told": total, "steps": []})
        self._told = untold["told"]
        self._steps[: len(untold["steps"])] = torch.tensor(untold["steps"], dtype=torch.int64)


def gone_wrong(job: str, step: int, counts: Counts, last: Sequence[int]) -> str:
    """Why a job is ended that has gone wrong for good.

    Args:
        step: Now.
        last: Step of its last checkpoint, if there is one.
    """
    return (
        f"{job}: loss or gradients were not finite for {counts.most} steps in a row "
        f"before step {step} (now {counts.in_a_row}); the weights were left alone. "
        f"Last checkpoint: {f'step {last[0]}' if last else 'none'}. "
        "Lower the learning rate or clip_norm, or look at the data."
    )


def _listed(clips: Sequence[str]) -> str:
    unlike = list(dict.fromkeys(clips))
    more = f" and {len(unlike) - NAMED} more" if len(unlike) > NAMED else ""
    return ", ".join(unlike[:NAMED]) + more


class Unreadable:
    """Files that could not be read, of all processes.

    Args:
        stage: Its `failures` receive those of the others.
    """

    def __init__(self, stage: Stage, process: Process) -> None:
        self._stage, self._process = stage, process
        self._shared: set[str] = set()

    def gather(self) -> list[str]:
        """A sentence for every file; a collective call.

        Raises:
            UserError: More than a fifth of the files cannot be read.
        """
        failures = self._stage.failures
        if self._stage.files:
            # What the others sent before is known to all already.
            own = {file: why for file, why in failures.items() if file not in self._shared}
            for text in self._process.texts(json.dumps(own)):
                failures.update(json.loads(text))
            self._shared = set(failures)
            if failures:
                self._process.on_main(lambda: refuse_many(failures, self._stage.files))
        return [
            f"cannot read {file}: {reason}; another clip stands in"
            for file, reason in failures.items()
        ]

    def held_out(self) -> list[str]:
        """A sentence for every held-out file that validation and previews go without."""
        return [
            f"cannot read {file}: {reason}; it is held out, and is left out of what is validated"
            for file, reason in self._stage.held_out_failures.items()
        ]
