"""Clips as one picture: frames above, spectrogram below, on one time axis.

clips, titles -> PIL image; pieces of a film of any length -> PIL image. For reports, previews and `.png`
outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from mmldm.files import whole_file
from mmldm.media.clip import Clip
from mmldm.media.spectrogram import AudioImage
from mmldm.text import printable
from mmldm.types import ClipSpec, SpectrogramSpec

TILES = 16
TILE_WIDTH = 80
SPECTROGRAM_HEIGHT = 96
CAPTION_HEIGHT = 20
AXIS_HEIGHT = 20
MARGIN = 12
LONG = 60.0
"""Seconds; what is longer is drawn with less than its own resolution in time."""
COLUMNS = 1024
"""Of a spectrogram that are computed together."""
INK, PAPER, FAINT = (40, 40, 40), (255, 255, 255), (150, 150, 150)
# Dark to light, equal steps in lightness: quiet sound is dark, loud is light.
COLOURS = np.array(
    [(8, 8, 24), (58, 20, 96), (134, 38, 106), (205, 72, 74), (244, 138, 50), (252, 236, 160)]
)


def contact_sheet(clips: Sequence[Clip], titles: Sequence[str]) -> Image.Image:
    """Stacks clips, each with a caption, its frames, its spectrogram and a time axis in seconds.

    A frame's left edge stands at its time on the axis, and the spectrogram (low frequencies at
    the bottom) spans the same seconds. Longer clips show 16 evenly spaced frames.

    Raises:
        ValueError: `clips` and `titles` differ in length.
    """
    return _stacked([_clip_panel(clip, title) for clip, title in zip(clips, titles, strict=True)])


def _stacked(panels: Sequence[Image.Image]) -> Image.Image:
    """Panels below each other, with margins."""
    width = max(panel.width for panel in panels) + 2 * MARGIN
    height = sum(panel.height + MARGIN for panel in panels) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    top = MARGIN
    for panel in panels:
        sheet.paste(panel, (MARGIN, top))
        top += panel.height + MARGIN
    return sheet


def save_png(path: Path, image: Image.Image) -> None:
    """Writes the picture whole or not at all.

    Raises:
        UserError: The file cannot be written.
    """
    with whole_file(path) as temporary:
        # Level 1 costs a third of the default's time, and a fifth more bytes.
        image.save(temporary, format="PNG", compress_level=1)


def spectrogram_picture(clip: Clip, width: int, height: int) -> Image.Image:
    """The clip's log-mel spectrogram in colour: 80 dB below its peak, low bands at the bottom."""
    # A spectrogram of the clip's own length; of a long one, less than its own resolution in time.
    if len(clip.waveform) > LONG * clip.sample_rate:
        columns = _Columns(clip.sample_rate, height)
        columns.add(clip.waveform)
        return _coloured(columns.magnitudes(), width, height)
    hop = _window(clip.sample_rate) // 8
    image = _audio_image(clip.sample_rate, height, max(len(clip.waveform), 8 * hop + 1))
    missing = max(0, image.spec.num_samples - len(clip.waveform))
    magnitudes = image.mel(F.pad(clip.waveform.cpu(), (0, missing))[None])[0]
    return _coloured(magnitudes, width, height)


