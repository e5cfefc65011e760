"""Table 2 of one data set: FVD, KVD and FAD at 64 x 64 and 256 x 256, beside the paper's numbers.

    python runs/table2.py landscape RUN REFERENCE OUT [--row "DIGAN=folder" ...] [words for `mmldm evaluate`]

Of the model RUN it samples sounding video, pictures for the sounds of held-out clips, and sounds for their
pictures; one set of samples serves both sizes. Rows for baselines are folders of anybody's samples, mp4, gif
or wav, one modality allowed: NAME=FOLDER, or NAME:a2v=FOLDER and NAME:v2a=FOLDER for those tasks. Ground
truth is the report's "real": held-out clips, or one half of the reference against the other. Where I3D's or
AudioCLIP's weights are missing, the second table says what networks that ship tell. Reports lie in
OUT/NAME/SIZE; the same command goes on where it was.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmldm.evaluation.page import digits, markdown_table
from mmldm.files import write_text

PROTOCOLS = {64: "mm-diffusion", 256: "mm-diffusion-256"}
NUMBERS = {"FVD": "fvd", "KVD": "kvd", "FAD": "fad-audioclip"}
SHIPPED = {
    "Fréchet of frames, SqueezeNet": "frame-fd",
    "Fréchet, YAMNet": "fad-yamnet",
    "KAD, YAMNet": "kad",
}
JOINT, A2V, V2A, TRUTH = "sounding video", "audio-to-video", "video-to-audio", "ground truth"
SETS = {JOINT: "generated", A2V: A2V, V2A: V2A, TRUTH: "real"}
"""Kind of row -> set of our own report."""
TASKS = {"joint": JOINT, "a2v": A2V, "v2a": V2A}
Row = tuple[str, int, str, tuple[float | None, float | None, float | None]]
"""Method, size (0: of sound alone), kind, and the paper's FVD, KVD, FAD."""
PAPER: dict[str, list[Row]] = {
    "landscape": [
        (TRUTH, 64, TRUTH, (16.3, -0.015, 7.7)),
        (TRUTH, 256, TRUTH, (22.4, 0.128, 7.7)),
        ("DIGAN", 64, JOINT, (305.4, 19.6, None)),
        ("TATS-base", 64, JOINT, (600.3, 51.5, None)),
        ("MM-Diffusion-v", 64, JOINT, (238.3, 15.1, None)),
        ("Diffwave", 0, JOINT, (None, None, 14.0)),
        ("MM-Diffusion-a", 0, JOINT, (None, None, 13.6)),
        ("MM-Diffusion", 64, A2V, (237.9, 13.9, None)),
        ("MM-Diffusion-SR", 64, A2V, (225.4, 13.3, None)),
        ("MM-LDM", 64, A2V, (89.2, 4.2, None)),
        ("MM-Diffusion-SR", 256, A2V, (347.9, 27.8, None)),
        ("MM-LDM", 256, A2V, (123.1, 10.4, None)),
        ("MM-Diffusion", 0, V2A, (None, None, 9.6)),
        ("MM-LDM", 0, V2A, (None, None, 9.2)),
        ("MM-Diffusion, DDPM", 64, JOINT, (117.2, 5.8, 10.7)),
        ("MM-Diffusion, dpm-solver", 64, JOINT, (229.1, 13.3, 9.4)),
        ("MM-Diffusion+SR", 64, JOINT, (211.2, 12.6, 9.9)),
        ("MM-LDM", 64, JOINT, (77.4, 3.2, 9.1)),
        ("MM-Diffusion+SR", 256, JOINT, (332.1, 26.6, 9.9)),
        ("MM-LDM", 256, JOINT, (105.0, 8.3, 9.1)),
    ],
    "aist": [
        (TRUTH, 64, TRUTH, (6.8, -0.015, 8.4)),
        (TRUTH, 256, TRUTH, (11.5, 0.043, 8.4)),
        ("DIGAN", 64, JOINT, (119.5, 35.8, None)),
        ("TATS-base", 64, JOINT, (267.2, 41.6, None)),
        ("MM-Diffusion-v", 64, JOINT, (184.5, 33.9, None)),
        ("Diffwave", 0, JOINT, (None, None, 15.8)),
        ("MM-Diffusion-a", 0, JOINT, (None, None, 13.3)),
        ("MM-Diffusion", 64, A2V, (163.1, 28.9, None)),
        ("MM-Diffusion-SR", 64, A2V, (142.9, 24.9, None)),
        ("MM-LDM", 64, A2V, (71.0, 10.8, None)),
        ("MM-Diffusion-SR", 256, A2V, (225.1, 51.9, None)),
        ("MM-LDM", 256, A2V, (128.5, 33.2, None)),
        ("MM-Diffusion", 0, V2A, (None, None, 12.6)),
        ("MM-LDM", 0, V2A, (None, None, 10.2)),
        ("MM-Diffusion, DDPM", 64, JOINT, (75.7, 11.5, 10.7)),
        ("MM-Diffusion, dpm-solver", 64, JOINT, (176.6, 31.9, 12.9)),
        ("MM-Diffusion+SR", 64, JOINT, (137.4, 24.2, 12.3)),
        ("MM-LDM", 64, JOINT, (55.9, 8.2, 10.2)),
        ("MM-Diffusion+SR", 256, JOINT, (219.6, 49.1, 12.3)),
        ("MM-LDM", 256, JOINT, (105.0, 27.9, 10.2)),
    ],
}
"""Table 2 of the paper, of a data set."""
OURS = "MM-LDM"
Report = Mapping[str, Any]
Found = Mapping[tuple[str, int, str], Mapping[str, Any]]
"""Values by the names of numbers, of each method, size and kind."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=PAPER)
    parser.add_argument("run", type=Path, help="model or run folder")
    parser.add_argument("reference", type=Path, help="real clips: folder, list or manifest")
    parser.add_argument("out", type=Path)
    parser.add_argument("--row", action="append", default=[], metavar="NAME[:TASK]=FOLDER")
    options, words = parser.parse_known_args()

    # A report for each row and size; what was measured, and what the model made, serves all.
    found: dict[tuple[str, int, str], Mapping[str, Any]] = {}
    facts: dict[str, None] = {}
    for size, protocol in PROTOCOLS.items():
        shared = ["--protocol", protocol, "--cache", options.out / "cache", *words]
        tasks = ["--task", "joint,a2v,v2a", "--made", options.out / "made"]
        report = _report(
            options.out / OURS / str(size), options.run, options.reference, [*tasks, *shared]
        )
        for kind, name in SETS.items():
            found[kind if kind == TRUTH else OURS, size, kind] = _values(report, name)
        facts |= dict.fromkeys(_not_measured(report))
        for row in options.row:
            name, _, folder = row.partition("=")
            method, _, task = name.partition(":")
            out = options.out / name.replace(":", "-").replace("/", "-") / str(size)
            report = _report(out, Path(folder), options.reference, shared)
            found[method, size, TASKS[task or "joint"]] = _values(report, "generated")
    text = block(options.data, found, list(facts))
    write_text(options.out / "table2.md", text + "\n")
    print(text)


def _report(out: Path, generated: Path, reference: Path, words: Sequence[object]) -> Report:
    """What `mmldm evaluate` says."""
    command = [
        sys.executable,
        "-m",
        "mmldm",
        "evaluate",
        generated,
        reference,
        "--out",
        out,
        *words,
    ]
    code = subprocess.run([str(word) for word in command], check=False).returncode
    if code:
        # The command has said why.
        sys.exit(code)
    report: Report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return report


def _values(report: Report, name: str) -> dict[str, Any]:
    """A set's values by the names of numbers."""
    return {line["name"]: line["values"].get(name) for line in report["numbers"]}


