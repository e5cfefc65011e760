"""The benchmark: a system's sampling and training steps, timed, counted and weighed.

System, clock -> costs -> a Markdown table or JSON, with where, when and how they were measured

The paper's Table 1 has training and sampling as one time each; here every part of sampling stands alone as
well.
"""

from __future__ import annotations

import gc
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mmldm import __version__
from mmldm.benchmark.pace import JobTime, Pass
from mmldm.benchmark.sampling import SHEET, TOTAL, Sampling
from mmldm.benchmark.timing import (
    Call,
    Timing,
    device_name,
    energy,
    interleaved,
    largest_batch,
    matmul_peak,
    watts,
)
from mmldm.benchmark.training_step import StepPlan, TrainingStep, step_plans
from mmldm.config import RunConfig
from mmldm.pipelines.precision import Precision
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.summary import Summary

AGAINST = "the other program"
SAMPLE, TRAIN = "sample", "train: "
SAMPLED_CLIPS = 2
"""As in the paper's Table 1."""


@dataclass(frozen=True)
class Cost:
    """What one kind of work costs.

    Attributes:
        work: "sample: generator", "train: autoencoder with critic", ...
        clips: Per call.
        timing: Of one call.
        flops: Of one call; None: not counted.
        joules: Of one call; None: the device does not tell.
        ratio: How many times longer the other program's step took; None: there is none.
        optimisers: Their and the running average's share of a training step's time; None: not one.
    """

    work: str
    clips: int
    timing: Timing
    flops: int | None = None
    joules: float | None = None
    ratio: float | None = None
    optimisers: float | None = None


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

    def time(
        self,
        kind: str,
        clips: int,
        calls: Mapping[str, Call],
        flops: Mapping[str, int],
        optimisers: Mapping[str, Call] | None = None,
    ) -> Iterator[Cost]:
        """Times calls, and the other program's step among them.

        Args:
            flops: Of those calls that were counted.
            optimisers: The part of those calls that are training steps which does not grow with the batch.
        """
        # The other program's step takes its turn in every round, and a part comes after its whole.
        parts = {f"{name}, optimisers": call for name, call in (optimisers or {}).items()}
        guest = {} if self.against is None else {AGAINST: self.against}
        timings = interleaved({**calls, **parts, **guest}, self.repeats, self.device)
        for name, call in calls.items():
            timing = timings[name]
            ratio = timing.ratio(timings[AGAINST]) if guest else None
            joules = energy(call, timing, partial(watts, self.device))
            part = timings.get(f"{name}, optimisers")
            share = None if part is None else timing.ratio(part)
            yield Cost(f"{kind}: {name}", clips, timing, flops.get(name), joules, ratio, share)
        if guest:
            yield Cost(f"{kind}: {AGAINST}", clips, timings[AGAINST])


def costs(system: System, wanted: Sequence[str], batch: int | None, clock: Clock) -> Iterator[Cost]:
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
    for plan in step_plans(*system.recipe, wanted, clock.device):
        clips = batch or plan.train.batch_size // plan.train.accumulate
        yield from _training(plan, clips, clock)
        # A CPU has no limit that a batch of this size would meet.
        if clock.device.type == "cuda":
            most = largest_batch(partial(fits_training, plan, clock.device))
            if most:
                yield from _training(plan, most, clock, note=", largest batch")
        # Before the next job is built, this one's memory is free.
        del plan
        release(clock.device)


def _sampling(system: System, clips: int, clock: Clock, folder: Path) -> Iterator[Cost]:
    pipeline = system.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    sampling = Sampling(pipeline, clips, system.options, folder)
    # Operations grow with clips; writing files multiplies no matrices.
    flops = {name: clips * count for name, count in sampling.flops().items()}
    yield from clock.time(SAMPLE, clips, sampling.calls(), flops)


def _training(plan: StepPlan, clips: int, clock: Clock, note: str = "") -> Iterator[Cost]:
    name = plan.name + note
    flops = {name: clips * TrainingStep(plan, 1, clock.device).flops()}
    step = TrainingStep(plan, clips, clock.device)
    yield from clock.time("train", clips, {name: step}, flops, {name: step.optimise})


def fits_training(plan: StepPlan, device: torch.device, clips: int) -> bool:
    """Whether two steps, the second with the optimisers' moments, stay within the GPU's memory."""

    def two_steps() -> None:
        # In a function of its own: what it held is free when it has failed.
        step = TrainingStep(plan, clips, device)
        step()
        step()

    try:
        two_steps()
        fits = True
    except torch.OutOfMemoryError:
        fits = False
    for module in plan.turns.values():
        module.zero_grad(set_to_none=True)
    release(device)
    return fits


