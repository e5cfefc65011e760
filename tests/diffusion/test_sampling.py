import copy

import pytest
import torch

from mmldm.diffusion.sampling import initial_noise, pack, sample, unpack
from mmldm.diffusion.schedules import SCHEDULER_NAMES, NoiseProcess, ScheduleConfig, make_scheduler
from mmldm.errors import UserError
from mmldm.types import AV, NOTHING_KNOWN, Known

SHAPES = AV((3, 4, 1, 1), (2, 5, 2, 2))
V_PREDICTION = ScheduleConfig(prediction="v_prediction")


def network(x: AV, t: torch.Tensor) -> AV:
    """A real, cross-modal, non-linear denoiser without weights."""
    mixed = AV(x.video.mean((1, 2, 3, 4)), x.audio.mean((1, 2, 3, 4)))
    other = mixed.map(lambda m: m.reshape(-1, 1, 1, 1, 1))
    return x.map(lambda own, o: torch.tanh(own + 0.5 * o) * (0.5 + t / 2000), other)


def own_stream_only(x: AV, t: torch.Tensor) -> AV:
    return x.map(lambda own: torch.tanh(own) * (0.5 + t / 2000))


def equal(a: AV, b: AV) -> bool:
    return torch.equal(a.audio, b.audio) and torch.equal(a.video, b.video)


def test_pack_and_unpack_are_inverse():
    pair = initial_noise(SHAPES, [0, 1])
    packed = pack(pair)
    assert packed.shape == (2, 3 * 4 + 2 * 5 * 4)
    assert equal(unpack(packed, like=pair), pair)


def test_noise_of_a_clip_depends_on_its_own_seed_only():
    together = initial_noise(SHAPES, [3, 1, 2])
    assert equal(together.map(lambda x: x[1:]), initial_noise(SHAPES, [1, 2]))
    assert not torch.equal(together.audio[0], together.audio[1])


def test_noise_from_a_generator_equals_noise_from_its_seed():
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    assert equal(initial_noise(SHAPES, generators), initial_noise(SHAPES, [7, 8]))
    assert not equal(initial_noise(SHAPES, generators), initial_noise(SHAPES, [7, 8]))


@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc"])
def test_one_packed_scheduler_equals_one_scheduler_per_modality_bit_for_bit(name):
    noise = initial_noise(SHAPES, [0, 1, 2])
    scheduler = make_scheduler(V_PREDICTION, name)
    separate = AV(copy.deepcopy(scheduler), copy.deepcopy(scheduler))
    for one in separate:
        one.set_timesteps(10)
    x = noise
    for t in separate.audio.timesteps:
        prediction = network(x, t)
        x = AV(*(s.step(p, t, v)[0] for s, p, v in zip(separate, prediction, x, strict=True)))
    assert equal(sample(network, noise, scheduler, 10), x)


@pytest.mark.parametrize("name", SCHEDULER_NAMES)
@pytest.mark.parametrize("known", ["audio", "video"])
def test_given_modality_comes_back_bit_for_bit(name, known):
    noise = initial_noise(SHAPES, [0, 1])
    clean = initial_noise(SHAPES, [10, 11])
    given = Known(AV(None, None)._replace(**{known: getattr(clean, known)}))
    generators = [torch.Generator().manual_seed(s) for s in (0, 1)]
    result = sample(network, noise, make_scheduler(V_PREDICTION, name), 10, given, generators)
    assert torch.equal(getattr(result, known), getattr(clean, known))
    free = next(m for m in AV._fields if m != known)
    assert getattr(result, free).isfinite().all()
    generators = [torch.Generator().manual_seed(s) for s in (0, 1)]
    without = sample(network, noise, make_scheduler(V_PREDICTION, name), 10, generator=generators)
    assert not torch.equal(getattr(result, free), getattr(without, free))


