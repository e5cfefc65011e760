"""How far a recipe's minutes go on a machine: real steps of each job, before anything is trained.

recipe, device -> seconds of a step of each job -> a table: steps in its minutes, or hours for its steps.
recipe, timed passes -> `JobTime` of each job -> a table: how long a training by the recipe takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mmldm.benchmark.timing import interleaved
from mmldm.benchmark.training_step import TrainingStep, step_plans
from mmldm.config import RunConfig
from mmldm.training.budget import clock, judged
from mmldm.training.rounds import enough_steps, trained_jobs
from mmldm.training.summary import Summary

STEPS = 3
"""That are timed of each job."""
MOST_BYTES = 2**30
"""Of weights, moments and gradients on a CPU, above which a step takes longer than one waits for."""


def paces(config: RunConfig, summary: Summary, device: torch.device) -> dict[str, float]:
    """Job -> seconds of a training step, the fastest of `STEPS`, on rows of random numbers.

    Clips are not read, and nothing is compiled. Of a job with a critic the step that has it counts. Jobs
    that are too large to try here are left out.

    Args:
        summary: Of the recipe.
    """
    room = MOST_BYTES
    if device.type == "cuda":
        room = torch.cuda.mem_get_info(device)[0] // 2
    trained = trained_jobs(config)
    small = [job.name for job in summary.jobs if job.name in trained and job.memory_bytes <= room]
    seconds = {}
    for plan in step_plans(config, summary, small, device):
        passes = plan.train.accumulate
        # The trial would wait longer for a compiler than for the steps.
        plan = replace(plan, train=plan.train.model_copy(update={"compile": False}))
        step = TrainingStep(plan, max(1, plan.train.batch_size // passes), device)
        job = plan.name.partition(" ")[0]
        seconds[job] = passes * interleaved({job: step}, STEPS, device)[job].spread[0]
    return seconds


def pace_table(config: RunConfig, seconds: Mapping[str, float]) -> str:
    """Lines for a terminal: each job, its step, and how far it goes.

    Args:
        seconds: Of a step, by job.
    """
    lines = ["how far it goes here, now (steps of random numbers; reading clips comes on top)"]
    for job in trained_jobs(config):
        train, pace = config.training_of(job), seconds.get(job)
        assert train is not None, "trained_jobs names no other"
        if pace is None:
            lines.append(f"  {job:12}not tried: too large for this machine, or for a trial")
            continue
        enough = enough_steps(config, job)
        if train.minutes is not None:
            steps = int(60 * train.minutes / pace)
            steps = steps if train.steps is None else min(steps, train.steps)
            told = f"in {clock(60 * train.minutes)} {judged(steps, enough, pace)}"
        else:
            assert train.steps is not None, "a recipe has one of the two"
            told = f"{judged(train.steps, enough, pace)}, {clock(train.steps * pace)}"
        lines.append(f"  {job:12}{clock(pace):>8} a step: {told}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Pass:
    """A timed pass of a job, forward, backward and optimisers.

    Attributes:
        clips: In it.
        seconds: Of all of it.
        optimisers: Their share of it.
    """

    clips: int
    seconds: float
    optimisers: float


@dataclass(frozen=True)
class JobTime:
    """How long a job takes.

    Attributes:
        steps: That it takes; None: not known, it fills its minutes.
        step: Seconds of one, the critic's part included where there is one; None: no pass was timed that has
            the recipe's rows.
        seconds: Of all steps; None likewise.
    """

    job: str
    steps: int | None
    step: float | None
    seconds: float | None


def job_times(config: RunConfig, passes: Mapping[str, Pass]) -> list[JobTime]:
    """Each trained job of a recipe: its steps times the time of one. Its minutes end it, where it has them.

    Args:
        passes: By job, and by "JOB with critic" for those steps in which the critic plays.
    """
    return [_job_time(config, job, passes) for job in trained_jobs(config)]


def _job_time(config: RunConfig, job: str, passes: Mapping[str, Pass]) -> JobTime:
    train = config.training_of(job)
    assert train is not None, "trained_jobs names no other"
    critic: Any = getattr(getattr(config, job), "critic", None)

    def step_of(name: str) -> float | None:
        timed = passes.get(name)
        if timed is None or timed.clips != train.batch_size // train.accumulate:
            return None
        # Of accumulated passes the last alone moves the weights.
        alone = timed.seconds * (1 - timed.optimisers)
        return train.accumulate * alone + timed.seconds * timed.optimisers

    # Steps before the critic plays, and those in which it does.
    late = None if critic is None else step_of(f"{job} with critic")
    early = step_of(job) if critic is None or critic.start_step else late
    step, start = (late, critic.start_step) if critic is not None else (early, 0)
    limit = None if train.minutes is None else 60 * train.minutes
    if step is None or early is None:
        return JobTime(job, train.steps, None, limit if train.steps is None else None)
    if train.steps is None:
        return JobTime(job, None, step, limit)
    before = min(start, train.steps)
    seconds = before * early + (train.steps - before) * step
    return JobTime(job, train.steps, step, seconds if limit is None else min(seconds, limit))


def hours_table(times: Sequence[JobTime]) -> str:
    """Markdown: each job, and the whole. Reading clips, caches and validation come on top."""
    lines = ["| a training by the recipe here | steps | a step | takes |", "|---|---|---|---|"]
    for time in times:
        steps = "as many as fit" if time.steps is None else f"{time.steps:,}"
        step = "not timed" if time.step is None else clock(time.step)
        takes = "" if time.seconds is None else in_hours(time.seconds)
        lines.append(f"| {time.job} | {steps} | {step} | {takes} |")
    known = [time.seconds for time in times if time.seconds is not None]
    whole = "the whole" if len(known) == len(times) else f"{len(known)} of {len(times)} jobs"
    lines.append(f"| {whole} | | | {in_hours(sum(known))} |")
    note = "Steps on random rows: reading clips, caches, validation and previews come on top."
    return "\n".join([*lines, "", note]) + "\n"


def in_hours(seconds: float) -> str:
    """Three digits of hours; of days, where there are many."""
    hours = f"{float(f'{seconds / 3600:.3g}'):g} h"
    return hours if seconds < 72 * 3600 else f"{hours} ({seconds / 86400:.1f} days)"
