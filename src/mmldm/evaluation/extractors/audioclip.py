"""AudioCLIP: the features of sound that MM-Diffusion's "FAD" is made from.

waveform (S,) -> 44.1 kHz -> features (1,1024) of the whole clip

Source: Guzhov et al., "AudioCLIP: extending CLIP to image, text and audio", ICASSP 2022; Ruan et al.,
"MM-Diffusion", CVPR 2023, whose evaluator takes the embedding as it is, not scaled to length 1. Ours differs
from that evaluator as docs/evaluation.md says: trained statistics in the batch norms, 16-bit levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmldm.evaluation.extractors.esresnext import FEATURES, ESResNeXt
from mmldm.evaluation.extractors.extractor import FileExtractor
from mmldm.evaluation.extractors.weights_file import WeightsFile
from mmldm.media.clip import Clip
from mmldm.media.resampling import resample

SAMPLE_RATE = 44_100

WEIGHTS = WeightsFile(
    network="AudioCLIP",
    names={
        "AudioCLIP-Full-Training.pt": "2441d35b353352c8b1bbfb8f7c687f46314c3d2909e940eaf763b8c17f632c44",
        "audioclip.safetensors": "",
    },
    source="the release v0.1 of AndreyGuzhov/AudioCLIP on GitHub",
    licence="MIT",
    prefix="audio.",
)


class AudioCLIP(FileExtractor):
    """Features of sound, one for a whole clip of any length; of the file only what hears is read."""

    name = "audioclip"
    modality = "audio"
    dim = FEATURES
    weights_file = WEIGHTS

    def build(self, file_name: str) -> ESResNeXt:
        return ESResNeXt()

    @torch.no_grad()
    def __call__(self, clips: Sequence[Clip]) -> list[Tensor]:
        """Features (1,1024) of each clip's sound."""
        sounds = [resample(clip.waveform, clip.sample_rate, SAMPLE_RATE) for clip in clips]
        return [self.network(sound[None].to(self.device)).cpu() for sound in sounds]
