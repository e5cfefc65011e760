"""Minutes over the jobs of a run: shared, handed on, given again."""

from typing import Any

import pytest

from mmldm.config import RunConfig
from mmldm.errors import UserError
from mmldm.training.going_on import Standing
from mmldm.training.recipe import tiny_recipe
from mmldm.training.rounds import (
    in_first_round,
    in_next_round,
    left_over,
    shortfall,
    to_remake,
)


def minutes(config: RunConfig) -> list[float | None]:
    trained = [config.training_of(job) for job in ("vae", "autoencoder", "generator")]
    return [None if train is None else train.minutes for train in trained]


def standing(**used: Any) -> dict[str, Standing]:
    """Jobs by the minutes that they have used; a string: still under way."""
    return {
        job: Standing(100, 60 * float(value), not isinstance(value, str))
        for job, value in used.items()
    }


@pytest.fixture
def first() -> RunConfig:
    return in_first_round(tiny_recipe(), 60)


def test_first_round_is_shared_and_the_recipes_steps_are_the_most(first: RunConfig) -> None:
    assert minutes(first) == [12, 24, 24]
    assert first.generator.train.steps == tiny_recipe().generator.train.steps


def test_one_job_has_all_of_it() -> None:
    config = in_first_round(tiny_recipe(), 60, ["autoencoder"])
    assert minutes(config) == [None, 60, None]


def test_what_a_job_does_not_use_goes_to_the_next(first: RunConfig) -> None:
    assert left_over(first, standing(vae=7), "autoencoder") == 5
    assert left_over(first, standing(vae=7, autoencoder=26), "generator") == 3
    assert left_over(first, standing(vae="7"), "autoencoder") == 0, "it is not at its end"


def test_same_minutes_in_the_midst_of_a_round_go_on(first: RunConfig) -> None:
    assert in_next_round(first, first, standing(vae="3"), 60) == first
    # Also with the recipe that it began with.
    again = in_next_round(tiny_recipe(), first, standing(vae="3"), 60)
    assert again == first


def test_other_minutes_in_the_midst_of_a_round_are_shared_anew(first: RunConfig) -> None:
    config = in_next_round(first, first, standing(vae=12, autoencoder="2"), 112)
    assert minutes(config) == [12, 50, 50]
    with pytest.raises(UserError, match="--minutes 10: vae had 12 min already; give more"):
        in_next_round(first, first, standing(vae=12, autoencoder="2"), 10)


def test_finished_run_gives_more_to_the_generator_and_knows_it_again(first: RunConfig) -> None:
    done = standing(vae=10, autoencoder=25, generator=25)
    second = in_next_round(first, first, done, 60)
    # It used 25 minutes, one of which earlier jobs had left: sixty more are for it now.
    assert minutes(second) == [12, 24, 84]
    assert second.generator.train.minutes is not None
    assert second.generator.train.minutes + left_over(second, done, "generator") == 25 + 60
    assert second.generator.train.steps is None
    under_way = done | standing(generator="40")
    assert in_next_round(second, second, under_way, 60) == second
    longer = in_next_round(second, second, under_way, 90)
    assert minutes(longer) == [12, 24, 114]
    third = in_next_round(second, second, done | standing(generator=85), 60)
    assert minutes(third) == [12, 24, 144]


def test_named_jobs_share_a_round_and_those_made_anew_have_used_nothing(first: RunConfig) -> None:
    done = standing(vae=12, autoencoder=24, generator=24)
    config = in_next_round(first, first, done, 30, ["vae"])
    assert minutes(config) == [42, 24, 24]
    assert to_remake(["vae"], done) == ["autoencoder", "generator"]
    config = in_next_round(first, first, done, 50, ["generator", "vae", "autoencoder"])
    assert minutes(config) == [22, 20, 20]
    assert config.budget is not None
    assert config.budget.jobs == ("vae", "autoencoder", "generator")
    assert to_remake(config.budget.jobs, done) == []


def test_run_that_counts_steps_gives_minutes_to_what_is_not_done() -> None:
    counted = tiny_recipe()
    config = in_next_round(counted, counted, standing(vae=0, autoencoder="0"), 60)
    assert minutes(config) == [None, 30, 30]


@pytest.mark.parametrize("given", [0.1, 0.0, -3.0])
def test_hardly_any_minutes_are_refused(given: float, first: RunConfig) -> None:
    with pytest.raises(UserError, match="too short to learn anything: give at least 1"):
        in_first_round(tiny_recipe(), given)
    with pytest.raises(UserError, match="too short to learn anything"):
        in_next_round(first, first, standing(vae=12, autoencoder=24, generator=24), given)


def test_run_far_from_enough_is_told(first: RunConfig) -> None:
    state = {
        "vae": Standing(3600, 3600.0, True),
        "autoencoder": Standing(6, 12.0, True),
        "generator": Standing(1200, 1200.0, True),
    }
    assert shortfall(first, state) == (
        "autoencoder 6 of about 3,000 steps: expect noise; generator 1,200 of about 24,000 steps: expect "
        "blurs. 8.3 h would do (--minutes), or start from a model (--from)."
    )
    enough = {job: Standing(24_000, 3600.0, True) for job in state}
    assert shortfall(first, enough) == ""
