"""Interlaced pictures made progressive: libavfilter's bwdif, one picture for each interlaced frame.

av.VideoFrame -> av.VideoFrame, at the same times. Of an interlaced frame the field that is shown first stays,
and the other's rows are made anew. docs/data.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import av

from mmldm.media.container import Note

# `parity=auto`: each frame says itself which field is first.
BWDIF = ("bwdif", "mode=send_frame:parity=auto:deint=interlaced:threads=1")
DEINTERLACED = "interlaced; deinterlaced (bwdif)"
LEFT_INTERLACED = "interlaced, and could not be deinterlaced; moving edges are combed"
SINGLE_FIELDS = "interlaced, coded as single fields; each is shown as a picture of its own"
# What these decoders flag is no frame with two fields, but one field, half as high as the picture.
FIELD_CODECS = ("hevc", "vvc")


class Deinterlacer:
    """Passes frames on, interlaced ones deinterlaced, from the first interlaced one on a frame late.

    Nothing that leaves here is flagged as interlaced: swscale scales flagged frames field by field, which
    leaves combs at every size.

    Args:
        codec: FFmpeg's name of the codec that the frames come from.
        note: Called with a sentence when frames are interlaced.

    Attributes:
        row_height: Of a row in rows of the picture: 2 once a frame was a single field.
    """

    def __init__(self, codec: str, note: Note) -> None:
        self.row_height = 1
        self._codec, self._note = codec, note
        self._graph: av.filter.Graph | None = None
        self._format: tuple[int, int, str] | None = None

    def add(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Takes the next frame in the order of display; gives what is ready."""
        if self._graph is None and not frame.interlaced_frame:
            yield frame
            return
        format = (frame.width, frame.height, frame.format.name)
        if format != self._format:
            yield from self.flush()
            self._graph, self._format = self._made_for(frame), format
        assert self._graph is not None
        self._graph.push(frame)
        yield from _ready(self._graph)

    def flush(self) -> Iterator[av.VideoFrame]:
        """Gives what is held back, at the end."""
        graph, self._graph, self._format = self._graph, None, None
        if graph is not None:
            graph.push(None)
            yield from _ready(graph)

    def _made_for(self, frame: av.VideoFrame) -> av.filter.Graph:
        """A graph that makes frames like this one progressive, or at least says that they are."""
        if self._codec in FIELD_CODECS:
            self.row_height = 2
            self._note(SINGLE_FIELDS)
            return _graph_of(frame, "setfield", "mode=prog")
        try:
            graph = _graph_of(frame, *BWDIF)
        except av.FFmpegError:
            # Fewer than 3 columns or 4 rows, or pixels in a format it cannot take.
            self._note(LEFT_INTERLACED)
            return _graph_of(frame, "setfield", "mode=prog")
        self._note(DEINTERLACED)
        return graph


def _ready(graph: av.filter.Graph) -> Iterator[av.VideoFrame]:
    """The frames that a graph can give now."""
    with suppress(av.BlockingIOError, av.EOFError):
        while True:
            frame = graph.pull()
            assert isinstance(frame, av.VideoFrame)
            yield frame


def _graph_of(frame: av.VideoFrame, name: str, options: str) -> av.filter.Graph:
    """A graph of one filter, for frames like this one."""
    graph = av.filter.Graph()
    change = graph.add(name, options)
    graph.link_nodes(buffer_for(graph, frame), change, graph.add("buffersink")).configure()
    return graph


def buffer_for(graph: av.filter.Graph, frame: av.VideoFrame) -> av.filter.FilterContext:
    """Where frames like this one enter a graph."""
    return graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
