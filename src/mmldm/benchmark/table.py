"""Measured rows as a Markdown table and as JSON, with where, when and how they were measured.

rows, facts -> text.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from mmldm import __version__
from mmldm.benchmark.machine import device_name, matmul_peak
from mmldm.benchmark.measure import Row

Column = tuple[str, Callable[[Row], str | None]]


def facts(device: torch.device, precision: str, command: str) -> dict[str, Any]:
    """Date, code, hardware and its measured matmul peaks (FLOP/s)."""
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
        "commit": _commit(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": precision,
        "matmul_peak": {name: matmul_peak(device, name) for name in ("fp32", "bf16")},
    }


def _commit() -> str | None:
    """Of the checkout this package runs from, "+" if files were changed since; None: not in one."""
    git = ("git", "-C", str(Path(__file__).parent))
    try:
        commit = _output(*git, "rev-parse", "--short", "HEAD")
        changes = _output(*git, "status", "--porcelain", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "+" * bool(changes)


def _output(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def to_json(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """Everything measured; seconds, bytes, joules and FLOP as plain numbers."""
    return json.dumps({**facts, "rows": [_values(row, facts) for row in rows]}, indent=2) + "\n"


def _values(row: Row, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "work": row.work,
        "clips": row.clips,
        "seconds": list(row.timing.rounds),
        "median_seconds": row.timing.median,
        "clips_per_second": row.clips / row.timing.median,
        "flops": row.flops,
        "utilisation": _utilisation(row, facts),
        "peak_bytes": row.timing.peak_bytes,
        "joules": row.joules,
        "times_longer_elsewhere": row.ratio,
    }


def _utilisation(row: Row, facts: Mapping[str, Any]) -> float | None:
    """Share of the device's measured matmul peak in the precision that was asked for."""
    if row.flops is None:
        return None
    return row.flops / row.timing.median / facts["matmul_peak"][facts["precision"]]


def to_markdown(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """A paragraph of facts and a table; columns about which nothing is known are left out."""
    peaks = ", ".join(f"{k} {_si(v)}FLOP/s" for k, v in facts["matmul_peak"].items())
    commit = f"version {facts['version']}, commit {facts['commit'] or 'unknown'}"
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] > 1)}"
    lines = [
        f"{facts['date']}, {facts['device']} ({threads}), {commit}, torch {facts['torch']}, "
        f"{facts['precision']}: `{facts['command']}`. Matmul peak, measured: {peaks}.",
        "",
    ]
    columns: list[Column] = [
        ("work", lambda row: row.work),
        ("clips a call", lambda row: str(row.clips)),
        ("median (fastest, slowest)", _seconds),
        ("clips a second", lambda row: f"{row.clips / row.timing.median:.3g}"),
        ("FLOP a call", lambda row: None if row.flops is None else _si(row.flops).strip()),
        ("utilisation", lambda row: _percent(_utilisation(row, facts))),
        ("peak memory", lambda row: _gibibytes(row.timing.peak_bytes)),
        ("energy", lambda row: None if row.joules is None else f"{row.joules:.3g} J"),
        ("the other takes", lambda row: None if row.ratio is None else f"{row.ratio:.3g} x"),
    ]
    cells = [(title, [cell(row) for row in rows]) for title, cell in columns]
    known = [(title, column) for title, column in cells if any(column)]
    lines.append("| " + " | ".join(title for title, _ in known) + " |")
    lines.append("|---" * len(known) + "|")
    for values in zip(*(column for _, column in known), strict=True):
        lines.append("| " + " | ".join(value or "" for value in values) + " |")
    return "\n".join(lines) + "\n"


def _seconds(row: Row) -> str:
    low, high = row.timing.spread
    unit, factor = ("s", 1.0) if row.timing.median >= 1 else ("ms", 1000.0)
    return f"{row.timing.median * factor:.3g} {unit} ({low * factor:.3g}, {high * factor:.3g})"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.0f} %"


def _gibibytes(count: int | None) -> str | None:
    return None if count is None else f"{count / 2**30:.2f} GiB"


def _si(value: float) -> str:
    """Three digits and a prefix: 1.23 T."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "
