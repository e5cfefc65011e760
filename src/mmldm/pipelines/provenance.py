"""What a clip was made from, so that it can be made again: model, given files, settings, seeds.

Provenance <-> JSON beside the mp4, and the same text in its metadata (`comment`); parts of a model -> sha256.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mmldm.errors import MediaError, UserError
from mmldm.files import sha256_of
from mmldm.pipelines.precision import Precision
from mmldm.strict import LARGEST_JSON, parse, plain_json, read_json

if TYPE_CHECKING:
    from mmldm.pipelines.sounding_video import SoundingVideoPipeline

FORMAT: Literal["mmldm.clip"] = "mmldm.clip"
VERSION = 1
TAG = "comment"
"""Of an mp4's metadata: players show it, and ffprobe prints it."""
Command = Literal["generate", "extend", "retake", "reconstruct"]
Setting = bool | int | float | str


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Record):
    """A file that was given.

    Attributes:
        path: As it was named on the command line.
        sha256: Of its content.
    """

    path: str
    sha256: str


class Asked(_Record):
    """What all clips of a folder are made from, but for their seeds.

    Attributes:
        command: That made them.
        model: As it was named on the command line; None: the bundled one.
        model_sha256: Of its weights and settings (`sha256_of_model`).
        given: Files, by the option or argument that gave them.
        settings: Options that were set, by name.
    """

    command: Command
    model: str | None
    model_sha256: str
    given: dict[str, Source] = Field(default_factory=dict)
    settings: dict[str, Setting] = Field(default_factory=dict)

    def differences(self, other: Asked) -> list[str]:
        """What of another's makes other clips: not what a model or a file is called, but what it holds."""
        found = []
        if self.command != other.command:
            found.append("command")
        if self.model_sha256 != other.model_sha256:
            found.append("model")
        contents = [{k: v.sha256 for k, v in asked.given.items()} for asked in (self, other)]
        for first, second in (contents, (self.settings, other.settings)):
            keys = sorted(first.keys() | second.keys())
            found += [key for key in keys if first.get(key) != second.get(key)]
        return found


class Machine(_Record):
    """Where and by what a clip was made: on another, sums are rounded otherwise.

    Attributes:
        device: "cpu", "cuda" or "mps".
        precision: In which networks computed (`pipelines.precision`).
        threads: Of torch on the CPU.
        torch: Its version.
        mmldm: Our version.
    """

    device: str
    precision: Precision = "fp32"
    threads: int
    torch: str
    mmldm: str

    @classmethod
    def here(cls, device: str, precision: Precision = "fp32") -> Machine:
        """This one, with a device of it and the precision of the networks there."""
        import torch

        from mmldm import __version__

        return cls(
            device=device,
            precision=precision,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            mmldm=__version__,
        )


class Provenance(_Record):
    """What one clip was made from.

    Attributes:
        asked: What it shares with the others of its folder.
        seed: Its own.
        batch: Seeds of the clips that were computed together, its own among them. Matrix products round by
            their size, so that the same batch makes the same bits.
        sampling: The sampler's settings, as the model and its quality made them of what was asked.
        class_name: That it was asked for, or that its seed drew; None: the generator chose.
        machine: Where it was made.
    """

    format: Literal["mmldm.clip"] = FORMAT
    version: int = Field(VERSION, ge=1, le=VERSION)
    asked: Asked
    seed: int
    batch: tuple[int, ...]
    sampling: dict[str, Setting | None] = Field(default_factory=dict)
    class_name: str | None = None
    machine: Machine

    def text(self) -> str:
        """As JSON, for the file beside the clip and for its metadata."""
        return json.dumps(self.model_dump(mode="json"), indent=1)


def provenance_of(path: Path) -> Provenance:
    """What an mp4, or the JSON beside one, says of its making.

    Raises:
        UserError: It says nothing of it, or what this version does not understand.
    """
    beside = path.suffix.lower() == ".json"
    stated = read_json(path, "no such file") if beside else _stated_in(path)
    if stated.get("format") != FORMAT:
        raise UserError(
            f"{path} does not say how it was made: give an mp4 of mmldm generate, extend or retake, or the "
            "JSON beside it"
        )
    version = stated.get("version")
    if isinstance(version, int) and version > VERSION:
        raise UserError(f"{path} was made by a newer mmldm, which this one cannot repeat")
    return parse(Provenance, stated, str(path))


def _stated_in(path: Path) -> dict[str, Any]:
    """The object in a media file's metadata; empty where there is none."""
    from mmldm.media.container import AUDIO_FORMATS, Limits, open_container

    with open_container(path, AUDIO_FORMATS, Limits()) as container:
        text = container.metadata.get(TAG, "")
    # Anybody may have written it.
    if len(text) > LARGEST_JSON:
        return {}
    try:
        stated = plain_json(text)
    except ValueError:
        return {}
    return stated if isinstance(stated, dict) else {}


def source_of(path: Path) -> Source:
    """A given file, with the hash of its content.

    Raises:
        MediaError: It cannot be read.
    """
    try:
        content = sha256_of(path)
    except OSError as error:
        raise MediaError("unreadable", f"cannot read {path}: {error.strerror}") from error
    # A name that is not UTF-8 cannot be written down as it is.
    name = os.fsencode(path).decode("utf-8", errors="backslashreplace")
    return Source(path=name, sha256=content)


def sha256_of_model(pipeline: SoundingVideoPipeline) -> str:
    """Of a pipeline's weights and settings, wherever they were loaded from.

    Of weights as they were loaded: `precision.sample_in` comes after it.
    """
    return sha256_of_parts(pipeline.components, pipeline.config)


def sha256_of_parts(parts: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Of networks' weights, and of settings.

    Args:
        parts: Networks, schedulers or None, by name.
        config: Settings of the whole.
    """
    import torch
    from torch import nn

    digest = hashlib.sha256(_settings(config))
    for name in sorted(parts):
        part = parts[name]
        if part is None:
            continue
        digest.update(name.encode() + _settings(part.config))
        tensors = part.state_dict() if isinstance(part, nn.Module) else {}
        for key in sorted(tensors):
            tensor = tensors[key].detach().cpu().contiguous()
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _settings(config: Mapping[str, Any]) -> bytes:
    """Settings as text, without what says where they were loaded from and by which version."""
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    # A model that was saved before there was such a setting is still the same model.
    if "video_latent_shape" in own and own.get("patch_size") == 1:
        del own["patch_size"]
    return json.dumps(own, sort_keys=True, default=str).encode()


def told_differences(made: Provenance, now: Asked, machine: Machine, name: str) -> Sequence[str]:
    """Sentences on why a clip that is made again may be another one.

    Args:
        made: Of the clip.
        now: What it is made from again.
        machine: Where.
        name: Of the clip's file.
    """
    said = []
    for what in made.asked.differences(now):
        which = "the model has" if what == "model" else f"the file of --{what} has"
        said.append(f"{which} changed since {name} was made: the new clip will be another one")
    if made.machine != machine:
        then, here = (
            f"{m.device}, {m.precision}, {m.threads} threads, torch {m.torch}, mmldm {m.mmldm}"
            for m in (made.machine, machine)
        )
        said.append(f"{name} was made by {then}; here are {here}: the last bits may differ")
    return said
