"""How long a job trains: so many steps, or so many minutes; and how its learning rate ends well in both.

train section, wall clock -> Schedule (steps between which the rate rises, stays and falls) and, between
steps, what is due. A job with minutes does not know its last step: its rate stays until what is left of the
time is the fall's share of the steps that there will be. Only then is the last step decided, and a
checkpoint holds the decision before a step uses it; so whatever resumes afterwards takes the same steps at
the same rates.

Source: the warm-up, stable, decay schedule of Hu et al., "MiniCPM", 2024.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from mmldm.sections import TrainConfig
from mmldm.training.distributed import Process
from mmldm.training.stopping import AGREE_EVERY

FALL = 0.2
"""Share of the steps, those of the warm-up among them, in which the rate falls."""
UNTIMED = 3
"""First steps of a process that tell nothing of its speed: memory is taken, kernels are chosen, compiled."""
TIMED = 5
"""Steps after those, with which the plan is told."""
LOOKS = 8
"""Equal parts of the time that end in validation, preview and checkpoint."""
LOOKING = 0.25
"""Largest share of the time for that: where a look is dear, there are fewer."""
SAVE_SECONDS = 600.0
"""Longest time between two checkpoints of a job with minutes."""
LEFT_SECONDS = 60.0
"""Time that a job leaves unused, of which one says so."""
EXPECTED = ((0.5, ""), (0.02, "expect blurs"), (0.0, "expect noise"))
"""What comes of a share of the steps that are enough, from that share on."""


@dataclass(frozen=True)
class Schedule:
    """When a job's learning rate rises and falls, in completed steps.

    Attributes:
        start: Where the warm-up begins: 0, or where a job goes on whose rate had fallen.
        fall: Where the fall begins; None: not decided yet.
        end: The last step; None likewise.
        minutes: The recipe's, with which the end was decided; None: steps alone decided it.
        steps: The recipe's, likewise.
    """

    start: int = 0
    fall: int | None = None
    end: int | None = None
    minutes: float | None = None
    steps: int | None = None

    @classmethod
    def opening(cls, train: TrainConfig) -> Schedule:
        """Of a job that begins."""
        if train.minutes is not None:
            return cls()
        return cls(0, train.warmup_steps, train.steps, None, train.steps)

    @classmethod
    def saved(cls, state: Mapping[str, Any]) -> Schedule:
        """Of a checkpoint's `state.json`. One that does not tell it falls from its warm-up on."""
        if "schedule" in state:
            return cls(**state["schedule"])
        train = state["identity"]["train"]
        return cls(0, train["warmup_steps"], train["steps"], None, train["steps"])

    def in_state(self, train: TrainConfig) -> dict[str, Any]:
        """What a checkpoint tells of it: nothing where the recipe tells it all, as it always did."""
        return {} if self == Schedule.opening(train) and self.end else {"schedule": asdict(self)}

    def kept(self, train: TrainConfig) -> int | None:
        """Step of the checkpoint that a job can go on from, if its rate stays until it falls there."""
        return self.fall if self.in_state(train) else None

    def is_outgrown(self, train: TrainConfig) -> bool:
        """Whether a recipe asks for more than what the end was decided with."""
        if self.end is None:
            return False
        if train.minutes is None:
            return train.steps is not None and train.steps > self.end
        if self.minutes is None:
            return True
        if self.end == self.steps:
            return train.steps is None or train.steps > self.end
        return train.minutes > self.minutes

    def continued(self, train: TrainConfig, step: int, has_fallen: bool) -> Schedule:
        """Of a job that goes on after `step` steps, because it is asked for more.

        Args:
            has_fallen: Whether its rate has begun to fall by then, so that it has to rise again.
        """
        start = step if has_fallen else self.start
        if train.minutes is not None:
            return Schedule(start)
        assert train.steps is not None, "a recipe has one of the two"
        return Schedule(start, None, None).ending(step, train.steps, train)

    def ending(self, step: int, end: int, train: TrainConfig) -> Schedule:
        """With its last step decided after `step` steps: the rate stays as long as it may, and falls."""
        fall = max(step, end - self.falling(end))
        return Schedule(self.start, fall, end, train.minutes, train.steps)

    def falling(self, end: int) -> int:
        """Steps of a fall that ends at `end`."""
        return max(1, round(FALL * (end - self.start)))


@dataclass(frozen=True)
class Due:
    """What a job with minutes has to do between two steps.

    Attributes:
        look: Validate, and show.
        save: Write a checkpoint.
        end: The last step, now that the rate has to fall; 0: not yet.
    """

    look: bool = False
    save: bool = False
    end: int = 0


