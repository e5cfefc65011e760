"""Commands that look at or make clips: `scan`, `synthesize`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmldm.cli.terminal import ProgressLine, require_writable, say

if TYPE_CHECKING:
    from mmldm.types import ClipSpec

THROW_SECONDS = 1.6
"""Length of the impacts clips that are a throw and what follows from it; longer ones go on."""


def scan(
    folder: Annotated[Path, typer.Argument(help="Folder of clips, or of class folders of clips.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write the manifest (JSONL). Default: nowhere.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Decoding processes.")] = 2,
    held_out: Annotated[float, typer.Option(min=0, max=0.9, help="Share held out.")] = 0.1,
    skip_silent: Annotated[
        bool, typer.Option("--skip-silent", help="Reject clips whose sound is silence.")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Keep files with sound or picture alone.")
    ] = False,
    class_pattern: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX", help="Its first group, found in a clip's path, names the class."
        ),
    ] = None,
    group_pattern: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX", help="The same, and names the recording: it is held out whole or not."
        ),
    ] = None,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Follow links that lead out of the folder.")
    ] = False,
    frames: Annotated[int, typer.Option(min=1, help="Frames a training window needs.")] = 16,
    fps: Annotated[float, typer.Option(help="Frames per second of a training window.")] = 10.0,
) -> None:
    """Decodes every clip once and says what can be used, what not, and why."""
    from mmldm.data.scan import scan as scan_folder
    from mmldm.sections import DataConfig
    from mmldm.strict import parse
    from mmldm.types import ClipSpec

    # Mistakes are told before the first clip is decoded.
    spec = parse(ClipSpec, {"num_frames": frames, "fps": fps}, "a training window")
    patterns = {"class_pattern": class_pattern, "group_pattern": group_pattern}
    for name, pattern in patterns.items():
        parse(DataConfig, {name: pattern}, f"--{name.replace('_', '-')}")
    if out is not None:
        require_writable(out.parent)
    with ProgressLine() as line:
        manifest = scan_folder(
            folder,
            spec,
            workers=workers,
            held_out=held_out,
            skip_silent=skip_silent,
            allow_missing=allow_missing,
            class_pattern=class_pattern,
            group_pattern=group_pattern,
            follow_links=follow_links,
            unfinished=None if out is None else out.with_name(f"{out.name}.unfinished"),
            progress=partial(line, "scan"),
        )
    # The manifest is written, whatever it says: it names what cannot be used.
    say(manifest.summary())
    if out is not None:
        manifest.save(out)
        say(f"manifest: {out}")
    manifest.require_clips()


def synthesize(
    folder: Annotated[Path, typer.Argument(help="Where the class folders go.")],
    clips: Annotated[int, typer.Option(min=1, help="How many clips.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other clips.")] = 0,
    size: Annotated[int, typer.Option(min=16, help="Height and width in pixels.")] = 128,
    seconds: Annotated[
        float,
        typer.Option(
            min=0.4,
            max=60,
            help=f"Length of each clip; beyond {THROW_SECONDS:g}, a ball that rests is thrown again.",
        ),
    ] = THROW_SECONDS,
    latest_start: Annotated[
        float,
        typer.Option(
            min=0,
            max=600,
            metavar="SECONDS",
            help="Half of the clips begin at a random frame up to this second of a world that goes on; "
            "the others, and with 0 all, with the throw.",
        ),
    ] = 0.0,
    fps: Annotated[float, typer.Option(min=1, max=120, help="Frames per second.")] = 10.0,
    sample_rate: Annotated[
        int, typer.Option(min=8000, max=96000, help="Sound samples per second.")
    ] = 16000,
    balls: Annotated[int, typer.Option(min=1, max=3, help="At most this many balls.")] = 1,
    workers: Annotated[int | None, typer.Option(min=1, help="Default: all cores.")] = None,
) -> None:
    """Makes the impacts world: mp4 files of bouncing, sounding balls, and when each impact is."""
    from mmldm.strict import parse
    from mmldm.worlds.impacts.clips import ImpactsConfig
    from mmldm.worlds.impacts.clips import synthesize as write_clips

    require_writable(folder)
    spec = {
        "num_frames": max(1, round(seconds * fps)),
        "fps": fps,
        "height": size,
        "width": size,
        "sample_rate": sample_rate,
        # Rendering makes no spectrogram; its default would refuse low rates.
        "spectrogram": {"f_max": min(8000.0, sample_rate / 2)},
    }
    goes_on = seconds > THROW_SECONDS or latest_start > 0
    asked = {
        "seed": seed,
        "max_balls": balls,
        "spec": spec,
        "throws_again": goes_on,
        "latest_start": latest_start,
    }
    config = parse(ImpactsConfig, asked, "the impacts")
    with ProgressLine() as line:
        write_clips(
            folder,
            config,
            clips,
            workers=workers,
            progress=partial(line, "clips"),
        )
    # What an earlier call made stays, and is trained on, too.
    there = sum(1 for _ in folder.glob("*/*.mp4"))
    earlier = f": {clips} asked for, the others of an earlier call stay" if there > clips else ""
    typer.echo(f"{there} clips in {folder}{earlier}")
    if goes_on:
        typer.echo("a ball that rests is thrown again; the sidecars list such throws")
    if latest_start:
        typer.echo(f"half of the clips begin at a random frame up to second {latest_start:g}")
    from mmldm.config import RECIPES, load_config

    tiny = load_config(RECIPES / "impacts.yaml").clip
    for sentence in _what_is_next(folder, config.spec, tiny):
        typer.echo(sentence)


def _what_is_next(folder: Path, made: ClipSpec, chosen: ClipSpec) -> list[str]:
    """What `mmldm train` does with such clips, whose recipe's own it chooses.

    Args:
        made: The clips.
        chosen: Those of the recipe that is chosen for any clips.
    """
    if made.duration < chosen.duration:
        return [
            f"next: a recipe with clips of at most {made.duration:g} s (docs/training.md): the one that "
            f"`mmldm train {folder}` chooses needs {chosen.duration:g} s"
        ]
    # Nothing but its picture size and its sample rate would be changed in silence.
    changes = []
    if (made.height, made.width) != (chosen.height, chosen.width):
        changes.append(
            f"trains at {chosen.height} x {chosen.width} and scales these {made.height} x {made.width}"
        )
    if made.sample_rate != chosen.sample_rate:
        changes.append(
            f"trains at {chosen.sample_rate} Hz and resamples these {made.sample_rate} Hz"
        )
    note = [f"the recipe that is chosen for them {' and '.join(changes)}"] if changes else []
    return [*note, f"next: mmldm train {folder}"]
