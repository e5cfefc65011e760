"""Commands that look at or make clips: `scan`, `synthesize`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmldm.cli.terminal import ProgressLine, require_writable, say
from mmldm.errors import UserError

if TYPE_CHECKING:
    from mmldm.types import ClipSpec

THROW_SECONDS = 1.6
"""Length of the impacts clips that are a throw and what follows from it; longer ones go on."""
GAME_SECONDS = 8.0
LEAST_SIDE = 16
ONLY_OF = {"impacts": ("balls", "latest_start"), "freedoom": ("scenarios",)}
"""Worlds, and the options of `synthesize` that each has alone."""


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
    world: Annotated[
        str,
        typer.Option(
            help=r"impacts, balls that bounce; freedoom, a game (pip install 'mmldm\[worlds]')."
        ),
    ] = "impacts",
    clips: Annotated[int, typer.Option(min=1, help="How many clips.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other clips.")] = 0,
    size: Annotated[
        str, typer.Option(metavar="PIXELS", help="Height and width, or WIDTHxHEIGHT.")
    ] = "128",
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.4,
            max=60,
            help=f"Length of each clip. Default: {THROW_SECONDS:g} of impacts, beyond which a ball that "
            f"rests is thrown again; {GAME_SECONDS:g} of freedoom.",
        ),
    ] = None,
    latest_start: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=600,
            metavar="SECONDS",
            help="Impacts: half of the clips begin at a random frame up to this second of a world that "
            "goes on; the others, and with 0 all, with the throw.",
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=120,
            help="Frames per second. Default: 10; freedoom 17.5, and 35 is the other.",
        ),
    ] = None,
    sample_rate: Annotated[
        int | None,
        typer.Option(
            min=8000, max=96000, help="Sound samples per second. Default: 16000; freedoom 22050."
        ),
    ] = None,
    balls: Annotated[
        int | None, typer.Option(min=1, max=3, help="Impacts: at most this many. Default: 1.")
    ] = None,
    scenarios: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Freedoom: with commas between. Default: all three."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Default: all cores.")] = None,
) -> None:
    """Makes clips of a world whose events are known: mp4 files, and what is true of each beside it."""
    require_writable(folder)
    width, height = _size(size)
    asked = {
        "seconds": seconds,
        "latest_start": latest_start,
        "fps": fps,
        "sample_rate": sample_rate,
        "balls": balls,
        "scenarios": scenarios,
    }
    _refuse_what_does_not_suit(world, asked)
    given = {name: value for name, value in asked.items() if value is not None}
    makers: dict[str, Callable[..., tuple[ClipSpec, list[str]]]]
    makers = {"impacts": _impacts, "freedoom": _freedoom}
    with ProgressLine() as line:
        made, notes = makers[world](
            folder, clips, seed, (width, height), workers, partial(line, "clips"), **given
        )
    # What an earlier call made stays, and is trained on, too.
    there = sum(1 for _ in folder.glob("*/*.mp4"))
    earlier = f": {clips} asked for, the others of an earlier call stay" if there > clips else ""
    say(f"{there} clips in {folder}{earlier}")
    from mmldm.config import RECIPES, load_config

    tiny = load_config(RECIPES / "impacts.yaml").clip
    for sentence in (*notes, *_what_is_next(folder, made, tiny)):
        say(sentence)


def _size(text: str) -> tuple[int, int]:
    """Width and height of `128` or `128x96`.

    Raises:
        UserError: It is neither, or less than 16.
    """
    found = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", text)
    sides = [int(side) for side in found.groups(found[1])] if found else []
    if not sides or min(sides) < LEAST_SIDE:
        raise UserError(
            f"--size: {text!r} is neither a number of pixels, {LEAST_SIDE} or more, nor WIDTHxHEIGHT"
        )
    return sides[0], sides[1]


def _refuse_what_does_not_suit(world: str, asked: Mapping[str, object]) -> None:
    """Refuses a world that there is not, and options of another world than this.

    Raises:
        UserError: So.
    """
    if world not in ONLY_OF:
        raise UserError(f"--world: unknown {world!r}; known are {', '.join(ONLY_OF)}")
    for other, options in ONLY_OF.items():
        for name in options:
            if other != world and asked[name] is not None:
                raise UserError(
                    f"--{name.replace('_', '-')} is of the world {other}: leave it out with "
                    f"--world {world}"
                )


def _impacts(
    folder: Path,
    clips: int,
    seed: int,
    size: tuple[int, int],
    workers: int | None,
    progress: Callable[[int, int], None],
    seconds: float = THROW_SECONDS,
    latest_start: float = 0.0,
    fps: float = 10.0,
    sample_rate: int = 16000,
    balls: int = 1,
) -> tuple[ClipSpec, list[str]]:
    """Clips of the impacts world; what they are, and what is to be said of them."""
    from mmldm.strict import parse
    from mmldm.worlds.impacts.clips import ImpactsConfig
    from mmldm.worlds.impacts.clips import synthesize as write_clips

    spec = {
        "num_frames": max(1, round(seconds * fps)),
        "fps": fps,
        "width": size[0],
        "height": size[1],
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
    write_clips(folder, config, clips, workers, progress)
    notes = []
    if goes_on:
        notes.append("a ball that rests is thrown again; the sidecars list such throws")
    if latest_start:
        notes.append(f"half of the clips begin at a random frame up to second {latest_start:g}")
    return config.spec, notes


def _freedoom(
    folder: Path,
    clips: int,
    seed: int,
    size: tuple[int, int],
    workers: int | None,
    progress: Callable[[int, int], None],
    seconds: float = GAME_SECONDS,
    fps: float = 17.5,
    sample_rate: int = 22050,
    scenarios: str | None = None,
) -> tuple[ClipSpec, list[str]]:
    """The same of the Freedoom world."""
    from mmldm.strict import parse
    from mmldm.worlds.freedoom.clips import FreedoomConfig
    from mmldm.worlds.freedoom.clips import synthesize as write_clips

    asked: dict[str, Any] = {
        "seed": seed,
        "num_frames": max(1, round(seconds * fps)),
        "fps": fps,
        "width": size[0],
        "height": size[1],
        "sample_rate": sample_rate,
    }
    if scenarios is not None:
        asked["scenarios"] = [name.strip() for name in scenarios.split(",")]
    config = parse(FreedoomConfig, asked, "--world freedoom")
    write_clips(folder, config, clips, workers, progress)
    return config.spec, [
        "an episode that ends is followed by the next: a cut, which the sidecars list as `episode`",
        "the sound is the game's, in stereo; training mixes it to one channel",
    ]


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
    # What it would change else in silence.
    changes = []
    if (made.height, made.width) != (chosen.height, chosen.width):
        changes.append(
            f"trains at {chosen.width} x {chosen.height} and scales these {made.width} x {made.height}"
        )
    if made.sample_rate != chosen.sample_rate:
        changes.append(
            f"trains at {chosen.sample_rate} Hz and resamples these {made.sample_rate} Hz"
        )
    if made.fps != chosen.fps:
        changes.append(f"takes {chosen.fps:g} of these {made.fps:g} frames a second")
    note = [f"the recipe that is chosen for them {' and '.join(changes)}"] if changes else []
    return [*note, f"next: mmldm train {folder}"]
