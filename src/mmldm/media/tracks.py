"""Which of several tracks is read: the one that players take.

streams of one kind -> stream, and a sentence that names it. docs/data.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from av.audio.stream import AudioStream
from av.stream import Disposition
from av.video.stream import VideoStream

Track = TypeVar("Track", AudioStream, VideoStream)

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


def preferred(streams: Sequence[Track]) -> Track:
    """The default stream, unless it is a commentary or the like; else the first that is none."""

    def rank(stream: Track) -> tuple[bool, bool, bool]:
        mark = stream.disposition
        side = bool(mark & SIDE_TRACKS) or SIDE_TITLE.search(_title(stream)) is not None
        return side, not mark & Disposition.default, bool(mark & Disposition.dub)

    return min(streams, key=rank)


def described(stream: Track, streams: Sequence[Track]) -> str:
    """Number, language, title and size of a stream, as far as it tells them."""
    language = stream.metadata.get("language", "und")
    about = [] if language == "und" else [language]
    if title := _title(stream):
        about.append(repr(title))
    if isinstance(stream, AudioStream):
        kind, count = "audio", stream.codec_context.channels
        about.append(f"{count} channel{'s' if count > 1 else ''}")
    else:
        kind = "video"
        about.append(f"{stream.codec_context.width}x{stream.codec_context.height}")
    number = [other.index for other in streams].index(stream.index) + 1
    return f"{kind} track {number} of {len(streams)} ({', '.join(about)})"


def _title(stream: AudioStream | VideoStream) -> str:
    """As Matroska or as MOV and MP4 keep it."""
    return stream.metadata.get("title") or stream.metadata.get("name") or ""
