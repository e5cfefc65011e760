"""The page's requests as an API, for `gradio_client`; docs/page.md has an example.

values -> files (mp4 of each clip) and facts (seeds, classes, sentences)
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from mmldm.app.desk import Desk, Work, number, whole
from mmldm.app.gate import COOKIE
from mmldm.app.results import Wish
from mmldm.app.sittings import Entry
from mmldm.errors import UserError

AT_ONCE = 24


def add_api(desk: Desk) -> None:
    """Adds the endpoints to the page that is being built."""

    def answered(request: gr.Request, work: Work) -> tuple[list[str], dict[str, Any]]:
        """Waits for a job; what it made, as files of the visitor's own."""
        visitor = str(request.cookies[COOKIE])
        job = desk.submit(visitor, work)
        try:
            while not job.wait(1.0):
                pass
        finally:
            job.stop()  # of a client that has gone
        if job.entry is None:
            raise UserError("stopped" if job.stopped else job.error or "nothing was made")
        return _files(desk, visitor, job.entry), _facts(job.entry)

    def wish(class_name: str, seconds: Any, seed: Any, quality: str, results: Any) -> Wish:
        return Wish(
            class_name or None,
            number(seconds, "seconds"),
            whole(seed, "seed", -1),
            quality or None,
            whole(results, "results", 1),
        )

    def make(
        class_name: str, seconds: float | None, seed: float | None, quality: str,
        results: float | None, request: gr.Request,
    ) -> tuple[list[str], dict[str, Any]]:  # fmt: skip
        """Clips from nothing."""
        return answered(request, desk.make(wish(class_name, seconds, seed, quality, results)))

    def for_sound(
        sound: str, start: float | None, end: float | None, class_name: str, seed: float | None,
        quality: str, results: float | None, request: gr.Request,
    ) -> tuple[list[str], dict[str, Any]]:  # fmt: skip
        """Pictures for a sound, which stays as it is."""
        given = desk.given(str(request.cookies[COOKIE]), sound, start, end)
        asked = wish(class_name, None, seed, quality, results)
        return answered(request, desk.for_given(given, "audio", asked))

    def for_taps(
        taps: list[float], instrument: str, class_name: str, seed: float | None, quality: str,
        results: float | None, request: gr.Request,
    ) -> tuple[list[str], dict[str, Any]]:  # fmt: skip
        """Pictures for a tapped rhythm: seconds of its taps."""
        asked = wish(class_name, None, seed, quality, results)
        visitor = str(request.cookies[COOKIE])
        return answered(request, desk.rhythm(visitor, instrument, taps, asked))

    def for_picture(
        film: str, start: float | None, end: float | None, class_name: str, seed: float | None,
        quality: str, results: float | None, request: gr.Request,
    ) -> tuple[list[str], dict[str, Any]]:  # fmt: skip
        """Sounds for a picture, which stays as it is."""
        given = desk.given(str(request.cookies[COOKIE]), film, start, end)
        asked = wish(class_name, None, seed, quality, results)
        return answered(request, desk.for_given(given, "video", asked))

    def extend(
        clip: str, seconds: float | None, seed: float | None, quality: str, results: float | None,
        request: gr.Request,
    ) -> tuple[list[str], dict[str, Any]]:  # fmt: skip
        """A clip, and so many seconds more."""
        given = desk.given(str(request.cookies[COOKIE]), clip, None, None)
        return answered(request, desk.extend(given, wish("", seconds, seed, quality, results)))

    def retake(
        clip: str, start: float | None, end: float | None, only: str, seed: float | None,
        quality: str, results: float | None, request: gr.Request,
    ) -> tuple[list[str], dict[str, Any]]:  # fmt: skip
        """A clip of which a part is made anew; only: "sound", "picture" or "" for both."""
        given = desk.given(str(request.cookies[COOKIE]), clip, None, None)
        if only not in ("", "sound", "picture"):
            raise UserError("only is sound, picture, or empty for both")
        part = number(start, "start") or 0.0, number(end, "end") or 0.0
        asked = wish("", None, seed, quality, results)
        return answered(request, desk.retake(given, part, only or None, asked))  # type: ignore[arg-type]

    def reconstruct(
        clip: str, start: float | None, end: float | None, request: gr.Request
    ) -> tuple[list[str], dict[str, Any]]:
        """What the autoencoder keeps of a clip: the clip as the model reads it, and what is kept."""
        given = desk.given(str(request.cookies[COOKIE]), clip, start, end)
        return answered(request, desk.reconstruct(given))

    with gr.Column(visible=False):
        file = gr.File(type="filepath", label="file")
        text, second, third = (gr.Textbox(label=name) for name in ("text", "second", "third"))
        numbers = [gr.Number(value=None, label=f"number {i}") for i in range(4)]
        listed = gr.JSON(label="taps")
        files, facts = gr.File(file_count="multiple", label="clips"), gr.JSON(label="facts")
        trigger = gr.Button("call")
    first, another, seed, count = numbers
    of_clips = [seed, second, count]
    endpoints = {
        make: [text, first, *of_clips],
        for_sound: [file, first, another, text, *of_clips],
        for_taps: [listed, third, text, *of_clips],
        for_picture: [file, first, another, text, *of_clips],
        extend: [file, first, *of_clips],
        retake: [file, first, another, text, *of_clips],
        reconstruct: [file, first, another],
    }
    for call, inputs in endpoints.items():
        trigger.click(
            _with_sentences(call), inputs, [files, facts], api_name=call.__name__,
            concurrency_limit=AT_ONCE, concurrency_id="jobs",
        )  # fmt: skip


def _with_sentences(call: Any) -> Any:
    """The call, whose refusals reach the client as sentences."""
    import functools

    @functools.wraps(call)
    def told(*values: Any, **named: Any) -> Any:
        try:
            return call(*values, **named)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return told


def _files(desk: Desk, visitor: str, entry: Entry) -> list[str]:
    """An entry's films, once more by name, where gradio serves a visitor's own files from."""
    copies = []
    for result in entry.every:
        copy = desk.own_file(visitor, result.mp4.name)
        copy.hardlink_to(result.mp4)
        copies.append(str(copy))
    return copies


def _facts(entry: Entry) -> dict[str, Any]:
    """What is known of an entry."""
    return {
        "title": entry.title,
        "settings": entry.settings,
        "said": list(entry.said),
        "clips": [
            {"seed": one.seed, "class": one.class_name, "seconds": one.seconds}
            for one in entry.every
        ],
        "alike": [[one.seed, *(other.seed for other in one.alike)] for one in entry.results],
    }
