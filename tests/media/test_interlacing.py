"""Truly interlaced footage: two fields of a moving picture in each frame, 50 fields a second."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.codec.context import Flags
from av.video.reformatter import Interpolation

from mmldm.media import reader
from mmldm.media.container import Limits
from mmldm.media.decoding import MediaFile
from mmldm.media.interlacing import (
    DEINTERLACED,
    LEFT_INTERLACED,
    SINGLE_FIELDS,
    Deinterlacer,
)
from mmldm.media.picture import Picture
from mmldm.media.probe import probe
from mmldm.media.reader import read_frames
from mmldm.types import ClipSpec

HEIGHT, WIDTH = 144, 192
CODECS = {
    "a.mpg": ("mpeg2video", {"b": "20M"}),
    "a.mp4": ("libx264", {"crf": "10"}),
    "a.mkv": ("ffv1", {}),
}


def scene(field: float, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """The moving picture (H,W,3) at an instant counted in fields."""
    y, x = np.mgrid[:height, :width].astype(float)
    moved = x - 3.0 * field
    picture = np.stack(
        [
            128 + 90 * np.sin(moved / 9) * np.cos(y / 7),
            128 + 90 * np.cos(moved / 13 + y / 11),
            128 + 80 * np.sin((moved + y) / 17),
        ],
        axis=-1,
    )
    left = (20 + 6 * field) % max(1, width - 40)
    picture[(x >= left) & (x < left + 30) & (y > 40) & (y < 100)] = (230, 230, 40)
    return picture.clip(0, 255).astype(np.uint8)


def woven(number: int, top_first: bool, **size: int) -> np.ndarray:
    """Frame `number`: the rows of the field that is first, and between them those of 20 ms later."""
    frame, later = scene(2 * number, **size), scene(2 * number + 1, **size)
    rows = slice(1, None, 2) if top_first else slice(0, None, 2)
    frame[rows] = later[rows]
    return frame


def write(
    path: Path,
    picture_of: Callable[[int], np.ndarray],
    count: int,
    mode: str = "tff",
    codec: str = "ffv1",
    options: dict[str, str] | None = None,
) -> Path:
    """Writes 25 pictures a second, flagged as `mode` (tff, bff, prog) says."""
    height, width = picture_of(0).shape[:2]
    options = dict(options or {})
    if codec == "libx264" and mode != "prog":
        options["x264-params"] = f"{mode}=1"
    with av.open(str(path), "w") as output:
        video = output.add_stream(codec, rate=25, options=options)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        if mode != "prog":
            video.codec_context.flags |= Flags.interlaced_dct | Flags.interlaced_me
        graph = flagging(mode, width, height)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture_of(number), format="rgb24")
            frame = frame.reformat(format="yuv444p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            graph.push(frame)
            output.mux(video.encode(graph.pull()))
        output.mux(video.encode(None))
    return path


def flagging(mode: str, width: int, height: int) -> av.filter.Graph:
    """Flags frames, and halves the chroma of each field by itself, as interlaced 4:2:0 has it."""
    graph = av.filter.Graph()
    nodes = [
        graph.add_buffer(
            width=width,
            height=height,
            format=av.VideoFormat("yuv444p"),
            time_base=Fraction(1, 25),
        ),
        graph.add("setfield", f"mode={mode}"),
        graph.add("scale", f"interl={int(mode != 'prog')}"),
        graph.add("format", "pix_fmts=yuv420p"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph


def psnr(frames: np.ndarray, truth: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((frames.astype(float) - truth) ** 2))


def read(path: Path, count: int, height: int = HEIGHT, start: float = 0.0) -> np.ndarray:
    spec = ClipSpec(num_frames=count, fps=25.0, height=height, width=height * WIDTH // HEIGHT)
    return read_frames(path, spec, start=start).permute(0, 2, 3, 1).numpy()


def scaled(picture: np.ndarray, height: int) -> np.ndarray:
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    width = height * WIDTH // HEIGHT
    return frame.reformat(width, height, interpolation=Interpolation.AREA).to_ndarray()


@pytest.mark.parametrize("mode", ["tff", "bff"])
@pytest.mark.parametrize("name", CODECS)
def test_combs_are_gone_at_every_size(tmp_path: Path, name: str, mode: str) -> None:
    """Against the progressive truth at the instant of the first field: 23 dB without deinterlacing."""
    path = write(tmp_path / name, lambda k: woven(k, mode == "tff"), 24, mode, *CODECS[name])
    for height, least in ((HEIGHT, 31), (96, 33), (48, 35)):
        truth = np.stack([scaled(scene(2 * k), height) for k in range(22)])
        frames = read(path, 22, height)
        assert psnr(frames, truth) > least
        assert min(psnr(*pair) for pair in zip(frames, truth, strict=True)) > least - 1.5


def test_interlaced_files_are_noted_and_others_are_not(tmp_path: Path, shared: Path) -> None:
    woven_file = write(tmp_path / "a.mkv", lambda k: woven(k, True), 5)
    whole_file = write(tmp_path / "b.mkv", lambda k: scene(2 * k), 5, "prog")
    assert DEINTERLACED in probe(woven_file, allow_missing=True).notes
    assert DEINTERLACED not in probe(whole_file, allow_missing=True).notes
    assert DEINTERLACED in probe(shared / "nasty/made/interlaced_mpeg2.mpg").notes


def test_no_picture_is_lost_or_moved(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", lambda k: woven(k, True), 25)
    with MediaFile(path, Limits(), want_audio=False) as media:
        pictures = [event for event in media if isinstance(event, Picture)]
    assert [picture.time for picture in pictures] == pytest.approx([k / 25 for k in range(25)])
    assert [picture.duration for picture in pictures] == pytest.approx([1 / 25] * 25)
    assert probe(path, allow_missing=True).duration == pytest.approx(1.0)


def test_a_sought_window_is_the_decoded_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"crf": "15", "g": "10"}
    path = write(tmp_path / "a.mp4", lambda k: woven(k, True), 110, "tff", "libx264", options)
    sought = read(path, 10, start=3.6)
    monkeypatch.setattr(reader, "SEEK_FROM", 1e9)
    assert np.array_equal(sought, read(path, 10, start=3.6))


def test_progressive_pictures_among_interlaced_ones_stay_as_they_are(tmp_path: Path) -> None:
    """Frames 0-4 and 10-14 are progressive, 5-9 and 15-19 interlaced."""
    whole = write(tmp_path / "whole.mkv", lambda k: scene(2 * k), 20, "prog")
    combed = write(tmp_path / "combed.mkv", lambda k: woven(k, True), 20)
    with av.open(str(whole)) as first, av.open(str(combed)) as second:
        pairs = list(zip(first.decode(video=0), second.decode(video=0), strict=True))
    frames = [pair[number // 5 % 2] for number, pair in enumerate(pairs)]
    notes: list[str] = []
    deinterlacer = Deinterlacer("ffv1", notes.append)
    given = [ready for frame in frames for ready in deinterlacer.add(frame)]
    given += deinterlacer.flush()
    assert [frame.time for frame in given] == [frame.time for frame in frames]
    assert not any(frame.interlaced_frame for frame in given)
    for number, (frame, ready) in enumerate(zip(frames, given, strict=True)):
        if number // 5 % 2 == 0:
            assert np.array_equal(ready.to_ndarray(), frame.to_ndarray())
        else:
            assert psnr(ready.to_ndarray(format="rgb24"), scene(2 * number)) > 30
    assert set(notes) == {DEINTERLACED}


def test_a_change_of_pixel_format_loses_no_picture(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", lambda k: woven(k, True), 6)
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=WIDTH, height=HEIGHT, format=frames[0].format, time_base=frames[0].time_base
    )
    graph.link_nodes(source, graph.add("format", "yuv422p"), graph.add("buffersink")).configure()
    for number in (3, 4, 5):
        graph.push(frames[number])
        frames[number] = graph.vpull()
    deinterlacer = Deinterlacer("ffv1", lambda note: None)
    given = [ready for frame in frames for ready in deinterlacer.add(frame)]
    given += deinterlacer.flush()
    assert [frame.time for frame in given] == [frame.time for frame in frames]


def test_a_progressive_picture_that_is_only_flagged_loses_little(tmp_path: Path) -> None:
    """What deinterlacing in vain costs, against the same file without the flag."""
    flagged = write(tmp_path / "a.mkv", lambda k: scene(2 * k), 12, "tff")
    plain = write(tmp_path / "b.mkv", lambda k: scene(2 * k), 12, "prog")
    assert psnr(read(flagged, 12), read(plain, 12)) > 35
    assert psnr(read(flagged, 12, 48), read(plain, 12, 48)) > 40


def test_pictures_too_small_to_deinterlace_are_read_and_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", lambda k: woven(k, True, height=2, width=64), 6)
    assert LEFT_INTERLACED in probe(path, allow_missing=True).notes
    spec = ClipSpec(num_frames=5, fps=25.0, height=8, width=8)
    assert read_frames(path, spec).shape == (5, 3, 8, 8)


def test_single_fields_keep_the_shape_of_the_picture(tmp_path: Path) -> None:
    """HEVC codes fields as pictures of half the height, 50 a second."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        options = {"x265-params": "interlace=tff:log-level=none", "crf": "10"}
        video = output.add_stream("libx265", rate=50, options=options)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT // 2, "yuv420p"
        for k in range(20):
            field = np.ascontiguousarray(scene(k)[k % 2 :: 2])
            output.mux(video.encode(av.VideoFrame.from_ndarray(field, format="rgb24")))
        output.mux(video.encode(None))
    info = probe(path, allow_missing=True)
    assert (info.width, info.height) == (WIDTH // 2, HEIGHT // 2)  # in square pixels
    assert info.fps == pytest.approx(50)
    assert SINGLE_FIELDS in info.notes
    truth = np.stack([scene(2 * k) for k in range(8)])
    assert psnr(read(path, 8), truth) > 26
