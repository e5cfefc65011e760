"""Encodes every window once, so that no training step repeats it; all processes share the work.

files -> image latents cache (raw posterior of the image VAE; for the autoencoder job)
image latents cache -> latents cache (raw posterior of the multi-modal encoders; for the generator job)
Means and log-variances are kept; statistics for normalisation are fitted on the train split.

what is on the disk -> what is torn or missing -> encoded -> index. Manifest and recipe cut the blocks, and
block k belongs to rank k modulo their number: any number of processes goes on where another stopped, and
makes the same cache. What is whole is kept; what is torn, or lacks a file that could not be read, is made
again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmldm.config import RunConfig
from mmldm.data.blocks import Source, fixed_starts, pieces, plan, random_starts
from mmldm.data.cache_writer import CacheBlock, CacheWriter, failures, weights_key
from mmldm.data.latents import (
    PICTURE,
    LatentCache,
    Splits,
    block_tensors,
    files_key,
    presence_of,
    tensors_of,
)
from mmldm.data.loader import MAX_FAILED_SHARE
from mmldm.data.manifest import Manifest, Split
from mmldm.errors import MediaError, UserError
from mmldm.media.reader import READING
from mmldm.media.spectrogram import AudioImage
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.image_codec import ImageCodec, LatentStatistics
from mmldm.models.image_vae import ImageVAE
from mmldm.pipelines.precision import used_in
from mmldm.text import printable
from mmldm.training.distributed import Process
from mmldm.training.encoding import Encoder, Pieces, read_piece
from mmldm.types import AV, MODALITIES, Modality, Progress, Say

BATCH = 64
"""Cached windows encoded at once."""
CHUNK = 256
"""Read at once for the statistics."""
LEFT_OUT = "left out, because the job began without it"


def latents_parts(images: Mapping[str, Any], autoencoder: MultiModalAutoencoder) -> dict[str, Any]:
    """Everything that latents depend on: what their image latents do, and the autoencoder."""
    return {**images, "autoencoder": weights_key(autoencoder)}


@dataclass(frozen=True)
class Encoding:
    """Makes the caches of a run; all processes call it, and whatever is whole on the disk is kept.

    In the precision of the jobs that read them, which makes no cache another one: it rounds, as devices do.

    Args:
        config: The recipe.
        folder: Where the caches lie, image_latents/ and latents/.
        process: This process.
        progress: Of the encoding.
        say: Called by rank 0.
    """

    config: RunConfig
    manifest: Manifest
    folder: Path
    process: Process
    progress: Progress
    say: Say

    def image_latents_parts(self, vae: ImageVAE) -> dict[str, Any]:
        """Everything that image latents depend on, by name."""
        return {
            "reading": READING,
            "clip": self.config.clip.model_dump(mode="json"),
            "windows_per_clip": self.config.data.windows_per_clip,
            "seed": self.config.seed,
            "clips": files_key(self.manifest),
            "image_vae": weights_key(vae),
        }

    @torch.no_grad()
    def encode_images(self, vae: ImageVAE, without: Collection[str] = ()) -> Splits:
        """files -> raw image latents of every window, both splits.

        Files that could not be read the last time are tried again.

        Args:
            without: Names of training files that are left out even if they can be read (`Source.name`).

        Raises:
            UserError: More than a fifth of the files of a split cannot be read, or there are none.
        """
        spec, count, manifest = self.config.clip, self.config.data.windows_per_clip, self.manifest
        anywhere = partial(random_starts, spec=spec, count=count, seed=self.config.seed)
        evenly = partial(fixed_starts, spec=spec, count=count)
        # Measurements are made on clips that have both sound and picture, at windows that no seed moves.
        held_out: Split = "held_out" if manifest.split("held_out") else "train"
        plans = {
            "train": plan(manifest.split("train"), anywhere),
            "held_out": plan(manifest.complete.split(held_out), evenly),
        }

        device = self.process.device
        codec = ImageCodec(vae, LatentStatistics.scalar(1.0, 1)).to(device).eval()
        precision = self.config.autoencoder.train.precision
        encoder = Encoder(manifest, codec, AudioImage(spec).to(device), precision)
        writers = self._writers("image latents", self.image_latents_parts(vae))
        for split, blocks in plans.items():
            left_out = frozenset(without) if split == "train" else frozenset()
            _ImageLatents(self, split, writers[split], blocks, encoder, left_out).fill()
        return Splits.open(self.folder / "image_latents", verified=True)

    @torch.no_grad()
    def encode(self, vae: ImageVAE, autoencoder: MultiModalAutoencoder, images: Splits) -> Splits:
        """image latents -> raw posterior of the perceptual latents, both splits, block by block."""
        device = self.process.device
        autoencoder = autoencoder.to(device).eval()
        codec = ImageCodec(vae, autoencoder.image_statistics).to(device).eval()
        writers = self._writers("latents", latents_parts(images.train.parts, autoencoder))
        for split, cache in images._asdict().items():
            _Latents(self, split, writers[split], cache, autoencoder, codec).fill()
        return Splits.open(self.folder / "latents", verified=True)

    def _writers(self, what: str, parts: Mapping[str, Any]) -> dict[str, CacheWriter]:
        """A writer per split; caches of other numbers make room for the new ones, which is said once."""
        folder = self.folder / what.replace(" ", "_")
        writers = {split: CacheWriter(folder / split, parts) for split in Splits._fields}

        def prepare() -> None:
            reasons = [reason for w in writers.values() if (reason := w.earlier()) is not None]
            if reasons:
                self.say(f"{what}: {folder} is encoded again, because {reasons[0]}")
            for writer in writers.values():
                writer.prepare()

        self.process.on_main(prepare)
        return writers


class BlockWork(ABC):
    """How one split's cache is written, block by block, by all processes.

    Args:
        what: For the person: "image latents, train".
        sizes: Windows of each block, as planned.
    """

    def __init__(
        self, encoding: Encoding, what: str, writer: CacheWriter, sizes: Sequence[int]
    ) -> None:
        self.encoding, self.what, self.writer, self.sizes = encoding, what, writer, sizes

    @abstractmethod
    def keeps(self, number: int, block: CacheBlock) -> bool:
        """Whether a whole block can stay as it is."""

    @abstractmethod
    def encode(self, numbers: Sequence[int], told: Callable[[int], None]) -> None:
        """Writes the blocks with these numbers; calls `told` with the number of windows done."""

    @abstractmethod
    def extra(self, blocks: Sequence[CacheBlock]) -> dict[str, Any]:
        """Facts for the index of the finished blocks."""

    def fill(self) -> None:
        """Makes what is not there, on all processes, and the index."""
        process, progress = self.encoding.process, self.encoding.progress
        # What of this process's share is torn, and what is left to do: nothing, if all is done everywhere.
        mine = range(process.rank, len(self.sizes), process.world)
        torn, todo = process.together(lambda: self._look(mine))
        for line in process.texts("\n".join(torn)):
            for sentence in line.splitlines():
                self.encoding.say(sentence)
        done = process.from_main(self.writer.finished if process.is_main else 0)
        if done and not process.maximum(torch.tensor(len(todo), device=process.device)).item():
            return

        # Without its index the cache is unfinished from here on until all blocks stand.
        process.on_main(self.writer.reopen)
        total, share = sum(self.sizes), sum(self.sizes[number] for number in mine)
        here = share - sum(self.sizes[number] for number in todo)

        def told(windows: int) -> None:
            nonlocal here
            here += windows
            if process.is_main and here < share:
                # The others are about as far.
                progress(self.what, total * here // share, total)

        def close() -> None:
            blocks = self.writer.blocks(len(self.sizes))
            self.writer.close(blocks, self.extra(blocks))

        process.together(lambda: self.encode(todo, told))
        process.on_main(close)
        if process.is_main:
            progress(self.what, total, total)

    def _look(self, mine: range) -> tuple[list[str], list[int]]:
        """What is torn of this process's blocks, and which of them are to be made."""
        torn, todo = [], []
        for number in mine:
            block = self.writer.block(number)
            damage = block and block.damage(self.writer.folder)
            if damage:
                torn.append(f"{self.what}: {damage}; that part is encoded again")
            if block is None or damage or not self.keeps(number, block):
                todo.append(number)
        return torn, todo


