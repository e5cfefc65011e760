"""What a foreign file really holds, found by decoding all of it.

file -> MediaInfo, or MediaError with a reason code. Headers lie (reliability: docs/data.md), so
durations and rates come from decoded timestamps only.
"""

from __future__ import annotations

from array import array
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmldm.errors import MediaError
from mmldm.files import sha256_of
from mmldm.media.container import AUDIO_FORMATS, VIDEO_FORMATS, Limits
from mmldm.media.decoding import MediaFile
from mmldm.media.mixing import Powers
from mmldm.media.picture import Picture
from mmldm.media.sound import CLIPPED, Sound, clipping, gap_notes, require_finite

# Loudest level of silence, and the samples judged together.
SILENCE, SILENCE_BLOCK = 10 ** (-90 / 20), 512
# Share of exact zeros worth a note.
NOTED_ZEROS = 0.5
# Difference between the ends of the two streams worth a note, in seconds.
NOTED_END = 0.5


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """A sounding video as measured by decoding; fields of a stream that is missing are None.

    Attributes:
        duration: Seconds from the later of first picture and first sound to the end of the shorter stream:
            windows may lie anywhere in [0, duration].
        width: Upright, with square pixels.
        height: Upright, with square pixels.
        fps: Mean frame rate.
        channels: Of the sound as stored.
        silent_share: Share of the sound below -90 dBFS, from 0 to 1; missing sound counts.
        decode_errors: Packets and frames the decoder complained about.
        notes: Sentences for the person who owns the file.
    """

    path: str
    duration: float
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    num_frames: int | None = None
    sample_rate: int | None = None
    channels: int | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    silent_share: float | None = None
    decode_errors: int
    notes: tuple[str, ...]


def probe(path: str | Path, limits: Limits | None = None, allow_missing: bool = False) -> MediaInfo:
    """Decodes the whole file once, streaming, and reports what can be used.

    Args:
        allow_missing: A file with sound alone (of an audio format, too) or picture alone will do.

    Raises:
        MediaError: `unreadable`, `format_not_allowed`, `no_video`, `no_audio`, `too_large`,
            `too_short` (a still picture), `non_finite`, `format_change`, `corrupt`.
    """
    with _open(path, limits or Limits(), allow_missing) as media:
        beginning = media.beginning()
        media.rewind()
        if beginning.note:
            media.note(beginning.note)

        # One pass over all of it, in bounded memory.
        picture, sound = _PictureTally(), _SoundTally()
        for event in media:
            if isinstance(event, Picture):
                picture.add(event)
            elif isinstance(event, Sound):
                require_finite(event.samples, path)
                sound.add(event)
        _require_whole(path, media, picture, sound)

        # What is measured of the streams that are there; the shorter one bounds the windows.
        ends: list[float] = []
        measured: dict[str, Any] = {}
        if media.video is not None:
            ends.append(picture.end)
            count = len(picture.times)
            measured |= {
                "fps": (count - 1) / (picture.times[-1] - picture.times[0]),
                "num_frames": count,
                "video_codec": media.video.codec_context.codec.name,
            }
            measured["width"], measured["height"] = picture.size or (0, 0)
        if media.audio is not None:
            ends.append(sound.end)
            heard = sound.heard / (sound.rate * (sound.end - sound.start))
            measured |= {
                "sample_rate": sound.rate,
                "channels": media.audio.codec_context.channels,
                "audio_codec": media.audio.codec_context.codec.name,
                "silent_share": max(0.0, 1 - heard),
            }
        return MediaInfo(
            path=str(path),
            duration=min(ends) - beginning.origin,
            decode_errors=media.decode_errors,
            notes=_notes(media, picture, sound),
            **measured,
        )


def probe_apart(path: str, limits: dict[str, Any], allow_missing: bool = False) -> dict[str, Any]:
    """`probe` with plain values in and out, for a worker process, and the sha256 of the file's content."""
    measured = asdict(probe(path, Limits(**limits), allow_missing))
    return {**measured, "sha256": sha256_of(Path(path))}


def _open(path: str | Path, limits: Limits, allow_missing: bool) -> MediaFile:
    """The file with both streams, or with the one that it has where the other may be missing."""
    formats = AUDIO_FORMATS if allow_missing else VIDEO_FORMATS
    try:
        return MediaFile(path, limits, formats)
    except MediaError as error:
        if not allow_missing or error.reason not in ("no_audio", "no_video"):
            raise
        has_video = error.reason == "no_audio"
    return MediaFile(path, limits, formats, want_video=has_video, want_audio=not has_video)


