"""`mmldm evaluate`: how good a folder of clips, or a model, is beside real clips; with `--long`, of films."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmldm import __version__
from mmldm.cli.generate import load_model
from mmldm.cli.terminal import DeviceOption, ProgressLine, note, require_writable, say
from mmldm.errors import UserError
from mmldm.pipelines.published import published

if TYPE_CHECKING:
    from mmldm.evaluation.metrics import Metric
    from mmldm.types import ClipSpec


def evaluate(
    generated: Annotated[
        Path, typer.Argument(help="Folder of clips, or a model or run folder to sample from.")
    ],
    reference: Annotated[
        Path, typer.Argument(help="Folder of real clips, or a manifest or list of them.")
    ],
    held_out: Annotated[
        Path | None,
        typer.Option(help="Real clips that no model was trained on. Default: half of REFERENCE."),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="default, own (the model's clips), mm-diffusion (64x64), mm-diffusion-256."
        ),
    ] = "default",
    out: Annotated[Path, typer.Option(help="Folder for report, pictures and samples.")] = Path(
        "evaluation"
    ),
    weights: Annotated[
        Path | None,
        typer.Option(help="Folder with the networks' weights. Default: docs/evaluation.md."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="With commas between. Default: most of them."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", "-n", min=2, help="Clips of a set at most.")
    ] = None,
    windows: Annotated[
        str,
        typer.Option(
            metavar="N", help="Clips of each file, which may be longer: a number, or all that fit."
        ),
    ] = "1",
    group_pattern: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Its first group, found in a clip's path, names the recording it is a part of.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of splits and intervals.")] = 0,
    against: Annotated[
        Path | None,
        typer.Option(metavar="REPORT", help="Also prints differences to this report.json."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for what was measured. Default: OUT/cache.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="For decoding. Default: all cores.")
    ] = None,
    long: Annotated[
        bool,
        typer.Option("--long", help="Films instead of clips: what drifts, and what joins show."),
    ] = False,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=3600, help="With --long: of a film.")
    ] = 32.0,
    rollouts: Annotated[int, typer.Option(min=2, help="With --long: films of a set.")] = 60,
    task: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Of a model: joint, and with commas a2v, v2a, for one modality of held-out clips; "
            "with --long one of them.",
        ),
    ] = "joint",
    made: Annotated[
        Path | None,
        typer.Option(
            help="Folder for a model's clips, which several reports may share. Default: OUT."
        ),
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Measures quality, alignment, variety and memorisation of clips, beside what real clips reach."""
    require_writable(out)
    if not generated.exists():
        generated = published(str(generated)) or generated
    # Before any folder is decoded: the second one may be the one that is missing.
    for path in (generated, reference, held_out):
        if path is not None and not path.exists():
            raise UserError(f"{path} does not exist; give a folder of clips")
    from mmldm.sections import DataConfig
    from mmldm.strict import parse

    parse(DataConfig, {"group_pattern": group_pattern}, "--group-pattern")
    if long:
        for name, value in (
            ("metrics", metrics),
            ("samples", samples),
            ("against", against),
            ("group-pattern", group_pattern),
            ("windows", None if windows == "1" else windows),
            ("made", made),
        ):
            if value is not None:
                raise UserError(f"--{name} is for clips: leave it out with --long.")
        _evaluate_long(
            _Long(generated, reference, held_out, protocol, out, seconds, rollouts, task),
            seed,
            weights,
            cache or out / "cache",
            workers or os.cpu_count() or 1,
            device,
        )
        return

    import torch

    from mmldm.evaluation.evaluate import evaluate as compare
    from mmldm.evaluation.features import build_measures
    from mmldm.evaluation.measuring import FeatureCache
    from mmldm.evaluation.metrics import choose
    from mmldm.evaluation.page import copied, not_measured, sentences, table, unmeasurable
    from mmldm.evaluation.pictures import NO_PLOTS, can_plot, write_pictures
    from mmldm.evaluation.protocol import find_protocol
    from mmldm.evaluation.report import as_json, differences, load, require_comparable, save
    from mmldm.evaluation.sides import Finder
    from mmldm.training.distributed import choose_device
    from mmldm.worlds.freedoom import metrics as freedoom
    from mmldm.worlds.impacts import metrics as impacts

    # What was asked for, refused before anything is scanned or sampled.
    rules = find_protocol(
        protocol, samples, seed, _own_clips(generated), group_pattern, _windows(windows)
    )
    fps = rules.spec.fps
    of_worlds = [*impacts.METRICS, *freedoom.METRICS]
    named = None if metrics is None else choose(metrics.split(","), fps, further=of_worlds)
    other = None if against is None else load(against)
    _note_missing_weights(named or choose(None, fps), weights, alone=named is not None)
    model = _model_folder(generated)
    tasks = _tasks(task, made, model)
    run_device = choose_device(device)
    threads = workers or os.cpu_count() or 1
    with ProgressLine() as line:
        # The sets: real clips, and a folder's clips or a model's samples.
        finder = Finder(out, rules, threads, line, made)
        known = finder.real_sets(reference, held_out)
        if other is not None:
            require_comparable(rules.sha256, known.reference.sha256, other)
        if model is not None:
            sides = finder.model_sides(load_model(str(generated), device), model, known, tasks)
        else:
            sides = finder.folder_sides(generated, known)

        # What is measured of them.
        unasked = {
            "impacts": impacts.is_synthesized(known.reference),
            "shots": freedoom.is_freedoom(known.reference),
            "fad-audioclip": rules.name.startswith("mm-diffusion"),
        }
        unnamed = [name for name, wanted in unasked.items() if wanted]
        chosen = named or choose(None, fps, unnamed, of_worlds)
        needed = [metric.measure for metric in chosen]
        builders = {**impacts.BUILDERS, **freedoom.BUILDERS}
        measures = build_measures(needed, known.anchor, rules, line, weights, run_device, builders)

        store = FeatureCache(cache or out / "cache", rules.spec)
        found = compare(sides, chosen, measures, rules, store, threads, line)
        about = {**_about(), "torch": torch.__version__}
        report = as_json(found, rules, measures.built, about)
        page = save(report, write_pictures(found, rules.spec, out), out)

    if not can_plot():
        note(NO_PLOTS)
    say(table(report))
    say(f"\n{report['speed']['sentence']}")
    for sentence in unmeasurable(report):
        say(sentence)
    for sentence in copied(report):
        say(f"copies: {sentence}")
    for sentence in sentences(report):
        say(f"equal contents: {sentence}")
    for sentence in not_measured(report):
        say(f"not measured: {sentence}")
    if other is not None:
        say(f"\n{differences(report, other)}")
    say(f"\nreport: {page}")


