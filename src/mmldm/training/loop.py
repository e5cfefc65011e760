"""The training loop, for every job.

Stage + TrainConfig -> checkpoints, metrics, previews, export. N + 1 passes: the last one reports,
saves and leaves. The host waits for the device only where it reports or saves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.utils import _pytree as pytree

from mmldm.errors import UserError
from mmldm.files import whole_folder
from mmldm.pipelines.precision import used_in
from mmldm.sections import TrainConfig
from mmldm.training.budget import Budget, Due, Schedule
from mmldm.training.checkpoint import Checkpoint, CheckpointFolder
from mmldm.training.distributed import Process, reassemble, unsharded
from mmldm.training.going_on import identity_of, take_up
from mmldm.training.health import MAX_BAD_STEPS, Unreadable, Withheld, gone_wrong, means_of, untold
from mmldm.training.optim import Average, Turn, learning_rate_factor
from mmldm.training.report import Report
from mmldm.training.stage import Stage
from mmldm.training.stopping import (
    SIGNALS,
    Stop,
    mark_out_of_time,
    reason_to_leave,
    run_lock,
    stop_signals,
)

HARMLESS = frozenset({
    "workers", "minutes", "max_minutes", "log_every", "validate_every", "preview_every", "save_every",
    "keep", "gradient_checkpointing", "compile", "sharding",
})  # fmt: skip
"""Settings that a resumed run may change: no number depends on them, but for the last line's rounding."""


@dataclass(frozen=True)
class TrainResult:
    """How a job ended.

    Attributes:
        step: Completed steps.
        stopped_by: None when all steps are done; else "SIGINT", "SIGTERM" or "max_minutes".
        export: The exported model; None after a signal, and on other processes than rank 0.
    """

    step: int
    stopped_by: str | None
    export: Path | None

    @property
    def interrupted(self) -> bool:
        """Whether a signal has stopped it, so that no further job is to begin."""
        return self.stopped_by in SIGNALS


def train(
    stage: Stage,
    config: TrainConfig,
    folder: Path,
    *,
    seed: int,
    process: Process | None = None,
    console: Console | None = None,
    notes: Sequence[str] = (),
    budget: Budget | None = None,
    page: Callable[[], object] | None = None,
) -> TrainResult:
    """Trains a stage to its last step, from the newest checkpoint in `folder` where there is one.

    Asked for more than a finished or stopped job was, it goes on (`going_on`). The first SIGINT or SIGTERM
    finishes the step, saves and returns; a second one has its usual effect.

    Args:
        stage: The job.
        config: Its `train` section.
        folder: Receives `checkpoints/`, `metrics.jsonl`, `train.log`, `previews/`, `export/`.
        seed: Source of every random number.
        process: This process; None: alone on the CPU.
        console: For progress; None: standard error.
        notes: Sentences for the head of the log.
        budget: The time of a job with minutes; None: as the recipe says, from now on.
        page: Called after each preview: shows what there is now.

    Returns:
        Where it ended, and why.

    Raises:
        UserError: The folder is in use, a setting changed since the checkpoint, the loss is not
            finite for MAX_BAD_STEPS steps in a row, or the last checkpoint cannot be written.
    """
    process = process or Process()
    if config.batch_size % (process.world * config.accumulate):
        raise UserError(
            f"batch_size {config.batch_size} cannot be split over {process.world} processes "
            f"with accumulate {config.accumulate}"
        )
    if budget is None and config.minutes is not None:
        budget = Budget(config.minutes, config.steps)
    report = Report(folder, stage.name, config.steps or 0, process.is_main, console, page)
    with ExitStack() as held, stop_signals(config.max_minutes, process) as stop:
        # Hold the folder: before that, nothing is written in it.
        process.on_main(lambda: held.enter_context(run_lock(folder, report.note)))
        for sentence in notes:
            report.note(sentence)

        # Open, or resume where the newest whole checkpoint left off.
        training = _Training(stage, config, folder, seed, process, report, budget)
        training.resume()

        # Step, report, look and save until the last step or a reason to leave; then save and export.
        with report.begun(training.step):
            reason = training.to_the_end(stop)
            training.save(final=True)
            training.tell(training.unreadable.gather())
            export = None if reason in SIGNALS else training.export(reason)
        return TrainResult(training.step, reason, export)


