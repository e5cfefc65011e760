"""The way from what a command asks for to its clips on the disk; all commands that make clips go it.

Order -> cheap checks, model, place, missing clips -> pieces -> mp4s with their JSON, contact sheets.
A clip is made again by the same way, from what its file says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mmldm.cli.films import Films, GivenFile
from mmldm.cli.terminal import ProgressLine, note, require_writable
from mmldm.errors import UserError
from mmldm.pipelines.precision import (
    choose_precision,
    repeated_precision,
    require_precision,
    sample_in,
    told,
)
from mmldm.pipelines.published import published

if TYPE_CHECKING:
    from mmldm.cli.places import Place
    from mmldm.media.clip import Clip
    from mmldm.pipelines.provenance import Command, Provenance
    from mmldm.pipelines.sounding_video import SoundingVideoPipeline

BATCH = 8
"""Clips in memory at once."""
LISTED = 4
"""Contact sheets that are named one by one."""
SAMPLING = {
    "scheduler": "scheduler",
    "num_inference_steps": "steps",
    "decoder_steps": "decoder_steps",
    "guidance_scale": "guidance",
}
"""The pipeline's arguments, and the options that set them."""


@dataclass(frozen=True)
class Order:
    """What a command asks for.

    Attributes:
        command: Its name.
        given: Files, by the option or argument that gives them.
        settings: Options that shape the clips, by name; None: not set.
        seed: Of clip 0.
        count: Clips.
        words: That name the folder.
        title: Of a clip, for the contact sheets.
    """

    command: Command
    given: dict[str, Path]
    settings: dict[str, Any]
    seed: int
    count: int
    words: Sequence[str]
    title: str


@dataclass(frozen=True)
class Making:
    """Clips on their way.

    Attributes:
        pieces: Of each batch the place of its first clip, and the next piece of each of its clips.
        given: The modality that is given and not in the pieces.
        keep_original: Whether the films carry it as its file has it.
        odd: Says afterwards what is odd about what was given.
    """

    pieces: Iterator[tuple[int, Sequence[Clip]]]
    given: GivenFile | None = None
    keep_original: bool = False
    odd: Callable[[], None] | None = None


Maker = Callable[["SoundingVideoPipeline", Order, Sequence[int], int, ProgressLine], Making]
"""Of a pipeline, an order, the clips' seeds, how many are computed together, and where progress is shown."""


def produce(
    order: Order,
    make: Maker,
    *,
    model: str | None,
    out: Path,
    name: str | None,
    device: str | None,
    again: tuple[Path, Provenance] | None = None,
) -> None:
    """Makes what is ordered, as far as it is not there, and prints where it is.

    Args:
        model: As the command line names it.
        again: A clip's file and what it was made from: that clip is made, with those it was computed with.

    Raises:
        UserError: What is ordered cannot be made, or not there.
    """
    from mmldm.cli.generate import load_model
    from mmldm.cli.places import Place
    from mmldm.pipelines.provenance import (
        Asked,
        Machine,
        Provenance,
        sha256_of_model,
        source_of,
        told_differences,
    )
    from mmldm.training.distributed import choose_device

    require_writable(out)
    require_precision(order.settings.get("precision"))
    started = time.monotonic()
    sources = {option: source_of(path) for option, path in order.given.items()}
    # What this device cannot do is told before a model is read.
    chosen = choose_device(device)
    used = (
        choose_precision(order.settings.get("precision"), chosen)
        if again is None
        else repeated_precision(again[1].machine.precision, chosen)
    )
    pipeline = load_model(model, device)
    asked = Asked(
        command=order.command,
        model=model,
        model_sha256=sha256_of_model(pipeline),
        given=sources,
        settings={key: value for key, value in order.settings.items() if value is not None},
    )
    sample_in(pipeline, used)
    machine = Machine.here(pipeline.device.type, used)
    if again is not None:
        for sentence in told_differences(again[1], asked, machine, again[0].name):
            note(sentence)

    # What is there already was made by the same command.
    place = Place(out, order.words, asked, order.seed, name)
    missing = place.missing(order.count)
    _say_what_is_there(place, order.count, len(missing))
    if missing and used != "fp32":
        note(told(used))
    numbers: list[int | None] = [*missing]
    seeds = [order.seed + number for number in missing]
    together = BATCH
    if again is not None and missing:
        seeds, together = list(again[1].batch), max(BATCH, len(again[1].batch))
        numbers = [0 if seed == order.seed else None for seed in seeds]

    # How it is sampled, and the classes that nobody asked for: they are the seeds'.
    sampling = pipeline.settings(order.settings.get("quality"), **sampling_of(order))
    stated = sampling.model_dump(mode="json")
    named = order.settings.get("class")
    free = order.command == "generate" and not order.given
    every = range(order.seed, order.seed + order.count)
    classes = _classes(pipeline, every if again is None else [order.seed], named, free)
    titles = [
        ", ".join(
            [order.title, *([kind] if kind and kind != named else []), f"seed {order.seed + i}"]
        )
        for i, kind in enumerate(classes)
    ]

    def made_from(row: int) -> Provenance:
        first, seed = row - row % together, seeds[row]
        return Provenance(
            asked=asked,
            seed=seed,
            batch=tuple(seeds[first : first + together]),
            sampling=stated,
            class_name=classes[seed - order.seed],
            machine=machine,
        )

    with ProgressLine() as line:
        making = Making(iter(()))
        if missing:
            making = make(pipeline, order, seeds, together, line)
        films = Films(place, pipeline.clip_spec, titles, making.given, making.keep_original)
        films.write(making.pieces, numbers, made_from)
    if making.odd is not None:
        making.odd()
    _tell(films, [place.clip(number) for number in range(order.count)], started)


