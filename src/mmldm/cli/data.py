"""Commands that look at or make clips: `scan`, `synthesize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mmldm.cli.progress import ProgressLine
from mmldm.types import ClipSpec


def scan(
    folder: Annotated[Path, typer.Argument(help="Folder of clips, or of class folders of clips.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write the manifest (JSONL). Default: nowhere.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Decoding processes.")] = 2,
    held_out: Annotated[float, typer.Option(min=0, max=0.9, help="Share held out.")] = 0.1,
    skip_silent: Annotated[bool, typer.Option(help="Reject clips whose sound is silence.")] = False,
    frames: Annotated[int, typer.Option(min=1, help="Frames a training window needs.")] = 16,
    fps: Annotated[float, typer.Option(help="Frames per second of a training window.")] = 10.0,
) -> None:
    """Decodes every clip once and says what can be used, what not, and why."""
    from mmldm.data.manifest import scan as scan_folder

    console = Console()
    spec = ClipSpec(num_frames=frames, fps=fps)
    report = ProgressLine(console)
    manifest = scan_folder(
        folder,
        spec,
        workers=workers,
        held_out=held_out,
        skip_silent=skip_silent,
        progress=lambda done, total: report("reading", done, total),
    )
    console.print(manifest.summary(), markup=False, highlight=False)
    if out is not None:
        manifest.save(out)
        console.print(f"manifest: {out}", markup=False, highlight=False)


def synthesize(
    folder: Annotated[Path, typer.Argument(help="Where the class folders go.")],
    clips: Annotated[int, typer.Option(min=1, help="How many clips.")] = 2000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    size: Annotated[int, typer.Option(min=16, help="Height and width in pixels.")] = 64,
    seconds: Annotated[float, typer.Option(min=0.4, help="Length of each clip.")] = 1.6,
    fps: Annotated[float, typer.Option(min=1)] = 10.0,
    sample_rate: Annotated[int, typer.Option(min=8000)] = 16000,
    balls: Annotated[int, typer.Option(min=1, max=3, help="At most this many balls.")] = 1,
    workers: Annotated[int | None, typer.Option(min=1, help="Default: all cores.")] = None,
) -> None:
    """Makes the impacts world: real mp4 files of bouncing, sounding balls, with the true event times."""
    from mmldm.data.impacts import ImpactsConfig
    from mmldm.data.impacts import synthesize as write_clips

    spec = ClipSpec(
        num_frames=max(1, round(seconds * fps)), fps=fps, height=size, width=size, sample_rate=sample_rate
    )
    config = ImpactsConfig(seed=seed, max_balls=balls, spec=spec)
    console = Console()
    report = ProgressLine(console)
    write_clips(
        folder, config, clips, workers=workers, progress=lambda done, total: report("clips", done, total)
    )
    console.print(f"{clips} clips in {folder}", markup=False, highlight=False)
