"""What the page allows, and what opening it to a network means.

options of the command -> `Bounds`, and sentences that are said at the start
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

from mmldm.errors import UserError

LOOPBACK = "127.0.0.1"
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
"""What a browser on this computer calls it."""
SHORTEST_PASSWORD = 8


@dataclass(frozen=True)
class Bounds:
    """What visitors may cost.

    Attributes:
        upload_mb: Megabytes of one file.
        uploads: Files that one visitor gives in the time for which they are kept.
        total_mb: Megabytes of all files that are given, of all visitors.
        seconds: Of a given file that are used, and of a clip that is made.
        results: Clips of one request.
        waiting: Requests of all visitors that may wait for their turn.
        clips: Of one visitor that are kept; the oldest go first.
        visitors: Whose clips are kept.
        kept_seconds: After which files are deleted.
        reading_seconds: Wall-clock time that reading one file may take.
    """

    upload_mb: int = 200
    uploads: int = 40
    total_mb: int = 8000
    seconds: float = 60.0
    results: int = 4
    waiting: int = 8
    clips: int = 100
    visitors: int = 100
    kept_seconds: float = 3600.0
    reading_seconds: float = 60.0

    def sentence(self) -> str:
        """For the page."""
        return (
            f"Files of up to {self.upload_mb} MB; {self.seconds:g} s of them are used. Clips of up to"
            f" {self.seconds:g} s, {self.results} at a time. One request is computed at once, and"
            f" {self.waiting} can wait. All files are deleted after {_span(self.kept_seconds)}."
        )


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this computer alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def exposure(host: str, port: int, share: bool, has_password: bool) -> list[str]:
    """Sentences on who can open the page, and what they then can do."""
    said = []
    who = []
    if not is_loopback(host):
        who.append(f"everybody who reaches port {port} of this computer over a network")
    if share:
        who.append("everybody who has the share link, through a server of gradio's makers")
    if not who:
        return [f"only this computer can open it ({host})"]
    can = "make clips with this model, on this computer, and upload files of their own"
    if has_password:
        said.append(f"{' and '.join(who)} can open it with the name and the password, and {can}")
    else:
        said.append(f"{' and '.join(who)} can open it without a password, and {can}")
        said.append("ask for one with --auth NAME:PASSWORD (or MMLDM_AUTH in the environment)")
    said.append("nobody can read other files of this computer, or another visitor's clips, by it")
    if not is_loopback(host):
        said.append(
            "what is sent is not encrypted: on a network that you do not trust, use a proxy with TLS"
        )
    return said


def password_check(auth: str | None) -> Callable[[str, str], bool] | None:
    """What tells who may enter; None: everybody.

    Args:
        auth: NAME:PASSWORD.

    Raises:
        UserError: It is not of that form, or the password is short.
    """
    if auth is None:
        return None
    name, colon, password = auth.partition(":")
    if not name or not colon or len(password) < SHORTEST_PASSWORD:
        raise UserError(
            f"--auth is NAME:PASSWORD, with a password of at least {SHORTEST_PASSWORD} characters"
        )
    wanted = [part.encode() for part in (name, password)]

    def may_enter(given_name: str, given_password: str) -> bool:
        given = [part.encode(errors="replace") for part in (given_name, given_password)]
        # Both are compared, and each in a time that does not tell how much of it is right.
        right = [hmac.compare_digest(a, b) for a, b in zip(given, wanted, strict=True)]
        return all(right)

    return may_enter


def _span(seconds: float) -> str:
    """An hour, or so many minutes."""
    minutes = max(1, round(seconds / 60))
    return "an hour" if minutes == 60 else f"{minutes} minute{'s' * (minutes > 1)}"
