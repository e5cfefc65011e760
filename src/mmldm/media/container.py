"""Foreign media files, opened and decoded with care: one demuxing pass, one clock, one thread.

file -> pictures and sounds with times in seconds. Hazards and rules: docs/data.md. Importing this
module does not import torch, so that workers that only probe stay small.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from mmldm.errors import MediaError
from mmldm.media.limits import Limits
from mmldm.media.picture import Picture, PictureMaker
from mmldm.media.sound import Sound, sound_of

# Without these lists FFmpeg also opens playlists and concat scripts, which name other files and
# network addresses, whatever the suffix of the file says.
VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv"
AUDIO_FORMATS = VIDEO_FORMATS + ",wav,mp3,flac,aac,aiff"
MAX_SAMPLE_RATE = 768_000
# How far (seconds) one stream may run ahead of the other in the file before it counts as first.
INTERLEAVING = 1.0
# Decoded pictures kept meanwhile; beyond that the file is opened again rather than held in memory.
LOOKAHEAD = 10


class MediaFile:
    """An open file and the streams chosen from it: the first real video and the first audio.

    Use it as a context manager and iterate over it once per `seek`; times are the file's own.

    Attributes:
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
        self._open = partial(self._open_streams, limits, formats, want_video, want_audio)
        self._open()

    def __enter__(self) -> MediaFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.container.close()

    def __iter__(self) -> Iterator[Picture | Sound]:
        """Decodes on; damaged packets are counted in `decode_errors` and passed over.

        Raises:
            MediaError: `format_change` (or `corrupt`, in a damaged file) if the picture size or
                the sample rate changes, `format_not_allowed` if nothing makes RGB of the pixels.
        """
        size: tuple[int, int] | None = None
        rate: int | None = None
        decoding_times: list[int] = []
        pictures = PictureMaker(self.path, self.video, self.note)
        for packet in self._packets():
            # AVI stores no presentation times, only the order of packets: the n-th picture shown
            # has the n-th smallest packet time. FFmpeg's guess is wrong for B-frames.
            reorder = packet.stream is self.video and self.container.format.name == "avi"
            if reorder and packet.dts is not None and packet.size:
                heapq.heappush(decoding_times, packet.dts)
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self.decode_errors += 1
                if reorder and packet.dts in decoding_times:
                    decoding_times.remove(packet.dts)
                    heapq.heapify(decoding_times)
                continue
            for frame in frames:
                self.decode_errors += bool(frame.is_corrupt)
                if reorder and decoding_times:
                    frame.pts = heapq.heappop(decoding_times)
                if frame.time is None:
                    self.decode_errors += 1
                elif isinstance(frame, av.VideoFrame):
                    if size is not None and size != (frame.width, frame.height):
                        raise self._changed("picture size")
                    size = (frame.width, frame.height)
                    yield from pictures.add(frame)
                elif isinstance(frame, av.AudioFrame):
                    if rate is not None and rate != frame.sample_rate:
                        raise self._changed("sample rate")
                    rate = frame.sample_rate
                    yield sound_of(frame, frame.time)
        yield from pictures.flush()

    def from_origin(self) -> tuple[float, Iterator[Picture | Sound]]:
        """The first instant of the file, in its own time, and everything decoded from there.

        Raises:
            MediaError: `corrupt` if nothing can be decoded.
        """
        events = iter(self)
        too_far = False
        ahead: list[Picture | Sound] = []
        first: dict[type, float] = {}
        wanted = (self.video is not None) + (self.audio is not None)
        for event in events:
            first.setdefault(type(event), event.time)
            too_far = len(ahead) == LOOKAHEAD
            if not too_far:
                ahead.append(event)
            if len(first) == wanted or event.time > min(first.values()) + INTERLEAVING:
                break
        if not first:
            raise MediaError("corrupt", f"nothing in {self.path} can be decoded{self._too_large()}")
        if too_far:
            self.container.close()
            self._open()
            return min(first.values()), iter(self)
        return min(first.values()), itertools.chain(ahead, events)

    def note(self, sentence: str) -> None:
        """Adds to `notes`, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _open_streams(
        self, limits: Limits, formats: str, want_video: bool, want_audio: bool
    ) -> None:
        self.decode_errors = 0
        self.container = _open(self.path, formats, limits)
        try:
            self.video = self._choose_video(limits) if want_video else None
            self.audio = self._choose_audio() if want_audio else None
        except MediaError:
            self.container.close()
            raise

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
        return True

    def _packets(self) -> Iterator[av.Packet]:
        streams = [stream for stream in (self.video, self.audio) if stream is not None]
        packets = self.container.demux(streams)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                self.decode_errors += 1
                return
            if packet is None:
                return
            yield packet

    def _choose_video(self, limits: Limits) -> VideoStream:
        still = av.stream.Disposition.attached_pic | av.stream.Disposition.still_image
        streams = [s for s in self.container.streams.video if not s.disposition & still]
        if not streams:
            raise MediaError("no_video", f"{self.path} has no video stream; use a sounding video")
        stream = streams[0]
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > limits.max_pixels:
            raise MediaError(
                "too_large",
                f"{self.path} is {width}x{height}, more than {limits.max_pixels} pixels; scale it"
                " down (or, in Python, pass Limits(max_pixels=...))",
            )
        # Some headers do not say the size, and in others it is not the decoder's.
        stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
        # Frame threads multiply the memory and can deadlock with PyAV's log hook.
        stream.codec_context.thread_type = "SLICE"
        stream.codec_context.thread_count = 1
        return stream

    def _choose_audio(self) -> AudioStream:
        streams = self.container.streams.audio
        if not streams:
            raise MediaError("no_audio", f"{self.path} has no audio stream; use a video with sound")
        stream = streams[0]
        if stream.codec_context.sample_rate > MAX_SAMPLE_RATE:
            raise MediaError(
                "too_large",
                f"{self.path} claims {stream.codec_context.sample_rate} samples per second, more"
                f" than {MAX_SAMPLE_RATE}; re-encode its sound",
            )
        return stream

    def _too_large(self) -> str:
        """The end of a sentence on a file that cannot be decoded."""
        if self.video is None or self.video.codec_context.width:
            return "; replace the file"
        return (
            f": it is damaged, or its pictures have more than {self.limits.max_pixels} pixels; replace"
            " the file, or scale it down"
        )

    def _changed(self, what: str) -> MediaError:
        if self.decode_errors:
            return MediaError("corrupt", f"{self.path} is damaged: its {what} changes; replace it")
        return MediaError(
            "format_change", f"the {what} of {self.path} changes midway; cut it where it changes"
        )


def _open(path: Path, formats: str, limits: Limits) -> InputContainer:
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
            f"{path} is not a media container that is opened here; convert it to mp4",
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
