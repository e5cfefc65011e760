"""Between media and latents: encoders one way, signal decoder and image VAE the other.

media AV((B,S), (B,T,3,H,W) u8) -> images -> image latents -> latents AV((B,C,T',H',W')), and back to clips.
MM-LDM §3.1. A clip depends on no other one of its call, so that how many are computed at once bounds memory
and changes no number (to rounding).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from mmldm.diffusion.sampling import Denoiser, initial_noise, sample
from mmldm.media.clip import Clip, frames_to_images, images_to_frames
from mmldm.media.sheet import contact_sheet, save_png
from mmldm.media.spectrogram import AudioImage
from mmldm.models.autoencoder import Conditions, MultiModalAutoencoder
from mmldm.models.image_codec import VAE_IMAGES_PER_CALL, ImageCodec
from mmldm.models.image_vae import ImageVAE
from mmldm.models.pretrained_vocoder import Vocoder
from mmldm.pipelines.settings import Settings
from mmldm.pipelines.vocoding import sound
from mmldm.types import AV, MODALITIES, ClipSpec

CLIPS_PER_CALL = 8
"""Clips whose images, taps and spectrograms are in memory together."""
DECODER_IMAGES_PER_CALL = 34
"""Two clips of 16 frames and their sounds: fewer fill no GPU, more are slower on a CPU and need memory."""


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
        """AV((B,S), (B,T,3,H,W) u8) -> AV((B,C,T',H',W')), the posterior's mode; None stays None."""
        count = max((len(m) for m in media if m is not None), default=0)
        codec, audio_image = self._codec(None), AudioImage(self.spec).to(self.device)

        def on_device(x: Tensor | None) -> Tensor | None:
            """Media (B,...) where the networks are."""
            return None if x is None else x.to(self.device)

        parts = [
            encode_media(self.autoencoder, codec, audio_image, rows_of(media, rows).map(on_device))
            for rows in parts_of(count)
        ]

        def joined(latents: list[Tensor | None]) -> Tensor | None:
            """Parts (b,C,T',H',W') -> (B,C,T',H',W')."""
            present = [z for z in latents if z is not None]
            return torch.cat(present) if present else None

        return AV.zip(parts).map(joined)

    def decode(
        self,
        latents: AV[Tensor],
        media: AV[Tensor | None],
        class_labels: Tensor | None,
        generators: Sequence[torch.Generator],
        chosen: Settings,
        images_per_call: int | None,
    ) -> list[Clip]:
        """Latents AV((B,C,T',H',W')) -> B clips. Arguments as `SoundingVideoPipeline.decode`."""
        codec, audio_image = self._codec(images_per_call), AudioImage(self.spec).to(self.device)
        clips: list[Clip] = []
        for rows in parts_of(len(latents.audio)):
            part = AV(latents.audio[rows].to(self.device), latents.video[rows].to(self.device))
            waveforms, frames = rows_of(media, rows)
            image_latents = decode_to_image_latents(
                self.autoencoder,
                self.scheduler,
                part,
                # Known frames need no decoding; the signal decoder asks for one at least.
                num_frames=self.spec.num_frames if frames is None else 1,
                steps=chosen.decoder_steps,
                generators=generators[rows],
                class_labels=None if class_labels is None else class_labels[rows].to(self.device),
                images_per_call=images_per_call,
            )
            images = image_latents.map(codec.decode, MODALITIES)
            if waveforms is None:
                waveforms = sound(
                    images.audio, audio_image, self.vocoder, chosen.phase_iterations
                ).cpu()
            if frames is None:
                frames = images_to_frames(images.video).cpu()
            clips += clips_of(waveforms, frames, len(part.audio), self.spec)
        return clips

    def _codec(self, images_per_call: int | None) -> ImageCodec:
        statistics = self.autoencoder.image_statistics
        return ImageCodec(self.vae, statistics, images_per_call or VAE_IMAGES_PER_CALL)


@torch.no_grad()
def encode_media(
    autoencoder: MultiModalAutoencoder,
    codec: ImageCodec,
    audio_image: AudioImage,
    media: AV[Tensor | None],
) -> AV[Tensor | None]:
    """AV((B,S), (B,T,3,H,W) u8) -> AV((B,C,T',H',W')), the posterior's mode; None stays None."""
    waveforms, frames = media
    dtype = autoencoder.dtype
    image_latents: AV[Tensor | None] = AV(None, None)
    if waveforms is not None:
        audio = codec.encode(audio_image.image(waveforms), "audio")
        image_latents = image_latents._replace(audio=audio.to(dtype))
    if frames is not None:
        video = codec.encode(frames_to_images(frames), "video")
        image_latents = image_latents._replace(video=video.to(dtype))
    posterior = autoencoder.encode(image_latents)
    return posterior.map(lambda p: None if p is None else p.mode().float())


@torch.no_grad()
def decode_to_image_latents(
    autoencoder: MultiModalAutoencoder,
    scheduler: SchedulerMixin,
    latents: AV[Tensor],
    *,
    num_frames: int,
    steps: int,
    generators: Sequence[torch.Generator],
    class_labels: Tensor | None = None,
    images_per_call: int | None = None,
) -> AV[Tensor]:
    """The signal decoder's part: the audio image and the first `num_frames` frames of every clip.

    `ImageCodec.decode` makes images of what it gives.

    Args:
        latents: AV((B,C,T',H',W')), as the autoencoder encodes them.
        generators: One CPU generator per clip, for the decoder's noise.
        class_labels: (B,); None: the autoencoder predicts the class from the latents.
        images_per_call: Images the signal decoder sees at once; bounds memory, changes no number.
            None: DECODER_IMAGES_PER_CALL.

    Returns:
        Normalised image latents AV((B,1,c,h,w), (B,F,c,h,w)).
    """
    device = latents.video.device
    indices = torch.arange(num_frames, device=device).expand(len(latents.audio), -1)
    inputs = latents.map(lambda z: z.to(autoencoder.dtype))
    conditions = autoencoder.condition(inputs, indices, class_labels)
    audio, video = autoencoder.image_latent_shapes
    noise = initial_noise(AV((1, *audio), (num_frames, *video)), generators, device)
    denoise = decoder_denoiser(autoencoder, conditions, images_per_call or DECODER_IMAGES_PER_CALL)
    return sample(denoise, noise, scheduler, steps, generator=list(generators))


def decoder_denoiser(
    autoencoder: MultiModalAutoencoder, conditions: Conditions, images_per_call: int | None = None
) -> Denoiser:
    """The signal decoder with the clips' conditions, at one noise level for all images of a clip.

    It predicts for AV((B,1,c,h,w), (B,F,c,h,w)).

    Args:
        images_per_call: As `MultiModalAutoencoder.denoise`.
    """

    def denoise(sample: AV[Tensor], t: Tensor) -> AV[Tensor]:
        """AV((B,1,c,h,w), (B,F,c,h,w)), t 0-d or (B,) -> the prediction, float32."""
        timesteps = sample.map(lambda x: t.to(x.device).reshape(-1, 1).expand(x.shape[:2]))
        inputs = sample.map(lambda x: x.to(autoencoder.dtype))
        prediction = autoencoder.denoise(inputs, timesteps, conditions, images_per_call)
        return prediction.map(Tensor.float)

    return denoise


def parts_of(count: int, size: int = CLIPS_PER_CALL) -> Iterator[slice]:
    """Slices of at most `size` clips that cover `count` of them."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def rows_of(media: AV[Tensor | None], rows: slice) -> AV[Tensor | None]:
    """Those clips of media (B,...); one that serves all clips, (1,...), stays, and None stays None."""
    return media.map(lambda x: x if x is None or len(x) == 1 else x[rows])


def clips_of(waveforms: Tensor, frames: Tensor, count: int, spec: ClipSpec) -> list[Clip]:
    """Waveforms (B,S) and frames uint8 (B,T,3,H,W) -> `count` clips; one row of either serves all."""
    return [
        Clip(frame_row, waveform, spec.fps, spec.sample_rate)
        for frame_row, waveform in zip(
            frames.expand(count, -1, -1, -1, -1), waveforms.expand(count, -1), strict=True
        )
    ]


def save_clips(
    clips: Sequence[Clip], folder: Path, name: str, titles: Sequence[str] | None = None
) -> list[Path]:
    """Writes folder/name_i.mp4 and, above one time axis each, the sheet of all, folder/name.png.

    Returns:
        The paths, the sheet's last.
    """
    paths = [clip.save(folder / f"{name}_{i:03d}.mp4") for i, clip in enumerate(clips)]
    sheet = folder / f"{name}.png"
    save_png(sheet, contact_sheet(clips, titles or [f"{name} {i}" for i in range(len(clips))]))
    return [*paths, sheet]
