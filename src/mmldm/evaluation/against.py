"""Two evaluations on the same terms: differences with intervals, or why there are none.

report, another -> rows of differences

Refused where protocol or reference differ, since then the numbers answer different questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmldm.errors import UserError
from mmldm.evaluation.intervals import difference_interval
from mmldm.evaluation.report import digits, markdown_table


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
        if line["name"] in theirs:
            own, before = (x["values"]["generated"] for x in (line, theirs[line["name"]]))
            reason = _incomparable(line, own, before, report, other)
            cells = [
                "undefined" if v["value"] is None else digits(v["value"]) for v in (own, before)
            ]
            rows.append([line["title"], *cells, reason or _difference(own, before)])
    return markdown_table(["", "generated", "the other", "difference"], rows)


def _incomparable(
    line: Mapping[str, Any],
    own: Mapping[str, Any],
    before: Mapping[str, Any],
    report: Mapping[str, Any],
    other: Mapping[str, Any],
) -> str | None:
    """Why two values of one number do not compare; None if they do."""
    networks = [x["extractors"].get(line["measure"], {}).get("sha256") for x in (report, other)]
    if networks[0] != networks[1]:
        return "not compared: other weights"
    if None in (own["value"], before["value"]):
        return "not compared: undefined"
    if line["biased"] and own["n"] != before["n"]:
        return f"not compared: n {own['n']} and {before['n']}, on which its mean depends"
    return None


def _difference(own: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    text = digits(own["value"] - before["value"])
    if not (own["interval"] and before["interval"]):
        return text
    low, high = difference_interval(
        own["value"], own["interval"], before["value"], before["interval"]
    )
    verdict = "" if low <= 0 <= high else ", differs"
    return f"{text} [{digits(low)}, {digits(high)}]{verdict}"
