"""report.html of a run folder: what one wants to see and hear while a model learns, in one file to be mailed.

run folder (config.yaml, manifest.jsonl; per job metrics.jsonl, previews/, train.log) -> HTML with samples as
data, curves as SVG, the recipe, the clips and what was skipped. Without a script, or a request to anywhere.

The page is a function of what lies in the folder: written again from the same files it is the same page.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from PIL import Image

from mmldm.data.manifest import Manifest
from mmldm.errors import UserError, first_line
from mmldm.files import write_text
from mmldm.text import printable, printable_lines
from mmldm.training import JOBS
from mmldm.training.curves import LOSS, charts, figure, is_number
from mmldm.training.live import LOG
from mmldm.training.report import METRICS, read_metrics
from mmldm.types import Say

PAGE = "report.html"
LARGEST_SAMPLE, LARGEST_PAGE = 2 << 20, 8 << 20
"""Bytes of media that stand in the page; what is beyond is linked, and lies beside it."""
SAMPLES = 12
"""Films of a preview that can be played on the page."""
EARLIER = 2
"""Earlier previews whose sheets are shown, evenly spread from the first on."""
LISTED = 200
"""Files that are named one by one."""
SENTENCES = 50
"""Of a job's log."""
JPEG = 82
"""Quality of a sheet on the page."""
TYPES = {".mp4": "video/mp4", ".wav": "audio/wav"}
PASSED_OVER = ("already done",)
"""What the log of a job says at every start of a finished run."""
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; "
    "img-src data: 'self' file:; media-src data: 'self' file:"
)
"""Nothing is asked of any network, whatever a name on the page holds."""
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
h2{border-top:1px solid #ccc;padding-top:1em;margin-top:2em}table{border-collapse:collapse;margin:1em 0}
td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}img{max-width:100%}
svg{background:#f8f8f8;max-width:100%;height:auto}svg line{stroke:#ddd}svg polyline{fill:none;stroke-width:2}
svg text{font-size:11px;fill:#666}.legend,figcaption{font-size:13px}.legend span{margin-right:1.5em}
.samples{display:flex;flex-wrap:wrap;gap:12px}figure{margin:0}video{width:240px}
pre{background:#f6f6f6;padding:.8em;overflow:auto;font-size:12px}summary{cursor:pointer;margin:.6em 0}"""
LEARNS = {
    "vae": "It learns to fold pictures and audio images into few numbers, and to unfold them. What it "
    "loses here, no later job brings back. Samples: the clips, and what comes back.",
    "autoencoder": "It learns the latents of both modalities that the generator will make, and a decoder "
    "that turns them back. Samples: as the image VAE alone gives clips back, and after the autoencoder.",
    "generator": "It learns to make latents from noise: new clips. Samples: made from nothing, always with "
    "the same seed, so that previews compare.",
    "vocoder": "It learns to turn spectrograms into sound. Samples: the sound itself, the vocoder's, and "
    "Griffin-Lim's, which a model without a vocoder uses.",
}
_STEP = re.compile(r"(?P<kind>.*?)_?(?P<step>[0-9]{7,})(?:_(?P<number>[0-9]+))?(?:_(?P<title>.*))?")
"""A preview's name: joint_0000200_003, reconstruction_0000200_000_real, joint_0000200."""


@dataclass
class _Page:
    """The parts of a page, and how many bytes of media it may still take in."""

    root: Path
    left: int = LARGEST_PAGE
    parts: list[str] = field(default_factory=list)

    def add(self, *parts: str) -> None:
        self.parts += parts

    def data(self, path: Path, content: bytes, kind: str) -> str:
        """The address of a medium: itself, or where it lies beside the page if it is large."""
        if not content or len(content) > min(LARGEST_SAMPLE, self.left):
            return quote(path.relative_to(self.root).as_posix())
        self.left -= len(content)
        return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def write_report_page(folder: Path) -> Path:
    """Writes report.html into a run folder, whole or not at all, and returns its path.

    Raises:
        UserError: It cannot be written.
    """
    page = _Page(folder)
    recipe = _recipe(folder)
    # The jobs in their order, then the students of `mmldm distill`.
    begun = {path.parent.name for path in folder.glob(f"*/{METRICS}")}
    jobs = [*(job for job in JOBS if job in begun), *sorted(begun - set(JOBS))]
    records: dict[str, list[dict[str, Any]] | str] = {}
    for job in jobs:
        try:
            records[job] = read_metrics(folder / job / METRICS)
        except OSError as error:
            records[job] = f"no metrics: {error}"

    page.add(f"<h1>{_shown(folder.absolute().name)}</h1>", *_overview(folder, recipe, records))
    # The last job's samples are nearest to what the model will make: they are taken in first.
    sections = {job: _job_section(page, job, records[job]) for job in reversed(jobs)}
    page.add(*(sections[job] for job in jobs))
    page.add(*_clips(folder), *_recipe_section(recipe))
    head = (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{_shown(folder.absolute().name)}: mmldm run</title><style>{STYLE}</style></head><body>"
    )
    path = folder / PAGE
    write_text(path, "\n".join([head, *page.parts, "</body></html>\n"]))
    return path


def refresh(folder: Path, note: Say) -> None:
    """Writes the page anew while a run is at work; that the disk refuses it is said and stops nothing."""
    try:
        write_report_page(folder)
    except (OSError, UserError) as error:
        note(f"the page is left as it was: {error}")


# ------------------------------------------------------------------------------------------ how far it is


def _overview(
    folder: Path, recipe: Mapping[str, Any] | str, records: Mapping[str, list[dict[str, Any]] | str]
) -> Iterator[str]:
    """A row per job: steps, state, loss."""
    sections = recipe if isinstance(recipe, dict) else {}
    jobs = [job for job in JOBS if job in records or sections.get(job)]
    rows = []
    for job in (*jobs, *(name for name in records if name not in JOBS)):
        found = records.get(job)
        done = found[-1]["step"] if isinstance(found, list) and found else 0
        train = (sections.get(job) or {}).get("train") if job in sections else {}
        total = train.get("steps") if isinstance(train, dict) else None
        if (folder / job / "export").is_dir():
            state = "finished" if done else "taken as it is"
        else:
            state = "begun" if job in records else "to come"
        losses = (
            [r[LOSS] for r in found if is_number(r.get(LOSS))] if isinstance(found, list) else []
        )
        loss = f"{losses[0]:.4g} at first, {losses[-1]:.4g} now" if losses else ""
        steps = f"{done} of {total}" if total else str(done)
        rows.append([job, steps, state, loss])
    yield _table(["job", "steps", "state", "loss"], rows)
    if (folder / "distilled").is_dir():
        yield "<p>There is a faster model: distilled/.</p>"
    command = _shown(f"mmldm generate --model {folder}")
    yield f"<p>To hear more of it, now or later: <code>{command}</code></p>"


def _job_section(page: _Page, job: str, records: list[dict[str, Any]] | str) -> str:
    """Samples, curves and notes of a job."""
    parts = [f"<h2>{_shown(job)}</h2>"]
    if job in LEARNS:
        parts.append(f"<p>{_shown(LEARNS[job])}</p>")
    parts += _previews(page, page.root / job / "previews")
    if isinstance(records, str):
        parts.append(f"<p>{_shown(records)}</p>")
    else:
        parts += [figure(chart) for chart in charts(records)]
    sentences = _log(page.root / job / LOG)
    if sentences:
        lines = "\n".join(sentences)
        parts.append(f"<details><summary>What it said</summary><pre>{lines}</pre></details>")
    return "\n".join(parts)


def _log(path: Path) -> list[str]:
    """The last sentences of a job's log, escaped; what every start repeats is left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    kept = [line for line in lines if not line.endswith(PASSED_OVER)]
    return [_shown(line) for line in kept[-SENTENCES:]]


# --------------------------------------------------------------------------------------- to see and hear


def _previews(page: _Page, folder: Path) -> Iterator[str]:
    """The newest samples, to be played, and their sheet; then sheets of earlier steps."""
    by_step: dict[int, list[tuple[Path, str]]] = defaultdict(list)
    for path in sorted(folder.glob("[!.]*")):
        if path.suffix in (*TYPES, ".png") and path.is_file():
            found = _STEP.fullmatch(path.stem)
            title = (found and (found["title"] or found["number"])) or path.stem
            by_step[int(found["step"]) if found else 0].append((path, title))
    if not by_step:
        return
    *before, newest = sorted(by_step)
    yield f"<h3>At step {newest}</h3><div class=samples>"
    films = [sample for sample in by_step[newest] if sample[0].suffix in TYPES]
    yield from (_player(page, path, title) for path, title in films[:SAMPLES])
    yield "</div>"
    yield from (_sheet(page, path) for path, _ in by_step[newest] if path.suffix == ".png")
    for step in before[:: max(1, -(-len(before) // EARLIER))]:
        sheets = [_sheet(page, path) for path, _ in by_step[step] if path.suffix == ".png"]
        yield f"<details><summary>At step {step}</summary>{''.join(sheets)}</details>"


def _player(page: _Page, path: Path, title: str) -> str:
    """One film or sound with its controls."""
    try:
        address = page.data(path, path.read_bytes(), TYPES[path.suffix])
    except OSError as error:
        return f"<p>{_shown(f'{path.name}: {error}')}</p>"
    tag = "video" if path.suffix == ".mp4" else "audio"
    return (
        f"<figure><{tag} controls loop playsinline preload=metadata src='{address}'></{tag}>"
        f"<figcaption>{_shown(title.replace('-', ' '))}</figcaption></figure>"
    )


def _sheet(page: _Page, path: Path) -> str:
    """A contact sheet: frames, and below them the spectrogram on the same axis of time."""
    name = _shown(path.name)
    try:
        with Image.open(path) as picture:
            smaller = io.BytesIO()
            picture.convert("RGB").save(smaller, format="JPEG", quality=JPEG)
    # What PIL cannot open is linked: the browser may know better.
    except (OSError, ValueError, Image.DecompressionBombError):
        smaller = io.BytesIO()
    address = page.data(path, smaller.getvalue(), "image/jpeg")
    return f"<figure><img src='{address}' alt='{name}'><figcaption>{name}</figcaption></figure>"


# --------------------------------------------------------------------------------- from what it was made


def _clips(folder: Path) -> Iterator[str]:
    """What the scan found: counts, what was skipped and why, what is noted, and every clip that is used."""
    path = folder / "manifest.jsonl"
    if not path.is_file():
        return
    yield "<h2>Clips</h2>"
    try:
        manifest = Manifest.load(path)
    except UserError as error:
        yield f"<p>{_shown(str(error))}</p>"
        return
    yield f"<pre>{html.escape(printable_lines(manifest.summary()))}</pre>"
    skipped = [entry for entry in manifest.entries if not entry.usable]
    noted = [entry for entry in manifest.usable if entry.note]
    used = [[e.path, e.split or "", e.class_name or ""] for e in manifest.usable]
    for title, head, rows in (
        (
            "Skipped",
            ["file", "reason", ""],
            [[e.path, e.reason or "", e.note or ""] for e in skipped],
        ),
        ("Used with a note", ["file", "note"], [[e.path, e.note or ""] for e in noted]),
        ("Used", ["file", "side", "class"], used),
    ):
        if rows:
            more = [[f"and {len(rows) - LISTED} more"]] if len(rows) > LISTED else []
            table = _table(head, [*rows[:LISTED], *more])
            yield f"<details><summary>{title}: {len(rows)}</summary>{table}</details>"
    if skipped:
        yield "<p>What the reasons mean: docs/data.md.</p>"


def _recipe(folder: Path) -> dict[str, Any] | str:
    """config.yaml, or why it cannot be shown."""
    try:
        recipe = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        return f"no recipe: {first_line(error)}"
    return recipe if isinstance(recipe, dict) else "no recipe: config.yaml holds none"


def _recipe_section(recipe: dict[str, Any] | str) -> Iterator[str]:
    yield "<h2>Recipe</h2>"
    if isinstance(recipe, str):
        yield f"<p>{_shown(recipe)}</p>"
        return
    clip = recipe.get("clip")
    if isinstance(clip, dict):
        yield f"<p>{_shown('Clips: ' + json.dumps(clip))}</p>"
    text = html.escape(printable_lines(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)))
    yield f"<details><summary>config.yaml</summary><pre>{text}</pre></details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of foreign text."""
    lines = ["".join(f"<th>{_shown(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{_shown(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _shown(text: str) -> str:
    return html.escape(printable(text))
