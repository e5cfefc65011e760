"""Colours of known R'G'B', through every matrix, range and transfer that files declare."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import Colorspace

from mmldm.errors import MediaError
from mmldm.media.clip import Clip
from mmldm.media.colour import Colour
from mmldm.media.container import Limits
from mmldm.media.picture import FrameConverter, Orientation, Picture
from mmldm.media.probe import probe
from mmldm.media.reader import read_clip, read_frames
from mmldm.types import ClipSpec

pytestmark = pytest.mark.slow

BARS = np.array(
    [
        (255, 255, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0),
        (0, 0, 255), (0, 0, 0), (128, 128, 128), (200, 60, 30), (30, 90, 200), (250, 245, 10),
    ],
    np.uint8,
)  # fmt: skip
# Kr, Kb of ITU-R BT.601, BT.709, BT.2020.
MATRICES = {"601": (0.299, 0.114), "709": (0.2126, 0.0722), "2020": (0.2627, 0.0593)}
# BT.709 to BT.2020 in light, from ITU-R BT.2087.
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])


class Tags(NamedTuple):
    """Numbers of ITU-T H.273; 2 is "unspecified". Range: 0 unspecified, 1 limited, 2 full."""

    matrix: int = 2
    range: int = 0
    transfer: int = 2
    primaries: int = 2


def bars(height: int, width: int) -> np.ndarray:
    return np.repeat(np.repeat(BARS[None], height, axis=0), width // len(BARS), axis=1)


def yuv(signal: np.ndarray, matrix: str, full: bool, bits: int) -> list[np.ndarray]:
    """R'G'B' (H,W,3) in [0,1] -> planes Y, Cb, Cr, by the Recommendations' own formulas."""
    kr, kb = MATRICES[matrix]
    red, green, blue = np.moveaxis(signal, -1, 0)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    differences = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    unit, top = 2 ** (bits - 8), 2**bits - 1
    scale, offset, chroma = (top, 0, top) if full else (219 * unit, 16 * unit, 224 * unit)
    planes = [offset + scale * luma, *(128 * unit + chroma * plane for plane in differences)]
    return [np.rint(plane).clip(0, top).astype(np.uint16) for plane in planes]


def write(
    path: Path, planes: list[np.ndarray], tags: Tags, bits: int = 8, pix_fmt: str | None = None
) -> Path:
    """Three lossless frames of these planes, with these tags."""
    height, width = planes[0].shape
    pix_fmt = pix_fmt or {8: "yuv444p", 10: "yuv444p10le"}[bits]
    with av.open(str(path), "w") as output:
        video = output.add_stream("ffv1", rate=10)
        video.width, video.height, video.pix_fmt = width, height, pix_fmt
        context = video.codec_context
        context.colorspace, context.color_range = tags.matrix, tags.range
        context.color_trc, context.color_primaries = tags.transfer, tags.primaries
        frame = av.VideoFrame(width, height, pix_fmt)
        for plane, values in zip(frame.planes, planes, strict=True):
            item = np.uint16 if bits > 8 else np.uint8
            buffer = np.zeros((plane.height, plane.line_size // np.dtype(item).itemsize), item)
            buffer[:, :width] = values
            plane.update(buffer.tobytes())
        for number in range(3):
            frame.pts, frame.time_base = number, Fraction(1, 10)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
    return path


def read(path: Path, height: int, width: int) -> np.ndarray:
    spec = ClipSpec(num_frames=2, fps=10.0, height=height, width=width)
    return read_frames(path, spec)[0].permute(1, 2, 0).numpy().astype(int)


def worst_bar(picture: np.ndarray) -> int:
    """The largest error of any channel in the middles of the bars."""
    height, width = picture.shape[:2]
    step = width // len(BARS)
    return np.abs(picture[height // 2, step // 2 :: step] - BARS).max()


SD, HD, PORTRAIT = (96, 192), (720, 1296), (720, 408)


@pytest.mark.parametrize(
    ("size", "tags", "matrix", "full"),
    [
        (SD, Tags(), "601", False),
        (HD, Tags(), "709", False),
        (PORTRAIT, Tags(), "709", False),
        (SD, Tags(matrix=1), "709", False),
        (HD, Tags(matrix=6), "601", False),
        (HD, Tags(matrix=5), "601", False),
        (SD, Tags(matrix=1, range=1), "709", False),
        (SD, Tags(matrix=1, range=2), "709", True),
        (SD, Tags(range=2), "601", True),
        (HD, Tags(range=2), "709", True),
        (SD, Tags(matrix=9), "2020", False),
    ],
)
@pytest.mark.parametrize("bits", [8, 10])
def test_bars_keep_their_colours(
    tmp_path: Path, size: tuple[int, int], tags: Tags, matrix: str, full: bool, bits: int
) -> None:
    planes = yuv(bars(*size) / 255, matrix, full, bits)
    path = write(tmp_path / "a.mkv", planes, tags, bits)
    height = size[0]
    for factor in (1, 2) if height > 96 else (1, 2, 0.5):
        shown = round(height / factor), round(size[1] / factor)
        assert worst_bar(read(path, *shown)) <= 1
    assert probe(path, allow_missing=True).notes == ("no sound",)


@pytest.mark.parametrize("matrix", [0, 8, 10, 11, 12, 13, 14])
def test_a_matrix_that_is_not_known_is_read_by_the_size_and_noted(
    tmp_path: Path, matrix: int
) -> None:
    """H.264 states any number; swscale raises an error at most of these."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=10, options={"crf": "1"})
        video.width, video.height, video.pix_fmt = 192, 96, "yuv420p"
        video.codec_context.colorspace = 6
        for _ in range(3):
            output.mux(video.encode(av.VideoFrame.from_ndarray(bars(96, 192), format="rgb24")))
        output.mux(video.encode(None))
    stated = tmp_path / "b.mp4"
    with av.open(str(path)) as file, av.open(str(stated), "w") as output:
        stream = file.streams.video[0]
        copy = output.add_stream_from_template(stream)
        rewrite = av.BitStreamFilterContext(
            f"h264_metadata=matrix_coefficients={matrix}", stream, copy
        )
        for packet in file.demux(stream):
            for done in rewrite.filter(packet if packet.size else None):
                done.stream = copy
                output.mux(done)
    assert f"colour matrix {matrix} is not known" in " ".join(
        probe(stated, allow_missing=True).notes
    )
    assert worst_bar(read(stated, 96, 192)) <= 3  # x264 with crf 1


