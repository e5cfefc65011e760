"""An evaluation as JSON, and two of them on the same terms.

Evaluation, facts -> report.json (-> report.md, by `page`);  report, another -> differences with intervals

The JSON holds no NaN and no path but those it was given. Two reports are not compared where protocol or
reference differ, since then the numbers answer different questions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmldm.errors import UserError, first_line
from mmldm.evaluation.evaluate import Evaluation
from mmldm.evaluation.features import Features, Measure
from mmldm.evaluation.intervals import difference_interval
from mmldm.evaluation.measuring import Measured
from mmldm.evaluation.page import as_markdown, digits, markdown_table
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.recordings import repeated, shared, units_by_content
from mmldm.files import write_text

FORMAT, VERSION = "mmldm-evaluation", 1
COPIED = ("generated", "reference")


def as_json(
    found: Evaluation,
    protocol: Protocol,
    measures: Sequence[Measure],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything about an evaluation as plain values.

    Args:
        measures: Of networks among them it holds the weights' hashes.
        about: Further facts: command, date, versions.
    """
    reference = found.sets["reference"]
    halved = found.anchor is not reference
    # Where the reference was halved, the real clips are a part of it, and no equals of it.
    compared = {name: measured.clips for name, measured in found.sets.items()}
    equal = shared({k: v for k, v in compared.items() if not (halved and k == "real")})
    copied = [pair["clips"] for pair in equal if (pair["first"], pair["second"]) == COPIED]
    return {
        # What the numbers depend on: reading, real clips, networks.
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
                "reach": measure.extractor.reach(protocol.spec.duration),
            }
            for measure in measures
            if isinstance(measure, Features)
        },
        # What was measured, and what was found.
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
        "undefined": found.undefined,
        "classes": {
            name: {number: asdict(value) for number, value in values.items()}
            for name, values in found.classes.items()
        },
        "memorisation": found.memorisation.get("generated"),
        # What the numbers must be read with.
        "copies": [name for pairs in copied for name, _ in pairs],
        "equal": equal,
        "speed": {**vars(found.speed), "sentence": found.speed.sentence()},
    }


def _set(measured: Measured) -> dict[str, Any]:
    """What a set was made of, what was left out, and which clips raise an alarm."""
    clips = measured.clips
    alarms = measured.findings.get("alarms")
    named = list(zip(clips.clips, alarms, strict=True)) if alarms else []
    return {
        "origin": clips.origin,
        "clips": len(measured),
        "files": len({clip.file for clip in clips.clips}),
        "recordings": len(set(units_by_content(clips.clips).tolist())),
        "sha256": clips.sha256,
        "skipped": [asdict(skipped) for skipped in clips.skipped],
        "notes": list(clips.notes),
        "repeated": repeated(clips),
        "alarms": {
            kind: [clip.name for clip, alarm in named if alarm[kind].item()]
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
        raise UserError(
            f"{path} cannot be read as a report of mmldm evaluate: {first_line(error)}"
        ) from error
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise UserError(f"{path} is no report of mmldm evaluate")
    if report.get("version") != VERSION:
        raise UserError(f"{path} is a report of another version; evaluate its clips again")
    return report


def require_comparable(
    protocol_sha256: str, reference_sha256: str, other: Mapping[str, Any]
) -> None:
    """Checks that another report was made by the same protocol, on the same real clips.

    Raises:
        UserError: It was not.
    """
    for what, own, theirs in (
        ("protocol", protocol_sha256, other["protocol_sha256"]),
        ("set of reference clips", reference_sha256, other["reference_sha256"]),
    ):
        if own != theirs:
            raise UserError(
                f"the other report is of another {what} (sha256 {theirs[:12]}, here {own[:12]}): its "
                "numbers cannot be compared with these; evaluate both sets in the same way"
            )


def differences(report: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """A table of generated clips' numbers: these, the other's, and the difference with its interval.

    The intervals take both as independent. As both are compared with the same real clips, they are rather too
    wide than too narrow.

    Raises:
        UserError: As `require_comparable`.
    """
    require_comparable(report["protocol_sha256"], report["reference_sha256"], other)
    theirs = {line["name"]: line for line in other["numbers"]}
    rows = []
    for line in report["numbers"]:
        if line["name"] not in theirs:
            continue
        own, before = (x["values"]["generated"] for x in (line, theirs[line["name"]]))
        cells = ["undefined" if v["value"] is None else digits(v["value"]) for v in (own, before)]
        weights, other_weights = (
            x["extractors"].get(line["measure"], {}).get("sha256") for x in (report, other)
        )
        difference = _difference(line, own, before, weights == other_weights)
        rows.append([line["title"], *cells, difference])
    return markdown_table(["", "generated", "the other", "difference"], rows)


def _difference(
    line: Mapping[str, Any], own: Mapping[str, Any], before: Mapping[str, Any], same_weights: bool
) -> str:
    """Two values of one number: their difference with its interval, or why they do not compare."""
    if not same_weights:
        return "not compared: other weights"
    if None in (own["value"], before["value"]):
        return "not compared: undefined"
    if line["biased"] and own["n"] != before["n"]:
        return f"not compared: n {own['n']} and {before['n']}, on which its mean depends"
    text = digits(own["value"] - before["value"])
    if not (own["interval"] and before["interval"]):
        return text
    low, high = difference_interval(
        own["value"], own["interval"], before["value"], before["interval"]
    )
    verdict = "" if low <= 0 <= high else ", differs"
    return f"{text} [{digits(low)}, {digits(high)}]{verdict}"
