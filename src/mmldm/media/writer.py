"""Clips and films of any length to files that play everywhere: mp4 (H.264 yuv420p, AAC, index in front), wav.

Clip (frames (T,3,H,W) u8, waveform (S,) f32), or pieces of one -> .mp4, .wav or, as a contact sheet, .png.
"""

from __future__ import annotations

import wave
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal

import av
from av.container import OutputContainer
from torch import Tensor

from mmldm.errors import UserError
from mmldm.files import whole_file
from mmldm.media.clip import Clip
from mmldm.media.container import AUDIO_FORMATS, VIDEO_FORMATS
from mmldm.media.decoding import MediaFile
from mmldm.media.encoders import PictureEncoder, SoundEncoder
from mmldm.media.given import Given, GivenTrack
from mmldm.media.given_picture import GivenPicture
from mmldm.media.given_sound import GivenSound
from mmldm.media.reader import beginning_of
from mmldm.media.sheet import contact_sheet, save_png
from mmldm.types import AV


class FilmWriter:
    """Writes a film of any length piece by piece; memory does not grow with it.

    Use it as a context manager: the file appears, whole, when the block ends well, and not at all if it
    fails. Picture and sound are interleaved, so pieces should carry about the same seconds of both.

        with FilmWriter("film.mp4", fps=10, sample_rate=16000) as film:
            for piece in pieces:
                film.add(piece.frames, piece.waveform)

        with FilmWriter("film.mp4", fps=10, given=Given("audio", "song.wav", start=3.0)) as film:
            for piece in pieces:
                film.add(piece.frames)
        print(*film.said, sep="\\n")

    Samples outside [-1,1] are clipped. A sample rate that AAC does not know is resampled to 48 kHz. Odd
    pictures get their last row or column repeated. A picture and a sound of different lengths stay so; what
    is given ends with the file that it is from, or after its `seconds`.

    Args:
        path: Of the mp4.
        fps: Frames per second of the picture that is made; None where the picture is given.
        sample_rate: Of the sound that is made; None where the sound is given.
        channels: Of the sound that is made: 1, or 2 for stereo.
        given: The original picture or sound that stands beside what is made; from a file.
        metadata: Of the file, by FFmpeg's names of what an mp4 has: `title`, `comment` and the like.

    Attributes:
        said: Sentences on how the given picture or sound was kept: copied or encoded, and why.

    Raises:
        UserError: The file cannot be written (at any call), or no piece came.
        MediaError: The given file cannot be used.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float | None = None,
        sample_rate: int | None = None,
        channels: Literal[1, 2] = 1,
        given: Given | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        made = AV(sample_rate is not None, fps is not None)
        if not any(made) or (given is not None and all(made)):
            raise ValueError("make picture and sound, or one of them where the other is given")
        if given is not None and getattr(made, given.modality):
            raise ValueError(f"the {given.modality} is given and cannot be made, too")
        self.path, self.said = Path(path), tuple[str, ...]()
        self._fps, self._sample_rate, self._given = fps, sample_rate, given
        self._channels = channels
        self._metadata = dict(metadata or {})
        self._picture: PictureEncoder | None = None
        self._sound: SoundEncoder | None = None
        self._track: GivenTrack | None = None
        self._begun = False
        self._frames = self._samples = 0

    @property
    def seconds(self) -> float:
        """Seconds that were made so far."""
        frames = self._frames / self._fps if self._fps else 0.0
        return max(frames, self._samples / self._sample_rate if self._sample_rate else 0.0)

    def __enter__(self) -> FilmWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(whole_file(self.path))
            # The given file is looked at before anything is made.
            if self._given is not None:
                self._track = stack.enter_context(_given_track(self._given))
            stack.enter_context(refusals_of_the_disk())
            output = av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"})
            self._output: OutputContainer = stack.enter_context(output)
            self._output.metadata.update(self._metadata)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Whatever failed, or fails here, passes through all that was entered.
        with self._stack:
            if error is not None:
                raise error
            self._finish()

    def add(self, frames: Tensor | None = None, waveform: Tensor | None = None) -> None:
        """Writes the next piece.

        Args:
            frames: (n,3,H,W) uint8, of one size in all pieces; None where the picture is given.
            waveform: (m,) or, with `channels`, (channels,m) float32 in [-1,1]; None where the sound is given.

        Raises:
            UserError: The sound is not finite, or the file cannot be written.
        """
        if waveform is not None and not waveform.isfinite().all():
            raise UserError(f"cannot save {self.path}: its sound holds NaN or infinite samples")
        with refusals_of_the_disk():
            self._begin(frames)
            # About a second at a time, so that the muxer finds both streams close together.
            steps = 1
            if frames is not None and self._fps:
                steps = max(steps, round(len(frames) / self._fps))
            elif waveform is not None and self._sample_rate:
                steps = max(steps, round(waveform.shape[-1] / self._sample_rate))
            for step in range(steps):
                if self._picture is not None and frames is not None:
                    part = _part(frames, step, steps)
                    self._picture.add(part)
                    self._frames += len(part)
                if self._sound is not None and waveform is not None:
                    rows = waveform.detach().reshape(self._channels, -1).T
                    part = _part(rows, step, steps).float().cpu().clamp(-1, 1)
                    self._sound.add(part.numpy().T)
                    self._samples += len(part)
                if self._track is not None:
                    self._track.write_until(self.seconds)

    def _begin(self, frames: Tensor | None) -> None:
        """Adds the streams, the picture first, once the size of the frames (n,3,H,W) is known."""
        if self._begun:
            return
        if self._fps is not None:
            if frames is None:
                raise ValueError("the first piece has no frames")
            height, width = frames.shape[-2:]
            rate = Fraction(self._fps).limit_denominator(1001)
            self._picture = PictureEncoder(self._output, (height, width), rate)
        elif self._track is not None:
            self._track.begin(self._output)
        if self._sample_rate is not None:
            layout = ("mono", "stereo")[self._channels - 1]
            self._sound = SoundEncoder(self._output, self._sample_rate, layout)
        elif self._track is not None:
            self._track.begin(self._output)
        self._begun = True

    def _finish(self) -> None:
        """Writes what is held back, and the rest of what is given."""
        if not self._begun:
            raise UserError(f"cannot write {self.path}: no piece of picture or sound was made")
        with refusals_of_the_disk():
            if self._picture is not None:
                self._picture.finish()
            if self._sound is not None:
                self._sound.finish()
            if self._track is not None:
                self._track.finish()
                self.said = tuple(self._track.said)


def save_clip(clip: Clip, path: Path) -> Path:
    """As `Clip.save`."""
    if not clip.waveform.isfinite().all():
        raise UserError(f"cannot save {path}: its sound holds NaN or infinite samples")
    match path.suffix.lower():
        case ".mp4":
            with FilmWriter(path, fps=clip.fps, sample_rate=clip.sample_rate) as film:
                film.add(clip.frames, clip.waveform)
        case ".wav":
            write_wav(path, clip.waveform, clip.sample_rate)
        case ".png":
            save_png(path, contact_sheet([clip], [path.stem]))
        case suffix:
            raise UserError(f"cannot save {path}: {suffix!r} is not one of .mp4, .wav, .png")
    return path


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
def _given_track(given: Given) -> Iterator[GivenTrack]:
    """Opens the file of what is given.

    Raises:
        MediaError: As `reader.read_windows`.
    """
    path, is_picture = Path(given.path), given.modality == "video"
    formats = VIDEO_FORMATS if is_picture else AUDIO_FORMATS
    beginning = beginning_of(path, formats, given.limits, is_picture, not is_picture)
    with MediaFile(path, given.limits, formats, is_picture, not is_picture) as media:
        if media.video is not None:
            yield GivenPicture(media, beginning, given)
        if media.audio is not None:
            yield GivenSound(media, beginning, given)


@contextmanager
def refusals_of_the_disk() -> Iterator[None]:
    """FFmpeg's errors as those of the system."""
    try:
        yield
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error


def _part(piece: Tensor, step: int, steps: int) -> Tensor:
    """One of `steps` about equal parts of a piece (n,...), along its first axis."""
    return piece[len(piece) * step // steps : len(piece) * (step + 1) // steps]
