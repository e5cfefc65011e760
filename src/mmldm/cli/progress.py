"""One progress line with a time estimate, for work that reports (what, done, total).

On a terminal it is a bar that moves; elsewhere a plain line now and then, and one at the end.
"""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

PLAIN_EVERY = 30.0
"""Seconds between two plain lines."""


class ProgressLine:
    """Call it as `line(what, done, total)`; a bar comes with the first call, goes with the last.

    It owns the terminal only while its work lasts, so that a training job can show its own line
    afterwards. As a context manager it also ends the bar of work that fails half-way.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._what: str | None = None
        self._bar: Progress | None = None
        self._said = time.monotonic()

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        if self.console.is_terminal:
            self._show(what, done, total)
        else:
            self._say(what, done, total)

    def _say(self, what: str, done: int, total: int) -> None:
        if done >= total or time.monotonic() - self._said > PLAIN_EVERY:
            self.console.print(Text(f"{what} {done}/{total}"), soft_wrap=True)
            self._said = time.monotonic()

    def _show(self, what: str, done: int, total: int) -> None:
        if self._bar is None or what != self._what:
            self._stop()
            self._what = what
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task(what, total=total)
        self._bar.update(self._task, completed=done, total=total)
        if done >= total:
            self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