@pytest.mark.parametrize("name", SCHEDULER_NAMES)
def test_network_sees_the_given_modality_noised_as_in_training(name):
    noise = initial_noise(SHAPES, [0, 1])
    clean = initial_noise(SHAPES, [10, 11])
    process, seen = NoiseProcess(V_PREDICTION), []

    def recording(x: AV, t: torch.Tensor) -> AV:
        expected = process.add_noise(clean.audio, noise.audio, t.expand(2))
        seen.append(float((x.audio - expected).abs().max()))
        return network(x, t)

    sample(recording, noise, make_scheduler(V_PREDICTION, name), 5, Known(AV(clean.audio, None)))
    assert len(seen) == 5
    assert max(seen) < 1e-5


def some_slots(clean: AV) -> Known:
    """Of each clip other slots; what lies elsewhere is no number."""
    random = torch.Generator().manual_seed(5)
    mask = clean.map(lambda z: torch.rand(z.shape[0], z.shape[2], generator=random) < 0.5)
    known = Known(clean, mask)
    holes = known.slots.map(lambda slots, z: torch.where(slots, z, float("nan")), clean)
    return Known(holes, mask)


@pytest.mark.parametrize("name", SCHEDULER_NAMES)
def test_known_slots_come_back_bit_for_bit_and_the_others_are_sampled(name):
    noise, clean = (initial_noise(SHAPES, seeds) for seeds in ([0, 1], [10, 11]))
    known = some_slots(clean)
    generators = [torch.Generator().manual_seed(s) for s in (0, 1)]
    result = sample(network, noise, make_scheduler(V_PREDICTION, name), 10, known, generators)
    generators = [torch.Generator().manual_seed(s) for s in (0, 1)]
    free = sample(network, noise, make_scheduler(V_PREDICTION, name), 10, generator=generators)
    for x, z, slots, without in zip(result, clean, known.slots, free, strict=True):
        assert 0 < slots.sum() < slots.numel()
        assert torch.equal(x[slots.expand_as(x)], z[slots.expand_as(z)])
        unknown = ~slots.expand_as(x)
        assert x.isfinite().all()
        assert not torch.equal(x[unknown], without[unknown])


@pytest.mark.parametrize("name", SCHEDULER_NAMES)
def test_network_sees_known_slots_noised_and_the_others_as_the_sampler_left_them(name):
    noise, clean = (initial_noise(SHAPES, seeds) for seeds in ([0, 1], [10, 11]))
    process, known = NoiseProcess(V_PREDICTION), some_slots(clean)
    wrong: list[float] = []
    left: list[AV] = []

    def recording(x: AV, t: torch.Tensor) -> AV:
        for own, z, n, slots, before in zip(x, clean, noise, known.slots, left[-1], strict=True):
            expected = torch.where(slots, process.add_noise(z, n, t.expand(2)), before)
            wrong.append(float((own - expected).abs().max()))
        return network(x, t)

    def leave(step: int, t: torch.Tensor, x: AV) -> None:
        left.append(scaled(x, step + 1))

    scheduler = make_scheduler(V_PREDICTION, name)
    scheduler.set_timesteps(5)

    def scaled(x: AV, step: int) -> AV:
        """As the network sees it: one of the schedulers counts in another unit."""
        if name != "euler" or step == 5:
            return x
        return x.map(lambda v: v / (scheduler.sigmas[step] ** 2 + 1).sqrt())

    left.append(scaled(noise.map(lambda n: n * scheduler.init_noise_sigma), 0))
    sample(recording, noise, scheduler, 5, known, callback=leave)
    assert len(wrong) == 10
    assert max(wrong) < 1e-5


def test_all_slots_known_is_the_modality_known_and_no_slot_is_nothing_known():
    noise, clean = (initial_noise(SHAPES, seeds) for seeds in ([0, 1], [10, 11]))
    every = clean.map(lambda z: torch.ones(2, z.shape[2], dtype=torch.bool))
    none = every.map(torch.logical_not)
    scheduler = make_scheduler(V_PREDICTION)
    for mask, wanted in (
        (AV(every.audio, none.video), Known(AV(clean.audio, None))),
        (none, NOTHING_KNOWN),
    ):
        masked = sample(network, noise, scheduler, 5, Known(clean, mask))
        assert equal(masked, sample(network, noise, scheduler, 5, wanted))


