"""Commands that change a clip: `extend`, `retake`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mmldm.cli.checks import require_media
from mmldm.cli.films import GivenFile, note_joins
from mmldm.cli.generate import OutOption
from mmldm.cli.produce import Making, Order, produce
from mmldm.cli.terminal import (
    DeviceOption,
    ModelOption,
    NameOption,
    PrecisionOption,
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
    name: NameOption = None,
    num_samples: SamplesOption = 1,
    seed: SeedOption = 0,
    quality: QualityOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
) -> None:
    """Goes on with a clip: its picture and sound, and after them new ones."""
    if seconds is None and audio is None:
        raise UserError("say how many --seconds to add, or give the sound of them by --audio.")
    require_writable(out)
    require_media(clip, None)
    given = {"clip": clip}
    if audio is not None:
        require_media(audio, "audio")
        given["audio"] = audio
    order = Order(
        command="extend",
        given=given,
        settings={"seconds": seconds, "quality": quality, "precision": precision},
        seed=seed,
        count=num_samples,
        words=["extended", clip.name, *([audio.name] if audio is not None else []), str(seed)],
        title=f"{clip.stem} extended",
    )
    produce(order, extended, model=model, out=out, name=name, device=device)


def extended(
    pipeline: SoundingVideoPipeline,
    order: Order,
    seeds: Sequence[int],
    together: int,
    line: ProgressLine,
) -> Making:
    """Clips that begin with a given one; a `produce.Maker`."""
    from mmldm.pipelines.request import frames_in

    spec, seconds = pipeline.clip_spec, order.settings.get("seconds")
    if seconds is not None:
        frames_in(seconds, spec)
    before = _read(order.given["clip"], pipeline)
    more: dict[str, Any] = {"seconds": seconds}
    if "audio" in order.given:
        sound = GivenFile(order.given["audio"], "audio", spec, 0.0, seconds)
        sound.say_what_is_used()
        more["audio"] = sound.whole().waveform
    pieces = pipeline.pieces(
        len(seeds),
        **more,
        after=before,
        quality=order.settings.get("quality"),
        seed=list(seeds),
        batch_size=together,
        progress=line.brief,
    )
    return Making(pieces)


def retake(
    clip: ClipArgument,
    begin: Annotated[float, typer.Option("--from", min=0, max=1e6, help="Second.")],
    end: Annotated[float, typer.Option("--to", min=0, max=1e6, help="Second.")],
    only: Annotated[
        str | None, typer.Option(help="sound or picture: make this alone anew. Default: both.")
    ] = None,
    model: ModelOption = None,
    out: OutOption = Path("out"),
    name: NameOption = None,
    num_samples: SamplesOption = 1,
    seed: SeedOption = 0,
    quality: QualityOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
) -> None:
    """Makes a part of a clip anew; all else stays."""
    require_writable(out)
    require_media(clip, None)
    order = Order(
        command="retake",
        given={"clip": clip},
        settings={
            "from": begin,
            "to": end,
            "only": only,
            "quality": quality,
            "precision": precision,
        },
        seed=seed,
        count=num_samples,
        words=["retaken", clip.name, str(seed)],
        title=f"{clip.stem} retaken",
    )
    produce(order, retaken, model=model, out=out, name=name, device=device)


def retaken(
    pipeline: SoundingVideoPipeline,
    order: Order,
    seeds: Sequence[int],
    together: int,
    line: ProgressLine,
) -> Making:
    """Clips of which a part is new; a `produce.Maker`."""
    original = _read(order.given["clip"], pipeline)
    settings = order.settings

    def batches() -> Iterator[tuple[int, Sequence[Clip]]]:
        # One call makes whole clips, so that a batch is a call.
        for first in range(0, len(seeds), together):
            own = list(seeds[first : first + together])
            made = pipeline.retake(
                original,
                settings["from"],
                settings["to"],
                cast("Any", settings.get("only")),
                num_samples=len(own),
                quality=settings.get("quality"),
                seed=own,
                batch_size=together,
                progress=line.brief,
            )
            yield first, made.clips

    return Making(batches())


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
