"""Time windows of foreign media, exact in picture and sound.

file, start -> Clip (frames (T,3,H,W) u8, waveform (S,) f32). Frame k of a window is the last frame
whose presentation time is <= start + k / fps, sample n is the sound at start + n / sample_rate;
both on one clock, whose zero is the first instant of the file. docs/data.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmldm.media.clip import Clip
from mmldm.media.container import AUDIO_FORMATS, VIDEO_FORMATS, MediaFile
from mmldm.media.limits import Limits
from mmldm.media.picture import Picture
from mmldm.media.probe import MediaInfo, probe
from mmldm.media.sound import Sound, SoundTrack
from mmldm.media.window import FrameTrack
from mmldm.types import AV, ClipSpec

__all__ = [
    "MediaInfo", "Windows", "probe", "read_audio", "read_clip", "read_frames", "read_windows",
]  # fmt: skip

# Windows that start later than this (seconds) are reached by seeking.
SEEK_FROM = 3.0
# Seconds decoded before a window after seeking: audio decoders need some to settle.
PREROLL = 0.5


def read_clip(path: str | Path, start: float, spec: ClipSpec, limits: Limits | None = None) -> Clip:
    """Reads the window [start, start + spec.duration), `start` in seconds.

    The picture is turned upright, scaled to cover H x W with square pixels and centre-cropped.
    The sound is mixed to mono, resampled, and silent where the file has none.

    Raises:
        MediaError: As `probe`; `too_short` if the file ends before the window does.
    """
    audio, video = _read(path, start, spec, limits)
    return Clip(video, audio, spec.fps, spec.sample_rate)


def read_audio(
    path: str | Path, spec: ClipSpec, start: float = 0.0, limits: Limits | None = None
) -> Tensor:
    """Reads spec.num_samples of sound (S,) from an audio file or a video with sound.

    A file that ends early is continued with silence.

    Raises:
        MediaError: As `probe`; `too_short` if the file ends before `start`.
    """
    return _read(path, start, spec, limits, AUDIO_FORMATS, want_video=False).audio


def read_frames(
    path: str | Path, spec: ClipSpec, start: float = 0.0, limits: Limits | None = None
) -> Tensor:
    """Reads spec.num_frames frames (T,3,H,W) uint8 of a video, with or without sound.

    Raises:
        MediaError: As `probe`; `too_short` if the file ends before the window does.
    """
    return _read(path, start, spec, limits, want_audio=False).video


@dataclass(frozen=True)
class Windows:
    """Several windows of one file; a source frame that several of them show is held once.

    Attributes:
        frames: (F,3,H,W) uint8, the source frames that are shown.
        times: (F,) float64, when each is first shown, in seconds on the file's clock.
        indices: (W,T) long: which of `frames` each window shows.
        waveforms: (W,S) float32.
        starts: (W,) float64: where each window really begins, in seconds on the file's clock.
    """

    frames: Tensor
    times: Tensor
    indices: Tensor
    waveforms: Tensor
    starts: Tensor


def read_windows(
    path: str | Path, starts: Sequence[float], spec: ClipSpec, limits: Limits | None = None
) -> Windows:
    """Reads windows [start, start + spec.duration) for each of `starts` (seconds, ascending).

    Raises:
        MediaError: As `read_clip`.
    """
    clips = [read_clip(path, start, spec, limits) for start in starts]
    count = len(clips) * spec.num_frames
    begins = torch.tensor(list(starts), dtype=torch.float64)
    offsets = torch.arange(spec.num_frames, dtype=torch.float64) / spec.fps
    return Windows(
        frames=torch.cat([clip.frames for clip in clips]),
        times=(begins[:, None] + offsets).flatten(),
        indices=torch.arange(count).view(len(clips), spec.num_frames),
        waveforms=torch.stack([clip.waveform for clip in clips]),
        starts=begins,
    )


def _read(
    path: str | Path,
    start: float,
    spec: ClipSpec,
    limits: Limits | None,
    formats: str = VIDEO_FORMATS,
    want_video: bool = True,
    want_audio: bool = True,
) -> AV[Any]:
    limits = limits or Limits()
    if start > SEEK_FROM:
        with MediaFile(path, limits, formats, want_video, want_audio) as media:
            begin = media.from_origin()[0] + start
            if media.seek(begin - PREROLL):
                tracks = _collected(media, iter(media), begin, spec, limits)
                if tracks.saw_beginning:
                    return tracks.media()
    # Near the start, or the seek landed after the window's beginning (a poor index).
    with MediaFile(path, limits, formats, want_video, want_audio) as media:
        origin, events = media.from_origin()
        return _collected(media, events, origin + start, spec, limits).media()


@dataclass(frozen=True)
class _Tracks:
    """What collects a window; None where that modality is not read."""

    sound: SoundTrack | None
    frames: FrameTrack | None

    def collect(self, events: Iterator[Picture | Sound]) -> None:
        """Takes what is decoded until the window is full."""
        tracks = [track for track in (self.sound, self.frames) if track is not None]
        for event in events:
            if isinstance(event, Picture) and self.frames is not None:
                self.frames.add(event)
            elif isinstance(event, Sound) and self.sound is not None:
                self.sound.add(event)
            if all(track.complete for track in tracks):
                break

    @property
    def saw_beginning(self) -> bool:
        """Whether what is shown and heard when the window begins was decoded."""
        tracks = [track for track in (self.sound, self.frames) if track is not None]
        return all(track.saw_beginning for track in tracks)

    def media(self) -> AV[Any]:
        """Waveform (S,) and frames (T,3,H,W).

        Raises:
            MediaError: As the tracks.
        """
        return AV(
            None if self.sound is None else torch.from_numpy(self.sound.waveform()),
            None if self.frames is None else self.frames.tensor(),
        )


def _collected(
    media: MediaFile,
    events: Iterator[Picture | Sound],
    begin: float,
    spec: ClipSpec,
    limits: Limits,
) -> _Tracks:
    tracks = _Tracks(
        SoundTrack(media.path, begin, spec, media.note) if media.audio else None,
        FrameTrack(media.path, begin, spec, limits) if media.video else None,
    )
    tracks.collect(events)
    return tracks
