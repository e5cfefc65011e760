"""Commands that train: `train`, a folder of clips to a model, and `distill`, a run to a faster model."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmldm.cli.terminal import (
    ChangesOption,
    DeviceOption,
    ProgressLine,
    note,
    require_writable,
    say,
    silence_diffusers,
)
from mmldm.errors import UserError
from mmldm.training import JOBS

if TYPE_CHECKING:
    import torch

    from mmldm.config import RunConfig
    from mmldm.data.manifest import Manifest
    from mmldm.training.loop import TrainResult
    from mmldm.training.run_folder import RunFolder
    from mmldm.training.summary import Summary


class Distillable(StrEnum):
    """What can be distilled."""

    generator = "generator"
    decoder = "decoder"


def train(
    target: Annotated[
        str,
        typer.Argument(help=f"Folder of clips (all jobs), or one job: {', '.join(JOBS)}."),
    ],
    out: Annotated[Path, typer.Option(help="Run folder; the same command resumes it.")] = Path(
        "runs/mine"
    ),
    config: Annotated[
        Path | None,
        typer.Option(
            help="Recipe: YAML, or impacts, freedoom, landscape, aist. Default: the run's, or chosen."
        ),
    ] = None,
    changes: ChangesOption = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", help="Model to start from: impacts, freedoom, a model folder, a hub name."
        ),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(help="With --from: jobs that keep the model's network, as vae,autoencoder."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Wall clock to fill (60); to a finished run: so many more, see --jobs."),
    ] = None,
    jobs: Annotated[
        str | None,
        typer.Option(help="With --minutes: jobs that get them, as vae,autoencoder."),
    ] = None,
    device: DeviceOption = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Where the clips of a run are now, if they have moved; needed once."),
    ] = None,
    rescan: Annotated[
        bool,
        typer.Option(
            "--rescan", help="Takes the clips as they are now; known ones keep their side."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Prints recipe, sizes, FLOPs, memory, speed; writes nothing."
        ),
    ] = False,
) -> None:
    """Trains a model on your clips: scan, vae, autoencoder, generator, vocoder if asked for. Resumes."""
    # What contradicts itself is refused before anything heavy is loaded.
    one_job = target in JOBS
    recipe = config or (out / "config.yaml" if (out / "config.yaml").is_file() else None)
    if one_job and recipe is None:
        raise UserError(
            f"`mmldm train {target}` needs --config, or an earlier run folder in --out."
        )
    if not one_job and data is None and not Path(target).exists():
        raise UserError(f"{target} is neither clips nor one of the jobs {', '.join(JOBS)}.")
    if jobs is not None and (minutes is None or one_job or not (out / "config.yaml").is_file()):
        raise UserError(
            "--jobs names the jobs of an earlier run that get --minutes: give these, too."
        )
    given_to = (target,) if one_job else tuple(jobs.split(",")) if jobs else None
    require_writable(out)

    # Something stands on the screen before anything heavy is loaded, and goes on to.
    changes = list(changes or [])
    line = ProgressLine(aim="loading the libraries")
    with line:
        if is_main := os.environ.get("RANK", "0") == "0":
            line.say(f"mmldm train {target}, into {out}")
            _say_outlook(line, recipe, changes, start, minutes, (target,) if one_job else JOBS)
        from mmldm.config import changed, load_config
        from mmldm.training.distributed import process_group
        from mmldm.training.recipe import choose_recipe, tiny_recipe
        from mmldm.training.report_page import write_report_page
        from mmldm.training.rounds import given_minutes, require_time
        from mmldm.training.run import Run, jobs_of
        from mmldm.training.run_clips import claim, find_manifest
        from mmldm.training.run_folder import RunFolder
        from mmldm.training.start_model import describe, require_fit
        from mmldm.training.start_recipe import WITHOUT_MODEL, started_recipe, with_start
        from mmldm.training.summary import require_sizes, summarise

        silence_diffusers()
    if minutes is not None:
        require_time(minutes)

    # The recipe, if there is one already. Until one is chosen for the clips, the tiny one says how to look at
    # them. A run's own recipe was written by a program; only what a person wrote needs a word, and one.
    folder = RunFolder(out)
    if data is not None:
        changes.append(f"data.folder={json.dumps(str(data.resolve()))}")
    told = note if config is not None and is_main else None
    settings = load_config(recipe, changes, told) if recipe else None
    base = tiny_recipe()
    if settings is not None and (start or freeze) is not None:
        settings = with_start(settings, start, freeze)
    elif start is not None:
        base = started_recipe(base, start, freeze, changes)
    elif freeze is not None:
        raise UserError(WITHOUT_MODEL)
    if settings is not None and minutes is not None:
        settings = changed(given_minutes(settings, out, minutes, given_to), changes)
    reading = settings or changed(base, changes)

    # The clips. A run's own recipe names their folder as it was typed once; its manifest knows where that is.
    source: str | None = target
    if one_job:
        named = config is not None or any(change.startswith("data.folder") for change in changes)
        source = reading.data.folder if named or not folder.manifest.is_file() else None

    line.aim = "getting ready"
    with line, process_group(device) as process:
        if settings is None and process.world > 1:
            raise UserError(
                "several processes need a recipe: write one with --dry-run in one process and give "
                "it as --config."
            )

        def prepare() -> tuple[RunConfig, Manifest]:
            # What needs no clips is checked before they are read; what has begun needs no start any more.
            if reading.start is not None and not folder.begun():
                require_fit(reading, describe(reading.start, folder.root))
            require_sizes(reading)
            manifest = find_manifest(
                folder,
                source,
                reading,
                line,
                note=say,
                moved_to=None if data is None else str(data),
                rescan=rescan,
                keep=not dry_run,
                sound_only=target == "vocoder",
            )
            chosen = settings or choose_recipe(manifest, minutes, changes, base, process.device)
            if one_job and target not in jobs_of(chosen):
                raise UserError(f"the recipe has no {target} section, see docs/training.md")
            # Every part is built once, so that no wrong setting shows up hours later.
            summary = summarise(chosen, len(manifest.classes))
            timed_on = process.device if dry_run else None
            _say_plan(line, chosen, manifest, summary, chosen is not settings, timed_on)
            return chosen, manifest

        # On the other processes a recipe is at hand, and the manifest will be.
        chosen, scanned = process.on_main(prepare) or (reading, None)
        if dry_run:
            return

        # From here on the folder is this run's alone.
        with claim(folder, chosen, scanned, process) as manifest:
            line.record_in(folder.root, process.is_main)
            run = Run(chosen, folder, manifest, process, line.console, line, given_to or ())
            todo = (target,) if one_job else jobs_of(chosen)
            if jobs is not None and given_to is not None:
                todo = todo[: max(map(todo.index, given_to)) + 1]
            for job in todo:
                if _stopped(run.run(job), job, process.is_main):
                    return
            page = process.on_main(lambda: write_report_page(folder.root))
            if page is not None:
                if one_job:
                    typer.echo(f"{job}: {folder.export(job)}")
                _say_end(folder, chosen, page, given_to or (), minutes is not None)


def _say_outlook(
    line: ProgressLine,
    recipe: Path | None,
    changes: list[str],
    start: str | None,
    minutes: float | None,
    jobs: tuple[str, ...],
) -> None:
    """Says which jobs there are and when they end, before the training's libraries are loaded."""
    from mmldm.config import RECIPES, changed, load_config
    from mmldm.training.outlook import first_outlook, outlook

    if recipe is None and start is not None:
        line.say(first_outlook(f"those of {start}", minutes))
    elif recipe is None:
        plan = changed(load_config(RECIPES / "impacts.yaml"), changes)
        chosen = [job for job in JOBS if getattr(plan, job) is not None]
        line.say(first_outlook(", ".join(chosen), minutes))
    else:
        line.say(outlook(load_config(recipe, changes), jobs))


