"""The value all media become: frames and waveform of one time window.

files -> Clip (frames (T,3,H,W) u8, waveform (S,) f32) -> files. Frames u8 <-> images f32 in [-1, 1]; the
sound's way to images and back is `media.spectrogram`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class Clip:
    """A window of sounding video. Frame k and sample k * sample_rate / fps are the same instant.

    Attributes:
        frames: (T,3,H,W) uint8, RGB.
        waveform: (S,) float32 in [-1,1], mono.
        fps: Frames per second.
        sample_rate: Samples per second.
    """

    frames: Tensor
    waveform: Tensor
    fps: float
    sample_rate: int

    @property
    def duration(self) -> float:
        """Seconds of picture."""
        return len(self.frames) / self.fps

    def save(self, path: str | Path) -> Path:
        """Writes the clip in the format its suffix names; a broken file never appears at `path`.

        `.mp4` is H.264 and AAC, `.wav` the sound alone in 16-bit PCM, `.png` a contact sheet.

        Raises:
            UserError: Another suffix, a sound that is not finite, or the file cannot be written.
        """
        # A clip is a value; encoders and drawing are loaded only where one is written.
        from mmldm.media.writer import save_clip

        return save_clip(self, Path(path))


def frames_to_images(frames: Tensor) -> Tensor:
    """Frames (...,3,H,W) u8 -> images (...,3,H,W) f32 in [-1, 1]."""
    return frames.float() / 127.5 - 1


def images_to_frames(images: Tensor) -> Tensor:
    """Images (...,3,H,W) in [-1, 1] -> frames (...,3,H,W) u8, clamped and rounded."""
    # In place but for the first step: large images are slow to find memory for.
    return images.clamp(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)
