"""The words of the system as values: the pair `AV`, what is `Known`, the batches, and `ClipSpec`.

Shape letters used in every docstring: B batch, T frames, F some of them, C channels, H W pixels or cells,
N tokens, D width, S samples, K classes. Spaces: media -> images -> image latents -> latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar, overload

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmldm.errors import UserError

if TYPE_CHECKING:  # Processes that only probe files import this module, and should not load torch.
    import torch
    from torch import Tensor

T = TypeVar("T", covariant=True)
U = TypeVar("U")
V = TypeVar("V")
W = TypeVar("W")
R = TypeVar("R")

# What a clip may be at most. Generous: these bounds are for numbers that nobody meant, of a recipe or of a
# stranger's model folder, before they become memory.
MOST_FRAMES = 100_000
LARGEST_SIDE = 4096
MOST_PIXELS = 1 << 30
MOST_SAMPLES = 1 << 28
LARGEST_FILTERBANK = 1 << 26
LARGEST_SPECTROGRAM = 1 << 28
GRID = 32
"""Columns of a native audio image come in whole multiples: an image VAE and a U-Net halve them five times."""


class AV(NamedTuple, Generic[T]):
    """One value per modality, audio first everywhere.

    A `NamedTuple`, so it passes through `default_collate`, pytrees, DDP and pickling unchanged.
    """

    audio: T
    video: T

    @overload
    def map(self, fn: Callable[[T], R]) -> AV[R]: ...
    @overload
    def map(self, fn: Callable[[T, U], R], second: AV[U], /) -> AV[R]: ...
    @overload
    def map(self, fn: Callable[[T, U, V], R], second: AV[U], third: AV[V], /) -> AV[R]: ...
    @overload
    def map(
        self, fn: Callable[[T, U, V, W], R], second: AV[U], third: AV[V], fourth: AV[W], /
    ) -> AV[R]: ...
    def map(self, fn: Callable[..., Any], *others: AV[Any]) -> AV[Any]:
        """Applies `fn` to each modality, and to the same modality of each of `others`."""
        return AV(*(fn(*values) for values in zip(self, *others, strict=True)))

    @staticmethod
    def zip(pairs: Iterable[AV[T]]) -> AV[list[T]]:
        """Pairs in a row -> one list per modality."""
        listed = list(pairs)
        return AV([pair.audio for pair in listed], [pair.video for pair in listed])


Modality = Literal["audio", "video"]
MODALITIES: AV[Modality] = AV("audio", "video")

Progress = Callable[[str, int, int], None]
"""Shows how far something is: called with (what, done, total)."""
Say = Callable[[str], None]
"""Tells the person something: called with a sentence."""


class Latents(NamedTuple):
    """A batch of encoded clips, as both caches hold them: raw posteriors, one per modality.

    The cache of image latents has audio (B,1,c,h,w) and video (B,T,c,h,w); the cache of latents has
    (B,C,T',H',W') for both. A `NamedTuple` as `AV` is, for the same reasons.

    Attributes:
        mean: Of the posteriors, f32, before any normalisation.
        logvar: Their log-variances, f32, of the same shapes.
        present: Which modalities each clip has, (B,) bool. The others hold what black and silence give.
        class_labels: (B,) long; negative: the clip has no class.
    """

    mean: AV[Tensor]
    logvar: AV[Tensor]
    present: AV[Tensor]
    class_labels: Tensor

    @property
    def complete(self) -> Tensor:
        """Which clips have both modalities, (B,) bool."""
        return self.present.audio & self.present.video

    def to(self, device: torch.device) -> Latents:
        """The batch on a device; nothing waits for the copy."""

        def moved(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        mean, logvar, present = (pair.map(moved) for pair in self[:3])
        return Latents(mean, logvar, present, moved(self.class_labels))

    def sample(self, noise: AV[Tensor]) -> AV[Tensor]:
        """Draws from the posteriors; `noise` is standard normal, shaped like `mean`, and so is the result."""

        def draw(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
            return mean + (0.5 * logvar).exp() * noise

        return self.mean.map(draw, self.logvar, noise)


class Known(NamedTuple):
    """What is known of a batch of clips while their latents are sampled: whole modalities, or slots of them.

    A slot is one of the T' places on the time axis of a latent. A modality that is not known at all has no
    value; one that is known as a whole has a value and no mask, `Known(AV(audio, None))`. Slots of every task
    are said so: the start of a clip (`prefix`), both sides of a gap (`around`), or any mask.

    Attributes:
        values: Clean normalised latents AV((B,C,T',H',W')), of any value where the mask is false; None:
            nothing is known of the modality.
        mask: AV((B,T')) bool, true where a slot is known. Or of the latents' type: 1 - sigma where a slot is
            known and its value carries Gaussian noise of standard deviation sigma, 0 where it is not. None:
            all slots are known. Whether a mask is true everywhere is not looked at, so a modality known as a
            whole should have none: it then takes no part in guidance.
    """

    values: AV[Tensor | None]
    mask: AV[Tensor | None] = AV(None, None)

    @classmethod
    def around(cls, values: AV[Tensor | None], gaps: AV[range]) -> Known:
        """All slots of `values` AV((B,C,T',H',W')) but those of each modality's gap.

        Raises:
            UserError: The latents have no time axis, or a gap does not lie on it.
        """

        def mask(value: Tensor | None, gap: range) -> Tensor | None:
            """(B,C,T',H',W') -> (B,T') bool."""
            if value is None:
                return None
            slots = value.shape[2]
            check_time_axis(slots)
            if not 0 <= gap.start <= gap.stop <= slots:
                raise UserError(
                    f"slots {gap.start} to {gap.stop} do not lie in a latent of {slots} slots"
                )
            known = value.new_ones(len(value), slots).bool()
            known[:, gap.start : gap.stop] = False
            return known

        return cls(values, values.map(mask, gaps))

    @classmethod
    def prefix(cls, values: AV[Tensor | None], slots: AV[int]) -> Known:
        """The first `slots` of each modality's `values` AV((B,C,T',H',W')).

        Raises:
            UserError: The latents have no time axis, or fewer slots.
        """

        def rest(value: Tensor | None, first: int) -> range:
            """(B,C,T',H',W') -> what comes after."""
            return range(first, first if value is None else value.shape[2])

        return cls.around(values, values.map(rest, slots))

    @property
    def whole(self) -> AV[bool]:
        """Which modalities are known as a whole."""
        return self.values.map(lambda value, mask: value is not None and mask is None, self.mask)

    @property
    def slots(self) -> AV[Tensor | None]:
        """The mask as AV((B,1,T',1,1)) bool, to be broadcast over latents; None: no mask."""

        def broadcast(mask: Tensor | None) -> Tensor | None:
            """(B,T') -> (B,1,T',1,1)."""
            return None if mask is None else mask.bool()[:, None, :, None, None]

        return self.mask.map(broadcast)


NOTHING_KNOWN = Known(AV(None, None))


def check_time_axis(slots: int) -> None:
    """Refuses known slots of latents that have one slot.

    Raises:
        UserError: One slot is all there is.
    """
    if slots == 1:
        raise UserError(
            "the latents of this model have no time axis (the paper's form), so a part of a clip cannot be "
            "known: give a whole modality, or use a model whose latents have more than one time slot"
        )


class WindowBatch(NamedTuple):
    """A batch of windows as they are read from files; without its first dimension, one window.

    Attributes:
        frames: u8 (B,T,3,H,W) in [0, 255]; T is 0 where only the sound is read.
        waveforms: f32 (B,S) in [-1, 1].
        present: Which modalities each file has, (B,) bool.
        class_labels: (B,) long; negative: the clip has no class.
        indices: Of the files in their split, (B,) long.
    """

    frames: Tensor
    waveforms: Tensor
    present: AV[Tensor]
    class_labels: Tensor
    indices: Tensor


class SpectrogramSpec(BaseModel):
    """How a waveform becomes a log-mel audio image, and back.

    Columns are centred at `(j + 1/2) * hop_length` samples (reflect padding of (n_fft - hop_length)/2 on
    each side), so that the image covers exactly the clip. Magnitudes map linearly in decibels from
    [db_min, db_max] to [0, 1].
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    n_fft: int = Field(1024, gt=0, le=65536)
    hop_length: int = Field(400, gt=0)
    num_mels: int = Field(64, gt=0, le=4096)
    f_min: float = Field(40.0, ge=0)
    f_max: float = Field(8000.0, gt=0)
    mel_scale: Literal["htk", "slaney"] = "htk"
    area_normalised: bool = False
    """Divide each mel filter by its width in hertz (Slaney's norm, the paper's preset). Off, a band holds
    the sum of its bins and the decibel range is used far better: see docs/data.md."""
    window_normalised: bool = True
    """Divide magnitudes by half the window's sum: a full-scale sine then has magnitude 1 (0 dB)."""
    whole_bins: bool = False
    """No filter is narrower than a bin of the transform on either side of its centre. Off, the low bands of
    a short window may lie between two bins and be empty."""
    filterbank_rate: int | None = Field(None, gt=0, le=768_000)
    """Sample rate the filterbank is built for; None: the clip's own. The paper's preset sets 22050 on
    44.1 kHz audio, which is a fault of the release kept for comparison only."""
    db_min: float = -70.0
    db_max: float = 0.0

    @model_validator(mode="after")
    def _check(self) -> SpectrogramSpec:
        if self.num_mels * self.n_fft > LARGEST_FILTERBANK:
            raise ValueError(
                f"{self.num_mels} mel bands of n_fft {self.n_fft} are more than {LARGEST_FILTERBANK} numbers"
            )
        if self.hop_length > self.n_fft:
            raise ValueError(f"hop_length {self.hop_length} must not exceed n_fft {self.n_fft}")
        if self.f_max <= self.f_min:
            raise ValueError(f"f_max {self.f_max} must exceed f_min {self.f_min}")
        if self.db_max <= self.db_min:
            raise ValueError(f"db_max {self.db_max} must exceed db_min {self.db_min}")
        return self


class ClipSpec(BaseModel):
    """Owner of every rate and length of a clip; everything else is derived from it.

    The default is 16 frames at 10 fps, 64x64, with 1.6 s of 16 kHz sound as a native 64x64 audio image.
    A clip has at most 100,000 frames, 4096 pixels a side, 2**30 pixels in all frames together and 2**28
    samples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_frames: int = Field(16, gt=0, le=MOST_FRAMES)
    fps: float = Field(10.0, gt=0, le=1000)
    height: int = Field(64, gt=0, le=LARGEST_SIDE)
    width: int = Field(64, gt=0, le=LARGEST_SIDE)
    sample_rate: int = Field(16000, gt=0, le=768_000)
    spectrogram: SpectrogramSpec = SpectrogramSpec()
    native_audio: bool = False
    """The audio image has a row for each mel band and a column for each of the spectrogram's, and nothing is
    resized. Off, it is resized to the frames' height and width, as in the paper."""

    @model_validator(mode="after")
    def _check(self) -> ClipSpec:
        self._check_size()
        if self.num_samples <= self.spectrogram.n_fft:
            raise ValueError(
                f"a clip of {self.num_samples} samples is not longer than n_fft {self.spectrogram.n_fft}"
            )
        if self.spectrogram.f_max > self.filterbank_rate / 2:
            raise ValueError(
                f"spectrogram.f_max {self.spectrogram.f_max} exceeds half the sample rate "
                f"{self.filterbank_rate}"
            )
        return self

    def _check_size(self) -> None:
        pixels = self.num_frames * self.height * self.width
        if pixels > MOST_PIXELS:
            raise ValueError(
                f"{self.num_frames} frames of {self.height}x{self.width} are {pixels} pixels, and a clip "
                f"has at most {MOST_PIXELS}"
            )
        if self.num_frames * self.sample_rate / self.fps > MOST_SAMPLES:
            raise ValueError(
                f"{self.num_frames} frames at {self.fps} fps last {self.duration:.4g} s, and at "
                f"{self.sample_rate} Hz a clip has at most {MOST_SAMPLES} samples"
            )
        if self.spectrogram.num_mels * self.num_columns > LARGEST_SPECTROGRAM:
            raise ValueError(
                f"a spectrogram of {self.spectrogram.num_mels} bands and {self.num_columns} columns is "
                f"larger than {LARGEST_SPECTROGRAM}: choose a longer hop_length"
            )

    @property
    def duration(self) -> float:
        """Length of the clip in seconds."""
        return self.num_frames / self.fps

    @property
    def num_samples(self) -> int:
        """S: waveform samples in the clip."""
        return round(self.num_frames * self.sample_rate / self.fps)

    @property
    def audio_size(self) -> tuple[int, int]:
        """Rows and columns of the audio image; a native one ends on a whole multiple of GRID columns."""
        if not self.native_audio:
            return self.height, self.width
        return self.spectrogram.num_mels, -(-self.num_columns // GRID) * GRID

    @property
    def filterbank_rate(self) -> int:
        """Sample rate in Hz that the mel filters are built for: the clip's own but for the paper's fault."""
        return self.spectrogram.filterbank_rate or self.sample_rate

    @property
    def num_columns(self) -> int:
        """Columns of the native mel spectrogram (before any resize to the image width)."""
        n_fft, hop = self.spectrogram.n_fft, self.spectrogram.hop_length
        padding = (n_fft - hop) // 2
        return (self.num_samples + 2 * padding - n_fft) // hop + 1
