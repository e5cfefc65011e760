"""`mmldm evaluate`: how good a folder of clips, or a model, is beside real clips."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmldm import __version__
from mmldm.cli.generate import DeviceOption, load_model
from mmldm.cli.output import require_writable
from mmldm.cli.progress import ProgressLine
from mmldm.errors import UserError

if TYPE_CHECKING:
    from mmldm.evaluation.evaluate import Sides
    from mmldm.evaluation.extractors.extractor import Extractor
    from mmldm.evaluation.measures import Measure
    from mmldm.evaluation.metrics import Metric
    from mmldm.evaluation.protocol import Protocol
    from mmldm.evaluation.sets import ClipSet

MOST_SAMPLES = 2048
"""Drawn from a model where nothing else is said."""


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
        str, typer.Option(help="default, mm-diffusion (by way of 64x64), mm-diffusion-256.")
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
    device: DeviceOption = None,
) -> None:
    """Measures quality, alignment, variety and memorisation of clips, beside what real clips reach."""
    require_writable(out)

    import torch

    from mmldm.data.impacts import CONFIG_FILE
    from mmldm.evaluation.against import differences, require_comparable
    from mmldm.evaluation.evaluate import evaluate as compare
    from mmldm.evaluation.feature_cache import FeatureCache
    from mmldm.evaluation.pictures import write_pictures
    from mmldm.evaluation.protocol import find_protocol
    from mmldm.evaluation.registry import choose
    from mmldm.evaluation.report import as_json, load, save, table
    from mmldm.training.distributed import choose_device

    rules = find_protocol(protocol, samples, seed)
    other = None if against is None else load(against)
    run_device = choose_device(device)
    threads = workers or os.cpu_count() or 1
    with ProgressLine() as line:
        sides = _sides(generated, reference, held_out, rules, out, threads, device, line)
        if other is not None:
            require_comparable(rules.sha256, sides.reference.sha256, other)
        impacts = (Path(sides.reference.origin) / CONFIG_FILE).is_file()
        names = None if metrics is None else metrics.split(",")
        chosen = choose(names, rules.spec.fps, impacts)
        measures, undefined = _measures(chosen, sides, rules, weights, str(run_device), line)
        if rules.name != "default":
            undefined["FAD of MM-Diffusion"] = (
                "AudioCLIP, whose features it is made from (times 10,000), is not built here; FAD by VGGish "
                "stands in and has another scale"
            )
        usable = [metric for metric in chosen if metric.name not in undefined]
        if not usable:
            raise UserError(next(iter(undefined.values())))
        store = FeatureCache(cache or out / "cache", rules.spec)
        found = compare(sides, usable, measures, rules, store, threads, line)
        report = as_json(
            found,
            rules,
            _extractors(measures),
            undefined,
            {
                "command": shlex.join(["mmldm", *sys.argv[1:]]),
                "date": datetime.now(UTC).date().isoformat(),
                "mmldm": __version__,
                "torch": torch.__version__,
            },
        )
        page = save(report, write_pictures(found, rules.spec, out), out)
    typer.echo(table(report))
    typer.echo(f"\n{report['speed']['sentence']}")
    for name, reason in undefined.items():
        typer.echo(f"not measured, {name}: {reason}")
    if other is not None:
        typer.echo(f"\n{differences(report, other)}")
    typer.echo(f"\nreport: {page}")


def _sides(
    generated: Path,
    reference: Path,
    held_out: Path | None,
    rules: Protocol,
    out: Path,
    workers: int,
    device: str | None,
    line: ProgressLine,
) -> Sides:
    """The sets that the arguments name; a model's are made first."""
    from mmldm.evaluation.evaluate import Sides
    from mmldm.evaluation.sets import clip_set, find_manifest, halves

    def read(name: str, source: Path) -> ClipSet:
        kept = out / "sets" / f"{name}.jsonl"
        manifest = find_manifest(source, kept, rules.spec, workers, line)
        return clip_set(name, manifest, manifest.rows, rules)

    kept = out / "sets" / "reference.jsonl"
    manifest = find_manifest(reference, kept, rules.spec, workers, line)
    own_split = held_out is None and reference.is_file() and manifest.split("held_out")
    rows = manifest.split("train") if own_split else manifest.rows
    whole = clip_set("reference", manifest, rows, rules)
    if held_out is not None:
        anchor, real = whole.require(), read("real", held_out).require()
    elif own_split:
        anchor = whole.require()
        real = clip_set("real", manifest, manifest.split("held_out"), rules).require()
    else:
        anchor, real = halves(whole.require(4), rules.seed)
    model = generated / "model" if (generated / "model").is_dir() else generated
    if not any((generated / sign).is_file() for sign in ("config.yaml", "model_index.json")):
        return Sides(read("generated", generated).require(), whole, anchor, real)
    from mmldm.evaluation.model_sets import model_sha256, write_reconstructions, write_samples

    pipeline = load_model(str(generated), device)
    sha256 = model_sha256(model)
    count = rules.samples or min(len(whole.clips), MOST_SAMPLES)
    write_samples(pipeline, sha256, out / "samples", count, line)
    write_reconstructions(pipeline, sha256, real, out / "reconstructions", line)
    made = read("generated", out / "samples").require()
    return Sides(
        made, whole, anchor, real, read("reconstruction", out / "reconstructions").require()
    )


def _measures(
    chosen: list[Metric],
    sides: Sides,
    rules: Protocol,
    weights: Path | None,
    device: str,
    line: ProgressLine,
) -> tuple[list[Measure], dict[str, str]]:
    """What the metrics read, and the metrics that cannot be computed, with the reason."""
    from mmldm.evaluation.extractors.named import load_extractor
    from mmldm.evaluation.measures import Alarms, Events, Features, Fingerprints
    from mmldm.evaluation.registry import EXTRACTORS
    from mmldm.evaluation.trained_measures import impacts, verdicts

    plain: dict[str, Callable[[], Measure]] = {
        "events": Events,
        "alarms": Alarms,
        "fingerprints": Fingerprints,
    }
    measures: list[Measure] = []
    undefined: dict[str, str] = {}
    for name in dict.fromkeys(metric.measure for metric in chosen):
        try:
            if name in plain:
                measures.append(plain[name]())
            elif name in EXTRACTORS:
                measures.append(Features(name, load_extractor(name, weights, device)))
            elif name == "impacts":
                measures.append(impacts(sides.anchor, rules.spec))
            else:
                measures.append(verdicts(sides.anchor, rules, line))
        except UserError as error:
            undefined |= {m.name: str(error) for m in chosen if m.measure == name}
    return measures, undefined


def _extractors(measures: list[Measure]) -> dict[str, dict[str, Any]]:
    from mmldm.evaluation.measures import Features

    def facts(extractor: Extractor) -> dict[str, Any]:
        return {
            "network": extractor.name,
            "sha256": extractor.sha256,
            "licence": extractor.licence,
            "features": extractor.dim,
        }

    return {m.name: facts(m.extractor) for m in measures if isinstance(m, Features)}
