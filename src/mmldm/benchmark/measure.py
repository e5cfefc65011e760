"""The benchmark: a system's sampling and training steps, timed, counted and weighed.

System, clock -> rows. The paper's Table 1 has training and sampling as one time each; here every part of
sampling stands alone as well.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mmldm.benchmark.machine import watts
from mmldm.benchmark.sampling import Sampling
from mmldm.benchmark.timing import Call, Timing, energy, interleaved, largest_batch
from mmldm.benchmark.training_step import Job, TrainingStep, training_jobs
from mmldm.config import RunConfig
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.summary import Summary, count_flops

AGAINST = "the other program"
SAMPLE = "sample"
SAMPLED_CLIPS = 2
"""As in the paper's Table 1."""


@dataclass(frozen=True)
class Row:
    """One kind of work, measured.

    Attributes:
        work: "sample: generator", "train: autoencoder with critic", ...
        clips: Per call.
        timing: Of one call.
        flops: Of one call; None: not counted.
        joules: Of one call; None: the device does not tell.
        ratio: How many times longer the other program's step took; None: there is none.
    """

    work: str
    clips: int
    timing: Timing
    flops: int | None = None
    joules: float | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class System:
    """What is measured.

    Attributes:
        pipeline: Makes the pipeline to sample with, on its device.
        options: Of the pipeline's call.
        recipe: What its jobs train, and the recipe's summary; None: sampling only.
    """

    pipeline: Callable[[], SoundingVideoPipeline]
    options: Mapping[str, Any]
    recipe: tuple[RunConfig, Summary] | None


@dataclass(frozen=True)
class Clock:
    """How calls are timed: rounds, device, and another program's step among them."""

    repeats: int
    device: torch.device
    against: Call | None = None

    def rows(
        self, kind: str, clips: int, calls: Mapping[str, Call], flops: Mapping[str, int]
    ) -> Iterator[Row]:
        """Times calls, and the other program's step among them."""
        guest = {} if self.against is None else {AGAINST: self.against}
        timings = interleaved({**calls, **guest}, self.repeats, self.device)
        for name, call in calls.items():
            timing = timings[name]
            ratio = timing.ratio(timings[AGAINST]) if guest else None
            joules = energy(call, timing, partial(watts, self.device))
            yield Row(f"{kind}: {name}", clips, timing, flops.get(name), joules, ratio)
        if guest:
            yield Row(f"{kind}: {AGAINST}", clips, timings[AGAINST])


def measure(
    system: System, wanted: Sequence[str], batch: int | None, clock: Clock
) -> Iterator[Row]:
    """Measures a system, one part in memory at a time.

    Args:
        wanted: Of "sample" and the names of jobs.
        batch: Clips a call; None: SAMPLED_CLIPS, and a pass of each job's recipe.
    """
    if SAMPLE in wanted:
        with tempfile.TemporaryDirectory() as folder:
            yield from _sampling(system, batch or SAMPLED_CLIPS, clock, Path(folder))
    if system.recipe is None:
        return
    for job in training_jobs(*system.recipe, wanted, clock.device):
        yield from _training(job, batch or job.train.batch_size // job.train.accumulate, clock)
        if clock.device.type == "cuda":
            most = largest_batch(partial(_fits, job, clock.device))
            if most:
                yield from _training(job, most, clock, note=", largest batch")
        del job
        _release(clock.device)


def _sampling(system: System, clips: int, clock: Clock, folder: Path) -> Iterator[Row]:
    pipeline = system.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    one = Sampling(pipeline, 1, system.options, folder)
    flops = {name: clips * count_flops(call)[0] for name, call in one.calls().items()}
    calls = Sampling(pipeline, clips, system.options, folder).calls()
    # Writing files multiplies no matrices.
    counted = {name: count for name, count in flops.items() if count}
    yield from clock.rows(SAMPLE, clips, calls, counted)


def _training(job: Job, clips: int, clock: Clock, note: str = "") -> Iterator[Row]:
    name = job.name + note
    flops = {name: clips * TrainingStep(job, 1, clock.device).flops()}
    step = TrainingStep(job, clips, clock.device)
    yield from clock.rows("train", clips, {name: step}, flops)


def _fits(job: Job, device: torch.device, rows: int) -> bool:
    """Whether two steps, the second with the optimisers' moments, stay within the GPU's memory."""
    try:
        _two_steps(job, rows, device)
        fits = True
    except torch.OutOfMemoryError:
        fits = False
    for module in job.turns.values():
        module.zero_grad(set_to_none=True)
    _release(device)
    return fits


def _two_steps(job: Job, rows: int, device: torch.device) -> None:
    step = TrainingStep(job, rows, device)
    step()
    step()


def _release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