class _ImageLatents(BlockWork):
    """The files of a split, in blocks of planned sources.

    Args:
        without: Names of sources that are left out even if they can be read.
    """

    def __init__(
        self,
        encoding: Encoding,
        split: str,
        writer: CacheWriter,
        blocks: Sequence[Sequence[Source]],
        encoder: Encoder,
        without: frozenset[str],
    ) -> None:
        sizes = [sum(len(source.starts) for source in block) for block in blocks]
        if not sizes:
            raise UserError(f"no window of the {split} split can be read: it has no clip.")
        super().__init__(encoding, f"image latents, {split}", writer, sizes)
        self.split, self.blocks, self.encoder, self.without = split, blocks, encoder, without
        self.manifest, self.config = encoding.manifest, encoding.config

    def keeps(self, number: int, block: CacheBlock) -> bool:
        """Whether what is missing in a block has to be missing: left out, or still not to be read."""
        # A file that can be read again, and is not left out, belongs into its block.
        sources = {source.name: source for source in self.blocks[number]}
        if not (self.without & sources.keys()) <= block.failed.keys():
            return False
        unread = block.failed.keys() - self.without
        return not any(self._is_readable(sources[name]) for name in unread)

    def _is_readable(self, source: Source) -> bool:
        try:
            for starts in pieces(source, self.config.clip):
                read_piece(self.manifest, source.entry, starts, self.config.clip)
        except MediaError:
            return False
        return True

    def encode(self, numbers: Sequence[int], told: Callable[[int], None]) -> None:
        # Workers read the files ahead, block after block; what they lose on the way is counted at once.
        wanted = {
            number: [s for s in self.blocks[number] if s.name not in self.without]
            for number in numbers
        }
        everything = Pieces(self.manifest, self.config.clip, wanted)
        failed: dict[str, str] = {}
        for number, incoming in everything.by_block(self.config.data.workers):
            windows, pictures, lost = self.encoder.block(incoming, told)
            all_lost = {**self._left_out(number), **lost}
            self.writer.write(number, windows, pictures, failed=all_lost)
            failed |= lost
            self._refuse_many(failed)
        # Blocks of nothing but files that are left out do not come from the workers.
        for number in numbers:
            if not wanted[number]:
                self.writer.write(number, {}, {}, failed=self._left_out(number))

    def _left_out(self, number: int) -> dict[str, str]:
        """The files of a block that are left out -> why."""
        names = [source.name for source in self.blocks[number]]
        return {name: LEFT_OUT for name in names if name in self.without}

    def _refuse_many(self, failed: Mapping[str, str]) -> None:
        """The loader's rule: a fifth may be missing."""
        files = sum(map(len, self.blocks))
        if len(failed) > MAX_FAILED_SHARE * files:
            name, reason = map(printable, next(iter(failed.items())))
            raise UserError(
                f"image latents: {len(failed)} of {files} clips of the {self.split} split cannot be "
                f"read any more, for example {name}: {reason}; check the folder and scan it again"
            )

    def extra(self, blocks: Sequence[CacheBlock]) -> dict[str, Any]:
        self._refuse_many(failures(blocks))
        statistics = fit_statistics(self.writer, blocks, lambda x: x).to_dict()
        # (name, windows) of every file in their order, to name the clips of a step.
        files = [
            [source.name, len(source.starts)]
            for sources, block in zip(self.blocks, blocks, strict=True)
            for source in sources
            if source.name not in block.failed
        ]
        return {"classes": self.manifest.classes, "statistics": statistics, "files": files}


