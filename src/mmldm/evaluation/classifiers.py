"""What is seen and what is heard: one small classifier per modality.

clips and class names -> Classifiers
frames u8 (T,3,H,W), waveform (S,) -> class and features (64,) of the picture, and of the sound

The classifiers know nothing of the model that is judged. The sound becomes an audio image of their own spec,
and frames are resized by area. In training, images get blur, grain and gain, and some sounds the phase
reconstruction that every generated sound went through: a verdict is about the content, not about the codec.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from mmldm.errors import UserError, first_line
from mmldm.files import whole_file, write_json
from mmldm.media.clip import Clip
from mmldm.media.spectrogram import AudioImage
from mmldm.types import AV, MODALITIES, ClipSpec, SpectrogramSpec

SIZE = 64
"""Side of the images the classifiers see, in pixels."""
FEATURES = 64
CONFIDENT = 0.9
"""Probability from which a frame's class counts as a statement."""
CHANGED = 0.1
"""Share of frames that confidently show another class, above which a clip changes its class."""
FORMAT, VERSION = "mmldm-classifiers", 1

FRAMES_PER_CLIP = 4
BATCH = 64
"""Images of a training step, and sounds that are prepared at once."""
INVERTED = 0.25
"""Share of the sounds that go through Griffin-Lim."""
GAIN = -9.0, 3.0
"""Least and most, in dB."""
HISS = -90.0, -60.0
"""Least and most level of white noise, in dB of full scale."""


