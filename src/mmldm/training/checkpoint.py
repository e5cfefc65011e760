"""Checkpoints that are whole or absent, and a lock on the run folder.

State -> step_00000100/{state.json, *.safetensors}. Written aside, fsynced, renamed, parent fsynced;
an old one is deleted only after that. `state.json` holds the sha256 of every file and of itself. No
pickle anywhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmldm.errors import UserError

_STATE = "state.json"


class SaveError(UserError):
    """A checkpoint could not be written; the ones before are untouched."""


@dataclass(frozen=True)
class Checkpoint:
    """A training state.

    Attributes:
        step: Completed steps.
        tensors: File name without suffix -> tensors by name, on the CPU after loading.
        values: JSON values.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    values: Mapping[str, Any]


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
        try:
            _write(partial, checkpoint)
            partial.rename(target)
            _sync(self._path)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            last = self.steps()[-1:]
            raise SaveError(
                f"{target}: the checkpoint could not be written ({error}); "
                + (f"the last good one is step {last[0]}" if last else "there is none before it")
            ) from error
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


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Gives a folder to fill, which takes the place of `target` only if nothing goes wrong."""
    partial = target.with_name(f".{target.name}.partial")
    replaced = target.with_name(f".{target.name}.replaced")
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    if target.exists():
        target.rename(replaced)
    partial.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that numbers depend on."""
    return {name: version(name) for name in ("torch", "diffusers", "safetensors")}


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    digests = {}
    for name, tensors in checkpoint.tensors.items():
        path = folder / f"{name}.safetensors"
        # Copies: safetensors refuses tensors that share memory, and tied weights do.
        save_file({k: t.detach().cpu().clone().contiguous() for k, t in tensors.items()}, path)
        _sync(path)
        digests[path.name] = _sha256(path)
    state = {
        "step": checkpoint.step,
        **checkpoint.values,
        "sha256": digests,
        "versions": library_versions(),
    }
    path = folder / _STATE
    path.write_text(json.dumps({**state, "sha256_of_state": _digest(state)}, indent=1))
    _sync(path)
    _sync(folder)


def _read(folder: Path, step: int) -> Checkpoint:
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        if state.pop("sha256_of_state") != _digest(state) or state["step"] != step:
            raise UserError(f"{folder / _STATE}: damaged, its checksum does not match")
        for name, digest in state["sha256"].items():
            if _sha256(folder / name) != digest:
                raise UserError(f"{folder / name}: damaged, its checksum does not match")
        tensors = {Path(name).stem: load_file(folder / name) for name in state["sha256"]}
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise UserError(f"{folder}: not a whole checkpoint ({error})") from error
    return Checkpoint(step, tensors, state)


def _digest(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
