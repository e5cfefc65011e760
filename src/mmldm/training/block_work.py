"""The blocks of a cache, shared among processes: block k belongs to rank k modulo their number.

what is on the disk -> what is torn or missing -> encoded -> index. The blocks are cut by manifest and recipe,
so any number of processes goes on where another number stopped, and makes the same cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmldm.data.cache_writer import Block, CacheWriter
from mmldm.data.latents import PICTURE, Splits, block_tensors, presence_of
from mmldm.models.image_codec import LatentStatistics
from mmldm.training.distributed import Process
from mmldm.types import AV, MODALITIES, Progress

Say = Callable[[str], None]
"""Called with a sentence for the console."""
ROWS = 256
"""Read at once for the statistics."""


def open_writers(
    folder: Path, parts: Mapping[str, Any], what: str, process: Process, say: Say
) -> dict[str, CacheWriter]:
    """A writer per split; caches of other numbers make room for the new ones, which is said once."""
    writers = {split: CacheWriter(folder / split, parts) for split in Splits._fields}

    def prepare() -> None:
        reasons = [reason for w in writers.values() if (reason := w.earlier()) is not None]
        if reasons:
            say(f"{what}: {folder} is encoded again, because {reasons[0]}")
        for writer in writers.values():
            writer.prepare()

    process.on_main(prepare)
    return writers


@dataclass(frozen=True)
class BlockWork:
    """How one split's cache is written.

    Attributes:
        what: For the person: "image latents, train".
        sizes: Windows of each block, as planned.
        keeps: Whether a whole block can stay as it is.
        encode: Writes the blocks with these numbers; calls `told` with the number of windows done.
        extra: Facts for the index of the finished blocks.
    """

    what: str
    writer: CacheWriter
    sizes: Sequence[int]
    keeps: Callable[[int, Block], bool]
    encode: Callable[[Sequence[int], Callable[[int], None]], None]
    extra: Callable[[Sequence[Block]], dict[str, Any]]

    def fill(self, process: Process, progress: Progress, say: Say) -> None:
        """Makes what is not there, on all processes, and the index."""
        mine = range(process.rank, len(self.sizes), process.world)
        torn, todo = process.together(lambda: self._look(mine))
        for line in process.texts("\n".join(torn)):
            for sentence in line.splitlines():
                say(sentence)
        done = process.from_main(self.writer.finished if process.is_main else 0)
        if done and not process.maximum(torch.tensor(len(todo), device=process.device)).item():
            return
        process.on_main(self.writer.reopen)
        share = sum(self.sizes[number] for number in mine)
        here = share - sum(self.sizes[number] for number in todo)

        total = sum(self.sizes)

        def told(windows: int) -> None:
            nonlocal here
            here += windows
            if process.is_main and here < share:
                # The others are about as far.
                progress(self.what, total * here // share, total)

        process.together(lambda: self.encode(todo, told))
        process.on_main(self._close)
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

    def _close(self) -> None:
        blocks = self.writer.blocks(len(self.sizes))
        self.writer.close(blocks, self.extra(blocks))


def fit_statistics(
    writer: CacheWriter, blocks: Sequence[Block], as_images: Callable[[Tensor], Tensor]
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
            here = presence_of(windows).map(lambda mask: mask.nonzero().squeeze(1))
            shown = windows[PICTURE][here.video].unique() if pictures else here.video
            sides = AV((windows, here.audio), (pictures or windows, shown))
            chunks = sides.map(lambda side: side[1].split(ROWS))
            for rows in zip_longest(*chunks, fillvalue=shown[:0]):
                yield AV(
                    *(
                        as_images(_two_points(stored, modality, some))
                        for modality, (stored, _), some in zip(MODALITIES, sides, rows, strict=True)
                    )
                )

    return LatentStatistics.fit(points())


def _two_points(stored: Mapping[str, Tensor], modality: str, rows: Tensor) -> Tensor:
    """Two points per number of some rows."""
    mean, logvar = (
        stored[f"{modality}_{name}"].index_select(0, rows).float() for name in ("mean", "logvar")
    )
    std = torch.exp(0.5 * logvar)
    return torch.cat([mean + std, mean - std])