class Budget:
    """The time of a job by wall clock, with caches, validation and previews; between its starts it stands.

    Args:
        minutes: In all, with those of earlier starts.
        most: Steps after which there is nothing more to do; None: as many as there is time for.
        began: When this process began to work for the job, by `time.monotonic`; None: now.
        enough: Steps after which such a job is known to do well; None: nobody knows.
    """

    def __init__(
        self,
        minutes: float,
        most: int | None = None,
        began: float | None = None,
        enough: int | None = None,
    ) -> None:
        self.total, self.most, self.enough = max(60 * minutes, 1.0), most, enough
        self._began = time.monotonic() if began is None else began
        self._spent, self._first, self._begun = 0.0, 0, self._began
        self._timed: tuple[float, int] | None = None
        self._looked = self._look = self._looking = 0.0
        self._looks, self._saved, self._told = 0, self._began, False

    @property
    def seconds(self) -> float:
        """Used up to now."""
        return self._spent + time.monotonic() - self._began

    @property
    def left(self) -> float:
        """Seconds; below 0 beyond the end."""
        return self.total - self.seconds

    def begin(self, step: int, spent: float) -> None:
        """Training begins after `step` steps that took `spent` seconds."""
        self._spent, self._first, self._begun = spent, step, time.monotonic()
        self._looks = int(LOOKS * self.seconds / self.total)

    def took(self, step: int) -> None:
        """A step has been taken. Nothing waits for the device: over many steps the host keeps its pace."""
        if step - self._first == UNTIMED:
            self._timed, self._looked = (time.monotonic(), step), 0.0

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Around validation and preview: their time is not the steps'."""
        began = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - began
            self._looked += took
            self._looking += took
            self._look = max(self._look, took)

    def pace(self, step: int) -> float | None:
        """Seconds of a step, after `step` of them; None: none was taken here."""
        if self._timed is not None and step > self._timed[1]:
            began, first = self._timed
            return max(time.monotonic() - began - self._looked, 1e-6) / (step - first)
        steps = step - self._first
        return max(time.monotonic() - self._begun, 1e-6) / steps if steps else None

    def planned(self, step: int) -> int | None:
        """The last step that there is time for, as it looks after `step` of them; None: nobody can know."""
        pace = self.pace(step)
        if pace is None:
            return None
        # Looks to come cost what the dearest has cost, and no more than their share.
        looks = min((LOOKS - self._looks) * self._look, LOOKING * max(self.left, 0.0))
        end = step + max(1, int((self.left - looks) / pace))
        return end if self.most is None else max(step, min(end, self.most))

    def plan(self, step: int, schedule: Schedule) -> tuple[int, str]:
        """The last step, as it looks or is decided, 0 if unknown; and what to say of it after `step`."""
        end = schedule.end or self.planned(step) or 0
        pace = self.pace(step)
        if step == schedule.fall:
            words = f"the learning rate falls from step {step} on, to the last step, {end}"
            unused = self.left - (end - step) * (pace or 0.0)
            if end == self.most and unused > LEFT_SECONDS:
                words += (
                    f": the recipe takes no more steps, about {clock(unused)} of its time stay for "
                    "what comes after; with `steps: null` it takes them all"
                )
            return end, words
        if self._told or pace is None or step - self._first < UNTIMED + TIMED:
            return end, ""
        self._told = True
        return end, (
            f"{clock(pace)} a step: {judged(end, self.enough, pace)}, with {clock(self.left)} left"
        )

    def due(self, step: int, schedule: Schedule, process: Process) -> Due:
        """What is due after `step` steps: the same on every process, by rank 0's clock; a collective call."""
        if process.world > 1 and step % AGREE_EVERY:
            return Due()
        # The first steps decide nothing, unless time or steps are up with them.
        up = self.left <= 0 or (
            self.most is not None and self.most - step <= schedule.falling(self.most)
        )
        planned = None
        if schedule.end is None and (up or step - self._first > UNTIMED):
            planned = self.planned(step)
        end = planned if planned and planned - step <= schedule.falling(planned) else 0
        now, parts = time.monotonic(), int(LOOKS * self.seconds / self.total)
        affordable = self._looking <= LOOKING * (time.monotonic() - self._began)
        look = affordable and self._looks < parts < LOOKS and step > self._first
        save = look or now - self._saved > SAVE_SECONDS
        # One number tells the others all of it.
        code = process.from_main(4 * end + 2 * look + save)
        end, look, save = code // 4, bool(code & 2), bool(code & 1)
        if look:
            self._looks = max(parts, self._looks)
        if save:
            self._saved = now
        return Due(look, save, end)


def judged(steps: int, enough: int | None, pace: float | None = None) -> str:
    """A number of steps beside the one that is known to be enough, and what to expect of it.

    Args:
        pace: Seconds of a step, to tell how long enough of them would take.
    """
    if enough is None:
        return f"about {steps:,} steps"
    words = f"{steps:,} of about {enough:,} steps"
    expected = next(told for least, told in EXPECTED if steps >= least * enough)
    if not expected:
        return words
    time_needed = f"{clock(enough * pace)} would do, or " if pace else ""
    return f"{words}: {expected}; {time_needed}start from a model (--from)"


def clock(seconds: float) -> str:
    """A time as one says it: "6 h", "25 min", "110 s", "0.21 s"; two digits tell enough."""
    seconds = max(seconds, 0.0)
    value, unit = seconds, "s"
    if seconds >= 2 * 3600:
        value, unit = seconds / 3600, "h"
    elif seconds >= 120:
        value, unit = seconds / 60, "min"
    return f"{float(f'{value:.2g}'):g} {unit}"
