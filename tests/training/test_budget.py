"""Training by the clock, moved by hand: how many steps fit, when the rate falls, how a job goes on."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mmldm.errors import UserError
from mmldm.training.budget import FALL, Budget, Schedule, clock, judged
from mmldm.training.checkpoint import CheckpointFolder
from mmldm.training.distributed import Process
from mmldm.training.going_on import Standing, has_ended
from mmldm.training.loop import TrainResult, train
from mmldm.training.optim import learning_rate_factor
from mmldm.training.report import read_metrics

from .killing import assert_same_run
from .tiny_stage import TinyStage, tiny_config


@dataclass
class Clock:
    """A second passes in a step, and more where a test says so."""

    now: float = 0.0
    steps: dict[int, float] = field(default_factory=dict)

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Clock:
    hand = Clock()
    monkeypatch.setattr("mmldm.training.budget.time", hand)
    return hand


def run(
    folder: Path, hand: Clock, signal_at: int | None = None, look: float = 0.0, **settings: Any
) -> TrainResult:
    """A job of the tiny stage whose every step takes a second by the hand-moved clock."""

    class Clocked(TinyStage):
        def active_turns(self, step: int) -> tuple[str, ...]:
            hand.now += hand.steps.get(step, 1.0)
            if step == signal_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().active_turns(step)

        def validate(self) -> dict[str, float]:
            hand.now += look
            return super().validate()

    config = tiny_config(**{"steps": None, **settings})
    return train(Clocked(config, 0), config, folder, seed=0, console=Console(quiet=True))


def rates(folder: Path) -> dict[int, float]:
    records = read_metrics(folder / "metrics.jsonl")
    return {r["step"]: r["learning_rate"] / 0.01 for r in records if "learning_rate" in r}


def state(folder: Path, step: int) -> dict[str, Any]:
    return dict(CheckpointFolder(folder / "checkpoints", 2, print).load(step).values)


def test_rate_rises_stays_and_falls_in_the_last_fifth_of_the_time(
    tmp_path: Path, hand: Clock
) -> None:
    result = run(tmp_path, hand, minutes=1.0)
    assert result.stopped_by is None and result.export is not None
    assert result.step == 60
    factors = rates(tmp_path)
    assert factors[1] == pytest.approx(1 / 3) and factors[3] == 1.0
    assert all(factors[step] == 1.0 for step in range(3, 49))
    assert factors[60] == pytest.approx(0.03)
    falling = [factors[step] for step in range(49, 61)]
    assert falling == sorted(falling, reverse=True)
    assert CheckpointFolder(tmp_path / "checkpoints", 2, print).steps()[0] == 48


def test_slow_first_steps_are_left_out_of_the_speed(tmp_path: Path, hand: Clock) -> None:
    """Five seconds in each of the first three, as when kernels are compiled."""
    hand.steps = {0: 5.0, 1: 5.0, 2: 5.0}
    result = run(tmp_path, hand, minutes=1.0)
    assert result.step == 60 - 12


def test_time_of_validation_counts(tmp_path: Path, hand: Clock) -> None:
    result = run(tmp_path, hand, minutes=1.0, look=2.0)
    assert 40 <= result.step <= 50
    assert hand.now <= 64


def test_dear_looks_are_fewer_and_do_not_end_a_job_early(tmp_path: Path, hand: Clock) -> None:
    """Ten seconds each, as of long files on a busy machine: eight of them would be more than the minute."""
    result = run(tmp_path, hand, minutes=1.0, look=10.0)
    looks = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "validate/loss" in r]
    assert 1 <= len(looks) <= 3, "one that shows what a look costs, and those that are due then"
    assert result.step >= 30
    assert hand.now <= 75, "the last look comes after the last step"


def test_machine_that_becomes_slower_has_fewer_steps_and_a_whole_fall(
    tmp_path: Path, hand: Clock
) -> None:
    hand.steps = {step: 2.0 for step in range(20, 100)}
    result = run(tmp_path, hand, minutes=1.0)
    assert result.step < 50
    assert rates(tmp_path)[result.step] == pytest.approx(0.03)


def test_steps_are_the_most_that_a_job_takes(tmp_path: Path, hand: Clock) -> None:
    assert run(tmp_path, hand, minutes=10.0, steps=20).step == 20
    assert rates(tmp_path)[20] == pytest.approx(0.03)
    assert hand.now < 30


def test_even_a_budget_of_two_steps_ends_with_an_export(tmp_path: Path, hand: Clock) -> None:
    result = run(tmp_path, hand, minutes=0.02)
    assert 1 <= result.step <= 3
    assert result.export is not None and result.export.is_dir()


def test_job_interrupted_in_its_fall_resumes_to_the_same_bits_whatever_the_clock_says(
    tmp_path: Path, hand: Clock
) -> None:
    run(tmp_path / "whole", hand, minutes=1.0)
    hand.now = 0.0
    stopped = run(tmp_path / "broken", hand, signal_at=52, minutes=1.0)
    assert (stopped.step, stopped.stopped_by) == (53, "SIGTERM")
    hand.steps = {step: 30.0 for step in range(100)}
    assert run(tmp_path / "broken", hand, minutes=1.0).step == 60
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_job_interrupted_before_its_fall_has_the_rest_of_its_time(
    tmp_path: Path, hand: Clock
) -> None:
    run(tmp_path, hand, signal_at=19, minutes=1.0)
    hand.now += 10_000  # nobody trains
    assert run(tmp_path, hand, minutes=1.0).step == 60


def test_finished_job_goes_on_from_before_its_fall_and_keeps_its_export_until_then(
    tmp_path: Path, hand: Clock
) -> None:
    run(tmp_path, hand, minutes=1.0)
    before = state(tmp_path, 48)
    stopped = run(tmp_path, hand, signal_at=60, minutes=2.0)
    assert stopped.stopped_by == "SIGTERM"
    assert (tmp_path / "export").is_dir()
    factors = rates(tmp_path)
    assert sorted(factors) == list(range(1, 62)), "the metrics read as one run"
    assert all(factors[step] == 1.0 for step in range(3, 62)), "the fall is taken back"
    result = run(tmp_path, hand, minutes=2.0)
    # 48 steps, and what is left of two minutes of which the first is used up.
    assert result.step == 48 + 60
    assert rates(tmp_path)[108] == pytest.approx(0.03)
    log = (tmp_path / "train.log").read_text()
    assert "asked for more than the 60 steps it has" in log
    assert before["schedule"]["end"] == 60


def test_going_on_equals_a_run_that_was_given_all_the_time_at_once(
    tmp_path: Path, hand: Clock
) -> None:
    for minutes in (1.0, 2.0):
        run(tmp_path / "twice", hand, minutes=minutes, validate_every=0)
    hand.now = 0.0
    run(tmp_path / "once", hand, minutes=1.8, validate_every=0)  # 108 steps
    assert_same_run(tmp_path / "once", tmp_path / "twice")


def test_same_minutes_again_do_nothing(tmp_path: Path, hand: Clock) -> None:
    run(tmp_path, hand, minutes=1.0)
    told = (tmp_path / "metrics.jsonl").read_bytes()
    assert run(tmp_path, hand, minutes=1.0).step == 60
    assert (tmp_path / "metrics.jsonl").read_bytes() == told


def test_nothing_but_the_length_may_change(tmp_path: Path, hand: Clock) -> None:
    run(tmp_path, hand, minutes=0.5)
    with pytest.raises(UserError, match="train.batch_size was 8 and is now 4"):
        run(tmp_path, hand, minutes=1.0, batch_size=4)
    assert state(tmp_path, 30)["step"] == 30


def test_counted_job_goes_on_when_asked_for_more_steps(tmp_path: Path, hand: Clock) -> None:
    """Its rate fell from the start: it rises again, and the next time there is a state before the fall."""
    run(tmp_path, hand, steps=12)
    assert "schedule" not in state(tmp_path, 12)
    assert run(tmp_path, hand, steps=32).step == 32
    factors = rates(tmp_path)
    assert factors[13] == pytest.approx(1 / 3) and factors[15] == 1.0
    assert factors[32] == pytest.approx(0.03)
    run(tmp_path, hand, steps=52)
    assert state(tmp_path, 52)["schedule"]["start"] == 12
    assert rates(tmp_path)[32] == 1.0
    with pytest.raises(UserError, match="train.steps was 52 and is now 40"):
        run(tmp_path, hand, steps=40)


def test_stopped_job_goes_on_when_asked_for_more_steps(tmp_path: Path, hand: Clock) -> None:
    run(tmp_path, hand, signal_at=5, steps=12)
    assert run(tmp_path, hand, steps=20).step == 20


def test_counted_job_is_given_minutes(tmp_path: Path, hand: Clock) -> None:
    run(tmp_path, hand, steps=12)
    assert run(tmp_path, hand, minutes=1.0).step == 72
    assert rates(tmp_path)[14] == pytest.approx(2 / 3)


def test_standing_tells_what_has_ended_and_what_is_asked_beyond(
    tmp_path: Path, hand: Clock
) -> None:
    run(tmp_path, hand, minutes=1.0)
    same, more = tiny_config(steps=None, minutes=1.0), tiny_config(steps=None, minutes=1.5)
    standing = Standing.of(tmp_path, same)
    assert standing is not None and standing.ended and standing.step == 60
    assert standing.seconds == pytest.approx(60, abs=2)
    assert not has_ended(state(tmp_path, 60), 60, tmp_path, more)


def test_plain_schedule_is_what_it_always_was() -> None:
    """Numbers of the formula before schedules: old runs resume."""
    config = tiny_config(steps=103, warmup_steps=3, final_learning_rate=0.1)
    schedule = Schedule.opening(config)
    for step in range(103):
        old = (step + 1) / 4 if step < 3 else 1 + (step - 3) / 99 * (0.1 - 1)
        assert learning_rate_factor(step, config, schedule) == old
    assert schedule.in_state(config) == {} and schedule.kept(config) is None
    old_state = {"identity": {"train": {"steps": 103, "warmup_steps": 3}}}
    assert Schedule.saved(old_state) == schedule


def test_fall_that_is_due_before_the_warm_up_ends_multiplies_it() -> None:
    config = tiny_config(steps=None, minutes=1.0, warmup_steps=50)
    schedule = Schedule().ending(8, 10, config)
    factors = [learning_rate_factor(step, config, schedule) for step in range(10)]
    assert factors[8] == pytest.approx(9 / 51)
    assert factors[9] == pytest.approx(10 / 51 * config.final_learning_rate)


def test_budget_shares_its_decision_among_processes_only_where_they_agree(hand: Clock) -> None:
    budget = Budget(1.0)
    budget.begin(0, 0.0)
    two = Process(rank=0, world=2)
    hand.now = 61.0
    assert budget.due(7, Schedule(), two).end == 0


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        (16_000, "16,000 of about 18,000 steps"),
        (1_150, "1,150 of about 18,000 steps: expect blurs; 6 h would do, or start from a model (--from)"),
        (6, "6 of about 18,000 steps: expect noise; 6 h would do, or start from a model (--from)"),
    ],
)  # fmt: skip
def test_steps_are_judged_by_what_is_known_to_be_enough(steps: int, told: str) -> None:
    assert judged(steps, 18_000, 1.2) == told


def test_times_are_told_as_one_says_them() -> None:
    told = {
        0.21: "0.21 s",
        40: "40 s",
        112: "110 s",
        1500: "25 min",
        6900: "120 min",
        21_600: "6 h",
    }
    assert [clock(seconds) for seconds in told] == list(told.values())
    assert clock(3600 * 150) == "150 h"


def test_share_of_the_fall() -> None:
    assert Schedule().falling(100) == round(100 * FALL)
    assert Schedule(start=50).falling(100) == round(50 * FALL)
