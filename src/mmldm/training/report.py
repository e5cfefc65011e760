"""What a job tells while it is trained: metrics, log, TensorBoard where installed, and lines of progress.

{"model/loss": float} per reported step -> files and console. Only rank 0's report writes. What a person
sees of all jobs is `report_page`.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from mmldm.errors import UserError
from mmldm.files import sync, whole_file, write_text
from mmldm.text import printable
from mmldm.training import live
from mmldm.training.live import LOG, LiveConsole, clock, doing, say, span

METRICS = "metrics.jsonl"
A_YEAR = 365 * 24 * 3600.0
"""Seconds: an end that is further away is none."""


class Report:
    """The voice of one job. What it cannot read or write never stops the job.

    Args:
        folder: Of the job.
        name: Job's name, first on the line.
        total: Steps in all; 0: not known yet, see `expect`.
        active: Whether this process writes.
        console: Where the lines go; None: standard error. A live one is never silent for long.
        page: Writes the page of all jobs, and never fails for the disk's sake; None: there is none.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        total: int,
        active: bool,
        console: Console | None = None,
        page: Callable[[], object] | None = None,
    ) -> None:
        self._folder, self._name, self._total, self._active = folder, name, total, active
        self._console = console or LiveConsole(stderr=True)
        self._page = page
        self._pending: list[str] = []
        self._said: set[str] = set()
        self._clock = (time.monotonic(), 0)
        self._step = 0
        self._what = self._losses = self._rate = ""
        self._told, self._due = -math.inf, False
        self._board: Any = None
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[line]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not active or not self._console.is_terminal,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task(name, total=total or None, line="")

    @contextmanager
    def begun(self, step: int) -> Iterator[Report]:
        """Inside, the bar moves and numbers are recorded, from `step` completed steps on.

        Metrics written after that step by an interrupted run are dropped, so that the file reads as one
        unbroken run. Notes are heard before, too.
        """
        self._clock = (time.monotonic(), step)
        self.advance(step)
        # Files first, then the bar: a note in between would tear it.
        if self._active:
            for sentence in _rewind(self._folder / METRICS, step):
                self.note(sentence)
            if step < self._total or not self._total:
                self.note(f"training, step {self._at(step)}")
            try:
                self._board = _summary_writer(self._folder / "tensorboard", step)
            except OSError as error:
                self.note(f"TensorBoard cannot write ({error}) and is left out")
        with self._bar, self._watched():
            try:
                yield self
            finally:
                self.sync()
                if self._board is not None:
                    with suppress(OSError):
                        self._board.close()

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Inside, the line says that this is being done, such as a validation."""
        before, self._what = self._what, what
        self._show()
        try:
            with self._watched():
                yield
        finally:
            self._what = before
            self._show()
            # The steps' own time, without what was done between them.
            self._clock = (time.monotonic(), self._step)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        if not self._active:
            yield
            return
        with doing(self._console, self._where):
            yield

    def _where(self) -> str:
        """What is being done just now."""
        return f"{self._name} {self._at(self._step)}: {self._what or 'at the next step'}"

    def _at(self, step: int) -> str:
        return f"{step}/{self._total or '?'}"

    def page(self) -> None:
        """Has the page of all jobs written, where there is one."""
        if self._page is not None and self._active:
            self._page()

    def expect(self, total: int) -> None:
        """Says how many steps there will be, where that was not known from the start."""
        self._total = total
        self._bar.update(self._task, total=total)

    def advance(self, step: int) -> None:
        """Moves the progress bar; where there is none, says now and then how far the job is."""
        self._step = step
        self._bar.update(self._task, completed=step)
        if not self._active:
            return
        if self._console.is_terminal and isinstance(self._console, LiveConsole):
            self._console.heard()
        # A step later than it is due: the loop may be about to report the same step with its losses.
        quiet = time.monotonic() - self._told
        is_due = step > self._clock[1] and quiet >= live.SOON * live.EVERY
        if is_due and self._due:
            self._tell()
        self._due = is_due

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Records numbers of a step; one that is not finite becomes null in the file.

        `loss_hex` repeats the losses bit for bit, as `float.hex`.
        """
        if not self._active:
            return
        # JSON knows no NaN.
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        exact = {k: float(v).hex() for k, v in values.items() if k.endswith("/loss")}
        self._append(json.dumps({"step": step, **finite, **({"loss_hex": exact} if exact else {})}))
        if self._board is not None:
            try:
                for key, value in values.items():
                    self._board.add_scalar(f"{self._name}/{key}", value, step)
            # A full disk costs the pictures of TensorBoard, not the run.
            except OSError as error:
                self._board = None
                self.note(f"TensorBoard cannot write ({error}) and is left out from here")

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """Shows losses, speed, and when the job will have ended."""
        if not self._active:
            return
        self._step = step
        self._losses = " ".join(f"{k.removesuffix('/loss')} {v:.4g}" for k, v in values.items())
        self._tell()
        self._clock = (time.monotonic(), step)

    def _tell(self) -> None:
        """A line: how far, losses, speed and the end. On a terminal the bar has it, and the log."""
        self._told = time.monotonic()
        before, done = self._clock
        speed = (self._step - done) / max(self._told - before, 1e-9)
        self._rate = f"{self._losses}  {speed:.3g} it/s"
        self._show()
        left = (self._total - self._step) / max(speed, 1e-9)
        is_known = 0 <= left < A_YEAR and self._total
        end = f"{span(left)} left, ends about {clock(left)}" if is_known else "end not known yet"
        line = f"{self._name} {self._at(self._step)}  {self._rate.strip()}  {end}"
        # In a file or a pipe there is no bar to move.
        if not self._console.is_terminal:
            self._print(line)
        elif isinstance(self._console, LiveConsole):
            self._console.write_down(line)

    def _show(self) -> None:
        """On the bar: what is being done, or losses and speed."""
        self._bar.update(self._task, completed=self._step, line=self._what or self._rate)

    def note(self, sentence: str, once: bool = False) -> None:
        """Says something on the console and in train.log; with `once`, only the first time."""
        if not self._active or (once and sentence in self._said):
            return
        self._said.add(sentence)
        sentence = printable(sentence)
        self._print(f"{self._name}: {sentence}")
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            with (self._folder / LOG).open("a", encoding="utf-8") as file:
                file.write(f"{stamp} {sentence}\n")
        except OSError as error:
            self._print(f"{self._name}: cannot write {LOG} ({error})")

    def sync(self) -> None:
        """Returns when all that was told until now is on the disk, where that is possible."""
        if self._active:
            for path in (self._folder / METRICS, self._folder / LOG, self._folder):
                with suppress(OSError):
                    sync(path)

    def _append(self, line: str) -> None:
        # A full disk must not end the run: lines wait in memory for the next attempt. A torn write
        # is cut back first, or the line would stand twice.
        self._pending.append(line)
        path = self._folder / METRICS
        size = None
        try:
            with path.open("a", encoding="utf-8") as file:
                size = file.tell()
                file.write("".join(f"{waiting}\n" for waiting in self._pending))
        except OSError as error:
            if size is not None:
                with suppress(OSError):
                    os.truncate(path, size)
            self.note(f"cannot write {METRICS} ({error}); the lines are kept and tried again", True)
        else:
            self._pending.clear()

    def _print(self, line: str) -> None:
        say(self._console, line)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file: objects with a whole number as their step.

    Any other line is left out; so is the last one, if a crash cut it off.

    Raises:
        OSError: There is a file, and it cannot be read.
    """
    return _parse(path)[0]


def _parse(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records, and how many lines are none."""
    try:
        # Without what follows the last newline: nothing, or a line that a crash cut off.
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return [], 0
    records = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict) and type(record.get("step")) is int:
                records.append(record)
    return records, len(lines) - len(records)


def _rewind(path: Path, step: int) -> Iterator[str]:
    """Cuts the file back to a step; yields what there is to say. Nothing in it is needed to train on."""
    try:
        # Strange lines are somebody's, perhaps the disk's: a copy is kept before they go.
        records, strange = _parse(path)
        if strange:
            numbers = itertools.count(1)
            aside = path.with_name(f"damaged_{path.name}")
            while aside.exists():
                aside = path.with_name(f"damaged_{next(numbers)}_{path.name}")
            with whole_file(aside) as temporary:
                shutil.copyfile(path, temporary)
            yield (
                f"{strange} line(s) of {path.name} cannot be read and are left out; the file as it was "
                f"is kept as {aside.name}"
            )
        # Steps that will be taken again will be told again.
        kept = [record for record in records if record["step"] <= step and step > 0]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    except (OSError, UserError) as error:
        yield f"{path.name} is left as it is after step {step}, too: {error}"


def _summary_writer(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1)
