"""Batches in an order that is a function of (seed, step): no state, so nothing to save or restore.

(seed, step) -> positions (epoch, index) -> dataset[position] -> item -> batch: the items' tensors, stacked.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset, default_collate

from mmldm.errors import UserError

Position = tuple[int, int]
"""(epoch, index): which item of the dataset, and for which time."""

MAX_FAILED_SHARE = 0.2
MAX_ATTEMPTS = 20
MAX_SECONDS = 300
"""How long a batch may take to load before the loading process counts as stuck."""


@dataclass(frozen=True)
class Failed:
    """In an item's place: a file that could not be read, and why."""

    file: str
    reason: str


class IndexedDataset(Protocol):
    """A map-style dataset whose item depends on (epoch, index) and on nothing else."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: Position) -> Any:
        """A nest of dicts and (named) tuples of tensors and numbers, or `Failed`."""

    def file(self, index: int) -> str:
        """The name that `Failed` would have for an item."""


def order(seed: int, length: int, batch_size: int, step: int) -> list[int]:
    """The indices of a step's global batch.

    Each epoch is a fresh permutation; epochs follow each other without a gap, so a batch may
    straddle two.

    Args:
        seed: Chooses the permutations.
        length: Items in the dataset.
        batch_size: Rows of the global batch.
        step: Steps completed before this one.
    """
    return [index for _, index in _positions(seed, length, batch_size, step)]


class IndexedLoader:
    """Iterates over endless batches, the same for any number of workers, from any step.

    A row that cannot be read is replaced by another, chosen by (seed, epoch, index, attempt), and
    listed in `failures`; nothing is replaced silently. Of several processes each knows its own
    failures alone, so that whether there are too many is theirs to find out together (`refuse_many`).

    Args:
        dataset: Where items come from.
        batch_size: Rows of the global batch.
        seed: Chooses the order.
        start_step: Steps completed before the first batch.
        rank: This process; its rows are the rank-th contiguous slice.
        world: Processes in all; divides `batch_size`.
        workers: Loading processes; 0: this one.

    Attributes:
        failures: File -> reason, for the files that could not be read so far.

    Raises:
        UserError: The dataset is empty; or, while iterating, no clip is found that stands in for
            another, or, in a single process, more than a fifth of its files fail.
    """

    def __init__(
        self,
        dataset: IndexedDataset,
        *,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
    ) -> None:
        if len(dataset) == 0:
            raise UserError("there is nothing to train on: no usable clip in the training split")
        self.failures: dict[str, str] = {}
        self._dataset, self._seed = dataset, seed
        self._batch_size, self._start_step = batch_size, start_step
        # The rows of a global batch are dealt out in contiguous slices.
        local = batch_size // world
        self._rows = slice(rank * local, (rank + 1) * local)
        self._alone = world == 1
        self._workers = workers

    def __iter__(self) -> Iterator[Any]:
        loader: DataLoader[Any] = DataLoader(
            _WithStandIns(self._dataset, self._seed),
            batch_sampler=self._own_positions(),
            num_workers=self._workers,
            collate_fn=_collate,
            worker_init_fn=_leave_stopping_to_the_parent,
            timeout=MAX_SECONDS if self._workers else 0,
        )
        # What fails is counted here, in the parent: a worker knows only its own rows.
        loaded = iter(loader)
        while True:
            try:
                batch, failures = next(loaded)
            except RuntimeError as error:
                # torch's own words for a worker that died or hangs; an error of the dataset's is
                # not ours.
                if not str(error).startswith("DataLoader"):
                    raise
                raise UserError(
                    f"a loading process was lost ({error}): look for a clip that the decoder "
                    "cannot survive, or for too little memory, or use fewer workers"
                ) from error
            # Too many failures end the run: here where this process is alone, else where all report.
            self.failures.update({failed.file: failed.reason for failed in failures})
            if self._alone or batch is None:
                refuse_many(self.failures, len(self._dataset))
            if batch is None:
                raise UserError(
                    f"no clip of {MAX_ATTEMPTS} that might stand in for another could be read; "
                    "check the folder and scan it again"
                )
            yield batch

    def positions(self, step: int) -> list[Position]:
        """The rows of a step's global batch as they were read: stand-ins in the place of known failures.

        Args:
            step: Steps completed before it.
        """

        def as_read(wanted: Position) -> Position:
            for position in _attempts(self._seed, len(self._dataset), wanted):
                if self._dataset.file(position[1]) not in self.failures:
                    return position
            return wanted

        return [as_read(wanted) for wanted in self._positions(step)]

    def _positions(self, step: int) -> list[Position]:
        return _positions(self._seed, len(self._dataset), self._batch_size, step)

    def _own_positions(self) -> Iterator[list[Position]]:
        """This process's rows of every step."""
        for step in itertools.count(self._start_step):
            yield self._positions(step)[self._rows]


def refuse_many(failures: Mapping[str, str], files: int) -> None:
    """Ends a run that has lost too many of its clips.

    Args:
        failures: File -> reason.
        files: How many there are.

    Raises:
        UserError: It has lost more than a fifth.
    """
    if len(failures) > MAX_FAILED_SHARE * files:
        file, reason = next(iter(failures.items()))
        raise UserError(
            f"{len(failures)} of {files} clips cannot be read any more, "
            f"for example {file}: {reason}; check the folder and scan it again"
        )


class _WithStandIns(Dataset[Any]):
    """Adds to each item the failures on the way to it; runs in the workers."""

    def __init__(self, dataset: IndexedDataset, seed: int) -> None:
        self._dataset = dataset
        self._seed = seed

    def __getitem__(self, position: Position) -> tuple[Any, list[Failed]]:
        # Whoever asks for this position, in whatever process, tries the same ones in the same order.
        failures: list[Failed] = []
        for attempted in _attempts(self._seed, len(self._dataset), position):
            item = self._dataset[attempted]
            if not isinstance(item, Failed):
                return item, failures
            failures.append(item)
        return None, failures


def _collate(pairs: Sequence[tuple[Any, list[Failed]]]) -> tuple[Any, list[Failed]]:
    """The batch, or None where an item has no stand-in, and what failed on the way."""
    items = [item for item, _ in pairs]
    failures = [failed for _, met in pairs for failed in met]
    # Without a stand-in the batch has no valid form; the loader then ends the run.
    return (None if any(item is None for item in items) else default_collate(items)), failures


def _positions(seed: int, length: int, batch_size: int, step: int) -> list[Position]:
    """Of a step's global batch: places in the endless row of epochs, each epoch permuted anew."""
    places = range(step * batch_size, (step + 1) * batch_size)
    return [
        (place // length, int(_permutation(seed, length, place // length)[place % length]))
        for place in places
    ]


def _attempts(seed: int, length: int, position: Position) -> Iterator[Position]:
    """A position and, one after the other, those that stand in for it, of the same epoch."""
    yield position
    for attempt in range(1, MAX_ATTEMPTS):
        chooser = np.random.default_rng([seed, *position, attempt])
        yield position[0], int(chooser.integers(length))


@lru_cache(maxsize=4)
def _permutation(seed: int, length: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)


def _leave_stopping_to_the_parent(worker: int) -> None:
    """Lets the parent finish its step when a terminal or a scheduler signals the whole group.

    A first SIGTERM is such a signal; a second is the parent's own way of ending a stuck worker.
    """

    def on_first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, on_first)
