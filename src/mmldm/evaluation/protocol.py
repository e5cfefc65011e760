"""Everything a number of the evaluation depends on besides the clips and the networks.

name -> Protocol -> sha256, which reports carry and without which two of them are not compared

Sources: Ruan et al., "MM-Diffusion", CVPR 2023, and its evaluation code (2,048 clips of 16 frames at 10 fps,
shown to I3D by way of 64 or 256 pixels, heard at 44.1 kHz); docs/evaluation.md says where ours is not theirs.
"""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mmldm.errors import UserError
from mmldm.types import ClipSpec


class Protocol(BaseModel):
    """How clips are read and estimates made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int = 3
    """Rises when the same clips get other numbers.

    In version 1 each frame was the last one shown by its instant; since 2 it is the nearest, and windows
    begin at source frames. Since 3 onsets are timed to a sample where they were to 5 ms, and impacts are
    where arcs of flight meet; recordings are drawn for intervals, where it was clips, and kernel distances
    leave out the pairs of windows of one recording; density counts what lies within a ball, not on it; events
    in common are no longer called AV-Align, which is as published.
    """
    spec: ClipSpec
    """Frames, rates and the size all pictures are brought to, before networks bring them to their own."""
    samples: int | None = Field(None, ge=2)
    """Windows of a set at most; where a set has fewer files, several are taken of each. None: `windows`."""
    windows: int | None = Field(1, ge=1)
    """Of each file where no number of samples is asked for: end to end, or spread. None: all that fit."""
    seed: int = Field(0, ge=0)
    """Of splits, derangements, groups and bootstraps."""
    groups: int = 20
    """Of the jackknife."""
    bootstraps: int = 1000
    shuffles: int = 8
    """Derangements that a shuffled value is the mean of."""
    neighbours: int = 3
    """Of precision and recall."""
    density_neighbours: int = 5
    """Of density and coverage."""
    group_pattern: str | None = None
    """Searched in the paths of clips; its first group names the recording that a file is a part of."""

    @property
    def sha256(self) -> str:
        """Of all settings, in hex."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def _square(size: int, sample_rate: int) -> ClipSpec:
    return ClipSpec(num_frames=16, fps=10.0, height=size, width=size, sample_rate=sample_rate)


PROTOCOLS = {
    "default": Protocol(name="default", spec=_square(224, 16_000)),
    "mm-diffusion": Protocol(name="mm-diffusion", spec=_square(64, 44_100), samples=2048),
    "mm-diffusion-256": Protocol(name="mm-diffusion-256", spec=_square(256, 44_100), samples=2048),
}


OWN = "own"
"""The protocol that reads clips as a model's are: its frames, rates and size."""


def find_protocol(
    name: str,
    samples: int | None = None,
    seed: int = 0,
    own: ClipSpec | None = None,
    group_pattern: str | None = None,
    windows: int | None = 1,
) -> Protocol:
    """A protocol by name.

    Args:
        samples: In place of its own number of windows.
        seed: In place of 0.
        own: A model's clips, for `OWN`; None: there is no model.
        group_pattern: In place of none.
        windows: Of each file, in place of one; None: all that fit. A number of samples goes before it.

    Raises:
        UserError: There is none of this name, or the number of clips says already how many windows there are.
    """
    if name == OWN and own is None:
        raise UserError(
            "--protocol own is that of a model's clips, and what is evaluated is no model: name another one"
        )
    known = PROTOCOLS if own is None else {**PROTOCOLS, OWN: Protocol(name=OWN, spec=own)}
    if name not in known:
        raise UserError(
            f"there is no protocol {name!r}; there are {', '.join(PROTOCOLS)}, and {OWN} for models"
        )
    count = samples or known[name].samples
    if windows != 1 and count is not None:
        raise UserError(
            f"--windows: {count} clips are asked for, whatever files they are of; leave it out"
        )
    changes: dict[str, Any] = {"seed": seed, "group_pattern": group_pattern, "windows": windows}
    if samples is not None:
        changes["samples"] = samples
    return known[name].model_copy(update=changes)
