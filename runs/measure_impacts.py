"""Measures a model of the impacts world against held-out clips: the table of README and model card.

    python runs/measure_impacts.py CLIPS [MODEL] [--clips 500] [--classifiers FOLDER] [--out FOLDER]

CLIPS is a folder of `mmldm synthesize`, or the manifest.jsonl of a training run on one. Columns: real
held-out clips, their reconstructions, joint samples ("generated"), audio-to-video and video-to-audio for
held-out clips. Clip i of a task is made from seed i and, where one is given, from held-out clip i modulo
their number; nothing is chosen. In --out: table.md and table.json, the report of `mmldm evaluate` on the same
clips, and the clips. An interrupted run goes on where it stopped.
"""

import argparse
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmldm import __version__
from mmldm.cli.generate import BUNDLED
from mmldm.cli.terminal import ProgressLine
from mmldm.data.clips import spread
from mmldm.errors import UserError
from mmldm.evaluation.classifiers import Classifiers
from mmldm.evaluation.evaluate import evaluate
from mmldm.evaluation.features import CLASSIFIER_CLIPS, Classes, build_measures, classes_of
from mmldm.evaluation.measuring import FeatureCache
from mmldm.evaluation.metrics import choose
from mmldm.evaluation.pictures import write_pictures
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.reconstruction import fidelity
from mmldm.evaluation.report import as_json, save
from mmldm.evaluation.sets import ClipSet, ClipSource, kept_manifest
from mmldm.evaluation.sides import (
    TASK_SETS,
    Finder,
    Sides,
    TaskSet,
    model_sha256,
    reconstruction_file,
    sample_file,
    write_samples,
)
from mmldm.files import write_json, write_text
from mmldm.media.reader import read_clip
from mmldm.media.spectrogram import AudioImage
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.types import ClipSpec, Progress
from mmldm.worlds.impacts.calibration import Truth, calibration, read_truth
from mmldm.worlds.impacts.metrics import BUILDERS, METRICS
from mmldm.worlds.impacts.pairs import diversity
from mmldm.worlds.impacts.sound import render_sound
from mmldm.worlds.impacts.table import TABLE_METRICS, impacts_report, markdown

HELD_OUT = 0.1
"""Share of a folder's clips that are held out, where CLIPS is no manifest."""
LEAST_HELD_OUT, LEAST_TRAINING = 4, 12
SEEDS = 4
"""Sounds for one picture, for their diversity."""
SEVERAL = TaskSet("video-to-audio, several seeds", "samples-v2a-seeds", "frames")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("source", type=Path, metavar="CLIPS", help="folder or manifest.jsonl")
    parser.add_argument("model", nargs="?", type=Path, default=BUNDLED)
    parser.add_argument("--clips", type=int, default=500, help="per task")
    parser.add_argument(
        "--pictures", type=int, default=12, help="given to several seeds each; 0: none"
    )
    parser.add_argument("--quality", help="best, balanced, fast; default: the model's")
    parser.add_argument("--guidance", type=float, help="default: the quality's")
    parser.add_argument("--steps", type=int, help="default: the quality's")
    parser.add_argument("--classifiers", type=Path, help="kept here; default: OUT/classifiers")
    parser.add_argument("--out", type=Path, default=Path("runs/impacts-table"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    out: Path = options.out
    asked = {
        "quality": options.quality,
        "guidance_scale": options.guidance,
        "num_inference_steps": options.steps,
    }
    settings = {name: value for name, value in asked.items() if value is not None}

    pipeline = SoundingVideoPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)
    spec = pipeline.clip_spec
    rules = Protocol(name="impacts", spec=spec)
    with ProgressLine() as line:
        # Real clips: those held out, and the training clips that everything is compared with.
        source = options.source
        listed = source if source.is_file() else out / "sets" / "clips.jsonl"
        kept_manifest(source, listed, spec, options.workers, line, HELD_OUT)
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

        # The model's clips, and everything measured on all of them.
        sides = finder.model_sides(
            pipeline, options.model, known, list(TASK_SETS), options.clips, settings
        )
        variety = {}
        if options.pictures > 1:
            some = taken(known.real, spread(options.pictures, len(known.real.clips)))
            write_samples(
                pipeline,
                model_sha256(options.model),
                out / SEVERAL.folder,
                SEEDS * len(some.clips),
                line,
                SEVERAL,
                some,
                settings,
            )
            variety = diversities(out / SEVERAL.folder, some, real, spec)
        chosen = choose(TABLE_METRICS, spec.fps, further=METRICS)
        measures = build_measures(
            [metric.measure for metric in chosen],
            known.real,
            rules,
            line,
            further={**BUILDERS, "classes": lambda *_: Classes(classifiers)},
        )
        cache = FeatureCache(out / "cache", spec)
        found = evaluate(sides, chosen, measures, rules, cache, options.workers, line)

    heard = found.sets["real"]
    truths = [truth_of(clip, real, spec) for clip in heard.clips.clips]
    report = {
        "model": options.model.name,
        "clips": options.clips,
        **impacts_report(found, unseen, classifiers.class_names, rules, originals_of(sides)),
        "calibration": calibration(heard.findings["impacts"], truths, spec.sample_rate),
        "diversity": variety,
        "reconstruction": closeness(sides, spec),
    }
    text = markdown(report)
    write_json(out / "table.json", report)
    write_text(out / "table.md", text + "\n")
    about = {
        "command": "python runs/measure_impacts.py",
        "date": datetime.now(UTC).date().isoformat(),
        "mmldm": __version__,
        "torch": torch.__version__,
    }
    save(as_json(found, rules, measures.built, about), write_pictures(found, spec, out), out)
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


def truth_of(clip: ClipSource, clips: ClipSet, spec: ClipSpec) -> Truth:
    """What is true of a rendered clip, in the window that is read of it."""
    return read_truth(Path(clips.origin) / clip.file, clip.start, spec.duration)


def originals_of(sides: Sides) -> dict[str, dict[str, str]]:
    """By set whose hits should sound as those of real clips: the real clip's name of each of its files."""
    real = sides.known.real.clips
    task = TASK_SETS["v2a"].name
    count = len(sides.generated[task].clips)
    return {
        "reconstruction": {reconstruction_file(clip): clip.name for clip in real},
        task: {sample_file(seed): real[seed % len(real)].name for seed in range(count)},
    }


def diversities(
    folder: Path, given: ClipSet, real: ClipSet, spec: ClipSpec
) -> dict[str, dict[str, float]]:
    """How different the sounds of several seeds are, beside sounds of the same hits struck anew."""
    count = len(given.clips)
    audio_image = AudioImage(spec)
    made, true = [], []
    for number, clip in enumerate(given.clips):
        files = (folder / sample_file(number + count * k) for k in range(SEEDS))
        made.append(torch.stack([read_clip(file, 0.0, spec).waveform for file in files]))
        # Another contact noise is all that differs between two sounds of the same hits.
        truth = truth_of(clip, real, spec)
        sounds = (
            render_sound(truth.balls, truth.impacts, spec, np.random.default_rng([number, k]))
            for k in range(SEEDS)
        )
        true.append(torch.stack([torch.from_numpy(sound) for sound in sounds]))
    return {
        name: diversity(torch.stack([audio_image.decibels(sounds) for sounds in group]))
        for name, group in (("real", true), ("video-to-audio", made))
    }


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


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
