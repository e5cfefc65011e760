"""Checkpoints that are whole or absent, and what a resumed run may not change.

State -> step_00000100/{state.json, *.safetensors}. Written aside, fsynced, renamed, parent fsynced;
an old one is deleted only after that. `state.json` holds the sha256 of every file and of itself. No
pickle anywhere. What else lies in the folder is somebody else's and is left alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmldm.errors import UserError, first_line
from mmldm.files import make_folder, sha256_of, whole_folder
from mmldm.models.weights import KINDS
from mmldm.training.distributed import whole

_STATE = "state.json"
_COMMITTED = re.compile(r"step_([0-9]{8}|[1-9][0-9]{8,})")
_DAMAGED = re.compile(r"damaged_step_[0-9]{8,}(_[0-9]+)?")
_UNFINISHED = re.compile(r"\.step_[0-9]{8,}(\.[0-9a-f]{8}-[0-9]+)?\.(partial|retired|replaced)")
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""What is no file. Any other refusal, such as too many open files, tells nothing of what a file holds."""
_KIND_OF = {dtype: kind for kind, dtype in KINDS.items()}


class SaveError(UserError):
    """A checkpoint could not be written; the ones before are untouched."""


class ChangedError(UserError):
    """A setting that alters the numbers has changed.

    Args:
        keys: Names of the changed settings.
    """

    def __init__(self, sentence: str, keys: frozenset[str]) -> None:
        super().__init__(sentence)
        self.keys = keys


class DamagedError(UserError):
    """A checkpoint is not the one that was saved: a file is missing, or its checksum is another."""


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
        """All tensors, of any shapes, in the order of the files, whole, one at a time: collective calls."""
        for tensors in self.tensors.values():
            for tensor in _in_file_order(tensors).values():
                yield whole(tensor)

    def gather(self) -> None:
        """The other processes' share in rank 0's `CheckpointFolder.save`."""
        for _ in self.wholes():
            pass


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

    @property
    def job(self) -> Path:
        """Folder of the job whose checkpoints these are."""
        return self._path.parent

    def clean(self) -> None:
        """Removes what a killed process left half-written or half-deleted; the caller holds the run's lock.

        Raises:
            UserError: The folder cannot be read or made.
        """
        try:
            make_folder(self._path)
        except OSError as error:
            raise _unreadable(self._path, error) from error
        for name in self._names():
            if _UNFINISHED.fullmatch(name):
                try:
                    shutil.rmtree(self._path / name)
                except OSError as error:
                    self._note(f"{self._path / name}: could not be deleted ({error})")
                else:
                    self._note(f"removed the unfinished checkpoint {name} of an interrupted run")

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, ascending.

        Raises:
            UserError: The folder is there and cannot be read.
        """
        return sorted(
            int(found[1])
            for name in self._names()
            if (found := _COMMITTED.fullmatch(name)) and (self._path / name).is_dir()
        )

    def _names(self) -> list[str]:
        """All that lies in the folder. A folder that cannot be listed is not an empty one."""
        try:
            return sorted(path.name for path in self._path.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(self._path, error) from error

    def folder(self, step: int) -> Path:
        """Where the checkpoint of `step` is."""
        return self._path / f"step_{step:08d}"

    def save(self, checkpoint: Checkpoint, spared: int | None = None) -> Path:
        """Writes a checkpoint, then retires the oldest.

        Args:
            checkpoint: Takes the place of an earlier one of its step.
            spared: Step of a checkpoint that stays beside the newest.

        Raises:
            SaveError: The disk refused; what was there before is untouched.
        """
        target = self.folder(checkpoint.step)
        wholes = checkpoint.wholes()
        try:
            # Somebody else's file may have the name; a folder of it is replaced once the new one is whole.
            if target.exists() and not target.is_dir():
                self._set_aside(target, f"{target} is not a checkpoint")
            with whole_folder(target) as partial:
                _write(partial, checkpoint, wholes)
        except (OSError, UserError) as error:
            last = self.steps()[-1:]
            raise SaveError(
                f"{target}: the checkpoint could not be written ({error.__cause__ or error}); "
                + (f"the last good one is step {last[0]}" if last else "there is none before it")
            ) from error
        finally:
            # Whatever the disk says, the other processes count on these collective calls.
            for _ in wholes:
                pass
        # Old ones go only now.
        self._retire(step for step in self.steps()[: -self._keep] if step != spared)
        return target

    def cut(self, step: int) -> None:
        """Retires what comes after a step, the newest first: training goes on from there another way."""
        self._retire(later for later in reversed(self.steps()) if later > step)

    def _retire(self, steps: Iterable[int]) -> None:
        """Deletes; renamed first, so that a half-deleted one cannot pass for a checkpoint."""
        for step in steps:
            retired = self._path / f".{self.folder(step).name}.retired"
            try:
                self.folder(step).rename(retired)
                shutil.rmtree(retired)
            except OSError as error:
                self._note(f"{self.folder(step)}: could not be deleted ({error})")

    def load(self, step: int) -> Checkpoint:
        """Reads and verifies a checkpoint.

        Raises:
            DamagedError: A file is missing or is not the one that was saved.
            UserError: A file cannot be read; nothing is known about what it holds.
        """
        return _read(self.folder(step), step)

    def newest_whole(self) -> int:
        """Step of the newest checkpoint that verifies, 0 if there is none.

        A damaged one is named, set aside as `damaged_step_...`, and the one before is taken. One that
        cannot be read is not damaged: nothing is renamed.

        Raises:
            UserError: There are checkpoints, but every one of them is damaged; or one cannot be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            # Every byte is read: nothing but its checksum proves that a file is the one that was saved.
            try:
                _read(self.folder(step), step)
            except DamagedError as error:
                self._set_aside(self.folder(step), f"{error}", "; trying the one before")
            else:
                return step
        if steps or any(_DAMAGED.fullmatch(name) for name in self._names()):
            raise UserError(
                f"{self._path}: no checkpoint is whole; remove the folder to start from step 0"
            )
        return 0

    def _set_aside(self, path: Path, reason: str, rest: str = "") -> None:
        """Renames to the first free of `damaged_step_...`, `damaged_step_..._1`."""
        aside = path.with_name(f"damaged_{path.name}")
        for number in itertools.count(1):
            if not aside.exists():
                break
            aside = path.with_name(f"damaged_{path.name}_{number}")
        path.rename(aside)
        self._note(f"{reason}; set aside as {aside.name}{rest}")


