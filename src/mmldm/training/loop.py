"""The training loop, for every job.

Stage + TrainConfig -> checkpoints, metrics, previews, export. N + 1 passes: the last one reports,
saves and leaves. The host waits for the device only where it reports or saves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from mmldm.config import TrainConfig
from mmldm.errors import UserError
from mmldm.files import whole_folder
from mmldm.training.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    library_versions,
    refuse_changes,
)
from mmldm.training.distributed import Process
from mmldm.training.ema import Average
from mmldm.training.health import Unreadable, Withheld
from mmldm.training.locking import run_lock
from mmldm.training.report import Report
from mmldm.training.scaling import reassemble, unsharded
from mmldm.training.stage import Stage
from mmldm.training.stopping import Stop, mark_out_of_time, stop_signals, was_out_of_time
from mmldm.training.turn import Turn, learning_rate_factor

MAX_BAD_STEPS = 10
"""Withheld updates in a row after which a run is stopped."""
HARMLESS = {
    "workers", "max_minutes", "log_every", "validate_every", "preview_every", "save_every", "keep",
    "gradient_checkpointing", "compile", "sharding",
}  # fmt: skip
"""Settings that a resumed run may change: no number depends on them, but for the last line's rounding."""


@dataclass(frozen=True)
class TrainResult:
    """How a job ended.

    Attributes:
        step: Completed steps.
        stopped_by: None when all steps are done; else "SIGINT", "SIGTERM" or "max_minutes".
        export: The exported model; None after a signal.
    """

    step: int
    stopped_by: str | None
    export: Path | None


