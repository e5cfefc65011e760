"""AudioCLIP: the features of sound that MM-Diffusion's "FAD" is made from.

waveform (S,) -> 44.1 kHz -> levels (1,3,341,L) in dB -> features (1,1024) of the whole clip

The network is ESResNeXt-fbsp: a ResNeXt-50 with a gate on each stage, which sees the spectrum of a learned
transform as a picture. Source: Guzhov et al., "AudioCLIP: extending CLIP to image, text and audio", ICASSP
2022, and "ESResNe(X)t-fbsp", IJCNN 2021; Xie et al., "Aggregated residual transformations for deep neural
networks", CVPR 2017. Names and shapes of tensors are those of AndreyGuzhov/AudioCLIP.

The evaluator of Ruan et al., "MM-Diffusion", CVPR 2023, takes the embedding as it is, not scaled to length 1.
Ours differs from it as docs/evaluation.md says: trained statistics in the batch norms, 16-bit levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmldm.evaluation.extractors.extractor import FileExtractor
from mmldm.evaluation.extractors.layers import FrozenNorm
from mmldm.evaluation.extractors.weights_file import WeightsFile
from mmldm.media.clip import Clip
from mmldm.media.resampling import resample

SAMPLE_RATE = 44_100
FFT, WINDOW, HOP = 2048, 1654, 561
"""Samples of a frame, of what is heard in its middle, and from one to the next."""
BINS = FFT // 2 + 1
COLOURS = 3
"""Thirds of the spectrum, lowest first; with the last two bins left out they are equal."""
LEAST_POWER = 1e-18
"""What no power at all counts as: -180 dB."""
EPSILON = 1e-8

DEPTHS = (3, 4, 6, 3)
"""Blocks of each stage."""
PLANES = (64, 128, 256, 512)
EXPANSION = 4
"""Channels after a stage over its planes."""
GROUPS = 32
GATES = ((3, 1), (1, 5), (3, 1), (1, 5), (3, 5))
"""Kernels over frequency and time; the last gate is on what is pooled."""
FEATURES = 1024

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


class FrequencyBSplines(nn.Module):
    """The transform: wavelets (frequency B-splines) with learnt numbers in place of Fourier's waves."""

    m: Tensor
    fb: Tensor
    fc: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Order, bandwidth and centre of each bin's wavelet.
        for name in ("m", "fb", "fc"):
            self.register_buffer(name, torch.ones(BINS))

    @cached_property
    def wavelets(self) -> Tensor:
        """Real and imaginary parts (2,2048,1025), made once, from the numbers loaded before.

        They are sqrt(fb / 2048) sinc(fb t / m)^m exp(-i fc t), with t from -pi to pi.
        """
        time = math.pi * torch.linspace(-1, 1, FFT, device=self.m.device) + EPSILON
        order, width, centre = self.m[:, None], self.fb[:, None], self.fc[:, None]
        # torch's sinc has a pi of its own.
        lobes = torch.sinc(width * time / (order + EPSILON) / math.pi)
        # The power of a negative number, to a fraction, is complex.
        envelope = torch.polar(lobes.abs() ** order, math.pi * order * (lobes < 0))
        waves = torch.polar(torch.ones_like(lobes), -centre * time)
        wavelets = (width / FFT).sqrt() * envelope * waves
        return torch.stack([wavelets.real.T, wavelets.imag.T])

    def forward(self, frames: Tensor) -> Tensor:
        """Powers (B,L,1025) of frames (B,L,2048)."""
        real, imaginary = self.wavelets
        return (frames @ real).square() + (frames @ imaginary).square()