def refuse_changes(
    saved: Mapping[str, Any],
    current: Mapping[str, Any],
    where: str,
    advice: str = "Put the old values back, or start in another folder.",
) -> None:
    """Refuses to resume when a setting that alters the numbers has changed.

    Raises:
        ChangedError: Naming every changed setting with its old and new value.
    """
    # Through JSON, as the saved ones went: a tuple comes back as a list.
    old, new = _flat(saved), _flat(json.loads(json.dumps(current)))
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if keys:
        # A hash says nothing to a person.
        changes = "; ".join(
            "the clips are not those that it began on"
            if key.rpartition(".")[2] == "clips"
            else f"{key} was {json.dumps(old.get(key))} and is now {json.dumps(new.get(key))}"
            for key in keys
        )
        raise ChangedError(f"{where}: cannot resume, because {changes}. {advice}", frozenset(keys))


def library_versions() -> dict[str, str]:
    """Versions of the libraries that numbers depend on."""
    return {name: version(name) for name in ("torch", "diffusers", "safetensors")}


def _write(folder: Path, checkpoint: Checkpoint, wholes: Iterator[Tensor]) -> None:
    """Writes the files of a checkpoint; `wholes` gives its tensors, of any shapes, in their order."""
    digests = {}
    for name, tensors in checkpoint.tensors.items():
        path = folder / f"{name}.safetensors"
        digests[path.name] = _write_tensors(path, _in_file_order(tensors), wholes)
    state = {
        "step": checkpoint.step,
        **checkpoint.values,
        "sha256": digests,
        "versions": library_versions(),
    }
    text = json.dumps({**state, "sha256_of_state": _digest(state)}, indent=1)
    (folder / _STATE).write_text(text, encoding="utf-8")


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], wholes: Iterator[Tensor]) -> str:
    """Writes a safetensors file in the memory of one tensor, and returns its sha256.

    Args:
        tensors: Names, types and shapes.
        wholes: Gives the tensors themselves, in the same order.
    """
    # The format: length of the header (8 bytes, little-endian), the header as JSON, the bytes of the tensors.
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _KIND_OF[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    # Filled up with spaces, as the format allows, so that the tensors begin at a multiple of 8.
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        pieces = (_as_bytes(whole) for whole in itertools.islice(wholes, len(tensors)))
        for piece in itertools.chain([len(text).to_bytes(8, "little"), text], pieces):
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def _as_bytes(tensor: Tensor) -> Any:
    """The memory of a tensor of any shape, (bytes,) u8, on the CPU."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def _in_file_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Wide types first, so that every tensor is aligned."""
    return dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))


def _read(folder: Path, step: int) -> Checkpoint:
    # Checksums first. What contradicts them, or is no checkpoint's, is damage.
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        if state.pop("sha256_of_state") != _digest(state) or state["step"] != step:
            raise DamagedError(f"{folder / _STATE}: damaged, its checksum does not match")
        for name, digest in state["sha256"].items():
            if sha256_of(folder / name) != digest:
                raise DamagedError(f"{folder / name}: damaged, its checksum does not match")
    except (*_ABSENT, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedError(f"{folder}: not a whole checkpoint ({error})") from error
    except OSError as error:
        raise _unreadable(folder, error) from error
    # Then the tensors, to the CPU.
    try:
        tensors = {Path(name).stem: load_file(folder / name) for name in state["sha256"]}
    except SafetensorError as error:
        raise DamagedError(f"{folder}: not a whole checkpoint ({error})") from error
    # What has just been read cannot be opened again: "not found" or torch's RuntimeError, for want of
    # descriptors or memory.
    except (OSError, RuntimeError) as error:
        raise _unreadable(folder, error) from error
    return Checkpoint(step, tensors, state)


def _unreadable(path: Path, error: OSError | RuntimeError) -> UserError:
    where = getattr(error, "filename", None) or path
    cause = getattr(error, "strerror", None) or first_line(error)
    return UserError(
        f"{where}: cannot be read now ({cause}). That does not mean damage, and "
        "nothing was changed: mend the cause and give the same command again."
    )


def _digest(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested sections as one: {"train": {"steps": 1}} -> {"train.steps": 1}."""
    if not isinstance(values, dict):
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
