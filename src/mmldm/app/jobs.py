"""Requests wait in one bounded line, and one thread computes them; each can be stopped at any step.

work, visitor -> Job (waiting, at work, over) -> Entry, or a sentence
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable

from mmldm.app.sittings import Entry
from mmldm.errors import UserError
from mmldm.training.live import span

OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory")
TOLD = 3.0
"""Seconds after which the time that is left can be told."""


class Stopped(Exception):  # noqa: N818 (nothing is wrong)
    """The visitor has stopped a job."""


class Job:
    """One request.

    Args:
        visitor: Whose it is.
        work: Makes the entry; it calls `progress` of the job that it is given at every step.

    Attributes:
        entry: What was made.
        error: A sentence, where nothing was.
        stopped: Whether the visitor has stopped it.
        steps: Of the sampler, that were computed.
    """

    def __init__(self, visitor: str, work: Callable[[Job], Entry]) -> None:
        self.visitor, self._work = visitor, work
        self.entry: Entry | None = None
        self.error: str | None = None
        self.stopped = False
        self.steps = 0
        self._stop = threading.Event()
        self._over = threading.Event()
        self._what, self._done, self._total = "", 0, 0
        self._begun = self._since = 0.0

    @property
    def over(self) -> bool:
        return self._over.is_set()

    @property
    def at_work(self) -> bool:
        return bool(self._begun)

    @property
    def share(self) -> float | None:
        """How much of what is being done is done; None: that cannot be told."""
        return self._done / self._total if self._total else None

    def wait(self, seconds: float) -> bool:
        """Whether it is over, after so many seconds at most."""
        return self._over.wait(seconds)

    def stop(self) -> None:
        """Asks it to stop: it does so at the next step."""
        self._stop.set()

    def check(self) -> None:
        """Raises Stopped if the visitor has stopped it."""
        if self._stop.is_set():
            raise Stopped

    def progress(self, what: str, done: int, total: int) -> None:
        """Takes how far the work is; a `types.Progress`."""
        self.check()
        if what != self._what:
            self._what, self._since = what, time.monotonic()
        if what == "generator steps":
            self.steps += 1
        self._done, self._total = done, total

    def say(self, what: str) -> None:
        """Work begins of which nobody knows how far it is."""
        self.check()
        self._what, self._done, self._total = what, 0, 0

    def sentence(self) -> str:
        """What is being done, and how long it will still take."""
        if not self._total:
            return f"{self._what or 'beginning'} ..."
        if self._done >= self._total:
            return f"{self._what} {self._done} of {self._total}, now decoding ..."
        spent = time.monotonic() - self._since
        left = ""
        if self._done and spent > TOLD:
            left = f", about {span(spent / self._done * (self._total - self._done))} left"
        return f"{self._what} {self._done} of {self._total}{left}"

    def run(self) -> None:
        """Does the work; whatever goes wrong becomes a sentence."""
        self._begun = time.monotonic()
        try:
            self.check()
            self.entry = self._work(self)
        except Stopped:
            self.stopped = True
        except UserError as error:
            self.error = str(error)
        except OSError as error:
            self.error = (
                f"a file could not be written or read: {error.strerror or 'the disk said no'}"
            )
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or any(s in str(error) for s in OUT_OF_MEMORY):
                self.error = (
                    "there was too little memory: ask for fewer clips, or for fewer seconds"
                )
            else:
                self._fault()
        except Exception:  # noqa: BLE001 - the page lives on
            self._fault()
        finally:
            self._over.set()

    def refuse(self, sentence: str) -> None:
        """Ends it before it has begun."""
        self.error = sentence
        self._over.set()

    def _fault(self) -> None:
        """A mistake of the program: its text goes to the terminal, not to the visitor."""
        traceback.print_exc(file=sys.stderr)
        self.error = "the program has made a mistake; the terminal in which the page was started has its text"


class Line:
    """The line in which requests wait.

    Args:
        most: That may wait, of all visitors.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[Job] = deque()
        self._current: Job | None = None
        self._news = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def submit(self, visitor: str, work: Callable[[Job], Entry]) -> Job:
        """Takes a request.

        Raises:
            UserError: The visitor's last one is not over, or the line is full.
        """
        job = Job(visitor, work)
        with self._news:
            if self._closed:
                raise UserError("the page is being closed")
            if any(other.visitor == visitor for other in self._jobs()):
                raise UserError("your last request is still at work: wait for it, or stop it")
            if len(self._waiting) >= self._most:
                raise UserError(f"{self._most} requests are waiting already: try again in a minute")
            self._waiting.append(job)
            self._news.notify()
        return job

    def ahead(self, job: Job) -> int:
        """How many requests come before this one."""
        with self._news:
            if job not in self._waiting:
                return 0
            return self._waiting.index(job) + (self._current is not None)

    def stop(self, visitor: str) -> bool:
        """Stops what a visitor has asked for; whether there was anything."""
        with self._news:
            own = [job for job in self._jobs() if job.visitor == visitor]
            for job in own:
                job.stop()
                if job in self._waiting:
                    self._waiting.remove(job)
                    job.run()  # it says that it is stopped
        return bool(own)

    def close(self) -> None:
        """Stops everything."""
        with self._news:
            self._closed = True
            for job in self._jobs():
                job.stop()
            for job in self._waiting:
                job.refuse("the page is being closed")
            self._waiting.clear()
            self._news.notify()
        self._thread.join(timeout=10)

    def _jobs(self) -> list[Job]:
        return [*self._waiting, *([self._current] if self._current is not None else [])]

    def _serve(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                self._current = self._waiting.popleft()
            self._current.run()
            with self._news:
                self._current = None
