"""`mmldm benchmark`: how fast a recipe or a model trains and samples here, and what it costs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmldm.cli.generate import load_model
from mmldm.cli.terminal import (
    ChangesOption,
    DeviceOption,
    ModelOption,
    PrecisionOption,
    ProgressLine,
    QualityOption,
    note,
    require_writable,
    silence_diffusers,
)
from mmldm.errors import UserError
from mmldm.pipelines.precision import Precision, choose_precision, require_precision, sample_in
from mmldm.pipelines.published import published
from mmldm.training import JOBS

if TYPE_CHECKING:
    import torch

    from mmldm.benchmark.costs import Clock, System
    from mmldm.pipelines.sounding_video import SoundingVideoPipeline

WORKS = ("sample", *JOBS)


def benchmark(
    model: ModelOption = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A recipe instead (YAML, or its name), with random weights."),
    ] = None,
    changes: ChangesOption = None,
    jobs: Annotated[
        str, typer.Option(metavar="NAMES", help=f"Of {', '.join(WORKS)}; with commas between.")
    ] = ",".join(WORKS),
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Clips a call. Default: 2 to sample, a recipe's pass to train."),
    ] = None,
    quality: QualityOption = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of every call.")] = 5,
    precision: PrecisionOption = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="SCRIPT",
            help="Python file with setup() and step(), timed in the same rounds. It is run.",
        ),
    ] = None,
    table1: Annotated[
        bool,
        typer.Option("--table1", help="The paper's Table 1 instead, of the generator and of all."),
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Also writes all numbers here.")] = None,
    device: DeviceOption = None,
) -> None:
    """Times sampling and training steps, whole and in parts; counts FLOPs, memory and energy."""
    # Mistakes are told before torch is loaded.
    wanted = jobs.split(",")
    unknown = [name for name in wanted if name not in WORKS]
    if unknown:
        raise UserError(f"--jobs: unknown {unknown[0]!r}; known are {', '.join(WORKS)}.")
    require_precision(precision)
    if model is not None and config is not None:
        raise UserError("give --model or --config, not both.")
    if json is not None:
        require_writable(json.parent)

    from mmldm.benchmark.costs import (
        Clock,
        costs,
        decided_by,
        facts,
        passes_of,
        to_json,
        to_markdown,
    )
    from mmldm.benchmark.pace import hours_table, job_times
    from mmldm.benchmark.timing import load_step
    from mmldm.files import write_text
    from mmldm.training.distributed import choose_device

    silence_diffusers()
    chosen = choose_device(device)
    used = choose_precision(precision, chosen)
    step = None if against is None else load_step(against)
    system = _system(model, config, changes or [], quality, used, chosen)
    about = facts(chosen, used, shlex.join(["mmldm", *sys.argv[1:]]))
    if table1:
        _table1(system, Clock(repeats, chosen), about, json)
        return
    rows = []
    with ProgressLine() as line:
        for row in costs(system, wanted, batch, Clock(repeats, chosen, step)):
            rows.append(row)
            line.console.print(f"{row.work}: {row.timing.median:.3g} s", highlight=False)
    if not rows:
        raise UserError(f"nothing to measure: this system has no {' or '.join(wanted)}.")
    typer.echo(to_markdown(rows, about), nl=False)
    # What one decides by: clips a minute, memory, hours of a training.
    told = decided_by(rows)
    if told is not None:
        typer.echo(f"\n{told}")
    passes = passes_of(rows)
    times = job_times(system.recipe[0], passes) if system.recipe and passes else []
    if times:
        typer.echo(f"\n{hours_table(times)}", nl=False)
    if json is not None:
        write_text(json, to_json(rows, about, times))
        typer.echo(f"\nnumbers: {json}")


def _table1(system: System, clock: Clock, about: dict[str, Any], json: Path | None) -> None:
    """The paper's Table 1: printed, and its numbers written."""
    from mmldm.benchmark.table1 import table1, to_json, to_table1
    from mmldm.files import write_text

    if system.recipe is None:
        # A model that is not there is told first.
        system.pipeline()
        raise UserError(
            "--table1 times training, too: give a recipe, or a run folder that has one."
        )
    clip = system.recipe[0].clip
    with ProgressLine() as line:
        rows = table1(system, clock, line)
    typer.echo(to_table1(rows, (clip.height, clip.width), about))
    if json is not None:
        write_text(json, to_json(rows, about))
        typer.echo(f"\nnumbers: {json}")


def _system(
    model: str | None,
    config: Path | None,
    changes: list[str],
    quality: str | None,
    precision: Precision,
    device: torch.device,
) -> System:
    """What the options name: a recipe, a run folder (model and recipe), or a model alone."""
    from mmldm.benchmark.costs import System
    from mmldm.benchmark.sampling import CLASSES, untrained_pipeline
    from mmldm.config import changed, load_config
    from mmldm.training.recipe import tiny_recipe
    from mmldm.training.summary import summarise

    def loaded() -> SoundingVideoPipeline:
        made = load_model(model, str(device))
        sample_in(made, precision)
        return made

    # The recipe: the one given, the run's own, or the bundled model's; a model alone has none.
    own = None if model is None or published(model) else Path(model) / "config.yaml"
    if config is not None or (own is not None and own.is_file()):
        recipe = load_config(config or own or "", say=None if config is None else note)
    elif model is None:
        recipe = tiny_recipe()
    elif changes:
        raise UserError(f"--set changes a recipe, and {model} is a model without one.")
    else:
        options = {"quality": quality}
        return System(loaded, options, None)

    # All parts that are trained, in the precision that is asked for.
    written = recipe.sample
    recipe = changed(recipe, changes)
    trained = [job for job in JOBS if getattr(getattr(recipe, job), "train", None) is not None]
    trains_in = "bf16" if precision == "bf16" else "fp32"
    recipe = changed(recipe, [f"{job}.train.precision={trains_in}" for job in trained])
    # Shapes and operations of every part, counted on networks without numbers.
    summary = summarise(recipe, len(CLASSES))

    def pipeline() -> SoundingVideoPipeline:
        if config is None:
            return loaded()
        made = untrained_pipeline(recipe, summary).to(device)
        sample_in(made, precision)
        return made

    # A pipeline has a recipe's or a model's own settings; what is changed here is told to it.
    calls = [(k, v) for k, v in recipe.sample if k != "rows"]
    sample = {k: v for k, v in calls if v != getattr(written, k)}
    options = {**sample, "quality": quality or sample.get("quality")}
    return System(pipeline, options, (recipe, summary))
