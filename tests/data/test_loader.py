"""The order of rows is a function of (seed, step), whoever loads them."""

import os
from itertools import islice
from typing import Any

import pytest
import torch

from mmldm.data.loader import Failed, IndexedLoader, order
from mmldm.errors import UserError


class Rows:
    """Row `index` of `length`; the listed ones cannot be read."""

    def __init__(self, length: int, broken: tuple[int, ...] = ()) -> None:
        self.length, self.broken = length, broken

    def __len__(self) -> int:
        return self.length

    def file(self, index: int) -> str:
        return f"{index}.mp4"

    def __getitem__(self, position: tuple[int, int]) -> Any:
        epoch, index = position
        if index in self.broken:
            return Failed(self.file(index), "truncated")
        return {"row": index, "epoch": epoch}


def rows(steps: int, start: int = 0, **settings: Any) -> list[list[int]]:
    loader = IndexedLoader(Rows(10), batch_size=4, seed=3, start_step=start, **settings)
    return [batch["row"].tolist() for batch in islice(loader, steps)]


def test_every_row_comes_once_per_epoch() -> None:
    indices = [index for step in range(15) for index in order(3, 10, 4, step)]
    for epoch in range(6):
        assert sorted(indices[epoch * 10 : (epoch + 1) * 10]) == list(range(10))


def test_epochs_and_seeds_are_ordered_differently() -> None:
    first = order(3, 50, 50, 0)
    assert first != order(3, 50, 50, 1)
    assert first != order(4, 50, 50, 0)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_are_the_same_for_any_number_of_workers(workers: int) -> None:
    assert rows(7, workers=workers) == rows(7)


def test_batches_from_the_middle_are_the_rest_of_the_stream() -> None:
    assert rows(9)[5:] == rows(4, start=5, workers=2)


def test_processes_share_out_the_batch_in_order() -> None:
    parts = [rows(5, rank=rank, world=2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == rows(5)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_row_is_replaced_and_named(workers: int) -> None:
    loader = IndexedLoader(Rows(10, broken=(7,)), batch_size=5, seed=0, workers=workers)
    batches = [batch["row"] for batch in islice(loader, 4)]
    assert all(len(batch) == 5 and 7 not in batch for batch in batches)
    assert loader.failures == {"7.mp4": "truncated"}


def test_stand_ins_are_the_same_on_resume() -> None:
    def stream(start: int, steps: int) -> list[torch.Tensor]:
        loader = IndexedLoader(Rows(20, broken=(3, 7)), batch_size=5, seed=0, start_step=start)
        return [batch["row"] for batch in islice(loader, steps)]

    assert all(map(torch.equal, stream(0, 8)[4:], stream(4, 4)))


def test_positions_say_which_rows_were_read_in_the_place_of_others() -> None:
    data = Rows(20, broken=(3, 7))
    loader = IndexedLoader(data, batch_size=5, seed=0)
    read = [batch["row"].tolist() for batch in islice(loader, 8)]
    assert {3, 7}.isdisjoint(row for batch in read for row in batch)
    assert [[row for _, row in loader.positions(step)] for step in range(8)] == read


def test_one_of_several_processes_does_not_judge_for_all() -> None:
    loader = IndexedLoader(Rows(10, (0, 1, 2, 3)), batch_size=4, seed=0, rank=1, world=2)
    assert len(list(islice(loader, 12))) == 12
    assert len(loader.failures) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_unreadable_rows_end_the_run_with_an_example(workers: int) -> None:
    loader = IndexedLoader(Rows(10, (0, 1, 2, 3)), batch_size=5, seed=0, workers=workers)
    with pytest.raises(UserError, match=r"of 10 clips cannot be read.*\.mp4: truncated"):
        list(islice(loader, 8))


def test_wholly_unreadable_data_ends_the_run() -> None:
    loader = IndexedLoader(Rows(3, (0, 1, 2)), batch_size=2, seed=0)
    with pytest.raises(UserError, match="cannot be read"):
        next(iter(loader))


class Deadly(Rows):
    def __getitem__(self, position: tuple[int, int]) -> Any:
        os._exit(1)


def test_worker_that_dies_ends_the_run_with_a_sentence() -> None:
    loader = IndexedLoader(Deadly(4), batch_size=2, seed=0, workers=1)
    with pytest.raises(UserError, match="a loading process was lost"):
        next(iter(loader))


class Buggy(Rows):
    def __getitem__(self, position: tuple[int, int]) -> Any:
        raise RuntimeError("a mistake of ours")


@pytest.mark.parametrize("workers", [0, 1])
def test_mistake_in_a_dataset_is_not_taken_for_bad_data(workers: int) -> None:
    loader = IndexedLoader(Buggy(4), batch_size=2, seed=0, workers=workers)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        next(iter(loader))


def test_empty_data_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to train on"):
        IndexedLoader(Rows(0), batch_size=2, seed=0)
