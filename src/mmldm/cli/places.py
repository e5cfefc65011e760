"""Where a command writes: a folder of its own, found again by the same command, and by no other.

--out, words, what is asked -> OUT/NAME/ with settings.json, NAME_000.mp4, ..., NAME_sheet_000.png.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from mmldm.errors import UserError
from mmldm.files import make_folder, write_json
from mmldm.pipelines.provenance import Asked
from mmldm.strict import parse, read_json

SETTINGS = "settings.json"
MOST_BYTES = 100
"""Of a folder's name that we choose: its files' names are longer, and the system's end at 255."""


class _Owner(BaseModel):
    """What `settings.json` holds: what the folder's clips are made from, and the seed of the first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["mmldm.clips"] = "mmldm.clips"
    version: Literal[1] = 1
    asked: Asked
    seed: int


class Place:
    """The folder of one command.

    It is made, and its name is fixed, when the first clip is about to be written: a command that is refused
    leaves nothing.

    Args:
        out: The folder above.
        words: That the folder's name is made of.
        asked: What its clips are made from.
        seed: Of clip 0.
        name: Of the folder; None: of the words, with -2, -3, ... where others were before.

    Raises:
        UserError: `name` is no name of a folder, or that folder holds other clips.
    """

    def __init__(
        self, out: Path, words: Sequence[str], asked: Asked, seed: int, name: str | None = None
    ) -> None:
        if name is not None and (not name.strip(". ") or Path(name).name != name):
            raise UserError(
                f"--name {name!r} is no name of a folder in {out}: choose one without a slash"
            )
        self._out, self._owner, self._fixed = out, _Owner(asked=asked, seed=seed), name
        self._names = self._candidates(words)
        self.folder = out
        self._choose()

    @property
    def name(self) -> str:
        """Of the folder; all its files begin with it."""
        return self.folder.name

    def file(self, ending: str) -> Path:
        """A file of it: the folder's name, and what it is."""
        return self.folder / f"{self.name}_{ending}"

    def clip(self, number: int) -> Path:
        """The file of a clip."""
        return self.file(f"{number:03d}.mp4")

    def sheet(self, first: int) -> Path:
        """The contact sheet whose first clip has this number."""
        return self.file(f"sheet_{first:03d}.png")

    def missing(self, count: int) -> list[int]:
        """Numbers of the clips, of so many, that are not whole there with their JSON."""
        return [
            i
            for i in range(count)
            if not (self.clip(i).is_file() and self.clip(i).with_suffix(".json").is_file())
        ]

    def claim(self) -> None:
        """Makes the folder, unless this command made it before.

        Raises:
            UserError: `name` was taken meanwhile, or the folder cannot be written.
        """
        while not (self.folder / SETTINGS).is_file():
            try:
                make_folder(self.folder.parent)
                # Who makes it has it: of two commands at once, the other one goes elsewhere.
                self.folder.mkdir()
            except FileExistsError:
                self._choose()
            else:
                write_json(self.folder / SETTINGS, self._owner.model_dump(mode="json"))

    def _choose(self) -> None:
        """The first folder that is free, or this command's own."""
        for name in self._names:
            self.folder = self._out / name
            if not os.path.lexists(self.folder):
                return
            differences = self._differences()
            if differences == []:
                return
            if self._fixed is not None:
                others = f" ({', '.join(differences)} differ)" if differences else ""
                raise UserError(
                    f"{self.folder} holds something else than this command makes{others}: choose another "
                    "--name"
                )

    def _candidates(self, words: Sequence[str]) -> Iterator[str]:
        if self._fixed is not None:
            yield from itertools.repeat(self._fixed)
        whole = "-".join(word.replace("/", "_").replace(".", "_") for word in words)
        first = os.fsencode(whole)[:MOST_BYTES].decode(errors="ignore") or "clips"
        yield first
        for number in itertools.count(2):
            yield f"{first}-{number}"

    def _differences(self) -> list[str] | None:
        """What another command asked for in this folder; None where nobody says what it holds."""
        try:
            stated = read_json(self.folder / SETTINGS, "no settings")
            found = parse(_Owner, stated, SETTINGS)
        except UserError:
            return None
        seeds = [] if found.seed == self._owner.seed else ["seed"]
        return seeds + found.asked.differences(self._owner.asked)
