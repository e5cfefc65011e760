"""Which metric of `mmldm evaluate` notices what: real clips damaged in grades, against other real clips.

    python runs/measure_corruptions.py CLIPS [--samples 150] [--metrics NAMES] [--out FOLDER]

CLIPS is a folder of clips or a manifest. One half is damaged, the other half (or the manifest's training
clips) is what distances are to. A number has moved where its interval and that of the undamaged clips have
nothing in common; each must move under some damage and must stay under other. What breaks that is listed
below the table. An interrupted run goes on where it stopped.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from mmldm.cli.terminal import ProgressLine
from mmldm.evaluation.evaluate import by_number
from mmldm.evaluation.features import Features, build_measures
from mmldm.evaluation.measuring import FeatureCache, Measured, measure_set
from mmldm.evaluation.metrics import Metric, Value, choose
from mmldm.evaluation.protocol import find_protocol
from mmldm.evaluation.sets import ClipSet
from mmldm.evaluation.sides import Finder
from mmldm.files import write_json, write_text
from mmldm.worlds.impacts.corruptions import CORRUPTIONS, Corruption, corrupted
from mmldm.worlds.impacts.metrics import BUILDERS, METRICS, is_synthesized

PICTURE, SOUND, PAIR = (
    {c.name for c in CORRUPTIONS if c.damaged == what} for what in ("picture", "sound", "pair")
)
PIXELS = PICTURE - {"frame order"}
SEES = {
    "i3d": PICTURE,
    "i3d-pooled": PICTURE,
    "squeezenet": PIXELS,
    "yamnet": SOUND,
    "vggish": SOUND,
    "audioclip": SOUND,
    "clap": SOUND,
    "events": PAIR,
    "impacts": PAIR,
    "classes": {"other clips' sounds"},
    # Of these measures, metrics of the picture or the sound alone.
    "impacts-path": set(),
    "impacts-timing": {"delay"},
    "hits": {"smear"},
    "sharpness": {"picture noise", "blur"},
    "material": set(),
}
"""What the numbers of a measure, or of a metric, must notice at its grossest."""
BLIND = {
    "i3d": SOUND | PAIR,
    "i3d-pooled": SOUND | PAIR,
    "squeezenet": SOUND | PAIR | {"frame order"},
    "yamnet": PICTURE | PAIR,
    "vggish": PICTURE | PAIR,
    "audioclip": PICTURE | PAIR,
    "clap": PICTURE | PAIR,
    "classes": {"frame order", "delay"},
    "alarms": PICTURE | SOUND | PAIR,
}
"""What must not move them; what is in neither may."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, metavar="CLIPS")
    parser.add_argument(
        "--samples",
        type=int,
        default=150,
        help="clips of a set at most; a folder is one, and halved",
    )
    parser.add_argument("--metrics", help="with commas between; default: those of mmldm evaluate")
    parser.add_argument("--weights", type=Path, help="folder of networks' weights")
    parser.add_argument("--out", type=Path, default=Path("runs/corruptions"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()

    rules = find_protocol("default", options.samples)
    with ProgressLine() as line:
        sides = Finder(options.out, rules, options.workers, line).real_sets(options.clips, None)
        unnamed = ["impacts"] if is_synthesized(sides.reference) else []
        names = options.metrics.split(",") if options.metrics else None
        chosen = choose(names, rules.spec.fps, unnamed, METRICS)
        measures = build_measures(
            [metric.measure for metric in chosen],
            sides.anchor,
            rules,
            line,
            options.weights,
            further=BUILDERS,
        )
        usable = [metric for metric in chosen if metric.measure not in measures.missing]
        cache = FeatureCache(options.out / "cache", rules.spec)

        def values(measured: Measured) -> dict[str, Value]:
            return by_number(usable, measured.sides, anchor.sides, rules)

        def measure(clips: ClipSet, like: Measured | None = None, damaged: str = "") -> Measured:
            """Measures a set; what reads undamaged pictures or sounds alone is that of the set `like`."""
            untouched = {"picture": ("audio",), "sound": ("video",), "pair": ("video",)}.get(
                damaged, ()
            )
            kept = {
                measure.name: like.findings[measure.name]
                for measure in measures.built
                if like is not None
                and isinstance(measure, Features)
                and measure.extractor.modality in untouched
            }
            wanted = [measure for measure in measures.built if measure.name not in kept]
            found = measure_set(clips, wanted, rules.spec, cache, options.workers, line)
            return replace(found, findings={**found.findings, **kept})

        anchor, real = measure(sides.anchor), measure(sides.real)
        undamaged = values(real)
        found = {
            (corruption.name, grade): values(
                measure(corrupted(real.clips, corruption, grade), real, corruption.damaged)
            )
            for corruption in CORRUPTIONS
            for grade in corruption.grades
        }
    report = table(undamaged, found)
    for metric in usable:
        report += verdicts(metric, undamaged, found)
    for metric in chosen:
        if metric.measure in measures.missing:
            report.append(f"- {metric.name} was not measured: {measures.missing[metric.measure]}")
    write_text(options.out / "table.md", "\n".join(report) + "\n")
    rows = [
        {"damage": name, "grade": grade, **{k: v.value for k, v in row.items()}}
        for (name, grade), row in found.items()
    ]
    write_json(options.out / "table.json", rows)
    print("\n".join(report))


def moved(value: Value, undamaged: Value) -> bool:
    """Whether the intervals are apart; a number that is no longer defined has moved."""
    if value.value is None or undamaged.value is None:
        return value.value is not undamaged.value
    if value.interval is None or undamaged.interval is None:
        return value.value != undamaged.value
    (low, high), (other_low, other_high) = value.interval, undamaged.interval
    return low > other_high or high < other_low


def table(
    undamaged: dict[str, Value], found: dict[tuple[str, float], dict[str, Value]]
) -> list[str]:
    """Markdown: a row for each grade of damage, a column for each number; in bold what has moved."""
    units = {corruption.name: corruption.unit for corruption in CORRUPTIONS}
    lines = [
        f"| damage | {' | '.join(undamaged)} |",
        "|---" * (len(undamaged) + 1) + "|",
        f"| none | {' | '.join(_cell(value) for value in undamaged.values())} |",
    ]
    for (name, grade), row in found.items():
        cells = [
            f"**{_cell(value)}**" if moved(value, undamaged[number]) else _cell(value)
            for number, value in row.items()
        ]
        lines.append(f"| {name}, {grade:g} {units[name]} | {' | '.join(cells)} |")
    return [*lines, ""]


def verdicts(
    metric: Metric,
    undamaged: dict[str, Value],
    found: dict[tuple[str, float], dict[str, Value]],
) -> list[str]:
    """A sentence for each damage that a metric should have noticed and did not, or the other way round."""
    lines = []
    sees = SEES.get(metric.name, SEES.get(metric.measure, set()))
    for number in metric.numbers:

        def at(corruption: Corruption, grade: float, name: str = number.name) -> bool:
            return moved(found[corruption.name, grade][name], undamaged[name])

        for corruption in CORRUPTIONS:
            if corruption.name in sees and not at(corruption, corruption.grades[-1]):
                lines.append(f"- {number.name} does not see {corruption.name}")
            felt = [grade for grade in corruption.grades if at(corruption, grade)]
            if corruption.name in BLIND.get(metric.measure, ()) and felt:
                grades = ", ".join(f"{grade:g}" for grade in felt)
                lines.append(
                    f"- {number.name} moves under {corruption.name} ({grades} {corruption.unit})"
                )
    return lines


def _cell(value: Value) -> str:
    return "undefined" if value.value is None else f"{value.value:.3g}"


if __name__ == "__main__":
    main()
