"""A decoded picture, and its way to the frame of a clip.

av.VideoFrame -> Picture (time in seconds, still in the file's own pixels) -> RGB (H,W,3) u8. docs/data.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from mmldm.errors import MediaError
from mmldm.media.limits import Limits

MAX_PIXEL_ASPECT = 8.0


@dataclass(frozen=True)
class Picture:
    """A decoded frame, not yet RGB: it holds decoder memory, so keep few.

    Attributes:
        time: When it is first shown, in seconds.
        duration: Seconds it is shown for, as the file claims; 0 if it does not.
        tick: Seconds per unit of the stream's clock.
        pixel_aspect: Width of a stored pixel over its height.
    """

    time: float
    duration: float
    tick: float
    pixel_aspect: float
    frame: av.VideoFrame

    @property
    def quarter_turns(self) -> int:
        """Counter-clockwise quarter turns that bring the stored picture upright."""
        return round(self.frame.rotation / 90) % 4

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height in square pixels, upright."""
        width, height = max(1, round(self.frame.width * self.pixel_aspect)), self.frame.height
        return (height, width) if self.quarter_turns % 2 else (width, height)


def picture_of(frame: av.VideoFrame, time: float, stream: VideoStream) -> Picture:
    """A decoded frame shown from `time` (seconds) on."""
    tick = float(stream.time_base or 0)
    aspect = float(stream.sample_aspect_ratio or 1)
    if not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
        aspect = 1.0
    return Picture(time, (frame.duration or 0) * tick, tick, aspect, frame)


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
            MediaError: `too_large` if the picture is too elongated for that.
        """
        turns = picture.quarter_turns
        height, width = self._size
        if turns % 2:
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
        shrinks = scale < 1
        rgb = self._scaler.reformat(
            picture.frame,
            cover_width,
            cover_height,
            "rgb24",
            interpolation=Interpolation.AREA if shrinks else Interpolation.BICUBIC,
        ).to_ndarray()
        top, left = (cover_height - height) // 2, (cover_width - width) // 2
        return np.rot90(rgb[top : top + height, left : left + width], turns)