def _not_measured(report: Report) -> list[str]:
    """Why numbers of the tables are missing."""
    return [
        f"{title} not measured: {report['undefined'][name]}."
        for title, name in {**NUMBERS, **SHIPPED}.items()
        if name in report["undefined"]
    ]


def block(data: str, found: Found, facts: Sequence[str] = ()) -> str:
    """The tables of a data set: the paper's rows in its order, then those that it does not have."""
    listed = list(PAPER[data])
    known = {row[:3] for row in listed}
    for method, size, kind in found:
        if not {(method, size, kind), (method, 0, kind)} & known:
            listed.append((method, size, kind, (None, None, None)))
    # Beside the paper's numbers, and those that networks tell which ship.
    beside, shipped = [], []
    for method, size, kind, printed in listed:
        values = found.get((method, size or 64, kind), {})
        place = [method, f"{size}²" if size else "-", kind]
        own = [_cell(values.get(name)) for name in NUMBERS.values()]
        paper = ["-" if x is None else f"{x:g}" for x in printed]
        beside.append([*place, *(x for pair in zip(paper, own, strict=True) for x in pair)])
        if values:
            shipped.append([*place, *(_cell(values.get(name)) for name in SHIPPED.values())])
    head = ["method", "size", "task"]
    titles = [f"{name}, {whose}" for name in NUMBERS for whose in ("paper", "here")]
    return "\n\n".join(
        [
            f"## Table 2, {data}",
            "Here: value [95 % interval]; n clips:clips compared with. **No FAD here compares with the "
            "paper's**; FVD and KVD do as far as the list of differences in docs/evaluation.md goes.",
            markdown_table([*head, *titles], beside),
            "With networks that ship:",
            markdown_table([*head, *SHIPPED], shipped),
            *facts,
        ]
    )


def _cell(value: Mapping[str, Any] | None) -> str:
    """value [interval]; n clips:clips compared with."""
    if value is None or value["value"] is None:
        return "-"
    interval = ", ".join(digits(end) for end in value["interval"] or ())
    around = f" [{interval}]" if interval else ""
    return f"{digits(value['value'])}{around}; n {value['n']}:{value['against']}"


if __name__ == "__main__":
    main()
