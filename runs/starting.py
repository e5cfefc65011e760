"""The table of runs/starting.sh: last held-out numbers of two runs on the same clips, side by side.

Errors of a generator are in the latents of its own run, so that two runs' can only be compared where the
autoencoder is the same one. Reconstructions (PSNR, mel error) can always.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mmldm.training import JOBS
from mmldm.training.report import METRICS, read_metrics


def last_numbers(run: Path) -> dict[tuple[str, str], float]:
    """(job, number) -> its value at the last validation."""
    numbers: dict[tuple[str, str], float] = {}
    for job in JOBS:
        path = run / job / METRICS
        for row in read_metrics(path) if path.is_file() else []:
            for name, value in row.items():
                if name.startswith("validate/"):
                    numbers[job, name.removeprefix("validate/")] = value
    return numbers


def table(first: Path, second: Path) -> str:
    """Markdown; a dash where a run has no such number, as of a frozen job."""
    columns = [last_numbers(run) for run in (first, second)]
    lines = [f"| job | held out | {first.name} | {second.name} |", "|---|---|---|---|"]
    for job, name in sorted({key for column in columns for key in column}):
        values = [column.get((job, name)) for column in columns]
        shown = ["-" if value is None else f"{value:.3f}" for value in values]
        lines.append(f"| {job} | {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(Path(sys.argv[1]), Path(sys.argv[2])))
