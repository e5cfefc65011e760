"""Between media and latents: encoders one way, signal decoder and image VAE the other.

media AV((B,S), (B,T,3,H,W) u8) -> images -> image latents -> latents AV((B,C,T',H',W')), and back to clips.
MM-LDM §3.1. A clip depends on no other one of its call, so that how many are computed at once bounds memory
and changes no number (to rounding).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from mmldm.diffusion.sampling import Denoiser, initial_noise, sample
from mmldm.errors import UserError
from mmldm.media.clip import Clip, frames_to_images, images_to_frames
from mmldm.media.sheet import contact_sheet, save_png
from mmldm.media.spectrogram import AudioImage
from mmldm.models.autoencoder import Conditions, MultiModalAutoencoder
from mmldm.models.image_codec import VAE_IMAGES_PER_CALL, ImageCodec
from mmldm.models.image_vae import ImageVAE
from mmldm.models.pretrained_vocoder import Vocoder
from mmldm.pipelines.windows import TimeGrid
from mmldm.types import AV, MODALITIES, ClipSpec, Modality

CLIPS_PER_CALL = 8
"""Clips whose images, taps and spectrograms are in memory together."""
DECODER_IMAGES_PER_CALL = 68
"""Four clips of 16 frames and their sounds: two take 3 % longer on a CPU, eight as long, and need memory."""


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

    @cached_property
    def grid(self) -> TimeGrid:
        """The ticks that clips of any length are made of."""
        return TimeGrid.of(self.spec, self.autoencoder.latent_shapes.map(lambda shape: shape[1]))

    @cached_property
    def audio_image(self) -> AudioImage:
        """Of one window."""
        return AudioImage(self.spec).to(self.device)

    def encode(self, media: AV[Tensor | None]) -> AV[Tensor | None]:
        """Media of any length, AV((B,S), (B,T,3,H,W) u8) -> latents AV((B,C,T',H',W')); None stays None.

        The latents are the posterior's mode. They are whole ticks: a part of one is filled up, with silence
        and the last frame.

        Raises:
            UserError: What is longer than a window cannot be encoded by this model.
        """
        waveforms, frames = media
        return AV(
            None if waveforms is None else self.encode_pieces([waveforms], "audio"),
            None if frames is None else self.encode_pieces([frames], "video"),
        )

    def encode_pieces(self, pieces: Iterable[Tensor], modality: Modality) -> Tensor:
        """One modality of clips, in pieces of any length -> latents (B,C,T',H',W') of all of it.

        A longer clip is encoded in windows that overlap, and the outer slots of each are dropped where it
        has a neighbour: an encoder pads what it does not see. In memory is a window and what is read.

        Args:
            pieces: (B,s) of a waveform, or (B,t,3,H,W) u8 of frames, one after another.
        """
        grid = self.grid
        units = AV(grid.samples, grid.frames)[MODALITIES.index(modality)]
        slots = grid.slots[MODALITIES.index(modality)]
        encoded = WindowLatents(slots, grid.ticks)
        waiting: list[tuple[int, Tensor]] = []
        for start, window in _windows_of(pieces, units, grid):
            waiting.append((start, window))
            if len(waiting) * len(window) >= CLIPS_PER_CALL:
                self._encode_windows(waiting, modality, encoded)
        self._encode_windows(waiting, modality, encoded)
        return encoded.joined()

    def _encode_windows(
        self, waiting: list[tuple[int, Tensor]], modality: Modality, encoded: WindowLatents
    ) -> None:
        """Encodes windows (B,...) that wait, as one batch, and empties the list."""
        if not waiting:
            return
        media = torch.cat([window for _, window in waiting])
        codec = self._codec(None)
        parts = []
        for rows in parts_of(len(media)):
            part = media[rows].to(self.device)
            pair = AV(part, None) if modality == "audio" else AV(None, part)
            latents = encode_media(self.autoencoder, codec, self.audio_image, pair)
            parts += [z for z in latents if z is not None]
        count = len(waiting[0][1])
        for (start, _), latents in zip(waiting, torch.cat(parts).split(count), strict=True):
            encoded.add(start, latents)
        waiting.clear()

    def decode_window(
        self,
        latents: AV[Tensor],
        wanted: AV[bool],
        frames: range,
        generators: Sequence[torch.Generator],
        class_labels: Tensor | None,
        decoder_steps: int,
        images_per_call: int | None,
    ) -> AV[Tensor | None]:
        """Latents of one window AV((B,C,T',H',W')) -> its audio images (B,1,3,H,W) and some of its frames.

        Args:
            wanted: Which modalities are decoded; the other is None in what is returned.
            frames: Those of the window that are wanted.
            class_labels: (B,), or None.

        Returns:
            AV((B,1,3,H,W) in [-1,1], (B,F,3,H,W) u8).
        """
        codec = self._codec(images_per_call)
        # The signal decoder asks for one frame at least.
        chosen = frames if wanted.video and len(frames) else range(1)
        parts: list[AV[Tensor | None]] = []
        for rows in parts_of(len(latents.audio)):
            image_latents = decode_to_image_latents(
                self.autoencoder,
                self.scheduler,
                AV(latents.audio[rows].to(self.device), latents.video[rows].to(self.device)),
                num_frames=len(chosen),
                first_frame=chosen.start,
                steps=decoder_steps,
                generators=generators[rows],
                class_labels=None if class_labels is None else class_labels[rows].to(self.device),
                images_per_call=images_per_call,
            )
            audio = codec.decode(image_latents.audio, "audio") if wanted.audio else None
            video = None
            if wanted.video:
                video = codec.decode(image_latents.video, "video", images_to_frames).cpu()
            parts.append(AV(audio, video))

        def joined(rows: list[Tensor | None]) -> Tensor | None:
            """Parts (b,...) -> (B,...)."""
            present = [x for x in rows if x is not None]
            return torch.cat(present) if present else None

        return AV.zip(parts).map(joined)

    def _codec(self, images_per_call: int | None) -> ImageCodec:
        statistics = self.autoencoder.image_statistics
        return ImageCodec(self.vae, statistics, images_per_call or VAE_IMAGES_PER_CALL)


class WindowLatents:
    """Latents of overlapping windows, put together in the middle of what they share.

    Args:
        slots: In a tick.
        size: Of a window, in ticks.
    """

    def __init__(self, slots: int, size: int) -> None:
        self._slots, self._size = slots, size
        self._parts: list[Tensor] = []
        self._last: tuple[int, Fraction, Tensor] | None = None

    def add(self, start: int, latents: Tensor) -> None:
        """Takes the latents (B,C,T',H',W') of the window that begins at tick `start`."""
        begin = Fraction(start)
        if self._last is not None:
            earlier, begun, held = self._last
            begin = Fraction(start + earlier + self._size, 2)
            self._keep(held, begun - earlier, begin - earlier)
        self._last = (start, begin, latents)

    def joined(self) -> Tensor:
        """Latents (B,C,T',H',W') of all ticks."""
        assert self._last is not None
        start, begin, latents = self._last
        self._keep(latents, begin - start, Fraction(self._size))
        return torch.cat(self._parts, dim=2)

    def _keep(self, latents: Tensor, begin: Fraction, end: Fraction) -> None:
        """Ticks `begin` to `end` of a window's latents (B,C,T',H',W'), to the slot."""
        first, stop = (math.floor(edge * self._slots) for edge in (begin, end))
        self._parts.append(latents[:, :, first:stop])


def _windows_of(
    pieces: Iterable[Tensor], units: int, grid: TimeGrid
) -> Iterator[tuple[int, Tensor]]:
    """Windows (B,...) of media (B,n,...) that come in pieces, with the ticks they begin at.

    Args:
        units: Samples or frames in a tick.
    """
    size, advance = grid.ticks, grid.ticks - grid.overlap
    held: Tensor | None = None
    first = start = 0  # ticks: of what is held, and of the next window
    for piece in pieces:
        held = piece if held is None else torch.cat([held, piece], dim=1)
        seen = first + held.shape[1] // units
        while seen >= start + size:
            grid.check_length(start + size)
            yield start, held[:, (start - first) * units :][:, : size * units]
            start += advance
        # The last window begins a window's length before the end, which may be here.
        keep = max(first, min(start, seen - size))
        held, first = held[:, (keep - first) * units :], keep
    if held is None or (start == 0 and held.shape[1] == 0):
        raise UserError("there is nothing to encode: what is given has no samples or frames")

    # The rest, in a window that ends with the clip; a short clip is filled up to one.
    length = max(first + -(-held.shape[1] // units), size)
    if start == 0 or length > start - advance + size:
        grid.check_length(length)
        missing = (length - first) * units - held.shape[1]
        fill = 0 * held[:, :1] if held.ndim == 2 else held[:, -1:]
        held = torch.cat([held, fill.expand(-1, missing, *fill.shape[2:])], dim=1)
        start = length - size
        yield start, held[:, (start - first) * units :]


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
    first_frame: int = 0,
    steps: int,
    generators: Sequence[torch.Generator],
    class_labels: Tensor | None = None,
    images_per_call: int | None = None,
) -> AV[Tensor]:
    """The signal decoder's part: the audio image and some frames of every clip.

    `ImageCodec.decode` makes images of what it gives.

    Args:
        latents: AV((B,C,T',H',W')), as the autoencoder encodes them.
        num_frames: F, frames that are decoded, from `first_frame` on.
        generators: One CPU generator per clip, for the decoder's noise.
        class_labels: (B,); None: the autoencoder predicts the class from the latents.
        images_per_call: Images the signal decoder sees at once; bounds memory, changes no number.
            None: DECODER_IMAGES_PER_CALL.

    Returns:
        Normalised image latents AV((B,1,c,h,w), (B,F,c,h,w)).
    """
    device = latents.video.device
    indices = torch.arange(first_frame, first_frame + num_frames, device=device)
    indices = indices.expand(len(latents.audio), -1)
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
