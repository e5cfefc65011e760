"""Measures a model of the Freedoom world against held-out clips.

    python runs/measure_freedoom.py CLIPS MODEL [--clips 200] [--classifiers FOLDER] [--out FOLDER]

CLIPS is a folder of `mmldm synthesize --world freedoom`, or the manifest.jsonl of a training run on one; the
ground truth must lie beside its clips. Columns: real held-out clips, their reconstructions, joint samples
("generated"), audio-to-video and video-to-audio for held-out clips. Clip i of a task is made from seed i and,
where one is given, from held-out clip i modulo their number; nothing is chosen. The instruments are learnt
from training clips, and their own errors are those on the held-out ones. In --out: table.md and table.json,
the report of `mmldm evaluate` on the same clips, and the clips. An interrupted run goes on where it stopped.
"""

import sys
from pathlib import Path

from world_table import arguments, closeness, finish, originals_of, prepare

from mmldm.cli.terminal import ProgressLine
from mmldm.errors import UserError
from mmldm.evaluation.evaluate import evaluate
from mmldm.evaluation.features import Classes, build_measures
from mmldm.evaluation.measuring import FeatureCache
from mmldm.evaluation.metrics import choose
from mmldm.evaluation.protocol import Protocol
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.worlds.freedoom.calibration import calibration
from mmldm.worlds.freedoom.metrics import BUILDERS, METRICS, true_window
from mmldm.worlds.freedoom.table import TABLE_METRICS, freedoom_report, markdown

WINDOWS = 5
"""Real windows to compare with, over the clips of a task."""


def main() -> None:
    parser = arguments(__doc__, Path("runs/freedoom-table"))
    parser.add_argument("model", type=Path)
    parser.set_defaults(clips=200)
    options = parser.parse_args()
    out: Path = options.out

    pipeline = SoundingVideoPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)
    spec = pipeline.clip_spec
    # Clips are long: several windows of each, so that there are as many real ones as a task has.
    rules = Protocol(name="freedoom", spec=spec, samples=WINDOWS * options.clips)
    with ProgressLine() as line:
        prepared = prepare(options, pipeline, rules, line)
        sides = prepared.sides
        chosen = choose(TABLE_METRICS, spec.fps, further=METRICS)
        measures = build_measures(
            [metric.measure for metric in chosen],
            prepared.known.reference,
            rules,
            line,
            further={**BUILDERS, "classes": lambda *_: Classes(prepared.classifiers)},
        )
        if measures.missing:
            raise UserError(next(iter(measures.missing.values())))
        cache = FeatureCache(out / "cache", spec)
        found = evaluate(sides, chosen, measures, rules, cache, options.workers, line)

    real = found.sets["real"]
    truths = {clip.name: true_window(clip, prepared.held_out, rules) for clip in real.clips.clips}
    names = prepared.classifiers.class_names
    originals = originals_of(sides, ("a2v", "v2a"))
    report = {
        "model": options.model.name,
        "clips": options.clips,
        **freedoom_report(found, prepared.unseen, names, rules, truths, originals),
        "calibration": calibration(real.findings["shots"], list(truths.values())),
        "reconstruction": closeness(sides, spec),
    }
    finish(report, markdown(report), found, rules, measures, out, "measure_freedoom.py")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
