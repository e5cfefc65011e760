"""The page itself: its tabs, and which button asks for what. The only file here that knows gradio's parts.

Studio, Line, Sittings -> gradio.Blocks. The same requests as an API are in `api`.
"""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from mmldm.app import showing
from mmldm.app.api import add_api
from mmldm.app.desk import Desk, Work, number
from mmldm.app.making import Only
from mmldm.app.parts import BY_SEED, Asks, Parts, visitor_of, wish_of
from mmldm.app.results import Wish
from mmldm.app.rhythm import INSTRUMENTS, MOST_TAPS, RHYTHMS
from mmldm.errors import UserError

TITLE = "mmldm: pictures that sound"
CHOOSING = "window.addEventListener('mm-use', event => trigger('click', {id: event.detail}));"
"""Of gradio's element: what our buttons say becomes an event of its own."""
ONLY: dict[str, Only | None] = {
    "picture and sound": None,
    "the sound alone": "sound",
    "the picture alone": "picture",
}


class Page(Parts):
    """Builds the page.

    Args:
        desk: Takes requests.
        name: Of the model, as it was named on the command line.
    """

    def __init__(self, desk: Desk, name: str | None) -> None:
        super().__init__(desk)
        with gr.Blocks(
            title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600), fill_width=False
        ) as self.blocks:
            about = "Short films whose picture and sound belong together. All is computed on this machine."
            gr.HTML(
                f"<header class='mm-title'><h1>{TITLE}</h1><p>{about}</p></header>", padding=False
            )
            # A button of a result says here which one is meant.
            self._choosing = gr.HTML(
                "<span></span>", js_on_load=CHOOSING, padding=False, elem_id="mm-choosing"
            )
            self._chosen = gr.State("")
            with gr.Tabs() as self._tabs:
                self._make_tab()
                self._sound_tab()
                self._picture_tab()
                self._continue_tab()
                self._reconstruct_tab()
                self._history_tab()
                with gr.Tab("About", id="about"):
                    gr.Markdown(showing.about(self._pipeline, name, self._bounds))
            add_api(desk)

    # The tabs.

    def _make_tab(self) -> None:
        with gr.Tab("Make", id="make"):
            with gr.Row():
                kind = self.class_choice()
                seconds = gr.Number(
                    value=self._spec.duration,
                    minimum=round(1 / self._spec.fps, 3),
                    maximum=self._bounds.seconds,
                    step=0.1,
                    label="Seconds",
                    info=f"of each clip, up to {self._bounds.seconds:g}",
                )
                seed, quality, count = self.settings()
            run = self.buttons("Make")
            # Two of the model's classes; of a model without, whatever it makes.
            kinds: list[str | None] = [*self._pipeline.class_names[:2]] or [None]
            with gr.Row():
                quick = [
                    (gr.Button(f"Example: {one or 'any'}, 5 seconds", size="sm"), one)
                    for one in kinds
                ]
            out = self.results("make")

        def asks(visitor: str, kind: str, seconds: Any, *rest: Any) -> Work:
            return self.desk.make(wish_of(kind, number(seconds, "seconds"), *rest))

        def example(one: str | None) -> Asks:
            wish = Wish(class_name=one, seconds=min(5.0, self._bounds.seconds), seed=1)
            return lambda visitor: self.desk.make(wish)

        self.job(run, asks, [kind, seconds, seed, quality, count], out)
        for button, one in quick:
            self.job(button, example(one), [], out)

    def _sound_tab(self) -> None:
        with gr.Tab("Sound to picture", id="sound"):
            gr.Markdown(
                "Tap a rhythm, or give a sound. It stays as it is, and pictures are made for it."
            )
            with gr.Row():
                with gr.Column():
                    gr.HTML(_pad(), padding=False)
                    taps = gr.Textbox(
                        elem_id="mm-taps", visible="hidden", label="taps", container=False
                    )
                    tap_run = gr.Button("Make pictures for this rhythm", variant="primary")
                    with gr.Row():
                        examples = [
                            (gr.Button(f"Example: {name}", size="sm", min_width=180), name)
                            for name in RHYTHMS
                        ]
                with gr.Column():
                    sound = gr.Audio(
                        sources=["upload", "microphone"],
                        type="filepath",
                        label="A sound file, or the microphone",
                        buttons=[],
                        editable=False,
                        elem_id="mm-sound",
                    )
                    start, end = self.part()
                    used = gr.HTML(padding=False)
                    run = gr.Button("Make pictures for this sound", variant="primary")
            with gr.Row():
                kind = self.class_choice()
                seed, quality, count = self.settings()
            self.stop_button()
            out = self.results("sound")

        def asks(
            visitor: str, path: str | None, start: Any, end: Any, kind: str, *rest: Any
        ) -> Work:
            given = self.desk.given(visitor, path, start, end)
            return self.desk.for_given(given, "audio", wish_of(kind, None, *rest))

        def asks_tapped(visitor: str, tapped: str, kind: str, *rest: Any) -> Work:
            return self.desk.rhythm(visitor, *_tapped(tapped), wish_of(kind, None, *rest))

        def example(name: str) -> Asks:
            return lambda visitor: self.desk.rhythm(visitor, *RHYTHMS[name], Wish(seed=1), name)

        settings = [kind, seed, quality, count]
        self.look(sound, start, end, used, "audio")
        self.job(run, asks, [sound, start, end, *settings], out)
        self.job(tap_run, asks_tapped, [taps, *settings], out)
        for button, name in examples:
            self.job(button, example(name), [], out)

    def _picture_tab(self) -> None:
        with gr.Tab("Picture to sound", id="picture"):
            gr.Markdown(
                "Give a film, silent or not. Its picture stays as it is, and sounds are made for it."
            )
            with gr.Row():
                film = gr.Video(
                    sources=["upload", "webcam"],
                    label="A film, or the webcam",
                    buttons=[],
                    elem_id="mm-film",
                )
                with gr.Column():
                    start, end = self.part()
                    used = gr.HTML(padding=False)
                    kind = self.class_choice()
                    with gr.Row():
                        seed, quality, count = self.settings()
            run = self.buttons("Make sounds for this picture")
            example = gr.Button("Example: a silent ball", size="sm")
            out = self.results("picture")

        def asks(
            visitor: str, path: str | None, start: Any, end: Any, kind: str, *rest: Any
        ) -> Work:
            given = self.desk.given(visitor, path, start, end)
            return self.desk.for_given(given, "video", wish_of(kind, None, *rest))

        self.look(film, start, end, used, "video")
        inputs = [film, start, end, kind, seed, quality, count]
        self.job(run, asks, inputs, out)
        shown = example.click(
            self._example_film, None, [film], api_visibility="private", queue=False
        )
        self.job(shown.success, asks, inputs, out)

    def _continue_tab(self) -> None:
        with gr.Tab("Go on, redo", id="continue"):
            gr.Markdown("Choose a result on another tab (*Go on*), or give a film of your own.")
            with gr.Row():
                with gr.Column():
                    shown = gr.HTML("<p class='mm-empty'>No clip is chosen yet.</p>", padding=False)
                    film = gr.Video(
                        sources=["upload"], label="Or a film of your own", buttons=[],
                        elem_id="mm-own",
                    )  # fmt: skip
                with gr.Column():
                    more = gr.Number(
                        value=2 * self._spec.duration, minimum=0.1, step=0.1,
                        maximum=self._bounds.seconds, label="Seconds to add",
                    )  # fmt: skip
                    extend = gr.Button("Go on from this", variant="primary")
                    with gr.Row():
                        # About the second third of a clip as the model makes them.
                        third = self._spec.duration / 3
                        begin, end = (
                            gr.Number(value=round(at, 1), minimum=0, step=0.1, label=label)
                            for at, label in (
                                (third, "Redo from second"),
                                (2 * third, "Redo to second"),
                            )
                        )
                    only = gr.Radio(list(ONLY), value=next(iter(ONLY)), label="What is made anew")
                    redo = gr.Button("Redo this part", variant="primary")
                    with gr.Row():
                        seed, quality, count = self.settings(2)
            self.stop_button()
            out = self.results("continue")

        def choose(meant: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
            try:
                result = self.desk.result(visitor_of(request), str(meant.id))
            except UserError as error:
                return showing.trouble(str(error)), gr.skip(), gr.skip(), gr.skip()
            return showing.preview(result), None, gr.Tabs(selected="continue"), result.id

        self._choosing.click(
            choose, None, [shown, film, self._tabs, self._chosen], queue=False,
            api_visibility="private", show_progress="hidden",
        )  # fmt: skip
        own = "<p class='mm-empty'>The film of your own is taken.</p>", ""
        film.upload(
            lambda: own, None, [shown, self._chosen], queue=False, api_visibility="private",
        )  # fmt: skip

        def asks_extend(visitor: str, chosen: str, path: str | None, more: Any, *rest: Any) -> Work:
            clip = self.desk.given_or_result(visitor, path, chosen)
            return self.desk.extend(clip, wish_of(BY_SEED, number(more, "seconds to add"), *rest))

        def asks_redo(
            visitor: str, chosen: str, path: str | None, begin: Any, end: Any, only: str, *rest: Any
        ) -> Work:
            clip = self.desk.given_or_result(visitor, path, chosen)
            part = number(begin, "redo from second") or 0.0, number(end, "redo to second") or 0.0
            return self.desk.retake(clip, part, ONLY[only], wish_of(BY_SEED, None, *rest))

        settings = [seed, quality, count]
        self.job(extend, asks_extend, [self._chosen, film, more, *settings], out)
        self.job(redo, asks_redo, [self._chosen, film, begin, end, only, *settings], out)

    def _reconstruct_tab(self) -> None:
        with gr.Tab("Reconstruct", id="reconstruct"):
            gr.Markdown(
                "What the model's autoencoder keeps of a film with sound. What is not kept cannot be made."
            )
            with gr.Row():
                film = gr.Video(
                    sources=["upload"], label="A film with sound", buttons=[], elem_id="mm-kept"
                )
                with gr.Column():
                    start, end = self.part()
                    used = gr.HTML(padding=False)
            run = self.buttons("Show what is kept")
            example = gr.Button("Example: a glass ball", size="sm")
            out = self.results("reconstruct")

        def asks(visitor: str, path: str | None, start: Any, end: Any) -> Work:
            return self.desk.reconstruct(self.desk.given(visitor, path, start, end))

        self.look(film, start, end, used, None)
        self.job(run, asks, [film, start, end], out)
        shown = example.click(
            self._example_clip, None, [film], api_visibility="private", queue=False
        )
        self.job(shown.success, asks, [film, start, end], out)

    def _history_tab(self) -> None:
        with gr.Tab("History", id="history") as tab:
            past = gr.HTML(padding=False)

        def entries(request: gr.Request) -> str:
            return showing.history(self.desk.entries(visitor_of(request)), self._bounds)

        quiet: dict[str, Any] = {
            "queue": False,
            "api_visibility": "private",
            "show_progress": "hidden",
        }
        tab.select(entries, None, [past], **quiet)
        self.blocks.load(entries, None, [past], **quiet)

    def _example_film(self, request: gr.Request) -> str:
        return self._example(request, silent=True)

    def _example_clip(self, request: gr.Request) -> str:
        return self._example(request, silent=False)

    def _example(self, request: gr.Request, silent: bool) -> str:
        try:
            return str(self.desk.example(visitor_of(request), silent))
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None


def _tapped(tapped: str) -> tuple[str, list[float]]:
    """Instrument and taps, as the pad writes them down."""
    try:
        stated = json.loads(tapped[: 40 * MOST_TAPS]) if tapped else {}
    except ValueError:
        stated = {}
    if not isinstance(stated, dict):
        stated = {}
    taps = stated.get("taps", [])
    return str(stated.get("instrument", "drum")), taps if isinstance(taps, list) else []


def _pad() -> str:
    """The pad, and which instrument it strikes."""
    choices = "".join(
        f"<label><input type='radio' name='mm-instrument' value='{name}'"
        f"{' checked' * (name == 'drum')}> {name}</label>"
        for name in INSTRUMENTS
    )
    return (
        "<button type='button' class='mm-pad' aria-label='Tap pad: tap it, or press the space bar'>"
        "Tap here<br><small>or press the space bar</small></button>"
        "<div class='mm-taps' aria-hidden='true'></div>"
        f"<div class='mm-pad-row' role='group' aria-label='Instrument'>{choices}"
        "<button type='button' class='mm-hear'>Listen</button>"
        "<button type='button' class='mm-clear'>Clear</button>"
        "<span class='mm-count' role='status'>nothing tapped yet</span></div>"
    )
