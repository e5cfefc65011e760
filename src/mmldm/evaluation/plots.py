"""Two kinds of plots, drawn with Pillow: numbers with intervals, and features as maps.

titles -> series -> Value -> picture;  titles -> series -> points (N,2) -> picture
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mmldm.evaluation.metrics import Value
from mmldm.evaluation.page import digits
from mmldm.media.sheet import FAINT, INK, MARGIN, PAPER
from mmldm.text import printable

COLOURS = ((214, 96, 20), (120, 120, 120), (30, 90, 180), (40, 140, 70), (150, 60, 160), (160, 130, 20),
           (200, 60, 90), (60, 150, 160))  # fmt: skip
"""Of the series, in turn."""
LABELS, AXIS, ROW, NUMBERS = 330, 420, 18, 150
"""Pixels: width of titles and of the axis, height of a series, width of the number at the end."""
SIDE, DOT = 420, 3
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def interval_plot(lines: Mapping[str, Mapping[str, Value]]) -> Image.Image:
    """Each title's values and intervals on an axis of its own, from its least to its largest number."""
    series = list(dict.fromkeys(name for values in lines.values() for name in values))
    height = sum(ROW * len(values) + MARGIN for values in lines.values()) + 2 * MARGIN + 20
    picture = Image.new("RGB", (LABELS + AXIS + NUMBERS + 2 * MARGIN, height), PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    _legend(draw, series, font)
    top = 2 * MARGIN + 20
    for title, values in lines.items():
        ends = [
            end
            for v in values.values()
            if v.value is not None
            for end in (v.value, *(v.interval or ()))
        ]
        low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
        span = (high - low) or 1.0
        # The font that comes with Pillow has no accents.
        plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
        draw.text((MARGIN, top), plain, fill=INK, font=font)
        for name, value in values.items():
            middle, colour = top + ROW // 2, COLOURS[series.index(name) % len(COLOURS)]
            draw.line((LABELS, middle, LABELS + AXIS, middle), fill=(235, 235, 235))
            words = "undefined"
            if value.value is not None:
                x, *bounds = (
                    LABELS + AXIS * (end - low) / span
                    for end in (value.value, *(value.interval or ()))
                )
                if bounds:
                    draw.line((bounds[0], middle, bounds[1], middle), fill=colour, width=2)
                draw.ellipse((x - 4, middle - 4, x + 4, middle + 4), fill=colour)
                words = f"{digits(value.value)}  (n {value.n})"
            draw.text((LABELS + AXIS + MARGIN, top + 1), words, fill=colour, font=font)
            top += ROW
        top += MARGIN
    return picture


def scatter_plot(panels: Mapping[str, Mapping[str, Tensor]]) -> Image.Image:
    """Clouds of points (N,2) side by side, one panel each, axes fitted to all of a panel's points."""
    width = len(panels) * (SIDE + MARGIN) + MARGIN
    picture = Image.new("RGB", (width, SIDE + 3 * MARGIN + 40), PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    _legend(draw, list(dict.fromkeys(name for clouds in panels.values() for name in clouds)), font)
    for number, (title, clouds) in enumerate(panels.items()):
        left, top = MARGIN + number * (SIDE + MARGIN), 2 * MARGIN + 40
        draw.text((left, top - 20), title, fill=INK, font=font)
        draw.rectangle((left, top, left + SIDE, top + SIDE), outline=FAINT)
        every = torch.cat(list(clouds.values()))
        least, most = every.amin(0), every.amax(0)
        places = {
            name: 8 + (SIDE - 16) * (points - least) / (most - least).clamp(min=1e-12)
            for name, points in clouds.items()
        }
        # Many points last would hide few.
        for name in sorted(places, key=lambda n: -len(places[n])):
            colour = COLOURS[list(clouds).index(name) % len(COLOURS)]
            for x, y in places[name].tolist():
                dot = (left + x - DOT, top + SIDE - y - DOT, left + x + DOT, top + SIDE - y + DOT)
                draw.ellipse(dot, outline=colour, width=2)
    return picture


def principal_plane(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and first two principal axes (2,D) of features (N,D); with signs that do not wander."""
    mean = features.mean(0)
    axes = torch.linalg.svd(features - mean, full_matrices=False).Vh[:2]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return mean, axes * torch.where(largest < 0, -1.0, 1.0)


def _legend(draw: ImageDraw.ImageDraw, series: Sequence[str], font: Font) -> None:
    left = MARGIN
    for number, name in enumerate(map(printable, series)):
        colour = COLOURS[number % len(COLOURS)]
        draw.ellipse((left, MARGIN + 4, left + 8, MARGIN + 12), fill=colour)
        draw.text((left + 14, MARGIN), name, fill=INK, font=font)
        left += 34 + round(draw.textlength(name, font=font))
