"""The value all media become: frames and waveform of one time window.

files -> Clip (frames (T,3,H,W) u8, waveform (S,) f32) -> files. DESIGN §2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mmldm.errors import UserError
from mmldm.media.sheet import contact_sheet, save_png
from mmldm.media.writer import write_mp4, write_wav


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
        path = Path(path)
        if not self.waveform.isfinite().all():
            raise UserError(f"cannot save {path}: its sound holds NaN or infinite samples")
        match path.suffix.lower():
            case ".mp4":
                write_mp4(path, self.frames, self.waveform, self.fps, self.sample_rate)
            case ".wav":
                write_wav(path, self.waveform, self.sample_rate)
            case ".png":
                save_png(path, contact_sheet([self], [path.stem]))
            case suffix:
                raise UserError(f"cannot save {path}: {suffix!r} is not one of .mp4, .wav, .png")
        return path
