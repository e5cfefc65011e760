"""What the page's tabs share: fields, the sentence on what is used of a file, and a button's way to a job.

values of fields -> Work -> how far it is, twice a second -> HTML of the status and of the results
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from mmldm.app import showing
from mmldm.app.desk import Desk, Work, whole
from mmldm.app.gate import COOKIE
from mmldm.app.results import Wish
from mmldm.errors import UserError
from mmldm.types import Modality

EVERY = 0.25
"""Seconds between two looks at a job."""
AT_ONCE = 24
"""Visitors whose job is watched at once; more wait in gradio's line."""
BY_SEED = "any"
"""The class, where nobody asks for one."""
OWN_QUALITY = "default"
Asks = Callable[..., Work]
"""Of a visitor and the values of inputs, what is to be done."""


class Parts:
    """Parts of a page.

    Args:
        desk: Takes requests.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk, self._bounds, self._spec = desk, desk.studio.bounds, desk.studio.spec
        self._pipeline = desk.studio.pipeline

    def class_choice(self) -> gr.Dropdown:
        names = list(self._pipeline.class_names)
        return gr.Dropdown(
            [BY_SEED, *names], value=BY_SEED, label="Class", visible=bool(names), filterable=False
        )

    def settings(self, count: int | None = None) -> tuple[gr.Number, gr.Dropdown, gr.Slider]:
        """Seed, quality, and how many results."""
        most = self._bounds.results
        rows = list(self._pipeline.qualities)
        return (
            gr.Number(value=-1, precision=0, minimum=-1, label="Seed", info="-1 draws one"),
            gr.Dropdown(
                [OWN_QUALITY, *rows], value=OWN_QUALITY, label="Quality", filterable=False,
                info="best is slow, fast is quick",
            ),
            gr.Slider(1, max(2, most), value=count or most, step=1, label="Results"),
        )  # fmt: skip

    def part(self) -> tuple[gr.Number, gr.Number]:
        """From which second to which."""
        with gr.Row():
            return (
                gr.Number(value=0, minimum=0, step=0.1, label="Start, seconds"),
                gr.Number(value=0, minimum=0, step=0.1, label="End, seconds", info="0: all of it"),
            )

    def buttons(self, label: str) -> gr.Button:
        """The button that asks, and beside it the one that stops."""
        with gr.Row():
            run = gr.Button(label, variant="primary", scale=3)
            self.stop_button(scale=1)
        return run

    def stop_button(self, scale: int | None = None) -> None:
        """Stops what the visitor has asked for."""

        def stop(request: gr.Request) -> None:
            self.desk.line.stop(visitor_of(request))

        button = gr.Button("Stop", scale=scale)
        button.click(stop, None, None, queue=False, api_visibility="private")

    def results(self, tab: str) -> list[gr.HTML]:
        """Where a tab says how far it is, and where its results arrive."""
        status = gr.HTML(padding=False, elem_id=f"mm-status-{tab}", min_height=8)
        arriving = gr.HTML(
            padding=False, elem_classes=["mm-delivery"], visible="hidden", elem_id=f"mm-new-{tab}"
        )
        gr.HTML(f"<div class='mm-shelf' id='mm-shelf-{tab}'></div>", padding=False)
        return [status, arriving]

    def look(
        self, given: Any, start: gr.Number, end: gr.Number, used: gr.HTML, modality: Modality | None
    ) -> None:
        """Says what is used of a file as soon as it is there, or another part of it is asked for."""

        def looked(path: str | None, start: Any, end: Any, request: gr.Request) -> str:
            if path is None:
                return ""
            try:
                facts = self.desk.look(visitor_of(request), path, start, end, modality)
            except UserError as error:
                return showing.trouble(str(error))
            said = list(facts.said)
            if facts.seconds is not None and not any("s of it are used" in line for line in said):
                said.insert(0, f"{facts.seconds:.4g} s of it are used")
            return showing.sentences(said)

        triggers = [given.change, start.change, end.change]
        gr.on(
            triggers, looked, [given, start, end], [used], api_visibility="private",
            show_progress="hidden", concurrency_limit=2, trigger_mode="always_last",
        )  # fmt: skip

    def job(self, button: Any, asks: Asks, inputs: list[Any], out: list[gr.HTML]) -> None:
        """A button, or the end of an event, that asks for something."""
        tab = str(out[0].elem_id).removeprefix("mm-status-")

        def ask(request: gr.Request, *values: Any) -> Iterator[tuple[Any, Any]]:
            visitor, begun = visitor_of(request), time.monotonic()
            try:
                job = self.desk.submit(visitor, asks(visitor, *values))
            except UserError as error:
                yield showing.trouble(str(error)), gr.skip()
                return
            said = ""
            while not job.wait(EVERY):
                now = (
                    showing.working(job)
                    if job.at_work
                    else showing.waiting(self.desk.line.ahead(job))
                )
                if now != said:
                    said = now
                    yield said, gr.skip()
            if job.entry is not None:
                spent = time.monotonic() - begun
                new = f"<div data-shelf='mm-shelf-{tab}'>{showing.batch(job.entry)}</div>"
                yield showing.finished(job.entry, spent), new
            elif job.stopped:
                yield showing.stopped(job.steps), gr.skip()
            else:
                yield showing.trouble(job.error or "nothing was made"), gr.skip()

        listen = button.click if isinstance(button, gr.Button) else button
        listen(
            ask, inputs or None, out, api_visibility="private",
            show_progress="hidden", concurrency_limit=AT_ONCE, concurrency_id="jobs",
        )  # fmt: skip


def visitor_of(request: gr.Request) -> str:
    """Who asks; the gate has given everybody a name."""
    return str(request.cookies[COOKIE])


def wish_of(kind: str, seconds: float | None, seed: Any, quality: str, count: Any) -> Wish:
    """What the fields ask for.

    Raises:
        UserError: One holds no number.
    """
    return Wish(
        class_name=None if kind == BY_SEED else kind,
        seconds=seconds,
        seed=whole(seed, "seed", -1),
        quality=None if quality == OWN_QUALITY else quality,
        count=whole(count, "results", 1),
    )
