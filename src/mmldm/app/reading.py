"""Files of visitors are opened in a child process alone: it may hang or die, and the page lives on.

path, part -> facts and sentences (`look`); media at a model's rates in safetensors (`read`); an mp4 in which
the given sound or picture stands as it was (`keep`). Calls and answers are JSON (`media.isolated`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from safetensors.torch import load_file, save_file
from torch import Tensor

from mmldm.errors import MediaError
from mmldm.media.container import Limits
from mmldm.media.isolated import Worker
from mmldm.media.used import UsedPart
from mmldm.types import ClipSpec, Modality

STARTING = 300.0
"""Seconds in which a child begins, on however slow a machine; no file is open then."""
MOST_PIXELS = 4096 * 2304
"""Of an uploaded picture."""
LONG = {
    "timeout": "reading it took too long; give a shorter or smaller file",
    "crashed": "it ended the process that read it: the file is damaged; convert it to mp4 or wav",
}
"""What is said where the child gave no answer."""


class Facts(NamedTuple):
    """Of a part of a file.

    Attributes:
        begins: Second of the file at which it really begins.
        seconds: That are used, as far as the file says; after reading, as read.
        said: Sentences on what is used of it, and what is odd about it.
    """

    begins: float
    seconds: float | None
    said: list[str]


class Read(NamedTuple):
    """Of a part of a file: facts, and media at a model's rates.

    Attributes:
        frames: (T,3,H,W) u8; T is 0 where only the sound is read.
        waveform: (S,) f32; S is 0 where only the picture is read.
    """

    facts: Facts
    frames: Tensor
    waveform: Tensor


class Reader:
    """A child process that reads; it starts with the first file, and is replaced when it dies.

    Args:
        spec: Of the model.
        seconds: Wall-clock time that one file may take.
    """

    def __init__(self, spec: ClipSpec, seconds: float) -> None:
        self._spec, self._lock, self._seconds = spec, threading.Lock(), seconds
        self._worker = Worker(at_work, seconds)

    def look(
        self, path: Path, name: str, modality: Modality | None, start: float, seconds: float | None
    ) -> Facts:
        """What would be used of a file.

        Args:
            path: Where it is.
            name: What the visitor calls it.

        Raises:
            MediaError: It cannot be used; the sentence has the visitor's name of it.
        """
        return Facts(*self._ask(path, name, "look", modality, start, seconds))

    def read(
        self,
        path: Path,
        name: str,
        modality: Modality | None,
        start: float,
        seconds: float | None,
        scratch: Path,
    ) -> Read:
        """All that is used of a file.

        Args:
            scratch: A file that is written and removed.
        """
        try:
            facts = self._ask(path, name, "read", modality, start, seconds, str(scratch))
            media = load_file(scratch)
        finally:
            scratch.unlink(missing_ok=True)
        return Read(Facts(*facts), media["frames"], media["waveform"])

    def keep(
        self,
        path: Path,
        name: str,
        modality: Modality,
        facts: Facts,
        seconds: float | None,
        made: Tensor,
        out: Path,
        metadata: Mapping[str, str],
    ) -> list[str]:
        """Writes an mp4 with the given sound or picture as it is, and what was made for it.

        Args:
            made: Frames (T,3,H,W) u8 for a sound, a waveform (S,) for a picture.
            out: The mp4.

        Returns:
            Sentences on how it was kept.
        """
        scratch = out.with_suffix(".made.safetensors")
        try:
            save_file({"made": made.contiguous()}, scratch)
            said = self._ask(
                path,
                name,
                "keep",
                modality,
                facts.begins,
                seconds,
                str(scratch),
                str(out),
                dict(metadata),
            )
        finally:
            scratch.unlink(missing_ok=True)
        return cast("list[str]", said)

    def stop(self) -> None:
        """Ends the child."""
        self._worker.stop()

    def _ask(self, path: Path, name: str, what: str, *arguments: Any) -> Any:
        spec = self._spec.model_dump(mode="json")
        with self._lock:
            # What a new child loads is no time of the file's.
            if self._worker.process is None:
                self._worker.seconds = STARTING
                self._worker.call(0, ["begin", "", spec])
                self._worker.seconds = self._seconds
            outcome = self._worker.call(0, [what, str(path), spec, *arguments])
        if outcome.reason is not None:
            message = LONG.get(outcome.reason, outcome.message)
            # A crash of ours is told as one, with what Python says of it.
            if outcome.reason == "crashed" and not outcome.message.startswith("the process"):
                message = f"it cannot be read ({outcome.message})"
            named = message.replace(str(path), name)
            raise MediaError(
                outcome.reason, named if named != message or name in named else f"{name}: {named}"
            )
        return _named(outcome.value, str(path), name)


def at_work(what: str, path: str, spec: Mapping[str, Any], *arguments: Any) -> Any:
    """The child's side."""
    work: dict[str, Callable[..., Any]] = {
        "begin": _begin,
        "look": _look,
        "read": _read,
        "keep": _keep,
    }
    return work[what](Path(path), ClipSpec.model_validate(dict(spec)), *arguments)


def _begin(path: Path, spec: ClipSpec) -> None:
    """All is loaded when this is called."""


def _look(
    path: Path, spec: ClipSpec, modality: Modality | None, start: float, seconds: float | None
) -> Facts:
    part = _part(path, spec, modality, start, seconds)
    return Facts(part.begins, part.claimed, [*part.notes, *part.differences()])


def _read(
    path: Path,
    spec: ClipSpec,
    modality: Modality | None,
    start: float,
    seconds: float | None,
    out: str,
) -> Facts:
    part = _part(path, spec, modality, start, seconds)
    clip = part.whole()
    save_file({"frames": clip.frames.contiguous(), "waveform": clip.waveform.contiguous()}, out)
    lasts = max(clip.duration, len(clip.waveform) / spec.sample_rate)
    return Facts(part.begins, lasts, [*dict.fromkeys([*part.differences(), *part.notes])])


def _keep(
    path: Path,
    spec: ClipSpec,
    modality: Modality,
    begins: float,
    seconds: float | None,
    made: str,
    out: str,
    metadata: dict[str, str],
) -> list[str]:
    from mmldm.media.given import Given
    from mmldm.media.writer import FilmWriter

    given = Given(modality, path, begins, seconds, _limits())
    new = load_file(made)["made"]
    sound = modality == "audio"
    with FilmWriter(
        out,
        fps=spec.fps if sound else None,
        sample_rate=None if sound else spec.sample_rate,
        given=given,
        metadata=metadata,
    ) as film:
        film.add(new if sound else None, None if sound else new)
    return list(film.said)


def _part(
    path: Path, spec: ClipSpec, modality: Modality | None, start: float, seconds: float | None
) -> UsedPart:
    return UsedPart(path, modality, spec, start, seconds, _limits())


def _limits() -> Limits:
    return Limits(max_pixels=MOST_PIXELS)


def _named(value: Any, path: str, name: str) -> Any:
    """An answer in which the file has the visitor's name."""
    if isinstance(value, list):
        return [_named(item, path, name) for item in value]
    return value.replace(path, name) if isinstance(value, str) else value
