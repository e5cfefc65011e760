"""`mmldm`: the command line. arguments -> the library; every command prints what it made and where.

Mistakes of the user print one sentence and exit with code 2. Heavy imports happen inside the commands.
"""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from mmldm import __version__
from mmldm.cli import data, generate, train
from mmldm.errors import UserError

app = typer.Typer(
    help="Sounding video generation: picture and sound together, from your own clips.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("scan")(data.scan)
app.command("synthesize")(data.synthesize)
app.command("train")(train.train)
app.command("generate")(generate.generate)
app.command("reconstruct")(generate.reconstruct)


@app.command()
def version() -> None:
    """Prints the version."""
    typer.echo(__version__)


def run() -> None:
    """Entry point of the console script."""
    try:
        app()
    except UserError as error:
        Console(stderr=True).print(f"mmldm: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)
    except OSError as error:
        # Disk full, no permission, a file that vanished: the system's own sentence names the file.
        Console(stderr=True).print(f"mmldm: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("mmldm: interrupted")
        sys.exit(130)


if __name__ == "__main__":
    run()
