"""Rounds of a run: the minutes that it is given, shared over its jobs, and given again.

recipe, where its jobs stand, `--minutes`, `--jobs` -> the recipe with each job's minutes. A round's minutes
are wall clock. They are shared over its jobs, and what one does not use goes to the next. The same minutes
again go on with a round that was interrupted; other minutes share it anew; and once it is finished, minutes
are a new round, for the generator or for the jobs that are named. The round stands in config.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmldm.config import RECIPES, RunConfig, load_config, parse
from mmldm.errors import UserError
from mmldm.training import JOBS
from mmldm.training.budget import Budget, clock, judged
from mmldm.training.going_on import Standing
from mmldm.training.outlook import DEFAULT_MINUTES

SHARES = {"vae": 0.2, "autoencoder": 0.4, "generator": 0.4, "vocoder": 0.2}
"""How minutes are shared over the jobs that a round has: in these proportions."""
LEAST_MINUTES = 1.0
"""Below, a job would hardly have begun."""
READERS = {
    "vae": ("autoencoder", "generator"),
    "autoencoder": ("generator",),
    "generator": (),
    "vocoder": (),
}
"""Jobs that learn what a job has exported: they have to be made anew after it."""


def trained_jobs(config: RunConfig) -> tuple[str, ...]:
    """The jobs of a recipe that train something, in order."""
    return tuple(job for job in JOBS if config.training_of(job) is not None)


def standings(config: RunConfig, folder: Path) -> dict[str, Standing]:
    """Where the jobs of a run stand that have begun."""
    found = {}
    for job in trained_jobs(config):
        train = config.training_of(job)
        if train is not None and (standing := Standing.of(folder / job, train)) is not None:
            found[job] = standing
    return found


def left_over(config: RunConfig, standing: Mapping[str, Standing], job: str) -> float:
    """Minutes that the jobs before this one have not used; below 0: that they have used beyond their own."""
    minutes = 0.0
    for earlier in JOBS[: JOBS.index(job)]:
        train = config.training_of(earlier)
        if train is not None and train.minutes is not None and earlier in standing:
            state = standing[earlier]
            minutes += (train.minutes - state.seconds / 60) if state.ended else 0.0
    return minutes


def require_time(minutes: float) -> None:
    """Refuses minutes in which nothing can be learnt.

    Raises:
        UserError: They are below LEAST_MINUTES.
    """
    if minutes < LEAST_MINUTES:
        raise UserError(
            f"--minutes {minutes:g} is too short to learn anything: give at least {LEAST_MINUTES:g}, better "
            f"{DEFAULT_MINUTES:g}, or --set JOB.train.steps=N for a try."
        )


def given_minutes(
    config: RunConfig, folder: Path, minutes: float, jobs: Sequence[str] | None = None
) -> RunConfig:
    """A recipe for the minutes that a run folder is given, whether it has begun or not.

    Raises:
        UserError: As `in_next_round`.
    """
    recorded = folder / "config.yaml"
    if not recorded.is_file():
        return in_first_round(config, minutes, jobs)
    own = load_config(recorded)
    return in_next_round(config, own, standings(own, folder), minutes, jobs)


def in_first_round(
    config: RunConfig, minutes: float, jobs: Sequence[str] | None = None
) -> RunConfig:
    """A recipe whose jobs have minutes, shared; its numbers of steps are the most that they take.

    Raises:
        UserError: There are too few, or a job is named that trains nothing.
    """
    return _shared(config, minutes, _named(config, jobs or trained_jobs(config), minutes), {})


def in_next_round(
    config: RunConfig,
    own: RunConfig,
    standing: Mapping[str, Standing],
    minutes: float,
    jobs: Sequence[str] | None = None,
) -> RunConfig:
    """The recipe of a run that has begun, with the minutes it is given now.

    Args:
        config: What the run is to be trained by.
        own: The recipe that the run has recorded.
        standing: Where its jobs stand.
        jobs: That are named; None: those of the round, and of a new one the generator.

    Raises:
        UserError: As `in_first_round`, or that many minutes are used already.
    """
    require_time(minutes)
    trained, earlier = trained_jobs(config), own.budget
    named = None if jobs is None else _named(config, jobs, minutes)
    config = _with_own_minutes(config, own)
    ended = {job for job in trained if job in standing and standing[job].ended}
    same_jobs = earlier is not None and (named is None or set(named) == set(earlier.jobs))
    in_midst = earlier is not None and not ended.issuperset(earlier.jobs)

    # In the midst of a round: the same command goes on, other minutes share it anew.
    if earlier is not None and same_jobs and in_midst:
        if minutes == earlier.minutes:
            return config
        kept = {job: _minutes(own, job) - earlier.before.get(job, 0.0)
                for job in earlier.jobs if job in ended}  # fmt: skip
        rest = minutes - sum(kept.values())
        if rest <= 0:
            raise UserError(
                f"--minutes {minutes:g}: {', '.join(kept)} had {clock(60 * sum(kept.values()))} already; "
                "give more."
            )
        open_jobs = [job for job in earlier.jobs if job not in ended]
        return _shared(config, minutes, open_jobs, earlier.before, rest, earlier.jobs)
    # A run that counts steps and is not finished: its other jobs get the minutes.
    if named is None and not ended.issuperset(trained):
        open_jobs = [job for job in trained if job not in ended]
        return _shared(config, minutes, open_jobs, {})

    # A new round. What a job has used before is not taken from it; one that is made anew has used nothing.
    chosen = named or _named(config, ["generator"], minutes)
    before = {
        job: standing[job].seconds / 60 - left_over(own, standing, job)
        for job in chosen
        if job in standing and not any(job in READERS[other] for other in chosen)
    }
    return _shared(_without_most(config, chosen), minutes, chosen, before)


def budget_of(config: RunConfig, folder: Path, job: str, began: float) -> Budget | None:
    """The time of a job of a run; None: it counts steps.

    Args:
        began: When the work for it began, by `time.monotonic`: its caches are its time, too.
    """
    train = config.training_of(job)
    if train is None or train.minutes is None:
        return None
    minutes = train.minutes + left_over(config, standings(config, folder), job)
    return Budget(minutes, train.steps, began, enough_steps(config, job))


def to_remake(jobs: Sequence[str], standing: Mapping[str, Standing]) -> list[str]:
    """Jobs that have begun on what the named ones make, and are not named themselves."""
    after = {reader for job in jobs for reader in READERS[job]}
    return [job for job in JOBS if job in after - set(jobs) and job in standing]


def known_steps(job: str) -> int | None:
    """Steps of a job of the bundled model's recipe, which are enough for it; None: it has no such job."""
    train = load_config(RECIPES / "impacts.yaml").training_of(job)
    return None if train is None else train.steps


