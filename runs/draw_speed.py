"""Draws time against quality from measured rows.

    python runs/draw_speed.py docs/images/speed.json docs/images/speed.png

The JSON holds the recall of real clips, "real", and "rows" of name, seconds, recall, recall_interval.
"""

import json
import math
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mmldm.media.sheet import save_png

SIZE = 900, 480
LEFT, TOP, RIGHT, BOTTOM = 80, 30, 870, 410
RECALLS = 0.84, 0.92
SECONDS = 0.095, 0.5
MARKS = 0.1, 0.15, 0.2, 0.3, 0.4
INK, GRID, DOT = (30, 30, 30), (220, 220, 220), (30, 90, 200)


def main() -> None:
    measured = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(15)
    for seconds in MARKS:
        x = column(seconds)
        draw.line([(x, TOP), (x, BOTTOM)], GRID)
        draw.text((x, BOTTOM + 6), f"{seconds:g}", INK, font, anchor="ma")
    for hundredth in range(math.ceil(100 * RECALLS[0]), math.floor(100 * RECALLS[1]) + 1, 2):
        y = line(hundredth / 100)
        draw.line([(LEFT, y), (RIGHT, y)], GRID)
        draw.text((LEFT - 8, y), f".{hundredth}", INK, font, anchor="rm")
    real = line(measured["real"])
    draw.line([(LEFT, real), (RIGHT, real)], (20, 140, 60), 2)
    draw.text((RIGHT, real - 4), "real clips", (20, 140, 60), font, anchor="rs")
    for row in measured["rows"]:
        x, y = column(row["seconds"]), line(row["recall"])
        low, high = map(line, row["recall_interval"])
        draw.line([(x, low), (x, high)], DOT, 2)
        draw.ellipse([x - 5, y - 5, x + 5, y + 5], DOT)
        draw.text((x + 9, y + row.get("shift", 0)), row["name"], INK, font, anchor="lm")
    words = "CPU seconds a clip, one thread (logarithmic)"
    draw.text(((LEFT + RIGHT) / 2, BOTTOM + 34), words, INK, font, anchor="ma")
    draw.text((10, 6), "recall at 50 ms of joint samples, 95 % interval", INK, font)
    save_png(Path(sys.argv[2]), image)


def column(seconds: float) -> float:
    low, high = map(math.log, SECONDS)
    return LEFT + (RIGHT - LEFT) * (math.log(seconds) - low) / (high - low)


def line(recall: float) -> float:
    low, high = RECALLS
    return BOTTOM - (BOTTOM - TOP) * (recall - low) / (high - low)


if __name__ == "__main__":
    main()
