"""A report on films as a page of Markdown, a table on the console, and lines over windows.

report -> report.json, report.md, windows.png
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmldm.evaluation.long import FORMAT, VERSION
from mmldm.evaluation.page import ARROWS, digits, markdown_table
from mmldm.evaluation.pictures import COLOURS, can_plot, save_plot
from mmldm.files import write_text
from mmldm.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOT = "windows.png"
SHOWN = (1, 5, 10, 15)
"""Windows that the table shows besides the second and the last."""
SEAMS = {
    "steps": "step of the sound at joins over its 99 % quantile, median",
    "onsets": "onsets a second within 50 ms of joins",
    "changes": "change of the picture at joins over its median, median",
    "kicks": "kicks at joins, px, median",
}
COLUMNS = 3


def save_long(report: Mapping[str, Any], folder: Path) -> Path:
    """Writes report.json, the lines where matplotlib is here, and report.md; returns the page.

    Raises:
        UserError: The folder cannot be written.
    """
    whole = {"format": FORMAT, "version": VERSION, **report}
    text = json.dumps(whole, indent=1, allow_nan=False, ensure_ascii=False)
    write_text(folder / "report.json", text + "\n")
    if can_plot():
        save_plot(folder / PLOT, window_plot(report))
    write_text(folder / "report.md", as_markdown(report, can_plot()))
    return folder / "report.md"


def as_markdown(report: Mapping[str, Any], plotted: bool) -> str:
    """The page."""
    spec = report["protocol"]["spec"]
    films = ", ".join(f"{count} {name}" for name, count in report["films"].items())
    parts = [
        f"# Films of {report['seconds']:g} s",
        f"{report['date']}, mmldm {report['mmldm']}: `{printable(report['command'])}`",
        f"{films}; windows of {spec['num_frames']} frames at {spec['fps']:g} a second, compared with "
        f"{report['reference_windows']} real ones. {report['joins']} joins in each film.",
        tables(report),
        "Drift: change along a line from window 2 to the last, with its 95 % interval over films; none is "
        "wanted that real films do not have. Worse: by which share the last window is worse than window 2.",
    ]
    if plotted:
        parts.append(f"![Numbers by window, with 95 % intervals]({PLOT})")
    parts.append(report["speed"])
    return "\n\n".join(part for part in parts if part) + "\n"


def tables(report: Mapping[str, Any]) -> str:
    """All that was found, as tables with a heading each."""
    parts = [window_table(report)]
    if report["seams"]:
        parts.append(seam_table(report))
    parts += [loop_table(report), continuation_lines(report["continuations"])]
    missed = [name for name, target in report["targets"].items() if target["met"] is False]
    untold = [name for name, target in report["targets"].items() if target["met"] is None]
    count = len(report["targets"]) - len(untold)
    parts.append(f"targets: {count - len(missed)} of {count} met")
    if missed:
        parts.append("missed: " + "; ".join(missed))
    if untold:
        parts.append("cannot be told: " + "; ".join(untold))
    parts += [f"not measured: {name}: {why}" for name, why in report["undefined"].items()]
    return "\n\n".join(part for part in parts if part)


def window_table(report: Mapping[str, Any]) -> str:
    """Numbers of some windows, drift and worsening; two rows a number where there are real films."""
    count = report["windows"]
    windows = sorted({1, 2, count, *(w for w in SHOWN if w < count)})
    rows = []
    for number in report["numbers"]:
        for name, told in number["sets"].items():
            title = f"{number['title']} {ARROWS[number['better']]}"
            title += f", {number['unit']}" if number["unit"] else ""
            rows.append(
                [
                    title if name == report["name"] else "",
                    name,
                    *(_digits(told["values"][window - 1]) for window in windows),
                    _value(told["drift"]),
                    _value(told["worse"], 100) if name == report["name"] else "",
                ]
            )
    head = ["", "films", *(f"window {window}" for window in windows), "drift", "worse, %"]
    return markdown_table(head, rows)


def seam_table(report: Mapping[str, Any]) -> str:
    """What is seen and heard where windows meet."""
    rows = [
        [
            words,
            name,
            _value({"value": told["at"], "interval": told["at_interval"]}),
            _digits(told["elsewhere"]),
            _value({"value": told["ratio"], "interval": told["interval"]}),
        ]
        for key, words in SEAMS.items()
        for name, told in report["seams"].get(key, {}).items()
    ]
    return markdown_table(["", "films", "at joins", "elsewhere", "ratio"], rows)


def loop_table(report: Mapping[str, Any]) -> str:
    """How like themselves films are."""
    rows = []
    for name, told in report["loops"].items():
        share = "-"
        if told["share"] is not None:
            share = _value({"value": told["share"], "interval": told["share_interval"]})
        value = {"value": told["similarity"], "interval": told["interval"]}
        rows.append([name, _value(value), f"{told['lag']:.1f}", share])
    head = ["films", "highest similarity at a lag", "lag, s", "films above real ones' 95 %"]
    return markdown_table(head, rows)


def continuation_lines(told: Mapping[str, Any] | None) -> str:
    """Sentences on several continuations of one prefix."""
    if told is None:
        return ""
    lines = []
    for number, window in enumerate(told["windows"], 1):
        value = _value({"value": window["diversity"], "interval": window["interval"]})
        lines.append(
            f"{told['seeds']} continuations of each of {told['prefixes']} prefixes, window {number}: "
            f"{value} apart, those of different prefixes {_digits(window['others'])}; two real windows "
            "drawn at random are 1 apart"
        )
    for key, words in (
        ("prefix_copies", "repeat their prefix (nearer than 99 % of real windows to the next)"),
        ("seed_copies", "pairs repeat each other (nearer than 99 % of real windows to any other)"),
    ):
        if key in told:
            copies = {"value": told[key]["share"], "interval": told[key]["interval"]}
            lines.append(f"{words}: {_value(copies)}")
    return "\n".join(f"- {line}" for line in lines)


def window_plot(report: Mapping[str, Any]) -> Figure:
    """Each number over the windows: a line and its 95 % band for each set of films."""
    from matplotlib.figure import Figure

    numbers: Sequence[Mapping[str, Any]] = report["numbers"]
    rows = -(-len(numbers) // COLUMNS)
    figure = Figure((4 * COLUMNS, 2.2 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis in axes[len(numbers) :]:
        axis.set_axis_off()
    for axis, number in zip(axes, numbers, strict=False):
        axis.set_title(number["title"], loc="left", fontsize="small", parse_math=False)
        axis.spines[["top", "right"]].set_visible(False)
        axis.locator_params("x", integer=True)
        for (name, told), colour in zip(number["sets"].items(), COLOURS, strict=False):
            known = [i for i, value in enumerate(told["values"]) if value is not None]
            axis.plot(
                [i + 1 for i in known],
                [told["values"][i] for i in known],
                color=colour,
                label=name,
            )
            banded = [i for i in known if told["intervals"][i] is not None]
            ends = [told["intervals"][i] for i in banded]
            low, high = [end[0] for end in ends], [end[1] for end in ends]
            axis.fill_between([i + 1 for i in banded], low, high, color=colour, alpha=0.15)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4, frameon=False)
    return figure


def _value(told: Mapping[str, Any], times: float = 1.0) -> str:
    """value [interval]."""
    if told["value"] is None:
        return "undefined"
    text = digits(times * told["value"])
    if told["interval"] is not None:
        text += f" [{', '.join(digits(times * end) for end in told['interval'])}]"
    return text


def _digits(value: float | None) -> str:
    return "undefined" if value is None else digits(value)
