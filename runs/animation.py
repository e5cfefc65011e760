"""Clips as an animated picture: a grid that plays, a playhead over each clip's spectrogram.

clips, titles -> PIL images, one per instant -> .gif, .webp, .apng. For pages that play no sound; see show.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from mmldm.errors import UserError
from mmldm.files import whole_file
from mmldm.media.clip import Clip
from mmldm.media.sheet import CAPTION_HEIGHT, INK, MARGIN, PAPER, spectrogram_picture

PICTURE_WIDTH = 160
"""Pixels aimed at; frames are enlarged, or reduced, by a whole number to come near."""
STRIP_HEIGHT = 48
PICTURE_RATE = 25.0
"""Pictures per second aimed at. Browsers play a GIF of 50 or more slowly."""
PAUSE = 1.0
"""Seconds for which the end stays before the picture starts again."""
OPTIONS: dict[str, dict[str, Any]] = {
    ".gif": {"format": "GIF", "optimize": False},
    ".webp": {"format": "WEBP", "quality": 80, "method": 4},
}
"""Of Pillow, by suffix; the others are PNG."""
PLAYHEAD = (255, 255, 255)
TO_COME = 0.45
"""Brightness of the part of a spectrogram that the playhead has not reached."""


def animate(clips: Sequence[Clip], titles: Sequence[str], columns: int = 4) -> list[Image.Image]:
    """Draws a grid of clips at every instant of `instants`, row by row, all starting together.

    A frame stays until the next one's instant, as in any player. The playhead stands at the
    instant of the picture, and the sound behind it is bright. A clip that is over stands still.

    Raises:
        ValueError: No clips, or `clips` and `titles` differ in length.
    """
    cells = [_Cell(clip, title) for clip, title in zip(clips, titles, strict=True)]
    width = max(cell.still.width for cell in cells)
    height = max(cell.still.height for cell in cells)
    rows = -(-len(cells) // columns)
    columns = min(columns, len(cells))
    size = (columns * (width + MARGIN) + MARGIN, rows * (height + MARGIN) + MARGIN)
    paper = Image.new("RGB", size, PAPER)
    pictures = []
    for instant in instants(clips):
        picture = paper.copy()
        for index, cell in enumerate(cells):
            row, column = divmod(index, columns)
            place = (MARGIN + column * (width + MARGIN), MARGIN + row * (height + MARGIN))
            picture.paste(cell.at(instant), place)
        pictures.append(picture)
    return pictures


def instants(clips: Sequence[Clip]) -> list[float]:
    """Times of the pictures in seconds, from 0 to the end of the longest clip, both included.

    They are evenly spaced at about `PICTURE_RATE`, so that each frame of the first clip (above
    that rate: every second, third, ...) begins with a picture and slow clips have several per frame.
    """
    fps = clips[0].fps
    rate = fps * max(1, round(PICTURE_RATE / fps)) / max(1, round(fps / PICTURE_RATE))
    duration = max(clip.duration for clip in clips)
    return [*(i / rate for i in range(math.ceil(duration * rate - 1e-6))), duration]


def save_animation(
    path: str | Path,
    clips: Sequence[Clip],
    titles: Sequence[str],
    columns: int = 4,
    speed: float = 1.0,
) -> Path:
    """Writes the grid as a picture that plays for ever, whole or not at all.

    Args:
        path: `.webp` (lossy, smallest), `.gif` (256 colours) or `.apng`, `.png` (lossless).
        clips: Of any sizes, rates and lengths.
        titles: Captions; one longer than its clip's picture is cut off.
        columns: Clips side by side.
        speed: Of playback: 1 is the clips' own, 0.5 half of it.

    Raises:
        UserError: Another suffix, no positive speed, or the file cannot be written.
        ValueError: No clips, or `clips` and `titles` differ in length.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".gif", ".webp", ".apng", ".png"):
        raise UserError(f"cannot save {path}: {suffix!r} is not one of .gif, .webp, .apng, .png")
    if speed <= 0:
        raise UserError(f"cannot play {path} at speed {speed:g}: give one above 0")
    pictures = animate(clips, titles, columns)

    # How long each picture stays, in milliseconds; a GIF counts in hundredths of a second.
    starts = [instant / speed for instant in instants(clips)]
    unit = 10 if suffix == ".gif" else 1
    # Rounded on the common clock, not each: 33.3 ms three times must be 100 ms.
    ticks = [round(time * 1000 / unit) * unit for time in (*starts, starts[-1] + PAUSE)]
    durations = [after - before for before, after in pairwise(ticks)]

    options = OPTIONS.get(suffix, {"format": "PNG"})
    if suffix == ".gif":
        pictures = _with_one_palette(pictures)
    with whole_file(path) as temporary:
        pictures[0].save(
            temporary,
            save_all=True,
            append_images=pictures[1:],
            loop=0,
            duration=durations,
            **options,
        )
    return path


class _Cell:
    """One clip's place in the grid: caption, picture, spectrogram."""

    def __init__(self, clip: Clip, title: str) -> None:
        self.clip = clip
        height, width = clip.frames.shape[-2:]
        self.size = _near_width(width, height)
        width, self.strip_top = self.size[0], CAPTION_HEIGHT + self.size[1] + 2
        self.still = Image.new("RGB", (width, self.strip_top + STRIP_HEIGHT), PAPER)
        font = ImageFont.load_default(13)
        ImageDraw.Draw(self.still).text((0, 1), title, fill=INK, font=font)
        self.bright = spectrogram_picture(clip, width, STRIP_HEIGHT)
        self.dark = self.bright.point(lambda level: level * TO_COME)

    def at(self, instant: float) -> Image.Image:
        """The cell at `instant` seconds; the clip's end where that is later."""
        clip, cell = self.clip, self.still.copy()
        index = min(int(instant * clip.fps + 1e-6), len(clip.frames) - 1)
        frame = Image.fromarray(clip.frames[index].permute(1, 2, 0).cpu().numpy())
        cell.paste(frame.resize(self.size, Image.Resampling.BICUBIC), (0, CAPTION_HEIGHT))
        x = round(min(instant / clip.duration, 1.0) * cell.width)
        cell.paste(self.dark, (0, self.strip_top))
        cell.paste(self.bright.crop((0, 0, x, STRIP_HEIGHT)), (0, self.strip_top))
        line = (x, self.strip_top, x + 1, self.strip_top + STRIP_HEIGHT)
        ImageDraw.Draw(cell).rectangle(line, fill=PLAYHEAD)
        return cell


def _near_width(width: int, height: int) -> tuple[int, int]:
    """The size whose ratio to (width, height) is k or 1/k, k whole, nearest `PICTURE_WIDTH`."""
    factors = [float(k) for k in range(1, 161)] + [1 / k for k in range(2, 161)]
    factor = min(factors, key=lambda f: abs(math.log(f * width / PICTURE_WIDTH)))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _with_one_palette(pictures: list[Image.Image]) -> list[Image.Image]:
    """The pictures in 255 common colours: what does not move does not flicker, and costs nothing."""
    # The palette is that of eight pictures at a third of their size, one below the other.
    chosen = pictures[:: max(1, len(pictures) // 8)]
    width, height = (max(1, side // 3) for side in pictures[0].size)
    together = Image.new("RGB", (width, height * len(chosen)))
    for index, picture in enumerate(chosen):
        small = picture.resize((width, height), Image.Resampling.NEAREST)
        together.paste(small, (0, index * height))
    palette = together.quantize(255, kmeans=1)
    return [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