class _Latents(BlockWork):
    """The blocks of a cache of image latents, one for one."""

    def __init__(
        self,
        encoding: Encoding,
        split: str,
        writer: CacheWriter,
        images: LatentCache,
        autoencoder: MultiModalAutoencoder,
        codec: ImageCodec,
    ) -> None:
        sizes = [block.rows for block in images.blocks]
        super().__init__(encoding, f"latents, {split}", writer, sizes)
        self.images, self.autoencoder, self.codec = images, autoencoder, codec

    def keeps(self, number: int, block: CacheBlock) -> bool:
        """Whether the block was encoded from the image latents that are there now."""
        source = self.images.blocks[number]
        return block.made_from == source.checksum and block.failed == source.failed

    def encode(self, numbers: Sequence[int], told: Callable[[int], None]) -> None:
        for number in numbers:
            source = self.images.blocks[number]
            end = int(self.images.ends[number])
            encoded: dict[str, list[Tensor]] = {}
            for start in range(end - source.rows, end, BATCH):
                chosen = torch.arange(start, min(start + BATCH, end))
                for name, tensor in self._encoded(chosen).items():
                    encoded.setdefault(name, []).append(tensor)
                told(len(chosen))
            joined = {name: torch.cat(tensors) for name, tensors in encoded.items()}
            self.writer.write(number, joined, made_from=source.checksum, failed=source.failed)

    def _encoded(self, chosen: Tensor) -> dict[str, Tensor]:
        """Some windows, (n,) long, as the tensors (n,...) that are stored: raw posteriors (n,C,T',H',W')."""
        batch, device = self.images[chosen], self.codec.mean.device
        mean = batch.mean.map(lambda raw: raw.to(device))
        with used_in(self.encoding.config.generator.train.precision, device):
            posterior = self.autoencoder.encode(mean.map(self.codec.normalise, MODALITIES))
        latents = batch._replace(
            mean=posterior.map(lambda dist: dist.mean.float()),
            logvar=posterior.map(lambda dist: dist.logvar.float()),
        )
        return {name: value.cpu() for name, value in tensors_of(latents).items()}

    def extra(self, blocks: Sequence[CacheBlock]) -> dict[str, Any]:
        # A statistic per channel: (B,C,T',H',W') is viewed as images (B,C,N,1).
        statistics = fit_statistics(self.writer, blocks, lambda x: x.flatten(2)[..., None])
        facts = {name: self.images.extra[name] for name in ("classes", "files")}
        return {**facts, "statistics": statistics.to_dict()}


