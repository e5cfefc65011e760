"""Checkpoints that are whole or absent, and a lock on the run folder.

State -> step_00000100/{state.json, *.safetensors}. Written aside, fsynced, renamed, parent fsynced;
an old one is deleted only after that. `state.json` holds the sha256 of every file and of itself. No
pickle anywhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import shutil
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmldm.errors import UserError
from mmldm.files import sha256_of, sync
from mmldm.training.scaling import whole

_STATE = "state.json"
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class SaveError(UserError):
    """A checkpoint could not be written; the ones before are untouched."""


@dataclass(frozen=True)
class Checkpoint:
    """A training state.

    Attributes:
        step: Completed steps.
        tensors: File name without suffix -> tensors by name: to be saved, whole or sharded; after
            loading, whole and on the CPU.
        values: JSON values.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    values: Mapping[str, Any]

    def wholes(self) -> Iterator[Tensor]:
        """All tensors in the order of the files, whole, one at a time: collective calls."""
        for tensors in self.tensors.values():
            for tensor in _in_file_order(tensors).values():
                yield whole(tensor)

    def gather(self) -> None:
        """The other processes' share in rank 0's `CheckpointFolder.save`."""
        _exhaust(self.wholes())


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        path: Folder; created.
        keep: How many of the newest stay.
        note: Called with a sentence for the log.
    """

    def __init__(self, path: Path, keep: int, note: Callable[[str], None]) -> None:
        self._path = path
        self._keep = keep
        self._note = note

    def clean(self) -> None:
        """Removes what a killed process left half-written or half-deleted."""
        self._path.mkdir(parents=True, exist_ok=True)
        for leftover in sorted(self._path.glob(".*")):
            shutil.rmtree(leftover)
            self._note(f"removed the unfinished checkpoint {leftover.name} of an interrupted run")

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, ascending."""
        return sorted(int(p.name.removeprefix("step_")) for p in self._path.glob("step_*"))

    def folder(self, step: int) -> Path:
        """Where the checkpoint of `step` is."""
        return self._path / f"step_{step:08d}"

    def save(self, checkpoint: Checkpoint) -> Path:
        """Writes a checkpoint, then retires the oldest.

        Raises:
            SaveError: The disk refused; what was there before is untouched.
        """
        target = self.folder(checkpoint.step)
        partial = self._path / f".{target.name}.partial"
        wholes = checkpoint.wholes()
        try:
            _write(partial, checkpoint, wholes)
            partial.rename(target)
            sync(self._path)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            last = self.steps()[-1:]
            raise SaveError(
                f"{target}: the checkpoint could not be written ({error}); "
                + (f"the last good one is step {last[0]}" if last else "there is none before it")
            ) from error
        finally:
            _exhaust(wholes)  # whatever the disk says: the other processes count on it
        for step in self.steps()[: -self._keep]:
            retired = self._path / f".{self.folder(step).name}.retired"
            try:
                self.folder(step).rename(retired)
                shutil.rmtree(retired)
            except OSError as error:
                self._note(f"{self.folder(step)}: could not be deleted ({error})")
        return target

    def load(self, step: int) -> Checkpoint:
        """Reads and verifies a checkpoint.

        Raises:
            UserError: A file is missing or is not the one that was saved.
        """
        return _read(self.folder(step), step)

    def newest_whole(self) -> int:
        """Step of the newest checkpoint that verifies, 0 if there is none.

        A damaged one is named, set aside as `damaged_step_...`, and the one before is taken.

        Raises:
            UserError: There are checkpoints, but every one of them is damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                _read(self.folder(step), step)
            except UserError as error:
                aside = self._path / f"damaged_{self.folder(step).name}"
                shutil.rmtree(aside, ignore_errors=True)
                self.folder(step).rename(aside)
                self._note(f"{error}; set aside as {aside.name}, trying the one before")
            else:
                return step
        if steps or any(self._path.glob("damaged_*")):
            raise UserError(
                f"{self._path}: no checkpoint is whole; remove the folder to start from step 0"
            )
        return 0


@contextmanager
def run_lock(folder: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Holds a run folder for this process.

    A record lock, which the kernel drops with the process however it dies, and which workers that
    outlive it for a moment do not inherit. The file names the holder for whoever is refused.

    Raises:
        UserError: Another process holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.lock"
    with path.open("a+", encoding="utf-8") as file:
        file.seek(0)
        holder = file.read().strip()
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{folder}: already in use by {holder or 'another process'}; "
                "wait for it, stop it, or choose another folder"
            ) from None
        if holder:
            note(f"recovered the lock left by {holder}")
        _replace_text(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n")
        try:
            yield
        finally:
            _replace_text(file.fileno(), "")


def refuse_changes(saved: Mapping[str, Any], current: Mapping[str, Any], where: str) -> None:
    """Refuses to resume when a setting that alters the numbers has changed.

    Raises:
        UserError: Naming every changed setting with its old and new value.
    """
    old, new = _flat(saved), _flat(json.loads(json.dumps(current)))
    changes = [
        f"{key} was {json.dumps(old.get(key))} and is now {json.dumps(new.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if changes:
        raise UserError(
            f"{where}: cannot resume, because {'; '.join(changes)}. "
            "Put the old values back, or start in another folder."
        )


def library_versions() -> dict[str, str]:
    """Versions of the libraries that numbers depend on."""
    return {name: version(name) for name in ("torch", "diffusers", "safetensors")}


def _write(folder: Path, checkpoint: Checkpoint, wholes: Iterator[Tensor]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    digests = {}
    for name, tensors in checkpoint.tensors.items():
        path = folder / f"{name}.safetensors"
        digests[path.name] = _write_tensors(path, _in_file_order(tensors), wholes)
        sync(path)
    state = {
        "step": checkpoint.step,
        **checkpoint.values,
        "sha256": digests,
        "versions": library_versions(),
    }
    path = folder / _STATE
    path.write_text(json.dumps({**state, "sha256_of_state": _digest(state)}, indent=1))
    sync(path)
    sync(folder)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], wholes: Iterator[Tensor]) -> str:
    """Writes a safetensors file in the memory of one tensor, and returns its sha256.

    Args:
        tensors: Names, types and shapes.
        wholes: Gives the tensors themselves, in the same order.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        dtype, shape = _DTYPES[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        pieces = (_as_bytes(whole) for whole in itertools.islice(wholes, len(tensors)))
        for piece in itertools.chain([len(text).to_bytes(8, "little"), text], pieces):
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def _as_bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def _in_file_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Wide types first, so that every tensor is aligned."""
    return dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))


def _exhaust(iterator: Iterator[Any]) -> None:
    deque(iterator, maxlen=0)


def _read(folder: Path, step: int) -> Checkpoint:
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        if state.pop("sha256_of_state") != _digest(state) or state["step"] != step:
            raise UserError(f"{folder / _STATE}: damaged, its checksum does not match")
        for name, digest in state["sha256"].items():
            if sha256_of(folder / name) != digest:
                raise UserError(f"{folder / name}: damaged, its checksum does not match")
        tensors = {Path(name).stem: load_file(folder / name) for name in state["sha256"]}
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise UserError(f"{folder}: not a whole checkpoint ({error})") from error
    return Checkpoint(step, tensors, state)


def _digest(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _replace_text(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
