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
    from mmldm.config import RunConfig
    from mmldm.data.manifest import Manifest
    from mmldm.training.loop import TrainResult


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
            help="Recipe: YAML, or impacts, landscape, aist. Default: the run's own, or chosen."
        ),
    ] = None,
    changes: ChangesOption = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="Model to start from: impacts, a model folder, a hub name."),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(help="With --from: jobs that keep the model's network, as vae,autoencoder."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Time budget the chosen recipe is sized for.")
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
        typer.Option("--dry-run", help="Prints recipe, shapes, sizes and FLOPs; writes nothing."),
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
    if config is not None and minutes is not None:
        raise UserError(
            "--minutes sizes the recipe that is chosen without --config; give only one."
        )
    require_writable(out)

    import yaml

    from mmldm.config import changed, load_config
    from mmldm.training.distributed import process_group
    from mmldm.training.recipe import choose_recipe, tiny_recipe
    from mmldm.training.report import write_report_page
    from mmldm.training.run import Run, RunFolder, jobs_of
    from mmldm.training.run_clips import claim, find_manifest
    from mmldm.training.start_model import describe, require_fit
    from mmldm.training.start_recipe import WITHOUT_MODEL, started_recipe, with_start
    from mmldm.training.summary import summarise

    silence_diffusers()
    # The recipe, if there is one already. Until one is chosen for the clips, the tiny one says how to look at
    # them.
    folder = RunFolder(out)
    changes = list(changes or [])
    if data is not None:
        changes.append(f"data.folder={json.dumps(str(data.resolve()))}")
    # A run's own recipe was written by a program; only what a person wrote needs a word, and one.
    told = note if config is not None and os.environ.get("RANK", "0") == "0" else None
    settings = load_config(recipe, changes, told) if recipe else None
    base = tiny_recipe()
    if settings is not None and (start or freeze) is not None:
        settings = with_start(settings, start, freeze)
    elif start is not None:
        base = started_recipe(base, start, freeze, changes)
    elif freeze is not None:
        raise UserError(WITHOUT_MODEL)
    reading = settings or changed(base, changes)

    # The clips. A run's own recipe names their folder as it was typed once; its manifest knows where that is.
    source: str | None = target
    if one_job:
        named = config is not None or any(change.startswith("data.folder") for change in changes)
        source = reading.data.folder if named or not folder.manifest.is_file() else None

    with ProgressLine() as line, process_group(device) as process:
        if settings is None and process.world > 1:
            raise UserError(
                "several processes need a recipe: write one with --dry-run in one process and give "
                "it as --config."
            )

        def prepare() -> tuple[RunConfig, Manifest]:
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
            chosen = settings or choose_recipe(manifest, process.device, minutes, changes, base)
            if one_job and target not in jobs_of(chosen):
                raise UserError(f"the recipe has no {target} section, see docs/training.md")
            if chosen.start is not None:
                require_fit(chosen, describe(chosen.start, folder.root))
            # Every part is built once, so that no wrong setting shows up hours later.
            summary = summarise(chosen, len(manifest.classes))
            if dry_run:
                typer.echo(yaml.safe_dump(chosen.model_dump(mode="json"), sort_keys=False))
            say(manifest.summary())
            if dry_run:
                typer.echo(f"\n{summary}")
            return chosen, manifest

        # On the other processes a recipe is at hand, and the manifest will be.
        chosen, scanned = process.on_main(prepare) or (reading, None)
        if dry_run:
            return

        # From here on the folder is this run's alone.
        with claim(folder, chosen, scanned, process) as manifest:
            run = Run(chosen, folder, manifest, process, line.console, line)
            for job in (target,) if one_job else jobs_of(chosen):
                if _stopped(run.run(job), job, process.is_main):
                    return
            page = process.on_main(lambda: write_report_page(folder.root))
            if process.is_main:
                if one_job:
                    typer.echo(f"{job}: {folder.export(job)}")
                model = folder.model if folder.model.is_dir() else None
                if model is not None:
                    typer.echo(f"model:  {model}")
                typer.echo(f"report: {page}")
                if model is not None:
                    typer.echo(f"next:   mmldm generate --model {out}")


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
    from mmldm.training.report import write_report_page
    from mmldm.training.run import Run, RunFolder
    from mmldm.training.run_clips import claim, find_manifest

    silence_diffusers()
    folder = RunFolder(run)
    config = changed(with_distillation(load_config(run / "config.yaml"), part.value), changes or [])
    with ProgressLine() as line, process_group(device) as process:
        scanned = process.on_main(lambda: find_manifest(folder, None, config, line))
        with claim(folder, config, scanned, process) as manifest:
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
