"""The materials of the impacts world: how each looks and how each sounds when it is struck.

name -> Material (colours, texture, partials, contact noise)

Source: modal synthesis, the response of a struck body as a sum of damped sinusoids whose frequency
ratios and decay rates belong to shape and material (van den Doel et al., "FoleyAutomatic", 2001).
Sizes are in frame heights, frequencies in Hz, decay rates in 1/s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Texture = Literal["grain", "chrome", "bubble", "band", "ring", "pinwheel"]
Colour = tuple[float, float, float]

REFERENCE_RADIUS = 8.5 / 64
"""Radius at which a material sounds at its `fundamental`; smaller balls sound higher."""


@dataclass(frozen=True)
class Material:
    """A ball's substance.

    Attributes:
        colour: Main sRGB colour in [0, 1].
        accent: Second colour of the texture.
        restitution: Mean share of the normal speed kept at a hit.
        fundamental: Frequency of the first partial at `REFERENCE_RADIUS`.
        ratios: Partial frequencies over the fundamental.
        levels: Amplitude of each partial for the hardest hit.
        decays: Amplitude decay rate of each partial.
        noise_level: Peak amplitude of the contact noise for the hardest hit.
        noise_cutoff: Frequency above which the contact noise falls off, for the hardest hit.
        noise_decay: Amplitude decay rate of the contact noise.
        dulling: How much softer hits lose of the upper partials; 0 keeps the spectrum.
    """

    colour: Colour
    accent: Colour
    texture: Texture
    restitution: float
    fundamental: float
    ratios: tuple[float, ...]
    levels: tuple[float, ...]
    decays: tuple[float, ...]
    noise_level: float
    noise_cutoff: float
    noise_decay: float
    dulling: float


MATERIALS: dict[str, Material] = {
    # Modes of a circular membrane.
    "drum": Material(
        colour=(0.96, 0.91, 0.80),
        accent=(0.52, 0.16, 0.66),
        texture="ring",
        restitution=0.78,
        fundamental=165.0,
        ratios=(1.0, 1.59, 2.14, 2.65, 3.16),
        levels=(0.55, 0.26, 0.18, 0.12, 0.08),
        decays=(10.0, 15.0, 19.0, 23.0, 28.0),
        noise_level=0.30,
        noise_cutoff=3200.0,
        noise_decay=70.0,
        dulling=1.0,
    ),
    # Few high partials that ring on, hardly any noise.
    "glass": Material(
        colour=(0.62, 0.95, 1.0),
        accent=(0.90, 1.0, 1.0),
        texture="bubble",
        restitution=0.80,
        fundamental=1750.0,
        ratios=(1.0, 1.83, 2.74, 3.61),
        levels=(0.34, 0.22, 0.14, 0.08),
        decays=(15.0, 19.0, 26.0, 34.0),
        noise_level=0.16,
        noise_cutoff=7000.0,
        noise_decay=600.0,
        dulling=1.2,
    ),
    # Many inharmonic partials, the longest to ring.
    "metal": Material(
        colour=(0.70, 0.75, 0.83),
        accent=(0.20, 0.23, 0.30),
        texture="chrome",
        restitution=0.74,
        fundamental=610.0,
        ratios=(1.0, 1.51, 2.33, 3.42, 4.71, 6.13),
        levels=(0.20, 0.19, 0.15, 0.12, 0.09, 0.06),
        decays=(3.5, 4.5, 5.5, 7.0, 9.0, 12.0),
        noise_level=0.16,
        noise_cutoff=6000.0,
        noise_decay=450.0,
        dulling=0.7,
    ),
    # A click: partials that are gone after a hundredth of a second.
    "plastic": Material(
        colour=(0.16, 0.80, 0.30),
        accent=(0.93, 1.0, 0.90),
        texture="pinwheel",
        restitution=0.84,
        fundamental=1020.0,
        ratios=(1.0, 1.37, 2.21, 3.08),
        levels=(0.50, 0.30, 0.16, 0.08),
        decays=(95.0, 110.0, 140.0, 170.0),
        noise_level=0.28,
        noise_cutoff=5000.0,
        noise_decay=260.0,
        dulling=0.8,
    ),
    # A thud: low, dull, and duller the softer it is hit.
    "rubber": Material(
        colour=(0.92, 0.20, 0.15),
        accent=(0.27, 0.05, 0.07),
        texture="band",
        restitution=0.86,
        fundamental=105.0,
        ratios=(1.0, 1.93, 2.9),
        levels=(0.72, 0.20, 0.06),
        decays=(26.0, 42.0, 60.0),
        noise_level=0.14,
        noise_cutoff=500.0,
        noise_decay=140.0,
        dulling=1.4,
    ),
    # Modes of a bar, short.
    "wood": Material(
        colour=(0.80, 0.52, 0.25),
        accent=(0.45, 0.25, 0.10),
        texture="grain",
        restitution=0.68,
        fundamental=400.0,
        ratios=(1.0, 2.57, 4.95),
        levels=(0.58, 0.28, 0.14),
        decays=(42.0, 58.0, 80.0),
        noise_level=0.26,
        noise_cutoff=2400.0,
        noise_decay=220.0,
        dulling=1.0,
    ),
}
