"""Encodes every window once, so that no training step repeats it; all processes share the work.

files -> image latents cache (raw posterior of the image VAE; for the autoencoder job)
image latents cache -> latents cache (raw posterior of the multi-modal encoders; for the generator job)
Means and log-variances are kept; statistics for normalisation are fitted on the train split. Blocks that are
whole are kept, whoever wrote them; torn ones, and those in which a file could not be read, are made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmldm.config import RunConfig
from mmldm.data.blocks import Source, fixed_starts, pieces, plan, random_starts
from mmldm.data.cache_writer import Block, CacheWriter, failures
from mmldm.data.latents import LatentCache, Splits, files_key, tensors_of
from mmldm.data.loader import MAX_FAILED_SHARE
from mmldm.data.manifest import Manifest, Split
from mmldm.errors import MediaError, UserError
from mmldm.media.reader import READING
from mmldm.media.spectrogram import AudioImage
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.image_codec import ImageCodec, LatentStatistics
from mmldm.models.image_vae import ImageVAE
from mmldm.text import printable
from mmldm.training.block_work import BlockWork, Say, fit_statistics, open_writers
from mmldm.training.distributed import Process
from mmldm.training.encoding import Encoder, Pieces, read_piece
from mmldm.types import MODALITIES, Progress

BATCH = 64
"""Cached windows encoded at once."""
LEFT_OUT = "left out, because the job began without it"


def weights_key(model: nn.Module) -> str:
    """A short hash of a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def image_latents_parts(config: RunConfig, manifest: Manifest, vae: ImageVAE) -> dict[str, Any]:
    """Everything that image latents depend on, by name."""
    return {
        "reading": READING,
        "clip": config.clip.model_dump(mode="json"),
        "windows_per_clip": config.data.windows_per_clip,
        "seed": config.seed,
        "clips": files_key(manifest),
        "image_vae": weights_key(vae),
    }


def latents_parts(images: Mapping[str, Any], autoencoder: MultiModalAutoencoder) -> dict[str, Any]:
    """Everything that latents depend on: what their image latents do, and the autoencoder."""
    return {**images, "autoencoder": weights_key(autoencoder)}


@torch.no_grad()
def cache_image_latents(
    config: RunConfig,
    manifest: Manifest,
    vae: ImageVAE,
    folder: Path,
    process: Process,
    progress: Progress,
    say: Say,
    without: Collection[str] = (),
) -> Splits:
    """files -> raw image latents of every window, both splits; what is whole on the disk is kept.

    All processes call it. Files that could not be read the last time are tried again.

    Args:
        without: Names of training files that are left out even if they can be read (`Source.name`).

    Raises:
        UserError: More than a fifth of the files of a split cannot be read, or there are none.
    """
    codec = ImageCodec(vae, LatentStatistics.scalar(1.0, 1)).to(process.device).eval()
    encoder = Encoder(manifest, codec, AudioImage(config.clip).to(process.device))
    parts = image_latents_parts(config, manifest, vae)
    held_out: Split = "held_out" if manifest.split("held_out") else "train"
    spec, count = config.clip, config.data.windows_per_clip
    # Measurements are made on clips that have both sound and picture, at windows that no seed moves.
    plans = {
        "train": plan(
            manifest.split("train"),
            lambda row: random_starts(row, spec, count, config.seed),
        ),
        "held_out": plan(
            manifest.complete.split(held_out), lambda row: fixed_starts(row, spec, count)
        ),
    }
    writers = open_writers(folder, parts, "image latents", process, say)
    for split, blocks in plans.items():
        sources = _Sources(split, blocks, manifest, config, writers[split], encoder)
        sources.without = frozenset(without) if split == "train" else frozenset()
        sources.work().fill(process, progress, say)
    return Splits.open(folder, verified=True)