@pytest.mark.parametrize(("tagged", "full"), [(0, True), (1, False), (2, True)])
def test_grey_is_read_by_its_range(tmp_path: Path, tagged: int, full: bool) -> None:
    levels = np.repeat(np.repeat(np.linspace(0, 1, 12)[None], 48, axis=0), 8, axis=1)
    stored = np.rint(255 * levels if full else 16 + 219 * levels).astype(np.uint8)
    path = write(tmp_path / "a.mkv", [stored], Tags(range=tagged), pix_fmt="gray")
    assert np.abs(read(path, 48, 96)[24, 4::8] - 255 * levels[24, 4::8, None]).max() <= 1


@pytest.mark.parametrize("pix_fmt", ["rgb24", "gbrp10le", "bgra"])
def test_rgb_is_left_as_it_is(tmp_path: Path, pix_fmt: str) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        codec = "libx264rgb" if pix_fmt == "rgb24" else "ffv1"
        options = {"qp": "0"} if codec == "libx264rgb" else {}
        video = output.add_stream(codec, rate=10, options=options)
        video.width, video.height, video.pix_fmt = 192, 96, pix_fmt
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(bars(96, 192), format="rgb24")
            output.mux(video.encode(frame.reformat(format=pix_fmt)))
        output.mux(video.encode(None))
    assert worst_bar(read(path, 96, 192)) <= 1
    notes = probe(path, allow_missing=True).notes
    assert ("transparency is ignored" in notes) == (pix_fmt == "bgra")


