"""How far a recipe's minutes go: real steps, and the words for them."""

import pytest
import torch

from mmldm.benchmark import pace
from mmldm.benchmark.pace import JobTime, Pass, hours_table, in_hours, job_times, pace_table, paces
from mmldm.config import changed
from mmldm.training.summary import summarise

from ..smallest import smallest_recipe

CPU = torch.device("cpu")


def test_every_job_that_trains_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = smallest_recipe()
    summary = summarise(recipe, 2)
    seconds = paces(recipe, summary, CPU)
    assert list(seconds) == ["vae", "autoencoder", "generator", "vocoder"]
    assert all(value > 0 for value in seconds.values())
    monkeypatch.setattr(pace, "MOST_BYTES", 0)
    assert paces(recipe, summary, CPU) == {}, "too large to try"


def test_minutes_become_steps_and_steps_become_time() -> None:
    by_steps = changed(smallest_recipe(steps=100), ["vocoder=null"])
    table = pace_table(by_steps, {"vae": 2.0, "autoencoder": 2.0})
    lines = [" ".join(line.split()) for line in table.splitlines()[1:]]
    assert lines[0].startswith("vae 2 s a step: 100 of about 3,600 steps")
    assert lines[0].endswith(", 3.3 min")
    assert lines[2] == "generator not tried: too large for this machine, or for a trial"
    by_time = changed(by_steps, ["vae.train.minutes=10", "vae.train.steps=null"])
    table = pace_table(by_time, {"vae": 0.5})
    assert "in 10 min 1,200 of about 3,600 steps: expect blurs; 30 min would do" in table


def test_a_training_takes_its_steps_times_the_time_of_one() -> None:
    recipe = changed(
        smallest_recipe(steps=100),
        ["autoencoder.train.accumulate=2", "autoencoder.critic.start_step=40", "vocoder=null"],
    )
    passes = {
        "vae": Pass(4, 3.0, 0.1),
        # Two passes of 2 rows: .9 s twice, and .1 s of optimisers once; with the critic, 1.8 and .2.
        "autoencoder": Pass(2, 1.0, 0.1),
        "autoencoder with critic": Pass(2, 2.0, 0.1),
        "generator": Pass(8, 1.0, 0.1),
    }
    vae, autoencoder, generator = job_times(recipe, passes)
    assert vae == JobTime("vae", 100, pytest.approx(3.0), pytest.approx(300))
    assert autoencoder.step == pytest.approx(3.8)
    assert autoencoder.seconds == pytest.approx(40 * 1.9 + 60 * 3.8)
    assert generator == JobTime("generator", 100, None, None), "that batch is not the recipe's"


def test_a_critic_that_plays_from_the_first_step_has_no_other_pass() -> None:
    recipe = changed(smallest_recipe(steps=10), ["autoencoder.critic.start_step=0", "vocoder=null"])
    found = {t.job: t for t in job_times(recipe, {"autoencoder with critic": Pass(4, 2.0, 0.5)})}
    assert found["autoencoder"].seconds == pytest.approx(20)
    assert found["vae"].seconds is None


def test_minutes_end_a_job() -> None:
    recipe = changed(smallest_recipe(steps=1000), ["vae.train.minutes=10", "vocoder=null"])
    (vae, *_) = job_times(recipe, {"vae": Pass(4, 3.0, 0.0)})
    assert vae.seconds == 600
    free = changed(recipe, ["vae.train.steps=null"])
    (vae, *_) = job_times(free, {})
    assert (vae.steps, vae.step, vae.seconds) == (None, None, 600)


def test_hours_have_a_line_for_each_job_and_one_for_the_whole() -> None:
    table = hours_table(
        [JobTime("vae", 3600, 1.0, 3600.0), JobTime("generator", 7200, 0.5, 5400.0)]
    )
    lines = table.splitlines()
    assert lines[2] == "| vae | 3,600 | 1 s | 1 h |"
    assert lines[4] == "| the whole | | | 2.5 h |"
    partly = hours_table([JobTime("vae", 3600, 1.0, 3600.0), JobTime("generator", 9, None, None)])
    assert "| generator | 9 | not timed |  |" in partly and "| 1 of 2 jobs | | | 1 h |" in partly
    assert in_hours(96 * 3600) == "96 h (4.0 days)"