def enough_steps(config: RunConfig, job: str) -> int | None:
    """Steps that the bundled model's recipe takes, or this one where it has more; None: nobody knows.

    A job that starts from a finished network may need far fewer.
    """
    train, known = config.training_of(job), known_steps(job)
    begins = config.start is None and getattr(config, job).pretrained is None
    if known is None or train is None or not begins:
        return None
    return max(known, train.steps or 0)


def shortfall(config: RunConfig, standing: Mapping[str, Standing]) -> str:
    """A sentence where a run is far from what is known to be enough; "" where it is not."""
    told, needed = [], 0.0
    for job, state in standing.items():
        enough = enough_steps(config, job)
        words = judged(state.step, enough)
        if enough is None or ":" not in words:
            continue
        told.append(f"{job} {words.partition(';')[0]}")
        needed += enough * state.seconds / max(state.step, 1)
    if not told:
        return ""
    time_needed = f"{clock(needed)} would do (--minutes), or " if needed else "train longer, or "
    return f"{'; '.join(told)}. {time_needed}start from a model (--from)."


def _named(config: RunConfig, jobs: Sequence[str], minutes: float) -> tuple[str, ...]:
    """The jobs in their order; refuses those that train nothing, and minutes that are none."""
    require_time(minutes)
    trained = trained_jobs(config)
    for job in jobs:
        if job not in trained:
            raise UserError(f"{job} is not a job that this recipe trains: {', '.join(trained)}.")
    return tuple(job for job in trained if job in jobs)


def _minutes(config: RunConfig, job: str) -> float:
    train = config.training_of(job)
    return 0.0 if train is None else train.minutes or 0.0


def _with_own_minutes(config: RunConfig, own: RunConfig) -> RunConfig:
    """The recipe with the lengths that the run's own has by the clock, and its round."""
    lengths = {}
    for job in trained_jobs(config):
        train = own.training_of(job)
        if train is not None and train.minutes is not None:
            lengths[job] = {"steps": train.steps, "minutes": train.minutes}
    return _changed(config, lengths, None if own.budget is None else own.budget.model_dump())


def _without_most(config: RunConfig, jobs: Sequence[str]) -> RunConfig:
    """With as many steps as there is time for: asked for again, a job takes all of it."""
    return _changed(config, {job: {"steps": None, "minutes": 1.0} for job in jobs}, None)


def _shared(
    config: RunConfig,
    minutes: float,
    jobs: Sequence[str],
    before: Mapping[str, float],
    rest: float | None = None,
    of_round: Sequence[str] | None = None,
) -> RunConfig:
    """The recipe with `rest` minutes (None: all) shared over jobs, on top of what they had before."""
    whole = sum(SHARES[job] for job in jobs)
    given = minutes if rest is None else rest
    lengths = {
        job: {"minutes": max(round(before.get(job, 0.0) + given * SHARES[job] / whole, 3), 0.001)}
        for job in jobs
    }
    told = {"minutes": minutes, "jobs": list(of_round or jobs), "before": dict(before)}
    return _changed(config, lengths, told)


def _changed(config: RunConfig, lengths: Mapping[str, Mapping[str, Any]], budget: Any) -> RunConfig:
    recipe = config.model_dump(mode="json")
    for job, values in lengths.items():
        recipe[job]["train"].update(values)
    if budget is not None:
        recipe["budget"] = budget
    return parse(RunConfig, recipe, "--minutes")
