"""Time windows of foreign media, exact in picture and sound.

file, start -> Clip (frames (T,3,H,W) u8, waveform (S,) f32). Frame k of a window is the last frame
whose presentation time is <= start + k / fps, sample n is the sound at start + n / sample_rate;
both on one clock, whose zero is the first instant of the file. docs/data.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from mmldm.media.clip import Clip
from mmldm.media.container import AUDIO_FORMATS, VIDEO_FORMATS, Limits, MediaFile, Picture, Sound
from mmldm.media.probe import MediaInfo, probe
from mmldm.media.window import FrameTrack, SoundTrack
from mmldm.types import AV, ClipSpec

__all__ = ["MediaInfo", "probe", "read_audio", "read_clip", "read_frames"]

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


def _read(
    path: str | Path,
    start: float,
    spec: ClipSpec,
    limits: Limits | None,
    formats: str = VIDEO_FORMATS,
    want_video: bool = True,
    want_audio: bool = True,
) -> AV[Tensor]:
    limits = limits or Limits()
    if start > SEEK_FROM:
        with MediaFile(path, limits, formats, want_video, want_audio) as media:
            begin = media.from_origin()[0] + start
            if media.seek(begin - PREROLL):
                tracks = _collect(media, iter(media), begin, spec, limits)
                if all(track is None or track.saw_beginning for track in tracks):
                    return _tensors(tracks)
    # Near the start, or the seek landed after the window's beginning (a poor index).
    with MediaFile(path, limits, formats, want_video, want_audio) as media:
        origin, events = media.from_origin()
        return _tensors(_collect(media, events, origin + start, spec, limits))


def _collect(
    media: MediaFile,
    events: Iterator[Picture | Sound],
    begin: float,
    spec: ClipSpec,
    limits: Limits,
) -> AV[SoundTrack | FrameTrack | None]:
    sound = SoundTrack(media.path, begin, spec) if media.audio else None
    frames = FrameTrack(media.path, begin, spec, limits) if media.video else None
    tracks = AV(sound, frames)
    for event in events:
        if isinstance(event, Picture) and frames is not None:
            frames.add(event)
        elif isinstance(event, Sound) and sound is not None:
            sound.add(event)
        if all(track is None or track.complete for track in tracks):
            break
    return tracks


def _tensors(tracks: AV[SoundTrack | FrameTrack | None]) -> AV[Tensor]:
    return tracks.map(lambda track: track and track.tensor())