@dataclass
class _Sources:
    """The files of a split, in blocks."""

    split: str
    blocks: Sequence[Sequence[Source]]
    manifest: Manifest
    config: RunConfig
    writer: CacheWriter
    encoder: Encoder
    without: frozenset[str] = frozenset()

    def work(self) -> BlockWork:
        sizes = [sum(len(source.starts) for source in block) for block in self.blocks]
        if not sizes:
            raise UserError(f"no window of the {self.split} split can be read: it has no clip.")
        return BlockWork(
            f"image latents, {self.split}", self.writer, sizes, self.keeps, self.encode, self.extra
        )

    def keeps(self, number: int, block: Block) -> bool:
        """Whether what is missing in a block has to be missing: left out, or still not to be read."""
        sources = {source.name: source for source in self.blocks[number]}
        if not (self.without & sources.keys()) <= block.failed.keys():
            return False
        return not any(
            self._is_readable(sources[name]) for name in block.failed.keys() - self.without
        )

    def _is_readable(self, source: Source) -> bool:
        try:
            for starts in pieces(source, self.config.clip):
                read_piece(self.manifest, source.entry, starts, self.config.clip)
        except MediaError:
            return False
        return True

    def encode(self, numbers: Sequence[int], told: Callable[[int], None]) -> None:
        wanted = {
            number: [s for s in self.blocks[number] if s.name not in self.without]
            for number in numbers
        }
        everything = Pieces(self.manifest, self.config.clip, wanted)
        failed: dict[str, str] = {}
        left = set(numbers)
        for number, incoming in everything.by_block(self.config.data.workers):
            windows, pictures, lost = self.encoder.block(incoming, told)
            self._write(number, windows, pictures, lost)
            left.remove(number)
            failed |= lost
            self.refuse_many(failed)
        for number in left:  # of files that are left out alone
            self._write(number, {}, {}, {})

    def _write(
        self,
        number: int,
        windows: Mapping[str, Tensor],
        pictures: Mapping[str, Tensor],
        failed: Mapping[str, str],
    ) -> None:
        names = [source.name for source in self.blocks[number]]
        out = {name: LEFT_OUT for name in names if name in self.without}
        self.writer.write(number, windows, pictures, failed={**out, **failed})

    def refuse_many(self, failed: Mapping[str, str]) -> None:
        """The loader's rule: a fifth may be missing."""
        files = sum(map(len, self.blocks))
        if len(failed) > MAX_FAILED_SHARE * files:
            name, reason = map(printable, next(iter(failed.items())))
            raise UserError(
                f"image latents: {len(failed)} of {files} clips of the {self.split} split cannot be "
                f"read any more, for example {name}: {reason}; check the folder and scan it again"
            )

    def extra(self, blocks: Sequence[Block]) -> dict[str, Any]:
        self.refuse_many(failures(blocks))
        statistics = fit_statistics(self.writer, blocks, lambda x: x)
        # (name, rows) of every file in the order of the rows, to name the clips of a step.
        files = [
            [source.name, len(source.starts)]
            for sources, block in zip(self.blocks, blocks, strict=True)
            for source in sources
            if source.name not in block.failed
        ]
        return {
            "classes": self.manifest.classes,
            "statistics": statistics.to_dict(),
            "files": files,
        }


@torch.no_grad()
def cache_latents(
    autoencoder: MultiModalAutoencoder,
    codec: ImageCodec,
    images: Splits,
    folder: Path,
    process: Process,
    progress: Progress,
    say: Say,
) -> Splits:
    """image latents cache -> raw posterior of the perceptual latents, both splits, block by block."""
    autoencoder, codec = autoencoder.to(process.device).eval(), codec.to(process.device).eval()
    parts = latents_parts(images.train.parts, autoencoder)
    writers = open_writers(folder, parts, "latents", process, say)
    for split, cache in zip(Splits._fields, images, strict=True):
        writer = writers[split]
        BlockWork(
            f"latents, {split}",
            writer,
            [block.rows for block in cache.blocks],
            partial(_is_made_from, cache),
            partial(_encode_latents, autoencoder, codec, cache, writer),
            partial(_latents_extra, cache, writer),
        ).fill(process, progress, say)
    return Splits.open(folder, verified=True)


def _is_made_from(images: LatentCache, number: int, block: Block) -> bool:
    source = images.blocks[number]
    return block.made_from == source.checksum and block.failed == source.failed


def _encode_latents(
    autoencoder: MultiModalAutoencoder,
    codec: ImageCodec,
    images: LatentCache,
    writer: CacheWriter,
    numbers: Sequence[int],
    told: Callable[[int], None],
) -> None:
    for number in numbers:
        source = images.blocks[number]
        first = int(images.ends[number]) - source.rows
        encoded: list[dict[str, Tensor]] = []
        for rows in torch.arange(first, first + source.rows).split(BATCH):
            if not len(rows):
                continue
            batch = images[rows]
            mean = batch.mean.map(lambda raw: raw.to(codec.mean.device))
            posterior = autoencoder.encode(mean.map(codec.normalise, MODALITIES))
            latents = batch._replace(
                mean=posterior.map(lambda dist: dist.mean),
                logvar=posterior.map(lambda dist: dist.logvar),
            )
            encoded.append({name: value.cpu() for name, value in tensors_of(latents).items()})
            told(len(rows))
        joined = {
            name: torch.cat([part[name] for part in encoded]) for name in (encoded or [{}])[0]
        }
        writer.write(number, joined, made_from=source.checksum, failed=source.failed)


def _latents_extra(
    images: LatentCache, writer: CacheWriter, blocks: Sequence[Block]
) -> dict[str, Any]:
    statistics = fit_statistics(writer, blocks, lambda x: x.flatten(2)[..., None])
    facts = {name: images.extra[name] for name in ("classes", "files")}
    return {**facts, "statistics": statistics.to_dict()}