def _windows(asked: str) -> int | None:
    """Windows of each file; None: all that fit.

    Raises:
        UserError: It is neither.
    """
    if asked == "all":
        return None
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    raise UserError(f"--windows: {asked!r} is neither a number nor all.")


def _tasks(asked: str, made: Path | None, model: Path | None) -> list[str]:
    """What is sampled of a model, without --long.

    Raises:
        UserError: It is not known, or there is no model to sample from.
    """
    from mmldm.evaluation.sides import TASK_SETS

    names = list(dict.fromkeys(asked.split(",")))
    unknown = [name for name in names if name not in TASK_SETS]
    if unknown:
        raise UserError(f"--task: unknown {unknown[0]!r}; known are {', '.join(TASK_SETS)}.")
    if "joint" not in names:
        raise UserError("--task: name joint, too, which the other tasks stand beside.")
    if model is None and (len(names) > 1 or made is not None):
        raise UserError(
            "--task and --made are for a model to sample from, and GENERATED holds clips."
        )
    return names


def _note_missing_weights(metrics: Sequence[Metric], weights: Path | None, alone: bool) -> None:
    """Says before the work which networks lack their weights, so that nobody learns it after hours.

    Args:
        alone: Whether these metrics were asked for by name.

    Raises:
        UserError: Nothing of what was asked for by name can be measured without them.
    """
    from mmldm.evaluation.extractors.named import missing_weights

    needed = list(dict.fromkeys(metric.measure for metric in metrics))
    missing = missing_weights(needed, weights)
    if alone and missing and len(missing) == len(needed):
        raise UserError(next(iter(missing.values())))
    for sentence in missing.values():
        note(f"will not be measured: {sentence}")


