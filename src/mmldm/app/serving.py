"""The page's server: it begins, says who can open it, and takes everything with it when it ends.

pipeline, options -> address
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware

from mmldm.app.desk import Desk
from mmldm.app.gate import Gate
from mmldm.app.jobs import Line
from mmldm.app.making import Studio
from mmldm.app.rhythm import INSTRUMENTS, RATE, one_tap
from mmldm.app.safety import LOOPBACK, Bounds, is_loopback
from mmldm.app.sittings import Sittings
from mmldm.errors import UserError
from mmldm.media.writer import write_wav
from mmldm.pipelines.precision import Precision
from mmldm.pipelines.sounding_video import SoundingVideoPipeline

STATIC = Path(__file__).parent / "static"
IN_LINE = 64
"""Events that gradio keeps waiting; our own line is shorter, and says so."""


@dataclass(frozen=True)
class Options:
    """How the page is opened.

    Attributes:
        host: Address that is listened on.
        port: None: the first that is free from 7860 on.
        share: A link through a server of gradio's makers.
        may_enter: Name and password -> whether they are right; None: everybody may.
        open_browser: On this computer.
    """

    host: str = LOOPBACK
    port: int | None = None
    share: bool = False
    may_enter: Callable[[str, str], bool] | None = None
    open_browser: bool = False


@dataclass(frozen=True)
class Served:
    """A page that is open.

    Attributes:
        address: For a browser on this computer.
        shared: The share link; None: there is none.
        port: That is listened on.
        desk: Where its requests come in.
    """

    address: str
    shared: str | None
    port: int
    desk: Desk


@contextmanager
def served(
    pipeline: SoundingVideoPipeline,
    name: str | None,
    bounds: Bounds,
    options: Options,
    precision: Precision = "fp32",
) -> Iterator[Served]:
    """A page for one model, while the context lasts; all files go with it.

    Args:
        name: Of the model, as it was named; None: the bundled one.
        precision: In which it samples.

    Raises:
        UserError: The port is taken.
    """
    # Before gradio looks at it: no word to its makers, and files where we delete them.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with ExitStack() as stack:
        sittings = Sittings(bounds)
        stack.callback(sittings.close)
        os.environ["GRADIO_TEMP_DIR"] = str(sittings.uploads)
        studio = Studio(pipeline, name, bounds, precision)
        stack.callback(studio.close)
        line = Line(bounds.waiting)
        stack.callback(line.close)
        sounds = sittings.root / "taps"
        for instrument in INSTRUMENTS:
            write_wav(sounds / f"{instrument}.wav", one_tap(instrument), RATE)

        from mmldm.app.page import Page

        desk = Desk(studio, line, sittings)
        blocks = Page(desk, name).blocks
        blocks.queue(max_size=IN_LINE, default_concurrency_limit=1)
        local = is_loopback(options.host) and not options.share
        gate = Middleware(Gate, sittings=sittings, sounds=sounds, local=local)
        stack.callback(blocks.close, verbose=False)
        app, address, shared = _launched(blocks, bounds, options, gate)
        yield Served(address, shared, blocks.server_port, desk)


def _launched(
    blocks: Any, bounds: Bounds, options: Options, gate: Middleware
) -> tuple[Any, str, str | None]:
    """Opens the port."""
    import gradio as gr

    # Fonts of the system: others would be fetched.
    fonts = ["system-ui", "sans-serif"]
    theme = gr.themes.Soft(
        primary_hue="orange", secondary_hue="purple", neutral_hue="slate", font=fonts,
        font_mono=["ui-monospace", "monospace"],
    ).set(
        block_title_background_fill="transparent", block_title_text_color="*body_text_color",
        block_title_padding="0", block_label_background_fill="*block_background_fill",
        block_label_text_color="*body_text_color",
    )  # fmt: skip
    script = (STATIC / "page.js").read_text(encoding="utf-8")
    launched: tuple[Any, str, str | None]
    try:
        launched = blocks.launch(
            prevent_thread_lock=True,
            quiet=True,
            inbrowser=options.open_browser,
            share=options.share,
            server_name=options.host,
            server_port=options.port,
            auth=options.may_enter,
            max_file_size=f"{bounds.upload_mb}mb",
            show_error=False,
            ssr_mode=False,
            footer_links=["api"],
            app_kwargs={"middleware": [gate]},
            # It would give its own page three seconds to answer, which a busy machine may not.
            _frontend=False,
            theme=theme,
            css=(STATIC / "page.css").read_text(encoding="utf-8"),
            head=f"<script>{script}</script>",
        )
    except OSError as error:
        port = options.port or 7860
        raise UserError(
            f"port {port} of {options.host} cannot be opened: another program has it; choose another --port"
        ) from error
    return launched
