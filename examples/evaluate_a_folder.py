"""Measures a folder of anybody's samples beside real clips, in Python: what `mmldm evaluate` does.

    python examples/evaluate_a_folder.py SAMPLES REAL OUT [METRICS]

METRICS have commas between them. The default needs no weights of other networks: alignment of sound and
motion, copies of real clips, silent and frozen clips.
"""

import sys
from pathlib import Path

from mmldm.cli.terminal import ProgressLine
from mmldm.evaluation.evaluate import evaluate
from mmldm.evaluation.features import build_measures
from mmldm.evaluation.measuring import FeatureCache
from mmldm.evaluation.metrics import choose
from mmldm.evaluation.page import table
from mmldm.evaluation.protocol import find_protocol
from mmldm.evaluation.report import as_json
from mmldm.evaluation.sides import Finder

FREE = "event-overlap,beat-alignment,memorisation,silent,frozen"


def main(samples: str, real: str, out: str, metrics: str = FREE) -> str:
    # A protocol says how clips are read: size, rates, how many, which seed.
    protocol = find_protocol("default")
    chosen = choose(metrics.split(","), protocol.spec.fps)
    with ProgressLine() as line:
        # What is compared: the samples; real clips; a half of the real ones against the other.
        finder = Finder(Path(out), protocol, workers=2, progress=line)
        sides = finder.folder_sides(Path(samples), finder.real_sets(Path(real), held_out=None))

        # Each clip is measured once, and what was measured is kept.
        needed = [metric.measure for metric in chosen]
        measures = build_measures(needed, sides.known.anchor, protocol, line)
        cache = FeatureCache(Path(out) / "cache", protocol.spec)
        found = evaluate(sides, chosen, measures, protocol, cache, workers=2, progress=line)
    told = table(as_json(found, protocol, [], {}))
    print(told)
    return told


if __name__ == "__main__":
    main(*sys.argv[1:])
