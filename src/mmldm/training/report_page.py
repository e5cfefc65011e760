"""The page at the end of a training run: curves, held-out numbers and previews in one HTML file.

run folder (metrics.jsonl, previews) -> report.html beside them; no script, no outside request.
"""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mmldm.files import write_text
from mmldm.text import printable
from mmldm.training.journey import JOBS
from mmldm.training.report import METRICS, read_metrics
from mmldm.training.run_folder import RunFolder

WIDTH, HEIGHT = 640, 160
PREVIEWS_SHOWN = 3

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1400px;margin:2em auto;padding:0 1em}
table{border-collapse:collapse}td,th{padding:.2em .8em;border-bottom:1px solid #ccc;text-align:right}
th:first-child,td:first-child{text-align:left}img{max-width:100%}svg{background:#f6f6f6}"""


def write_report_page(folder: RunFolder) -> Path:
    """Writes report.html and returns its path."""
    parts = [f"<!doctype html><meta charset=utf-8><title>mmldm run</title><style>{STYLE}</style>"]
    parts.append(f"<h1>{_shown(folder.root.name)}</h1>")
    jobs = {path.parent.name for path in folder.root.glob(f"*/{METRICS}")}
    for job in (*(j for j in JOBS if j in jobs), *sorted(jobs - set(JOBS))):
        try:
            rows = read_metrics(folder.job(job) / METRICS)
        except OSError as error:
            parts.append(f"<h2>{_shown(job)}</h2><p>{_shown(f'no metrics: {error}')}</p>")
        else:
            parts.append(_job_section(folder, job, rows))
    page = folder.root / "report.html"
    write_text(page, "\n".join(parts))
    return page


def _job_section(folder: RunFolder, job: str, rows: list[dict[str, Any]]) -> str:
    parts = [f"<h2>{_shown(job)}</h2>", _curve(rows, "model/loss")]
    held_out = [row for row in rows if any(name.startswith("validate/") for name in row)]
    if held_out:
        parts.append(_table(held_out[-1]))
    previews = sorted((folder.job(job) / "previews").glob("[!.]*.png"))
    for picture in previews[-PREVIEWS_SHOWN:]:
        name = _shown(picture.name)
        source = quote(picture.relative_to(folder.root).as_posix())
        parts.append(
            f"<figure><img src='{source}' alt='{name}'><figcaption>{name}</figcaption></figure>"
        )
    return "\n".join(parts)


def _shown(name: str) -> str:
    return html.escape(printable(name))


def _curve(rows: list[dict[str, Any]], name: str) -> str:
    """One quantity over steps as an SVG line, on a scale from its smallest to its largest value."""
    points = [(row["step"], row[name]) for row in rows if _is_number(row.get(name))]
    if len(points) < 2:
        return ""
    steps, values = zip(*points, strict=True)
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    line = " ".join(
        f"{WIDTH * (s - steps[0]) / max(steps[-1] - steps[0], 1):.1f},"
        f"{HEIGHT - (HEIGHT - 8) * (v - low) / span - 4:.1f}"
        for s, v in points
    )
    return (
        f"<p>{html.escape(name)}: {values[0]:.4g} at step {steps[0]}, {values[-1]:.4g} at {steps[-1]}</p>"
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}'>"
        f"<polyline fill='none' stroke='#225' stroke-width='1.5' points='{line}'/></svg>"
    )


def _table(row: dict[str, Any]) -> str:
    cells = "".join(
        f"<tr><td>{html.escape(name.removeprefix('validate/'))}</td><td>{value:.4g}</td></tr>"
        for name, value in row.items()
        if name.startswith("validate/") and _is_number(value)
    )
    return f"<table><tr><th>held out, step {row['step']}</th><th></th></tr>{cells}</table>"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
