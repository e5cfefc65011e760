"""mmldm: sounding video generation with multi-modal latent diffusion.

The public names are here, and each is loaded when it is first used: `import mmldm` alone loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmldm.config import load_config
    from mmldm.media.clip import Clip
    from mmldm.media.reader import read_audio, read_clip, read_frames
    from mmldm.pipelines.sounding_video import SoundingVideoPipeline
    from mmldm.types import AV, ClipSpec

__version__ = "0.1.0"
__all__ = [
    "AV", "Clip", "ClipSpec", "SoundingVideoPipeline", "load_config", "read_audio", "read_clip",
    "read_frames",
]  # fmt: skip
_HOMES = {
    "AV": "mmldm.types",
    "Clip": "mmldm.media.clip",
    "ClipSpec": "mmldm.types",
    "SoundingVideoPipeline": "mmldm.pipelines.sounding_video",
    "load_config": "mmldm.config",
    "read_audio": "mmldm.media.reader",
    "read_clip": "mmldm.media.reader",
    "read_frames": "mmldm.media.reader",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmldm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