def produce_again(
    file: Path,
    makers: dict[Command, Maker],
    given: dict[str, Path],
    *,
    model: str | None,
    out: Path,
    name: str | None,
    device: str | None,
) -> None:
    """Makes one clip once more, bit for bit on the machine that made it.

    Args:
        file: An mp4 that was made here, or the JSON beside one.
        makers: Of the commands.
        given: Where files are now that are not where they were.
        model: Where the model is now; None: where it was.

    Raises:
        UserError: The file does not say how it was made, or what it was made from is not here.
    """
    from mmldm.pipelines.provenance import provenance_of

    require_writable(out)
    made = provenance_of(file)
    if made.asked.command not in makers:
        raise UserError(f"{file} was made by mmldm {made.asked.command}: give that command again")
    if not set(given) <= set(made.asked.given):
        raise UserError(
            f"{file} was made without --{next(iter(set(given) - set(made.asked.given)))}: leave it out"
        )

    # What it was made from; a file from elsewhere chooses nothing that is fetched from the hub.
    files = {option: given.get(option, Path(was.path)) for option, was in made.asked.given.items()}
    for option, path in files.items():
        if not path.is_file():
            raise UserError(
                f"{file} was made from {path}, which is not here: say where it is with --{option}"
            )
    named = made.asked.model if model is None else model
    here = named is None or published(named) is not None or Path(named).is_dir()
    if model is None and not here:
        raise UserError(
            f"{file} was made by the model {named}, which is not here: name it with --model"
        )
    order = Order(
        made.asked.command,
        files,
        dict(made.asked.settings),
        made.seed,
        1,
        (file.stem, "again"),
        f"{file.stem} again",
    )
    making = makers[made.asked.command]
    produce(order, making, model=named, out=out, name=name, device=device, again=(file, made))


def sampling_of(order: Order) -> dict[str, Any]:
    """The pipeline's arguments that say how it samples; None: not set."""
    return {argument: order.settings.get(option) for argument, option in SAMPLING.items()}


def _say_what_is_there(place: Place, count: int, missing: int) -> None:
    there = count - missing
    if there and missing:
        note(f"{there} of {count} clips are there, of the same command: it goes on with the others")
    elif there:
        note(
            f"what this command makes is in {place.folder} already; another --seed makes other clips, "
            "another --name the same ones once more"
        )


def _classes(
    pipeline: SoundingVideoPipeline, seeds: Sequence[int], named: str | None, free: bool
) -> list[str | None]:
    """The class of each clip: that asked for, or drawn by its seed; None: the generator chooses.

    Args:
        free: Whether the clips are made from nothing.
    """
    drawn = pipeline.drawn_classes(seeds) if free and named is None else None
    if drawn is None:
        return [named] * len(seeds)
    return [pipeline.class_names[index] for index in drawn.tolist()]


def _tell(films: Films, files: Sequence[Path], started: float) -> None:
    """Prints what is there now, and how long that took."""
    for file in files:
        typer.echo(file)
    sheets = films.sheets
    if len(sheets) > LISTED:
        typer.echo(f"contact sheets: {len(sheets)}, from {sheets[0]} to {sheets[-1].name}")
    else:
        for sheet in sheets:
            typer.echo(f"contact sheet: {sheet}")
    took = f"{films.made} clip{'s' * (films.made != 1)} in {time.monotonic() - started:.1f} s"
    there = len(files) - films.made
    typer.echo(took + (f", {there} were there" if there else ""))
