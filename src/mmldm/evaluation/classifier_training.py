"""Trains the classifiers that judge what is seen and what is heard, on real clips.

clips and class names -> Classifiers

Images are augmented with blur, grain and gain, and sounds with the phase reconstruction that every
generated sound went through, so that a verdict is about the content and not about the codec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mmldm.errors import UserError
from mmldm.evaluation.classifiers import Classifiers, ImageClassifier, audio_spec, pictures
from mmldm.media.clip import Clip
from mmldm.media.spectrogram import AudioImage
from mmldm.types import AV

FRAMES_PER_CLIP = 4
BATCH = 64
INVERTED = 0.25
"""Share of the sounds that go through Griffin-Lim."""
QUIETEST, LOUDEST = -9.0, 3.0
"""Decibels of gain."""
LEAST_HISS, MOST_HISS = -90.0, -60.0
"""Level of white noise, in dB of full scale."""


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
    classes: list[int] = []
    frames: list[Tensor] = []
    sounds: list[Tensor] = []
    sample_rate = 0
    for clip, name in clips:
        if name not in class_names:
            raise UserError(f"class {name!r} is none of {list(class_names)}")
        classes.append(list(class_names).index(name))
        chosen = torch.randperm(len(clip.frames), generator=generator)[:FRAMES_PER_CLIP]
        frames.append(pictures(clip.frames[chosen]).mul(127).to(torch.int8))
        sounds.append(clip.waveform)
        sample_rate = clip.sample_rate
    if not classes:
        raise UserError("there are no clips to train the classifiers on")
    waveforms = torch.stack(sounds)
    images = AV(
        _heard(waveforms, AudioImage(audio_spec(sample_rate, waveforms.shape[1])), generator),
        torch.cat(frames),
    )
    labels = torch.tensor(classes)
    owners = AV(labels, labels.repeat_interleave(torch.tensor([len(f) for f in frames])))
    networks = []
    for modality, x, y in zip(AV._fields, images, owners, strict=True):
        torch.manual_seed(seed)
        network = ImageClassifier(x.shape[1], len(class_names))
        report = progress and partial(progress, modality)
        networks.append(_fit(network, x, y, steps, generator, report))
    return Classifiers(AV(*networks), class_names, sample_rate, waveforms.shape[1])


def _heard(waveforms: Tensor, audio_image: AudioImage, generator: torch.Generator) -> Tensor:
    """Audio images int8 (N,1,64,64) of waveforms (N,S) with gain, hiss, and new phases for some."""
    images = []
    for sound in waveforms.split(BATCH):
        gain, hiss = (
            10 ** (torch.empty(len(sound), 1).uniform_(low, high, generator=generator) / 20)
            for low, high in ((QUIETEST, LOUDEST), (LEAST_HISS, MOST_HISS))
        )
        noise = torch.randn(sound.shape, generator=generator)
        sound = (gain * sound + hiss * noise).clamp(-1, 1)
        inverted = round(len(sound) * INVERTED)
        if inverted:
            again = audio_image.waveform(audio_image.image(sound[:inverted]), iterations=8)
            sound = torch.cat([again, sound[inverted:]])
        images.append(audio_image.image(sound)[:, 0, :1].mul(127).to(torch.int8))
    return torch.cat(images)


def _fit(
    network: ImageClassifier,
    images: Tensor,
    labels: Tensor,
    steps: int,
    generator: torch.Generator,
    progress: Callable[[int, int], None] | None,
) -> ImageClassifier:
    """Trains on images int8 (N,C,64,64) of labels (N,), balanced by class."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    weights = 1.0 / labels.bincount()[labels].double()
    for step in range(1, steps + 1):
        drawn = torch.multinomial(weights, BATCH, replacement=True, generator=generator)
        batch = augment(images[drawn].float() / 127, generator)
        loss = F.cross_entropy(network(batch)[1], labels[drawn])
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
        return torch.rand(len(images), 1, 1, 1, generator=generator)

    gain = 0.85 + 0.3 * per_image()
    blurred = F.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    strength = (2 * per_image() - 1).clamp(min=0)
    grain = torch.randn(images.shape, generator=generator) * 0.12 * per_image()
    mixed = torch.lerp(images, blurred, strength)
    return ((mixed + 1) * gain - 1 + grain).clamp(-1, 1)
