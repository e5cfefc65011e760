"""Errors meant for the person at the keyboard: one sentence saying what is wrong, where, and what to do."""

import json

from mmldm.text import printable


class UserError(Exception):
    """A mistake in input, configuration or environment. The command line prints it and exits with code 2."""


class RefusedElsewhereError(UserError):
    """Rank 0 has refused and says why; this process has nothing to add and leaves, too."""


class MediaError(UserError):
    """A media file that cannot be used.

    Args:
        reason: Stable machine-readable code, for example `no_audio` (see docs/data.md for the list).
        message: One sentence for a person, naming the file.
    """

    def __init__(self, reason: str, message: str) -> None:
        # The name of a foreign file is in it.
        super().__init__(printable(message))
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, str(self))


def first_line(error: BaseException) -> str:
    """What went wrong, in one line: in our words for what people meet, else the library's; its class where
    it says nothing."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno} is not JSON"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().partition("\n")[0] or type(error).__name__
