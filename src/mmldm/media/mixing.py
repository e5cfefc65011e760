"""How the channels of a file become one, and what else must be known of its sound before any window is read.

First seconds of sound -> Listening (weights (C,) of the mix, how packets are timed); channels (C,n) -> mono
(n,). The same seconds for every reader and every window, so that all agree. docs/data.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Discard

from mmldm.files import once_per_file
from mmldm.media.container import Limits, open_container
from mmldm.media.sound import STEP

# Relative loudness of each speaker in the mono mix (ITU-R BS.775; the low-frequency one is left
# out), scaled to sum to one: a mix of sounds within [-1,1] is within [-1,1].
FRONT, CENTRE, AROUND = 1.0, 1.414, 0.707
USUAL_LAYOUTS, UNNAMED = {2: "stereo", 6: "5.1", 8: "7.1"}, "NONE"
SPEAKERS = {"FL": FRONT, "FR": FRONT, "FC": CENTRE, "LFE": 0.0, "LFE2": 0.0}
NAMES = {"FL": "left", "FR": "right", "FC": "centre"}
# PyAV looks for more planes than there are behind these, and the process dies.
MOST_PLANES = 7
# A channel whose power is below this share of the loudest one's (-60 dB) is silent.
SOUNDING = 1e-6
# Power of the mix over what channels that have nothing in common would give. Two alike give 2, two
# equally loud ones of correlation r give 1 + r. Below CANCELLED a single channel is used instead.
CANCELLED, PARTLY_CANCELLED = 0.2, 0.6
# Channels within this share of the loudest one's power are as loud: the first of them is used.
AS_LOUD = 0.9
# Seconds of sound listened to, not counting what is silent (peak below -60 dBFS).
LISTENED, QUIET = 5.0, 1e-3
# Seconds decoded at most: where the beginning is silent, and where a channel is silent so far.
AT_MOST = 30.0
# Codecs whose packets differ in length.
VARIABLE_LENGTHS = ("vorbis",)


class Powers:
    """Sums of products of the channels of a sound, from which the power of any mix follows."""

    def __init__(self, num_channels: int) -> None:
        self.products = np.zeros((num_channels, num_channels))

    def add(self, channels: np.ndarray) -> None:
        """Takes the next samples (C,n); a block with NaN or Inf is passed over."""
        exact = channels.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            products = exact @ exact.T
        if np.isfinite(products).all():
            self.products += products

    @property
    def energies(self) -> np.ndarray:
        """Energy (C,) of each channel."""
        return np.diag(self.products)

    @property
    def sounding(self) -> np.ndarray:
        """Which channels (C,) sound at all."""
        loudest = self.energies.max()
        return (
            self.energies > SOUNDING * loudest if loudest > 0 else np.ones(len(self.energies), bool)
        )

    def coherence(self, weights: np.ndarray) -> float:
        """Energy of the mix by `weights` (C,) over what unrelated channels would give; 1 for silence."""
        unrelated = float((weights.astype(np.float64) ** 2 * self.energies).sum())
        return float(weights @ self.products @ weights) / unrelated if unrelated > 0 else 1.0


@dataclass(frozen=True)
class Listening:
    """What the first seconds of a file's sound say of all of it.

    Attributes:
        weights: (C,) float32, by which its channels become one.
        notes: Sentences for the person who owns the file.
        coherence: As `Powers.coherence`, of the sound that the weights were chosen by.
        timed_at_end: Whether packets carry the time at which their sound ends, as Vorbis in WebM
            files of old muxers does.
    """

    weights: np.ndarray
    notes: tuple[str, ...] = ()
    coherence: float = 1.0
    timed_at_end: bool = False

    def mixed(self, channels: np.ndarray) -> np.ndarray:
        """Mono (n,) of channels (C,n)."""
        return channels[0] if len(channels) == 1 else self.weights @ channels

    def belied_by(self, powers: Powers) -> tuple[str, ...]:
        """Sentences on what the whole sound has that its first seconds do not show."""
        weights = self.weights
        if len(weights) != len(powers.energies) or np.count_nonzero(weights) < 2:
            return ()
        notes = []
        if weights[powers.sounding].sum() > 1 + 1e-3:
            notes.append(
                f"a channel that is silent in the first {AT_MOST:.0f} s sounds later; the mix is"
                " louder from there on"
            )
        if self.coherence >= PARTLY_CANCELLED:
            notes += _partly_cancelled(powers.coherence(weights))
        return tuple(notes)


def channels_of(frame: av.AudioFrame) -> np.ndarray:
    """Samples (C,n) float32 of a decoded block; full scale is 1."""
    if frame.format.is_planar and frame.layout.nb_channels > MOST_PLANES:
        packed = frame.format.packed.name
        (frame,) = av.AudioResampler(packed, frame.layout, frame.sample_rate).resample(frame)
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / 2.0 ** (8 * samples.dtype.itemsize - 1)
    return samples.astype(np.float32)


@once_per_file
def listened(path: Path, formats: str, limits: Limits, index: int) -> Listening | None:
    """`listen` to stream `index` of a file.

    None where there is nothing to learn: a single channel, in packets of one length.
    """
    with open_container(path, formats, limits) as container:
        stream = next(stream for stream in container.streams.audio if stream.index == index)
        codec = stream.codec_context
        needless = codec.channels == 1 and codec.name not in VARIABLE_LENGTHS
        return None if needless else listen(container, stream)


def listen(container: InputContainer, stream: AudioStream) -> Listening | None:
    """Decodes the first seconds of `stream`, and nothing else, of a freshly opened file.

    None where nothing of it can be decoded.
    """
    # The container passes over all other packets.
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all

    powers: Powers | None = None
    layout: av.AudioLayout | None = None
    times, lengths, rate = [], [], 1
    # Seconds that were loud enough to say something, and all of them.
    heard = decoded = 0.0
    for frame in _frames(container, stream):
        if powers is None or layout is None:
            layout, rate = frame.layout, frame.sample_rate
            powers, mixed = Powers(layout.nb_channels), _loudness_of(layout) > 0
        if frame.layout.nb_channels != layout.nb_channels or frame.sample_rate != rate:
            break
        channels = channels_of(frame)
        powers.add(channels)
        if frame.time is not None:
            times.append(frame.time)
            lengths.append(frame.samples)

        # Enough is heard when it was loud for long enough, and no channel that is mixed still seems silent.
        decoded += frame.samples / rate
        if channels.size and np.abs(channels).max() > QUIET:
            heard += frame.samples / rate
        if decoded >= AT_MOST or (heard >= LISTENED and powers.sounding[mixed].all()):
            break
    if powers is None or layout is None:
        return None
    mix = _mix_of(layout, powers)
    if not _timed_at_end(np.array(times), np.array(lengths), rate):
        return mix
    note = "its sound packets carry the time of their end; read as such"
    return replace(mix, notes=(*mix.notes, note), timed_at_end=True)


def usual_mix(layout: av.AudioLayout) -> Listening:
    """The mix of a layout whose channels are not known yet: all count as sounding."""
    loudness = _loudness_of(layout)
    return Listening(loudness / loudness.sum())


def _mix_of(layout: av.AudioLayout, powers: Powers) -> Listening:
    """The mix of a file from the first seconds of its sound.

    Channels that are silent do not lower the others. Channels that cancel are not mixed.
    """
    if layout.nb_channels == 1:
        return usual_mix(layout)

    # The channel that stands for all where they cannot be mixed: the first of the loudest.
    loudness, names = _loudness_of(layout), _names(layout)
    audible = powers.sounding & (loudness > 0)
    candidates = powers.energies * audible if audible.any() else powers.energies
    loudest = int(np.argmax(candidates >= AS_LOUD * candidates.max()))
    alone = np.zeros(len(loudness), np.float32)
    alone[loudest] = 1
    if not audible.any():
        return Listening(alone, (f"only its {names[loudest]} channel sounds",))

    # BS.775 over those that sound, unless they cancel.
    weights = (loudness / loudness[audible].sum()).astype(np.float32)
    coherence = powers.coherence(weights)
    if coherence < CANCELLED:
        cancelled = "its channels cancel each other when they are mixed"
        return Listening(alone, (f"{cancelled}; its {names[loudest]} channel alone is used",))
    notes = []
    silent = [names[k] for k in np.flatnonzero((loudness > 0) & ~audible)]
    if silent:
        notes.append(f"its {_list(silent)} silent; its mix is as loud as if there were none")
    return Listening(weights, (*notes, *_partly_cancelled(coherence)), coherence)


def _partly_cancelled(coherence: float) -> tuple[str, ...]:
    """A note where a mix loses much of the channels' loudness."""
    if coherence >= PARTLY_CANCELLED:
        return ()
    loss = -10 * np.log10(max(coherence, 1e-6))
    return (f"its channels partly cancel each other when they are mixed ({loss:.0f} dB are lost)",)


