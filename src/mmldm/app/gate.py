"""Before the page: who a visitor is, and that he is served his own files alone.

request -> cookie -> visitor; clips of a sitting, sounds of the pad -> bytes; foreign paths -> a refusal
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.responses import FileResponse, PlainTextResponse, Response

from mmldm.app.safety import LOCAL_NAMES
from mmldm.app.sittings import Sittings

COOKIE = "mmldm_visitor"
FORM = re.compile(r"[A-Za-z0-9_-]{32}")
CLIP = re.compile(r"/clips/([A-Za-z0-9_-]+)/([a-z0-9_.]+)")
SOUND = re.compile(r"/taps/([a-z]+\.wav)")
FILE = re.compile(r"/file[=/](.*)", re.DOTALL)
"""Where gradio serves files."""
SAME_SITE = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "connect-src 'self' data: blob: ws: wss:; frame-ancestors 'self'"
)
"""Browsers fetch nothing from elsewhere, whatever a page says."""
TOO_MANY = (
    "these are too many files: those that you gave are deleted after a while; try again later"
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Gate:
    """Middleware around gradio's application.

    Args:
        app: The application.
        sittings: Of the visitors.
        sounds: Folder of the pad's sounds, which everybody may hear.
        local: Whether only this computer's own names for itself are answered, so that no foreign page
            reaches it under a name of its own.
    """

    def __init__(self, app: Any, sittings: Sittings, sounds: Path, local: bool) -> None:
        self._app, self._sittings, self._sounds, self._local = app, sittings, sounds, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._local and _host(scope) not in LOCAL_NAMES:
            answer = PlainTextResponse("this page is for this computer alone", 403)
            await answer(scope, receive, send)
            return

        # A new visitor gets a name that nobody can guess; this request has it already.
        visitor, new = visitor_of(scope), False
        if visitor is None:
            visitor, new = secrets.token_urlsafe(24), True
            _give_cookie(scope, visitor)
        name = visitor

        async def send_on(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                headers.append((b"content-security-policy", SAME_SITE.encode()))
                headers.append((b"x-content-type-options", b"nosniff"))
                headers.append((b"referrer-policy", b"same-origin"))
                if new:
                    cookie = f"{COOKIE}={name}; Path=/; HttpOnly; SameSite=Lax"
                    headers.append((b"set-cookie", cookie.encode()))
                message["headers"] = headers
            await send(message)

        path = unquote(scope["path"])
        answered = self._own_answer(scope, path, name)
        if answered is not None:
            await answered(scope, receive, send_on)
        elif scope["method"] == "POST" and path.endswith("/upload"):
            await self._uploaded(scope, receive, send_on, name)
        else:
            await self._app(scope, receive, send_on)

    def _own_answer(self, scope: Scope, path: str, visitor: str) -> Response | None:
        """What is answered here; None: gradio answers."""
        if (found := CLIP.search(path)) is not None:
            file = self._sittings.clip_file(visitor, found[1], found[2])
            if file is None:
                return PlainTextResponse("there is no such clip, or not any more", 404)
            download = b"download" in scope.get("query_string", b"")
            kind = "attachment" if download else "inline"
            return FileResponse(
                file,
                filename=f"mmldm_{file.name}" if download else None,
                content_disposition_type=kind,
                headers={"Cache-Control": "private, max-age=3600"},
            )
        if (found := SOUND.search(path)) is not None:
            file = self._sounds / found[1]
            return FileResponse(file) if file.is_file() else PlainTextResponse("no such sound", 404)
        if (found := FILE.search(path)) is not None and not self._sittings.is_own(
            visitor, found[1]
        ):
            return PlainTextResponse("this file is not yours, or not there any more", 403)
        return None

    async def _uploaded(self, scope: Scope, receive: Receive, send: Send, visitor: str) -> None:
        """Lets gradio take files, and notes whose they are."""
        if not self._sittings.may_upload(visitor):
            await PlainTextResponse(TOO_MANY, 429)(scope, receive, send)
            return
        status, body = 0, b""

        async def send_on(message: MutableMapping[str, Any]) -> None:
            nonlocal status, body
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                body += message.get("body", b"")
                # Before the visitor knows the path.
                if status == 200 and not message.get("more_body", False):
                    for path in _paths(body):
                        self._sittings.own(visitor, path)
            await send(message)

        await self._app(scope, receive, send_on)


def visitor_of(scope: Scope) -> str | None:
    """Who asks, as his cookie says; None: he has none of our form."""
    for key, value in scope["headers"]:
        if key == b"cookie":
            try:
                cookie = SimpleCookie(value.decode("latin-1")).get(COOKIE)
            except CookieError:
                continue
            if cookie is not None and FORM.fullmatch(cookie.value):
                return cookie.value
    return None


def _give_cookie(scope: Scope, visitor: str) -> None:
    """Puts a name into a request that has none, in one line with cookies of other pages."""
    others = [value for key, value in scope["headers"] if key == b"cookie"]
    rest = [header for header in scope["headers"] if header[0] != b"cookie"]
    line = b"; ".join([f"{COOKIE}={visitor}".encode(), *others])
    scope["headers"] = [*rest, (b"cookie", line)]


def _host(scope: Scope) -> str:
    """What the browser calls this computer, without the port."""
    for key, value in scope["headers"]:
        if key == b"host":
            host = value.decode("latin-1").lower()
            bracketed = re.match(r"\[([^\]]*)\]", host)
            return bracketed[1] if bracketed else host.partition(":")[0]
    return ""


def _paths(body: bytes) -> list[str]:
    """Paths that an upload's answer lists."""
    try:
        listed = json.loads(body)
    except ValueError:
        return []
    return [path for path in listed if isinstance(path, str)] if isinstance(listed, list) else []