class FilmSheet:
    """Collects what a contact sheet shows of a film of any length while it is made, in constant memory.

    Args:
        fps: Frames per second.
        sample_rate: Samples per second.
    """

    def __init__(self, fps: float, sample_rate: int) -> None:
        self._fps, self._columns = fps, _Columns(sample_rate, SPECTROGRAM_HEIGHT)
        self._tiles: list[Image.Image] = []
        self._count, self._step = 0, 1

    def add(self, frames: Tensor, waveform: Tensor) -> None:
        """Takes the next piece: frames (n,3,H,W) u8 and waveform (m,) f32."""
        self._columns.add(waveform)
        # Every second tile goes when there are twice too many.
        for number in range(-self._count % self._step, len(frames), self._step):
            if (self._count + number) % self._step == 0:
                self._tiles.append(_tile(frames[number]))
            if len(self._tiles) == 2 * TILES:
                self._tiles, self._step = self._tiles[::2], 2 * self._step
        self._count += len(frames)

    def picture(self, title: str) -> Image.Image:
        """The film as `contact_sheet` shows a clip, with at most 16 of its frames."""
        return film_sheet([self], [title])

    def panel(self, title: str) -> Image.Image:
        """The film's part of a sheet.

        Raises:
            ValueError: No frame came.
        """
        if not self._tiles:
            raise ValueError("a sheet needs a frame")
        shown = min(TILES, self._count)
        chosen = [i * self._count // shown for i in range(shown)]
        tiles = [self._tiles[min(round(k / self._step), len(self._tiles) - 1)] for k in chosen]
        spectrogram = _coloured(self._columns.magnitudes(), shown * TILE_WIDTH, SPECTROGRAM_HEIGHT)
        places = [k / self._count for k in chosen]
        return _panel(title, tiles, places, spectrogram, self._count / self._fps)


def film_sheet(films: Sequence[FilmSheet], titles: Sequence[str]) -> Image.Image:
    """Stacks films as `contact_sheet` stacks clips.

    Raises:
        ValueError: `films` and `titles` differ in length, or a film has no frame.
    """
    return _stacked([film.panel(title) for film, title in zip(films, titles, strict=True)])


class _Columns:
    """The mel spectrogram of a sound of any length, coarser in time the longer it is.

    Args:
        rate: Samples per second.
        num_mels: Bands.
    """

    def __init__(self, rate: int, num_mels: int) -> None:
        # Columns at the edges would hear silence beyond them: a window's length on each side is left out.
        self._hop = _window(rate) // 8
        self._image = _audio_image(rate, num_mels, (COLUMNS + 16) * self._hop)
        self._waiting = torch.zeros(8 * self._hop)
        self._powers: list[Tensor] = []
        self._pooled = 1

    def add(self, waveform: Tensor) -> None:
        """Takes the next samples (m,)."""
        self._waiting = torch.cat([self._waiting, waveform.detach().float().cpu()])
        length = (COLUMNS + 16) * self._hop
        while len(self._waiting) >= length:
            self._powers.append(self._pool(self._waiting[:length]))
            self._waiting = self._waiting[COLUMNS * self._hop :]
            # Half the resolution where there are too many columns.
            if self._pooled < COLUMNS and len(self._powers) > 4 * self._pooled:
                self._pooled *= 2
                self._powers = [p.unflatten(1, (-1, 2)).mean(dim=2) for p in self._powers]

    def magnitudes(self) -> Tensor:
        """Of all samples so far: (M,L)."""
        powers, left = list(self._powers), len(self._waiting) - 8 * self._hop
        if left > 0 or not powers:
            missing = (COLUMNS + 16) * self._hop - len(self._waiting)
            used = max(1, -(-left // (self._hop * self._pooled)))
            powers.append(self._pool(F.pad(self._waiting, (0, missing)))[:, :used])
        return torch.cat(powers, dim=1).sqrt()

    def _pool(self, samples: Tensor) -> Tensor:
        """Samples (S,) -> mean powers (M,L) of their inner columns."""
        powers = self._image.mel(samples[None])[0, :, 8:-8].square()
        return powers.unflatten(1, (-1, self._pooled)).mean(dim=2)


def _window(rate: int) -> int:
    """Samples of a window of about 50 ms; windows overlap by 7/8."""
    return 1 << (rate // 20).bit_length()


def _audio_image(rate: int, num_mels: int, samples: int) -> AudioImage:
    """What makes mel spectrograms of that many samples."""
    n_fft = _window(rate)
    spec = ClipSpec(
        num_frames=1,
        fps=rate / samples,
        sample_rate=rate,
        spectrogram=SpectrogramSpec(
            n_fft=n_fft,
            hop_length=n_fft // 8,
            num_mels=num_mels,
            f_max=min(16000.0, rate / 2),
            area_normalised=False,
        ),
    )
    return AudioImage(spec)


def _coloured(magnitudes: Tensor, width: int, height: int) -> Image.Image:
    """Mel magnitudes (M,L) as a picture: levels in colour, low bands at the bottom."""
    decibels = 20 * torch.log10(magnitudes.clamp(min=1e-9))
    peak = max(decibels.max().item(), -60.0)
    levels = ((decibels - peak) / 80 + 1).clamp(0, 1).flip(0).numpy()
    stops = np.linspace(0, 1, len(COLOURS))
    colour = np.stack([np.interp(levels, stops, channel) for channel in COLOURS.T], axis=-1)
    picture = Image.fromarray(colour.round().astype(np.uint8))
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def _clip_panel(clip: Clip, title: str) -> Image.Image:
    """One clip's panel."""
    count = min(TILES, len(clip.frames))
    chosen = (torch.arange(count) * len(clip.frames) // count).tolist()
    tiles = [_tile(clip.frames[index]) for index in chosen]
    spectrogram = spectrogram_picture(clip, count * TILE_WIDTH, SPECTROGRAM_HEIGHT)
    places = [index / len(clip.frames) for index in chosen]
    return _panel(title, tiles, places, spectrogram, clip.duration)


def _tile(frame: Tensor) -> Image.Image:
    """A frame (3,H,W) u8 as wide as a tile."""
    height, width = frame.shape[-2:]
    size = TILE_WIDTH, max(1, round(TILE_WIDTH * height / width))
    picture = Image.fromarray(frame.permute(1, 2, 0).cpu().numpy())
    return picture.resize(size, Image.Resampling.BICUBIC)


def _panel(
    title: str,
    tiles: Sequence[Image.Image],
    places: Sequence[float],
    spectrogram: Image.Image,
    duration: float,
) -> Image.Image:
    """Caption, frames, spectrogram and axis, below each other; places are shares of the duration."""
    width, tile_height = len(tiles) * TILE_WIDTH, tiles[0].height

    # Where everything stands, from the top.
    spectrogram_top = CAPTION_HEIGHT + tile_height + 2
    axis_top = spectrogram_top + SPECTROGRAM_HEIGHT
    panel = Image.new("RGB", (width, axis_top + AXIS_HEIGHT), PAPER)
    draw = ImageDraw.Draw(panel)
    font = ImageFont.load_default(13)
    draw.text((0, 1), printable(title), fill=INK, font=font)

    # Each frame's left edge at its time; then the same seconds of sound, and their axis.
    for tile, place in zip(tiles, places, strict=True):
        panel.paste(tile, (round(place * width), CAPTION_HEIGHT))
    panel.paste(spectrogram, (0, spectrogram_top))
    for seconds in _ticks(duration):
        x = min(round(seconds / duration * width), width - 1)
        draw.line((x, axis_top, x, axis_top + 4), fill=FAINT)
        draw.text((x + 3, axis_top + 3), _seconds(seconds, duration), fill=INK, font=font)
    return panel


def _ticks(duration: float) -> list[float]:
    """Round numbers of seconds below `duration`, about ten at most."""
    minutes = [60.0 * n for n in (1, 2, 5, 10, 30, 60, 120, 300)]
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, *minutes)
    step = next((step for step in steps if duration / step <= 10), duration)
    return [round(i * step, 3) for i in range(int(duration / step) + 1) if i * step < duration]


def _seconds(seconds: float, duration: float) -> str:
    """A mark of the axis: in seconds, or, of a long film, in minutes and seconds."""
    if duration <= LONG:
        return f"{seconds:g} s"
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
