"""The original picture of a file in a film, with its size, turn and timing.

file, start -> H.264, H.265, AV1 or VP9 packets as they are, or H.264. docs/data.md says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain

import numpy as np
import torch
from av.container import OutputContainer
from av.video.stream import VideoStream

from mmldm.media.clock import TIE
from mmldm.media.encoders import PictureEncoder
from mmldm.media.given import GivenTrack
from mmldm.media.picture import FrameConverter, Picture
from mmldm.media.reader import decoded_from

COPIED = ("h264", "hevc", "av1", "vp9")
"""FFmpeg's names of what mp4 holds and browsers, phones and desktop players take from it."""
UNTIMED = ("avi", "mpeg")
"""Containers whose packets do not say when their pictures are shown."""
CRF = 14
"""Of x264, for a picture that is encoded once more."""


class GivenPicture(GivenTrack[VideoStream]):
    """As `GivenTrack`, of the picture."""

    @property
    def stream(self) -> VideoStream:
        """As `GivenTrack.stream`."""
        assert self.media.video is not None
        return self.media.video

    def why_not_copied(self) -> str:
        """As `GivenTrack.why_not_copied`; where they can be, the file stands behind its first packet."""
        if self.codec not in COPIED:
            return f"players do not take {self.codec} from an mp4"
        if self.media.container.format.name in UNTIMED:
            return "its packets do not say when they are shown"
        # The first frame of the film must be a key frame.
        late = self.cut - (self.beginning.picture or 0.0) > TIE
        if late and not self.media.seek(self.cut + TIE):
            return "the file cannot be cut without decoding it"
        self._following = self.packets()
        self._key = next(self._following, None)
        if self._key is not None and self._key.is_keyframe and self._key.pts is not None:
            shown = float(self._key.pts * self._key.time_base)
            if abs(shown - self.cut) <= TIE:
                return ""
        self.media.rewind()
        return "the cut is not at a key frame"

    def copied(self, output: OutputContainer) -> Iterator[float]:
        """As `GivenTrack.copied`: from a key frame on."""
        key, codec = self._key, self.stream.codec_context
        assert key is not None and key.pts is not None
        copy = output.add_stream_from_template(self.stream, opaque=True)
        if self.codec == "hevc":
            copy.codec_context.codec_tag = "hvc1"  # The one that Apple's players know.
        self._say("copied as it is")
        yield 0.0

        # In ticks of the file's own clock, from the key frame on.
        tick, zero = float(key.time_base), key.pts
        over = self.seconds / tick
        frame = max(1, round(self.beginning.clock.nominal / tick))
        last, latest = -frame * (codec.has_b_frames + 1) - 1, 0
        for packet in chain([key], self._following):
            # Pictures shown before the key frame need what lies before it.
            shown = (packet.pts or 0) - zero
            if shown < 0:
                continue
            # Some files do not say when the first packets are decoded; that must rise, too.
            decoded = last + 1 if packet.dts is None else max(last + 1, packet.dts - zero)
            if decoded >= over:
                break
            if shown >= over and packet.is_disposable:
                continue
            last, latest = min(decoded, shown), max(latest, shown)
            packet.pts, packet.dts, packet.stream = shown, last, copy
            self.mux(output, packet)
            yield last * tick
        # Later pictures are decoded before earlier ones that need them.
        if latest >= over:
            rest = (latest + frame - over) * tick
            self.said.append(
                f"its last {rest:.2f} s are needed for those before: it ends so much later"
            )

    def encoded(self, output: OutputContainer, reason: str) -> Iterator[float]:
        """As `GivenTrack.encoded`: upright and with square pixels, at its own instants, as H.264."""
        pictures = self._decoded()
        first = next(pictures, None)
        if first is None:
            raise self.ends_before("picture")
        width, height = first[1].upright_size
        converter = FrameConverter(self.media.path, height, width, self.media.limits)
        rate = Fraction(1 / self.beginning.clock.nominal).limit_denominator(1001)
        encoder = PictureEncoder(output, (height, width), rate, CRF, timed=True)
        self._say(f"encoded once, as H.264 of crf {CRF} at {width}x{height}: {reason}")
        yield 0.0

        over = 0.0
        for begins, picture, ends in chain([first], pictures):
            frame = torch.from_numpy(np.ascontiguousarray(converter.convert(picture)))
            encoder.add(frame.permute(2, 0, 1)[None], begins)
            over = ends
            yield begins
        encoder.finish(over)
        self.said += self.media.notes

    def _say(self, how: str) -> None:
        """What becomes of the picture, in a sentence."""
        codec = self.stream.codec_context
        what = f"the picture of {self.media.path} ({self.codec}, {codec.width}x{codec.height})"
        self.said.append(f"{what} is {how}")

    def _decoded(self) -> Iterator[tuple[float, Picture, float]]:
        """Pictures with the seconds of the film at which they begin and are over."""
        last: Picture | None = None
        gap = nominal = self.beginning.clock.nominal
        for event in decoded_from(self.media, self.beginning, self.start):
            if not isinstance(event, Picture) or (last is not None and event.time <= last.time):
                continue
            if last is not None:
                gap = event.time - last.time
                if event.time > self.cut + TIE:
                    yield self._on_film(last, event.time)
            if event.time - self.cut >= self.seconds:
                return
            last = event
        if last is not None:
            # A header may claim that the last picture stands for weeks.
            yield self._on_film(last, last.time + max(min(last.duration or gap, gap), nominal))

    def _on_film(self, picture: Picture, until: float) -> tuple[float, Picture, float]:
        """A picture and when the film shows it."""
        begins = max(picture.time - self.cut, 0.0)
        return begins, picture, max(begins, min(until - self.cut, self.seconds))
