"""Foreign media containers: opened under whitelists, and the tracks that are read of them.

path -> av.InputContainer -> the video and the audio stream that a player takes. Hazards and rules:
docs/data.md. Importing this module does not import torch, so that workers that only probe stay small.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from pydantic import BaseModel, ConfigDict, Field

from mmldm.errors import MediaError

Track = TypeVar("Track", AudioStream, VideoStream)
Note = Callable[[str], None]
"""Takes a sentence for the person who owns the file."""

# Without these lists FFmpeg also opens playlists and concat scripts, which name other files and
# network addresses, whatever the suffix of the file says.
VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,gif"
AUDIO_FORMATS = VIDEO_FORMATS + ",wav,mp3,flac,aac,aiff,ac3,eac3,caf,w64"
OPENED = (
    "mp4, mov, mkv, webm, avi, mpeg, ts, ogg, flv, wmv, gif; where sound is enough, also wav, mp3, flac, "
    "aac, aiff, wma, ac3, caf, w64"
)
"""The same for a person."""
MAX_SAMPLE_RATE = 768_000

# Tracks that no player takes by itself: by what they are marked as, or called.
SIDE_TRACKS = (
    Disposition.comment
    | Disposition.visual_impaired
    | Disposition.hearing_impaired
    | Disposition.descriptions
    | Disposition.karaoke
    | Disposition.lyrics
    | Disposition.clean_effects
    | Disposition.non_diegetic
    | Disposition.timed_thumbnails
    | Disposition.dependent
)
SIDE_TITLE = re.compile(r"comment|descri|karaoke|impaired", re.IGNORECASE)


class Limits(BaseModel):
    """What one foreign file may cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_pixels: int = Field(4096 * 4096, gt=0)
    """Pixels in one picture; larger ones are refused from the header, before decoding."""
    seconds: float = Field(120.0, gt=0)
    """Wall-clock time for reading one file in a scan."""


def unsaid(sentence: str) -> None:
    """A `Note` for sentences that nobody needs."""


def open_container(path: Path, formats: str, limits: Limits) -> InputContainer:
    """Opens a file for reading: the only place where that is done.

    Args:
        formats: FFmpeg's names of the containers allowed.

    Raises:
        MediaError: `unreadable`, `format_not_allowed`.
    """
    if not path.is_file():
        raise MediaError("unreadable", f"{path} is not a file; check the path")
    options = {
        "format_whitelist": formats,
        "protocol_whitelist": "file",
        "max_pixels": str(limits.max_pixels),
        "threads": "1",
    }
    try:
        # "file:" keeps a name such as "http:x.mp4" or "concat:a|b" from choosing the protocol.
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")
    except av.ArgumentError as error:
        raise MediaError(
            "format_not_allowed",
            f"{path} is not one of the media that are opened here ({OPENED}); convert it to mp4, and a sound "
            "to wav",
        ) from error
    except (av.FFmpegError, OSError) as error:
        raise MediaError(
            "unreadable", f"cannot open {path}: {error.strerror}; the file is damaged or not media"
        ) from error
    if not container.streams.video and not container.streams.audio:
        container.close()
        raise MediaError(
            "unreadable",
            f"{path} holds neither picture nor sound; it is damaged or no sounding video",
        )
    return container


def video_track(container: InputContainer, path: Path, limits: Limits, note: Note) -> VideoStream:
    """The video that a player shows, set up to be decoded within the limits.

    Raises:
        MediaError: `no_video`, `too_large`.
    """
    # Cover art and still pictures are no videos, and PyAV gives no codec context to a stream that
    # FFmpeg cannot decode.
    still = Disposition.attached_pic | Disposition.still_image
    decodable = [s for s in container.streams.video if s.codec_context is not None]
    streams = [s for s in decodable if not s.disposition & still]
    if not streams:
        raise MediaError("no_video", f"{path} has no video stream; use a sounding video")
    stream = _preferred(streams, note)
    codec = stream.codec_context
    if codec.width * codec.height > limits.max_pixels:
        raise MediaError(
            "too_large",
            f"{path} is {codec.width}x{codec.height}, more than {limits.max_pixels} pixels; scale it"
            " down (or, in Python, pass Limits(max_pixels=...))",
        )
    # Some headers do not say the size, and in others it is not the decoder's.
    codec.options = {"max_pixels": str(limits.max_pixels)}
    # Frame threads multiply the memory and can deadlock with PyAV's log hook.
    codec.thread_type, codec.thread_count = "SLICE", 1
    return stream


def audio_track(container: InputContainer, path: Path, limits: Limits, note: Note) -> AudioStream:
    """The sound that a player plays.

    Raises:
        MediaError: `no_audio`, `too_large`.
    """
    streams = [s for s in container.streams.audio if s.codec_context is not None]
    if not streams:
        known = " that can be decoded" if container.streams.audio else ""
        raise MediaError("no_audio", f"{path} has no audio stream{known}; use a video with sound")
    stream = _preferred(streams, note)
    rate = stream.codec_context.sample_rate
    if rate > MAX_SAMPLE_RATE:
        raise MediaError(
            "too_large",
            f"{path} claims {rate} samples per second, more"
            f" than {MAX_SAMPLE_RATE}; re-encode its sound",
        )
    return stream


def _preferred(streams: Sequence[Track], note: Note) -> Track:
    """The default stream, unless it is a commentary or the like; else the first that is none."""

    def rank(stream: Track) -> tuple[bool, bool, bool]:
        mark = stream.disposition
        side = bool(mark & SIDE_TRACKS) or SIDE_TITLE.search(_title(stream)) is not None
        return side, not mark & Disposition.default, bool(mark & Disposition.dub)

    stream = min(streams, key=rank)
    if len(streams) > 1:
        note(f"{_described(stream, streams)} is used")
    return stream


def _described(stream: AudioStream | VideoStream, streams: Sequence[Track]) -> str:
    """Number, language, title and size of a stream, as far as it tells them."""
    language = stream.metadata.get("language", "und")
    about = [] if language == "und" else [language]
    if title := _title(stream):
        about.append(repr(title))
    if isinstance(stream, AudioStream):
        count = stream.codec_context.channels
        about.append(f"{count} channel{'s' if count > 1 else ''}")
    else:
        about.append(f"{stream.codec_context.width}x{stream.codec_context.height}")
    number = [other.index for other in streams].index(stream.index) + 1
    return f"{stream.type} track {number} of {len(streams)} ({', '.join(about)})"


def _title(stream: AudioStream | VideoStream) -> str:
    """As Matroska or as MOV and MP4 keep it."""
    return stream.metadata.get("title") or stream.metadata.get("name") or ""
