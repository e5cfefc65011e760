"""What a run tells: metrics.jsonl, TensorBoard where installed, a progress line, train.log.

{"model/loss": float} per reported step -> files and console. Only rank 0's report writes.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from mmldm.errors import UserError
from mmldm.files import sync, whole_file, write_text
from mmldm.text import printable

METRICS = "metrics.jsonl"
LOG = "train.log"


class Report:
    """The voice of one job; a context manager. What it cannot read or write never stops the job.

    Metrics written after the resumed step by the interrupted run are dropped, so that the file
    reads as one unbroken run.

    Args:
        folder: Run folder.
        name: Job's name, first on the line.
        total: Steps in all.
        start: Steps already done.
        active: Whether this process writes.
        console: Where the line goes; None: standard error.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        total: int,
        start: int,
        active: bool,
        console: Console | None = None,
    ) -> None:
        self._folder = folder
        self._name = name
        self._total = total
        self._active = active
        self._console = console or Console(stderr=True)
        self._pending: list[str] = []
        self._said: set[str] = set()
        self._clock = (time.perf_counter(), start)
        self._board: Any = None
        self._bar = Progress(
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
        self._task = self._bar.add_task(name, total=total, completed=start, line="")
        if active:
            for sentence in _rewind(folder / METRICS, start):
                self.note(sentence)
            try:
                self._board = _summary_writer(folder / "tensorboard", start)
            except OSError as error:
                self.note(f"TensorBoard cannot write ({error}) and is left out")

    def __enter__(self) -> Report:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        self.sync()
        if self._board is not None:
            with suppress(OSError):
                self._board.close()

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        self._bar.update(self._task, completed=step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Records numbers of a step; one that is not finite becomes null in the file.

        `loss_hex` repeats the losses bit for bit, as `float.hex`.
        """
        if not self._active:
            return
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        exact = {k: float(v).hex() for k, v in values.items() if k.endswith("/loss")}
        self._append(json.dumps({"step": step, **finite, **({"loss_hex": exact} if exact else {})}))
        if self._board is not None:
            try:
                for key, value in values.items():
                    self._board.add_scalar(f"{self._name}/{key}", value, step)
            except OSError as error:
                self._board = None
                self.note(f"TensorBoard cannot write ({error}) and is left out from here")

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """Shows losses and speed."""
        if not self._active:
            return
        now = time.perf_counter()
        before, done = self._clock
        self._clock = (now, step)
        speed = (step - done) / max(now - before, 1e-9)
        losses = " ".join(f"{k.removesuffix('/loss')} {v:.4g}" for k, v in values.items())
        self._bar.update(self._task, completed=step, line=f"{losses}  {speed:.3g} it/s")
        if not self._console.is_terminal:
            left = (self._total - step) / max(speed, 1e-9)
            rate = f"{speed:.3g} it/s  {_duration(left)} left"
            self._print(f"{self._name} {step}/{self._total}  {losses}  {rate}")

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
        self._console.print(Text(line), soft_wrap=True)


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
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return [], 0
    records = [record for line in lines if (record := _record(line)) is not None]
    return records, len(lines) - len(records)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(record, dict) and type(record.get("step")) is int:
        return record
    return None


def _rewind(path: Path, step: int) -> Iterator[str]:
    """Cuts the file back to a step; yields what there is to say. Nothing in it is needed to train on."""
    try:
        records, strange = _parse(path)
        if strange:
            aside = _free_name(path)
            with whole_file(aside) as temporary:
                shutil.copyfile(path, temporary)
            yield (
                f"{strange} line(s) of {path.name} cannot be read and are left out; the file as it was "
                f"is kept as {aside.name}"
            )
        kept = [record for record in records if record["step"] <= step and step > 0]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    except (OSError, UserError) as error:
        yield f"{path.name} is left as it is after step {step}, too: {error}"


def _free_name(path: Path) -> Path:
    numbers = itertools.count(1)
    aside = path.with_name(f"damaged_{path.name}")
    while aside.exists():
        aside = path.with_name(f"damaged_{next(numbers)}_{path.name}")
    return aside


def _summary_writer(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
