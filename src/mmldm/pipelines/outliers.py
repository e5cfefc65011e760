"""Out-of-distribution detection: whether given sounds and pictures are of the world that a model has learnt.

windows of media (W,S) or (W,T,3,H,W) u8, and their latents (W,C,T',H',W') -> `Measures` -> distances (W,)

An encoder makes latents of anything, and some of what it has never seen lands among those of its own world.
So two measures are taken, and the larger one, each in units of what held-out clips reach, is the distance:

    deviation  of each channel's mean and spread over the latent's slots, from those of training clips
    error      of the signal decoder, which makes image latents of these latents alone, from the true ones

A distance above 1 is an outlier: 1 % of held-out clips have one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from mmldm.diffusion.sampling import initial_noise, sample
from mmldm.errors import UserError
from mmldm.media.clip import frames_to_images
from mmldm.models.image_codec import ImageCodec
from mmldm.pipelines.decoding import ClipCoder, decoder_denoiser, encode_media, parts_of
from mmldm.types import AV, MODALITIES, Modality

FALSE_ALARMS = 0.01
"""Share of held-out clips that are taken for outliers."""
FRAMES = 4
"""Of a window, evenly spread, that are decoded and compared; of a sound it is its one image."""
LEAST_SPREAD = 0.01
"""Added to standard deviations, in those of the training set, before their logarithm: silence has none."""


class ModalityReference(BaseModel):
    """What one modality of clips of the model's world measures.

    Attributes:
        mean: Of each feature over training clips.
        std: Likewise.
        deviation: That counts as a distance of 1.
        error: Likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: tuple[float, ...]
    std: tuple[float, ...]
    deviation: float = Field(gt=0)
    error: float = Field(gt=0)


