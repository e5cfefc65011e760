"""Clips to look at and listen to: an mp4 each and one contact sheet of all.

clips -> folder/name_i.mp4, folder/name.png
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmldm.media.clip import Clip
from mmldm.media.sheet import contact_sheet, save_png


def save_clips(
    clips: Sequence[Clip], folder: Path, name: str, titles: Sequence[str] | None = None
) -> list[Path]:
    """Writes every clip and, above one time axis each, the sheet of all; returns the paths, sheet last."""
    paths = [clip.save(folder / f"{name}_{i:03d}.mp4") for i, clip in enumerate(clips)]
    captions = titles or [f"{name} {i}" for i in range(len(clips))]
    sheet = folder / f"{name}.png"
    save_png(sheet, contact_sheet(clips, captions))
    return [*paths, sheet]