class ImageClassifier(nn.Module):
    """A small convolutional network on 64 x 64 pixels.

    Args:
        channels: C.
        num_classes: K.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        widths = [channels, 16, 32, 64, 64]
        layers: list[nn.Module] = []
        # Each layer halves both sides: 64 pixels become 4.
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(4, after), nn.SiLU()]
        self.trunk = nn.Sequential(*layers)
        self.project = nn.Linear(2 * widths[-1], FEATURES)
        self.head = nn.Linear(FEATURES, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Features (N,64) of images (N,C,64,64), from mean and maximum of the last maps."""
        maps = self.trunk(images).flatten(2)
        return F.silu(self.project(torch.cat([maps.mean(2), maps.amax(2)], dim=1)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N,64) and logits (N,K) of images (N,C,64,64) in [-1,1]."""
        features = self.features(images)
        return features, self.head(features)


@dataclass(frozen=True)
class Verdicts:
    """What the classifiers say of N clips.

    Attributes:
        classes: AV((N,), (N,)) long: class heard, class seen.
        features: AV((N,64), (N,64)); the picture's are the mean over frames.
        strays: (N,) share of frames that confidently show another class than the clip.
    """

    classes: AV[Tensor]
    features: AV[Tensor]
    strays: Tensor

    @property
    def changed(self) -> Tensor:
        """(N,) bool: what is seen changes its class within the clip."""
        return self.strays > CHANGED


class Classifiers:
    """A classifier per modality and what they were trained on.

    Args:
        networks: Trained, in evaluation mode.
        class_names: In the order of the logits.
        sample_rate: Of the waveforms, in Hz.
        num_samples: S, their length.
    """

    def __init__(
        self,
        networks: AV[ImageClassifier],
        class_names: Sequence[str],
        sample_rate: int,
        num_samples: int,
    ) -> None:
        self.networks = networks
        self.class_names = tuple(class_names)
        self.sample_rate = sample_rate
        self.num_samples = num_samples
        self._audio_image = AudioImage(audio_spec(sample_rate, num_samples))

    @torch.no_grad()
    def judge(self, clips: Sequence[Clip]) -> Verdicts:
        """Verdicts on clips, of any picture size and number of frames.

        Raises:
            UserError: A sound is of another rate or length than the classifiers were trained on.
        """
        for clip in clips:
            found = clip.sample_rate, len(clip.waveform)
            if found != (self.sample_rate, self.num_samples):
                raise UserError(
                    f"the classifiers know sounds of {self.num_samples} samples at "
                    f"{self.sample_rate} Hz, not {found[1]} at {found[0]} Hz; train others"
                )
        # What is heard: of an audio image's three equal channels one is enough.
        waveforms = torch.stack([clip.waveform for clip in clips])
        heard, sound_logits = self.networks.audio(self._audio_image.image(waveforms)[:, 0, :1])
        # What is seen, clip by clip: their sizes and numbers of frames may differ.
        looks = [self._look(clip.frames) for clip in clips]
        seen, classes, strays = map(torch.stack, zip(*looks, strict=True))
        return Verdicts(AV(sound_logits.argmax(1), classes), AV(heard, seen), strays)

    def _look(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (64,), class () long and share of straying frames () of frames u8 (T,3,H,W)."""
        features, logits = self.networks.video(small_images(frames))
        # All frames together decide on the clip's class; a frame strays if it is sure of another one.
        seen = logits.mean(0).argmax()
        probabilities, classes = logits.softmax(1).max(1)
        strays = (classes != seen) & (probabilities >= CONFIDENT)
        return features.mean(0), seen, strays.float().mean()

    def save(self, folder: str | Path) -> None:
        """Writes `folder/classifiers.{json,safetensors}`.

        Raises:
            UserError: The folder cannot be written.
        """
        tensors = {
            f"{modality}.{name}": tensor
            for modality, network in self.networks._asdict().items()
            for name, tensor in network.state_dict().items()
        }
        with whole_file(Path(folder) / "classifiers.safetensors") as temporary:
            temporary.write_bytes(save(tensors))
        described = {
            "format": FORMAT,
            "version": VERSION,
            "class_names": list(self.class_names),
            "sample_rate": self.sample_rate,
            "num_samples": self.num_samples,
        }
        write_json(Path(folder) / "classifiers.json", described)

    @classmethod
    def load(cls, folder: str | Path) -> Classifiers:
        """Reads what `save` wrote.

        Raises:
            UserError: The folder holds no classifiers, or others than this program reads.
        """
        folder = Path(folder)
        try:
            described = json.loads((folder / "classifiers.json").read_text(encoding="utf-8"))
            if (described.get("format"), described.get("version")) != (FORMAT, VERSION):
                raise UserError(f"{folder}: no classifiers of version {VERSION}; train them again")
            names = described["class_names"]
            networks = AV(ImageClassifier(1, len(names)), ImageClassifier(3, len(names)))
            nn.ModuleDict(networks._asdict()).load_state_dict(
                load_file(folder / "classifiers.safetensors")
            )
            networks.map(nn.Module.eval)
            return cls(networks, names, described["sample_rate"], described["num_samples"])
        except (OSError, ValueError, LookupError, RuntimeError, SafetensorError) as error:
            raise UserError(
                f"{folder}: the classifiers cannot be loaded: {first_line(error)}"
            ) from error


def audio_spec(sample_rate: int, num_samples: int) -> ClipSpec:
    """The audio image of a waveform (S,) as the classifiers see it: 64 mel bands and columns."""
    # At least 50 ms, as a power of two.
    window = 1 << (sample_rate // 20).bit_length()
    mel = SpectrogramSpec(
        n_fft=window,
        hop_length=min(max(1, num_samples // SIZE), window),
        num_mels=SIZE,
        f_max=min(8000.0, sample_rate / 2),
    )
    return ClipSpec(
        num_frames=1,
        fps=sample_rate / num_samples,
        height=SIZE,
        width=SIZE,
        sample_rate=sample_rate,
        spectrogram=mel,
    )


def small_images(frames: Tensor) -> Tensor:
    """Frames u8 (T,3,H,W) -> images (T,3,64,64) in [-1,1], resized by area."""
    images = frames.float() / 127.5 - 1
    if images.shape[-2:] == (SIZE, SIZE):
        return images
    return F.interpolate(images, (SIZE, SIZE), mode="area")


def accuracy(classes: AV[Tensor], class_labels: Tensor) -> AV[float]:
    """Share of clips whose class (N,) long is named right, by sound and by picture (N,)."""
    return classes.map(lambda said: (said == class_labels).double().mean().item())


def train_classifiers(
    clips: Iterable[tuple[Clip, str]],
    class_names: Sequence[str],
    steps: int = 400,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Classifiers:
    """Trains both classifiers; a minute on one core for 1,200 clips.

    Args:
        clips: Real clips of one length with their class names. Read once; small images are kept.
        class_names: All classes, in the order of the logits.
        steps: Of each classifier, with 64 images a step.
        progress: Called with (modality, steps done, steps in all).

    Raises:
        UserError: No clips, or a class that is not in `class_names`.
    """
    generator = torch.Generator().manual_seed(seed)
    names = list(class_names)

    # Of each clip a few frames, as small images of one byte a number, and the whole sound.
    classes: list[int] = []
    frames: list[Tensor] = []
    waveforms: list[Tensor] = []
    sample_rate = 0
    for clip, name in clips:
        if name not in names:
            raise UserError(f"class {name!r} is none of {names}")
        classes.append(names.index(name))
        chosen = torch.randperm(len(clip.frames), generator=generator)[:FRAMES_PER_CLIP]
        frames.append(small_images(clip.frames[chosen]).mul(127).to(torch.int8))
        waveforms.append(clip.waveform)
        sample_rate = clip.sample_rate
    if not classes:
        raise UserError("there are no clips to train the classifiers on")

    # A sound is one image, a picture several: each image with the class of its clip.
    sounds = torch.stack(waveforms)
    audio_image = AudioImage(audio_spec(sample_rate, sounds.shape[1]))
    images = AV(_heard(sounds, audio_image, generator), torch.cat(frames))
    of_sounds = torch.tensor(classes)
    of_frames = of_sounds.repeat_interleave(torch.tensor([len(few) for few in frames]))

    def trained(modality: str, images: Tensor, class_labels: Tensor) -> ImageClassifier:
        torch.manual_seed(seed)
        network = ImageClassifier(images.shape[1], len(names))
        report = progress and partial(progress, modality)
        return _fit(network, images, class_labels, steps, generator, report)

    networks = MODALITIES.map(trained, images, AV(of_sounds, of_frames))
    return Classifiers(networks, names, sample_rate, sounds.shape[1])


def _heard(waveforms: Tensor, audio_image: AudioImage, generator: torch.Generator) -> Tensor:
    """Audio images int8 (N,1,64,64) of waveforms (N,S) with gain, hiss, and new phases for some."""
    images = []
    for sound in waveforms.split(BATCH):
        # Drawn evenly in dB.
        gain, hiss = (
            10 ** (torch.empty(len(sound), 1).uniform_(low, high, generator=generator) / 20)
            for low, high in (GAIN, HISS)
        )
        noise = torch.randn(sound.shape, generator=generator)
        sound = (gain * sound + hiss * noise).clamp(-1, 1)
        # The first of a batch lose their phases, as all generated sounds have.
        inverted = round(len(sound) * INVERTED)
        if inverted:
            again = audio_image.waveform(audio_image.image(sound[:inverted]), iterations=8)
            sound = torch.cat([again, sound[inverted:]])
        images.append(audio_image.image(sound)[:, 0, :1].mul(127).to(torch.int8))
    return torch.cat(images)


def _fit(
    network: ImageClassifier,
    images: Tensor,
    class_labels: Tensor,
    steps: int,
    generator: torch.Generator,
    progress: Callable[[int, int], None] | None,
) -> ImageClassifier:
    """Trains on images int8 (N,C,64,64) of classes (N,) long, each class drawn equally often."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    # A rare class is drawn as often as a frequent one.
    weights = 1.0 / class_labels.bincount()[class_labels].double()
    for step in range(1, steps + 1):
        drawn = torch.multinomial(weights, BATCH, replacement=True, generator=generator)
        batch = augment(images[drawn].float() / 127, generator)
        loss = F.cross_entropy(network(batch)[1], class_labels[drawn])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if progress is not None:
            progress(step, steps)
    return network.eval()


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N,C,H,W) in [-1,1] with another gain, blur for half of them, and grain."""

    def per_image() -> Tensor:
        """(N,1,1,1) in [0,1)."""
        return torch.rand(len(images), 1, 1, 1, generator=generator)

    # Half of the strengths of blur are below 0, which is none.
    gain = 0.85 + 0.3 * per_image()
    blurred = F.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    strength = (2 * per_image() - 1).clamp(min=0)
    grain = torch.randn(images.shape, generator=generator) * 0.12 * per_image()
    mixed = torch.lerp(images, blurred, strength)
    return ((mixed + 1) * gain - 1 + grain).clamp(-1, 1)