class _Training:
    """One job while it is trained: what moves, what is counted, and where it stands."""

    def __init__(
        self,
        stage: Stage,
        config: TrainConfig,
        folder: Path,
        seed: int,
        process: Process,
        report: Report,
        budget: Budget | None,
    ) -> None:
        self.stage, self.config, self.folder, self.seed = stage, config, folder, seed
        self.process, self.report, self.budget = process, report, budget
        rates = stage.learning_rates
        self.turns = {
            name: Turn(name, module, config, rates.get(name, config.learning_rate), process)
            for name, module in stage.turns.items()
        }
        self.average = Average(stage.ema_modules, config.ema_decay)
        self.withheld = Withheld(process.device)
        self.unreadable = Unreadable(stage, process)
        self.checkpoints = CheckpointFolder(folder / "checkpoints", config.keep, report.note)
        # What a resumed run must share, or its numbers would be another run's.
        self.identity = {
            "train": identity_of(config, HARMLESS),
            "seed": seed,
            stage.name: stage.fingerprint(),
        }
        self.step, self.schedule, self.spent = 0, Schedule.opening(config), 0.0
        self.saved = (0, self.schedule)  # What the newest checkpoint holds.
        self.recent: dict[str, list[Tensor]] = {}
        """Terms () of the steps since the last report, on the device."""
        self.logged, self.waited = time.perf_counter(), 0.0
        """When that was, and the seconds since then in which the loop had no batch."""

    # Open or resume

    def resume(self) -> None:
        """Takes over the newest checkpoint that is whole, or the one that the job goes on from."""
        folder, note = self.checkpoints, self.report.note
        taken = take_up(folder, self.config, self.identity, self.process, note)
        if taken is None:
            return
        saved, self.step, self.schedule = taken.checkpoint, taken.checkpoint.step, taken.schedule
        self.saved = (self.step, self.schedule)
        self.spent = float(saved.values.get("seconds", 0.0))
        for name, turn in self.turns.items():
            turn.load(saved.tensors[name])
            turn.load_optimizer_state(saved.tensors["optimizer"])
        self.average.load(saved.tensors["ema"])
        # Bad steps in a row begin anew: a new start has its own ten chances.
        self.withheld.load(saved.values)
        self.recent = untold(saved.values["window"], self.process.device)

    # Step

    def to_the_end(self, stop: Stop) -> str | None:
        """Trains until the last step (None) or until there is a reason to leave."""
        first = self.step
        batches = self.stage.batches(first, self.process.rank, self.process.world)
        self.logged = time.perf_counter()
        if self.budget is not None:
            self.budget.begin(first, self.spent)
        while True:
            # One pass more than steps: each looks back at the step before it.
            due = self._plan()
            if self.step > first:
                self._report_and_save(due)
            if self.step == self.schedule.kept(self.config):
                self.save(final=False)
            if self.step == self.schedule.end:
                return None
            limit, note = self.config.max_minutes, self.report.note
            if reason := reason_to_leave(stop, self.folder, self.step, limit, note):
                return reason

            asked = time.perf_counter()
            batch = next(batches)
            self.waited += time.perf_counter() - asked
            self._train_step(batch)
            self.report.advance(self.step)
            if self.budget is not None:
                self.budget.took(self.step)

    def _plan(self) -> Due:
        """What the clock asks for after a step; the last step is decided here, once."""
        if self.budget is None:
            return Due()
        due = self.budget.due(self.step, self.schedule, self.process)
        if due.end:
            self.schedule = self.schedule.ending(self.step, due.end, self.config)
        total, sentence = self.budget.plan(self.step, self.schedule)
        if total:
            self.report.expect(total)
        if sentence:
            self.report.note(sentence, once=True)
        return due

    def _train_step(self, batch: Any) -> None:
        """One step of every active turn on this process's rows: a nest of tensors (rows, ...)."""
        # To the device without waiting, and cut into the passes whose gradients are added up.
        device, passes = self.process.device, self.config.accumulate
        batch = pytree.tree_map(lambda x: x.to(device, non_blocking=True), batch)
        cuts = [pytree.tree_map(partial(_cut, number, passes), batch) for number in range(passes)]
        factor = learning_rate_factor(self.step, self.config, self.schedule)
        withheld = torch.zeros((), dtype=torch.bool, device=device)
        # One turn after the other. While one runs, the weights of the others get no gradients.
        for active in self.stage.active_turns(self.step):
            for name, turn in self.turns.items():
                turn.open(trainable=name == active)
            terms, bad = self.turns[active].step(cuts, self.seed, self.step, factor)
            withheld = withheld | bad
            for term, value in terms.items():
                self.recent.setdefault(f"{active}/{term}", []).append(value.detach())
        self.average.update(self.step)
        self.step += 1
        self.withheld.update(withheld, self.step)

    # Report, look, save

    def _report_and_save(self, clock: Due) -> None:
        """What is due after a step. After the last one all is, but that is saved by the caller."""
        config, step = self.config, self.step
        last = step == self.schedule.end

        def due(every: int, asked: bool = False, by_clock: bool = self.budget is not None) -> bool:
            return every > 0 and (last or (asked if by_clock else step % every == 0))

        if due(config.log_every, by_clock=False):
            self._log()
        with nullcontext() if self.budget is None else self.budget.looking():
            if due(config.validate_every, clock.look):
                self._look(self._validate, "validation")
            if due(config.preview_every, clock.look):
                self._look(self._preview, "preview")
        if due(config.save_every, clock.save) and not last:
            self.save(final=False)

    def _log(self) -> None:
        """Reports the means since the last time, and ends a run that has gone wrong for good."""
        # Here the host waits for the device, and for the other processes.
        means = means_of(self.recent, self.process)
        self.recent.clear()
        counts = self.withheld.read()
        unreadable = self.unreadable.gather()
        now = time.perf_counter()
        values = {
            **means,
            "learning_rate": self.config.learning_rate
            * learning_rate_factor(self.step - 1, self.config, self.schedule),
            "skipped_updates": counts.total,
            "data/waited": self.waited / (now - self.logged),
            **({"data/failed": len(unreadable)} if unreadable else {}),
        }
        self.logged, self.waited = now, 0.0
        self.report.metrics(self.step, values)
        self.report.progress(self.step, {k: v for k, v in means.items() if k.endswith("/loss")})

        # What went wrong without ending the run is said; what has gone on for too long ends it.
        self.tell(unreadable)
        if sentence := self.withheld.tell(counts, self.step, self.stage.clips_of):
            self.report.note(sentence)
        if counts.most >= MAX_BAD_STEPS:
            steps = self.checkpoints.steps()
            raise UserError(gone_wrong(self.stage.name, self.step, counts, steps[-1:]))

    def _look(self, at: Callable[[], None], what: str) -> None:
        """Lets rank 0 look at the averaged model, whole, in the job's precision."""
        inside = used_in(self.config.precision, self.process.device)
        whole = unsharded(self.turns["model"].module)
        with self.report.doing(what), self._averaged(), whole, inside:
            self.process.on_main(at)
        self.tell(self.unreadable.held_out())

    def _validate(self) -> None:
        values = self.stage.validate()
        self.report.metrics(self.step, {f"validate/{k}": v for k, v in values.items()})

    def _preview(self) -> None:
        try:
            self.stage.preview(self.folder / "previews", self.step)
        except UserError as error:
            self.report.note(f"no preview at step {self.step}: {error}")
        self.report.page()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Inside, the modules hold the averaged weights and are for use, not for training."""
        # Networks stand in the stage's turns, or beside them where a turn only borrows them.
        modules = [*self.stage.turns.values(), *self.stage.ema_modules.values()]
        for module in modules:
            module.eval()
        try:
            with self.average.swapped(), torch.no_grad():
                yield
        finally:
            for module in modules:
                module.train()

    def tell(self, sentences: Sequence[str]) -> None:
        """Says each of them, unless it was said already."""
        for sentence in sentences:
            self.report.note(sentence, once=True)

    def save(self, final: bool) -> None:
        """Writes a checkpoint; a collective call. Training goes on without one, unless it is the last."""
        if (self.step, self.schedule) == self.saved:
            return
        tensors: dict[str, dict[str, Tensor]] = {
            name: turn.module.state_dict() for name, turn in self.turns.items()
        }
        tensors["ema"] = self.average.state()
        tensors["optimizer"] = {
            k: v for turn in self.turns.values() for k, v in turn.optimizer_state().items()
        }
        values = {
            "identity": self.identity,
            **self.withheld.state(),
            # Steps since the last report: a resumed run reports the same means.
            "window": {k: torch.stack(v).tolist() for k, v in self.recent.items()},
            **self.schedule.in_state(self.config),
        }
        if self.budget is not None:
            values["seconds"] = self.budget.seconds
        checkpoint = Checkpoint(self.step, tensors, values)

        def write() -> None:
            # What was told up to a checkpoint is on the disk when it is.
            self.report.sync()
            self.checkpoints.save(checkpoint, self.schedule.kept(self.config))

        try:
            self.process.on_main(write, checkpoint.gather)
            self.saved = (self.step, self.schedule)
        except UserError as error:
            if final:
                raise
            self.report.note(f"{error}; training goes on")

    # Export

    def export(self, reason: str | None) -> Path | None:
        """Writes the averaged model; a collective call, after which nothing can be trained any more."""
        with self._averaged():
            reassemble(self.turns["model"].module, keep=self.process.is_main)
            return self.process.on_main(partial(self._write_export, reason))

    def _write_export(self, reason: str | None) -> Path:
        export = self.folder / "export"
        with whole_folder(export) as unfinished:
            self.stage.export(unfinished)
        if reason == "max_minutes":
            mark_out_of_time(self.folder, self.step, self.config.max_minutes)
        return export


def _cut(number: int, passes: int, tensor: Tensor) -> Tensor:
    """The rows of a tensor (rows, ...) that an accumulated pass sees, (rows / passes, ...)."""
    return tensor.chunk(passes)[number]
