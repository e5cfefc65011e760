"""Foreign media containers, opened under a whitelist of formats, of protocols and of picture sizes.

path -> av.InputContainer. Hazards: docs/data.md. Importing this module does not import torch.
"""

from __future__ import annotations

from pathlib import Path

import av
from av.container import InputContainer

from mmldm.errors import MediaError
from mmldm.media.limits import Limits

# Without these lists FFmpeg also opens playlists and concat scripts, which name other files and
# network addresses, whatever the suffix of the file says.
VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv"
AUDIO_FORMATS = VIDEO_FORMATS + ",wav,mp3,flac,aac,aiff"


def open_container(path: Path, formats: str, limits: Limits) -> InputContainer:
    """Opens a file.

    Args:
        formats: FFmpeg's names of the containers allowed.

    Raises:
        MediaError: `unreadable`, `format_not_allowed`.
    """
    if not path.is_file():
        raise MediaError("unreadable", f"{path} is not a file; check the path")
    options = {
        "format_whitelist": formats,
        "protocol_whitelist": "file",
        "max_pixels": str(limits.max_pixels),
        "threads": "1",
    }
    try:
        # "file:" keeps a name such as "http:x.mp4" or "concat:a|b" from choosing the protocol.
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")
    except av.ArgumentError as error:
        raise MediaError(
            "format_not_allowed",
            f"{path} is not a media container that is opened here; convert it to mp4",
        ) from error
    except (av.FFmpegError, OSError) as error:
        raise MediaError(
            "unreadable", f"cannot open {path}: {error.strerror}; the file is damaged or not media"
        ) from error
    if not container.streams.video and not container.streams.audio:
        container.close()
        raise MediaError(
            "unreadable",
            f"{path} holds neither picture nor sound; it is damaged or no sounding video",
        )
    return container
