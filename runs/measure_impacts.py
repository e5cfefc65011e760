"""Measures a model of the impacts world against held-out clips: the table of README and model card.

    python runs/measure_impacts.py CLIPS [MODEL] [--clips 500] [--classifiers FOLDER] [--out FOLDER]

CLIPS is a folder of `mmldm synthesize`, or the manifest.jsonl of a training run on one. Columns: real
held-out clips, their reconstructions, joint samples ("generated"), audio-to-video and video-to-audio for
held-out clips. Clip i of a task is made from seed i and, where one is given, from held-out clip i modulo
their number; nothing is chosen. In --out: table.md and table.json, the report of `mmldm evaluate` on the same
clips, and the clips. An interrupted run goes on where it stopped.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from world_table import (
    arguments,
    closeness,
    finish,
    originals_of,
    prepare,
    settings_of,
    taken,
)

from mmldm.cli.terminal import ProgressLine
from mmldm.data.clips import spread
from mmldm.errors import UserError
from mmldm.evaluation.evaluate import evaluate
from mmldm.evaluation.features import Classes, build_measures
from mmldm.evaluation.measuring import FeatureCache
from mmldm.evaluation.metrics import choose
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.sets import ClipSet, ClipSource
from mmldm.evaluation.sides import (
    TaskSet,
    model_sha256,
    sample_file,
    write_samples,
)
from mmldm.media.reader import read_clip
from mmldm.media.spectrogram import AudioImage
from mmldm.pipelines.published import BUNDLED
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.types import ClipSpec
from mmldm.worlds.impacts.calibration import Truth, calibration, read_truth
from mmldm.worlds.impacts.metrics import BUILDERS, METRICS
from mmldm.worlds.impacts.pairs import diversity
from mmldm.worlds.impacts.sound import render_sound
from mmldm.worlds.impacts.table import TABLE_METRICS, impacts_report, markdown

SEEDS = 4
"""Sounds for one picture, for their diversity."""
SEVERAL = TaskSet("video-to-audio, several seeds", "samples-v2a-seeds", "frames")


def main() -> None:
    parser = arguments(__doc__, Path("runs/impacts-table"))
    parser.add_argument("model", nargs="?", type=Path, default=BUNDLED)
    parser.add_argument(
        "--pictures", type=int, default=12, help="given to several seeds each; 0: none"
    )
    options = parser.parse_args()
    out: Path = options.out

    pipeline = SoundingVideoPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)
    spec = pipeline.clip_spec
    rules = Protocol(name="impacts", spec=spec)
    with ProgressLine() as line:
        # Real clips and the model's, and everything measured on all of them.
        prepared = prepare(options, pipeline, rules, line)
        known, real, sides = prepared.known, prepared.held_out, prepared.sides
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
                settings_of(options),
            )
            variety = diversities(out / SEVERAL.folder, some, real, spec)
        chosen = choose(TABLE_METRICS, spec.fps, further=METRICS)
        measures = build_measures(
            [metric.measure for metric in chosen],
            known.real,
            rules,
            line,
            further={**BUILDERS, "classes": lambda *_: Classes(prepared.classifiers)},
        )
        cache = FeatureCache(out / "cache", spec)
        found = evaluate(sides, chosen, measures, rules, cache, options.workers, line)

    heard = found.sets["real"]
    truths = [truth_of(clip, real, spec) for clip in heard.clips.clips]
    names = prepared.classifiers.class_names
    report = {
        "model": options.model.name,
        "clips": options.clips,
        **impacts_report(found, prepared.unseen, names, rules, originals_of(sides)),
        "calibration": calibration(heard.findings["impacts"], truths, spec.sample_rate),
        "diversity": variety,
        "reconstruction": closeness(sides, spec),
    }
    finish(report, markdown(report), found, rules, measures, out, "measure_impacts.py")


def truth_of(clip: ClipSource, clips: ClipSet, spec: ClipSpec) -> Truth:
    """What is true of a rendered clip, in the window that is read of it."""
    return read_truth(Path(clips.origin) / clip.file, clip.start, spec.duration)


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


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
