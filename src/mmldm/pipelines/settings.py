"""With what settings a call samples, and rows of them that trade time for quality.

the model's own settings, a row's name, what is asked for -> Settings. The rows were measured on the
bundled model (docs/performance.md).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmldm.diffusion.schedules import MOST_TIMESTEPS
from mmldm.errors import UserError

QUALITY_ROWS: Mapping[str, Mapping[str, Any]] = {
    "best": {},
    "balanced": {"scheduler": "unipc", "num_inference_steps": 20, "phase_iterations": 16},
    "fast": {"scheduler": "unipc", "num_inference_steps": 10, "phase_iterations": 16},
}
"""What differs from a model's own settings, for models that publish no row of this name."""

UNCHANGED_STEPS: Mapping[str, Mapping[str, Any]] = {
    name: {key: value for key, value in row.items() if key == "phase_iterations"}
    for name, row in QUALITY_ROWS.items()
}
"""Rows of a generator that knows its own steps alone, because it was distilled to them."""

KNOWN_TO_STUDENT = ("scheduler", "num_inference_steps", "guidance_scale")
"""What a student was distilled with, and cannot be changed."""


def student_row(steps: int) -> dict[str, Any]:
    """The row of a model whose student makes so many steps: "fast", but for the generator."""
    phase = QUALITY_ROWS["fast"]["phase_iterations"]
    own = {"student": True, "num_inference_steps": steps, "guidance_scale": 1.0}
    return {**own, "phase_iterations": phase}


def unknown(what: str, name: object, known: Iterable[str]) -> UserError:
    """The refusal of a name that a model does not know; it tells the likely one, and all there are."""
    listed = list(known)
    near = difflib.get_close_matches(str(name), listed, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ":"
    return UserError(f"unknown {what} {name!r}{hint} this model knows {', '.join(listed)}")


class Settings(BaseModel):
    """What one call of the pipeline samples with.

    Attributes:
        scheduler: Sampler of the generator, as `diffusion.schedules` names it; None: the model's.
        num_inference_steps: Generator steps.
        decoder_steps: Signal decoder steps.
        guidance_scale: phi of Eq. 8.
        phase_iterations: Of Griffin-Lim, for a model without a vocoder.
        student: Whether the model's distilled generator samples, in its own steps, without guidance.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scheduler: str | None = None
    num_inference_steps: int = Field(le=MOST_TIMESTEPS)
    decoder_steps: int = Field(le=MOST_TIMESTEPS)
    guidance_scale: float
    phase_iterations: int = Field(32, ge=1, le=10_000)
    student: bool = False

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.student and (self.guidance_scale != 1 or self.scheduler is not None):
            raise ValueError("a student is sampled by its own scheduler, with guidance_scale 1")
        return self


class Qualities:
    """The rows of one model.

    Args:
        own: The model's own settings, which "best" leaves as they are.
        published: Rows of the model's index, over QUALITY_ROWS.
        default: The row that is used unless another is asked for.

    Raises:
        UserError: A published row is not valid, or the default is none.
    """

    def __init__(
        self, own: Mapping[str, Any], published: Mapping[str, Any], default: str = "best"
    ) -> None:
        self._own, self._default = own, default
        self._rows = {**QUALITY_ROWS, **published}
        # All rows are tried now: a wrong one is found when the model opens, not when somebody asks for it.
        for name in self._rows:
            try:
                self.settings(name)
            except (UserError, TypeError) as error:
                raise UserError(
                    f"quality row {name!r} of the model is not valid: {error}"
                ) from None
        self.settings()

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def settings(self, name: str | None = None, **asked: Any) -> Settings:
        """What is asked for, else the row's setting, else the model's own.

        Args:
            name: Of the row; None: the default, or "best" where what is asked for cannot be had of
                the default row's student.
            asked: Fields of `Settings`; None: not asked for.

        Raises:
            UserError: There is no such row (the sentence lists those there are), or its student
                cannot do what is asked for.
        """
        # A student knows the steps and the guidance that it was distilled to, and no others.
        row = self._row(name or self._default)
        wanted = {field: value for field, value in asked.items() if value is not None}
        foreign = [
            field
            for field in KNOWN_TO_STUDENT
            if field in wanted and wanted[field] != getattr(row, field)
        ]
        if not (row.student and foreign):
            return _checked({**row.model_dump(), **wanted})
        # Nobody asked for this row by name, so it gives way to what is asked for.
        if name is None:
            return self.settings("best", **asked)
        raise UserError(
            f"quality {name!r} samples with a generator that was distilled to "
            f"{row.num_inference_steps} steps without guidance: leave {' and '.join(foreign)} out, or "
            "ask for quality 'best'"
        )

    def _row(self, name: str) -> Settings:
        if name not in self._rows:
            raise unknown("quality", name, self._rows)
        return _checked({**self._own, **self._rows[name]})


def _checked(values: Mapping[str, Any]) -> Settings:
    """Values as settings, or the first thing that is wrong with them as a UserError."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = first["msg"].removeprefix("Value error, ")
        name = ".".join(map(str, first["loc"]))
        raise UserError(f"{name} {first['input']!r:.80}: {reason}" if name else reason) from None


def check_students(qualities: Qualities, *student: object | None) -> None:
    """Checks that what rows sample with is there.

    Args:
        student: The generator and its sampler.

    Raises:
        UserError: A row asks for them, and one is None.
    """
    for name in qualities:
        if qualities.settings(name).student and None in student:
            raise UserError(f"quality row {name!r} samples with a student, and there is none")
