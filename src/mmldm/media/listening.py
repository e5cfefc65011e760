"""What a reader must know of a file's sound before it reads any window of it.

First seconds of sound -> Listening (how its channels are mixed, how its packets are timed). The
same seconds for every reader and every window, so that all agree. docs/data.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Discard

from mmldm.media.continuity import STEP
from mmldm.media.limits import Limits
from mmldm.media.mixing import PARTLY_CANCELLED, Mix, Powers, loudness_of, mix_of, partly_cancelled
from mmldm.media.sound import channels_of

# Seconds of sound listened to, not counting what is silent (peak below -60 dBFS).
SECONDS, QUIET = 5.0, 1e-3
# Seconds decoded at most: where the beginning is silent, and where a channel is silent so far.
AT_MOST = 30.0
# Codecs whose packets differ in length.
VARIABLE_LENGTHS = ("vorbis",)


@dataclass(frozen=True)
class Listening:
    """What the first seconds of a file's sound say of all of it.

    Attributes:
        mix: How its channels become one.
        timed_at_end: Whether packets carry the time at which their sound ends, as Vorbis in WebM
            files of old muxers does.
    """

    mix: Mix
    timed_at_end: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the person who owns the file."""
        if not self.timed_at_end:
            return self.mix.notes
        return (*self.mix.notes, "its sound packets carry the time of their end; read as such")

    def belied_by(self, powers: Powers) -> tuple[str, ...]:
        """Sentences on what the whole sound has that its first seconds do not show."""
        weights = self.mix.weights
        if len(weights) != len(powers.energies) or np.count_nonzero(weights) < 2:
            return ()
        notes = []
        if weights[powers.sounding].sum() > 1 + 1e-3:
            notes.append(
                f"a channel that is silent in the first {AT_MOST:.0f} s sounds later; the mix is"
                " louder from there on"
            )
        if self.mix.coherence >= PARTLY_CANCELLED:
            notes += partly_cancelled(powers.coherence(weights))
        return tuple(notes)


def listened(
    opened: Callable[[Path, str, Limits], InputContainer],
    path: Path,
    formats: str,
    limits: Limits,
    index: int,
) -> Listening | None:
    """`listen` to stream `index` of a file, once per file and process.

    None where there is nothing to learn: a single channel, in packets of one length.
    """
    status = path.stat()
    return _listened(opened, path, formats, limits, index, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _listened(
    opened: Callable[[Path, str, Limits], InputContainer],
    path: Path,
    formats: str,
    limits: Limits,
    index: int,
    size: int,
    mtime_ns: int,
) -> Listening | None:
    """Size and time of the file belong to what is remembered: a file that changes is heard anew."""
    with opened(path, formats, limits) as container:
        stream = next(stream for stream in container.streams.audio if stream.index == index)
        codec = stream.codec_context
        needless = codec.channels == 1 and codec.name not in VARIABLE_LENGTHS
        return None if needless else listen(container, stream)


def listen(container: InputContainer, stream: AudioStream) -> Listening | None:
    """Decodes the first seconds of `stream`, and nothing else, of a freshly opened file.

    None where nothing of it can be decoded.
    """
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    powers: Powers | None = None
    layout: av.AudioLayout | None = None
    times, lengths, rate = [], [], 1
    heard = decoded = 0.0
    for frame in _frames(container, stream):
        if powers is None or layout is None:
            layout, rate = frame.layout, frame.sample_rate
            powers, mixed = Powers(layout.nb_channels), loudness_of(layout) > 0
        if frame.layout.nb_channels != layout.nb_channels or frame.sample_rate != rate:
            break
        channels = channels_of(frame)
        powers.add(channels)
        if frame.time is not None:
            times.append(frame.time)
            lengths.append(frame.samples)
        decoded += frame.samples / rate
        if channels.size and np.abs(channels).max() > QUIET:
            heard += frame.samples / rate
        if decoded >= AT_MOST or (heard >= SECONDS and powers.sounding[mixed].all()):
            break
    if powers is None or layout is None:
        return None
    return Listening(
        mix_of(layout, powers), _timed_at_end(np.array(times), np.array(lengths), rate)
    )


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[av.AudioFrame]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            return
        if packet is None:
            return
        try:
            yield from packet.decode()
        except av.FFmpegError:
            continue


def _timed_at_end(times: np.ndarray, lengths: np.ndarray, rate: int) -> bool:
    """Whether times are whole as ends of blocks (n,) of different lengths, and torn as beginnings."""
    before = np.cumsum(lengths) - lengths

    def torn(offsets: np.ndarray) -> float:
        steps = np.abs(np.diff(offsets))
        return float(steps[steps > STEP].sum())

    as_begin, as_end = torn(times - before / rate), torn(times - (before + lengths) / rate)
    return as_end < as_begin / 4
