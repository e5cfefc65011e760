"""The report on a model of the impacts world as Markdown.

report of `evaluation.impacts` -> tables: a row per number, a column per set of clips
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Cell = Callable[[dict[str, Any]], str]


def markdown(report: dict[str, Any]) -> str:
    """The numbers, the targets, and, where the report has it, the detectors' own error."""
    tables = [_numbers(report["sets"]), _targets(report["targets"])]
    if "calibration" in report:
        tables.append(_detectors(report["calibration"]))
    return "\n\n".join(tables)


def _numbers(sets: dict[str, dict[str, Any]]) -> str:
    rows: dict[str, Cell] = {"clips": lambda r: str(r["clips"])}
    tolerances = [row["tolerance"] for row in next(iter(sets.values()))["sync"]]
    for index, tolerance in enumerate(tolerances):
        for name, words, digits in (
            ("recall", "recall", 2),
            ("precision", "precision", 2),
            ("error_ms", "timing error of matches, ms,", 1),
        ):
            rows[f"{words} at {1000 * tolerance:.0f} ms"] = _sync(index, name, digits)
    rows |= {
        "seen class = heard class": _share("agreement"),
        "seen class right": _accuracy("video"),
        "heard class right": _accuracy("audio"),
        "share of the rarest class, seen": lambda r: f"{min(r['class_shares']['video']):.3f}",
        "ball lost": _share("ball_lost"),
        "material changes": _share("material_changes"),
        "broken (either)": _share("broken"),
        "impacts a clip": _mean("impacts_per_clip"),
        "onsets a clip": _mean("onsets_per_clip"),
        "ballistic": _mean("ballistic"),
        "ball kept": _mean("ball_kept"),
        "Fréchet distance, picture": _frechet("video"),
        "Fréchet distance, sound": _frechet("audio"),
        "Fréchet distance, both": _frechet("both"),
        "nearest training clip, median": _near("median"),
        "nearest training clip, 5 % quantile": _near("quantile_5"),
        "nearer than the held-out's 1 % quantile": lambda r: (
            f"{r['memorisation']['share_near']:.3f}"
        ),
    }
    return _table(
        ["", *sets],
        [[words, *(cell(r) for r in sets.values())] for words, cell in rows.items()],
    )


def _sync(index: int, name: str, digits: int) -> Cell:
    def cell(report: dict[str, Any]) -> str:
        row = report["sync"][index]
        return _interval(
            row[name], row[f"{name}_interval"], digits, _brackets(row[f"{name}_shuffled"], digits)
        )

    return cell


def _share(name: str) -> Cell:
    def cell(report: dict[str, Any]) -> str:
        shuffled = _brackets(report.get(f"{name}_shuffled"), 2)
        return _interval(report[name]["value"], report[name]["interval"], 3, shuffled)

    return cell


def _accuracy(modality: str) -> Cell:
    def cell(report: dict[str, Any]) -> str:
        return f"{report['accuracy'][modality]:.3f}" if report["accuracy"] else "-"

    return cell


def _mean(name: str) -> Cell:
    def cell(report: dict[str, Any]) -> str:
        ratio = report[f"{name}_ratio"]
        times = "" if ratio is None else f" ×{ratio:.2f}"
        return _interval(report[name], report[f"{name}_interval"], 2, times)

    return cell


def _frechet(key: str) -> Cell:
    def cell(report: dict[str, Any]) -> str:
        pair = report["frechet"][key]
        floor = f"{pair['floor']:.3g} ± {pair['floor_deviation']:.1g}"
        return f"{pair['distance']:.3g} / {floor} = {pair['distance'] / pair['floor']:.2f}"

    return cell


def _near(name: str) -> Cell:
    def cell(report: dict[str, Any]) -> str:
        near = report["memorisation"]
        low, high = near[f"{name}_held_out_interval"]
        return f"{near[name]:.3f} (held out {low:.3f} to {high:.3f})"

    return cell


def _targets(targets: dict[str, dict[str, Any]]) -> str:
    names = dict.fromkeys(name for of in targets.values() for name in of)
    rows = [[name, *(_verdict(of.get(name)) for of in targets.values())] for name in names]
    return _table(["target", *targets], rows)


def _verdict(target: dict[str, Any] | None) -> str:
    if target is None:
        return "-"
    word = "met" if target["met"] else "**missed**"
    return f"{word}: {target['value']:.3g} for {target['target']:.3g}"


def _detectors(calibration: dict[str, Any]) -> str:
    rows = []
    for detector, tolerances in calibration.items():
        for row in tolerances:
            values = [row[name] for name in ("recall", "precision", "sd_ms", "offset_ms")]
            digits = (3, 3, 1, 1)
            cells = [_number(v, d) for v, d in zip(values, digits, strict=True)]
            rows.append([detector, f"{1000 * row['tolerance']:.0f} ms", *cells])
    return _table(["detector", "within", "recall", "precision", "sd, ms", "offset, ms"], rows)


def _interval(value: float | None, interval: list[float], digits: int, suffix: str) -> str:
    if value is None:
        return "-"
    low, high = interval
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]{suffix}"


def _brackets(value: float | None, digits: int) -> str:
    return "" if value is None else f" ({value:.{digits}f})"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
