"""media <-> images for the picture: frames u8 (...,3,H,W) in [0, 255] <-> f32 (...,3,H,W) in [-1, 1].

The sound's way to images and back is `media.spectrogram`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def frames_to_images(frames: Tensor) -> Tensor:
    """frames u8 (...,3,H,W) -> images in [-1, 1]."""
    return frames.float() / 127.5 - 1


def images_to_frames(images: Tensor) -> Tensor:
    """images (...,3,H,W) -> frames u8, clamped and rounded."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
