"""Which of some results are nearly the same, so that one of them is enough to look at.

clips -> groups of their numbers; the first of a group stands for it
"""

from __future__ import annotations

from collections.abc import Sequence

from mmldm.evaluation.reconstruction import clip_mel_error, psnr
from mmldm.media.clip import Clip
from mmldm.media.spectrogram import AudioImage

SOUND = 1.5
"""dB of mean log-mel difference up to which two sounds are nearly the same: measured, docs/page.md."""
PICTURE = 34.0
"""dB of PSNR from which on two pictures are."""


def groups_of_alike(clips: Sequence[Clip], audio_image: AudioImage) -> list[list[int]]:
    """Numbers of clips, those that are nearly the same together, each group by its first clip.

    Args:
        clips: Of one length and one kind.
        audio_image: Of the model's window.
    """
    groups: list[list[int]] = []
    for number, clip in enumerate(clips):
        for group in groups:
            if nearly_alike(clips[group[0]], clip, audio_image):
                group.append(number)
                break
        else:
            groups.append([number])
    return groups


def nearly_alike(first: Clip, second: Clip, audio_image: AudioImage) -> bool:
    """Whether two clips of one length look and sound nearly the same."""
    if first.frames.shape != second.frames.shape or len(first.waveform) != len(second.waveform):
        return False
    if psnr(first.frames[None], second.frames[None]).item() < PICTURE:
        return False
    return clip_mel_error(first.waveform, second.waveform, audio_image) <= SOUND