class StageGate(nn.Module):
    """Shares in [0,1] of a stage's output, made from its input."""

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        padding = kernel[0] // 2, kernel[1] // 2
        self.conv_depth = nn.Conv2d(
            in_channels, in_channels, kernel, padding=padding, groups=in_channels
        )
        self.conv_point = nn.Conv2d(in_channels, out_channels, 1)
        self.bn = FrozenNorm(out_channels)

    def forward(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Shares (B,C',*size) from maps (B,C,H,W)."""
        pooled = F.adaptive_max_pool2d(maps, size)
        return self.bn(self.conv_point(self.conv_depth(pooled))).sigmoid()


class Bottleneck(nn.Module):
    """1x1, 3x3 in 32 groups, 1x1, beside the identity or a 1x1 in its place."""

    def __init__(self, in_channels: int, planes: int, stride: int) -> None:
        super().__init__()
        width, wide = 2 * planes, EXPANSION * planes
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = FrozenNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=GROUPS, bias=False)
        self.bn2 = FrozenNorm(width)
        self.conv3 = nn.Conv2d(width, wide, 1, bias=False)
        self.bn3 = FrozenNorm(wide)
        self.downsample: nn.Module = nn.Identity()
        if in_channels != wide:
            projection = nn.Conv2d(in_channels, wide, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, FrozenNorm(wide))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B,4P,H/s,W/s) of maps (B,C,H,W), with P planes and stride s."""
        inner = F.relu(self.bn1(self.conv1(maps)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        return F.relu(self.bn3(self.conv3(inner)) + self.downsample(maps))


class ESResNeXt(nn.Module):
    """The network, its parts named as in its files."""

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fbsp = FrequencyBSplines()
        self.register_buffer("window", torch.ones(WINDOW))
        channels = PLANES[0]
        self.conv1 = nn.Conv2d(COLOURS, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = FrozenNorm(channels)
        for number, (depth, planes) in enumerate(zip(DEPTHS, PLANES, strict=True), start=1):
            wide = EXPANSION * planes
            first = Bottleneck(channels, planes, stride=1 if number == 1 else 2)
            others = [Bottleneck(wide, planes, stride=1) for _ in range(depth - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *others))
            self.add_module(f"att{number}", StageGate(channels, wide, GATES[number - 1]))
            channels = wide
        self.att5 = StageGate(channels, channels, GATES[-1])
        self.fc = nn.Linear(channels, FEATURES)

    def levels(self, waveforms: Tensor) -> Tensor:
        """Levels (B,3,341,L) in dB of waveforms (B,S) in [-1,1], S >= 1."""
        # As many frames as cover the sound, which stands in their middle.
        count = 1 + max(0, math.ceil((waveforms.shape[1] - WINDOW) / HOP))
        missing = (count - 1) * HOP + WINDOW - waveforms.shape[1]
        # Learnt on 16-bit numbers, of which the least, -32768, is taken for -1 and the greatest for 1.
        sound = (32768 * waveforms + 32768) * 2 / 65535 - 1
        padded = F.pad(sound, (missing // 2, missing - missing // 2))
        around = (FFT - WINDOW) // 2
        frames = F.pad(padded.unfold(1, WINDOW, HOP) * self.window, (around, around))
        # Three parts of the spectrum take the place of a picture's three colours.
        third = BINS // COLOURS
        power = self.fbsp(frames).mT[:, : COLOURS * third].unflatten(1, (COLOURS, third))
        return 10 * torch.where(power > 0, power, LEAST_POWER).log10()

    def forward(self, waveforms: Tensor) -> Tensor:
        """Features (B,1024) of waveforms (B,S) in [-1,1] at 44.1 kHz."""
        maps = F.relu(self.bn1(self.conv1(self.levels(waveforms))))
        maps = F.max_pool2d(maps, 3, stride=2, padding=1)
        for number in range(1, len(DEPTHS) + 1):
            layer, gate = (self.get_submodule(f"{part}{number}") for part in ("layer", "att"))
            wider = layer(maps)
            maps = wider * gate(maps, wider.shape[-2:])
        pooled = maps.mean((2, 3), keepdim=True) * self.att5(maps, (1, 1))
        return self.fc(pooled.flatten(1))


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
