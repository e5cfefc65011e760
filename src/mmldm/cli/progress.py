"""One progress line with a time estimate, for work that reports (what, done, total)."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressLine:
    """Call it as `line(what, done, total)`; a bar appears with the first call and ends with the last.

    It owns the terminal only while its work lasts, so that a training job can show its own line afterwards.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.what: str | None = None
        self.progress: Progress | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self.what or self.progress is None:
            self.stop()
            self.what = what
            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.progress.start()
            self.task = self.progress.add_task(what, total=total)
        self.progress.update(self.task, completed=done, total=total)
        if done >= total:
            self.stop()

    def stop(self) -> None:
        """Ends the current bar; also for work that fails half-way."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
