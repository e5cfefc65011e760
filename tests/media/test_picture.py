"""Pictures come upright from all eight display matrices, and from none that is more than that."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mmldm.media.picture import ODD_MATRIX, nearest_orientation
from mmldm.media.probe import probe
from mmldm.media.reader import read_frames
from mmldm.types import ClipSpec

# (a, b, c, d): the stored point (p, q) is shown at (a p + c q, b p + d q), q downwards.
EIGHT = [
    (1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1),
    (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0),
]  # fmt: skip


def upright(height: int = 48, width: int = 64) -> np.ndarray:
    """Red top left, green top right, blue bottom left, white bottom right."""
    picture = np.full((height, width, 3), 255, np.uint8)
    picture[: height // 2, : width // 2] = (255, 0, 0)
    picture[: height // 2, width // 2 :] = (0, 255, 0)
    picture[height // 2 :, : width // 2] = (0, 0, 255)
    return picture


def stored_for(shown: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """The picture that a matrix of `EIGHT` makes `shown` of, by the matrix's definition."""
    a, b, c, d = matrix
    height, width = shown.shape[:2]
    rows, columns = (width, height) if b else (height, width)
    stored = np.empty((rows, columns, 3), np.uint8)
    for q in range(rows):
        for p in range(columns):
            x, y = a * p + c * q, b * p + d * q
            # What lands left of or above the origin is moved into the picture.
            stored[q, p] = shown[
                y if b + d > 0 else y + height - 1, x if a + c > 0 else x + width - 1
            ]
    return stored


def write(
    path: Path, picture: np.ndarray, matrix: tuple[int, int, int, int], aspect: int = 1
) -> Path:
    a, b, c, d = (value << 16 for value in matrix)
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=10, options={"crf": "1"})
        video.width, video.height, video.pix_fmt = picture.shape[1], picture.shape[0], "yuv420p"
        video.codec_context.sample_aspect_ratio = Fraction(aspect)
        video.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for _ in range(5):
            output.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(video.encode(None))
    return path


def shown_in(path: Path, height: int = 48, width: int = 64) -> np.ndarray:
    spec = ClipSpec(num_frames=4, fps=10.0, height=height, width=width)
    return read_frames(path, spec)[0].permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize("matrix", EIGHT)
def test_every_orientation_comes_out_upright(tmp_path: Path, matrix: tuple) -> None:
    path = write(tmp_path / "a.mp4", stored_for(upright(), matrix), matrix)
    assert np.abs(shown_in(path) - upright()).mean() < 8  # chroma at the edges of the quarters
    info = probe(path, allow_missing=True)
    assert (info.width, info.height, info.notes) == (64, 48, ("no sound",))


@pytest.mark.parametrize("matrix", EIGHT)
def test_wide_pixels_are_those_of_the_stored_picture(tmp_path: Path, matrix: tuple) -> None:
    """Every stored pixel is twice as wide as high, whichever way up it is shown."""
    shown = upright(48, 64)
    squeezed = shown[::2] if matrix[1] else shown[:, ::2]
    path = write(tmp_path / "a.mp4", stored_for(squeezed, matrix), matrix, aspect=2)
    assert np.abs(shown_in(path) - shown).mean() < 10
    info = probe(path, allow_missing=True)
    assert (info.width, info.height) == (64, 48)


@pytest.mark.parametrize("number", range(1, 9))
def test_every_orientation_of_exif_comes_out_upright(tmp_path: Path, number: int) -> None:
    matrix = EIGHT[(0, 1, 3, 2, 4, 5, 7, 6)[number - 1]]
    tags = Image.Exif()
    tags[0x112] = number
    jpeg = io.BytesIO()
    Image.fromarray(stored_for(upright(), matrix)).save(jpeg, "JPEG", exif=tags, quality=95)
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as output:
        video = output.add_stream("mjpeg", rate=10)
        video.width, video.height = (48, 64) if matrix[1] else (64, 48)
        video.pix_fmt = "yuvj420p"
        for number in range(5):
            packet = av.Packet(jpeg.getvalue())
            packet.stream, packet.time_base = video, Fraction(1, 10)
            packet.pts = packet.dts = number
            output.mux(packet)
    assert np.abs(shown_in(path) - upright()).mean() < 8


@pytest.mark.parametrize("matrix", [(1, 1, 0, 1), (0, 0, 0, 0), (0, 3, 1, 0), (2, 1, -1, 2)])
def test_a_matrix_that_is_no_orientation_is_noted(tmp_path: Path, matrix: tuple) -> None:
    path = write(tmp_path / "a.mp4", upright(), matrix)
    assert ODD_MATRIX in probe(path, allow_missing=True).notes
    assert shown_in(path).shape == (48, 64, 3)


def test_a_turn_by_seven_degrees_is_none_and_is_noted() -> None:
    cosine, sine = round(65536 * np.cos(np.pi / 25)), round(65536 * np.sin(np.pi / 25))
    near = nearest_orientation((cosine, sine, 0, -sine, cosine, 0, 0, 0, 1 << 30))
    assert (near.transposed, near.rows_flipped, near.columns_flipped) == (False, False, False)
    assert not near.exact


def test_a_scaled_turn_is_a_turn() -> None:
    half = nearest_orientation((0, 32768, 0, -32768, 0, 0, 0, 0, 1 << 30))
    assert (half.transposed, half.rows_flipped, half.columns_flipped, half.exact) == (
        True, False, True, True,
    )  # fmt: skip


def test_the_most_extreme_numbers_are_survived() -> None:
    assert (
        nearest_orientation((-(2**31), 2**31 - 1, 0, 2**31 - 1, -(2**31), 0, 0, 0, 0)) is not None
    )
