"""`mmldm`: the command line. Arguments -> the library; every command prints what it made and where.

Results go to standard output, progress and complaints to standard error. A person's mistake is one
sentence and exit code 2, an interrupt (SIGINT, SIGTERM) exit code 130. Heavy imports happen inside the
commands.
"""

from __future__ import annotations

import signal
import sys
import threading
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mmldm import __version__
from mmldm.cli import app as page
from mmldm.cli import benchmark, data, evaluate, extend, generate, reconstruct, train
from mmldm.errors import RefusedElsewhereError, UserError
from mmldm.text import printable_lines


class Commands(TyperGroup):
    """Turns what a person can mend into a sentence; a fault of the program keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # The reader of our output left; typer ends quietly.
        except RefusedElsewhereError:
            raise typer.Exit(2) from None
        except UserError as error:
            _fail(str(error))
        except OSError as error:
            # Disk full, no permission, a file that vanished.
            where = f"{error.filename}: " if error.filename else ""
            _fail(f"{where}{error.strerror or error}")
        except (MemoryError, RuntimeError) as error:
            # torch has a RuntimeError for memory, too; any other is a fault of the program.
            text = str(error)
            signs = ("out of memory", "allocate memory", "not enough memory")
            if not isinstance(error, MemoryError) and not any(sign in text for sign in signs):
                raise
            first = text.partition("\n")[0] or "there is too little"
            _fail(f"out of memory ({first}): use a smaller batch_size or fewer clips at once")
        except KeyboardInterrupt as interrupt:
            # Work that leaves something behind says what.
            left = f": {printable_lines(str(interrupt))}" if str(interrupt) else ""
            typer.echo(f"mmldm: interrupted{left}", err=True)
            raise typer.Exit(130) from None
        return None


def _fail(sentence: str) -> None:
    # A name in it may hold a newline: no further line looks like one of ours.
    text = printable_lines(sentence).replace("\n", "\n  ")
    typer.secho(f"mmldm: {text}", fg="red", err=True)
    raise typer.Exit(2) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("distill")(train.distill)
app.command("generate")(generate.generate)
app.command("extend")(extend.extend)
app.command("retake")(extend.retake)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("evaluate")(evaluate.evaluate)
app.command("app")(page.app)
app.command("scan")(data.scan)
app.command("synthesize")(data.synthesize)
app.command("benchmark")(benchmark.benchmark)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Prints the version."
        ),
    ] = False,
) -> None:
    """Sounding video generation: picture and sound together, from your own clips."""


def run() -> None:
    """Entry point of the console script."""
    if sys.platform == "win32":
        sys.stderr.write("mmldm: Windows is not supported: use Linux, macOS, or WSL\n")
        sys.exit(2)
    # Results may go to a file or a terminal of any encoding.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A file name need not be valid text.
            stream.reconfigure(errors="backslashreplace")
    # What asked for SIGTERM to be ignored, or to be its own, keeps that.
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _asked_to_end)
    before, threading.excepthook = threading.excepthook, _thread_failed
    try:
        app(prog_name="mmldm")
    finally:
        threading.excepthook = before


def _asked_to_end(number: int, frame: Any) -> None:
    """SIGTERM ends a command as an interrupt does: what it began, a file or a process, ends with it."""
    raise KeyboardInterrupt


def _thread_failed(failure: Any) -> None:
    """TensorBoard writes in a thread of its own, which dies loudly when the disk is full."""
    if isinstance(failure.exc_value, OSError):
        typer.echo(f"a writer stopped: {failure.exc_value}", err=True)
    else:
        threading.__excepthook__(failure)


if __name__ == "__main__":
    run()