class Reference(BaseModel):
    """What is stored with a model: no media, but how clips of its world measure.

    Attributes:
        networks: Hash of image VAE and autoencoder, whose measures these are.
        held_out: Clips that the limits are from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    audio: ModalityReference
    video: ModalityReference
    networks: str
    held_out: int

    def check(self, channels: AV[int]) -> None:
        """Refuses what is not of latents with so many channels.

        Raises:
            UserError: It is of others.
        """
        for own, count in zip(AV(self.audio, self.video), channels, strict=True):
            if len(own.mean) != 2 * count or len(own.std) != 2 * count or min(own.std) <= 0:
                raise UserError(
                    "outliers: these numbers are not of this model's latents; calibrate it again "
                    "(runs/calibrate_outliers.py)"
                )


class Measures(NamedTuple):
    """Of windows.

    Attributes:
        features: (W,2C) means and log spreads of the latents' channels.
        errors: (W,) root mean squares, in standard deviations of image latents.
    """

    features: Tensor
    errors: Tensor


@dataclass(frozen=True)
class OutlierDetector:
    """Takes the measures, with a model's own networks.

    Attributes:
        coder: Image VAE, autoencoder and its scheduler.
        decoder_steps: The model's own.
    """

    coder: ClipCoder
    decoder_steps: int

    def distances(
        self, media: AV[Tensor | None], latents: AV[Tensor | None], reference: Reference
    ) -> AV[Tensor | None]:
        """How far given media are from the model's world: AV((B,S), (B,T,3,H,W) u8) -> AV((B,W)) on the CPU.

        A clip of any length is taken in windows, one after another; the last ends where the clip does.

        Args:
            latents: Of the whole clips, AV((B,C,T',H',W')), where they are known; None: encoded here.
        """

        def distance(
            own: Tensor | None, z: Tensor | None, modality: Modality, known: ModalityReference
        ) -> Tensor | None:
            """One modality's (B,n,...) -> (B,W)."""
            if own is None:
                return None
            size = self._length(modality)
            starts = _starts(own.shape[1], size)
            windows = torch.cat([_window(own, start, size) for start in starts])
            if z is not None:
                # A latent slot lasts as long everywhere; rounding moves a window by half of one at most.
                slots = self.coder.autoencoder.latent_shapes.map(lambda shape: shape[1])
                count = slots[MODALITIES.index(modality)]
                first = [min(round(s * count / size), z.shape[2] - count) for s in starts]
                z = torch.cat([z[:, :, start : start + count] for start in first])
            distances = distances_of(self.measure(windows, modality, z), known)
            return distances.view(len(starts), len(own)).T

        return media.map(distance, latents, MODALITIES, AV(reference.audio, reference.video))

    @torch.no_grad()
    def measure(
        self, windows: Tensor, modality: Modality, latents: Tensor | None = None
    ) -> Measures:
        """One modality of windows, (W,S) or (W,T,3,H,W) u8 -> its measures, on the CPU.

        Args:
            latents: (W,C,T',H',W'), where they are known.
        """
        parts = [
            self._measure(windows[rows], modality, None if latents is None else latents[rows])
            for rows in parts_of(len(windows))
        ]
        return Measures(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _measure(self, windows: Tensor, modality: Modality, latents: Tensor | None) -> Measures:
        """The same of a few windows, with latents (W,C,T',H',W') or None."""
        coder, autoencoder = self.coder, self.coder.autoencoder
        codec = ImageCodec(coder.vae, autoencoder.image_statistics)
        own, rows = MODALITIES.index(modality), len(windows)
        windows = windows.to(coder.device)

        # The images that are compared, and the latents of all the window.
        chosen = torch.zeros(1, dtype=torch.long)
        if modality == "video":
            chosen = torch.linspace(0, windows.shape[1] - 1, FRAMES).round().long().unique()
            images = frames_to_images(windows[:, chosen.to(windows.device)])
        else:
            images = coder.audio_image.image(windows)
        true = codec.encode(images, modality)
        if latents is None:
            media: list[Tensor | None] = [None, None]
            media[own] = windows
            latents = encode_media(autoencoder, codec, coder.audio_image, AV(*media))[own]
            assert latents is not None, "what is given is encoded"
        latents = latents.to(coder.device)

        # Of the other modality the decoder is told nothing: `alone`, which training has shown it.
        pair = [
            torch.zeros(rows, *shape, device=coder.device) for shape in autoencoder.latent_shapes
        ]
        pair[own] = latents
        alone = torch.ones(rows, dtype=torch.bool, device=coder.device)
        conditions = autoencoder.condition(
            AV(*pair).map(lambda z: z.to(autoencoder.dtype)),
            chosen.to(coder.device).expand(rows, -1),
            alone=AV(alone, alone),
        )
        # From the same noise for every window, so that a distance depends on the window alone.
        audio, video = autoencoder.image_latent_shapes
        generators = [torch.Generator().manual_seed(0) for _ in range(rows)]
        noise = initial_noise(
            AV((1, *audio), (len(chosen), *video)), generators, device=coder.device
        )
        denoise = decoder_denoiser(autoencoder, conditions)
        made = sample(
            denoise, noise, coder.scheduler, self.decoder_steps, generator=list(generators)
        )
        errors = (made[own] - true).square().flatten(1).mean(1).sqrt()
        return Measures(features_of(latents).cpu(), errors.float().cpu())

    def _length(self, modality: Modality) -> int:
        """Samples or frames of a window."""
        spec = self.coder.spec
        return spec.num_samples if modality == "audio" else spec.num_frames


class Watch:
    """Looks at one modality of a clip of any length while its parts go by, in constant memory.

    Args:
        distances: `SoundingVideoPipeline.outlier_distances`: AV((B,S), (B,T,3,H,W) u8) -> AV((B,W)).
        modality: Of the parts.
        duration: Seconds of a window.
    """

    def __init__(
        self,
        distances: Callable[[AV[Tensor | None]], AV[Tensor | None]],
        modality: Modality,
        duration: float,
    ) -> None:
        self._distances, self._modality, self._duration = distances, modality, duration
        self._seen: list[Tensor] = []

    def passing(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """The parts (s,) or (t,3,H,W) u8 as they come, each at most a window; the last may be shorter."""
        for part in parts:
            self._look(part[None])
            yield part

    def sentences(self, name: str) -> Iterator[str]:
        """What a person is told of what has gone by; see `sentences`."""
        if self._seen:
            own: list[Tensor | None] = [None, None]
            own[MODALITIES.index(self._modality)] = torch.cat(self._seen, dim=1)
            yield from sentences(AV(*own), name, self._duration)

    def _look(self, part: Tensor) -> None:
        """Takes a part (1,s) or (1,t,3,H,W) u8."""
        media: list[Tensor | None] = [None, None]
        own = MODALITIES.index(self._modality)
        media[own] = part
        distances = self._distances(AV(*media))[own]
        if distances is not None:
            self._seen.append(distances)


def features_of(latents: Tensor) -> Tensor:
    """Mean and log spread of each channel over all slots and cells: (W,C,T',H',W') -> (W,2C)."""
    z = latents.float().flatten(2)
    return torch.cat([z.mean(2), (z.std(2, correction=0) + LEAST_SPREAD).log()], dim=1)


def distances_of(measures: Measures, reference: ModalityReference) -> Tensor:
    """Measures of W windows -> distances (W,)."""
    deviation = _deviations(
        measures.features, torch.tensor(reference.mean), torch.tensor(reference.std)
    )
    return torch.maximum(deviation / reference.deviation, measures.errors / reference.error)


def fit(train: Measures, held_out: Measures) -> ModalityReference:
    """The reference of one modality: features of training clips, and limits of held-out ones."""
    mean = train.features.mean(0)
    std = train.features.std(0, correction=0).clamp_min(1e-6)
    deviations, errors = _deviations(held_out.features, mean, std), held_out.errors
    # Both limits alone would let twice as many held-out clips pass: the larger of both has one, too.
    limits = [_limit(values).clamp_min(1e-6) for values in (deviations, errors)]
    both = _limit(torch.maximum(deviations / limits[0], errors / limits[1]))
    return ModalityReference(
        mean=_rounded(mean),
        std=_rounded(std),
        deviation=float(limits[0] * both),
        error=float(limits[1] * both),
    )


def sentences(distances: AV[Tensor | None], name: str, duration: float) -> Iterator[str]:
    """What a person is told about media whose distances are AV (B,W), of the first clip.

    Args:
        name: Of what was given.
        duration: Seconds of a window.
    """
    for own, what in zip(distances, ("sound", "picture"), strict=True):
        if own is None or not bool((own[0] > 1).any()):
            continue
        windows, outside = own.shape[1], int((own[0] > 1).sum())
        part = f"the {what} of {name} is"
        if outside < windows:
            part = f"the {what} of {name} is in {outside} of {windows} windows of {duration:g} s"
        yield (
            f"{part} unlike all that this model was trained on (distance {float(own[0].max()):.1f}, and "
            "1 % of its own clips exceed 1): expect little of what it makes of it"
        )


def _deviations(features: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Root mean square of standardised features: (W,2C), (2C,), (2C,) -> (W,)."""
    return ((features - mean) / std).square().mean(1).sqrt()


def _limit(values: Tensor) -> Tensor:
    """What FALSE_ALARMS of values (N,) exceed; the largest of fewer than a hundred: () of the same type."""
    # The rank that holds for the next value, too, if it is of the same world.
    rank = min(len(values), -int(-(1 - FALSE_ALARMS) * (len(values) + 1) // 1))
    return values.sort().values[rank - 1]


def _rounded(values: Tensor) -> tuple[float, ...]:
    """(N,) with five digits, as they are stored."""
    return tuple(float(f"{value:.5g}") for value in values.tolist())


def _starts(length: int, size: int) -> list[int]:
    """Where windows of `size` begin that cover `length`, one after another, the last at its end."""
    if length <= size:
        return [0]
    return [*range(0, length - size, size), length - size]


def _window(media: Tensor, start: int, size: int) -> Tensor:
    """Of media (B,n,...): (B,size,...), filled up as encoding does, with silence or the last frame."""
    window = media[:, start : start + size]
    missing = size - window.shape[1]
    if missing and window.ndim == 2:
        return F.pad(window, (0, missing))
    last = window[:, -1:].expand(-1, missing, *window.shape[2:])
    return torch.cat([window, last], dim=1) if missing else window
