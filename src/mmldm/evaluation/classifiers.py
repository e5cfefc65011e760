"""What is seen and what is heard: one small classifier per modality.

frames u8 (T,3,H,W), waveform (S,) -> class and features (64,) of the picture, and of the sound

Neither knows anything of the model that is judged: the sound becomes an audio image of the
classifiers' own spec, frames are resized by area. `classifier_training` makes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from mmldm.errors import UserError
from mmldm.files import whole_file, write_json
from mmldm.media.clip import Clip
from mmldm.media.spectrogram import AudioImage
from mmldm.types import AV, ClipSpec, SpectrogramSpec

SIZE = 64
"""Side of the images the classifiers see, in pixels."""
FEATURES = 64
CONFIDENT = 0.9
"""Probability from which a frame's class counts as a statement."""
CHANGED = 0.1
"""Share of frames that confidently show another class, above which a clip changes its class."""
FORMAT, VERSION = "mmldm-classifiers", 1


class ImageClassifier(nn.Module):
    """Images (N,C,64,64) in [-1,1] -> features (N,64), logits (N,K).

    Args:
        channels: C.
        num_classes: K.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        widths = [channels, 16, 32, 64, 64]
        layers: list[nn.Module] = []
        for before, after in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(4, after), nn.SiLU()]
        self.trunk = nn.Sequential(*layers)
        self.project = nn.Linear(2 * widths[-1], FEATURES)
        self.head = nn.Linear(FEATURES, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """(N,64), from mean and maximum of the last map."""
        maps = self.trunk(images).flatten(2)
        return F.silu(self.project(torch.cat([maps.mean(2), maps.amax(2)], dim=1)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        return features, self.head(features)


@dataclass(frozen=True)
class Verdicts:
    """What the classifiers say of N clips.

    Attributes:
        classes: AV((N,) long): class heard, class seen.
        features: AV((N,64)); the picture's are the mean over frames.
        strays: (N,) share of frames that confidently show another class than the clip.
    """

    classes: AV[Tensor]
    features: AV[Tensor]
    strays: Tensor

    @property
    def changed(self) -> Tensor:
        """(N,) bool: what is seen changes its class within the clip."""
        return self.strays > CHANGED

    @staticmethod
    def join(parts: Sequence[Verdicts]) -> Verdicts:
        """The verdicts of several batches as one."""
        return Verdicts(
            AV(*(torch.cat(x) for x in zip(*(part.classes for part in parts), strict=True))),
            AV(*(torch.cat(x) for x in zip(*(part.features for part in parts), strict=True))),
            torch.cat([part.strays for part in parts]),
        )


class Classifiers:
    """A classifier per modality and what they were trained on.

    Args:
        networks: Trained, in evaluation mode.
        class_names: In the order of the logits.
        sample_rate: Of the waveforms.
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
        waveforms = torch.stack([clip.waveform for clip in clips])
        heard, sound_logits = self.networks.audio(self._audio_image.image(waveforms)[:, 0, :1])
        verdicts = [self._look(clip.frames) for clip in clips]
        seen, classes, strays = (list(column) for column in zip(*verdicts, strict=True))
        return Verdicts(
            classes=AV(sound_logits.argmax(1), torch.stack(classes)),
            features=AV(heard, torch.stack(seen)),
            strays=torch.stack(strays),
        )

    def _look(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Feature (64,), class () and share of straying frames () of frames u8 (T,3,H,W)."""
        features, logits = self.networks.video(pictures(frames))
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
            raise UserError(f"{folder}: the classifiers cannot be loaded: {error}") from error


def audio_spec(sample_rate: int, num_samples: int) -> ClipSpec:
    """The audio image of a waveform (S,) as the classifiers see it: 64 mel bands and columns."""
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


def pictures(frames: Tensor) -> Tensor:
    """Frames u8 (T,3,H,W) -> images (T,3,64,64) in [-1,1], resized by area."""
    images = frames.float() / 127.5 - 1
    if images.shape[-2:] == (SIZE, SIZE):
        return images
    return F.interpolate(images, (SIZE, SIZE), mode="area")


def accuracy(verdicts: Verdicts, labels: Tensor) -> AV[Any]:
    """Share of clips whose class (N,) is named right, by sound and by picture."""
    return verdicts.classes.map(lambda classes: (classes == labels).float().mean().item())