def _loudness_of(layout: av.AudioLayout) -> np.ndarray:
    """Relative loudness (C,) float32 of the speakers of a layout in the mix."""
    loudness = np.array([SPEAKERS.get(name, AROUND) for name in _speakers(layout)], np.float32)
    return loudness if loudness.any() else np.ones(layout.nb_channels, np.float32)


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[av.AudioFrame]:
    """What of a stream can be decoded; damaged packets are passed over."""
    with suppress(av.FFmpegError):
        for packet in container.demux(stream):
            with suppress(av.FFmpegError):
                yield from packet.decode()


def _timed_at_end(times: np.ndarray, lengths: np.ndarray, rate: int) -> bool:
    """Whether times are whole as ends of blocks (n,) of different lengths, and torn as beginnings."""
    before = np.cumsum(lengths) - lengths  # Samples before each block.

    def torn(offsets: np.ndarray) -> float:
        """Seconds by which blocks at `offsets` (n,) do not join."""
        steps = np.abs(np.diff(offsets))
        return float(steps[steps > STEP].sum())

    as_begin, as_end = torn(times - before / rate), torn(times - (before + lengths) / rate)
    return as_end < as_begin / 4


def _speakers(layout: av.AudioLayout) -> list[str]:
    """FFmpeg's names of the speakers; of those usual for the number of channels where they have no names."""
    speakers = [channel.name for channel in layout.channels]
    if set(speakers) != {UNNAMED}:
        return speakers
    usual = USUAL_LAYOUTS.get(len(speakers))
    return [channel.name for channel in av.AudioLayout(usual).channels] if usual else []


def _names(layout: av.AudioLayout) -> list[str]:
    """What a person calls the channels."""
    speakers = _speakers(layout) or [f"{number}." for number in range(1, layout.nb_channels + 1)]
    return [NAMES.get(speaker, speaker) for speaker in speakers]


def _list(names: list[str]) -> str:
    """The subject of a sentence, and its verb."""
    if len(names) == 1:
        return f"{names[0]} channel is"
    return f"{', '.join(names[:-1])} and {names[-1]} channels are"
