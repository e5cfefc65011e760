"""When a run leaves early: on a signal, or when its time is up.

(SIGINT | SIGTERM | max_minutes) -> a reason, the same on every process, asked for between steps.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from mmldm.files import write_json
from mmldm.training.distributed import Process

REASONS = (None, "max_minutes", "SIGTERM", "SIGINT")
AGREE_EVERY = 10
"""Steps between the points at which several processes agree whether to leave."""
OUT_OF_TIME = "out_of_time.json"
"""Written when `max_minutes` ends a job: the step and the budget it had."""


class Stop:
    """Collects reasons to leave.

    Args:
        max_minutes: Time limit from now; None: none.
        process: Asks the others, where there are any: a signal may reach one process first.
    """

    def __init__(self, max_minutes: float | None, process: Process) -> None:
        self._deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._process = process
        self.signal: str | None = None

    def reason(self, step: int) -> str | None:
        """Why to leave after `step`, or None; a collective call."""
        reason = self.signal
        if reason is None and self._deadline is not None and time.monotonic() > self._deadline:
            reason = "max_minutes"
        if self._process.world == 1:
            return reason
        if step % AGREE_EVERY:
            return None
        number = torch.tensor(REASONS.index(reason), device=self._process.device)
        return REASONS[int(self._process.maximum(number).item())]


@contextmanager
def stop_signals(max_minutes: float | None, process: Process) -> Iterator[Stop]:
    """Inside, a first SIGINT or SIGTERM is a reason to leave; a second has its usual effect."""
    stop = Stop(max_minutes, process)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.signal = signal.Signals(number).name
        restore()

    for number in previous:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        restore()


def mark_out_of_time(folder: Path, step: int, minutes: float | None) -> None:
    """Records that a budget was used up after `step`."""
    write_json(folder / OUT_OF_TIME, [step, minutes])


def was_out_of_time(
    folder: Path, step: int, minutes: float | None, note: Callable[[str, bool], None]
) -> bool:
    """Whether an earlier start of a job has used up the same budget after `step`.

    Args:
        note: Called with a sentence, to be said once, if the record cannot be read.
    """
    path = folder / OUT_OF_TIME
    try:
        return bool(json.loads(path.read_bytes()) == [step, minutes])
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        note(f"{path} cannot be read ({error}): training goes on as if time were left", True)
        return False
