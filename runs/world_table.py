"""What the tables of all worlds have in common: real clips, classifiers, a model's clips, report and text.

measure_impacts.py, measure_freedoom.py
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from mmldm import __version__
from mmldm.data.clips import spread
from mmldm.errors import UserError
from mmldm.evaluation.classifiers import Classifiers
from mmldm.evaluation.evaluate import Evaluation
from mmldm.evaluation.features import CLASSIFIER_CLIPS, Measures, classes_of
from mmldm.evaluation.pictures import write_pictures
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.reconstruction import fidelity
from mmldm.evaluation.report import as_json, save
from mmldm.evaluation.sets import ClipSet, kept_manifest
from mmldm.evaluation.sides import (
    TASK_SETS,
    Finder,
    RealSets,
    Sides,
    reconstruction_file,
    sample_file,
)
from mmldm.files import write_json, write_text
from mmldm.media.spectrogram import AudioImage
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.types import ClipSpec, Progress

HELD_OUT = 0.1
"""Share of a folder's clips that are held out, where CLIPS is no manifest."""
LEAST_HELD_OUT, LEAST_TRAINING = 4, 12


def arguments(description: str, out: Path) -> argparse.ArgumentParser:
    """The options of every table; the model is a world's own."""
    parser = argparse.ArgumentParser(description=description.split("\n", 1)[0])
    parser.add_argument("source", type=Path, metavar="CLIPS", help="folder or manifest.jsonl")
    parser.add_argument("--clips", type=int, default=500, help="per task")
    parser.add_argument("--quality", help="best, balanced, fast; default: the model's")
    parser.add_argument("--guidance", type=float, help="default: the quality's")
    parser.add_argument("--steps", type=int, help="default: the quality's")
    parser.add_argument("--classifiers", type=Path, help="kept here; default: OUT/classifiers")
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What the samples are made with, where it is asked for."""
    asked = {
        "quality": options.quality,
        "guidance_scale": options.guidance,
        "num_inference_steps": options.steps,
    }
    return {name: value for name, value in asked.items() if value is not None}


@dataclass(frozen=True)
class Prepared:
    """What is there before the model's clips are made.

    Attributes:
        known: Real clips; `real` has as many as a task.
        held_out: All that are held out.
        unseen: Training clips that the classifiers do not know.
        sides: Real clips and the model's.
    """

    known: RealSets
    held_out: ClipSet
    unseen: ClipSet
    classifiers: Classifiers
    sides: Sides


def prepare(
    options: argparse.Namespace, pipeline: SoundingVideoPipeline, rules: Protocol, line: Progress
) -> Prepared:
    """Finds real clips, trains the classifiers, and makes the model's clips.

    Raises:
        UserError: There are too few real clips.
    """
    # Real clips: those held out, and the training clips that everything is compared with.
    source, out = options.source, options.out
    listed = source if source.is_file() else out / "sets" / "clips.jsonl"
    kept_manifest(source, listed, rules.spec, options.workers, line, HELD_OUT)
    finder = Finder(out, rules, options.workers, line)
    known = finder.real_sets(listed, None)
    real, training = known.real, known.reference
    if len(real.clips) < LEAST_HELD_OUT or len(training.clips) < LEAST_TRAINING:
        raise UserError(
            f"{source} has {len(real.clips)} held-out and {len(training.clips)} training clips; "
            f"{LEAST_HELD_OUT} and {LEAST_TRAINING} are the least that can be measured on"
        )
    known = replace(known, real=taken(real, spread(options.clips, len(real.clips))))

    # Training clips for the classifiers, and others that they do not know.
    order = torch.randperm(len(training.clips), generator=torch.Generator().manual_seed(0))
    learnt = min(CLASSIFIER_CLIPS, len(order) // 2)
    unseen = taken(training, order[learnt : learnt + 2 * options.clips].tolist())
    classifiers = trained_or_kept(
        options.classifiers or out / "classifiers",
        taken(training, order[:learnt].tolist()),
        rules,
        line,
    )
    sides = finder.model_sides(
        pipeline, options.model, known, list(TASK_SETS), options.clips, settings_of(options)
    )
    return Prepared(known, real, unseen, classifiers, sides)


def finish(
    report: dict[str, Any],
    text: str,
    found: Evaluation,
    rules: Protocol,
    measures: Measures,
    out: Path,
    script: str,
) -> None:
    """Writes the table, and the report of `mmldm evaluate` on the same clips."""
    write_json(out / "table.json", report)
    write_text(out / "table.md", text + "\n")
    about = {
        "command": f"python runs/{script}",
        "date": datetime.now(UTC).date().isoformat(),
        "mmldm": __version__,
        "torch": torch.__version__,
    }
    save(as_json(found, rules, measures.built, about), write_pictures(found, rules.spec, out), out)
    print(text)
    psnr, mel_error = report["reconstruction"].values()
    print(f"\nreconstruction: {psnr:.1f} dB PSNR, {mel_error:.2f} dB mean log-mel error")


def taken(clips: ClipSet, indices: list[int]) -> ClipSet:
    """Some of the clips of a set, in this order."""
    return replace(clips, clips=tuple(clips.clips[i] for i in indices))


def trained_or_kept(
    folder: Path, clips: ClipSet, rules: Protocol, progress: Progress
) -> Classifiers:
    """The classifiers in the folder, or newly trained ones, which are then kept there."""
    if not folder.exists():
        trained = classes_of(clips, rules, progress).classifiers
        trained.save(folder)
        return trained
    kept = Classifiers.load(folder)
    if set(kept.class_names) != {clip.class_name for clip in clips.clips}:
        raise UserError(f"{folder} holds classifiers of {', '.join(kept.class_names)}")
    return kept


def originals_of(sides: Sides, tasks: Sequence[str] = ("v2a",)) -> dict[str, dict[str, str]]:
    """By set whose events should be those of real clips: the real clip's name of each of its files.

    Args:
        tasks: Those of `TASK_SETS` whose sets are such, beside reconstructions.
    """
    real = sides.known.real.clips
    found = {"reconstruction": {reconstruction_file(clip): clip.name for clip in real}}
    for task in tasks:
        name = TASK_SETS[task].name
        count = len(sides.generated[name].clips)
        found[name] = {sample_file(seed): real[seed % len(real)].name for seed in range(count)}
    return found


def closeness(sides: Sides, spec: ClipSpec) -> dict[str, Any]:
    """Mean PSNR in dB and mel error of the real clips' reconstructions, as files give both back."""
    assert sides.reconstruction is not None
    kept = {clip.file: clip for clip in sides.reconstruction.clips}
    audio_image = AudioImage(spec)
    pairs = [
        fidelity(kept[reconstruction_file(clip)].read(spec), clip.read(spec), audio_image)
        for clip in sides.known.real.clips
        if reconstruction_file(clip) in kept
    ]
    psnr, mel_error = torch.tensor(pairs).mean(0).tolist()
    return {"psnr": psnr, "mel_error": mel_error}
