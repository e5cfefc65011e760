"""The part of a given file that is used: all of it, or so many seconds, of one modality or both.

path, start, seconds -> parts (s,) or (t,3,H,W) at a model's rates and size, and sentences on what is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from mmldm.media.clip import Clip
from mmldm.media.consecutive import ConsecutiveWindows
from mmldm.media.container import Limits
from mmldm.media.given import Given
from mmldm.types import ClipSpec, Modality

NOTED_DIFFERENCE = 0.001
"""Seconds between the start asked for and the one taken that are worth a note."""


class UsedPart:
    """One modality of a file, or both, from `start` on: all of it, or so many seconds.

    Args:
        modality: Which is read; None: both.
        spec: Of a window; the file is read at its rates and size.
        start: Second of the file where the film begins.
        seconds: After which it ends; None: with the file.
        limits: Of what the file may cost.

    Raises:
        MediaError: The file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        modality: Modality | None,
        spec: ClipSpec,
        start: float = 0.0,
        seconds: float | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.path, self.modality, self.spec = path, modality, spec
        self.start, self.seconds = start, seconds
        self._windows = ConsecutiveWindows(
            path,
            spec,
            start=start,
            seconds=seconds,
            limits=limits,
            want_video=modality != "audio",
            want_audio=modality != "video",
        )

    @property
    def original(self) -> Given | None:
        """What of it stays as it is, for the writer of a film; None of both modalities."""
        if self.modality is None:
            return None
        return Given(self.modality, self.path, self.begins, self.seconds)

    @property
    def begins(self) -> float:
        """Second of the file at which it really begins."""
        return self._windows.begins

    @property
    def claimed(self) -> float | None:
        """Seconds that are used of it, as the file claims; None where it does not."""
        return self._windows.claimed

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what is odd about the file; more come while it is read."""
        return self._windows.notes

    def parts(self, progress: Callable[[float, float], None] | None = None) -> Iterator[Clip]:
        """Consecutive parts, of a window at most; a modality that is not read is empty.

        Args:
            progress: Called with the seconds that are read, and with those the file claims.
        """
        spec, windows = self.spec, self._windows
        for window in windows:
            # What the file no longer has, or nobody asked for, is no part of it.
            begin = window.first_frame / spec.fps
            lasts = spec.duration - window.filled
            if self.seconds is not None:
                lasts = min(lasts, self.seconds - begin)
            frames = max(1, round(lasts * spec.fps)) if begin == 0 else round(lasts * spec.fps)
            samples = round(lasts * spec.sample_rate)
            if progress is not None and windows.claimed:
                progress(min(begin + lasts, windows.claimed), windows.claimed)
            yield Clip(
                window.frames[:frames], window.waveform[:samples], spec.fps, spec.sample_rate
            )

    def whole(self) -> Clip:
        """All of it in memory."""
        parts = list(self.parts())
        frames = torch.cat([part.frames for part in parts])
        waveform = torch.cat([part.waveform for part in parts])
        return Clip(frames, waveform, self.spec.fps, self.spec.sample_rate)

    def differences(self) -> Iterator[str]:
        """Sentences on which part of the file is used, and how its picture is read."""
        windows = self._windows
        # Time: where the film begins, and how much of a longer file is left.
        begins = windows.begins
        if abs(begins - self.start) > NOTED_DIFFERENCE:
            yield f"the clip starts at {begins:.3f} s, at the source frame nearest to {self.start:g} s"
        if self.seconds is not None:
            used = min(self.seconds, windows.claimed or self.seconds)
            yield f"{used:.4g} s of it are used, from {begins:.4g} s on"
        elif begins > NOTED_DIFFERENCE:
            yield f"it is used from {begins:.3f} s to its end"
        yield from picture_differences(windows.size, windows.fps, self.spec)


def picture_differences(
    size: tuple[int, int] | None, fps: float | None, spec: ClipSpec
) -> Iterator[str]:
    """How a picture of this width and height is read, where that is not as it is; None: there is none."""
    if size is None or fps is None:
        return
    width, height = size
    if size != (spec.width, spec.height) or abs(fps - spec.fps) > 0.01 * spec.fps:
        cut = width * spec.height != height * spec.width
        yield (
            f"its picture of {width}x{height} at {fps:.4g} frames a second is read at"
            f" {spec.width}x{spec.height} and {spec.fps:g}" + ", cut from the middle" * cut
        )
