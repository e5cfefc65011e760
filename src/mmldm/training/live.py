"""A console that is never silent for long, and whose lines are kept in a log.

work -> `doing(console, "vae: validation")` -> a line, where nothing else was said for `EVERY` seconds.
`cli.terminal` shows the work before the jobs with it, `training.report` the jobs. On any other console
lines are only printed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from mmldm.text import printable

EVERY = 30.0
"""Most seconds between two lines."""
SOON = 0.8
"""Of `EVERY`: after so long, work that moves says how far it is, before the console says that it lasts."""
KEPT = 1000
"""Lines that wait for a log, or for the disk to take them."""
LOG = "train.log"


class LiveConsole(Console):
    """A console that says what is being done when it has said nothing for `EVERY` seconds.

    Args:
        options: Of rich's console.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._heard = time.monotonic()
        self._work: list[tuple[Callable[[], str], float]] = []
        self._over = threading.Event()
        self._kept: deque[str] = deque(maxlen=KEPT)
        self._log_path: Path | None = None
        self._writing = threading.Lock()

    @contextmanager
    def doing(self, what: Callable[[], str]) -> Iterator[None]:
        """Inside, this is what is being done; the innermost work is the one that is told.

        Work that goes on after a part of it is over is timed from there.

        Args:
            what: Gives the words when there is need of them.
        """
        outermost = not self._work
        self._work.append((what, time.monotonic()))
        if outermost:
            self._over = threading.Event()
            threading.Thread(target=self._watch, args=(self._over,), daemon=True).start()
        try:
            yield
        finally:
            self._work.pop()
            self.turned()
            if outermost:
                self._over.set()

    def turned(self) -> None:
        """What is being done has changed: it is timed from here."""
        self._work[-1:] = [(what, time.monotonic()) for what, _ in self._work[-1:]]

    def heard(self) -> None:
        """Something was shown just now: the next half minute needs no line."""
        self._heard = time.monotonic()

    def _quiet(self) -> float:
        """Seconds since something was shown."""
        return time.monotonic() - self._heard

    def write_down(self, line: str) -> None:
        """Writes a line into the log, or keeps it until there is one."""
        with self._writing:
            self._kept.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {printable(line)}\n")
            self._flush_log()

    def record_in(self, log: Path) -> None:
        """Names the log; what was said before is written into it now."""
        with self._writing:
            self._log_path = log
            self._flush_log()

    def _flush_log(self) -> None:
        # A disk that is full, or a folder that has gone, costs the log; others say what goes wrong there.
        if self._log_path is not None:
            with suppress(OSError):
                with self._log_path.open("a", encoding="utf-8") as file:
                    file.write("".join(self._kept))
                self._kept.clear()

    def _watch(self, over: threading.Event) -> None:
        """Says what is being done, now and then, until it is over."""
        while not over.wait(min(max(0.1, EVERY - self._quiet()), threading.TIMEOUT_MAX)):
            work = self._work[-1:]
            if work and self._quiet() >= EVERY:
                what, since = work[0]
                say(self, f"{what()}, {span(time.monotonic() - since)} so far")


def say(console: Console, line: str) -> None:
    """Prints a line as it is; a live console has it in its log, too."""
    console.print(Text(line), soft_wrap=True)
    if isinstance(console, LiveConsole):
        console.heard()
        console.write_down(line)


@contextmanager
def doing(console: Console, what: str | Callable[[], str]) -> Iterator[None]:
    """Inside, a live console says now and then that this is being done."""
    if not isinstance(console, LiveConsole):
        yield
        return
    with console.doing((lambda: what) if isinstance(what, str) else what):
        yield


def span(seconds: float) -> str:
    """Of time, for a person: 40 s, 7 min, 2 h 05 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def clock(seconds: float) -> str:
    """When it will be in so many seconds: 16:20, or Tue 16:20 on another day."""
    now, then = time.localtime(), time.localtime(time.time() + seconds)
    return time.strftime("%H:%M" if now[:3] == then[:3] else "%a %d %b, %H:%M", then)
