"""Clips as one picture: frames above, spectrogram below, on one time axis.

clips, titles -> PIL image. For reports, previews and `.png` outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
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
    panels = [_panel(clip, title) for clip, title in zip(clips, titles, strict=True)]
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
    # A spectrogram of the clip's own length: windows of about 50 ms, overlapping by 7/8.
    rate = clip.sample_rate
    n_fft = 1 << (rate // 20).bit_length()
    spec = ClipSpec(
        num_frames=1,
        fps=rate / max(len(clip.waveform), n_fft + 1),
        sample_rate=rate,
        spectrogram=SpectrogramSpec(
            n_fft=n_fft,
            hop_length=n_fft // 8,
            num_mels=height,
            f_max=min(16000.0, rate / 2),
            area_normalised=False,
        ),
    )
    waveform = F.pad(clip.waveform.cpu(), (0, max(0, spec.num_samples - len(clip.waveform))))
    magnitudes = AudioImage(spec).mel(waveform[None])[0]
    decibels = 20 * torch.log10(magnitudes.clamp(min=1e-9))

    # Levels in colour, low bands at the bottom.
    peak = max(decibels.max().item(), -60.0)
    levels = ((decibels - peak) / 80 + 1).clamp(0, 1).flip(0).numpy()
    stops = np.linspace(0, 1, len(COLOURS))
    colour = np.stack([np.interp(levels, stops, channel) for channel in COLOURS.T], axis=-1)
    picture = Image.fromarray(colour.round().astype(np.uint8))
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def _panel(clip: Clip, title: str) -> Image.Image:
    """One clip: caption, frames, spectrogram and axis, below each other."""
    count = min(TILES, len(clip.frames))
    chosen = torch.arange(count) * len(clip.frames) // count
    frame_height, frame_width = clip.frames.shape[-2:]
    tile_height = max(1, round(TILE_WIDTH * frame_height / frame_width))
    width = count * TILE_WIDTH

    # Where everything stands, from the top.
    spectrogram_top = CAPTION_HEIGHT + tile_height + 2
    axis_top = spectrogram_top + SPECTROGRAM_HEIGHT
    panel = Image.new("RGB", (width, axis_top + AXIS_HEIGHT), PAPER)
    draw = ImageDraw.Draw(panel)
    font = ImageFont.load_default(13)
    draw.text((0, 1), printable(title), fill=INK, font=font)

    # Each frame's left edge at its time; then the same seconds of sound, and their axis.
    for index in chosen.tolist():
        picture = Image.fromarray(clip.frames[index].permute(1, 2, 0).cpu().numpy())
        picture = picture.resize((TILE_WIDTH, tile_height), Image.Resampling.BICUBIC)
        panel.paste(picture, (round(index / len(clip.frames) * width), CAPTION_HEIGHT))
    panel.paste(spectrogram_picture(clip, width, SPECTROGRAM_HEIGHT), (0, spectrogram_top))
    for seconds in _ticks(clip.duration):
        x = min(round(seconds / clip.duration * width), width - 1)
        draw.line((x, axis_top, x, axis_top + 4), fill=FAINT)
        draw.text((x + 3, axis_top + 3), f"{seconds:g} s", fill=INK, font=font)
    return panel


def _ticks(duration: float) -> list[float]:
    """Round numbers of seconds below `duration`, about ten at most."""
    step = next((s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 30) if duration / s <= 10), duration)
    return [round(i * step, 3) for i in range(int(duration / step) + 1) if i * step < duration]
