"""Windows of a file of any length, one after the other, in one pass and in constant memory.

file, start -> windows (frames (T,3,H,W) u8, waveform (S,) f32), a fixed number of frames apart. All stand on
one grid from the first on: what two of them share is the same, and together they are one long read. The
rules of time are those of `reader.read_windows`; docs/data.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmldm.media.clock import NOTED_LAG, TOLERANCE, Beginning
from mmldm.media.container import AUDIO_FORMATS, VIDEO_FORMATS, Limits
from mmldm.media.decoding import MediaFile
from mmldm.media.picture import FrameConverter, Picture
from mmldm.media.reader import beginning_of, decoded_from, read_windows
from mmldm.media.sound import CLIPPED, Sound, clipping
from mmldm.media.timeline import PictureTimeline, SoundTimeline
from mmldm.types import ClipSpec

APART = 10.0
"""Seconds by which one stream of a file may be ahead of the other before it is not waited for."""


@dataclass(frozen=True)
class Window:
    """One of consecutive windows.

    Attributes:
        index: Its number, from 0 on.
        first_frame: Number of its first frame, counted from the first frame of window 0.
        frames: (T,3,H,W) uint8; T is 0 where the picture is not wanted.
        waveform: (S,) float32 in [-1,1]; S is 0 where the sound is not wanted.
        filled: Seconds at its end that the file no longer has: its last frame and silence stand there.
    """

    index: int
    first_frame: int
    frames: Tensor
    waveform: Tensor
    filled: float


class ConsecutiveWindows:
    """The windows of a file from `start` to its end, or for some seconds; iterate once.

    The last window may outlast the file, and a file shorter than one window gives one: the last frame and
    silence fill it. The file may outlast the last window by 20 ms, which are left out. Where picture and
    sound are both wanted, the longer one counts.

    Args:
        path: Of a video; of a sound file, where the picture is not wanted.
        spec: Of a window.
        start: Second of the file's clock near which window 0 begins: at the nearest source frame; in a file
            without pictures exactly there.
        seconds: After which no more is read; None: to the end of the file.
        stride: Frames from one window to the next, 1 to T; None: T, end to end.
        limits: Of what the file may cost.
        want_video: Whether the picture is read; without it, audio files will do.
        want_audio: Whether the sound is read; without it, files without sound will do.

    Attributes:
        begins: Second of the file's clock at which window 0 really begins.
        claimed: Seconds from there to the end, or `seconds`, as the file claims; None where it does not.
        length: The same as read; None until the last window was given.
        size: Width and height of the file's pictures, upright; None where the picture is not wanted.
        fps: The file's nominal frames a second; None likewise.
        notes: Sentences on how the file was read; more come while it is.

    Raises:
        MediaError: As `read_windows`, also while reading; `too_short` if the file ends before `start`.
    """

    def __init__(
        self,
        path: str | Path,
        spec: ClipSpec,
        *,
        start: float = 0.0,
        seconds: float | None = None,
        stride: int | None = None,
        limits: Limits | None = None,
        want_video: bool = True,
        want_audio: bool = True,
    ) -> None:
        self.path, self.spec = Path(path), spec
        self._limits, self._wanted = limits or Limits(), (want_video, want_audio)
        self._stride, self._seconds = stride or spec.num_frames, seconds
        if not 1 <= self._stride <= spec.num_frames:
            raise ValueError(f"a stride of {stride} frames is not from 1 to {spec.num_frames}")

        # One frame, to know where it begins.
        one = spec.model_copy(update={"num_frames": 1})
        first = read_windows(
            path, [start], one, limits, want_video=want_video, want_audio=want_audio
        )
        self.begins, self.size, self.fps = first.starts.item(), first.size, first.fps
        left = None if first.length is None else max(first.length - self.begins, 0.0)
        self.claimed = left if seconds is None or left is None else min(left, seconds)
        self.length: float | None = None
        self._notes = dict.fromkeys(first.notes)

    @property
    def notes(self) -> tuple[str, ...]:
        """As the class says."""
        return tuple(self._notes)

    def __iter__(self) -> Iterator[Window]:
        formats = VIDEO_FORMATS if self._wanted[0] else AUDIO_FORMATS
        beginning = beginning_of(self.path, formats, self._limits, *self._wanted)
        begin = beginning.origin + self.begins
        with MediaFile(self.path, self._limits, formats, *self._wanted) as media:
            pictures = sounds = None
            if media.video is not None:
                converter = FrameConverter(
                    self.path, self.spec.height, self.spec.width, self._limits
                )
                pictures = PictureTimeline(begin, self.spec.fps, beginning.clock, converter)
            if media.audio is not None:
                sounds = SoundTimeline(self.path, begin, self.spec.sample_rate)
            yield from self._windows(media, beginning, pictures, sounds)
            for sentence in media.notes:
                self._notes.setdefault(sentence)

    def _windows(
        self,
        media: MediaFile,
        beginning: Beginning,
        pictures: PictureTimeline | None,
        sounds: SoundTimeline | None,
    ) -> Iterator[Window]:
        """Windows as soon as they are full, and in the end what is left."""
        lines = [line for line in (pictures, sounds) if line is not None]
        index = 0
        for event in decoded_from(media, beginning, self.begins):
            if isinstance(event, Picture) and pictures:
                pictures.add(event)
            elif isinstance(event, Sound) and sounds:
                sounds.add(event)
            # One stream may be over long before the other.
            ahead = max(line.reached for line in lines)
            for line in lines:
                if line.reached < ahead - APART:
                    line.wait(ahead - APART)
            while self._is_wanted(index) and self._ends(index) <= min(x.reached for x in lines):
                yield self._window(index, pictures, sounds, 0.0)
                index += 1
            if not self._is_wanted(index):
                break

        # The end of the file: the longer stream counts, and the last window is filled up.
        for line in lines:
            line.finish()
        read = max(line.end for line in lines)
        self.length = read if self._seconds is None else min(read, self._seconds)
        while self._is_wanted(index) and (
            index == 0 or self._ends(index - 1) < self.length - TOLERANCE
        ):
            yield self._window(index, pictures, sounds, max(0.0, self._ends(index) - read))
            index += 1
        self.length = min(self.length, self._ends(index - 1))
        self._note_what_is_missing(media, pictures, sounds)

    def _first(self, index: int) -> int:
        """Number of a window's first frame."""
        return index * self._stride

    def _ends(self, index: int) -> float:
        """When a window is full, in seconds from the beginning of window 0."""
        return (self._first(index) + self.spec.num_frames) / self.spec.fps

    def _is_wanted(self, index: int) -> bool:
        """Whether the windows before end before what is wanted does."""
        return (
            index == 0 or self._seconds is None or self._ends(index - 1) < self._seconds - TOLERANCE
        )

    def _window(
        self,
        index: int,
        pictures: PictureTimeline | None,
        sounds: SoundTimeline | None,
        filled: float,
    ) -> Window:
        """A window; what comes before the next one is forgotten."""
        spec, first, after = self.spec, self._first(index), self._first(index + 1)
        frames = torch.empty(0, 3, spec.height, spec.width, dtype=torch.uint8)
        waveform = torch.empty(0)
        if pictures is not None:
            rows = pictures.taken(first, spec.num_frames, after)
            frames = torch.from_numpy(rows).permute(0, 3, 1, 2).contiguous()
        if sounds is not None:
            rate = spec.sample_rate / spec.fps
            samples = sounds.taken(round(first * rate), spec.num_samples, round(after * rate))
            waveform = torch.from_numpy(samples)
        return Window(index, first, frames, waveform, filled)

    def _note_what_is_missing(
        self, media: MediaFile, pictures: PictureTimeline | None, sounds: SoundTimeline | None
    ) -> None:
        """Sentences on what the file claims and does not hold."""
        assert self.length is not None
        said: list[str] = []
        if sounds is not None and sounds.peak > CLIPPED:
            said.append(clipping(sounds.peak))
        if pictures is not None and sounds is not None:
            late = pictures.end - sounds.end
            if abs(late) > NOTED_LAG and min(pictures.end, sounds.end) < self.length - NOTED_LAG:
                short, fill = ("sound", "silence") if late > 0 else ("picture", "its last frame")
                said.append(f"{short} ends {abs(late):.2f} s early: {fill} stands there")
        if sounds is not None and sounds.peak == 0:
            said.append("digital silence")
        if media.decode_errors:
            said.append(f"{media.decode_errors} decode errors")
        if self.claimed is not None and self.length < self.claimed - max(NOTED_LAG, APART / 100):
            said.append(
                f"it claims {self.claimed:.1f} s and {self.length:.1f} s of it can be read; it may be cut off"
            )
        if self.length < self.spec.duration - 1e-3:
            said.append(
                f"its {self.length:.2f} s are shorter than a window of {self.spec.duration:g} s;"
                " the rest is filled up"
            )
        for sentence in said:
            self._notes.setdefault(sentence)
