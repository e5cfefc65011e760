"""Caches are written in blocks of safetensors shards, by all processes together, and resumed block by block.

posterior means and log-variances of windows -> a folder of blocks with a JSON index. A block is
    windows_00000.safetensors    one row per window
    pictures_00000.safetensors   one row per source frame that is shown; `video_index` (rows,T) points here
    block_00000.json             its rows, the checksums of both, what could not be read; written last
and a cache without index.json is unfinished. The index repeats what its blocks say, and names everything that
the numbers depend on; a short hash of that is the cache's key.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from mmldm.files import make_folder, sha256_of, tidy, whole_file, write_json

FORMAT = 2
"""Of caches; it stands for which windows they hold (`data.blocks`), too."""


def cache_key(**parts: Any) -> str:
    """A short hash of everything a cache depends on (files, clip physics, weights)."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def weights_key(model: nn.Module) -> str:
    """A short hash of a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class CacheBlock:
    """What is known of a written block.

    Attributes:
        key: Of the cache.
        rows: Windows in it.
        sha256: File name -> checksum of its one or two shards; none where it has no rows.
        made_from: Checksum of what it was encoded from, where that is a block of another cache.
        failed: File that could not be read -> why; its windows are not there.
    """

    key: str
    rows: int
    sha256: dict[str, str]
    made_from: str = ""
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def checksum(self) -> str:
        """Of the whole block."""
        return cache_key(sha256=self.sha256)

    def damage(self, folder: Path) -> str | None:
        """The first of its shards in `folder` that is not what was written, and why; None if all are.

        Raises:
            OSError: A shard cannot be read, which is no damage.
        """
        # A shard that cannot be read now may well be whole: that is not for us to encode again.
        for name, digest in self.sha256.items():
            path = folder / name
            try:
                found = sha256_of(path)
            except FileNotFoundError:
                return f"{path} is missing"
            if found != digest:
                return f"{path} is damaged, its checksum does not match"
        return None


class CacheWriter:
    """Writes blocks in any order, from any number of processes that share the folder.

    Args:
        folder: Where the cache lives.
        parts: Everything the numbers depend on, by name, as JSON values.
    """

    def __init__(self, folder: Path, parts: Mapping[str, Any]) -> None:
        self.folder, self.parts = folder, dict(parts)
        self.key = cache_key(format=FORMAT, **self.parts)

    def earlier(self) -> str | None:
        """Why what stands in the folder cannot be gone on with; None if it can, or if nothing is there."""
        # A cache that was interrupted has no index yet; what it was to be was written when it began.
        started = json_of(self.folder / "started.json") or json_of(self.folder / "index.json")
        if not started or started.get("key") == self.key:
            return None
        if started.get("format") != FORMAT:
            return f"it has format {started.get('format')}, this version writes format {FORMAT}"
        old = started.get("parts") or {}
        changed = [name for name in self.parts if old.get(name) != self.parts[name]]
        return f"it was made with other settings ({', '.join(changed)})"

    def prepare(self) -> None:
        """Discards another cache and what a killed process left half-written. One process alone calls it."""
        if self.earlier() is not None:
            shutil.rmtree(self.folder)
        make_folder(self.folder)
        tidy(self.folder)
        write_json(
            self.folder / "started.json", {"format": FORMAT, "key": self.key, "parts": self.parts}
        )

    def block(self, number: int) -> CacheBlock | None:
        """A block as its writer recorded it; None if it was not finished."""
        # Torn, of another version, or of a cache that was here before: then it is not there.
        facts = json_of(self._sidecar(number))
        try:
            block = CacheBlock(**facts)
        except TypeError:
            return None
        return block if block.key == self.key else None

    def write(
        self,
        number: int,
        windows: Mapping[str, Tensor],
        pictures: Mapping[str, Tensor] | None = None,
        made_from: str = "",
        failed: Mapping[str, str] | None = None,
    ) -> CacheBlock:
        """Commits a block: whole, and on the disk, or not there.

        Args:
            windows: Name -> (rows, ...), `label` among them; empty where no window could be read.
            pictures: Name -> (source frames, ...), which `windows["video_index"]` numbers.

        Raises:
            UserError: The disk refused.
        """
        # The shards first. A block is there once its own file is, which is written last.
        sha256 = {}
        for kind, tensors in (("windows", windows), ("pictures", pictures)):
            if tensors:
                path = self.folder / shard_name(kind, number)
                with whole_file(path) as partial:
                    # Hashed before it has its name: nothing can come between.
                    save_file({name: x.contiguous() for name, x in tensors.items()}, partial)
                    sha256[path.name] = sha256_of(partial)
        rows = len(windows["label"]) if windows else 0
        block = CacheBlock(self.key, rows, sha256, made_from, dict(failed or {}))
        write_json(self._sidecar(number), asdict(block))
        return block

    @property
    def finished(self) -> bool:
        """Whether there is an index of the blocks that stand here."""
        # Blocks may have been written anew after the index: then it no longer tells the truth.
        index = json_of(self.folder / "index.json")
        blocks = index.get("blocks") or []
        here = [asdict(block) for block in self.blocks(len(blocks))]
        return index.get("key") == self.key and blocks == here

    def reopen(self) -> None:
        """Makes a finished cache unfinished, because some of its blocks will be written again."""
        (self.folder / "index.json").unlink(missing_ok=True)

    def blocks(self, count: int) -> list[CacheBlock]:
        """The first `count` blocks, all of them written."""
        found = [self.block(number) for number in range(count)]
        return [block for block in found if block is not None]

    def close(self, blocks: Sequence[CacheBlock], extra: Mapping[str, Any]) -> None:
        """Writes the index with `extra` facts (statistics, class names). One process alone calls it."""
        write_json(
            self.folder / "index.json",
            {
                "format": FORMAT,
                "key": self.key,
                "parts": self.parts,
                "blocks": [asdict(block) for block in blocks],
                "failed": failures(blocks),
                "extra": dict(extra),
            },
        )

    def _sidecar(self, number: int) -> Path:
        return self.folder / f"block_{number:05d}.json"


def failures(blocks: Sequence[CacheBlock]) -> dict[str, str]:
    """What could not be read in any of some blocks -> why."""
    return {name: reason for block in blocks for name, reason in block.failed.items()}


def shard_name(kind: str, number: int) -> str:
    return f"{kind}_{number:05d}.safetensors"


def json_of(path: Path) -> dict[str, Any]:
    """What a JSON file says; nothing where it is absent, torn or something else.

    Raises:
        OSError: It is there and cannot be read, which is no damage.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
