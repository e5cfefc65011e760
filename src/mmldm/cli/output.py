"""What goes out: a folder asked before minutes of work, words that no terminal obeys, no foreign chatter."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from mmldm.errors import UserError
from mmldm.text import printable_lines


def require_writable(folder: Path) -> None:
    """Checks a folder that exists, or the nearest one above it that does.

    Raises:
        UserError: A file is in the way, or the folder may not be written to.
    """
    nearest = folder.absolute()
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UserError(
            f"cannot write into {folder}: {nearest} is not a folder; choose another --out."
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(
            f"cannot write into {folder}: no permission in {nearest}; choose another --out."
        )


def say(text: str) -> None:
    """Prints a result. Names of foreign files in it move no cursor."""
    typer.echo(printable_lines(text))


def silence_diffusers() -> None:
    """Turns off its warnings and progress bars: the command line has its own."""
    from diffusers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
