"""`mmldm train`: a folder of clips to a model, or one job of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mmldm.cli.progress import ProgressLine
from mmldm.errors import UserError

JOBS = ("vae", "autoencoder", "generator")


def train(
    target: Annotated[
        str, typer.Argument(help="Folder of clips (runs all jobs), or one job: vae, autoencoder, generator.")
    ],
    out: Annotated[Path, typer.Option(help="Run folder; the same command resumes it.")] = Path("runs/mine"),
    config: Annotated[
        Path | None, typer.Option(help="Recipe (YAML). Default: chosen for the data and this machine.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Changes one setting; repeatable.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Time budget the chosen recipe is sized for.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1. Default: the best.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Prints recipe, shapes, sizes and FLOPs; trains nothing.")
    ] = False,
) -> None:
    """Trains a model on your clips: scan, vae, autoencoder, generator. Interrupt and resume at will."""
    console = Console(soft_wrap=True)
    one_job = target in JOBS
    recipe = config or (out / "config.yaml" if (out / "config.yaml").is_file() else None)
    if one_job and recipe is None:
        raise UserError(f"`mmldm train {target}` needs --config, or an earlier run folder in --out.")
    if not one_job and not Path(target).exists():
        raise UserError(f"{target} is neither clips nor one of the jobs {', '.join(JOBS)}.")

    from mmldm.config import load_config, save_config
    from mmldm.training.distributed import process_group
    from mmldm.training.journey import Journey, RunFolder, find_manifest
    from mmldm.training.recipe import choose_recipe
    from mmldm.training.report_page import write_report_page
    from mmldm.training.summary import summarise

    folder = RunFolder(out)
    settings = load_config(recipe, changes or []) if recipe else None
    source = settings.data.folder if one_job and settings else None if one_job else target
    report = ProgressLine(console)
    with process_group(device) as process:
        manifest = find_manifest(folder, source, settings, process, report, write=not dry_run)
        if settings is None:
            settings = choose_recipe(manifest, process.device, minutes, changes or [])
        if process.is_main and not dry_run:
            save_config(settings, folder.config)
        if process.is_main:
            console.print(manifest.summary(), markup=False, highlight=False)
        if dry_run:
            console.print(summarise(settings, manifest), markup=False, highlight=False)
            return
        journey = Journey(settings, folder, manifest, process, console, report)
        for job in (target,) if one_job else JOBS:
            result = journey.run(job)
            if result is not None and result.stopped_by in ("SIGINT", "SIGTERM"):
                console.print(f"stopped in {job}, nothing lost: the same command goes on", markup=False)
                return
        if process.is_main and folder.model.is_dir():
            page = write_report_page(folder)
            console.print(f"model:  {folder.model}", markup=False, highlight=False)
            console.print(f"report: {page}", markup=False, highlight=False)
            console.print(f"next:   mmldm generate --model {out}", markup=False, highlight=False)
