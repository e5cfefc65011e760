"""A decoded picture, and its way to the frame of a clip.

av.VideoFrame -> Picture (time in seconds, still in the file's own pixels) -> RGB (H,W,3) u8, upright.
`colour` and `interlacing` are two steps of that way. docs/data.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from mmldm.errors import MediaError
from mmldm.media.colour import Colour, colour_of
from mmldm.media.container import Limits, Note
from mmldm.media.interlacing import Deinterlacer, buffer_for

MAX_PIXEL_ASPECT = 8.0
# Without these, swscale shows white as 253.
EXACT = Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
# How far (of the matrix's own size) the nearest orientation may miss it before that is worth a note.
MATRIX_TOLERANCE = 0.02
ODD_MATRIX = (
    "the display matrix is no quarter turn or flip; the nearest was used: turn the picture itself"
)


@dataclass(frozen=True)
class Orientation:
    """A transposition of rows and columns, and then flips of rows and of columns.

    Attributes:
        exact: Whether the display matrix says just that, up to its scale.
    """

    transposed: bool = False
    rows_flipped: bool = False
    columns_flipped: bool = False
    exact: bool = True

    def applied(self, stored: np.ndarray) -> np.ndarray:
        """A view of the stored picture (H,W,...), upright."""
        turned = stored.swapaxes(0, 1) if self.transposed else stored
        return turned[:: -1 if self.rows_flipped else 1, :: -1 if self.columns_flipped else 1]


@dataclass(frozen=True)
class Picture:
    """A decoded frame, not yet RGB: it holds decoder memory, so keep few.

    Attributes:
        time: When it is first shown, in seconds.
        duration: Seconds it is shown for, as the file claims; 0 if it does not.
        pixel_aspect: Width of a stored pixel over its height.
        orientation: What brings the stored picture upright.
        colour: What its numbers mean.
    """

    time: float
    duration: float
    pixel_aspect: float
    orientation: Orientation
    colour: Colour
    frame: av.VideoFrame

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height in square pixels, upright."""
        width, height = max(1, round(self.frame.width * self.pixel_aspect)), self.frame.height
        return (height, width) if self.orientation.transposed else (width, height)


class PictureMaker:
    """Makes pictures of the decoded frames of a stream.

    Args:
        path: Of the file, for complaints.
        stream: None where there are no frames to come.
        note: Called with each sentence that is worth saying to the person who owns the file.
    """

    def __init__(self, path: Path, stream: VideoStream | None, note: Note) -> None:
        self._path, self._stream, self._note = path, stream, note
        codec = "" if stream is None else stream.codec_context.name
        self._deinterlacer = Deinterlacer(codec, note)
        # By the angle that FFmpeg makes of the display matrix: reading the matrix itself is slow.
        self._orientations: dict[int, Orientation] = {}

    def add(self, frame: av.VideoFrame) -> Iterator[Picture]:
        """Takes the next frame in the order of display, which has a time; gives what is ready.

        Raises:
            MediaError: `format_not_allowed` if nothing makes RGB of its pixels.
        """
        return map(self._picture, self._deinterlacer.add(frame))

    def flush(self) -> Iterator[Picture]:
        """Gives what is held back, at the end."""
        return map(self._picture, self._deinterlacer.flush())

    def _picture(self, frame: av.VideoFrame) -> Picture:
        """A decoded frame, with what its stream and its metadata say of it."""
        stream = self._stream
        assert stream is not None and frame.time is not None
        duration = (frame.duration or 0) * float(frame.time_base or stream.time_base or 0)
        aspect = float(stream.sample_aspect_ratio or 1)
        if not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
            self._note(f"pixels {aspect:.3g} times as wide as high; square ones were assumed")
            aspect = 1.0
        aspect /= self._deinterlacer.row_height

        colour = colour_of(frame, stream)
        if frame.rotation not in self._orientations:
            with _refusals_of_swscale(self._path, frame):
                matrix = _display_matrix(frame)
            upright = Orientation() if matrix is None else nearest_orientation(matrix)
            self._orientations[frame.rotation] = upright
        orientation = self._orientations[frame.rotation]
        if not orientation.exact:
            self._note(ODD_MATRIX)
        for sentence in colour.notes():
            self._note(sentence)
        # FFmpeg's own decoder of VP9 leaves transparency out, and only the metadata tell of it.
        has_alpha = any(component.is_alpha for component in frame.format.components)
        if has_alpha or stream.metadata.get("alpha_mode") == "1":
            self._note("transparency is ignored")
        return Picture(frame.time, duration, aspect, orientation, colour, frame)


