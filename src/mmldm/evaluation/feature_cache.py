"""Measures of clips on disk, so that an interrupted evaluation goes on, and real clips are measured once.

(measure, reading, clip's content) -> folder/measure-hash/content-hash.safetensors

Every row is a file of its own, which appears whole or not at all. It is not synced, which would cost more
than many a measure: a checksum shows what a power cut has left of it. A key holds all that a row depends on:
the content of the file, the window, how it is read, the network's weights and the version of this package.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mmldm.evaluation.measures import Measure, Row
from mmldm.files import whole_file
from mmldm.types import ClipSpec


class FeatureCache:
    """Rows of one way of reading clips.

    Args:
        folder: Made where it is missing; several runs may share it.
        spec: How the clips were read.
    """

    def __init__(self, folder: Path, spec: ClipSpec) -> None:
        self.folder = folder
        self._spec = spec.model_dump_json()

    def path(self, measure: Measure, clip_key: str) -> Path:
        """Where a clip's row lies."""
        key = hashlib.sha256(f"{measure.key} {self._spec}".encode()).hexdigest()
        name = measure.name.replace("/", "_").replace(":", "_")
        return self.folder / f"{name}-{key[:16]}" / f"{clip_key}.safetensors"

    def get(self, measure: Measure, clip_key: str) -> Row | None:
        """A clip's row; None where there is none that is whole."""
        try:
            with safe_open(self.path(measure, clip_key), "pt") as file:
                row = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                checksum = (file.metadata() or {}).get("sha256")
        except (OSError, SafetensorError, RuntimeError):
            return None
        return row if checksum == _sha256(row) else None

    def put(self, measure: Measure, clip_key: str, row: Row) -> None:
        """Keeps a clip's row.

        Raises:
            UserError: The folder cannot be written.
        """
        row = {name: x.contiguous() for name, x in row.items()}
        content = save(row, {"sha256": _sha256(row)})
        with whole_file(self.path(measure, clip_key), durable=False) as temporary:
            temporary.write_bytes(content)


def _sha256(row: Row) -> str:
    digest = hashlib.sha256()
    for name, x in sorted(row.items()):
        digest.update(f"{name} {x.dtype} {tuple(x.shape)} ".encode())
        if x.numel():  # What is empty may have strides that no view of bytes takes.
            digest.update(x.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
