"""What one foreign file may cost, in pixels and in seconds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """What one foreign file may cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_pixels: int = Field(4096 * 4096, gt=0)
    """Pixels in one picture; larger ones are refused from the header, before decoding."""
    seconds: float = Field(120.0, gt=0)
    """Wall-clock time for reading one file in a scan."""
