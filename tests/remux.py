"""Media files copied as they are encoded, into another container, without a stream, or with a mark."""

from pathlib import Path
from typing import Literal

import av


def without(stream: Literal["audio", "video"], source: Path, target: Path) -> Path:
    """Copies a file's other streams."""
    return _copy(source, target, stream)


def remux(source: Path, target: Path) -> Path:
    """Copies a file into the container that the target's suffix names."""
    return _copy(source, target)


def _copy(source: Path, target: Path, left_out: str | None = None) -> Path:
    with av.open(str(source)) as file, av.open(str(target), "w") as output:
        kept = [s for s in file.streams if s.type != left_out]
        copies = {s.index: output.add_stream_from_template(s) for s in kept}
        for packet in file.demux(kept):
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                output.mux(packet)
    return target


def marked_copy(source: Path, target: Path, mark: str | None = None) -> Path:
    """A copy of an mp4 file with the same clip and another content: a box that players pass over."""
    target.parent.mkdir(parents=True, exist_ok=True)
    text = (mark or target.as_posix()).encode("utf-8", "surrogateescape")
    target.write_bytes(source.read_bytes() + (8 + len(text)).to_bytes(4, "big") + b"free" + text)
    return target
