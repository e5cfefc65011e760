"""Streams of an mp4 that are encoded piece by piece: H.264 in 4:2:0 and AAC, as all players take them.

frames (n,3,H,W) u8, samples (C,m) f32 -> packets in an output container. Memory does not grow with length.
"""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from torch import Tensor
from torch.nn import functional as F

from mmldm.media.colour import BT709, usual_matrix

AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
# Numbers of ITU-T H.273. Apple's players know 6 for BT.601, and not 5.
TAGS = {Colorspace.ITU709: 1, Colorspace.ITU601: 6}
TICKS = 90_000
"""A second in the times of pictures at a variable rate."""


class PictureEncoder:
    """The picture's stream of a film: H.264 in 4:2:0, which has even sizes only.

    An odd picture gets its last row or column repeated. The matrix is the usual one for the size, so that
    players that overlook the colour tags are right, too.

    Args:
        size: Height and width of the frames to come.
        rate: Frames a second, or about that many where `timed`.
        crf: x264's quality; 17 looks as the original does.
        timed: Whether each frame comes with a time of its own.
    """

    def __init__(
        self,
        output: OutputContainer,
        size: tuple[int, int],
        rate: Fraction,
        crf: int = 17,
        timed: bool = False,
    ) -> None:
        self._output = output
        # x264's macroblock tree reads memory it has not set in pictures of few macroblocks: the same
        # clip would be another file each time.
        options = {"crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0"}
        stream = output.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = size[0] + size[0] % 2, size[1] + size[1] % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        if timed:
            stream.codec_context.time_base = Fraction(1, TICKS)
        self._matrix = usual_matrix(stream.width, stream.height)
        stream.codec_context.colorspace = TAGS[self._matrix]
        stream.codec_context.color_primaries = stream.codec_context.color_trc = BT709
        stream.codec_context.color_range = int(ColorRange.MPEG)
        # One for all frames: each would set up its own conversion, which takes longer than encoding it.
        self._converter = VideoReformatter()
        self._stream, self._last = stream, 0.0

    def add(self, frames: Tensor, time: float | None = None) -> None:
        """Takes the next frames (n,3,H,W) u8; where the stream is timed, one frame and its time (seconds)."""
        for picture in _even(frames).permute(0, 2, 3, 1).contiguous().cpu().numpy():
            frame = self._converter.reformat(
                av.VideoFrame.from_ndarray(picture, format="rgb24"),
                format="yuv420p",
                dst_colorspace=self._matrix,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
            )
            if time is not None:
                frame.time_base, frame.pts = Fraction(1, TICKS), round(time * TICKS)
                self._last = time
            self._output.mux(self._stream.encode(frame))

    def finish(self, until: float | None = None) -> None:
        """Writes what the encoder holds back; a timed stream shows its last frame `until` (seconds)."""
        packets = self._stream.encode(None)
        if until is not None:
            # The last frame shown need not be the last that is stored.
            last = max(packets, key=_shown_at)
            last.duration = max(1, round((until - self._last) / last.time_base))
        self._output.mux(packets)


class SoundEncoder:
    """The sound's stream of a film: AAC. A sample rate that AAC does not know is resampled.

    Args:
        rate: Of the samples to come, in Hz.
        layout: FFmpeg's name of the channels to come; one of those that AAC has.
        bit_rate: Bits a second; None for what suits generated sound, for each channel.

    Attributes:
        rate: Of the stream, in Hz.
    """

    def __init__(
        self,
        output: OutputContainer,
        rate: int,
        layout: str = "mono",
        bit_rate: int | None = None,
    ) -> None:
        self._output, self._from, self._layout = output, rate, layout
        self.rate = rate if rate in AAC_RATES else 96000 if rate > 96000 else 48000
        # FFmpeg's default search of quantisers takes three times as long and keeps less of these sounds.
        coder = {"aac_coder": "fast"}
        stream = output.add_stream("aac", rate=self.rate, layout=layout, options=coder)
        each = 128_000 if self.rate >= 32000 else 64_000
        stream.bit_rate = bit_rate or each * stream.layout.nb_channels
        self._stream, self._count = stream, 0
        self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=self.rate)

    def add(self, samples: np.ndarray) -> None:
        """Takes the next samples (C,m) float32 in [-1,1]."""
        if not samples.shape[1]:
            return
        # One plane per channel for one, and all in one plane for more: PyAV knows at most seven planes.
        kind, rows = ("fltp", samples) if len(samples) == 1 else ("flt", samples.T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(rows), format=kind, layout=self._layout
        )
        frame.sample_rate = self._from
        frame.pts, frame.time_base = self._count, Fraction(1, self._from)
        self._count += samples.shape[1]
        for block in self._resampler.resample(frame):
            self._output.mux(self._stream.encode(block))

    def finish(self) -> None:
        """Writes what resampler and encoder hold back."""
        if self._from != self.rate:
            for block in self._resampler.resample(None):
                self._output.mux(self._stream.encode(block))
        self._output.mux(self._stream.encode(None))


def _shown_at(packet: av.Packet) -> int:
    return packet.pts or 0


def _even(frames: Tensor) -> Tensor:
    """Frames (T,3,H,W) with even H and W: the last row or column is repeated."""
    height, width = frames.shape[-2:]
    if height % 2 == 0 and width % 2 == 0:
        return frames
    padded = F.pad(frames.float(), (0, width % 2, 0, height % 2), mode="replicate")
    return padded.to(frames.dtype)
