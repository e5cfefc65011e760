"""Between media and latents, so many clips and images at a time that memory is bounded.

media AV((B,S), (B,T,3,H,W) u8) -> latents AV((B,C,T',H',W')) -> clips. MM-LDM §3.1. A clip depends on no
other one of its call, so the bounds change no number (to rounding).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from mmldm.media.clip import Clip, images_to_frames
from mmldm.media.spectrogram import AudioImage
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.image_codec import IMAGES_PER_CALL, ImageCodec
from mmldm.models.image_vae import ImageVAE
from mmldm.models.pretrained_vocoder import Vocoder
from mmldm.pipelines.decoding import clips_of, decode_latents
from mmldm.pipelines.encoding import encode_media
from mmldm.pipelines.quality import Settings
from mmldm.pipelines.vocoding import sound
from mmldm.types import AV, ClipSpec

CLIPS_PER_CALL = 8
"""Clips whose images, taps and spectrograms are in memory together."""


@dataclass(frozen=True)
class ClipCoder:
    """The networks between media and latents, on one device.

    Attributes:
        scheduler: Of the signal decoder.
        vocoder: None: Griffin-Lim.
        device: Where they compute.
    """

    vae: ImageVAE
    autoencoder: MultiModalAutoencoder
    scheduler: SchedulerMixin
    vocoder: Vocoder | None
    spec: ClipSpec
    device: torch.device

    def encode(self, media: AV[Tensor | None]) -> AV[Tensor | None]:
        """Media with a leading dimension of clips -> latents, the posterior's mode; None stays None."""
        count = max((len(m) for m in media if m is not None), default=0)
        audio_image = AudioImage(self.spec).to(self.device)
        parts = [
            encode_media(
                self.autoencoder,
                self._codec(None),
                audio_image,
                rows_of(media, rows).map(lambda m: None if m is None else m.to(self.device)),
            )
            for rows in parts_of(count)
        ]
        if not parts:
            return media
        return AV(*(None if z[0] is None else torch.cat(z) for z in zip(*parts, strict=True)))

    def decode(
        self,
        latents: AV[Tensor],
        media: AV[Tensor | None],
        class_labels: Tensor | None,
        generators: Sequence[torch.Generator],
        chosen: Settings,
        images_per_call: int | None,
    ) -> list[Clip]:
        """Latents -> clips. Arguments as `SoundingVideoPipeline.decode`; what is known is not decoded."""
        clips: list[Clip] = []
        for rows in parts_of(len(latents.audio)):
            labels = None if class_labels is None else class_labels[rows].to(self.device)
            clips += self._decode(
                rows_of(latents, rows, shared=False).map(lambda z: z.to(self.device)),
                rows_of(media, rows),
                labels,
                generators[rows],
                chosen,
                images_per_call,
            )
        return clips

    def _decode(
        self,
        latents: AV[Tensor],
        media: AV[Tensor | None],
        class_labels: Tensor | None,
        generators: Sequence[torch.Generator],
        chosen: Settings,
        images_per_call: int | None,
    ) -> list[Clip]:
        waveforms, frames = media
        images = decode_latents(
            self.autoencoder,
            self._codec(images_per_call),
            self.scheduler,
            latents,
            # Known frames need no decoding; the signal decoder asks for one at least.
            num_frames=self.spec.num_frames if frames is None else 1,
            steps=chosen.decoder_steps,
            generators=generators,
            class_labels=class_labels,
            images_per_call=images_per_call,
        )
        if waveforms is None:
            audio_image = AudioImage(self.spec).to(self.device)
            iterations = chosen.phase_iterations
            waveforms = sound(images.audio, audio_image, self.vocoder, iterations).cpu()
        if frames is None:
            frames = images_to_frames(images.video).cpu()
        return clips_of(waveforms, frames, len(latents.audio), self.spec)

    def _codec(self, images_per_call: int | None) -> ImageCodec:
        statistics = self.autoencoder.image_statistics
        return ImageCodec(self.vae, statistics, images_per_call or IMAGES_PER_CALL)


def parts_of(count: int, size: int = CLIPS_PER_CALL) -> Iterator[slice]:
    """Slices of at most `size` rows that cover `count` of them."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def rows_of(values: AV[Any], rows: slice, shared: bool = True) -> AV[Any]:
    """Rows of each modality; with `shared`, one row alone serves all clips and stays. None stays None."""
    return values.map(lambda x: x if x is None or (shared and len(x) == 1) else x[rows])
