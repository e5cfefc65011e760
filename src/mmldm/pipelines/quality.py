"""Settings of sampling, and rows of them that trade time for quality.

the model's own settings, a row's name, what is asked for -> Settings. The rows were measured on the
bundled model (docs/performance.md).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mmldm.errors import UserError

QUALITY_ROWS: Mapping[str, Mapping[str, Any]] = {
    "best": {},
    "balanced": {"scheduler": "unipc", "num_inference_steps": 20, "phase_iterations": 16},
    "fast": {"scheduler": "unipc", "num_inference_steps": 10, "phase_iterations": 8},
}
"""What differs from a model's own settings, for models that publish no row of this name."""

UNCHANGED_STEPS: Mapping[str, Mapping[str, Any]] = {
    name: {key: value for key, value in row.items() if key == "phase_iterations"}
    for name, row in QUALITY_ROWS.items()
}
"""Rows of a generator that knows its own steps alone, because it was distilled to them."""


class Settings(BaseModel):
    """What one call of the pipeline samples with.

    Attributes:
        scheduler: Sampler of the generator, as `diffusion.schedules` names it; None: the model's.
        num_inference_steps: Generator steps.
        decoder_steps: Signal decoder steps.
        guidance_scale: phi of Eq. 8.
        phase_iterations: Of Griffin-Lim, for a model without a vocoder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheduler: str | None = None
    num_inference_steps: int
    decoder_steps: int
    guidance_scale: float
    phase_iterations: int = 32


class Qualities:
    """The rows of one model.

    Args:
        own: The model's own settings, which "best" leaves as they are.
        published: Rows of the model's index, over QUALITY_ROWS.

    Raises:
        UserError: A published row is not valid.
    """

    def __init__(self, own: Mapping[str, Any], published: Mapping[str, Any]) -> None:
        self._own = own
        self._rows = {**QUALITY_ROWS, **published}
        for name in self._rows:
            try:
                self.settings(name)
            except (ValidationError, TypeError) as error:
                raise UserError(
                    f"quality row {name!r} of the model is not valid: {error}"
                ) from None

    def settings(self, name: str, **asked: Any) -> Settings:
        """What is asked for, else the row's setting, else the model's own.

        Args:
            name: Of the row.
            asked: Fields of `Settings`; None: not asked for.

        Raises:
            UserError: There is no such row; the sentence lists those there are.
        """
        if name not in self._rows:
            near = difflib.get_close_matches(name, self._rows, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ":"
            raise UserError(
                f"unknown quality {name!r}{hint} this model knows {', '.join(self._rows)}"
            )
        wanted = {field: value for field, value in asked.items() if value is not None}
        return Settings(**{**self._own, **self._rows[name], **wanted})
