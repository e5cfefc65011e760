"""The command that opens the page: `app`."""

from __future__ import annotations

import threading
from importlib.util import find_spec
from typing import Annotated

import typer

from mmldm.cli.terminal import DeviceOption, ModelOption, PrecisionOption, note, say
from mmldm.errors import UserError
from mmldm.pipelines.precision import choose_precision, require_precision, told

EXTRA = "the page needs gradio: pip install 'mmldm[app]'"


def app(
    model: ModelOption = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 opens the page to the network.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: the first free from 7860 on.")
    ] = None,
    auth: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:PASSWORD", envvar="MMLDM_AUTH", help="Who opens the page must know both."
        ),
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Also a link through a server of gradio's makers.")
    ] = False,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Opens no browser on this computer.")
    ] = False,
    upload_mb: Annotated[
        int, typer.Option(min=1, max=100_000, help="Megabytes of a file that is given, at most.")
    ] = 200,
    seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="Seconds of a clip, at most.")
    ] = 60.0,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
) -> None:
    """Opens a page in the browser: sounding clips without a terminal."""
    # Mistakes are told before a model is loaded.
    if find_spec("gradio") is None:
        raise UserError(EXTRA)
    from mmldm.app.safety import Bounds, exposure, password_check

    may_enter = password_check(auth)
    require_precision(precision)

    from mmldm.app.serving import Options, served
    from mmldm.cli.generate import load_model

    pipeline = load_model(model, device)
    used = choose_precision(precision, pipeline.device)
    bounds = Bounds(upload_mb=upload_mb, seconds=seconds)
    options = Options(host, port, share, may_enter, not no_browser)
    if used != "fp32":
        note(told(used))
    with served(pipeline, model, bounds, options, used) as page:
        say(f"the page is at {page.address}")
        if page.shared:
            say(f"and at {page.shared}")
        for sentence in exposure(host, page.port, share, may_enter is not None):
            note(sentence)
        say("Ctrl-C closes it, and deletes what was made on it")
        threading.Event().wait()
