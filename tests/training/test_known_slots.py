"""Which slots training rows know: patterns, shares, seconds and noise."""

import pytest
import torch

from mmldm.diffusion.sampling import initial_noise, sample
from mmldm.diffusion.schedules import NoiseProcess, ScheduleConfig, make_scheduler
from mmldm.errors import UserError
from mmldm.models.generator import JointGenerator
from mmldm.pipelines.guidance import generator_denoiser
from mmldm.sections import PATTERNS, GeneratorConfig, KnownSlotsConfig, TrainConfig
from mmldm.training.jobs.generator import GeneratorTurn
from mmldm.training.known_slots import SlotPatterns, shown, unknown_slots
from mmldm.training.randomness import StepRandom
from mmldm.types import AV, NOTHING_KNOWN, Known, Latents

ROWS = 4000
SHAPES = AV((3, 16, 1, 1), (2, 8, 2, 2))


def drawn(shapes: AV = SHAPES, predicted: AV | None = None, **settings) -> AV[torch.Tensor]:
    patterns = SlotPatterns(KnownSlotsConfig(**settings), shapes)
    everything = AV(*torch.ones(2, ROWS, dtype=torch.bool))
    return patterns.draw(StepRandom(0, 0, "test", ROWS), predicted or everything)


def pattern_of(mask: list[bool]) -> str:
    changes = sum(a != b for a, b in zip(mask, mask[1:], strict=False))
    if changes == 1:
        return "prefix" if mask[0] else "suffix"
    assert changes == 2
    return "both_ends" if mask[0] else "run"


def test_share_of_the_rows_knows_something_and_never_all() -> None:
    flags = drawn(share=0.3)
    some = flags.map(lambda f: (f > 0).any(1))
    assert float((some.audio | some.video).float().mean()) == pytest.approx(0.3, abs=0.03)
    assert not any(bool((f > 0).all(1).any()) for f in flags)
    both, one = some.audio & some.video, some.audio ^ some.video
    assert float(both.sum() / one.sum()) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("slots", [3, 4, 16])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_are_what_they_are_called(pattern: str, slots: int) -> None:
    flags = drawn(AV((3, slots, 1, 1), (2, slots, 1, 1)), share=1.0, patterns={pattern: 1.0})
    rows = (flags.audio[flags.audio.sum(1) > 0] > 0).tolist()
    assert len(rows) > ROWS / 2
    assert {pattern_of(row) for row in rows} == {pattern}


def test_of_two_slots_one_is_known() -> None:
    flags = drawn(AV((3, 2, 1, 1), (2, 2, 1, 1)), share=1.0)
    assert set((flags.audio > 0).sum(1).tolist()) == {0, 1}


def test_shares_of_the_patterns_are_the_configured_ones() -> None:
    shares = {"prefix": 0.5, "suffix": 0.2, "both_ends": 0.3}
    audio = drawn(share=1.0, patterns=shares).audio
    found = [pattern_of(row) for row in (audio[audio.sum(1) > 0] > 0).tolist()]
    for name in PATTERNS:
        assert found.count(name) / len(found) == pytest.approx(shares.get(name, 0), abs=0.03)


def test_prefixes_are_of_every_length_up_to_the_longest() -> None:
    audio = drawn(AV(SHAPES.audio, SHAPES.audio), share=1.0, patterns={"prefix": 1}, longest=0.75)
    lengths = (audio.audio > 0).sum(1)
    assert set(lengths[lengths > 0].tolist()) == set(range(1, 13))


def test_runs_are_of_every_length_up_to_the_longest() -> None:
    audio = drawn(AV(SHAPES.audio, SHAPES.audio), share=1.0, patterns={"run": 1}, longest=0.5).audio
    lengths = (audio > 0).sum(1)
    assert set(lengths[lengths > 0].tolist()) == set(range(1, 9))


def test_gaps_are_of_every_length() -> None:
    video = drawn(AV(SHAPES.audio, SHAPES.audio), share=1.0, patterns={"both_ends": 1}).video
    lengths = 16 - (video > 0).sum(1)
    assert set(lengths[lengths < 16].tolist()) == set(range(1, 15))


def test_sound_and_picture_know_the_same_seconds() -> None:
    flags = drawn(share=1.0)
    both = (flags.audio.sum(1) > 0) & (flags.video.sum(1) > 0)
    assert both.any()
    audio, video = (f[both] > 0 for f in flags)
    assert torch.equal(audio, video.repeat_interleave(2, 1))


def test_only_predicted_streams_have_known_slots_and_a_row_of_one_stream_has_them_there() -> None:
    sound = torch.arange(ROWS) % 2 == 0
    flags = drawn(predicted=AV(sound, ~sound), share=1.0)
    assert ((flags.audio > 0).any(1) == sound).all()
    assert ((flags.video > 0).any(1) == ~sound).all()


