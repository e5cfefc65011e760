"""A perfect student lands in one step where its teacher lands in several."""

import pytest
import torch

from mmldm.diffusion.distillation import StepMatching
from mmldm.diffusion.sampling import initial_noise, sample
from mmldm.diffusion.schedules import NoiseProcess, ScheduleConfig, make_scheduler
from mmldm.errors import UserError
from mmldm.types import AV, NOTHING_KNOWN, Known

SHAPES = AV((3, 4, 1, 1), (2, 5, 2, 2))
SCHEDULES = {
    "v, from pure noise": ScheduleConfig(
        kind="cosine", prediction="v_prediction", zero_terminal_snr=True
    ),
    "epsilon": ScheduleConfig(),
    "sample": ScheduleConfig(prediction="sample"),
}


def teacher(x: AV, t: torch.Tensor) -> AV:
    """A real, cross-modal, non-linear denoiser without weights, for t () or (B,)."""
    mixed = AV(x.video.mean((1, 2, 3, 4)), x.audio.mean((1, 2, 3, 4)))
    level = 0.5 + t.reshape(-1, 1, 1, 1, 1) / 2000
    return x.map(lambda own, o: torch.tanh(own + 0.5 * o.view(-1, 1, 1, 1, 1)) * level, mixed)


@pytest.mark.parametrize("config", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("known", [AV(None, None), AV(True, None), AV(None, True)])
@pytest.mark.parametrize("steps", [1, 4])
def test_steps_towards_the_target_end_where_the_teachers_sampler_does(
    config: ScheduleConfig, known: AV, steps: int
) -> None:
    noise, clean = (initial_noise(SHAPES, seeds) for seeds in ([0, 1, 2], [3, 4, 5]))
    given = Known(clean.map(lambda z, is_given: z if is_given else None, known))
    matching = StepMatching(NoiseProcess(config), steps, teacher_steps=8)
    students = config.model_copy(update={"prediction": "sample"})

    def student(x: AV, t: torch.Tensor) -> AV:
        step = (matching.stops[:, 0] == t).nonzero()[0].expand(3)
        return matching.target(teacher, x, step, given, noise)

    wanted = sample(teacher, noise, make_scheduler(config), 8, given)
    reached = sample(student, noise, make_scheduler(students), steps, given)
    for a, b in zip(reached, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3)


def test_known_slots_are_the_samplers_on_the_way_too() -> None:
    config = SCHEDULES["v, from pure noise"]
    noise, clean = (initial_noise(SHAPES, seeds) for seeds in ([0, 1, 2], [3, 4, 5]))
    known = Known.around(clean, AV(range(1, 3), range(2, 5)))
    matching = StepMatching(NoiseProcess(config), 1, teacher_steps=8)
    one_step = config.model_copy(update={"prediction": "sample"})

    def student(x: AV, t: torch.Tensor) -> AV:
        return matching.target(teacher, x, torch.zeros(3, dtype=torch.long), known, noise)

    wanted = sample(teacher, noise, make_scheduler(config), 8, known)
    reached = sample(student, noise, make_scheduler(one_step), 1, known)
    for a, b in zip(reached, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3)


def test_error_counts_what_has_weight() -> None:
    matching = StepMatching(NoiseProcess(SCHEDULES["sample"]), 4, 4)
    a, b = initial_noise(AV(SHAPES.audio, SHAPES.audio), [0, 1])
    weights = torch.zeros(2, 1, 4, 1, 1)
    weights[0, :, 1], weights[1, :, 2:] = 1, 1
    step = torch.tensor([0, 3])
    error = matching.error(a, b, step, weights)
    parts = [matching.error(a[:, :, s], b[:, :, s], step) for s in (slice(1, 2), slice(2, 4))]
    assert torch.allclose(error, torch.stack([parts[0][0], parts[1][1]]))


def test_rows_at_different_steps_do_not_mix() -> None:
    matching = StepMatching(NoiseProcess(SCHEDULES["epsilon"]), 4, 8)
    noise, clean = (initial_noise(SHAPES, seeds) for seeds in ([0, 1], [2, 3]))
    step = torch.tensor([3, 1])

    def targets(rows: slice) -> AV:
        own = [x.map(lambda x: x[rows]) for x in (clean, noise)]
        state = matching.start(own[0], own[1], step[rows])
        return matching.target(teacher, state, step[rows], NOTHING_KNOWN, own[1])

    together, alone = targets(slice(2)), targets(slice(1, 2))
    assert all(torch.allclose(a[1:], b, atol=1e-6) for a, b in zip(together, alone, strict=True))


def test_first_step_starts_from_noise_alone_as_sampling_does() -> None:
    matching = StepMatching(NoiseProcess(SCHEDULES["epsilon"]), 4, 8)
    noise, clean = (initial_noise(SHAPES, seeds) for seeds in ([0, 1], [2, 3]))
    state = matching.start(clean, noise, torch.tensor([0, 1]))
    for x, n, z in zip(state, noise, clean, strict=True):
        assert torch.equal(x[0], n[0])
        wanted = matching.process.add_noise(z[1:], n[1:], torch.tensor([749]))
        assert torch.equal(x[1:], wanted)


def test_error_is_that_of_v() -> None:
    process = NoiseProcess(SCHEDULES["v, from pure noise"])
    matching = StepMatching(process, 4, 4)
    a, b, x = torch.randn(3, 4, 3, 2, generator=torch.Generator().manual_seed(0))
    step = torch.arange(4)
    t = matching.timesteps(step)
    error = matching.error(process.to_x0(a, x, t), process.to_x0(b, x, t), step)
    assert torch.allclose(error, (a - b).square().mean((1, 2)), rtol=1e-4)


@pytest.mark.parametrize(("steps", "teacher_steps"), [(3, 9), (4, 6), (8, 2000)])
def test_steps_that_do_not_fit_are_refused(steps: int, teacher_steps: int) -> None:
    with pytest.raises(UserError, match="divides 1000 timesteps"):
        StepMatching(NoiseProcess(ScheduleConfig()), steps, teacher_steps)