def test_known_prefixes_and_gaps():
    clean = initial_noise(SHAPES, [0, 1])
    prefix = Known.prefix(clean, AV(1, 3))
    assert prefix.mask.map(torch.Tensor.tolist) == AV(
        [[True] + 3 * [False]] * 2, [[True] * 3 + 2 * [False]] * 2
    )
    around = Known.around(clean._replace(audio=None), AV(range(1, 3), range(1, 3)))
    assert around.mask.audio is None
    assert around.mask.video.tolist() == [[True, False, False, True, True]] * 2
    assert around.whole == AV(False, False)
    assert Known(clean._replace(video=None)).whole == AV(True, False)


def test_slots_of_latents_without_a_time_axis_or_beyond_it_are_refused():
    clean = initial_noise(AV((3, 1, 2, 2), (2, 5, 2, 2)), [0])
    with pytest.raises(UserError, match="no time axis"):
        Known.prefix(clean, AV(1, 1))
    with pytest.raises(UserError, match="slots 2 to 6 do not lie in a latent of 5"):
        Known.around(clean._replace(audio=None), AV(range(0), range(2, 6)))


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm++", "unipc"])
@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
def test_one_step_from_pure_noise_returns_the_networks_clean_estimate(name, prediction):
    config = ScheduleConfig(prediction=prediction, zero_terminal_snr=True)
    noise = initial_noise(SHAPES, [0])
    result = sample(network, noise, make_scheduler(config, name), 1)
    estimate = network(noise, torch.tensor(999))
    sign = -1 if prediction == "v_prediction" else 1
    # dpm++ and unipc keep 2^-24 of signal at the last timestep, hence not bit for bit.
    expected = estimate.map(lambda e: sign * e)
    for a, b in zip(result, expected, strict=True):
        assert torch.allclose(a, b, atol=2e-3)


@pytest.mark.parametrize("name", SCHEDULER_NAMES)
def test_an_oracle_network_is_followed_to_its_clean_sample(name):
    config = ScheduleConfig(prediction="v_prediction", zero_terminal_snr=True)
    process, clean = NoiseProcess(config), initial_noise(SHAPES, [10, 11])

    def oracle(x: AV, t: torch.Tensor) -> AV:
        signal = process.alphas_cumprod[t].sqrt()
        sigma = (1 - process.alphas_cumprod[t]).sqrt()
        noise = x.map(lambda xt, x0: (xt - signal * x0) / sigma, clean)
        return noise.map(lambda n, x0: signal * n - sigma * x0, clean)

    generators = [torch.Generator().manual_seed(s) for s in (0, 1)]
    noise = initial_noise(SHAPES, [0, 1])
    result = sample(oracle, noise, make_scheduler(config, name), 25, generator=generators)
    for a, b in zip(result, clean, strict=True):
        assert torch.allclose(a, b, atol=0.02)


@pytest.mark.parametrize("name", SCHEDULER_NAMES)
def test_a_clip_is_the_same_in_any_batch_split(name):
    def run(seeds: list[int]) -> AV:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = initial_noise(SHAPES, generators)
        return sample(network, noise, make_scheduler(V_PREDICTION, name), 6, generator=generators)

    together = run([0, 1, 2])
    assert torch.allclose(together.video[2], run([2]).video[0], atol=1e-6)
    assert torch.allclose(together.audio[:2], run([0, 1]).audio, atol=1e-6)


def test_callback_sees_every_step_and_may_replace_the_sample():
    noise, seen = initial_noise(SHAPES, [0]), []

    def halve(step: int, t: torch.Tensor, x: AV) -> AV:
        seen.append((step, int(t)))
        return x.map(lambda v: v / 2)

    scheduler = make_scheduler(V_PREDICTION)
    halved = sample(own_stream_only, noise, scheduler, 4, callback=halve)
    assert seen == [(0, 999), (1, 749), (2, 499), (3, 249)]
    assert not equal(halved, sample(own_stream_only, noise, scheduler, 4))


@pytest.mark.parametrize("steps", [0, 61, 1001])
def test_step_counts_that_cannot_be_spaced_are_refused(steps):
    with pytest.raises(UserError, match="steps"):
        sample(network, initial_noise(SHAPES, [0]), make_scheduler(V_PREDICTION), steps)
