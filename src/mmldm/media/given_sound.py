"""The original sound of a file in a film, with its channels, rate and length.

file, start -> AAC, MP3, Opus or FLAC packets as they are, or AAC. docs/data.md says which.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer

from mmldm.media.clock import TIE
from mmldm.media.encoders import AAC_RATES, SoundEncoder
from mmldm.media.given import GivenTrack
from mmldm.media.joining import JoinedSound, SoundLine
from mmldm.media.mixing import USUAL_LAYOUTS
from mmldm.media.reader import decoded_from
from mmldm.media.sound import HOLD, Sound

ROLL = {"aac": 0.05, "mp3": 0.12, "opus": 0.08, "flac": 0.0}
"""What mp4 holds and browsers, phones and desktop players take from it (FFmpeg's names), each with the
seconds that a decoder needs before the cut; an edit list hides them."""
CHANNEL_RATE = 160_000
"""Bits a second for a channel of sound that is encoded, of which AAC takes at most six per sample."""
AAC_LAYOUTS = frozenset(
    {"mono", "stereo", "2.1", "3.0", "3.0(back)", "3.1", "4.0", "4.1", "quad", "quad(side)", "5.0",
     "5.0(side)", "5.1", "5.1(side)", "6.0", "6.1", "hexagonal", "7.0", "7.1", "7.1(wide)"}
)  # fmt: skip


class GivenSound(GivenTrack[AudioStream]):
    """As `GivenTrack`, of the sound."""

    @property
    def stream(self) -> AudioStream:
        """As `GivenTrack.stream`."""
        assert self.media.audio is not None
        return self.media.audio

    def why_not_copied(self) -> str:
        """As `GivenTrack.why_not_copied`."""
        codec = self.stream.codec_context
        if self.codec not in ROLL:
            return f"players do not take {self.codec} from an mp4"
        fine = (self.stream.time_base or 1) * codec.sample_rate <= 1
        if not (fine or codec.frame_size or self.codec == "opus"):
            return "its packets do not say how long they are"
        if self.codec == "flac" and self.cut - (self.beginning.sound or 0.0) > TIE:
            return "it is cut"
        return ""

    def copied(self, output: OutputContainer) -> Iterator[float]:
        """As `GivenTrack.copied`: laid end to end; an edit list hides what lies before the cut."""
        rate, over = self.stream.codec_context.sample_rate, self.seconds
        over *= rate
        copy = output.add_stream_from_template(self.stream, opaque=True)
        self._say("copied as it is")
        yield 0.0

        written = -math.inf
        for position, packet in self._laid(rate):
            if position >= over:
                break
            # Times must rise: of packets that overlap for good, those that come too late are left out.
            if position <= written:
                continue
            written = position
            length = _samples_of(packet, self.stream)
            packet.stream, packet.time_base = copy, Fraction(1, rate)
            packet.pts = packet.dts = position
            packet.duration = max(1, int(min(length, over - position)))
            self.mux(output, packet)
            yield position / rate
        if written == -math.inf:
            raise self.ends_before("sound")

    def encoded(self, output: OutputContainer, reason: str) -> Iterator[float]:
        """As `GivenTrack.encoded`: with all its channels, as AAC."""
        sounds = self._decoded()
        first = next(sounds, None)
        if first is None:
            raise self.ends_before("sound")
        # Channels stay as they are where AAC has them.
        count = len(first.channels)
        layout = self.stream.codec_context.layout.name
        if layout not in AAC_LAYOUTS:
            layout = USUAL_LAYOUTS.get(count, "mono")
        channels = len(av.AudioLayout(layout).channels)
        bit_rate = channels * min(CHANNEL_RATE, 5 * min(first.rate, max(AAC_RATES)))
        encoder = SoundEncoder(output, first.rate, layout, bit_rate)
        how = f"encoded once, as AAC of {bit_rate // 1000} kb/s at {encoder.rate} Hz"
        mixed = "" if channels == count else ", mixed to mono"
        self._say(f"{how}{mixed}: {reason}")
        yield 0.0

        # From the cut to the end, in one line.
        joined = JoinedSound(self.media.path, self.cut, first.rate)
        over = self.seconds * first.rate
        for sound in chain([first], sounds):
            samples = sound.channels if channels == count else sound.samples[np.newaxis]
            for part in joined.add(sound.time, samples):
                encoder.add(_until(part, joined.count, over))
            yield joined.count / first.rate
            if joined.count >= over:
                break
        else:
            for part in joined.finish():
                encoder.add(_until(part, joined.count, over))
        if not joined.count:
            raise self.ends_before("sound")
        encoder.finish()
        self.said += self.media.notes

    def _say(self, how: str) -> None:
        """What becomes of the sound, in a sentence."""
        codec = self.stream.codec_context
        many = f"{codec.channels} channel{'s' * (codec.channels > 1)}"
        what = f"the sound of {self.media.path} ({self.codec}, {codec.sample_rate} Hz, {many})"
        self.said.append(f"{what} is {how}")

    def _laid(self, rate: int) -> Iterator[tuple[int, av.Packet]]:
        """The packets that are needed from the cut on, with their positions in samples."""
        line: SoundLine[av.Packet] = SoundLine(self.cut, rate)
        earliest = self.cut - ROLL[self.codec]
        for packet in self.packets():
            length, time = _samples_of(packet, self.stream), _time_of(packet)
            if time + length / rate > earliest:
                yield from line.add(time, length, packet)
        yield from line.finish()

    def _decoded(self) -> Iterator[Sound]:
        """Blocks from HOLD seconds before the cut on."""
        for event in decoded_from(self.media, self.beginning, self.start):
            if isinstance(event, Sound) and event.end >= self.cut - HOLD:
                yield event


def _time_of(packet: av.Packet) -> float:
    return float((packet.pts or 0) * packet.time_base)


def _samples_of(packet: av.Packet, stream: AudioStream) -> int:
    """How many samples a packet makes: clocks of 1 ms do not say it, codecs with frames of one size do."""
    rate, usual = stream.codec_context.sample_rate, stream.codec_context.frame_size
    claimed = round((packet.duration or 0) * packet.time_base * rate)
    rounding = math.ceil(packet.time_base * rate)
    is_usual = usual > 0 and (not claimed or abs(claimed - usual) <= rounding)
    return usual if is_usual else claimed


def _until(part: np.ndarray, count: int, over: float) -> np.ndarray:
    """What of the last samples (C,n) of `count` lies before `over`, clipped to [-1,1]."""
    length = part.shape[1]
    return part[:, : max(0, int(min(length, over - count + length)))].clip(-1, 1)