def _say_plan(
    line: ProgressLine,
    recipe: RunConfig,
    manifest: Manifest,
    summary: Summary,
    is_new: bool,
    device: torch.device | None,
) -> None:
    """Says the clips and, of a new recipe, its jobs.

    Args:
        device: Of a dry run, which also says recipe, sizes, memory, and how far the time goes there.
    """
    from mmldm.training.advice import advice

    if device is not None:
        import yaml

        typer.echo(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    say(manifest.summary())
    for sentence in advice(recipe, manifest):
        note(sentence)
    if is_new:
        from mmldm.training.outlook import outlook

        line.say(outlook(recipe))
        sections = [recipe.training_of(job) for job in JOBS]
        if any(section is not None and section.precision == "bf16" for section in sections):
            line.say("precision: bf16, faster on this device; else --set JOB.train.precision=fp32")
    if device is not None:
        from mmldm.benchmark.pace import pace_table, paces
        from mmldm.training.memory import memory_table

        typer.echo(f"\n{summary}")
        typer.echo(f"\n{memory_table(recipe, len(manifest.classes), summary.jobs)}")
        line.aim = "timing a few steps of each job"
        typer.echo(f"\n{pace_table(recipe, paces(recipe, summary, device))}")


def _say_end(
    folder: RunFolder,
    recipe: RunConfig,
    page: Path,
    given_to: tuple[str, ...],
    by_minutes: bool,
) -> None:
    """Says what a run made, what is stale or short in it, and what to do next."""
    from mmldm.training.curves import by_heart
    from mmldm.training.report import METRICS, read_metrics
    from mmldm.training.rounds import shortfall, standings, to_remake

    has_model = folder.model.is_dir()
    if has_model:
        typer.echo(f"model:  {folder.model}")
    typer.echo(f"report: {page}")
    state = standings(recipe, folder.root)
    if stale := to_remake(given_to, state) if by_minutes else []:
        typer.echo(
            f"made with what was before, to be made anew: {', '.join(stale)} "
            f"(--jobs {','.join(stale)} --minutes N)"
        )
    if short := shortfall(recipe, state):
        typer.echo(f"short:  {short}")
    metrics = folder.job("generator") / METRICS
    if metrics.is_file() and (risen := by_heart(read_metrics(metrics))):
        typer.echo(f"long:   generator: {risen}")
    if has_model:
        typer.echo(f"next:   mmldm generate --model {folder.root}")


def distill(
    part: Annotated[Distillable, typer.Argument(help="What is to need fewer steps.")],
    run: Annotated[Path, typer.Argument(help="A finished run folder; the same command resumes.")],
    changes: ChangesOption = None,
    device: DeviceOption = None,
) -> None:
    """Distils a run's generator (8, then 4 steps, no guidance) or signal decoder (4, 2, 1 steps)."""
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} is not a run folder: it has no config.yaml.")
    require_writable(run)

    from mmldm.config import changed, load_config
    from mmldm.training.distil import distil, with_distillation
    from mmldm.training.distributed import process_group
    from mmldm.training.report_page import write_report_page
    from mmldm.training.run import Run
    from mmldm.training.run_clips import claim, find_manifest
    from mmldm.training.run_folder import RunFolder

    silence_diffusers()
    folder = RunFolder(run)
    config = changed(with_distillation(load_config(run / "config.yaml"), part.value), changes or [])
    with ProgressLine(aim="getting ready") as line, process_group(device) as process:
        scanned = process.on_main(lambda: find_manifest(folder, None, config, line))
        with claim(folder, config, scanned, process) as manifest:
            line.record_in(folder.root, process.is_main)
            started = Run(config, folder, manifest, process, line.console, line)
            if _stopped(distil(started, part.value), part.value, process.is_main):
                return
            page = process.on_main(lambda: write_report_page(folder.root))
            if process.is_main:
                typer.echo(f"model:  {folder.distilled}")
                typer.echo(f"report: {page}")
                typer.echo(f"next:   mmldm generate --model {folder.distilled}")


def _stopped(result: TrainResult | None, job: str, is_main: bool) -> bool:
    """Whether a signal ended a job; the main process says so."""
    stopped = result is not None and result.interrupted
    if stopped and is_main:
        typer.echo(f"stopped in {job}, nothing lost: the same command goes on")
    return stopped
