"""Clips to files that play everywhere: mp4 (H.264 yuv420p, AAC, index in front) and wav.

Clip (frames (T,3,H,W) u8, waveform (S,) f32) -> .mp4, .wav or, as a contact sheet, .png.
"""

from __future__ import annotations

import wave
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from torch import Tensor
from torch.nn import functional as F

from mmldm.errors import UserError
from mmldm.files import whole_file
from mmldm.media.clip import Clip
from mmldm.media.colour import BT709, usual_matrix
from mmldm.media.sheet import contact_sheet, save_png

AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)

# Numbers of ITU-T H.273. Apple's players know 6 for BT.601, and not 5.
TAGS = {Colorspace.ITU709: 1, Colorspace.ITU601: 6}


def save_clip(clip: Clip, path: Path) -> Path:
    """As `Clip.save`."""
    if not clip.waveform.isfinite().all():
        raise UserError(f"cannot save {path}: its sound holds NaN or infinite samples")
    match path.suffix.lower():
        case ".mp4":
            write_mp4(path, clip)
        case ".wav":
            write_wav(path, clip.waveform, clip.sample_rate)
        case ".png":
            save_png(path, contact_sheet([clip], [path.stem]))
        case suffix:
            raise UserError(f"cannot save {path}: {suffix!r} is not one of .mp4, .wav, .png")
    return path


def write_mp4(path: Path, clip: Clip) -> None:
    """Writes picture and sound to one mp4; samples outside [-1,1] are clipped.

    H.264 in 4:2:0 has even sizes only: an odd picture gets its last row or column repeated. A
    sample rate that AAC does not know is resampled to 48 kHz. The matrix is the usual one for the size, so
    that players that overlook the colour tags are right, too.

    Raises:
        UserError: The file cannot be written.
    """
    pictures = _even(clip.frames).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    with (
        whole_file(path) as temporary,
        _refusals_of_the_disk(),
        av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as output,
    ):
        # The picture's stream, with its colours.
        rate = Fraction(clip.fps).limit_denominator(1001)
        # x264's macroblock tree reads memory it has not set in pictures of few macroblocks: the same
        # clip would be another file each time.
        options = {"crf": "17", "preset": "veryfast", "x264-params": "mbtree=0"}
        video = output.add_stream("libx264", rate=rate, options=options)
        video.width, video.height = pictures.shape[2], pictures.shape[1]
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        matrix = usual_matrix(video.width, video.height)
        video.codec_context.colorspace = TAGS[matrix]
        video.codec_context.color_primaries = video.codec_context.color_trc = BT709
        video.codec_context.color_range = int(ColorRange.MPEG)

        # The sound's stream.
        audio_rate = clip.sample_rate if clip.sample_rate in AAC_RATES else 48000
        # FFmpeg's default search of quantisers takes three times as long and keeps less of these sounds.
        coder = {"aac_coder": "fast"}
        audio = output.add_stream("aac", rate=audio_rate, layout="mono", options=coder)
        audio.bit_rate = 128_000 if audio_rate >= 32000 else 64_000

        # Encoders hold some frames back; None asks for the rest.
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=matrix,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
            )
            output.mux(video.encode(frame))
        output.mux(video.encode(None))

        resampler = av.AudioResampler(format="fltp", layout="mono", rate=audio_rate)
        for block in [*resampler.resample(_audio_frame(clip.waveform, clip.sample_rate)), None]:
            output.mux(audio.encode(block))


def write_wav(path: Path, waveform: Tensor, sample_rate: int) -> None:
    """Writes mono 16-bit PCM.

    Args:
        waveform: (S,) in [-1,1]; values outside are clipped.

    Raises:
        UserError: The file cannot be written.
    """
    samples = (waveform.detach().float().cpu().clamp(-1, 1) * 32767).round().numpy()
    with whole_file(path) as temporary, wave.open(str(temporary), "wb") as output:
        output.setnchannels(1)
        output.setsampwidth(2)
        output.setframerate(sample_rate)
        output.writeframes(samples.astype("<i2").tobytes())


@contextmanager
def _refusals_of_the_disk() -> Iterator[None]:
    """FFmpeg's errors as those of the system."""
    try:
        yield
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error


def _even(frames: Tensor) -> Tensor:
    """Frames (T,3,H,W) with even H and W: the last row or column is repeated."""
    height, width = frames.shape[-2:]
    if height % 2 == 0 and width % 2 == 0:
        return frames
    padded = F.pad(frames.float(), (0, width % 2, 0, height % 2), mode="replicate")
    return padded.to(frames.dtype)


def _audio_frame(waveform: Tensor, sample_rate: int) -> av.AudioFrame:
    """A waveform (S,) as one block of sound, clipped to [-1,1]."""
    samples = waveform.detach().float().cpu().clamp(-1, 1).numpy()[np.newaxis]
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="mono")
    frame.sample_rate = sample_rate
    frame.pts = 0
    frame.time_base = Fraction(1, sample_rate)
    return frame
