"""Draws the impacts world: anti-aliased, motion-blurred balls with soft shadows in a fixed box.

balls and their paths -> frames u8 (T, 3, H, W); frame i shows the instant (first + i) / fps

Coverage comes from the distance to the ball's edge, so that motion below one pixel stays visible;
each frame is the mean of sub-frames over a shutter centred on its instant.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmldm.types import ClipSpec
from mmldm.worlds.impacts.materials import MATERIALS, Texture
from mmldm.worlds.impacts.physics import FLOOR_LEVEL, WALL_THICKNESS, Ball, Flight, positions

SHUTTER = 0.03
"""Longest exposure in seconds; never more than half a frame."""
LIGHT = np.array([-0.42, -0.62, 0.66])
"""Direction towards the light: left, up, and towards the viewer."""

_HALFWAY = (LIGHT + [0, 0, 1]) / np.linalg.norm(LIGHT + [0, 0, 1])


def render(
    balls: list[Ball], paths: list[list[Flight]], spec: ClipSpec, first: int = 0
) -> np.ndarray:
    """Frames u8 (T, 3, H, W) of a simulated world, from its frame `first` on."""
    # Instants of the sub-frames, spread over a shutter around each frame's own.
    size = spec.height
    subframes = max(4, size // 24)
    shutter = min(SHUTTER, 0.5 / spec.fps)
    offsets = ((np.arange(subframes) + 0.5) / subframes - 0.5) * shutter
    instants = np.arange(first, first + spec.num_frames) / spec.fps
    centres = [
        positions(path, (instants[:, None] + offsets).ravel()).reshape(-1, subframes, 2)
        for path in paths
    ]
    # All shadows below all balls.
    room = background(spec.height, spec.width)
    frames = np.empty((spec.num_frames, 3, spec.height, spec.width), dtype=np.uint8)
    for index in range(spec.num_frames):
        canvas = room.copy()
        for ball, centre in zip(balls, centres, strict=True):
            _draw_shadow(canvas, centre[index].mean(0), ball.radius)
        for ball, centre in zip(balls, centres, strict=True):
            _draw_ball(canvas, centre[index], ball)
        frames[index] = np.clip(canvas * 255 + 0.5, 0, 255).transpose(2, 0, 1)
    return frames


def background(height: int, width: int) -> np.ndarray:
    """The empty box, float32 (H, W, 3) in [0, 1]: back wall, floor, side walls and ceiling."""
    # Pixel centres in frame heights; the back wall glows above the middle.
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height)[:, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5) / height)[None, :]
    aspect = width / height
    glow = np.exp(-(((x - 0.42 * aspect) / 0.55) ** 2) - ((y - 0.35) / 0.5) ** 2)
    room = np.array([0.085, 0.095, 0.135]) + glow[..., None] * np.array([0.075, 0.08, 0.10])

    # Floor, side walls and ceiling over it, in perspective: walls run in towards the back edge of the floor.
    depth = 1 - FLOOR_LEVEL
    back_edge = FLOOR_LEVEL - 0.5 * depth
    inset = np.clip((1 - y) / (1 - back_edge), 0, 1) * WALL_THICKNESS
    floor = _cover(y - back_edge, height)
    shade = 0.8 + 0.2 * np.clip((y - back_edge) / (1 - back_edge), 0, 1)
    room = _mix(room, shade[..., None] * np.array([0.38, 0.35, 0.34]), floor)
    side = np.maximum(_cover(inset - x, height), _cover(x - aspect + inset, height))
    room = _mix(room, np.array([0.17, 0.19, 0.25]), side)
    top = _cover(WALL_THICKNESS - y, height)
    room = _mix(room, np.array([0.13, 0.145, 0.20]), top)
    return room.astype(np.float32)


def _cover(inside: np.ndarray, height: int) -> np.ndarray:
    """Share of each pixel that the half-plane `inside` > 0 covers; `inside` in frame heights, any shape."""
    return np.clip(inside * height + 0.5, 0, 1)


def _mix(below: np.ndarray, above: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours (..., 3) laid over others with opacity alpha (...)."""
    return below + (above - below) * alpha[..., None]


def _draw_shadow(canvas: np.ndarray, centre: np.ndarray, radius: float) -> None:
    """Darkens the floor of a canvas (H, W, 3) below a ball at (2,), sharper and darker the lower it is."""
    height, width, _ = canvas.shape
    # The higher the ball, the wider and fainter.
    clearance = max(FLOOR_LEVEL - radius - centre[1], 0.0)
    spread = radius * (0.95 + 0.9 * clearance)
    top = int((FLOOR_LEVEL - 0.5 * (1 - FLOOR_LEVEL)) * height)
    y = (np.arange(top, height) + 0.5) / height - FLOOR_LEVEL - 0.006
    x = (np.arange(width) + 0.5) / height - centre[0]
    falloff = np.exp(-((x / spread)[None] ** 2) - ((y / (0.30 * spread))[:, None] ** 2))
    canvas[top:] *= (1 - 0.75 * np.exp(-3.2 * clearance) * falloff)[..., None].astype(np.float32)