def test_half_of_the_rows_carry_noise_of_up_to_the_configured_level() -> None:
    audio = drawn(share=1.0, noise=0.2).audio
    sigma = 1 - audio.max(1).values[audio.sum(1) > 0]
    assert float((sigma == 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert 0.19 < float(sigma.max()) <= 0.2
    assert float(sigma[sigma > 0].mean()) == pytest.approx(0.1, abs=0.01)


def test_a_row_knows_the_same_in_any_split_of_the_batch() -> None:
    patterns = SlotPatterns(KnownSlotsConfig(), SHAPES)

    def rows(part: range) -> AV[torch.Tensor]:
        predicted = AV(*torch.ones(2, len(part), dtype=torch.bool))
        return patterns.draw(StepRandom(0, 3, "test", 64, part), predicted)

    whole = rows(range(64))
    parts = AV.zip([rows(range(20)), rows(range(20, 64))]).map(torch.cat)
    assert all(map(torch.equal, whole, parts))


def test_known_values_carry_the_noise_that_is_told_and_given_ones_none() -> None:
    torch.manual_seed(0)
    clean = AV(*(torch.randn(ROWS, *shape) for shape in SHAPES))
    flags = drawn(share=1.0)
    given = AV(flags.audio.sum(1) == 0, torch.zeros(ROWS, dtype=torch.bool))
    values, told = shown(clean, given, flags, clean.map(torch.randn_like))
    assert torch.equal(told.audio[given.audio], torch.ones(int(given.audio.sum()), 16))
    assert torch.equal(values.audio[given.audio], clean.audio[given.audio])
    for value, z, flag, own in zip(values, clean, told, flags, strict=True):
        off = (value - z).square().mean((1, 3, 4)).sqrt()
        assert not off[(flag == 0) | (flag == 1)].any()
        noisy = (flag > 0) & (flag < 1)
        ratio = off.square()[noisy].sum() / (1 - flag[noisy]).square().sum()
        assert float(ratio) == pytest.approx(1, abs=0.05)
        assert torch.equal(unknown_slots(own)[:, 0, :, 0, 0] == 1, own == 0)


def test_measured_patterns_are_a_quarter_known_and_a_half_unknown() -> None:
    flags = SlotPatterns(KnownSlotsConfig(), SHAPES).validated(2, torch.device("cpu"))
    assert flags["prefix"].audio.tolist() == [[1] * 4 + [0] * 12] * 2
    assert flags["retake"].video.tolist() == [[1, 1, 0, 0, 0, 0, 1, 1]] * 2


def test_latents_without_a_time_axis_are_refused() -> None:
    with pytest.raises(UserError, match=r"known_slots: latents without a time axis"):
        SlotPatterns(KnownSlotsConfig(), AV((3, 1, 2, 2), SHAPES.video))


SCHEDULE = ScheduleConfig(kind="cosine", prediction="v_prediction", zero_terminal_snr=True)
WAVE = (2, 8, 1, 1)


def waves(count: int, seed: int) -> AV[torch.Tensor]:
    """A point that circles one way or the other, and its mirror image; the start says all."""
    random = torch.Generator().manual_seed(seed)
    phase, direction = torch.rand(2, count, 1, generator=random)
    angle = 2 * torch.pi * phase + 0.7 * (direction - 0.5).sign() * torch.arange(8)
    point = 1.4 * torch.stack([angle.cos(), angle.sin()], 1)[..., None, None]
    return AV(point.flip(1), point)


@pytest.fixture(scope="module")
def circling() -> JointGenerator:
    """Trained for seconds, by the job's own turn."""
    torch.manual_seed(0)
    generator = JointGenerator(
        WAVE, WAVE, width=64, depth=2, heads=4, adaln="single", null_stream="noise", duration=0.8
    )
    config = GeneratorConfig(
        schedule={},
        model={},
        tasks={"joint": 0.8, "audio_only": 0.1, "video_only": 0.1},
        known_slots=KnownSlotsConfig(share=0.6),
        train=TrainConfig(steps=200, batch_size=32, learning_rate=4e-3),
    )
    turn, job = GeneratorTurn(generator, NoiseProcess(SCHEDULE), config), config.train
    optimizer = torch.optim.AdamW(generator.parameters(), lr=job.learning_rate)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, job.steps)
    rows = job.batch_size
    for step in range(job.steps):
        mean = waves(rows, step)
        present = AV(*torch.ones(2, rows, dtype=torch.bool))
        batch = Latents(mean, mean, present, torch.zeros(rows, dtype=torch.long))
        optimizer.zero_grad()
        turn(batch, StepRandom(0, step, "model", rows))["loss"].backward()
        optimizer.step()
        decay.step()
    return generator.eval()


@pytest.mark.slow
@pytest.mark.parametrize("gap", [range(3, 8), range(5), range(2, 6)], ids=str)
def test_a_generator_told_what_is_known_goes_on_where_replacement_does_not(
    circling: JointGenerator, gap: range
) -> None:
    clean = waves(64, seed=10_000)
    noise = initial_noise(circling.latent_shapes, list(range(64)))
    known = Known.around(clean, AV(gap, gap))

    def error(told: Known, scale: float) -> float:
        """Root mean square in the gap; the same slots are kept, whatever the generator is told."""
        denoise = generator_denoiser(circling, noise, told, None, AV(scale, scale))
        made = sample(denoise, noise, make_scheduler(SCHEDULE), 20, known)
        inside = slice(gap.start, gap.stop)
        off = made.map(lambda x, z: (x - z)[:, :, inside].square().mean(), clean)
        return float((off.audio + off.video).sqrt()) / 2**0.5

    told, replaced = error(known, 1.0), error(NOTHING_KNOWN, 1.0)
    assert told < 0.4
    assert told < 0.5 * replaced
    assert error(known, 2.0) < replaced
