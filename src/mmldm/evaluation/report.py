"""An evaluation as JSON, and that JSON as Markdown.

Evaluation, facts -> report.json -> report.md: a row per number, a column per set

The JSON holds no NaN and no path but those it was given; two of them are compared by `against`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmldm.errors import UserError
from mmldm.evaluation.contents import repeated, sentences, shared
from mmldm.evaluation.evaluate import EQUAL, Evaluation
from mmldm.evaluation.measures import Features
from mmldm.evaluation.measuring import Measured
from mmldm.evaluation.protocol import Protocol
from mmldm.files import write_text
from mmldm.text import markdown, printable

FORMAT, VERSION = "mmldm-evaluation", 1
LISTED = 10
"""Files of one kind that the page names; report.json has all."""
COPIED = ("generated", "reference")
ARROWS = {"lower": "↓", "higher": "↑", "like real": "≈"}


def as_json(
    found: Evaluation,
    protocol: Protocol,
    extractors: Sequence[Features],
    undefined: Mapping[str, str],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything about an evaluation as plain values.

    Args:
        extractors: Of features, whose weights' hashes it then holds.
        undefined: Metrics that were asked for and could not be computed, with the reason.
        about: Further facts: command, date, versions.
    """
    reference = found.sets["reference"]
    halved = found.anchor is not reference
    equal = shared(
        {
            name: measured.clips
            for name, measured in found.sets.items()
            if not (halved and name == "real")  # It is a part of the reference.
        }
    )
    copied = [pair["clips"] for pair in equal if (pair["first"], pair["second"]) == COPIED]
    return {
        "format": FORMAT,
        "version": VERSION,
        **about,
        "protocol": protocol.model_dump(mode="json"),
        "protocol_sha256": protocol.sha256,
        "reference_sha256": reference.clips.sha256,
        "extractors": {
            measure.name: {
                "network": measure.extractor.name,
                "sha256": measure.extractor.sha256,
                "licence": measure.extractor.licence,
                "features": measure.extractor.dim,
            }
            for measure in extractors
        },
        "sets": {name: _set(measured) for name, measured in found.sets.items()},
        "real_against": {"name": found.anchor.clips.name, "clips": len(found.anchor)},
        "numbers": [
            {
                **asdict(line.number),
                "metric": line.metric.name,
                "measure": line.metric.measure,
                "values": {name: asdict(value) for name, value in line.values.items()},
            }
            for line in found.lines
        ],
        "undefined": dict(undefined),
        "classes": {
            name: {number: asdict(value) for number, value in values.items()}
            for name, values in found.classes.items()
        },
        "memorisation": found.memorisation,
        "copies": [name for pairs in copied for name, _ in pairs],
        "equal": equal,
        "speed": {
            "clips": found.speed.clips,
            "seconds": found.speed.seconds,
            "parts": dict(found.speed.parts),
            "sentence": found.speed.sentence(),
        },
    }


def _set(measured: Measured) -> dict[str, Any]:
    clips = measured.clips
    alarms = measured.rows.get("alarms", [])
    named = list(zip(clips.clips, alarms, strict=True)) if alarms else []
    return {
        "origin": clips.origin,
        "clips": len(measured),
        "files": len({clip.file for clip in clips.clips}),
        "sha256": clips.sha256,
        "skipped": [asdict(skipped) for skipped in clips.skipped],
        "notes": list(clips.notes),
        "repeated": repeated(clips),
        "alarms": {
            kind: [clip.name for clip, row in named if row[kind].item()]
            for kind in ("silent", "frozen")
        },
    }


def save(report: Mapping[str, Any], pictures: Mapping[str, str], folder: Path) -> Path:
    """Writes report.json and report.md; returns the page.

    Args:
        pictures: File name beside the page -> what it shows.

    Raises:
        UserError: The folder cannot be written.
    """
    text = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False)
    write_text(folder / "report.json", text + "\n")
    write_text(folder / "report.md", as_markdown(report, pictures))
    return folder / "report.md"


def load(path: Path) -> dict[str, Any]:
    """Reads a report.json, or that of a folder.

    Raises:
        UserError: It is not there, or no report of this version.
    """
    path = path / "report.json" if path.is_dir() else path
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a report of mmldm evaluate: {error}") from error
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise UserError(f"{path} is no report of mmldm evaluate")
    if report.get("version") != VERSION:
        raise UserError(f"{path} is a report of another version; evaluate its clips again")
    return report


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
    present = dict.fromkeys(name for line in report["numbers"] for name in line["values"])
    columns = [name for name in ("generated", EQUAL, "real", "reconstruction") if name in present]
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
    return re.sub(r"(?<!\\)\|", r"\|", re.sub(r"(?<!\\)<", "&lt;", printable(text)))


def _cell(value: Mapping[str, Any] | None) -> str:
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
    sets, against = report["sets"], report["real_against"]
    generated, reference, real = (sets[name] for name in ("generated", "reference", "real"))
    lines = [f"**generated**: {generated['clips']} clips against the reference."]
    lines.append(
        f"**reference**: {reference['clips']} real clips of {markdown(reference['origin'])}."
    )
    if against["clips"] < reference["clips"]:
        lines.append(
            f"**real**: no held-out clips were given, so the reference was split by a hash of names: "
            f"{real['clips']} of its clips against the other {against['clips']}."
        )
    else:
        lines.append(
            f"**real**: {real['clips']} clips of {markdown(real['origin'])} against the reference."
        )
    if "reconstruction" in sets:
        lines.append(
            f"**reconstruction**: {sets['reconstruction']['clips']} of the real clips through the model's "
            "autoencoder, which no sample of it can be expected to surpass."
        )
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
    titles: dict[str, dict[str, None]] = {}
    for line in report["numbers"]:
        for value in line["values"].values():
            if value["note"] and value["value"] is not None:
                titles.setdefault(value["note"], {})[line["title"]] = None
    return _list(f"\\* {'; '.join(about)}: {note}." for note, about in titles.items())


def _class_table(report: Mapping[str, Any]) -> str:
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
