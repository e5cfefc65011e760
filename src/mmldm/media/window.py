"""The frames of one time window, collected from a stream of decoded pictures.

Picture (absolute times) -> frames (T,3,H,W) u8. What lies exactly where is in docs/data.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmldm.errors import MediaError
from mmldm.media.limits import Limits
from mmldm.media.picture import FrameConverter, Picture
from mmldm.types import ClipSpec


class FrameTrack:
    """Chooses a frame for each instant begin + k / fps and converts only those to RGB."""

    def __init__(self, path: Path, begin: float, spec: ClipSpec, limits: Limits) -> None:
        self.path, self.begin, self.spec, self.limits = path, begin, spec, limits
        self._instants = [begin + k / spec.fps for k in range(spec.num_frames)]
        self._chosen: list[np.ndarray] = []
        self._current: Picture | None = None
        self._first: float | None = None
        self._converter = FrameConverter(path, spec.height, spec.width, limits)

    @property
    def complete(self) -> bool:
        """Whether every instant of the window has its frame."""
        return len(self._chosen) == self.spec.num_frames

    @property
    def saw_beginning(self) -> bool:
        """Whether a frame at or before the window's beginning was seen."""
        return self._first is not None and self._first <= self.begin

    def add(self, picture: Picture) -> None:
        """Takes the next picture; one that goes back in time is dropped."""
        if self._current is None:
            self._first = picture.time
        elif picture.time <= self._current.time:
            return
        else:
            # Half a tick makes up for times rounded in the file, but a coarse clock must not
            # move pictures.
            self._show(self._current, until=picture.time - min(picture.tick / 2, 0.001))
        self._current = picture

    def tensor(self) -> Tensor:
        """Frames (T,3,H,W) uint8.

        Raises:
            MediaError: `too_short` if the pictures end before the window does.
        """
        if self._current is not None:
            shown = max(self._current.duration, 1 / self.spec.fps)
            self._show(self._current, until=self._current.time + shown)
        if not self.complete:
            raise MediaError(
                "too_short",
                f"the picture of {self.path} ends before the {self.spec.duration:g} s window is"
                " full; use an earlier window or a longer file",
            )
        return torch.from_numpy(np.stack(self._chosen)).permute(0, 3, 1, 2).contiguous()

    def _show(self, picture: Picture, until: float) -> None:
        array = None
        while not self.complete and self._instants[len(self._chosen)] < until:
            array = self._converter.convert(picture) if array is None else array
            self._chosen.append(array)
