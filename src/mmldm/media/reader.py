"""Time windows of foreign media, exact in picture and sound.

file, starts -> Windows (frames (F,3,H,W) u8, waveforms (W,S) f32) -> Clip. A window begins at the source
frame nearest to the start asked for; each of its frames is the nearest to its instant, and sample 0 of its
sound is the instant of frame 0. The clock's zero is where picture and sound have both begun. docs/data.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmldm.errors import MediaError
from mmldm.files import once_per_file
from mmldm.media.clip import Clip
from mmldm.media.clock import TOLERANCE, Beginning, Shown
from mmldm.media.container import AUDIO_FORMATS, VIDEO_FORMATS, Limits
from mmldm.media.decoding import MediaFile
from mmldm.media.picture import FrameConverter, Picture
from mmldm.media.sound import Sound
from mmldm.media.window import FrameTrack, ShownTrack, SoundBlocks
from mmldm.types import ClipSpec

READING = 2
"""Rises when the same window of a file reads differently; keys of what is kept of windows have it."""
# Windows that start later than this (seconds) are reached by seeking.
SEEK_FROM = 3.0
# Seconds decoded before a window after seeking: where sound lies is judged on half a second of it
# (`sound.HOLD`), after the decoder has settled.
PREROLL = 1.0


@dataclass(frozen=True)
class Windows:
    """Several windows of one file; a source frame that several of them show is held once.

    Times are in seconds on the file's clock, as the starts asked for are: zero is the later of first picture
    and first sound. Sample 0 of a window's sound is the instant at which it begins.

    Attributes:
        frames: (F,3,H,W) uint8, the source frames that are shown, in the order of time; F is 0 where the
            picture is not wanted.
        times: (F,) float64, when each is first shown.
        indices: (W,T) long: which of `frames` each window shows; (W,0) where the picture is not wanted.
        waveforms: (W,S) float32; (W,0) where the sound is not wanted.
        starts: (W,) float64: where each window really begins.
        notes: Sentences on how the file was read, for the person who owns it.
        length: Seconds from zero to the end, as the file claims; None where it does not.
        size: Width and height of the file's pictures, upright; None where the picture is not wanted.
        fps: The file's nominal frames a second; None likewise.
    """

    frames: Tensor
    times: Tensor
    indices: Tensor
    waveforms: Tensor
    starts: Tensor
    notes: tuple[str, ...] = ()
    length: float | None = None
    size: tuple[int, int] | None = None
    fps: float | None = None

    def clip(self, window: int, spec: ClipSpec) -> Clip:
        """One of them, where both modalities were read."""
        frames = self.frames[self.indices[window]]
        return Clip(frames, self.waveforms[window], spec.fps, spec.sample_rate)


def read_clip(path: str | Path, start: float, spec: ClipSpec, limits: Limits | None = None) -> Clip:
    """Reads one window of spec.duration that begins at the source frame nearest to `start` (seconds).

    The picture is turned upright, scaled to cover H x W with square pixels and centre-cropped.
    The sound is mixed to mono and resampled.

    Raises:
        MediaError: As `probe`; `too_short` if the file ends before the window does.
    """
    return read_windows(path, [start], spec, limits).clip(0, spec)


def read_audio(
    path: str | Path, spec: ClipSpec, start: float = 0.0, limits: Limits | None = None
) -> Tensor:
    """Reads spec.num_samples of sound (S,) from an audio file or a video with sound.

    In a video it is the sound of the window that `read_clip` reads; in an audio file it begins exactly at
    `start`. A file that ends early is continued with silence.

    Raises:
        MediaError: As `probe`; `too_short` if the file ends before `start`.
    """
    return read_windows(path, [start], spec, limits, want_video=False).waveforms[0]


def read_frames(
    path: str | Path, spec: ClipSpec, start: float = 0.0, limits: Limits | None = None
) -> Tensor:
    """Reads spec.num_frames frames (T,3,H,W) uint8 of a video, with or without sound.

    Raises:
        MediaError: As `probe`; `too_short` if the file ends before the window does.
    """
    windows = read_windows(path, [start], spec, limits, want_audio=False)
    return windows.frames[windows.indices[0]]


def read_windows(
    path: str | Path,
    starts: Sequence[float],
    spec: ClipSpec,
    limits: Limits | None = None,
    *,
    want_video: bool = True,
    want_audio: bool = True,
) -> Windows:
    """Reads a window of spec.duration near each of `starts` (seconds), in one pass over the file.

    Args:
        want_video: Whether the picture is read; without it, audio files will do.
        want_audio: Whether the sound is read; without it, files without sound will do.

    Raises:
        MediaError: As `read_clip`, for any of the windows.
    """
    limits = limits or Limits()
    formats = VIDEO_FORMATS if want_video else AUDIO_FORMATS
    beginning = beginning_of(Path(path), formats, limits, want_video, want_audio)
    with MediaFile(path, limits, formats, want_video, want_audio) as media:
        if beginning.note:
            media.note(beginning.note)
        # A usable file may be shorter than a window by the tolerance; then there is slack below zero.
        asked = [beginning.origin + max(start, 0.0) for start in starts]
        if min(starts) > SEEK_FROM and media.seek(min(asked) - beginning.clock.nominal - PREROLL):
            collected = _Collected(media, beginning, asked, spec)
            if collected.saw_beginning:
                return collected.windows()
            # The seek landed after the window's beginning, or on no key frame before it.
            media.rewind()
        return _Collected(media, beginning, asked, spec).windows()


@once_per_file
def beginning_of(
    path: Path, formats: str, limits: Limits, want_video: bool, want_audio: bool
) -> Beginning:
    """Looked up once for all epochs: it takes as long as reading the sound of a window."""
    with MediaFile(path, limits, formats, want_video, want_audio) as media:
        return media.beginning()


def decoded_from(
    media: MediaFile, beginning: Beginning, start: float
) -> Iterator[Picture | Sound | Shown]:
    """Decodes on from what is shown and heard at `start` (seconds of the file's clock), or before.

    Raises:
        MediaError: As iteration over a `MediaFile`.
    """
    kinds = [kind for kind in (media.video, media.audio) if kind is not None]
    begin = beginning.origin + start
    if start > SEEK_FROM and media.seek(begin - beginning.clock.nominal - PREROLL):
        # Until it is clear whether the seek landed early enough for every stream.
        events, waiting = iter(media), list[Picture | Sound | Shown]()
        first: dict[type, float] = {}
        for event in events:
            waiting.append(event)
            if not isinstance(event, Shown):
                first.setdefault(type(event), event.time)
            if len(first) == len(kinds) or event.time > begin + PREROLL:
                break
        if first and max(first.values()) <= begin:
            yield from waiting
            yield from events
            return
        media.rewind()
    yield from media


class _Collected:
    """What one pass over the file gives to the windows."""

    def __init__(
        self, media: MediaFile, beginning: Beginning, asked: Sequence[float], spec: ClipSpec
    ) -> None:
        self._media, self._asked, self._spec = media, asked, spec
        self._origin, clock = beginning.origin, beginning.clock

        # Pictures that are not wanted still say where a window begins.
        converter = FrameConverter(media.path, spec.height, spec.width, media.limits)
        self._frames = FrameTrack(asked, spec, clock, converter) if media.video else None
        is_shown = beginning.picture is not None and self._frames is None
        self._shown = ShownTrack(asked, spec, clock) if is_shown else None
        blocks = SoundBlocks(media.path, asked, spec, clock, media.note)
        self._sound = blocks if media.audio else None
        self._tracks = [t for t in (self._frames, self._shown, self._sound) if t is not None]

        for event in media:
            match event:
                case Picture() if self._frames:
                    self._frames.add(event)
                case Shown() if self._shown:
                    self._shown.add(event)
                case Sound() if self._sound:
                    self._sound.add(event)
            if all(track.complete for track in self._tracks):
                break
        else:
            if self._frames:
                self._frames.finish()

    @property
    def saw_beginning(self) -> bool:
        """Whether what is shown and heard when the earliest window begins was decoded."""
        return all(track.first <= track.begin for track in self._tracks)

    def windows(self) -> Windows:
        """Every window, from the best of its starts that fits into the file.

        Raises:
            MediaError: `too_short` if the pictures end before a window does; as `SoundBlocks.waveform`.
        """
        starts = [self._start(window) for window in range(len(self._asked))]
        spec, pictures = self._spec, self._frames

        # Source frames that several windows show are held once: (F,H,W,3), and (W,T) of their numbers.
        frames = np.empty((0, spec.height, spec.width, 3), np.uint8)
        times, indices = np.empty(0), np.empty((len(starts), 0), np.int64)
        if pictures:
            chosen = [pictures.chosen(*window) for window in enumerate(starts)]
            times, flat = np.unique(np.array(chosen), return_inverse=True)
            frames = np.stack([pictures.arrays[time] for time in times])
            times -= self._origin
            indices = flat.reshape(len(starts), spec.num_frames)

        waveforms = np.empty((len(starts), 0), np.float32)
        if self._sound:
            waveforms = np.stack([self._sound.waveform(start) for start in starts])
        return Windows(
            torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(times),
            torch.from_numpy(indices),
            torch.from_numpy(waveforms),
            torch.tensor(starts, dtype=torch.float64) - self._origin,
            tuple(self._media.notes),
            self._media.claimed_length(self._origin),
            pictures.size if pictures else None,
            1 / pictures.clock.nominal if pictures else None,
        )

    def _start(self, window: int) -> float:
        """Where a window begins, in the file's own time."""
        pictures = self._frames or self._shown
        if pictures is None:
            return self._asked[window]
        starts = pictures.starts(window)
        if not starts:
            raise MediaError(
                "too_short",
                f"the picture of {self._media.path} ends before the {self._spec.duration:g} s window"
                " is full; use an earlier window or a longer file",
            )
        end = min(pictures.end, self._sound.end if self._sound else math.inf)
        fits = starts[0] + self._spec.duration <= end + TOLERANCE
        return starts[0] if fits else starts[-1]
