"""The display matrix of a picture: which of eight orientations brings it upright.

9 int32 (ISO/IEC 14496-12, 6.2.2), row by row (a b u, c d v, x y w): the stored point (p, q) is shown at
(a p + c q + x, b p + d q + y), q and its image downwards. docs/data.md.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from mmldm.media.interlacing import buffer_for

# How far (of the matrix's own size) the nearest orientation may miss it before that is worth a note.
TOLERANCE = 0.02
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


class OrientationReader:
    """Reads what the display matrices of a file's frames ask for."""

    def __init__(self) -> None:
        self._by_angle: dict[int, Orientation] = {}

    def of(self, frame: av.VideoFrame) -> Orientation:
        """The nearest of the eight orientations to the frame's display matrix.

        A matrix is read again when its angle changes.
        """
        if frame.rotation not in self._by_angle:
            matrix = _display_matrix(frame)
            self._by_angle[frame.rotation] = (
                Orientation() if matrix is None else nearest_orientation(matrix)
            )
        return self._by_angle[frame.rotation]


def nearest_orientation(matrix: tuple[int, ...]) -> Orientation:
    """The orientation that is nearest to nine numbers of a display matrix."""
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
        exact=size > 0 and miss <= TOLERANCE * size,
    )


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
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
