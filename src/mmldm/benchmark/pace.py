"""How far a recipe's minutes go on a machine: real steps of each job, before anything is trained.

recipe, device -> seconds of a step of each job -> a table: steps in its minutes, or hours for its steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

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
