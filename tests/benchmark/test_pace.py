"""How far a recipe's minutes go: real steps, and the words for them."""

import pytest
import torch

from mmldm.benchmark import pace
from mmldm.benchmark.pace import pace_table, paces
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
