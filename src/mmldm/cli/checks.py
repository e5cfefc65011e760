"""Cheap checks, made before a model is loaded or a folder decoded: a mistake is told within a second or two.

file, modality -> nothing, or a sentence; model, class -> nothing, or a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmldm.errors import MediaError, UserError

if TYPE_CHECKING:
    from mmldm.types import Modality


def require_media(path: Path, modality: Modality | None) -> None:
    """Checks by its header that a file holds what is to be given; None: picture and sound.

    Raises:
        MediaError: It cannot be opened, or lacks that.
        UserError: It is for another option.
    """
    from mmldm.media.container import (
        AUDIO_FORMATS,
        Limits,
        audio_track,
        open_container,
        unsaid,
        video_track,
    )

    limits, lacking = Limits(), dict[str, MediaError]()
    with open_container(path, AUDIO_FORMATS, limits) as container:
        for name, track in (("audio", audio_track), ("video", video_track)):
            try:
                track(container, path, limits, unsaid)
            except MediaError as error:
                lacking[name] = error
    wanted = ("audio", "video") if modality is None else (modality,)
    missing = [name for name in wanted if name in lacking]
    if not missing:
        return
    # Both options take files, and they are easily mistaken.
    if modality == "video" and lacking["video"].reason == "no_video" and "audio" not in lacking:
        raise UserError(f"{path} is a sound: use --audio")
    if modality == "audio" and lacking["audio"].reason == "no_audio" and "video" not in lacking:
        raise UserError(f"{path} has no sound: use --video, which makes one for its picture")
    raise lacking[missing[0]]


def require_known(model: Path | None, class_name: str | None, scheduler: str | None) -> None:
    """Checks what can be checked of a request by a model's index alone.

    Args:
        model: Folder of a model or run; one that is not there, or has no index, is left to the loading.

    Raises:
        UserError: The model does not know the class, or nobody the scheduler.
    """
    if scheduler is not None:
        from mmldm.diffusion.schedules import ScheduleConfig, make_scheduler

        # Whether it can run this model is known later; whether there is such a one, now.
        make_scheduler(ScheduleConfig(), scheduler)
    index = None if class_name is None or model is None else _index_of(model)
    if index is not None:
        check_class(class_name, index.get("class_names") or [])


def check_class(class_name: str | None, known: Iterable[str]) -> None:
    """Checks that a model's classes have one of this name.

    Raises:
        UserError: They have not; the sentence lists them.
    """
    from mmldm.pipelines.seeds import class_indices

    names = tuple(known)
    if class_name is None:
        return
    if not names:
        raise UserError("this model was trained without classes: leave --class out.")
    class_indices(class_name, names, 1)


def _index_of(model: Path) -> dict[str, Any] | None:
    """The index of a model folder, or of the model in a run folder; None where none can be read."""
    from mmldm.pipelines.loading import read_index

    for folder in (model / "model", model):
        if (folder / "model_index.json").is_file():
            try:
                return read_index(folder)
            except UserError:
                return None
    return None
