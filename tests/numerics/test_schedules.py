"""Schedule numbers against values derived by hand or by a second method in float64."""

import math

import pytest
import torch

from mmldm.diffusion.schedules import NoiseProcess, ScheduleConfig, make_scheduler


def test_paper_schedule_has_the_published_values():
    # betas = linspace(sqrt(.00085), sqrt(.012), 1000)^2; values computed independently, in float64.
    expected = {
        0: 0.99915, 100: 0.8942, 200: 0.7537, 300: 0.5905, 400: 0.4245, 500: 0.2763,
        600: 0.1608, 700: 0.0825, 800: 0.0369, 900: 0.01415, 981: 0.00578, 999: 0.00466,
    }  # fmt: skip
    alphas_cumprod = NoiseProcess(ScheduleConfig()).alphas_cumprod
    for t, value in expected.items():
        assert float(alphas_cumprod[t]) == pytest.approx(value, rel=1.5e-3), t


@pytest.mark.parametrize("kind", ["scaled_linear", "linear", "cosine"])
def test_alphas_cumprod_equals_a_float64_product(kind):
    first, last, steps = 0.00085, 0.012, 1000
    if kind == "scaled_linear":
        betas = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2
    elif kind == "linear":
        betas = torch.linspace(first, last, steps, dtype=torch.float64)
    else:
        edge = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
        betas = torch.tensor([min(1 - edge[i + 1] / edge[i], 0.999) for i in range(steps)]).double()
    expected = torch.cumprod(1 - betas, 0)
    actual = NoiseProcess(ScheduleConfig(kind=kind)).alphas_cumprod.double()
    assert torch.allclose(actual, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_ddim_step_equals_the_formula_in_float64(prediction):
    scheduler = make_scheduler(ScheduleConfig(prediction=prediction))
    scheduler.set_timesteps(50)
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(2, 5, generator=generator, dtype=torch.float64)
    output = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    alphas_cumprod = scheduler.alphas_cumprod.double()
    for t, previous in ((999, 979), (19, -1)):
        now = alphas_cumprod[t]
        then = alphas_cumprod[previous] if previous >= 0 else torch.tensor(1.0).double()
        a, s = now.sqrt(), (1 - now).sqrt()
        x0 = {
            "epsilon": (x - s * output) / a,
            "sample": output,
            "v_prediction": a * x - s * output,
        }[prediction]
        expected = then.sqrt() * x0 + (1 - then).sqrt() * (x - a * x0) / s
        actual = scheduler.step(output, t, x, return_dict=False)[0]
        # float32 alphas inside the scheduler bound the agreement; no clamping to [-1, 1] happens.
        assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_zero_terminal_snr_ends_in_pure_noise():
    config = ScheduleConfig(prediction="v_prediction", zero_terminal_snr=True)
    process = NoiseProcess(config)
    assert process.alphas_cumprod[-1] == 0
    assert process.alphas_cumprod[0] == pytest.approx(0.99915, rel=1e-4)
    noise = torch.randn(4, 3)
    t = torch.full((4,), 999)
    assert torch.equal(process.add_noise(torch.randn(4, 3), noise, t), noise)
