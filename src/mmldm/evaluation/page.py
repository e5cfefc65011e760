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
ONE_LAW = "of one law"
"""Head of the column that says what is expected at this n."""
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
        f"to do better. *{ONE_LAW}* is what clips as good as real ones give on average at this n (that of "
        "*equal n* where there is one); what no theory knows, *real* shows.",
        _caveats(report),
        _list([*unheard(report), *unmeasurable(report), *unequal(report)]),
    ]
    # Sections that only some reports have.
    if report["undefined"]:
        parts += ["## Not measured", _list(not_measured(report))]
    if report["classes"]:
        parts += ["## By class", _class_table(report)]
    if report["memorisation"]:
        parts += ["## Memorisation", _list(copied(report))]
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
            _expected(line),
        ]
        for line in report["numbers"]
    ]
    return markdown_table(["", *columns, ONE_LAW], rows)


def unmeasurable(report: Mapping[str, Any]) -> list[str]:
    """Joint numbers that real clips score with their own sounds as with those of others."""
    titles = []
    for line in report["numbers"]:
        value = line["values"].get("real") or {}
        if value.get("shuffled") is None or not value.get("interval"):
            continue
        low, high = value["interval"]
        if low <= value["shuffled"] <= high:
            own, chance = digits(value["value"]), digits(value["shuffled"])
            titles.append(f"{line['title']} (real {own}, with other clips' sounds {chance})")
    if not titles:
        return []
    return [
        f"not measurable on these clips: {'; '.join(titles)}: real pictures score no better with their own "
        "sounds, so no generated clip is told by it."
    ]


def _expected(line: Mapping[str, Any]) -> str:
    """What generated clips of the real ones' law would give at their n: a number, or where to look."""
    values = line["values"]
    value = values.get(equal_n("generated"), values.get("generated"))
    if value is None or value["value"] is None:
        return ""
    return "as real" if value["expected"] is None else digits(value["expected"])


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
        lines.append(f"**{markdown(copied(report)[0])}**")
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
    near, real = report["memorisation"], report["sets"]["real"]["clips"]
    low, high = (100 * share for share in near["expected_range"])
    ends = near["median_held_out_interval"]
    around = "" if ends is None else f" [{ends[0]:.3f}, {ends[1]:.3f}]"
    rank = (real + 1) // 100
    nearest = (
        f"number {rank} of {real} real ones, nearest first,"
        if rank > 1
        else f"the nearest of {real} real ones"
    )
    return (
        f"{100 * near['share_near']:.1f} % of the generated clips are nearer to a reference clip than "
        f"{nearest} is; inventing gives {100 * near['expected_near']:.3g} % on average, "
        f"and {low:.3g} to {high:.3g} % in 95 of 100 draws as large. Median distance {near['median']:.3f}, "
        f"of real ones {near['median_held_out']:.3f}{around}; two clips drawn at random are 1 apart."
    )


def copied(report: Mapping[str, Any]) -> list[str]:
    """What a report says of copies of reference clips: exact ones first, and then of those too near."""
    told = []
    if report["copies"]:
        count = len(report["copies"])
        told.append(
            f"{count} generated clip{'s are' if count > 1 else ' is'} byte for byte in the reference (such "
            f"as {printable(report['copies'][0])})."
        )
    near = report["memorisation"]
    if near and near["copies"]:
        count = near["copies"]
        told.append(
            f"{count} generated clip{'s show and sound' if count > 1 else ' shows and sounds'} as a "
            "reference clip does, to the last fingerprint: in the same file or another one."
        )
    return told + ([_memorised(report)] if near else [])


def unheard(report: Mapping[str, Any]) -> list[str]:
    """Which networks do not hear a clip to its end."""
    spec = report["protocol"]["spec"]
    whole = spec["num_frames"] / spec["fps"]
    titles: dict[tuple[str, float], list[str]] = {}
    for line in report["numbers"]:
        about = report["extractors"].get(line["measure"])
        if about and about["reach"] < whole - 1e-6:
            titles.setdefault((about["network"], about["reach"]), []).append(line["title"])
    return [
        f"{'; '.join(found)}: of {whole:g} s {network} hears the first {reach:g} s."
        for (network, reach), found in titles.items()
    ]


def unequal(report: Mapping[str, Any]) -> list[str]:
    """Where columns that are read beside each other are not of equally many clips, or recordings."""
    told: dict[str, dict[str, None]] = {}
    for line in report["numbers"]:
        # Columns of equal n stand in the place of those that are not.
        values = {
            name: value
            for name, value in line["values"].items()
            if value["value"] is not None and equal_n(name) not in line["values"]
        }
        for what, keys in (
            ("clips", ("n", "against")),
            ("recordings", ("recordings", "against_recordings")),
        ):
            found = {name: [value[key] for key in keys] for name, value in values.items()}
            if len({tuple(pair) for pair in found.values()}) < 2:
                continue
            listed = ", ".join(
                f"{name} {':'.join(str(x) for x in pair if x is not None)}"
                for name, pair in found.items()
            )
            why = (
                "on which its mean depends: it compares roughly"
                if line["biased"]
                else "on which its mean does not depend"
            )
            told.setdefault(f"not of equally many {what} ({listed}), {why}", {})[line["title"]] = (
                None
            )
            break
    return [f"{'; '.join(titles)}: {sentence}." for sentence, titles in told.items()]


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