def test_transparency_that_the_decoder_leaves_out_is_noted(shared: Path) -> None:
    assert "transparency is ignored" in probe(shared / "nasty/real/alpha_silent.webm").notes


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    """R'G'B' (H,W,3) of every level."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (9 + 4 * k) + k) * np.cos(y / (11 + 3 * k) + 2 * k) for k in range(3)]
    return np.rint(127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8)


def pq(light: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084, cd/m2 -> signal."""
    power = (light / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def hlg(light: np.ndarray) -> np.ndarray:
    """ITU-R BT.2100, cd/m2 on a display of 1,000 -> signal."""
    display = light / 1000
    luminance = np.maximum(display @ np.array([0.2627, 0.6780, 0.0593]), 1e-9)[..., None]
    scene = display * luminance ** (1 / 1.2 - 1)
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


@pytest.mark.parametrize(("transfer", "number"), [("PQ", 16), ("HLG", 18)])
@pytest.mark.parametrize("tagged", [True, False], ids=["tagged", "transfer alone"])
def test_hdr_comes_out_as_the_sdr_picture_it_was_made_of(
    tmp_path: Path, transfer: str, number: int, tagged: bool
) -> None:
    """Graphics white at 203 cd/m2, by ITU-R BT.2408. Read as SDR, the error is 42 (PQ) and 25 (HLG)."""
    sdr = picture()
    light = 203 * (sdr / 255) ** 2.4 @ TO_BT2020.T
    planes = yuv({"PQ": pq, "HLG": hlg}[transfer](light), "2020", False, 10)
    tags = Tags(9, 1, number, 9) if tagged else Tags(transfer=number)
    path = write(tmp_path / "a.mkv", planes, tags, 10)
    error = np.abs(read(path, 96, 128) - sdr)
    assert error.mean() < 4
    # Below the knee of the curve, 88 of 203 cd/m2, nothing changes; white comes out as 230.
    assert error[(sdr < 150).all(axis=-1)].mean() < 1
    small = read(path, 48, 64)
    assert np.abs(small - sdr.reshape(48, 2, 64, 2, 3).mean(axis=(1, 3))).mean() < 4
    assert any(
        note.startswith(f"HDR ({transfer}, BT.2020)")
        for note in probe(path, allow_missing=True).notes
    )


def test_the_tone_curve_is_that_of_bt_2390() -> None:
    """Greys of known light: the knee at 88 cd/m2, white at 159 of 203, 1,000 at the top."""
    colour = Colour(Colorspace.BT2020, False, "BT.2020", "PQ")
    light = np.array([0.0, 20.0, 87.0, 203.0, 1000.0, 4000.0])
    codes = np.rint(65535 * pq(light)).astype(np.uint16)
    shown = colour.converted(np.repeat(codes[None, :, None], 3, axis=2))[0]
    mapped = np.array([0.0, 20.0, 87.0, 159.04, 203.0, 203.0])
    assert np.abs(shown - 255 * (mapped / 203)[:, None] ** (1 / 2.4)).max() <= 1


@pytest.mark.parametrize(("matrix", "transfer"), [(9, 14), (9, 15), (2, 2)])
def test_sdr_in_bt_2020_is_converted_in_gamut_alone(
    tmp_path: Path, matrix: int, transfer: int
) -> None:
    sdr = picture()
    signal = ((sdr / 255) ** 2.4 @ TO_BT2020.T) ** (1 / 2.4)
    tags = Tags(matrix, 1, transfer, 9)
    path = write(tmp_path / "a.mkv", yuv(signal, "2020", False, 10), tags, 10)
    assert np.abs(read(path, 96, 128) - sdr).mean() < 1
    assert "wide gamut (BT.2020); converted to BT.709" in probe(path, allow_missing=True).notes


def test_display_p3_is_converted_in_gamut(tmp_path: Path) -> None:
    """Red, green and blue of BT.709 as Display P3 has them (Apple's ColorSync: 234 51 35 and so on)."""
    p3 = np.array([(234, 51, 35), (117, 251, 76), (0, 0, 245), (255, 255, 255)], np.uint8)
    stored = np.repeat(np.repeat(p3[None], 48, axis=0), 16, axis=1)
    planes = yuv(stored / 255, "709", False, 10)
    path = write(tmp_path / "a.mkv", planes, Tags(1, 1, 1, 12), 10)
    shown = read(path, 48, 64)[24, 8::16]
    expected = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    assert np.abs(shown - expected).max() <= 12  # those numbers are for sRGB's curve
    assert "wide gamut (P3); converted to BT.709" in probe(path, allow_missing=True).notes


def test_pixels_that_nothing_converts_are_a_sentence(tmp_path: Path) -> None:
    frame = av.VideoFrame(16, 16, "rgb4")
    colour = Colour(Colorspace.ITU709, True, "BT.709", "SDR")
    picture = Picture(0.0, 0.1, 1.0, Orientation(), colour, frame)
    converter = FrameConverter(tmp_path / "a.mkv", 8, 8, Limits())
    with pytest.raises(MediaError, match=r"a\.mkv \(rgb4\).*re-encode") as caught:
        converter.convert(picture)
    assert caught.value.reason == "format_not_allowed"


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv"])
def test_a_picture_too_large_is_not_decoded_and_says_what_to_do(tmp_path: Path, name: str) -> None:
    """Motion JPEG and FFV1 leave the header's size at 0 then."""
    path = tmp_path / name
    codec = {"a.mp4": "libx264", "a.avi": "mjpeg", "a.mkv": "ffv1"}[name]
    with av.open(str(path), "w") as output:
        video = output.add_stream(codec, rate=10)
        video.width, video.height = 192, 96
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for _ in range(3):
            output.mux(video.encode(av.VideoFrame.from_ndarray(bars(96, 192), format="rgb24")))
        output.mux(video.encode(None))
    spec = ClipSpec(num_frames=2, fps=10.0, height=16, width=16)
    with pytest.raises(MediaError, match="pixels.*scale it down") as caught:
        read_frames(path, spec, limits=Limits(max_pixels=10_000))
    assert caught.value.reason == ("too_large" if codec == "libx264" else "corrupt")
    if codec == "libx264":
        assert "192x96" in str(caught.value) and "Limits(max_pixels=...)" in str(caught.value)
    read_frames(path, spec, limits=Limits(max_pixels=20_000))


@pytest.mark.parametrize(
    ("size", "number", "matrix"), [((96, 192), 6, "601"), ((720, 1296), 1, "709")]
)
def test_written_files_say_which_colours_they_hold(
    tmp_path: Path, size: tuple[int, int], number: int, matrix: str
) -> None:
    """And hold them: luma and chroma of the bars are those of the matrix stated."""
    frames = torch.from_numpy(bars(*size)).permute(2, 0, 1).expand(4, -1, -1, -1)
    path = Clip(frames, torch.zeros(6400), 10.0, 16000).save(tmp_path / "a.mp4")
    with av.open(str(path)) as file:
        context = file.streams.video[0].codec_context
        tags = context.colorspace, context.color_range, context.color_trc, context.color_primaries
        assert tags == (number, 1, 1, 1)
        stored = next(file.decode(video=0)).reformat(format="yuv444p").to_ndarray().astype(int)
    assert b"colrnclx" in path.read_bytes()
    step = size[1] // len(BARS)
    expected = np.stack(yuv(BARS[None] / 255, matrix, False, 8))[:, 0]
    assert np.abs(stored[:, size[0] // 2, step // 2 :: step] - expected.astype(int)).max() <= 2
    spec = ClipSpec(num_frames=4, fps=10.0, height=size[0], width=size[1])
    assert worst_bar(read_clip(path, 0.0, spec).frames[0].permute(1, 2, 0).numpy().astype(int)) <= 3
