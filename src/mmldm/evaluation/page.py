"""A report.json as a page of Markdown: a row per number, a column per set.

report, pictures -> report.md, and the sentences that the console shows, too
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmldm.evaluation.evaluate import equal_n
from mmldm.evaluation.recordings import IN_REFERENCE
from mmldm.text import markdown, printable

LISTED = 10
"""Files of one kind that the page names; report.json has all."""
ARROWS = {"lower": "↓", "higher": "↑", "like real": "≈"}


def as_markdown(report: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The page: what was compared, numbers, what they cannot say, what was left out, pictures."""
    sets = report["sets"]
    protocol = report["protocol"]
    spec = protocol["spec"]
    parts = [
        f"# Evaluation of {markdown(sets['generated']['origin'])}",
        f"{report['date']}, mmldm {report['mmldm']}, torch {report['torch']}: {_code(report['command'])}",
        f"Protocol **{protocol['name']}** (sha256 {report['protocol_sha256'][:12]}): {spec['num_frames']} "
        f"frames at {spec['fps']:g} a second, read at {spec['width']}x{spec['height']}, sound at "
        f"{spec['sample_rate']} Hz, seed {protocol['seed']}.",
        _about_sets(report),
        table(report),
        "In brackets a 95 % interval, in parentheses the value with the sounds of other clips: what chance "
        "gives; n clips of the set, after the colon those compared with. ↓ lower is better, ↑ higher, ≈ "
        "nearer to the real column. *real* is real clips against other real clips: no model can be expected "
        "to do better.",
        _caveats(report),
    ]
    # Sections that only some reports have.
    if report["undefined"]:
        parts += ["## Not measured", _list(not_measured(report))]
    if report["classes"]:
        parts += ["## By class", _class_table(report)]
    if report["memorisation"]:
        parts += ["## Memorisation", _memorised(report)]
    parts += [
        "## Files",
        _list(map(markdown, _files(sets))),
        "## Speed",
        report["speed"]["sentence"],
    ]
    if report["extractors"]:
        facts = (
            f"{name}: sha256 {about['sha256']}, {about['licence']}"
            for name, about in report["extractors"].items()
        )
        parts += ["## Networks", _list(facts)]
    if pictures:
        parts.append("## Pictures")
        parts += [f"![{words}]({file})\n\n*{words}*" for file, words in pictures.items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(report: Mapping[str, Any]) -> str:
    """The numbers of all sets, a row each."""
    present = {name for line in report["numbers"] for name in line["values"]}
    columns = [c for name in report["sets"] for c in (name, equal_n(name)) if c in present]
    rows = [
        [
            f"{line['title']} {ARROWS[line['better']]}"
            + (f", {line['unit']}" if line["unit"] else ""),
            *(_cell(line["values"].get(name)) for name in columns),
        ]
        for line in report["numbers"]
    ]
    return markdown_table(["", *columns], rows)


def not_measured(report: Mapping[str, Any]) -> list[str]:
    """A line per reason, with all metrics it holds for."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in report["undefined"].items():
        by_reason.setdefault(reason, []).append(name)
    return [f"{', '.join(names)}: {reason}." for reason, names in by_reason.items()]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A row a line, whatever is in the cells: no cell ends another one, or begins a tag."""
    lines = [[_one_cell(cell) for cell in line] for line in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _one_cell(text: str) -> str:
    # Only what is not escaped yet.
    return re.sub(r"(?<!\\)\|", r"\|", re.sub(r"(?<!\\)<", "&lt;", printable(text)))


def _cell(value: Mapping[str, Any] | None) -> str:
    """value [interval] (shuffled); n clips:clips compared with."""
    if value is None:
        return ""
    count = f"n {value['n']}" + (f":{value['against']}" if value["against"] else "")
    if value["value"] is None:
        return f"undefined: {value['note']}; {count}"
    text = digits(value["value"]) + ("\\*" if value["note"] else "")
    if value["interval"]:
        text += " [" + ", ".join(digits(end) for end in value["interval"]) + "]"
    if value["shuffled"] is not None:
        text += f" ({digits(value['shuffled'])})"
    return f"{text}; {count}"


def digits(value: float) -> str:
    """Three that count; 0 below a millionth, where they are rounding."""
    if abs(value) < 1e-6:
        return "0"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _about_sets(report: Mapping[str, Any]) -> str:
    """A line per set, then what is to be known of them before a number is read."""
    sets, against = report["sets"], report["real_against"]
    generated, reference, real = (sets[name] for name in ("generated", "reference", "real"))
    # What each set is; further tasks of a model stand between `generated` and `reference`.
    lines = [f"**generated**: {generated['clips']} clips against the reference."]
    lines += [
        f"**{name}**: {found['clips']} clips, made for held-out ones, against the reference."
        for name, found in sets.items()
        if name not in ("generated", "reference", "real", "reconstruction")
    ]
    lines.append(
        f"**reference**: {reference['clips']} real clips of {markdown(reference['origin'])}."
    )
    lines.append(
        f"**real**: no held-out clips were given, so the reference was split by a hash of contents: "
        f"{real['clips']} of its clips against the other {against['clips']}."
        if against["clips"] < reference["clips"]
        else f"**real**: {real['clips']} clips of {markdown(real['origin'])} against the reference."
    )
    if "reconstruction" in sets:
        lines.append(
            f"**reconstruction**: {sets['reconstruction']['clips']} of the real clips through the model's "
            "autoencoder, which no sample of it can be expected to surpass."
        )

    # What they lack, what hangs together, and what stands in two of them.
    lines += [
        f"The {found['clips']} clips of {name} are of {found['recordings']} recordings: intervals are over "
        "these."
        for name, found in sets.items()
        if found["recordings"] < found["clips"]
    ]
    wanted = report["protocol"]["samples"]
    if wanted is not None:
        lines += [
            f"The protocol asks for {wanted} clips; {name} has {found['clips']}: its biased numbers do not "
            "compare with published ones."
            for name, found in (("generated", generated), ("reference", reference))
            if found["clips"] < wanted
        ]
    if report["copies"]:
        lines.append(
            f"**{len(report['copies'])} generated clips are byte for byte in the reference** "
            f"(such as {markdown(report['copies'][0])})."
        )
    lines += [markdown(sentence) for sentence in sentences(report)]
    return _list(lines)


def _caveats(report: Mapping[str, Any]) -> str:
    """A line per caveat, with all numbers it is about."""
    titles: dict[str, dict[str, list[str]]] = {}
    for line in report["numbers"]:
        for name, value in line["values"].items():
            if value["note"] and value["value"] is not None:
                found = titles.setdefault(value["note"], {}).setdefault(line["title"], [])
                if value["published"] is not None:
                    found.append(f"{name} {digits(value['published'])}")
    return _list(
        f"\\* {'; '.join(_with_published(*about) for about in found.items())}: {note}."
        for note, found in titles.items()
    )


def _with_published(title: str, values: Sequence[str]) -> str:
    """A number's title, with its values by the published estimator where that is another."""
    return f"{title} (as published: {', '.join(values)})" if values else title


def _class_table(report: Mapping[str, Any]) -> str:
    """A row per number, a column per class."""
    titles = {line["name"]: line["title"] for line in report["numbers"]}
    names = list(next(iter(report["classes"].values())))
    rows = [
        [titles[name], *(_cell(values[name]) for values in report["classes"].values())]
        for name in names
    ]
    return markdown_table(["", *map(markdown, report["classes"])], rows)


def _memorised(report: Mapping[str, Any]) -> str:
    near, count = report["memorisation"], report["sets"]["real"]["clips"]
    few = "" if count >= 100 else f" With {count} real clips that share is a rough guess."
    low, high = near["median_held_out_interval"]
    return (
        f"{100 * near['share_near']:.1f} % of the generated clips are nearer to a reference clip than 99 % "
        f"of real ones are; inventing gives about 1 %. Median distance {near['median']:.3f}, of real ones "
        f"{near['median_held_out']:.3f} [{low:.3f}, {high:.3f}]; two clips drawn at random are 1 apart.{few}"
    )


def _files(sets: Mapping[str, Any]) -> list[str]:
    """Lines on files that were used with a reserve, that were not, and that raise an alarm."""
    lines = []
    for name, found in sets.items():
        lines += [f"{name}: {note}." for note in found["notes"]]
        reasons = Counter(skipped["reason"] for skipped in found["skipped"])
        for reason, count in reasons.items():
            listed = [s for s in found["skipped"] if s["reason"] == reason]
            named = "; ".join(f"{s['file']}: {s['sentence']}" for s in listed[:LISTED])
            lines.append(f"{name}: {count} skipped, {reason}: {named}{_more(count)}.")
        for kind, names in found["alarms"].items():
            if names:
                first = ", ".join(names[:LISTED])
                lines.append(f"{name}: {len(names)} {kind}: {first}{_more(len(names))}.")
    return lines or ["All files were used, and none is silent or frozen."]


def _more(count: int) -> str:
    return f" and {count - LISTED} more" if count > LISTED else ""


def _code(text: str) -> str:
    return f"`` {printable(text)} ``" if "`" in text else f"`{printable(text)}`"


def _list(lines: Any) -> str:
    return "\n".join(f"- {line}" for line in lines)


def sentences(report: Mapping[str, Any]) -> list[str]:
    """What a report says of equal contents, an example each."""
    told = []
    # On two sides.
    for pair in report["equal"]:
        (one, other), count = map(printable, pair["clips"][0]), len(pair["clips"])
        told.append(
            f"{count} {pair['first']} clip{'s have' if count > 1 else ' has'} the content of "
            f"{pair['second']} clips (such as {one} and {other})."
        )
    for name, found in report["sets"].items():
        # Within one side, and held out from it.
        taken = [skipped for skipped in found["skipped"] if skipped["reason"] == IN_REFERENCE]
        if taken:
            told.append(
                f"{len(taken)} held-out clips are in the reference, too, and were taken out of the {name} "
                f"set (such as {printable(taken[0]['file'])})."
            )
        if found["repeated"]:
            count = sum(len(files) - 1 for files in found["repeated"])
            one, other = map(printable, found["repeated"][0][:2])
            told.append(
                f"{name}: {count} file{'s repeat' if count > 1 else ' repeats'} the content of another one "
                f"(such as {one} and {other})."
            )
    return told
