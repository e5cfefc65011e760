"""What was given stays what was given: the original of one modality beside what is made for it.

file, start -> packets in an mp4: copied where mp4, its players and the cut allow it, else encoded once at a
quality that looks and sounds as the original does. Streams in constant memory, on the clock of `clock`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

from mmldm.errors import MediaError
from mmldm.media.clock import Beginning
from mmldm.media.container import Limits
from mmldm.media.decoding import MediaFile
from mmldm.types import Modality

Kind = TypeVar("Kind", AudioStream, VideoStream)


@dataclass(frozen=True)
class Given:
    """The original of one modality, for a film.

    Attributes:
        modality: Which of its streams is kept.
        path: Of a video, or of a sound file where the sound is kept.
        start: Second of the file's clock that is the beginning of the film: as `Windows.starts` and
            `ConsecutiveWindows.begins` say it.
        seconds: After which it ends; None: with the file.
        limits: Of what the file may cost.
    """

    modality: Modality
    path: Path | str
    start: float = 0.0
    seconds: float | None = None
    limits: Limits = field(default_factory=Limits)


class GivenTrack(Generic[Kind]):
    """A stream of a film that comes from a file.

    Args:
        media: The file, with the wanted stream alone.
        beginning: Of the file.
        given: What is wanted of it.

    Attributes:
        said: Sentences on how it was kept.
    """

    def __init__(self, media: MediaFile, beginning: Beginning, given: Given) -> None:
        self.media, self.beginning = media, beginning
        self.start = given.start
        # In seconds of the file's own time, and from there on.
        self.cut = beginning.origin + given.start
        self.seconds = math.inf if given.seconds is None else given.seconds
        self.said: list[str] = []
        self._reached = 0.0

    def begin(self, output: OutputContainer) -> None:
        """Adds the stream to a film that has no packet yet."""
        reason = self.why_not_copied()
        self._writing = self.encoded(output, reason) if reason else self.copied(output)
        next(self._writing)

    def write_until(self, seconds: float) -> None:
        """Writes the packets up to an instant of the film, as far as the file has them."""
        while self._reached < seconds:
            self._reached = next(self._writing, math.inf)

    def finish(self) -> None:
        """Writes the rest."""
        self.write_until(math.inf)

    @property
    def stream(self) -> Kind:
        """That of the file, as it is open now."""
        raise NotImplementedError

    @property
    def codec(self) -> str:
        """FFmpeg's name of what the stream holds, whatever decodes it."""
        return self.stream.codec_context.codec.canonical_name

    def why_not_copied(self) -> str:
        """Why the packets cannot be copied; empty where they can."""
        raise NotImplementedError

    def copied(self, output: OutputContainer) -> Iterator[float]:
        """Adds the stream, and then copies packets; gives the seconds of the film that are reached."""
        raise NotImplementedError

    def encoded(self, output: OutputContainer, reason: str) -> Iterator[float]:
        """As `copied`, with packets made anew, and says the reason."""
        raise NotImplementedError

    def mux(self, output: OutputContainer, packet: av.Packet) -> None:
        """Writes a packet of the file.

        Raises:
            MediaError: `corrupt`: mp4 does not take it.
        """
        try:
            output.mux(packet)
        except (av.ArgumentError, av.InvalidDataError) as error:
            raise MediaError(
                "corrupt",
                f"{self.media.path} is damaged or changes midway, and cannot be copied; re-encode it",
            ) from error

    def ends_before(self, what: str) -> MediaError:
        """The refusal of a file whose sound or picture is over before the film begins."""
        return MediaError(
            "too_short",
            f"the {what} of {self.media.path} ends before the film begins; start earlier",
        )

    def packets(self) -> Iterator[av.Packet]:
        """Those of the stream, up to where the file can be read."""
        try:
            for packet in self.media.container.demux(self.stream):
                if packet.size and packet.pts is not None:
                    yield packet
        except av.FFmpegError:
            self.said.append(f"{self.media.path} is cut off or damaged; what can be read is kept")
