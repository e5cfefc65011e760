"""Functions run in worker processes that may hang or die: each call has a wall-clock limit.

function, arguments -> Outcome each, as they finish. A call that hangs costs its time limit, one
that kills its process costs itself; the worker is replaced and the rest goes on.

Calls and results cross the pipe as JSON lines, not pickles, and a worker imports only the module
of its function: it does not load the caller's program again, as multiprocessing's spawn would.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from mmldm.errors import MediaError

# The worker's own alarm, later than its parent's: it ends a hanging worker that lost its parent.
ORPHAN_GRACE = 10.0


@dataclass(frozen=True)
class Outcome:
    """What became of one call: its value, or why there is none.

    Attributes:
        index: Position of the call in the sequence given.
        value: The function's result as JSON gives it back: tuples are lists.
        reason: None, `timeout`, `crashed`, or that of the `MediaError` the function raised.
    """

    index: int
    value: Any = None
    reason: str | None = None
    message: str = ""


def run_isolated(
    function: Callable[..., Any], calls: Sequence[Sequence[Any]], *, workers: int, seconds: float
) -> Generator[Outcome]:
    """Calls `function(*arguments)` for each of `calls` and yields outcomes as they finish.

    Leaving the iterator early stops the workers.

    Args:
        function: Importable by module and name; its arguments and result must be JSON.
        workers: Processes at once.
        seconds: Wall-clock limit per call.
    """
    # Threads take calls from one queue, each with a worker of its own, and put outcomes into another.
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(calls)):
        waiting.put(index)
    done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    crew = [Worker(function, seconds) for _ in range(min(workers, len(calls)))]

    def serve(worker: Worker) -> None:
        while not worker.stopped:
            try:
                index = waiting.get_nowait()
            except queue.Empty:
                break
            done.put(worker.call(index, calls[index]))
        worker.stop()

    threads = [threading.Thread(target=serve, args=(worker,), daemon=True) for worker in crew]
    try:
        for thread in threads:
            thread.start()
        for _ in calls:
            yield done.get()
    finally:
        for worker in crew:
            worker.stop()
        for thread in threads:
            thread.join()


class Worker:
    """One replaceable process, served by one thread of the parent at a time.

    It starts with the first call, and stays for more until `stop`.

    Args:
        function: As in `run_isolated`.
        seconds: Likewise.
    """

    def __init__(self, function: Callable[..., Any], seconds: float) -> None:
        self.target = f"{function.__module__}:{function.__qualname__}"
        self.seconds = seconds
        self.stopped = False
        self.process: subprocess.Popen[str] | None = None

    def call(self, index: int, arguments: Sequence[Any]) -> Outcome:
        """Waits for the answer, for the death of the process, or for the time limit."""
        # A process for this call, and the alarm that ends it.
        try:
            process = self.process = self.process or self._start()
        except OSError as error:
            return Outcome(index, None, "crashed", f"no worker process could start: {error}")
        overdue = threading.Event()

        def kill() -> None:
            overdue.set()
            process.kill()

        alarm = threading.Timer(self.seconds, kill)
        alarm.start()

        # Arguments go out and an answer comes back, or nothing where the process has died.
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(list(arguments)) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            alarm.cancel()
        if line:
            return Outcome(index, **json.loads(line))

        # The next call gets a new process.
        process.kill()
        code = process.wait()
        self.process = None
        if overdue.is_set():
            return Outcome(index, None, "timeout", f"no answer within {self.seconds:g} s")
        return Outcome(index, None, "crashed", f"the process reading it died (exit code {code})")

    def stop(self) -> None:
        """Ends the process, at work or not."""
        self.stopped = True
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()

    def _start(self) -> subprocess.Popen[str]:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "mmldm.media.isolated", self.target, str(self.seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )


def _serve(target: str, seconds: float) -> None:
    """The worker's side: one JSON line in, one out, until its input ends."""
    # Whatever a library prints must not pass for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    for line in sys.stdin:
        _set_alarm(seconds + ORPHAN_GRACE)
        try:
            answer = {"value": function(*json.loads(line))}
        except MediaError as error:
            answer = {"reason": error.reason, "message": str(error)}
        except Exception as error:  # noqa: BLE001 - any failure is one outcome, not the scan's end
            answer = {"reason": "crashed", "message": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        _set_alarm(0)


def _set_alarm(seconds: float) -> None:
    """Ends this process after `seconds`, if it then is still at work; 0 takes that back."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    _serve(sys.argv[1], float(sys.argv[2]))
