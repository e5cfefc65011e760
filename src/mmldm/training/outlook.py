"""What a training has before it, in a line: which jobs, how long each, and when they will have ended.

RunConfig, minutes -> text. Cheap to import: it is said before torch is there.
"""

from __future__ import annotations

from mmldm.config import RunConfig
from mmldm.training import JOBS
from mmldm.training.live import clock, span

DEFAULT_MINUTES = 60.0
"""For all jobs of a recipe that is chosen."""


def outlook(config: RunConfig, jobs: tuple[str, ...] = JOBS) -> str:
    """Of a recipe whose steps are decided.

    Args:
        jobs: Those that will be done; the recipe may lack some.
    """
    parts, minutes, is_timed = [], 0.0, True
    for job in jobs:
        section = getattr(config, job)
        if section is None:
            continue
        train = section.train
        # A job has so many steps, or so many minutes.
        minutes_of_job = getattr(train, "minutes", None)
        own = minutes_of_job or getattr(train, "max_minutes", None)
        if train is None:
            parts.append(f"{job} as it is")
        elif minutes_of_job is not None:
            parts.append(f"{job} {span(60 * minutes_of_job)}")
        else:
            parts.append(f"{job} {train.steps:,} steps")
        is_timed = is_timed and (train is None or own is not None)
        minutes += own or 0.0
    end = (
        f"ends about {clock(60 * minutes)}" if is_timed else "the end is told with the first steps"
    )
    return f"jobs: {', '.join(parts)}; {end}"


def first_outlook(jobs: str, minutes: float | None) -> str:
    """Of a recipe that is only chosen once the clips are known.

    Args:
        jobs: How they are named until then.
        minutes: For all jobs; None: `DEFAULT_MINUTES`.
    """
    seconds = 60 * (minutes or DEFAULT_MINUTES)
    return (
        f"jobs: {jobs}; {span(seconds)} in all, ends about {clock(seconds)}; "
        "their steps are told when the clips have been scanned"
    )