def _draw_ball(canvas: np.ndarray, centres: np.ndarray, ball: Ball) -> None:
    """Blends a ball, averaged over its sub-frame `centres` (K, 2), into the canvas (H, W, 3)."""
    height, width, _ = canvas.shape
    # Only the pixels that some sub-frame touches.
    margin = ball.radius + 1.5 / height
    low = np.floor((centres.min(0) - margin) * height).astype(int).clip(0)
    high = np.ceil((centres.max(0) + margin) * height).astype(int)
    columns = np.arange(low[0], min(high[0], width), dtype=np.float32)
    rows = np.arange(low[1], min(high[1], height), dtype=np.float32)
    # Coordinates from the centre, in radii, of each sub-frame: (K,1,w) and (K,h,1).
    u = (columns + 0.5) / height - centres[:, :1]
    v = (rows + 0.5) / height - centres[:, 1:]
    u = (u / ball.radius).astype(np.float32)[:, None, :]
    v = (v / ball.radius).astype(np.float32)[:, :, None]
    distance = np.sqrt(u**2 + v**2)
    colour, opacity = _surface(ball, u, v, distance)
    # The mean over sub-frames of colour over canvas: motion blur.
    alpha = opacity * _cover((1 - distance) * ball.radius, height)
    patch = canvas[low[1] : low[1] + len(rows), low[0] : low[0] + len(columns)]
    patch *= 1 - alpha.mean(0)[..., None]
    patch += (alpha[..., None] * colour).mean(0)


def _surface(
    ball: Ball, u: np.ndarray, v: np.ndarray, distance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lit colour (K, h, w, 3) and opacity (K, h, w) at (u, v), in radii from the centre."""
    material = MATERIALS[ball.material]
    # The sphere's normal is (u, v, depth): Lambert's diffuse light, Blinn's highlight.
    depth = np.sqrt(np.maximum(1 - distance**2, 0))
    diffuse = np.maximum(u * LIGHT[0] + v * LIGHT[1] + depth * LIGHT[2], 0)
    gloss = np.maximum(u * _HALFWAY[0] + v * _HALFWAY[1] + depth * _HALFWAY[2], 0)
    accent, light, shine, opacity = _TEXTURES[material.texture](u, v, distance, diffuse, gloss)
    colour, second = (np.array(c, np.float32) for c in (material.colour, material.accent))
    base = _mix(colour, second, accent)
    return np.clip(base * light[..., None] + shine[..., None], 0, 1), opacity


Array = np.ndarray
Shading = tuple[Array, Array, Array, Array]
"""Share of the accent colour, light factor, white highlight, opacity; each (K, h, w).

A texture takes u, v, the distance from the centre, diffuse light and gloss, all (K, h, w).
"""


def _step(value: np.ndarray, softness: float = 0.08) -> np.ndarray:
    """0 below 0 and 1 above, with a ramp of this width; any shape."""
    return np.clip(0.5 + value / softness, 0, 1)


def _grain(u: Array, v: Array, d: Array, lit: Array, g: Array) -> Shading:
    stripes = _step(np.sin(8.5 * v + 1.6 * u * u + 1.0 * u + 0.6), 1.2)
    return stripes, 0.50 + 0.60 * lit, 0.10 * g**12, np.ones_like(d)


def _chrome(u: Array, v: Array, d: Array, lit: Array, g: Array) -> Shading:
    horizon = np.exp(-(((v - 0.30 + 0.25 * u * u) / 0.20) ** 2))
    rim = _step(d - 0.86, 0.3)
    return np.maximum(0.85 * horizon, 0.6 * rim), 0.62 + 0.55 * lit, 0.95 * g**26, np.ones_like(d)


def _bubble(u: Array, v: Array, d: Array, lit: Array, g: Array) -> Shading:
    rim = np.clip(d, 0, 1) ** 5
    caustic = np.exp(-(((u - 0.36) / 0.26) ** 2) - ((v - 0.46) / 0.22) ** 2)
    opacity = np.clip(0.26 + 0.66 * rim + 0.9 * g**30 + 0.45 * caustic, 0, 1)
    return caustic, 0.85 + 0.25 * lit, 1.0 * g**30, opacity


def _band(u: Array, v: Array, d: Array, lit: Array, g: Array) -> Shading:
    return _step(0.24 - np.abs(v), 0.14), 0.42 + 0.68 * lit, 0.08 * g**6, np.ones_like(d)


def _ring(u: Array, v: Array, d: Array, lit: Array, g: Array) -> Shading:
    ring = _step(d - 0.40, 0.14) * _step(0.74 - d, 0.14)
    return ring, 0.62 + 0.46 * lit, 0.0 * g, np.ones_like(d)


def _pinwheel(u: Array, v: Array, d: Array, lit: Array, g: Array) -> Shading:
    sectors = _step(np.sin(3 * np.arctan2(v, u) + 0.5) * d, 0.25)
    return 0.9 * sectors, 0.52 + 0.56 * lit, 0.45 * g**20, np.ones_like(d)


_TEXTURES: dict[Texture, Callable[..., Shading]] = {
    "grain": _grain,
    "chrome": _chrome,
    "bubble": _bubble,
    "band": _band,
    "ring": _ring,
    "pinwheel": _pinwheel,
}
