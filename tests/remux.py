"""Media files with a stream taken out."""

from pathlib import Path
from typing import Literal

import av


def without(stream: Literal["audio", "video"], source: Path, target: Path) -> Path:
    """Copies a file's other streams, as they are encoded."""
    with av.open(str(source)) as file, av.open(str(target), "w") as output:
        kept = [s for s in file.streams if s.type != stream]
        copies = {s.index: output.add_stream_from_template(s) for s in kept}
        for packet in file.demux(kept):
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                output.mux(packet)
    return target
