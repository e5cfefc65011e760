"""Before the page: a name for each visitor, his own files alone, and no foreign page."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the extra is missing: pip install 'mmldm[app]'")

import httpx

from mmldm.app.gate import COOKIE, Gate
from mmldm.app.safety import Bounds
from mmldm.app.sittings import Entry, Result, Sittings

pytestmark = pytest.mark.app
HERE = "http://127.0.0.1:7860"


class Application:
    """Stands for gradio's: answers with what it saw, and takes uploads."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    async def __call__(self, scope, receive, send) -> None:
        answer = {"cookie": dict(scope["headers"]).get(b"cookie", b"").decode()}
        body = json.dumps(answer)
        if scope["path"].endswith("/upload"):
            self.count += 1
            path = self.folder / f"{self.count}.wav"
            path.write_text("x")
            body = json.dumps([str(path)])
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body.encode()})


@pytest.fixture
def sittings(tmp_path: Path):
    sittings = Sittings(Bounds(uploads=2), tmp_path)
    yield sittings
    sittings.close()


@pytest.fixture
def gate(sittings: Sittings, tmp_path: Path) -> Gate:
    sounds = tmp_path / "taps"
    sounds.mkdir()
    (sounds / "drum.wav").write_bytes(b"RIFF")
    return Gate(Application(sittings.uploads), sittings, sounds, local=True)


def client(gate: Gate, **options) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url=HERE, **options)


def run(work) -> None:
    """In a thread of its own: Playwright leaves a running loop in the tests' thread."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work()).result()


def test_each_visitor_gets_a_name_and_keeps_it(gate: Gate) -> None:
    async def work() -> None:
        async with client(gate) as ann, client(gate) as bob:
            first = await ann.get("/")
            assert "HttpOnly" in first.headers["set-cookie"]
            # The application sees the name in the same request.
            assert ann.cookies[COOKIE] in first.json()["cookie"]
            again = await ann.get("/")
            assert "set-cookie" not in again.headers
            await bob.get("/")
            assert ann.cookies[COOKIE] != bob.cookies[COOKIE]

    run(work)


def test_a_name_that_is_none_of_ours_is_replaced(gate: Gate) -> None:
    async def work() -> None:
        async with client(gate, headers={"cookie": f"{COOKIE}=short"}) as ann:
            assert "set-cookie" in (await ann.get("/")).headers

    run(work)


def test_clips_are_served_to_who_made_them(gate: Gate, sittings: Sittings) -> None:
    async def work() -> None:
        async with client(gate) as ann, client(gate) as bob:
            await ann.get("/")
            await bob.get("/")
            sitting = sittings.of(ann.cookies[COOKIE])
            result = Result(sitting.new_id(), sitting.folder, "", 1, None, 1.6)
            result.mp4.write_bytes(b"0123456789")
            sitting.add(Entry("", "", (result,), ()))
            address = f"/clips/{sitting.folder.name}/{result.mp4.name}"
            assert (await ann.get(address)).content == b"0123456789"
            # Players ask for parts.
            part = await ann.get(address, headers={"range": "bytes=2-4"})
            assert part.status_code == 206 and part.content == b"234"
            saved = await ann.get(address + "?download")
            assert "attachment" in saved.headers["content-disposition"]
            assert (await bob.get(address)).status_code == 404
            async with client(gate) as nobody:
                assert (await nobody.get(address)).status_code == 404

    run(work)


def test_uploads_belong_to_who_gave_them_and_are_counted(gate: Gate) -> None:
    async def work() -> None:
        async with client(gate) as ann, client(gate) as bob:
            await ann.get("/")
            await bob.get("/")
            (path,) = (await ann.post("/gradio_api/upload")).json()
            for form in (f"/gradio_api/file={path}", f"/gradio_api/file/{path}", f"/file={path}"):
                assert (await ann.get(form)).status_code == 200
                assert (await bob.get(form)).status_code == 403
            await ann.post("/gradio_api/upload")
            refused = await ann.post("/gradio_api/upload")
            assert refused.status_code == 429 and "too many files" in refused.text
            assert (await bob.post("/gradio_api/upload")).status_code == 200

    run(work)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../../etc/passwd",
        "/gradio_api/file=https://example.org/",
        "/gradio_api/file%3D/etc/passwd",
        "/clips/../../etc/passwd",
        "/clips/x/..%2f..%2fetc%2fpasswd",
    ],
)
def test_paths_from_outside_are_refused(gate: Gate, path: str) -> None:
    async def work() -> None:
        async with client(gate) as ann:
            answer = await ann.get(path)
            assert answer.status_code in (403, 404) or "cookie" in answer.text
            assert "root:" not in answer.text

    run(work)


def test_a_foreign_name_for_this_computer_is_refused(gate: Gate) -> None:
    async def work() -> None:
        async with client(gate, headers={"host": "evil.example:7860"}) as foreign:
            assert (await foreign.get("/")).status_code == 403
        for host in ("localhost:7860", "[::1]:7860", "127.0.0.1"):
            async with client(gate, headers={"host": host}) as local:
                assert (await local.get("/")).status_code == 200

    run(work)


def test_everybody_hears_the_pad(gate: Gate) -> None:
    async def work() -> None:
        async with client(gate) as ann:
            assert (await ann.get("/taps/drum.wav")).content == b"RIFF"
            assert (await ann.get("/taps/gong.wav")).status_code == 404

    run(work)
