"""`mmldm evaluate`: how good a folder of clips, or a model, is beside real clips."""

from __future__ import annotations

import os
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from mmldm import __version__
from mmldm.cli.generate import load_model
from mmldm.cli.terminal import DeviceOption, ProgressLine, note, require_writable, say


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

    from mmldm.evaluation.evaluate import evaluate as compare
    from mmldm.evaluation.features import build_measures
    from mmldm.evaluation.measuring import FeatureCache
    from mmldm.evaluation.metrics import choose
    from mmldm.evaluation.page import not_measured, sentences, table
    from mmldm.evaluation.pictures import NO_PLOTS, can_plot, write_pictures
    from mmldm.evaluation.protocol import find_protocol
    from mmldm.evaluation.report import as_json, differences, load, require_comparable, save
    from mmldm.evaluation.sides import Finder
    from mmldm.training.distributed import choose_device
    from mmldm.worlds.impacts.metrics import BUILDERS, METRICS, is_synthesized

    # What was asked for, refused before anything is scanned or sampled.
    rules = find_protocol(protocol, samples, seed)
    fps = rules.spec.fps
    named = None if metrics is None else choose(metrics.split(","), fps, further=METRICS)
    other = None if against is None else load(against)
    run_device = choose_device(device)
    threads = workers or os.cpu_count() or 1
    with ProgressLine() as line:
        # The sets: real clips, and a folder's clips or a model's samples.
        finder = Finder(out, rules, threads, line)
        known = finder.real_sets(reference, held_out)
        if other is not None:
            require_comparable(rules.sha256, known.reference.sha256, other)
        if any((generated / sign).is_file() for sign in ("config.yaml", "model_index.json")):
            model = generated / "model" if (generated / "model").is_dir() else generated
            sides = finder.model_sides(load_model(str(generated), device), model, known)
        else:
            sides = finder.folder_sides(generated, known)

        # What is measured of them.
        unasked = {
            "impacts": is_synthesized(known.reference),
            "fad-audioclip": rules.name != "default",
        }
        unnamed = [name for name, wanted in unasked.items() if wanted]
        chosen = named or choose(None, fps, unnamed, METRICS)
        needed = [metric.measure for metric in chosen]
        measures = build_measures(needed, known.anchor, rules, line, weights, run_device, BUILDERS)

        store = FeatureCache(cache or out / "cache", rules.spec)
        found = compare(sides, chosen, measures, rules, store, threads, line)
        about = {
            "command": shlex.join(["mmldm", *sys.argv[1:]]),
            "date": datetime.now(UTC).date().isoformat(),
            "mmldm": __version__,
            "torch": torch.__version__,
        }
        report = as_json(found, rules, measures.built, about)
        page = save(report, write_pictures(found, rules.spec, out), out)

    if not can_plot():
        note(NO_PLOTS)
    say(table(report))
    say(f"\n{report['speed']['sentence']}")
    for sentence in sentences(report):
        say(f"equal contents: {sentence}")
    for sentence in not_measured(report):
        say(f"not measured: {sentence}")
    if other is not None:
        say(f"\n{differences(report, other)}")
    say(f"\nreport: {page}")
