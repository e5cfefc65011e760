"""`mmldm distill`: from a finished run to a model that samples in a few steps."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmldm.cli.output import require_writable, silence_diffusers
from mmldm.cli.progress import ProgressLine
from mmldm.errors import UserError


class Part(StrEnum):
    """What can be distilled."""

    generator = "generator"
    decoder = "decoder"


def distill(
    part: Annotated[Part, typer.Argument(help="What is to need fewer steps.")],
    run: Annotated[Path, typer.Argument(help="A finished run folder; the same command resumes.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Changes one setting; repeatable."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1. Default: the best.")
    ] = None,
) -> None:
    """Distils a run's generator (8, then 4 steps, no guidance) or signal decoder (4, 2, 1 steps)."""
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} is not a run folder: it has no config.yaml.")
    require_writable(run)

    from mmldm.config import changed, load_config
    from mmldm.training.distil import distil, with_distillation
    from mmldm.training.distributed import process_group
    from mmldm.training.journey import Journey
    from mmldm.training.report_page import write_report_page
    from mmldm.training.run_clips import find_manifest
    from mmldm.training.run_folder import RunFolder, claim

    silence_diffusers()
    folder = RunFolder(run)
    config = changed(with_distillation(load_config(run / "config.yaml"), part.value), changes or [])
    with ProgressLine() as line, process_group(device) as process:
        scanned = process.on_main(lambda: find_manifest(folder, None, config, line))
        with claim(folder, config, scanned, process) as manifest:
            result = distil(
                Journey(config, folder, manifest, process, line.console, line), part.value
            )
            if result.stopped_by in ("SIGINT", "SIGTERM"):
                if process.is_main:
                    typer.echo(f"stopped in {part.value}, nothing lost: the same command goes on")
                return
            page = process.on_main(lambda: write_report_page(folder))
            if process.is_main:
                typer.echo(f"model:  {folder.distilled}")
                typer.echo(f"report: {page}")
                typer.echo(f"next:   mmldm generate --model {folder.distilled}")