def release(device: torch.device) -> None:
    """Gives back memory that nothing holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def passes_of(rows: Sequence[Cost]) -> dict[str, Pass]:
    """The timed passes of training among the rows, by job: those of the batch that was asked for."""
    return {
        cost.work.removeprefix(TRAIN): Pass(cost.clips, cost.timing.median, cost.optimisers)
        for cost in rows
        if cost.work.startswith(TRAIN) and cost.optimisers is not None
    }


# -------------------------------------------------------------------------------- the table and JSON


def facts(device: torch.device, precision: Precision, command: str) -> dict[str, Any]:
    """Date, code, hardware and its measured matmul peaks (FLOP/s), that of tf32 where it is asked for."""
    measured: list[Precision] = ["fp32", "bf16", *([precision] if precision == "tf32" else [])]
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
        "commit": _commit(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": precision,
        "matmul_peak": {name: matmul_peak(device, name) for name in measured},
    }


def _commit() -> str | None:
    """Of the checkout this package runs from, "+" if files were changed since; None: not in one."""

    def git(*words: str) -> str:
        command = ("git", "-C", str(Path(__file__).parent), *words)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit, changes = (
            git("rev-parse", "--short", "HEAD"),
            git("status", "--porcelain", "--", "."),
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "+" * bool(changes)


def to_json(rows: Sequence[Cost], facts: Mapping[str, Any], times: Sequence[JobTime] = ()) -> str:
    """Everything measured; seconds, bytes, joules and FLOP as plain numbers.

    Args:
        times: Of the jobs of a recipe.
    """
    values = [
        {
            "work": cost.work,
            "clips": cost.clips,
            "seconds": list(cost.timing.rounds),
            "median_seconds": cost.timing.median,
            "clips_per_second": cost.clips / cost.timing.median,
            "clips_per_minute": 60 * cost.clips / cost.timing.median,
            "flops": cost.flops,
            "utilisation": _utilisation(cost, facts),
            "peak_bytes": cost.timing.peak_bytes,
            "joules": cost.joules,
            "times_longer_elsewhere": cost.ratio,
            "optimisers_share": cost.optimisers,
        }
        for cost in rows
    ]
    training = [asdict(time) for time in times]
    return json.dumps({**facts, "rows": values, "training": training}, indent=2) + "\n"


def decided_by(rows: Sequence[Cost]) -> str | None:
    """What one asks first, in a line: clips a minute, files and sheet included, and memory.

    None: nothing was sampled.
    """
    found = {cost.work: cost for cost in rows}
    whole, sheet = found.get(f"{SAMPLE}: {TOTAL}"), found.get(f"{SAMPLE}: {SHEET}")
    if whole is None or sheet is None:
        return None
    seconds = whole.timing.median + sheet.timing.median
    pace = 60 * whole.clips / seconds
    line = f"{pace:.3g} clips a minute ({whole.clips} at once, files and sheet included)"
    peak = whole.timing.peak_bytes
    return line if peak is None else f"{line}, at most {peak / 2**30:.2f} GiB of memory"


def to_markdown(rows: Sequence[Cost], facts: Mapping[str, Any]) -> str:
    """A paragraph of facts and a table; columns about which nothing is known are left out."""
    peaks = ", ".join(f"{k} {_si(v)}FLOP/s" for k, v in facts["matmul_peak"].items())
    commit = f"version {facts['version']}, commit {facts['commit'] or 'unknown'}"
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] > 1)}"
    about = (
        f"{facts['date']}, {facts['device']} ({threads}), {commit}, torch {facts['torch']}, "
        f"{facts['precision']}: `{facts['command']}`. Matmul peak, measured: {peaks}."
    )
    # A column is there if any row has something in it.
    table = [_cells(row, facts) for row in rows]
    titles = [title for title in table[0] if any(cells[title] for cells in table)]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    lines += [f"| {' | '.join(cells[title] for title in titles)} |" for cells in table]
    return "\n".join([about, "", *lines]) + "\n"


def _cells(cost: Cost, facts: Mapping[str, Any]) -> dict[str, str]:
    """A row of the table: title -> words, "" for what is not known."""
    median, (low, high) = cost.timing.median, cost.timing.spread
    unit, factor = ("s", 1.0) if median >= 1 else ("ms", 1000.0)
    share = _utilisation(cost, facts)

    def known(value: float | None, words: Callable[[float], str]) -> str:
        return "" if value is None else words(value)

    return {
        "work": cost.work,
        "clips a call": str(cost.clips),
        "median (fastest, slowest)": (
            f"{median * factor:.3g} {unit} ({low * factor:.3g}, {high * factor:.3g})"
        ),
        "clips a minute": f"{float(f'{60 * cost.clips / median:.3g}'):g}",
        "FLOP a call": known(cost.flops, lambda count: _si(count).strip()),
        "utilisation": known(share, lambda share: f"{100 * share:.0f} %"),
        "optimisers' share": known(cost.optimisers, lambda share: f"{100 * share:.0f} %"),
        "peak memory": known(cost.timing.peak_bytes, lambda count: f"{count / 2**30:.2f} GiB"),
        "energy": known(cost.joules, lambda joules: f"{joules:.3g} J"),
        "the other takes": known(cost.ratio, lambda ratio: f"{ratio:.3g} x"),
    }


def _utilisation(cost: Cost, facts: Mapping[str, Any]) -> float | None:
    """Share of the device's measured matmul peak in the precision that was asked for."""
    # Not the data sheet's peak: what large products reach here.
    if cost.flops is None:
        return None
    return cost.flops / cost.timing.median / facts["matmul_peak"][facts["precision"]]


def _si(value: float) -> str:
    """Three digits and a prefix: 1.23 T."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "
