"""What the page shows of a job, a result, a history and a model, as HTML; foreign names are escaped.

Job, Entry, Facts, pipeline -> HTML. `static/page.js` moves the playheads, `static/page.css` lays it out.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

from mmldm.app.jobs import Job
from mmldm.app.safety import Bounds
from mmldm.app.sittings import Entry, Result
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.text import printable

LONGEST_CARD = 40_000
"""Characters of a model card that are shown."""
STEPS = {
    "generator steps": "Step",
    "windows decoded": "Decoding window",
}
"""What the sampler calls its work, for a visitor."""
AS_PICTURES = re.compile(r"!\[([^\]]*)\]\([^)]*\)")


def text(value: str) -> str:
    """Foreign text inside HTML."""
    return escape(printable(value))


def sentences(said: Sequence[str], kind: str = "note") -> str:
    """Sentences in a box; nothing where there is none."""
    if not said:
        return ""
    lines = "".join(f"<li>{text(_sentence(line))}</li>" for line in said)
    return f'<div class="mm-status mm-{kind}" role="status"><ul>{lines}</ul></div>'


def trouble(sentence: str) -> str:
    """Why nothing was made."""
    return f'<div class="mm-status mm-error" role="alert"><p>{text(_sentence(sentence))}</p></div>'


def waiting(ahead: int) -> str:
    """That others come first."""
    who = "One request comes" if ahead == 1 else f"{ahead} requests come"
    return f'<div class="mm-status" role="status"><p>{who} before yours.</p></div>'


def working(job: Job) -> str:
    """How far a job is."""
    words = job.sentence()
    for ours, theirs in STEPS.items():
        words = words.replace(ours, theirs)
    share = job.share
    bar = "<progress aria-label='progress'></progress>"
    if share is not None:
        bar = f"<progress aria-label='progress' max='1' value='{share:.3f}'></progress>"
    return f'<div class="mm-status"><p>{text(_sentence(words))}</p>{bar}</div>'


def finished(entry: Entry, seconds: float) -> str:
    """That a job is over."""
    count = len(entry.every)
    made = f"{count} clip{'s' * (count != 1)}"
    return f'<div class="mm-status mm-done" role="status"><p>{made} in {seconds:.1f} s.</p></div>'


def stopped(steps: int) -> str:
    """That the visitor has stopped a job."""
    after = f" after {steps} step{'s' * (steps != 1)}" if steps else " before it began"
    return (
        f'<div class="mm-status" role="status"><p>Stopped{after}. Nothing was kept of it.</p></div>'
    )


def batch(entry: Entry, fresh: bool = True) -> str:
    """An entry with its results side by side.

    Args:
        fresh: Of a request that is just over: its first video is loaded at once.
    """
    cards = "".join(card(result, number, fresh) for number, result in enumerate(entry.results, 1))
    when = time.strftime("%H:%M", time.localtime(entry.made))
    told = " · ".join(filter(None, (when, text(entry.settings))))
    settings = f"<p class='mm-settings'>{told}</p>"
    return (
        f"<section class='mm-batch' aria-label='{text(entry.title)}'>"
        f"<h3>{text(entry.title)}</h3>{settings}"
        f"<div class='mm-grid'>{cards}</div>{_alike(entry)}{sentences(entry.said)}</section>"
    )


def card(result: Result, number: int, fresh: bool) -> str:
    """One result: film, spectrogram with a playhead, seed, and what can be done with it."""
    name = result.title or f"result {number}"
    seed = ""
    if result.seed is not None:
        name += f", seed {result.seed}"
        seed = (
            f"<span class='mm-seed'>seed <code>{result.seed}</code>"
            f"<button type='button' class='mm-copy' data-copy='{result.seed}'"
            f" aria-label='Copy seed {result.seed}'>copy</button></span>"
        )
    address = f"clips/{result.folder.name}/{result.id}"
    label = text(name)
    preload = "auto" if fresh else "metadata"
    title = f"<strong>{text(result.title)}</strong>" if result.title else ""
    return (
        f"<article class='mm-card' aria-label='{label}'>"
        f"<video src='{address}.mp4' poster='{address}.jpg' controls loop playsinline preload='{preload}'"
        f" aria-label='{label}, {result.seconds:.1f} seconds'></video>"
        f"<div class='mm-strip' title='Spectrogram: low tones at the bottom. Click to jump.'>"
        f"<img src='{address}.png' alt='Spectrogram of {label}' loading='lazy'>"
        "<span class='mm-head'></span></div>"
        f"<p class='mm-name'>{title}{seed}</p>"
        "<p class='mm-actions'>"
        f"<button type='button' class='mm-use' data-use='{result.id}'"
        f" aria-label='Go on from this, or redo a part: {label}'>Go on</button>"
        f"<a href='{address}.mp4?download' download aria-label='Download mp4 of {label}'>mp4</a>"
        f"<a href='{address}.wav?download' download aria-label='Download wav of {label}'>wav</a>"
        f"<a href='{address}.json?download' download aria-label='Download settings of {label}'"
        " title='the settings it was made with'>json</a></p></article>"
    )


def preview(result: Result) -> str:
    """The clip that is gone on from."""
    return (
        "<div class='mm-grid'>"
        f"{card(result, 1, True)}</div><p class='mm-settings'>This clip lasts"
        f" {result.seconds:.1f} s. Go on from its end, or redo a part of it.</p>"
    )


def history(entries: Sequence[Entry], bounds: Bounds) -> str:
    """All that was made in this sitting, newest first."""
    if not entries:
        return "<p class='mm-empty'>Nothing was made yet. What you make is listed here.</p>"
    kept = f"{round(bounds.kept_seconds / 60)} minutes"
    return (
        f"<p class='mm-settings'>Deleted {kept} after it was made: download what you want to keep.</p>"
        + "".join(batch(entry, fresh=False) for entry in entries)
    )


def about(pipeline: SoundingVideoPipeline, name: str | None, bounds: Bounds) -> str:
    """Facts of the model, as Markdown."""
    spec = pipeline.clip_spec
    folder = Path(str(pipeline.config.get("_name_or_path", "")))
    classes = ", ".join(pipeline.class_names) or "none"
    known = "yes" if pipeline.config.known_slots else "no: longer clips may have audible joins"
    facts = [
        ("model", "the bundled one, `impacts`" if name is None else f"`{_plain(name)}`"),
        (
            "a window",
            f"{spec.duration:g} s: {spec.num_frames} frames of {spec.width}x{spec.height} at {spec.fps:g} a "
            f"second, sound at {spec.sample_rate} Hz, mono",
        ),
        ("classes", _plain(classes)),
        ("has learnt to go on", known),
        ("limits of this page", bounds.sentence()),
    ]
    # The first fact is the table's head: an empty one would be drawn.
    rows = [f"| {key} | {value} |" for key, value in facts]
    table = "\n".join([rows[0], "|---|---|", *rows[1:]])
    return f"{table}\n\n{_card(folder)}"


def _card(folder: Path) -> str:
    """A model's card and licence: README.md of its folder, without what a browser would fetch."""
    try:
        raw = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return (
            "This model's folder has no card (README.md): ask who made it what it was trained on, and what "
            "its licence is."
        )
    cut = raw[:LONGEST_CARD]
    # A head in YAML is for machines; of it, the licence is for everybody.
    head = re.match(r"---\n(.*?)\n---\n", cut, re.DOTALL)
    licence = re.search(r"^license:\s*(\S+)", head[1], re.MULTILINE) if head else None
    body = cut[head.end() :] if head else cut
    safe = AS_PICTURES.sub(r"\1", body).replace("<", "&lt;")
    said = f"**Licence: {_plain(licence[1])}**\n\n" if licence else ""
    return said + safe


def _plain(name: str) -> str:
    """Foreign text in a table of Markdown."""
    return printable(name).replace("|", "/").replace("`", "'").replace("<", "&lt;")


def _alike(entry: Entry) -> str:
    """Which results are nearly the same as one that is shown."""
    lines = []
    for result in entry.results:
        if not result.alike:
            continue
        seeds = ", ".join(str(one.seed) for one in result.alike)
        which = f"Seed{'s' * (len(result.alike) > 1)} {seeds}"
        others = "".join(card(one, number, False) for number, one in enumerate(result.alike, 1))
        lines.append(
            f"<details class='mm-alike'><summary>{which} made nearly the same as seed {result.seed}: what is"
            f" given leaves little open. Show anyway</summary><div class='mm-grid'>{others}</div></details>"
        )
    return "".join(lines)


def _sentence(line: str) -> str:
    """With a capital letter and a full stop, as on a page."""
    whole = line[:1].upper() + line[1:]
    return whole if whole.endswith((".", "!", "?", "...")) else whole + "."
