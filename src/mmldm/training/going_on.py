"""Where a job stands, and where it begins: at step 0, at its newest checkpoint, or before its rate fell.

checkpoints, train section -> the state to train from, with its schedule. Asked for more steps or minutes, a
job takes up the checkpoint of the step at which its learning rate began to fall, which is kept, and gets a
new fall. A job whose rate fell from the start has none: it goes on from its end, with a new warm-up.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mmldm.data.cache_writer import json_of
from mmldm.files import make_folder, sync
from mmldm.sections import TrainConfig
from mmldm.training.budget import Schedule
from mmldm.training.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    DamagedError,
    library_versions,
    refuse_changes,
)
from mmldm.training.distributed import Process
from mmldm.training.stopping import was_out_of_time
from mmldm.types import Say


def identity_of(train: TrainConfig, harmless: frozenset[str]) -> dict[str, Any]:
    """What a resumed job must share of its `train` section. With minutes its length is not among it."""
    shared = {k: v for k, v in train.model_dump().items() if k not in harmless}
    return shared if train.minutes is None else {**shared, "steps": None}


@dataclass(frozen=True)
class Taken:
    """What a job is trained on from: a state, and the schedule of the steps to come."""

    checkpoint: Checkpoint
    schedule: Schedule


def take_up(
    checkpoints: CheckpointFolder,
    train: TrainConfig,
    identity: Mapping[str, Any],
    process: Process,
    note: Say,
) -> Taken | None:
    """The state that a job is trained on from, as the recipe asks now; a collective call.

    Args:
        identity: What a resumed run must share with the saved one.

    Returns:
        None: there is no checkpoint, and the job begins.

    Raises:
        UserError: A setting changed since, or it asks for fewer steps than were decided; every checkpoint
            is damaged, or one cannot be read.
    """

    def newest_whole() -> int:
        checkpoints.clean()
        return checkpoints.newest_whole()

    newest = process.from_main(process.on_main(newest_whole) or 0)
    if newest == 0:
        return None
    saved = checkpoints.load(newest)
    taken = _taken(checkpoints, saved, train, identity, note)
    step = taken.checkpoint.step
    note("already done" if step == taken.schedule.end else f"resumed at step {step}")
    if saved.values["versions"] != library_versions():
        note(
            f"the checkpoint is from {saved.values['versions']}, this is {library_versions()}: "
            "numbers may differ in rounding from here on"
        )
    if step < newest:
        note(
            f"asked for more than the {newest} steps it has: it goes on from before its learning rate fell; "
            "what it has exported stays until the new one is whole"
        )
        # Written whole, then left as the newest: until then the same command does the same again.
        process.on_main(lambda: checkpoints.save(taken.checkpoint, step))
        process.on_main(lambda: checkpoints.cut(step))
    return taken


def _taken(
    checkpoints: CheckpointFolder,
    saved: Checkpoint,
    train: TrainConfig,
    identity: Mapping[str, Any],
    note: Say,
) -> Taken:
    """The newest state, or the one before the fall where the recipe asks for more than it ended with."""
    # The length alone may change, to more.
    newest, schedule = saved.step, Schedule.saved(saved.values)
    counts_now = schedule.end is None and train.minutes is None and (train.steps or 0) > newest
    outgrown = schedule.is_outgrown(train)
    earlier = saved.values["identity"]
    if counts_now or outgrown:
        steps = identity["train"]["steps"]
        earlier = {**earlier, "train": {**earlier["train"], "steps": steps}}
    refuse_changes(earlier, identity, str(checkpoints.job))
    if counts_now:
        assert train.steps is not None, "it is larger than a step"
        return Taken(saved, schedule.ending(newest, train.steps, train))
    if not outgrown:
        return Taken(saved, schedule)

    # Asked for more: from before the fall, where that was kept.
    fall = schedule.fall
    if "schedule" in saved.values and fall is not None and fall < newest:
        try:
            before = checkpoints.load(fall)
        except DamagedError as error:
            note(f"{error}; the job goes on from step {newest}, with a new warm-up")
        else:
            schedule = schedule.continued(train, fall, has_fallen=False)
            # The time of the fall that is taken back is used all the same.
            values = {
                **before.values,
                "identity": identity,
                "seconds": max(state.values.get("seconds", 0.0) for state in (before, saved)),
                "schedule": asdict(schedule),
            }
            return Taken(replace(before, values=values), schedule)
    has_fallen = fall is not None and newest > fall
    return Taken(saved, schedule.continued(train, newest, has_fallen))


@dataclass(frozen=True)
class Standing:
    """What the newest checkpoint of a job tells, which is only looked at.

    Attributes:
        step: Completed steps.
        seconds: That they took; 0 where the job counts steps alone.
        ended: Whether they are all that the recipe asks for, and are exported.
    """

    step: int
    seconds: float
    ended: bool

    @classmethod
    def of(cls, folder: Path, train: TrainConfig) -> Standing | None:
        """None: there is no checkpoint that can be read."""
        checkpoints = CheckpointFolder(folder / "checkpoints", train.keep, _hush)
        for step in reversed(checkpoints.steps()):
            with suppress(KeyError, TypeError):
                state = json_of(checkpoints.folder(step) / "state.json")
                ended = has_ended(state, step, folder, train) and (folder / "export").is_dir()
                return cls(step, float(state.get("seconds", 0.0)), ended)
        return None


def has_ended(state: Mapping[str, Any], step: int, folder: Path, train: TrainConfig) -> bool:
    """Whether a job has taken all its steps, or all its time, as its recipe stands now.

    Args:
        state: Of its newest checkpoint.
        step: Of that.
    """
    schedule = Schedule.saved(state)
    if step == schedule.end and not schedule.is_outgrown(train):
        return True
    return was_out_of_time(folder, step, train.max_minutes, _hush)


def set_aside(root: Path, job: str) -> Path:
    """Moves a job's folder to RUN/before/JOB_1, _2 and so on: it begins anew, and nothing is lost."""
    numbers = (root / "before" / f"{job}_{number}" for number in itertools.count(1))
    aside = next(place for place in numbers if not place.exists())
    make_folder(aside.parent)
    (root / job).rename(aside)
    sync(aside.parent)
    sync(root)
    return aside


def _hush(*sentence: object) -> None:
    """Training itself will tell what is wrong with checkpoints and marks."""
