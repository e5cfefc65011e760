"""Foreign files may not open other files or sockets, nor pass for what they are not."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mmldm.errors import MediaError
from mmldm.media.container import Limits
from mmldm.media.probe import probe
from mmldm.media.reader import read_audio, read_clip, read_frames
from mmldm.types import ClipSpec

pytestmark = pytest.mark.slow

SPEC = ClipSpec(height=16, width=16)
READERS: dict[str, Callable[[Path], Any]] = {
    "probe": probe,
    "read_clip": lambda path: read_clip(path, 0.0, SPEC),
    "read_audio": lambda path: read_audio(path, SPEC),
    "read_frames": lambda path: read_frames(path, SPEC),
}
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n"


@pytest.fixture()
def listener() -> Iterator[tuple[int, Callable[[], int]]]:
    """A local port, and a function that closes it and says how many connections it had."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.05)
    hits: list[object] = []

    def accept() -> None:
        while True:
            last = stop.is_set()  # whoever connected before that waits in the queue now
            try:
                connection, address = server.accept()
            except TimeoutError:
                if last:
                    return
                continue
            hits.append(address)
            connection.close()

    def count() -> int:
        stop.set()
        thread.join()
        return len(hits)

    stop = threading.Event()
    thread = threading.Thread(target=accept)
    thread.start()
    yield server.getsockname()[1], count
    count()
    server.close()


def test_the_listener_notices_a_connection(listener: tuple[int, Callable[[], int]]) -> None:
    port, count = listener
    socket.create_connection(("127.0.0.1", port)).close()
    assert count() == 1


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4"])
def test_a_playlist_opens_no_socket(
    tmp_path: Path, listener: tuple[int, Callable[[], int]], reader: str, name: str
) -> None:
    port, count = listener
    path = tmp_path / name
    path.write_text(PLAYLIST.format(target=f"http://127.0.0.1:{port}/a.ts"))
    with pytest.raises(MediaError) as caught:
        READERS[reader](path)
    assert caught.value.reason in ("format_not_allowed", "unreadable")
    assert count() == 0


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("name", "script"),
    [("a.mp4", "ffconcat version 1.0\nfile {target}\n"), ("a.m3u8", PLAYLIST)],
)
def test_a_script_does_not_open_its_sibling(
    tmp_path: Path, write_flash_click: Callable[..., Path], reader: str, name: str, script: str
) -> None:
    """The sibling is a good file: opening it would succeed."""
    write_flash_click(tmp_path / "sibling.ts", "mpeg4", "mp2")
    path = tmp_path / name
    path.write_text(script.format(target="sibling.ts"))
    with pytest.raises(MediaError) as caught:
        READERS[reader](path)
    assert caught.value.reason == "format_not_allowed"


@pytest.mark.parametrize("name", ["http:evil.mp4", "concat:a|b.mp4", "-vf.mp4", "pipe:0.mp4"])
def test_a_file_name_cannot_choose_the_protocol(
    tmp_path: Path,
    write_flash_click: Callable[..., Path],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_flash_click(tmp_path / "plain.mp4", "libx264", "aac").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert probe(name).num_frames == 300


def test_a_pipe_is_refused_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(MediaError, match="not a file"):
        probe(tmp_path / "pipe.mp4")


@pytest.mark.parametrize("reader", READERS)
def test_missing_file_is_named(reader: str) -> None:
    with pytest.raises(MediaError, match=r"nowhere\.mp4") as caught:
        READERS[reader](Path("nowhere.mp4"))
    assert caught.value.reason == "unreadable"


def test_pixels_are_capped_from_the_header(
    tmp_path: Path, write_flash_click: Callable[..., Path]
) -> None:
    path = write_flash_click(tmp_path / "a.mp4", "libx264", "aac")
    limits = Limits(max_pixels=64 * 48 - 1)
    for read in (lambda: probe(path, limits), lambda: read_clip(path, 0.0, SPEC, limits)):
        with pytest.raises(MediaError, match="64x48") as caught:
            read()
        assert caught.value.reason == "too_large"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_in_the_sound_are_found(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        video = output.add_stream("mpeg4", rate=10)
        video.width = video.height = 16
        audio = output.add_stream("pcm_f32le", rate=16000, layout="mono")
        samples = np.zeros((1, 48000), np.float32)
        samples[0, 9000] = bad
        sound = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        sound.sample_rate = 16000
        output.mux(audio.encode(sound))
        for _ in range(30):
            picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            output.mux(video.encode(picture))
        output.mux(video.encode(None))
    for read in (lambda: probe(path), lambda: read_clip(path, 0.0, SPEC)):
        with pytest.raises(MediaError) as caught:
            read()
        assert caught.value.reason == "non_finite"


def test_cover_art_is_not_a_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        audio = output.add_stream("aac", rate=16000, layout="mono")
        art = output.add_stream("mjpeg", rate=1)
        art.width = art.height = 16
        art.pix_fmt = "yuvj420p"
        art.disposition = av.stream.Disposition.attached_pic
        sound = av.AudioFrame.from_ndarray(
            np.zeros((1, 48000), np.float32), format="fltp", layout="mono"
        )
        sound.sample_rate = 16000
        resampler = av.AudioResampler("fltp", "mono", 16000, audio.codec_context.frame_size or 1024)
        for block in resampler.resample(sound):
            output.mux(audio.encode(block))
        picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        output.mux(art.encode(picture.reformat(format="yuvj420p")))
        output.mux(art.encode(None))
        output.mux(audio.encode(None))
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert caught.value.reason == "no_video"


def test_nobody_sets_the_log_level_of_the_decoder() -> None:
    """PyAV's log hook deadlocks with frame threads; `set_level` installs it."""
    for path in Path(probe.__code__.co_filename).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "attr", getattr(node, "id", None))
            assert name != "set_level", path


def test_probing_does_not_import_torch() -> None:
    code = "import sys, mmldm.media.probe, mmldm.data.scan; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