class FrameConverter:
    """Brings decoded pictures upright, to square pixels and to the size of the clip.

    Args:
        path: Of the file, for complaints.
        height: Of the clip, in pixels.
        width: Of the clip, in pixels.
        limits: Of what one file may cost.
    """

    def __init__(self, path: Path, height: int, width: int, limits: Limits) -> None:
        self._path, self._size, self._limits = path, (height, width), limits
        self._scaler = VideoReformatter()

    def convert(self, picture: Picture) -> np.ndarray:
        """RGB (H,W,3) uint8: scaled until it covers the clip, and cut from the middle.

        Raises:
            MediaError: `too_large` if the picture is too elongated for that, `format_not_allowed` if
                nothing makes RGB of its pixels.
        """
        # How large the stored picture must become to cover the clip, in the stored orientation.
        colour = picture.colour
        height, width = self._size
        if picture.orientation.transposed:
            height, width = width, height
        stored_width = picture.frame.width * picture.pixel_aspect
        scale = max(width / stored_width, height / picture.frame.height)
        cover_width = max(width, round(stored_width * scale))
        cover_height = max(height, round(picture.frame.height * scale))
        if cover_width * cover_height > self._limits.max_pixels:
            raise MediaError(
                "too_large",
                f"{self._path} is too elongated ({picture.frame.width}x{picture.frame.height});"
                " crop it",
            )
        # Scaled and made RGB in one step, wide gamuts and HDR in 16 bits. What the file says is given
        # explicitly: swscale raises an error at matrices it does not know.
        with _refusals_of_swscale(self._path, picture.frame):
            scaled = self._scaler.reformat(
                picture.frame,
                cover_width,
                cover_height,
                "rgb24" if colour.is_plain else "rgb48le",
                src_colorspace=colour.matrix,
                dst_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.JPEG if colour.full_range else ColorRange.MPEG,
                dst_color_range=ColorRange.JPEG,
                interpolation=(Interpolation.AREA if scale < 1 else Interpolation.BICUBIC) | EXACT,
            )
        # Cut from the middle, and turned upright.
        cover = scaled.to_ndarray()
        top, left = (cover_height - height) // 2, (cover_width - width) // 2
        rgb = cover[top : top + height, left : left + width]
        return picture.orientation.applied(rgb if colour.is_plain else colour.converted(rgb))


@contextmanager
def _refusals_of_swscale(path: Path, frame: av.VideoFrame) -> Iterator[None]:
    """FFmpeg's errors as the refusal of a file."""
    try:
        yield
    except av.FFmpegError as error:
        raise MediaError(
            "format_not_allowed",
            f"the pixels of {path} ({frame.format.name}) cannot be converted; re-encode it",
        ) from error


def nearest_orientation(matrix: tuple[int, ...]) -> Orientation:
    """The orientation that is nearest to a display matrix.

    Args:
        matrix: 9 int32 (ISO/IEC 14496-12, 6.2.2), row by row (a b u, c d v, x y w): the stored point (p, q)
            is shown at (a p + c q + x, b p + d q + y), q and its image downwards.
    """
    a, b, _, c, d = (float(value) for value in matrix[:5])
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    along, across = ((b, c), (a, d)) if transposed else ((d, a), (b, c))
    # FFmpeg makes a pixel aspect of a stretch, but of the wrong axis where rows become columns.
    stretch = abs(along[0]) - abs(along[1]) if transposed else 0.0
    size, miss = math.hypot(a, b, c, d), math.hypot(*across, stretch)
    return Orientation(
        transposed,
        rows_flipped=along[0] < 0,
        columns_flipped=along[1] < 0,
        exact=size > 0 and miss <= MATRIX_TOLERANCE * size,
    )


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """Nine numbers, as `nearest_orientation` takes them; None where the frame has no matrix."""
    # A frame whose side data was read is part of a reference cycle: only a small copy may be.
    small = VideoReformatter().reformat(
        frame, 8, 8, "gray", Colorspace.ITU709, Colorspace.ITU709, Interpolation.POINT
    )
    try:
        data: Any = small.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV reads no side data at all beside a kind that it does not know, such as Exif.
        data = _without_unknown_kinds(small).side_data.get("DISPLAYMATRIX")
    return None if data is None else struct.unpack("=9i", bytes(data))


def _without_unknown_kinds(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame without side data of kinds that PyAV has no name for."""
    known = {int(kind.value) for kind in Type}  # type: ignore[call-overload]
    graph = av.filter.Graph()
    nodes = [buffer_for(graph, frame)]
    for kind in set(range(max(known) + 9)) - known:
        nodes.append(graph.add("sidedata", f"mode=delete:type={kind}"))
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    graph.push(frame)
    cleaned = graph.pull()
    assert isinstance(cleaned, av.VideoFrame)
    return cleaned