def fit_statistics(
    writer: CacheWriter, blocks: Sequence[CacheBlock], as_images: Callable[[Tensor], Tensor]
) -> LatentStatistics:
    """Statistics of the posteriors in a cache, once they are viewed as (..., C, H, W).

    Mean plus and minus the standard deviation have the mean and the variance of the posterior's
    samples. The samples' variance counts, not the means': a channel that the posterior leaves near
    its prior has means near zero, and dividing by their spread would blow noise up to full size.
    What a clip lacks does not count; a source frame counts once, however many windows show it.
    """

    def points() -> Iterator[AV[Tensor]]:
        for number, block in enumerate(blocks):
            windows, pictures = block_tensors(writer.folder, number, block)
            if not windows:
                continue
            # Which windows of the block have sound, and which pictures it shows.
            here = presence_of(windows).map(lambda mask: mask.nonzero().squeeze(1))
            shown = windows[PICTURE][here.video].unique() if pictures else here.video
            stored = AV(windows, pictures or windows)
            chunks = AV(here.audio, shown).map(lambda indices: indices.split(CHUNK))
            for indices in zip_longest(*chunks, fillvalue=shown[:0]):
                yield stored.map(_two_points, MODALITIES, AV(*indices)).map(as_images)

    return LatentStatistics.fit(points())


def _two_points(stored: Mapping[str, Tensor], modality: Modality, indices: Tensor) -> Tensor:
    """Two points per stored number: (2n,...) of the entries with these indices, (n,) long."""
    mean, logvar = (
        stored[f"{modality}_{name}"].index_select(0, indices).float() for name in ("mean", "logvar")
    )
    std = torch.exp(0.5 * logvar)
    return torch.cat([mean + std, mean - std])
