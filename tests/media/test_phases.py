"""Sound that comes in pieces: finished samples stay, and joins are as quiet as anywhere."""

import pytest
import torch

from mmldm.media.phases import PhaseStream
from mmldm.media.spectrogram import AudioImage
from mmldm.types import ClipSpec, SpectrogramSpec
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip

SPEC = ClipSpec(spectrogram=SpectrogramSpec(n_fft=512, hop_length=100, num_mels=128))
LONG = SPEC.model_copy(update={"num_frames": 64})
HOP = SPEC.spectrogram.hop_length
ITERATIONS = 8


@pytest.fixture(scope="module")
def sound() -> torch.Tensor:
    """Impacts, (3, 102400)."""
    config = ImpactsConfig(seed=7, spec=SPEC)
    rows = [[render_clip(config, 4 * i + j).clip.waveform for j in range(4)] for i in range(3)]
    return torch.stack([torch.cat(row) for row in rows])


@pytest.fixture(scope="module")
def mel(sound: torch.Tensor) -> torch.Tensor:
    return AudioImage(LONG).mel(sound)


def pieces(mel: torch.Tensor, size: int) -> list[torch.Tensor]:
    stream, columns = PhaseStream(AudioImage(SPEC), ITERATIONS), mel.shape[-1]
    return [
        stream.add(mel[..., i : i + size], last=i + size >= columns)
        for i in range(0, columns, size)
    ]


def steps(waveforms: torch.Tensor, joins: list[int], reach: int = 8000) -> torch.Tensor:
    """Steps at joins over the local 99th percentile of all steps, where there is a sound."""
    sizes = waveforms.diff(dim=1).abs()
    return torch.tensor([
        (row[join - 1] / row[max(0, join - reach) : join + reach].quantile(0.99)).item()
        for row in sizes for join in joins
    ])  # fmt: skip


def distance(waveforms: torch.Tensor, sound: torch.Tensor) -> float:
    image = AudioImage(LONG)
    return float((image.decibels(waveforms) - image.decibels(sound)).abs().mean())


def test_one_piece_is_what_the_audio_image_makes(sound: torch.Tensor) -> None:
    whole, image = AudioImage(SPEC), AudioImage(SPEC).image(sound[:, : SPEC.num_samples])
    made = PhaseStream(whole, ITERATIONS).add(whole.mel_from_image(image), last=True)
    assert torch.equal(made, whole.waveform(image, ITERATIONS))


def test_pieces_are_one_sound_without_steps(sound: torch.Tensor, mel: torch.Tensor) -> None:
    parts = pieces(mel, 192)
    made = torch.cat(parts, dim=1)
    assert made.shape == sound.shape
    joins = torch.tensor([part.shape[1] for part in parts[:-1]]).cumsum(0).tolist()
    apart = torch.cat([
        PhaseStream(AudioImage(SPEC), ITERATIONS).add(mel[..., i : i + 192], last=True)
        for i in range(0, mel.shape[-1], 192)
    ], dim=1)  # fmt: skip
    # As the whole in one piece; windows of their own leave clicks.
    whole = PhaseStream(AudioImage(SPEC), ITERATIONS).add(mel, last=True)
    assert distance(made, sound) < distance(whole, sound) + 0.02
    at_ends = [i * HOP for i in range(192, mel.shape[-1], 192)]
    assert steps(made, joins).mean() < 2 * steps(sound, joins).mean() + 0.05
    assert steps(apart, at_ends).mean() > 4 * steps(made, joins).mean()


def test_finished_samples_do_not_depend_on_what_comes(mel: torch.Tensor) -> None:
    other = mel.clone()
    other[..., 384:] = mel[..., 384:].flip(-1)
    first, second = pieces(mel, 192), pieces(other, 192)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[2], second[2])


def test_gaps_join_the_known_sound_on_both_sides(sound: torch.Tensor, mel: torch.Tensor) -> None:
    joins, joined, alone = [], sound.clone(), sound.clone()
    for begin in range(90, mel.shape[-1] - 90, 96):
        end = begin + 48
        gap = slice(begin * HOP, end * HOP)
        before, after = sound[:, : gap.start], sound[:, gap.stop :]
        stream = PhaseStream(AudioImage(SPEC), ITERATIONS, before, mel[..., begin - 16 : begin])
        trail = mel[..., end : end + 16]
        joined[:, gap] = stream.add(mel[..., begin:end], last=True, after=after, trail=trail)
        own = PhaseStream(AudioImage(SPEC), ITERATIONS)
        alone[:, gap] = own.add(mel[..., begin:end], last=True)
        joins += [gap.start, gap.stop]
    assert len(joins) == 18
    real, ours, cut = (steps(x, joins).mean() for x in (sound, joined, alone))
    assert ours < real + 0.1
    assert cut > 2 * ours
    assert distance(joined, sound) < distance(alone, sound)
