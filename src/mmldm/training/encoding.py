"""Files of a block to image latents: each source frame is encoded once, sound once a window.

data.blocks.Source -> pieces, read by workers -> windows audio (W,1,c,h,w), pictures video (F,c,h,w), each
the mean and log-variance of the image VAE's posterior. Sound goes by windows because the outer columns of an
audio image depend on where its window ends, as they do when a clip is generated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmldm.data.blocks import Source, pieces
from mmldm.data.clips import class_numbers
from mmldm.data.manifest import Entry, Manifest
from mmldm.errors import MediaError, UserError
from mmldm.media.clip import frames_to_images
from mmldm.media.reader import Windows, read_windows
from mmldm.media.spectrogram import AudioImage
from mmldm.models.image_codec import ImageCodec
from mmldm.pipelines.precision import Precision, used_in
from mmldm.types import ClipSpec

IMAGES = 68
"""Encoded at once."""


@dataclass(frozen=True)
class Piece:
    """Some windows of a file as they come from a worker.

    Attributes:
        block: Number of the block it belongs to.
        media: None where the file cannot be read.
        reason: Why not.
    """

    block: int
    source: Source
    media: Windows | None
    reason: str = ""


class Pieces(Dataset[Piece]):
    """The pieces of some blocks, in order.

    Args:
        blocks: Number -> sources.
    """

    def __init__(
        self, manifest: Manifest, spec: ClipSpec, blocks: Mapping[int, Sequence[Source]]
    ) -> None:
        self._manifest, self._spec = manifest, spec
        self._pieces = [
            (number, source, starts)
            for number, sources in blocks.items()
            for source in sources
            for starts in pieces(source, spec)
        ]

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, index: int) -> Piece:
        # A file that cannot be read is told to the parent, which counts them; it ends no worker.
        number, source, starts = self._pieces[index]
        try:
            media = read_piece(self._manifest, source.entry, starts, self._spec)
        except MediaError as error:
            return Piece(number, source, None, str(error))
        return Piece(number, source, media)

    def by_block(self, workers: int) -> Iterator[tuple[int, Iterator[Piece]]]:
        """Every block with its pieces, which `workers` processes read ahead."""
        return groupby(self._read(workers), key=lambda piece: piece.block)

    def _read(self, workers: int) -> Iterator[Piece]:
        try:
            # Without a batch size torch passes on what is no tensor, sequence or mapping as it is.
            yield from DataLoader(self, batch_size=None, num_workers=workers)
        except RuntimeError as error:
            # torch's own words for a worker that died.
            if not str(error).startswith("DataLoader"):
                raise
            raise UserError(
                f"a reading process was lost ({error}): look for a clip that the decoder cannot "
                "survive, or for too little memory, or use fewer data.workers"
            ) from error


def read_piece(
    manifest: Manifest, entry: Entry, starts: Sequence[float], spec: ClipSpec
) -> Windows:
    """Windows of an entry's file; black or silent where it lacks a stream.

    Raises:
        MediaError: As `read_windows`.
    """
    read = read_windows(
        manifest.file(entry), starts, spec, want_video=entry.has_video, want_audio=entry.has_audio
    )
    count = len(starts)
    if not entry.has_audio:
        return replace(read, waveforms=torch.zeros(count, spec.num_samples))
    if not entry.has_video:  # one black picture stands for all
        return replace(
            read,
            frames=torch.zeros(1, 3, spec.height, spec.width, dtype=torch.uint8),
            times=torch.zeros(1, dtype=torch.float64),
            indices=torch.zeros(count, spec.num_frames, dtype=torch.long),
        )
    return read


class Encoder:
    """Encodes blocks with one image VAE.

    Args:
        codec: On its device.
        audio_image: On the same.
        precision: Of the job that reads the blocks.
    """

    def __init__(
        self,
        manifest: Manifest,
        codec: ImageCodec,
        audio_image: AudioImage,
        precision: Precision = "fp32",
    ) -> None:
        self._class_numbers = class_numbers(manifest)
        self._codec, self._audio_image = codec, audio_image
        self._device, self._precision = codec.mean.device, precision

    def block(
        self, incoming: Iterator[Piece], told: Callable[[int], None]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
        """One block: its windows and pictures, both empty if nothing can be read, and what failed.

        Both by the names on the disk (`data.latents`): windows (W,...) with audio_mean and audio_logvar
        (W,1,c,h,w), and video_index (W,T), which points into pictures video_mean and video_logvar (F,c,h,w).

        Args:
            told: Called with the number of windows of each piece.
        """
        # Items go into two queues, and what a window needs to know of them into rows of tensors.
        sound, pictures = _Queue(self._sound), _Queue(self._pictures)
        windows: list[dict[str, Tensor]] = []
        names: list[str] = []
        failed: dict[str, str] = {}
        place_of: dict[int, int] = {}
        file = None
        for piece in incoming:
            source, media = piece.source, piece.media
            if source.name != file:
                file, place_of = source.name, {}
            if media is None:
                failed[source.name] = piece.reason
                continue

            # Pictures: each once. It keeps its time, here in microseconds, in whatever piece of its file it
            # comes, so that windows of the next piece may show pictures that came with this one.
            times = [round(time * 1e6) for time in media.times.tolist()]
            new = [i for i, time in enumerate(times) if time not in place_of]
            place_of |= {times[i]: pictures.count + place for place, i in enumerate(new)}
            pictures.add(media.frames[new])

            # Windows: their sound, and where their pictures will lie.
            entry, count = source.entry, len(media.starts)
            sound.add(media.waveforms)
            shown = [[place_of[times[i]] for i in indices] for indices in media.indices.tolist()]
            windows.append(
                {
                    "label": torch.full((count,), self._class_numbers[entry.class_name]),
                    "present": torch.tensor([[entry.has_audio, entry.has_video]] * count),
                    "start": media.starts,
                    "video_index": torch.tensor(shown),
                }
            )
            names += [source.name] * count
            told(count)

        # A file that fails half-way is left out as a whole.
        kept = torch.tensor([name not in failed for name in names], dtype=torch.bool)
        if not kept.any():
            return {}, {}, failed
        stored = {name: torch.cat([part[name] for part in windows]) for name in windows[0]}
        stored |= {f"audio_{name}": x for name, x in sound.encoded().items()}
        video = {f"video_{name}": x for name, x in pictures.encoded().items()}
        return {name: x[kept] for name, x in stored.items()}, video, failed

    def _pictures(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames u8 (F,3,H,W) -> mean and log-variance (F,c,h,w)."""
        mean, logvar = self._posterior(frames_to_images(frames.to(self._device))[None])
        return mean[0], logvar[0]

    def _sound(self, waveforms: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms (W,S) -> mean and log-variance (W,1,c,h,w)."""
        return self._posterior(self._audio_image.image(waveforms.to(self._device)))

    def _posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B,F,3,H,W) -> mean and log-variance (B,F,c,h,w)."""
        with used_in(self._precision, self._device):
            return self._codec.posterior(images)


class _Queue:
    """Gathers what is to be encoded, so that small files share a call; keeps results as float16 on the CPU.

    Args:
        encode: Items (n,...) -> mean and log-variance (n,...).
    """

    def __init__(self, encode: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        self._encode = encode
        self._waiting: list[Tensor] = []
        self._done: list[tuple[Tensor, Tensor]] = []
        self.count = 0

    def add(self, items: Tensor) -> None:
        """Takes (n,...) more."""
        self._waiting.append(items)
        self.count += len(items)
        if sum(map(len, self._waiting)) >= IMAGES:
            self._flush()

    def encoded(self) -> dict[str, Tensor]:
        """Mean and log-variance of all items, (n,...) each, in order."""
        self._flush()
        mean, logvar = (torch.cat(parts) for parts in zip(*self._done, strict=True))
        return {"mean": mean, "logvar": logvar}

    def _flush(self) -> None:
        if not sum(map(len, self._waiting)):
            return
        for items in torch.cat(self._waiting).split(IMAGES):
            mean, logvar = self._encode(items)
            self._done.append((mean.half().cpu(), logvar.half().cpu()))
        self._waiting = []