def _about() -> dict[str, str]:
    """What a report says of its making."""
    return {
        "command": shlex.join(["mmldm", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "mmldm": __version__,
    }


def _model_folder(folder: Path) -> Path | None:
    """The model that a model or run folder holds; None of a folder of clips."""
    if not any((folder / sign).is_file() for sign in ("config.yaml", "model_index.json")):
        return None
    return folder / "model" if (folder / "model").is_dir() else folder


def _own_clips(folder: Path) -> ClipSpec | None:
    """What the clips of a model are; None of a folder of clips."""
    from mmldm.pipelines.loading import read_index
    from mmldm.strict import parse
    from mmldm.types import ClipSpec

    model = _model_folder(folder)
    if model is None or not (model / "model_index.json").is_file():
        return None
    return parse(ClipSpec, dict(read_index(model).get("clip_spec") or {}), f"{model}: clip_spec")


@dataclass(frozen=True)
class _Long:
    """What is asked of `--long`: the command's arguments of these names."""

    generated: Path
    reference: Path
    held_out: Path | None
    protocol: str
    out: Path
    seconds: float
    rollouts: int
    task: str


def _evaluate_long(
    asked: _Long, seed: int, weights: Path | None, cache: Path, workers: int, device: str | None
) -> None:
    """Films of many windows: made, or found in a folder, and measured beside real ones."""
    from mmldm.evaluation.drift import LEAST_WINDOWS
    from mmldm.evaluation.features import Measures, build_measures
    from mmldm.evaluation.long import BUILDERS, NETWORKS, OF_JOINS, evaluate_long, followed
    from mmldm.evaluation.long_page import save_long, tables
    from mmldm.evaluation.measuring import FeatureCache
    from mmldm.evaluation.pictures import NO_PLOTS, can_plot
    from mmldm.evaluation.protocol import find_protocol
    from mmldm.evaluation.rollouts import FILM_SETS, long_sides
    from mmldm.evaluation.sides import Finder
    from mmldm.training.distributed import choose_device
    from mmldm.worlds.films import world_of

    # Refused before anything is made.
    rules = find_protocol(asked.protocol, None, seed, _own_clips(asked.generated))
    count = round(asked.seconds / rules.spec.duration)
    if count < LEAST_WINDOWS:
        raise UserError(
            f"--seconds: {LEAST_WINDOWS * rules.spec.duration:g} are the least that can drift."
        )
    if asked.task not in FILM_SETS:
        raise UserError(f"--task: unknown {asked.task!r}; known are {', '.join(FILM_SETS)}.")
    task, whole = FILM_SETS[asked.task], count * rules.spec.duration
    if abs(whole - asked.seconds) > 1 / rules.spec.fps:
        note(f"films are whole windows of {rules.spec.duration:g} s: {whole:g} s")
    run_device = choose_device(device)
    folder = _model_folder(asked.generated)
    pipeline = None if folder is None else load_model(str(asked.generated), device)

    with ProgressLine() as line:
        finder = Finder(asked.out, rules, workers, line)
        sides = long_sides(
            finder, asked.generated, folder, pipeline, asked.reference, asked.held_out, task, count,
            asked.rollouts,
        )  # fmt: skip
        # What is followed: of the world where the real clips are its own, and features of what there is.
        world, anchor = world_of(sides.anchor, rules), sides.anchor
        of_joins = {**OF_JOINS, **world.of_joins}
        own = [world.onsets_of, "level", "looks", "fingerprints"]
        own += [*(number.measure for number in world.numbers), "classes"]
        own += of_joins if sides.made.instants else []
        further = {**BUILDERS, **world.builders}
        measures = build_measures(own, anchor, rules, line, weights, run_device, further)
        if "classes" in measures.missing:
            others = build_measures(NETWORKS, anchor, rules, line, weights, run_device)
            measures = Measures(
                [*measures.built, *others.built], {**measures.missing, **others.missing}
            )
        features = [m.name for m in measures.built if m.name in ("classes", *NETWORKS)]
        found = evaluate_long(
            sides,
            [*world.numbers, *followed(rules, features, world.onsets_of)],
            measures,
            rules,
            FeatureCache(cache, rules.spec),
            workers,
            line,
            None if task.given is None else "audio" if task.given == "audio" else "video",
            of_joins,
        )
        protocol: dict[str, Any] = rules.model_dump(mode="json")
        facts = {"protocol": protocol, "protocol_sha256": rules.sha256}
        facts["reference_sha256"] = sides.anchor.sha256
        report = {**_about(), **facts, **found}
        page = save_long(report, asked.out)

    if not can_plot():
        note(NO_PLOTS)
    if sides.real is None:
        note(
            f"the real clips hold no two films of {found['seconds']:g} s, so drift stands beside none: "
            "mmldm synthesize makes such films with --seconds"
        )
    say(tables(report))
    say(f"\n{report['speed']}\n\nreport: {page}")
