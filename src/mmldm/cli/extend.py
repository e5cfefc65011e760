"""Commands that change a clip: `extend`, `retake`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mmldm.cli.films import Films, GivenFile, note_joins
from mmldm.cli.generate import BATCH, OutOption, load_model
from mmldm.cli.terminal import (
    DeviceOption,
    ModelOption,
    ProgressLine,
    QualityOption,
    require_writable,
)
from mmldm.errors import UserError

if TYPE_CHECKING:
    from mmldm.media.clip import Clip
    from mmldm.pipelines.sounding_video import SoundingVideoPipeline

ClipArgument = Annotated[Path, typer.Argument(help="A video with sound.")]
SamplesOption = Annotated[int, typer.Option("--num-samples", "-n", min=1, help="Clips.")]
SeedOption = Annotated[int, typer.Option(min=0, max=2**62, help="Sample i is made from seed + i.")]


def extend(
    clip: ClipArgument,
    seconds: Annotated[
        float | None, typer.Option(min=0, max=1e6, help="To be added. Default: as --audio.")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(help="Sound of what is added: a sound file, or a video.")
    ] = None,
    model: ModelOption = None,
    out: OutOption = Path("out"),
    num_samples: SamplesOption = 1,
    seed: SeedOption = 0,
    quality: QualityOption = None,
    device: DeviceOption = None,
) -> None:
    """Goes on with a clip: its picture and sound, and after them new ones."""
    if seconds is None and audio is None:
        raise UserError("say how many --seconds to add, or give the sound of them by --audio.")
    require_writable(out)
    started = time.monotonic()
    pipeline = load_model(model, device)
    spec = pipeline.clip_spec
    if seconds is not None:
        from mmldm.pipelines.request import frames_in

        frames_in(seconds, spec)
    before = _read(clip, pipeline)
    more: dict[str, Any] = {"seconds": seconds}
    if audio is not None:
        sound = GivenFile(audio, "audio", spec, 0.0, seconds)
        sound.say_what_is_used()
        more["audio"] = sound.whole().waveform

    with ProgressLine() as line:
        made = pipeline.pieces(
            num_samples,
            **more,
            after=before,
            quality=quality,
            seed=seed,
            batch_size=BATCH,
            progress=line.brief,
        )
        films = Films(out, f"extended_{clip.stem}_{seed}", spec)
        films.write(made)
    _tell(films, [f"{clip.stem} extended, seed {seed + i}" for i in range(num_samples)], started)


def retake(
    clip: ClipArgument,
    begin: Annotated[float, typer.Option("--from", min=0, max=1e6, help="Second.")],
    end: Annotated[float, typer.Option("--to", min=0, max=1e6, help="Second.")],
    only: Annotated[
        str | None, typer.Option(help="sound or picture: make this alone anew. Default: both.")
    ] = None,
    model: ModelOption = None,
    out: OutOption = Path("out"),
    num_samples: SamplesOption = 1,
    seed: SeedOption = 0,
    quality: QualityOption = None,
    device: DeviceOption = None,
) -> None:
    """Makes a part of a clip anew; all else stays."""
    require_writable(out)
    started = time.monotonic()
    pipeline = load_model(model, device)
    original = _read(clip, pipeline)
    with ProgressLine() as line:
        made = pipeline.retake(
            original,
            begin,
            end,
            cast("Any", only),
            num_samples=num_samples,
            quality=quality,
            seed=seed,
            batch_size=BATCH,
            progress=line.brief,
        )
        films = Films(out, f"retaken_{clip.stem}_{seed}", pipeline.clip_spec)
        films.write((i, [taken]) for i, taken in enumerate(made.clips))
    _tell(films, [f"{clip.stem} retaken, seed {seed + i}" for i in range(num_samples)], started)


def _read(path: Path, pipeline: SoundingVideoPipeline) -> Clip:
    """A clip at the model's rates and size, after notes on what of it is not so, or not of its world."""
    from mmldm.pipelines.outliers import sentences
    from mmldm.pipelines.request import given_clips

    spec = pipeline.clip_spec
    file = GivenFile(path, None, spec)
    file.say_what_is_used()
    note_joins(pipeline)
    clip = file.whole()
    distances = pipeline.outlier_distances(given_clips(clip, spec))
    file.say(sentences(distances, path.name, spec.duration))
    return clip


def _tell(films: Films, titles: Sequence[str], started: float) -> None:
    """Writes the sheet and prints what was made."""
    sheet = films.save_sheet(titles)
    for file in films.files:
        typer.echo(file)
    typer.echo(f"contact sheet: {sheet}")
    count = len(films.files)
    typer.echo(f"{count} clip{'s' * (count > 1)} in {time.monotonic() - started:.1f} s")
