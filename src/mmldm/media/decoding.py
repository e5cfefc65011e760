"""Foreign media files decoded with care: one demuxing pass, one clock, one thread.

file -> pictures and sounds with times in seconds. Hazards and rules: docs/data.md. Importing this
module does not import torch, so that workers that only probe stay small.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from mmldm.errors import MediaError
from mmldm.media.clock import LOOKED_AT, Beginning, FrameClock, Shown, nominal_frame
from mmldm.media.container import (
    VIDEO_FORMATS,
    Limits,
    Note,
    audio_track,
    open_container,
    unsaid,
    video_track,
)
from mmldm.media.mixing import Listening, channels_of, listened, usual_mix
from mmldm.media.picture import Picture, PictureMaker
from mmldm.media.sound import Sound

Stream = TypeVar("Stream")


class MediaFile:
    """An open file and the streams chosen from it: the video and the audio that a player takes.

    Use it as a context manager and iterate over it once per `seek`; times are the file's own.

    Attributes:
        video: The video stream; None where the picture is not wanted.
        audio: The audio stream; None where the sound is not wanted.
        listening: What the first seconds of the sound say of all of it; None for a single channel.
        decode_errors: Damaged packets and frames met since the file was opened or rewound.
        notes: Sentences for the person who owns the file: what was chosen, changed or guessed in reading it.

    Args:
        formats: FFmpeg's names of the containers allowed.
        want_video: Whether the picture is decoded.
        want_audio: Whether the sound is decoded.

    Raises:
        MediaError: `unreadable`, `format_not_allowed`, `no_video`, `no_audio`, `too_large`.
    """

    def __init__(
        self,
        path: str | Path,
        limits: Limits,
        formats: str = VIDEO_FORMATS,
        want_video: bool = True,
        want_audio: bool = True,
    ) -> None:
        self.path, self.limits = Path(path), limits
        self.notes: list[str] = []
        self._formats = formats
        self._want_video, self._want_audio = want_video, want_audio
        self._open()

    def __enter__(self) -> MediaFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.container.close()

    def __iter__(self) -> Iterator[Picture | Sound | Shown]:
        """Decodes on; damaged packets are counted in `decode_errors` and passed over.

        Where the picture is not wanted, it is `Shown` in the order of packets, not of times. After a seek
        only pictures that follow a key frame count: some decoders show others, made of nothing.

        Raises:
            MediaError: `format_change` (or `corrupt`, in a damaged file) if the picture size or
                the sample rate changes, `format_not_allowed` if nothing makes RGB of the pixels.
        """
        size: tuple[int, int] | None = None
        rate: int | None = None
        key_time = math.inf if self._sought else -math.inf
        pictures = PictureMaker(self.path, self.video, self.note)
        for packet in self._packets():
            # Packets that need no decoding: before the key frame, not wanted, or only to be timed.
            if isinstance(packet.stream, VideoStream):
                time = _time_of(packet)
                if key_time == math.inf:
                    if not packet.is_keyframe or time is None:
                        continue
                    key_time = time
                if not self._want_video and not self._guessed_times:
                    if time is not None and time >= key_time and not packet.is_discard:
                        yield Shown(time, float((packet.duration or 0) * packet.time_base))
                    continue
            elif not self._want_audio:
                continue

            # What the others hold. A clip cannot change its size or its rate midway.
            for at, frame in self._decoded(packet):
                if isinstance(frame, av.VideoFrame):
                    if size is not None and size != (frame.width, frame.height):
                        raise self._changed("picture size")
                    size = (frame.width, frame.height)
                    if at < key_time:
                        continue
                    if self._want_video:
                        yield from pictures.add(frame)
                    else:
                        yield Shown(at, float((frame.duration or 0) * packet.time_base))
                elif isinstance(frame, av.AudioFrame):
                    if rate is not None and rate != frame.sample_rate:
                        raise self._changed("sample rate")
                    rate = frame.sample_rate
                    yield self._sound(frame, at)
        yield from pictures.flush()

    def beginning(self) -> Beginning:
        """Where picture and sound begin, whether they are wanted or not, and the frame rule.

        The nominal frame is measured on the times of the first 64 video packets, without decoding them (in
        AVI: on the order of packets). Rewind before reading on.

        Raises:
            MediaError: `corrupt` if nothing can be decoded.
        """
        # Until every stream has begun, and enough packets have said when their picture is shown.
        first: dict[str, float] = {}
        times: list[float] = []
        for packet in self._packets():
            kind = packet.stream.type
            time = _time_of(packet)
            if kind == "video" and time is not None and not packet.is_discard:
                times.append(time)
            if kind not in first:
                for at, frame in self._decoded(packet)[:1]:
                    if isinstance(frame, av.AudioFrame):
                        at = self._sound(frame, at).time
                    first[kind] = at
            measured = len(times) >= LOOKED_AT or "video" not in self._kinds
            if measured and first.keys() == self._kinds:
                break
        if not first:
            raise MediaError("corrupt", f"nothing in {self.path} can be decoded{self._too_large()}")
        clock = FrameClock(nominal_frame(times[:LOOKED_AT]))
        return Beginning(first.get("video"), first.get("audio"), clock)

    def claimed_length(self, origin: float) -> float | None:
        """Seconds from `origin` to the end of the shorter stream as the file claims, None if it does not."""
        ends = [
            float(((stream.start_time or 0) + stream.duration) * stream.time_base)
            for stream in (self.video, self.audio)
            if stream is not None and stream.duration and stream.time_base
        ]
        if not ends and self.container.duration is not None:
            ends = [((self.container.start_time or 0) + self.container.duration) / av.time_base]
        return min(ends) - origin if ends else None

    def rewind(self) -> None:
        """Goes back to the start, by opening the file again: not every container can seek."""
        self.container.close()
        self._open()

    def seek(self, time: float) -> bool:
        """Moves to a key frame at or before `time`; whether the container could.

        Not where picture times are counted from earlier packets: after a seek they would be off.
        """
        if self.container.format.name in ("avi", "mpeg"):
            return False
        try:
            self.container.seek(int(time * av.time_base), backward=True)
        except av.FFmpegError:
            return False
        self._sought = True
        return True

    def note(self, sentence: str) -> None:
        """Adds to `notes`, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _open(self) -> None:
        """Opens the file at its start, chooses the tracks, and listens to the beginning of the sound."""
        self.decode_errors = 0
        self._sought = False
        self._decoding_times: list[int] = []
        self.container: InputContainer = open_container(self.path, self._formats, self.limits)
        try:
            video = self._track(video_track, self._want_video)
            audio = self._track(audio_track, self._want_audio)
        except MediaError:
            self.container.close()
            raise
        # What is not wanted is still looked at: it says where the file begins and where frames are.
        self._streams = [stream for stream in (video, audio) if stream is not None]
        self._kinds = {stream.type for stream in self._streams}
        self.video = video if self._want_video else None
        self.audio = audio if self._want_audio else None

        # Packets of MPEG-PS may share one time; decoders then know better.
        self._guessed_times = self.container.format.name == "mpeg"
        self.listening: Listening | None = None
        if audio is not None:
            self.listening = listened(self.path, self._formats, self.limits, audio.index)
        if self.audio is not None and self.listening is not None:
            for sentence in self.listening.notes:
                self.note(sentence)

    def _track(
        self, choose: Callable[[InputContainer, Path, Limits, Note], Stream], wanted: bool
    ) -> Stream | None:
        """The chosen stream. One that is not wanted may be missing, and is not spoken of."""
        if wanted:
            return choose(self.container, self.path, self.limits, self.note)
        try:
            return choose(self.container, self.path, self.limits, unsaid)
        except MediaError:
            return None

    def _packets(self) -> Iterator[av.Packet]:
        """Up to the end of the file, or to where it cannot be read any more."""
        try:
            yield from self.container.demux(self._streams)
        except av.FFmpegError:
            self.decode_errors += 1

    def _decoded(self, packet: av.Packet) -> list[tuple[float, av.VideoFrame | av.AudioFrame]]:
        """The frames that a packet completes, each with its time in seconds."""
        # AVI stores no presentation times, only the order of packets: the n-th picture shown
        # has the n-th smallest packet time. FFmpeg's guess is wrong for B-frames.
        reorder = isinstance(packet.stream, VideoStream) and self.container.format.name == "avi"
        if reorder and packet.dts is not None and packet.size:
            heapq.heappush(self._decoding_times, packet.dts)
        try:
            frames = packet.decode()
        except av.FFmpegError:
            self.decode_errors += 1
            if reorder and packet.dts in self._decoding_times:
                self._decoding_times.remove(packet.dts)
                heapq.heapify(self._decoding_times)
            return []
        for frame in frames:
            self.decode_errors += bool(frame.is_corrupt)
            if reorder and self._decoding_times:
                frame.pts = heapq.heappop(self._decoding_times)
            self.decode_errors += frame.time is None
        return [(frame.time, frame) for frame in frames if frame.time is not None]

    def _sound(self, frame: av.AudioFrame, time: float) -> Sound:
        """A decoded block, mixed to mono, and timed by its beginning (seconds)."""
        heard = self.listening
        if heard is None or len(heard.weights) != frame.layout.nb_channels:
            heard = usual_mix(frame.layout)
        if heard.timed_at_end:
            time -= frame.samples / frame.sample_rate
        channels = channels_of(frame)
        return Sound(time, frame.sample_rate, heard.mixed(channels), channels)

    def _too_large(self) -> str:
        """The end of a sentence on a file that cannot be decoded."""
        if self.video is None or self.video.codec_context.width:
            return "; replace the file"
        return (
            f": it is damaged, or its pictures have more than {self.limits.max_pixels} pixels; replace"
            " the file, or scale it down"
        )

    def _changed(self, what: str) -> MediaError:
        """The refusal of a file whose size or rate changes: by damage, or by design."""
        if self.decode_errors:
            return MediaError("corrupt", f"{self.path} is damaged: its {what} changes; replace it")
        return MediaError(
            "format_change", f"the {what} of {self.path} changes midway; cut it where it changes"
        )


def _time_of(packet: av.Packet) -> float | None:
    """When a packet's picture is shown, in seconds; in AVI, when one of as many pictures is."""
    if not packet.size:
        return None
    ticks = packet.pts if packet.pts is not None else packet.dts
    if packet.stream.container.format.name == "avi":
        ticks = packet.dts
    return None if ticks is None else float(ticks * packet.time_base)