def train(
    stage: Stage,
    config: TrainConfig,
    folder: Path,
    *,
    seed: int,
    process: Process | None = None,
    console: Console | None = None,
    notes: Sequence[str] = (),
) -> TrainResult:
    """Trains a stage to its last step, from the newest checkpoint in `folder` where there is one.

    The first SIGINT or SIGTERM finishes the step, saves and returns; a second one has its usual
    effect.

    Args:
        stage: The job.
        config: Its `train` section.
        folder: Receives `checkpoints/`, `metrics.jsonl`, `train.log`, `previews/`, `export/`.
        seed: Source of every random number.
        process: This process; None: alone on the CPU.
        console: For progress; None: standard error.
        notes: Sentences for the head of the log.

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
    early = list(notes)
    with ExitStack() as held, stop_signals(config.max_minutes, process) as stop:
        process.on_main(lambda: held.enter_context(run_lock(folder, early.append)))
        run = _Run(stage, config, folder, seed, process, early)
        with Report(
            folder, stage.name, config.steps, run.step, process.is_main, console
        ) as run.report:
            for sentence in early:
                run.report.note(sentence)
            return run.to_the_end(stop)


@dataclass
class _Run:
    stage: Stage
    config: TrainConfig
    folder: Path
    seed: int
    process: Process
    notes: list[str]
    step: int = 0
    window: dict[str, list[Tensor]] = field(default_factory=dict)
    waited: float = 0.0
    """Seconds since `logged` in which the loop had no batch."""
    logged: float = field(init=False)
    report: Report = field(init=False)

    def __post_init__(self) -> None:
        stage, config, device = self.stage, self.config, self.process.device
        rates = stage.learning_rates
        self.turns = {
            name: Turn(name, module, config, rates.get(name, config.learning_rate), self.process)
            for name, module in stage.turns.items()
        }
        self.average = Average(stage.ema_modules, config.ema_decay)
        self.withheld = Withheld(device)
        self.unreadable = Unreadable(stage, self.process)
        self.identity = {
            "train": {k: v for k, v in config.model_dump().items() if k not in HARMLESS},
            "seed": self.seed,
            stage.name: stage.fingerprint(),
        }
        # Looks the notes up late: until the report exists they wait in the list.
        self.checkpoints = CheckpointFolder(self.folder / "checkpoints", config.keep, self._note)
        self._resume()
        self.saved = self.step

    def to_the_end(self, stop: Stop) -> TrainResult:
        config, report = self.config, self.report
        first = self.step
        batches = self.stage.batches(first, self.process.rank, self.process.world)
        reason = None
        self.logged = time.perf_counter()
        while True:
            if self.step > first:
                self._report_and_save()
            if self.step == config.steps:
                break
            reason = "max_minutes" if self._is_out_of_time() else stop.reason(self.step)
            if reason == "max_minutes":
                report.note(f"max_minutes are over after step {self.step}; a larger budget goes on")
                break
            if reason is not None:
                report.note(f"stopped by {reason} after step {self.step}; the same command resumes")
                break
            asked = time.perf_counter()
            batch = next(batches)
            self.waited += time.perf_counter() - asked
            self._train_step(batch)
            report.advance(self.step)
        self._save(final=True)
        self._tell(self.unreadable.gather())
        export = None
        if reason in (None, "max_minutes"):
            with self._averaged():
                reassemble(self.turns["model"].module, keep=self.process.is_main)
                export = self.process.on_main(lambda: self._export(reason))
        return TrainResult(self.step, reason, export)

    def _export(self, reason: str | None) -> Path:
        export = self.folder / "export"
        with whole_folder(export) as unfinished:
            self.stage.export(unfinished)
        if reason == "max_minutes":
            mark_out_of_time(self.folder, self.step, self.config.max_minutes)
        return export

    def _train_step(self, batch: Any) -> None:
        device, passes = self.process.device, self.config.accumulate
        batch = _map(lambda tensor: tensor.to(device, non_blocking=True), batch)
        cuts = [_map(partial(_part, i, passes), batch) for i in range(passes)]
        factor = learning_rate_factor(self.step, self.config)
        active = self.stage.active_turns(self.step)
        withheld = torch.zeros((), dtype=torch.bool, device=device)
        for name in active:
            for turn in self.turns.values():
                turn.open(trainable=turn.name == name)
            terms, bad = self.turns[name].step(cuts, self.seed, self.step, factor)
            withheld = withheld | bad
            for term, value in terms.items():
                self.window.setdefault(f"{name}/{term}", []).append(value.detach())
        self.average.update(self.step)
        self.step += 1
        self.withheld.update(withheld, self.step)

    def _report_and_save(self) -> None:
        config, step = self.config, self.step
        last = step == config.steps
        if step % config.log_every == 0 or last:
            self._log()
        if _due(step, config.validate_every, last):
            self._look(self._validate)
        if _due(step, config.preview_every, last):
            self._look(self._preview)
        if _due(step, config.save_every, last=False):
            self._save(final=False)

    def _log(self) -> None:
        means = _means(self.window, self.process)
        self.window.clear()
        counts = self.withheld.read()
        unreadable = self.unreadable.gather()
        now = time.perf_counter()
        values = {
            **means,
            "learning_rate": self._learning_rate(),
            "skipped_updates": counts.total,
            "data/waited": self.waited / (now - self.logged),
        }
        self.logged, self.waited = now, 0.0
        if unreadable:
            values["data/failed"] = len(unreadable)
        self.report.metrics(self.step, values)
        self.report.progress(self.step, {k: v for k, v in means.items() if k.endswith("/loss")})
        self._tell(unreadable)
        if sentence := self.withheld.tell(counts, self.step, self.stage.clips_of):
            self.report.note(sentence)
        if counts.most >= MAX_BAD_STEPS:
            steps = self.checkpoints.steps()
            raise UserError(
                f"{self.stage.name}: loss or gradients were not finite for {counts.most} steps in a row "
                f"before step {self.step} (now {counts.in_a_row}); the weights were left alone. "
                f"Last checkpoint: {f'step {steps[-1]}' if steps else 'none'}. "
                "Lower the learning rate or clip_norm, or look at the data."
            )

    def _look(self, at: Callable[[], None]) -> None:
        """Lets rank 0 look at the averaged model, whole."""
        with self._averaged(), unsharded(self.turns["model"].module):
            self.process.on_main(at)
        self._tell(self.unreadable.held_out())

    def _tell(self, sentences: Sequence[str]) -> None:
        for sentence in sentences:
            self.report.note(sentence, once=True)

    def _validate(self) -> None:
        values = self.stage.validate()
        self.report.metrics(self.step, {f"validate/{k}": v for k, v in values.items()})

    def _preview(self) -> None:
        try:
            self.stage.preview(self.folder / "previews", self.step)
        except UserError as error:
            self._note(f"no preview at step {self.step}: {error}")

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        modules = [*self.stage.turns.values(), *self.stage.ema_modules.values()]
        for module in modules:
            module.eval()
        try:
            with self.average.swapped(), torch.no_grad():
                yield
        finally:
            for module in modules:
                module.train()

    def _save(self, final: bool) -> None:
        if self.step == self.saved:
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
            "window": {k: torch.stack(v).tolist() for k, v in self.window.items()},
        }
        checkpoint = Checkpoint(self.step, tensors, values)

        def save() -> None:
            self.report.sync()  # What was told up to a checkpoint is on the disk when it is.
            self.checkpoints.save(checkpoint)

        try:
            self.process.on_main(save, checkpoint.gather)
            self.saved = self.step
        except UserError as error:
            if final:
                raise
            self._note(f"{error}; training goes on")

    def _resume(self) -> None:
        self.step = self.process.from_main(self.process.on_main(self._newest) or 0)
        if self.step == 0:
            return
        saved = self.checkpoints.load(self.step)
        refuse_changes(saved.values["identity"], self.identity, str(self.folder))
        device = self.process.device
        for name, turn in self.turns.items():
            turn.load(dict(saved.tensors[name]))
            turn.load_optimizer_state(dict(saved.tensors["optimizer"]))
        self.average.load(saved.tensors["ema"])
        self.withheld.load(saved.values)  # a new start has its own ten chances
        self.window = {
            k: list(torch.tensor(v, device=device).unbind())
            for k, v in saved.values["window"].items()
        }
        done = self.step == self.config.steps
        self._note("already done" if done else f"resumed at step {self.step}")
        if saved.values["versions"] != library_versions():
            self._note(
                f"the checkpoint is from {saved.values['versions']}, this is {library_versions()}: "
                "numbers may differ in rounding from here on"
            )

    def _newest(self) -> int:
        self.checkpoints.clean()
        return self.checkpoints.newest_whole()

    def _is_out_of_time(self) -> bool:
        """Whether an earlier start of this job has already used up the same budget."""
        step, minutes = self.step, self.config.max_minutes
        return was_out_of_time(self.folder, step, minutes, self.report.note)

    def _learning_rate(self) -> float:
        return self.config.learning_rate * learning_rate_factor(self.step - 1, self.config)

    def _note(self, sentence: str) -> None:
        if hasattr(self, "report"):
            self.report.note(sentence)
        else:
            self.notes.append(sentence)


def _part(number: int, parts: int, tensor: Tensor) -> Tensor:
    return tensor.chunk(parts)[number]


def _map(change: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """The batch, a nest of dicts and (named) tuples of tensors, with every tensor changed."""
    if isinstance(batch, dict):
        return {key: _map(change, value) for key, value in batch.items()}
    if isinstance(batch, tuple):
        return type(batch)(*(_map(change, value) for value in batch))
    return change(batch)


def _means(window: Mapping[str, list[Tensor]], process: Process) -> dict[str, float]:
    """Mean of each term over its finite values and over processes; one transfer for all."""
    if not window:
        return {}
    values = [torch.stack(steps) for steps in window.values()]
    means = torch.stack([v.where(v.isfinite(), torch.nan).nanmean() for v in values])
    return dict(zip(window, process.mean(means).tolist(), strict=True))


def _due(step: int, every: int, last: bool) -> bool:
    return every > 0 and (step % every == 0 or last)
