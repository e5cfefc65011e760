"""What a run tells: metrics, log, TensorBoard where installed, a progress line, and at the end a page.

{"model/loss": float} per reported step -> files and console. Only rank 0's report writes.
run folder (metrics.jsonl, previews) -> report.html: curves, held-out numbers and previews in one HTML file,
without a script or a request to anywhere.
"""

from __future__ import annotations

import html
import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from mmldm.errors import UserError
from mmldm.files import sync, whole_file, write_text
from mmldm.text import printable
from mmldm.training import JOBS

METRICS = "metrics.jsonl"
LOG = "train.log"
WIDTH, HEIGHT = 640, 160
"""Of a curve on the page, pixels."""
PREVIEWS_SHOWN = 3
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1400px;margin:2em auto;padding:0 1em}
table{border-collapse:collapse}td,th{padding:.2em .8em;border-bottom:1px solid #ccc;text-align:right}
th:first-child,td:first-child{text-align:left}img{max-width:100%}svg{background:#f6f6f6}"""


class Report:
    """The voice of one job. What it cannot read or write never stops the job.

    Args:
        folder: Of the job.
        name: Job's name, first on the line.
        total: Steps in all.
        active: Whether this process writes.
        console: Where the line goes; None: standard error.
    """

    def __init__(
        self, folder: Path, name: str, total: int, active: bool, console: Console | None = None
    ) -> None:
        self._folder, self._name, self._total, self._active = folder, name, total, active
        self._console = console or Console(stderr=True)
        self._pending: list[str] = []
        self._said: set[str] = set()
        self._clock = (time.perf_counter(), 0)
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
        self._task = self._bar.add_task(name, total=total, line="")

    @contextmanager
    def begun(self, step: int) -> Iterator[Report]:
        """Inside, the bar moves and numbers are recorded, from `step` completed steps on.

        Metrics written after that step by an interrupted run are dropped, so that the file reads as one
        unbroken run. Notes are heard before, too.
        """
        self._clock = (time.perf_counter(), step)
        self.advance(step)
        # Files first, then the bar: a note in between would tear it.
        if self._active:
            for sentence in _rewind(self._folder / METRICS, step):
                self.note(sentence)
            try:
                self._board = _summary_writer(self._folder / "tensorboard", step)
            except OSError as error:
                self.note(f"TensorBoard cannot write ({error}) and is left out")
        with self._bar:
            try:
                yield self
            finally:
                self.sync()
                if self._board is not None:
                    with suppress(OSError):
                        self._board.close()

    def expect(self, total: int) -> None:
        """Says how many steps there will be, where that was not known from the start."""
        self._total = total
        self._bar.update(self._task, total=total)

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        self._bar.update(self._task, completed=step)

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
        """Shows losses and speed."""
        if not self._active:
            return
        now = time.perf_counter()
        before, done = self._clock
        self._clock = (now, step)
        speed = (step - done) / max(now - before, 1e-9)
        losses = " ".join(f"{k.removesuffix('/loss')} {v:.4g}" for k, v in values.items())
        self._bar.update(self._task, completed=step, line=f"{losses}  {speed:.3g} it/s")
        # In a file or a pipe there is no bar to move: a line now and then.
        if not self._console.is_terminal:
            minutes, seconds = divmod(round((self._total - step) / max(speed, 1e-9)), 60)
            left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"
            self._print(f"{self._name} {step}/{self._total}  {losses}  {speed:.3g} it/s  {left}")

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


def write_report_page(folder: Path) -> Path:
    """Writes report.html into a run folder and returns its path."""
    parts = [f"<!doctype html><meta charset=utf-8><title>mmldm run</title><style>{STYLE}</style>"]
    parts.append(f"<h1>{_shown(folder.name)}</h1>")
    # The jobs in their order, then the students of `mmldm distill`.
    jobs = {path.parent.name for path in folder.glob(f"*/{METRICS}")}
    for job in (*(j for j in JOBS if j in jobs), *sorted(jobs - set(JOBS))):
        try:
            records = read_metrics(folder / job / METRICS)
        except OSError as error:
            parts.append(f"<h2>{_shown(job)}</h2><p>{_shown(f'no metrics: {error}')}</p>")
        else:
            parts.append(_job_section(folder, job, records))
    page = folder / "report.html"
    write_text(page, "\n".join(parts))
    return page


def _job_section(folder: Path, job: str, records: list[dict[str, Any]]) -> str:
    parts = [f"<h2>{_shown(job)}</h2>", _curve(records, "model/loss")]
    held_out = [
        record for record in records if any(name.startswith("validate/") for name in record)
    ]
    if held_out:
        parts.append(_table(held_out[-1]))
    previews = sorted((folder / job / "previews").glob("[!.]*.png"))
    for picture in previews[-PREVIEWS_SHOWN:]:
        name = _shown(picture.name)
        source = quote(picture.relative_to(folder).as_posix())
        parts.append(
            f"<figure><img src='{source}' alt='{name}'><figcaption>{name}</figcaption></figure>"
        )
    return "\n".join(parts)


def _shown(name: str) -> str:
    return html.escape(printable(name))


def _curve(records: list[dict[str, Any]], name: str) -> str:
    """One quantity over steps as an SVG line, on a scale from its smallest to its largest value."""
    points = [(r["step"], r[name]) for r in records if _is_number(r.get(name))]
    if len(points) < 2:
        return ""
    # The y axis of SVG points down: the smallest value lies lowest, with a margin of 4 pixels.
    steps, values = zip(*points, strict=True)
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    line = " ".join(
        f"{WIDTH * (s - steps[0]) / max(steps[-1] - steps[0], 1):.1f},"
        f"{HEIGHT - (HEIGHT - 8) * (v - low) / span - 4:.1f}"
        for s, v in points
    )
    return (
        f"<p>{html.escape(name)}: {values[0]:.4g} at step {steps[0]}, {values[-1]:.4g} at {steps[-1]}</p>"
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}'>"
        f"<polyline fill='none' stroke='#225' stroke-width='1.5' points='{line}'/></svg>"
    )


def _table(record: dict[str, Any]) -> str:
    cells = "".join(
        f"<tr><td>{html.escape(name.removeprefix('validate/'))}</td><td>{value:.4g}</td></tr>"
        for name, value in record.items()
        if name.startswith("validate/") and _is_number(value)
    )
    return f"<table><tr><th>held out, step {record['step']}</th><th></th></tr>{cells}</table>"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
