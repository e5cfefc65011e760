import pytest
import torch
from pydantic import ValidationError

from mmldm.diffusion.schedules import (
    SCHEDULER_NAMES,
    NoiseProcess,
    ScheduleConfig,
    make_scheduler,
    schedule_of,
)
from mmldm.errors import UserError

CONFIGS = [
    ScheduleConfig(prediction="epsilon"),
    ScheduleConfig(prediction="sample"),
    ScheduleConfig(prediction="v_prediction"),
    ScheduleConfig(prediction="sample", zero_terminal_snr=True),
    ScheduleConfig(prediction="v_prediction", zero_terminal_snr=True, kind="linear"),
    ScheduleConfig(prediction="v_prediction", kind="cosine"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_target_leads_back_to_the_clean_sample(config):
    process = NoiseProcess(config)
    x0, noise = torch.randn(6, 2, 3), torch.randn(6, 2, 3)
    t = torch.tensor([0, 1, 250, 500, 800, 998])
    xt = process.add_noise(x0, noise, t)
    assert torch.allclose(process.to_x0(process.target(x0, noise, t), xt, t), x0, atol=2e-3)


def test_one_timestep_per_frame_is_broadcast_over_the_rest():
    process = NoiseProcess(ScheduleConfig(prediction="v_prediction"))
    x0, noise = torch.randn(2, 4, 3, 5, 5), torch.randn(2, 4, 3, 5, 5)
    t = torch.randint(0, 1000, (2, 4))
    together = process.add_noise(x0, noise, t), process.target(x0, noise, t)
    for b in range(2):
        for f in range(4):
            alone = x0[b, f], noise[b, f], t[b, f]
            assert torch.equal(together[0][b, f], process.add_noise(*alone))
            assert torch.equal(together[1][b, f], process.target(*alone))


def test_noise_process_equals_the_samplers_own_noising():
    config = ScheduleConfig(prediction="sample")
    x0, noise, t = torch.randn(3, 7), torch.randn(3, 7), torch.tensor([0, 499, 999])
    expected = make_scheduler(config, "ddpm").add_noise(x0, noise, t)
    assert torch.equal(NoiseProcess(config).add_noise(x0, noise, t), expected)


def test_noise_keeps_the_dtype_of_the_sample():
    x0 = torch.randn(2, 3, dtype=torch.bfloat16)
    t = torch.tensor([5, 900])
    process = NoiseProcess(ScheduleConfig(prediction="v_prediction"))
    assert process.add_noise(x0, x0, t).dtype == torch.bfloat16
    assert process.target(x0, x0, t).dtype == torch.bfloat16


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_any_sampler_gives_back_the_schedule_it_was_made_from(config):
    # euler refuses this prediction, see below.
    refused = {"euler"} if config.prediction == "sample" else set()
    for name in set(SCHEDULER_NAMES) - refused:
        assert schedule_of(make_scheduler(config, name)) == config, name


def test_samplers_start_at_the_noisiest_timestep():
    for name in SCHEDULER_NAMES:
        scheduler = make_scheduler(ScheduleConfig(), name)
        scheduler.set_timesteps(20)
        assert scheduler.timesteps[0] == 999


def test_unknown_scheduler_is_answered_with_the_nearest_names():
    with pytest.raises(UserError, match="did you mean dpm"):
        make_scheduler(ScheduleConfig(), "dpm+")


def test_euler_refuses_a_clean_sample_prediction():
    with pytest.raises(UserError, match="use ddim"):
        make_scheduler(ScheduleConfig(prediction="sample"), "euler")


def test_epsilon_with_zero_terminal_snr_is_refused():
    with pytest.raises(ValidationError, match="pure noise"):
        ScheduleConfig(prediction="epsilon", zero_terminal_snr=True)
