"""Opens and writes model folders; a folder with which something is wrong is refused with a sentence.

folder or hub name -> checked folder -> pipeline -> folder. Weights are safetensors only. Components are of
the classes named here, whatever modules a folder names: it cannot choose what is imported, and holds no code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from mmldm.diffusion.schedules import MOST_TIMESTEPS, SCHEDULER_CLASSES
from mmldm.errors import UserError, first_line
from mmldm.models.autoencoder import AUTOENCODERS
from mmldm.models.component import (
    PRIVATE,
    Classes,
    check_component,
    check_settings,
    class_of,
    download,
    settings_of,
)
from mmldm.models.generator import GENERATORS
from mmldm.models.image_vae import IMAGE_VAES
from mmldm.models.pretrained_vocoder import VOCODERS
from mmldm.pipelines.outliers import Reference
from mmldm.pipelines.published import published
from mmldm.pipelines.seeds import check_shares
from mmldm.pipelines.settings import Qualities
from mmldm.strict import did_you_mean, parse, read_json
from mmldm.types import ClipSpec

COMPONENTS: Mapping[str, Classes] = {
    "vae": IMAGE_VAES,
    "autoencoder": AUTOENCODERS,
    "generator": GENERATORS,
    "scheduler": SCHEDULER_CLASSES,
    "decoder_scheduler": SCHEDULER_CLASSES,
    "vocoder": VOCODERS,
    "student": GENERATORS,
    "student_scheduler": SCHEDULER_CLASSES,
}
"""What each component of a model may be."""
OPTIONAL = ("vocoder", "student", "student_scheduler")
OWN_SETTINGS = ("num_inference_steps", "decoder_steps", "guidance_scale")
SETTINGS = (
    *OWN_SETTINGS,
    "clip_spec",
    "class_names",
    "default_quality",
    "quality_rows",
    "known_slots",
    "outliers",
    "class_shares",
)
PIPELINE = "SoundingVideoPipeline"
PIPELINE_PATH = f"mmldm.pipelines.sounding_video.{PIPELINE}"
"""What an index calls its pipeline: all that diffusers says of one which it does not know."""
CODE = frozenset({".py", ".pyc", ".pyw", ".pyd", ".so", ".dll"})
MOST_CLASSES = 100_000
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
FOR_CODE = ("custom_pipeline", "custom_revision", "trust_remote_code", "use_onnx", "use_flashpack")
"""Arguments of diffusers that have no meaning for a model without code, in safetensors."""


class FolderPipeline(DiffusionPipeline):
    """A pipeline that is read from model folders which strangers made, and written to them."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Self:
        """Loads a model folder, `impacts`, `freedoom`, or `owner/name` of the hub, in diffusers' conventions.

        Args:
            kwargs: Of `DiffusionPipeline.from_pretrained`, for example `torch_dtype`.

        Raises:
            UserError: The folder is not a whole model; the message names what is missing.
        """
        name = str(pretrained_model_name_or_path)
        components = [component for component in COMPONENTS if component not in kwargs]
        folder = model_folder(name, kwargs, components)
        check_model_folder(folder, components, kwargs.get("variant"))
        try:
            made: Self = super().from_pretrained(str(folder), use_safetensors=True, **kwargs)
        except (OSError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise UserError(f"{name}: the model cannot be loaded: {first_line(error)}") from error
        return made

    @classmethod
    def load_config(cls, folder: str | os.PathLike[str], **_: Any) -> dict[str, Any]:
        """The index of a model folder, checked: diffusers imports the modules that it finds here."""
        return read_index(Path(folder))

    def to_json_string(self) -> str:
        """The index. It calls this class by its whole path, which is all that diffusers' own
        `DiffusionPipeline` says about a class which it does not know."""
        index = json.loads(super().to_json_string())
        return json.dumps(index | {"_class_name": PIPELINE_PATH}, indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Writes the model folder, in diffusers' layout.

        diffusers records where each part was loaded from; a folder that is given away should not
        tell its maker's paths.
        """
        for part in (self, *self.components.values()):
            if part is not None and "_name_or_path" in part.config:
                part.register_to_config(_name_or_path="")
        super().save_pretrained(save_directory, **kwargs)


def model_folder(name: str, options: dict[str, Any], components: Sequence[str]) -> Path:
    """The folder of a model, downloaded if it is a name on the hub.

    Args:
        options: Of `from_pretrained`; those that are the hub's are taken out.

    Raises:
        UserError: There is none.
    """
    for option in FOR_CODE:
        if options.pop(option, None):
            raise UserError(
                f"{option} is not for this class: its models are weights, and hold no code"
            )
    hub_options = {key: options.pop(key) for key in HUB_OPTIONS if key in options}
    if folder := published(name):
        return folder
    path = Path(name)
    if path.exists():
        return path
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"{name}: no such model folder")
    return download(name, components, **hub_options)


def check_model_folder(
    folder: Path, components: Sequence[str], variant: str | None = None
) -> dict[str, Any]:
    """Checks that a folder holds these components, readable, of classes we know and as their configs say.

    Args:
        variant: Of the weights' file names, as in diffusers.

    Returns:
        The index, with the modules that this version imports its components from.

    Raises:
        UserError: Names what is missing, foreign, too large or no number.
    """
    index = read_index(folder)

    # diffusers can import Python files that lie in a model folder.
    for file in folder.rglob("*"):
        if file.suffix.lower() in CODE:
            raise UserError(
                f"{folder}: holds code ({file.relative_to(folder)}), and a model does not: remove it, or "
                "take the model from elsewhere"
            )

    _check_settings(index, folder)
    for name in components:
        entry = index.get(name)
        if entry in (None, [None, None]):  # diffusers' way to say that a pipeline goes without
            if name in OPTIONAL:
                continue
            raise UserError(f"{folder}: model_index.json does not name the component {name!r}")
        part = folder / name
        if not part.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{folder}: {name} is a link to {part.resolve()}, outside the model: copy it"
            )
        if COMPONENTS[name] is SCHEDULER_CLASSES:
            stated = _check_scheduler(part)
        else:
            stated = type(check_component(part, COMPONENTS[name], variant=variant)).__name__
        if stated != entry[1]:
            raise UserError(
                f"{folder}: model_index.json calls {name!r} a {entry[1]}, and its config.json a {stated}"
            )
    return index


def read_index(folder: Path) -> dict[str, Any]:
    """A folder's model_index.json, its modules those that this version imports the components from.

    Raises:
        UserError: It is no index of a model of ours.
    """
    index = read_json(folder / "model_index.json", "not a saved model")
    pipeline = index.get("_class_name")
    if pipeline not in (PIPELINE, PIPELINE_PATH):
        raise UserError(f"{folder}: a model of the class {pipeline!r:.80}, not of {PIPELINE}")
    known = {*COMPONENTS, *SETTINGS}
    for name in index:
        if name not in known | PRIVATE:
            raise UserError(
                f"{folder}: model_index.json has an unknown entry {name!r:.80}"
                f"{did_you_mean(name, sorted(known))}"
            )
    # Modules are ours to know: folders of earlier versions open, and none imports a module of its own.
    return index | {
        name: _component(folder, name, index[name])
        for name in COMPONENTS
        if index.get(name) not in (None, [None, None])
    }


def _component(folder: Path, name: str, entry: object) -> list[str]:
    """An index's entry: the class is looked up by its name, the module is ours to know."""
    match entry:
        case [str(library), str(stated)]:
            pass
        case _:
            raise UserError(f"{folder}: model_index.json does not name the component {name!r}")
    classes = COMPONENTS[name]
    if library != "diffusers" and not library.startswith("mmldm."):
        raise UserError(f"{folder}: component {name!r} is of the unknown library {library!r:.80}")
    if stated not in classes:
        raise UserError(
            f"{folder}: component {name!r} is a {stated:.80}, which is none of {', '.join(classes)}"
        )
    module = classes[stated].__module__
    return ["diffusers" if module.startswith("diffusers.") else module, stated]


def _check_settings(index: Mapping[str, Any], folder: Path) -> None:
    """Checks the pipeline's own settings in an index; raises a UserError that names the one that is wrong."""
    where = f"{folder}/model_index.json"
    parse(ClipSpec, index.get("clip_spec") or {}, f"{where}: clip_spec")
    names = index.get("class_names") or []
    if not isinstance(names, list) or len(names) > MOST_CLASSES:
        raise UserError(f"{where}: class_names must be a list of names")
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise UserError(f"{where}: class_names must be names, each once")

    if not isinstance(index.get("known_slots", False), bool):
        raise UserError(f"{where}: known_slots must be true or false")

    check_shares(index.get("class_shares"), names, f"{where}: class_shares")
    if index.get("outliers") is not None:
        parse(Reference, index["outliers"], f"{where}: outliers")

    # Rows of quality are checked by being used.
    own = {name: index[name] for name in OWN_SETTINGS if name in index}
    rows, default = index.get("quality_rows") or {}, index.get("default_quality", "best")
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise UserError(f"{where}: quality_rows must be rows of settings")
    defaults = {"num_inference_steps": 50, "decoder_steps": 1, "guidance_scale": 1.0}
    Qualities(defaults | own, rows, str(default))


def _check_scheduler(part: Path) -> str:
    """The class of a scheduler's folder; raises a UserError as `check_component`."""
    path = part / "scheduler_config.json"
    config = read_json(path, f"the component {part.name!r} is missing")
    scheduler = class_of(config, SCHEDULER_CLASSES, str(part))
    if (part / "model_index.json").exists():
        raise UserError(f"{part}: holds a model_index.json, which belongs to whole models alone")
    # A scheduler made from another's config keeps that one's settings.
    kin = [scheduler, *scheduler._get_compatibles()]
    # Its tables are as long as this number.
    timesteps = config.get("num_train_timesteps", 1000)
    if not isinstance(timesteps, int) or not 1 < timesteps <= MOST_TIMESTEPS:
        raise UserError(
            f"{path}: num_train_timesteps {timesteps!r:.40} must be a number from 2 to {MOST_TIMESTEPS}"
        )
    check_settings(config, set().union(*map(settings_of, kin)), path)
    return scheduler.__name__


def check_parts(components: Mapping[str, Any], class_names: Sequence[str], spec: ClipSpec) -> None:
    """Checks that the autoencoder, the generator and its student belong together, and to the clips.

    Raises:
        UserError: They model other latents, another number of classes than there are names, or clips of
            another length.
    """
    frames = components["autoencoder"].config.num_frames
    if frames != spec.num_frames:
        raise UserError(
            f"the autoencoder is of clips of {frames} frames, but clip_spec states {spec.num_frames}: they "
            "do not belong together"
        )
    shapes = components["autoencoder"].latent_shapes
    for name in ("generator", "student"):
        part = components[name]
        if part is None:
            continue
        if part.latent_shapes != shapes:
            raise UserError(
                f"the {name} models latents {tuple(part.latent_shapes)}, but the autoencoder makes "
                f"{tuple(shapes)}: they do not belong together"
            )
        if len(class_names) != part.null_class:
            raise UserError(
                f"{len(class_names)} class names for the {name}'s {part.null_class} classes"
            )