def _require_whole(
    path: str | Path, media: MediaFile, picture: _PictureTally, sound: _SoundTally
) -> None:
    """Refuses a file of whose streams too little could be decoded."""
    count = len(picture.times)
    if count == 1 and not media.decode_errors:
        raise MediaError("too_short", f"{path} shows a single picture, not a video")
    for what, stream, whole in (
        ("picture", media.video, count >= 2),
        ("sound", media.audio, sound.samples > 0),
    ):
        if stream is not None and not whole:
            raise MediaError("corrupt", f"the {what} of {path} cannot be decoded; replace the file")
    if media.audio is not None and media.decode_errors:
        missing = 1 - sound.samples / sound.rate / max(sound.end - sound.start, 1e-9)
        if missing > 0.5:
            raise MediaError("corrupt", f"most of the sound of {path} is damaged; replace the file")


class _PictureTally:
    """When pictures are shown, in seconds, and how large the first is.

    A picture that goes back in time is dropped.
    """

    def __init__(self) -> None:
        self.times = array("d")
        self.size: tuple[int, int] | None = None
        self._last_duration = 0.0

    def add(self, picture: Picture) -> None:
        if self.times and picture.time <= self.times[-1]:
            return
        self.size = self.size or picture.upright_size
        self.times.append(picture.time)
        self._last_duration = picture.duration

    @property
    def widest_gap(self) -> float:
        """Of the gaps between pictures, in seconds."""
        return float(np.diff(self.times).max())

    @property
    def end(self) -> float:
        """When the last picture is over; a header may claim that it stands for weeks."""
        last_gap = self.times[-1] - self.times[-2]
        return self.times[-1] + min(self._last_duration or last_gap, self.widest_gap)


class _SoundTally:
    """How much of the sound there is, how loud it is, and when its blocks begin."""

    def __init__(self) -> None:
        self.samples = self.heard = self.zeros = 0
        self.rate = 0
        self.start = self.end = self.peak = 0.0
        self.times, self.lengths = array("d"), array("q")
        self.powers: Powers | None = None

    def add(self, sound: Sound) -> None:
        if not self.samples:
            self.rate, self.start = sound.rate, sound.time
        count = len(sound.samples)
        if not count:
            return
        self.samples += count

        # Silence is that of all channels: a mix may be silent where they are not.
        largest = np.abs(sound.channels).max(axis=0)
        self.zeros += count - int(np.count_nonzero(largest))
        peaks = np.maximum.reduceat(largest, np.arange(0, count, SILENCE_BLOCK))
        self.heard += min(SILENCE_BLOCK * int((peaks > SILENCE).sum()), count)
        self.peak = max(self.peak, float(np.abs(sound.samples).max()))
        self.end = max(self.end, sound.end)

        # For gaps, and for what the mix does to the loudness.
        self.times.append(sound.time)
        self.lengths.append(count)
        if self.powers is None:
            self.powers = Powers(len(sound.channels))
        if len(sound.channels) == len(self.powers.energies):
            self.powers.add(sound.channels)

    def notes(self, media: MediaFile) -> tuple[str, ...]:
        """What was done to the sound, and what it lacks."""
        if not self.heard:
            return ("digital silence",)
        notes: list[str] = []
        if media.listening is not None and self.powers is not None:
            notes += media.listening.belied_by(self.powers)
        notes += list(gap_notes(np.array(self.times), np.array(self.lengths), self.rate))
        zeros = self.zeros / self.samples
        if zeros > NOTED_ZEROS:
            notes.append(f"{zeros:.0%} of its sound is exact zeros; listen whether it is whole")
        if self.peak > CLIPPED:
            notes.append(clipping(self.peak))
        return tuple(notes)


def _notes(media: MediaFile, picture: _PictureTally, sound: _SoundTally) -> tuple[str, ...]:
    """Sentences for the person who owns the file."""
    notes = list(media.notes)
    if media.decode_errors:
        notes.append(f"{media.decode_errors} decode errors")
    if media.audio is None:
        return (*notes, "no sound")
    notes += sound.notes(media)
    if media.video is None:
        return (*notes, "no picture")
    rest = picture.end - sound.end
    if abs(rest) > max(NOTED_END, 2 * picture.widest_gap):
        notes.append(f"{'sound' if rest > 0 else 'picture'} ends {abs(rest):.2f} s early")
    return tuple(notes)
