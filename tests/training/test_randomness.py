"""A row's numbers depend on seed, step, turn and row, never on how the batch was cut."""

import pytest
import torch

from mmldm.training.randomness import StepRandom, derive_seed, reseed


def draws(random: StepRandom) -> list[torch.Tensor]:
    rows = len(random.rows)
    return [
        random.normal((rows, 3)),
        random.uniform((rows,)),
        random.integers(0, 1000, (rows, 2)),
        random.bernoulli(0.3, (rows, 5)),
        random.normal((rows, 2, 2)),
    ]


@pytest.mark.parametrize("cuts", [[0, 8], [0, 4, 8], [0, 1, 2, 5, 8]])
def test_slices_of_a_batch_draw_what_the_whole_batch_draws(cuts: list[int]) -> None:
    whole = draws(StepRandom(1, 2, "model", 8))
    parts = [
        draws(StepRandom(1, 2, "model", 8, rows=range(low, high)))
        for low, high in zip(cuts, cuts[1:], strict=False)
    ]
    for kind, expected in enumerate(whole):
        assert torch.equal(torch.cat([part[kind] for part in parts]), expected)


@pytest.mark.parametrize("other", [(2, 2, "model"), (1, 3, "model"), (1, 2, "critic")])
def test_seed_step_and_turn_each_change_the_numbers(other: tuple[int, int, str]) -> None:
    first = StepRandom(1, 2, "model", 4).normal((4, 8))
    assert not torch.equal(first, StepRandom(*other, 4).normal((4, 8)))


def test_draws_of_one_step_differ_and_are_standard_normal() -> None:
    random = StepRandom(0, 0, "model", 4)
    first, second = random.normal((4, 20000)), random.normal((4, 20000))
    assert not torch.equal(first, second)
    assert abs(first.mean().item()) < 0.02
    assert abs(first.std().item() - 1) < 0.02


def test_wrong_number_of_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="local rows"):
        StepRandom(0, 0, "model", 8, rows=range(4)).normal((8, 2))


def test_derived_seed_depends_on_order_and_split_of_its_parts() -> None:
    seeds = {derive_seed(1, 23), derive_seed(12, 3), derive_seed(23, 1), derive_seed("1", 23)}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_reseeding_repeats_dropout() -> None:
    masks = []
    for step in (5, 5, 6):
        reseed(0, step, "model", 0, 0, torch.device("cpu"))
        masks.append(torch.nn.functional.dropout(torch.ones(64), 0.5))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
