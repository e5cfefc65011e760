"""What the commands share: options, a check before minutes of work, and what a person reads meanwhile.

Results go to standard output; notes and progress go to standard error.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmldm.errors import UserError
from mmldm.text import printable_lines
from mmldm.training import live
from mmldm.training.live import LiveConsole
from mmldm.training.live import say as say_on

ModelOption = Annotated[
    str | None,
    typer.Option(
        help="Model or run folder, impacts, freedoom, or a hub name. Default: impacts, which is bundled."
    ),
]
ChangesOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Changes one setting; repeatable."),
]
QualityOption = Annotated[
    str | None,
    typer.Option(help="best, balanced, fast: quality for time. Default: the model's choice."),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        help="Of the folder in OUT. Default: of what is made, and a new one for other clips."
    ),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(help="fp32, tf32 or bf16. Default: bf16 on a GPU that multiplies it, else fp32."),
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: the best.")
]


def require_writable(folder: Path) -> None:
    """Checks a folder that exists, or the nearest one above it that does.

    Raises:
        UserError: A file is in the way, or the folder may not be written to.
    """
    # Not `exists`: a link that leads nowhere is in the way, too.
    nearest = folder.absolute()
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir():
        reason = f"{nearest} is not a folder"
    elif not os.access(nearest, os.W_OK | os.X_OK):
        reason = f"no permission in {nearest}"
    else:
        return
    raise UserError(f"cannot write into {folder}: {reason}; choose another --out.")


def say(text: str) -> None:
    """Prints a result. Names of foreign files in it move no cursor."""
    typer.echo(printable_lines(text))


def note(sentence: str) -> None:
    """Prints what a person should know and need not mend."""
    typer.echo(f"note: {printable_lines(sentence)}", err=True)


def silence_diffusers() -> None:
    """Turns off its warnings and progress bars: the command line has its own."""
    from diffusers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


class ProgressLine:
    """One line of progress with a time estimate, for work that reports `line(what, done, total)`.

    On a terminal it is a bar, which comes with the first call and goes with the last: it owns the terminal
    only while its work lasts, so that a training job can show its own line afterwards. As a context manager
    it also ends the bar of work that fails half-way. Elsewhere it is a plain line now and then, and at the
    end. Inside its context a live console is never silent for long, whatever takes the time.

    Args:
        console: None: standard error.
        aim: What all the work is for; said while nothing else can be.

    Attributes:
        aim: May change while it lasts.
    """

    def __init__(self, console: Console | None = None, aim: str = "at work") -> None:
        self.console = console or LiveConsole(stderr=True)
        self.aim, self._what = aim, ""
        self._begun, self._before = 0.0, 0
        self._far = self._shown = ""
        self._bar: Progress | None = None
        self._said = time.monotonic()
        self._inside = ExitStack()

    def __enter__(self) -> ProgressLine:
        self._inside.enter_context(live.doing(self.console, self._now))
        return self

    def __exit__(self, *error: object) -> None:
        self._inside.close()
        self._stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._what, self._begun, self._before = what, time.monotonic(), done
            self._turned()
        self._far = f"{what} {done}/{total}{self._left(done, total)}"
        if self.console.is_terminal:
            self._show(what, done, total)
        elif done >= total or time.monotonic() - self._said > live.SOON * live.EVERY:
            say_on(self.console, self._far)
            self._said = time.monotonic()
        if done >= total:
            self._ended()

    def brief(self, what: str, done: int, total: int) -> None:
        """The same without the plain line at the end: work that is over soon leaves no line in a log."""
        if self.console.is_terminal or done < total:
            self(what, done, total)
        else:
            self._ended()

    def say(self, sentence: str) -> None:
        """Prints a line, which is in the log, too."""
        say_on(self.console, sentence)

    def record_in(self, folder: Path, is_main: bool) -> None:
        """From here on what is said stands in a log of that folder, with what was said before.

        Of several processes the main one alone goes on to say what takes the time.
        """
        if not is_main:
            self._inside.close()
        elif isinstance(self.console, LiveConsole):
            self.console.record_in(folder / live.LOG)

    def _ended(self) -> None:
        self._what = self._far = ""
        self._turned()

    def _turned(self) -> None:
        """The console times what is being done from here."""
        if isinstance(self.console, LiveConsole):
            self.console.turned()

    def _now(self) -> str:
        """What is being done."""
        return self._far or self.aim

    def _left(self, done: int, total: int) -> str:
        """How long it will still take, once that can be told; what was done before it began took no time."""
        spent, made = time.monotonic() - self._begun, done - self._before
        if not made > 0 or done >= total or spent < live.EVERY / 2:
            return ""
        return f", about {live.span(spent / made * (total - done))} left"

    def _show(self, what: str, done: int, total: int) -> None:
        # Other work gets a bar of its own.
        if self._bar is None or what != self._shown:
            self._stop()
            self._shown = what
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task(what, total=total, completed=done)
        self._bar.update(self._task, completed=done, total=total)
        if isinstance(self.console, LiveConsole):
            self.console.heard()
        if done >= total:
            self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
