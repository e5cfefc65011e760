"""Latents of window after window -> finished pieces of clips, of constant memory.

windows of latents AV((B,C,T',H',W')) -> frames (B,F,3,H,W) u8 and waveforms (B,S) of consecutive ticks. Of
each window the middle is decoded. Its sound goes on where that of the window before ends
(`vocoding.sound_stream`), so a piece waits for the columns that its last samples hang on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmldm.media.clip import Clip
from mmldm.pipelines.decoding import ClipCoder
from mmldm.pipelines.settings import Settings
from mmldm.pipelines.vocoding import SoundStream, sound, sound_stream
from mmldm.pipelines.windows import Window
from mmldm.types import AV

Read = Callable[[range], Tensor]
"""Given media of some ticks, in the order of time: (B,S) or (B,T,3,H,W) u8, or (1,...) for all clips."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a batch of clips that will not change any more.

    Attributes:
        frames: (B,F,3,H,W) uint8.
        waveforms: (B,S) f32 in [-1,1].
    """

    frames: Tensor
    waveforms: Tensor

    def clips(self, fps: float, sample_rate: int) -> list[Clip]:
        """One per clip of the batch."""
        return [
            Clip(frames, waveform, fps, sample_rate)
            for frames, waveform in zip(self.frames, self.waveforms, strict=True)
        ]


@dataclass(frozen=True)
class Around:
    """Known sound on the two sides of the ticks that are made.

    Attributes:
        before: Samples (B,S) that end where they begin; None: the clip begins there.
        after: Samples (B,S) from their end on; None: the clip ends there.
    """

    before: Tensor | None = None
    after: Tensor | None = None


class PieceDecoder:
    """Decodes window after window of a batch of clips.

    Args:
        given: Where a modality is known as a whole: what reads it. It is not decoded.
        around: Sound beside a gap.
        ticks: Those that are decoded, of all windows together.
        endless: Whether they have no end.
        alone: Whether there is one window only.
        generators: One CPU generator per clip, for the decoder's noise.
        class_labels: (B,), or None.
        chosen: Decoder steps, phase iterations.
        images_per_call: As in the pipeline's call.
    """

    def __init__(
        self,
        coder: ClipCoder,
        given: AV[Read | None],
        around: Around,
        ticks: range,
        endless: bool,
        alone: bool,
        generators: Sequence[torch.Generator],
        class_labels: Tensor | None,
        chosen: Settings,
        images_per_call: int | None,
    ) -> None:
        self._coder, self._given, self._around = coder, given, around
        self._stop = None if endless else ticks.stop
        self._alone = alone
        self._generators, self._labels = generators, class_labels
        self._chosen, self._images_per_call = chosen, images_per_call
        self._stream: SoundStream | None = None
        # Finished, and waiting for the other modality.
        self._frames: list[Tensor] = []
        self._sound: list[Tensor] = []
        self._next = ticks.start

    def add(self, window: Window, latents: AV[Tensor]) -> Piece | None:
        """Takes the next window with its latents AV((B,C,T',H',W')), not normalised.

        Returns:
            What is finished by it; None: nothing yet.
        """
        grid, coder = self._coder.grid, self._coder
        images, frames = coder.decode_window(
            latents,
            self._given.map(lambda read: read is None),
            window.kept(grid.frames),
            self._generators,
            self._labels,
            self._chosen.decoder_steps,
            self._images_per_call,
        )
        last = window.end == self._stop
        if images is not None:
            self._sound.append(self._sounded(images, window.kept(grid.columns), last).cpu())
        if frames is not None:
            self._frames.append(frames)
        return self._finished(math.floor(window.end), last, len(latents.audio))

    def _sounded(self, images: Tensor, inside: range, last: bool) -> Tensor:
        """Audio images (B,1,3,H,W) of a window -> the samples (B,S) that its columns `inside` finish."""
        grid, audio_image, vocoder = self._coder.grid, self._coder.audio_image, self._coder.vocoder
        iterations = self._chosen.phase_iterations
        around = self._around
        if self._alone and around.before is None and around.after is None:
            waveforms = sound(images, audio_image, vocoder, iterations)
            samples = len(inside) * grid.samples // grid.columns
            return waveforms[:, :samples] if grid.ticks > 1 else waveforms

        mel = audio_image.mel_from_image(images)
        begin, end = inside.start, inside.stop
        if self._stream is None:
            lead = mel[..., :begin] if around.before is not None and begin else None
            self._stream = sound_stream(audio_image, vocoder, iterations, around.before, lead)
        after = around.after if last else None
        trail = mel[..., end:] if after is not None and end < mel.shape[-1] else None
        return self._stream.add(mel[..., begin:end], last, after, trail)

    def _finished(self, stop: int, last: bool, count: int) -> Piece | None:
        """What both modalities of `count` clips have finished, up to tick `stop` at most."""
        grid, begin = self._coder.grid, self._next
        if self._sound and not last:
            # Whole ticks of sound; a few columns wait for what comes.
            stop = begin + sum(part.shape[1] for part in self._sound) // grid.samples
        ticks = range(begin, stop)
        if not ticks:
            return None
        self._next = stop
        audio, video = self._given
        waveforms = (
            _taken(self._sound, len(ticks) * grid.samples, last) if audio is None else audio(ticks)
        )
        frames = (
            _taken(self._frames, len(ticks) * grid.frames, last) if video is None else video(ticks)
        )
        return Piece(frames.expand(count, -1, -1, -1, -1), waveforms.expand(count, -1))


def _taken(parts: list[Tensor], units: int, last: bool) -> Tensor:
    """Takes so many units (B,n,...) off the parts, all with the last piece; what is over stays in them."""
    whole = torch.cat(parts, dim=1)
    taken, rest = (whole, whole[:, :0]) if last else (whole[:, :units], whole[:, units:])
    parts[:] = [rest]
    return taken
