"""Noise schedules (MM-LDM §3.2, Eq. 4-5): one place that builds them, for the loss and for every sampler.

ScheduleConfig -> scheduler; clean and noise (B,...), t -> noisy, target, clean estimate (B,...). Eq. 5 is
taken with the square root on 1 - alpha_bar that it lacks as printed.
"""

from __future__ import annotations

import difflib
from typing import Literal

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from mmldm.errors import UserError

# The defaults of several classes clamp latents to [-1, 1] (clip_sample) or stop short of t = 0:
# every setting that changes a number is therefore written here.
_SCHEDULERS: dict[str, tuple[type[SchedulerMixin], dict[str, object]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": True, "steps_offset": 0}),
    "ddpm": (DDPMScheduler, {"clip_sample": False, "variance_type": "fixed_small"}),
    "dpm++": (
        DPMSolverMultistepScheduler,
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"},
    ),
    "unipc": (
        UniPCMultistepScheduler,
        {"solver_order": 2, "solver_type": "bh2", "final_sigmas_type": "zero"},
    ),
    "euler": (EulerDiscreteScheduler, {"final_sigmas_type": "zero"}),
}
_BETA_SCHEDULES = {
    "scaled_linear": "scaled_linear",
    "linear": "linear",
    "cosine": "squaredcos_cap_v2",
}
SCHEDULER_NAMES = tuple(_SCHEDULERS)
SCHEDULER_CLASSES = {made.__name__: made for made, _ in _SCHEDULERS.values()}
"""Classes of schedulers by the names that model folders state."""
MOST_TIMESTEPS = 100_000
"""Of training; tables and loops of a scheduler are as long."""


class ScheduleConfig(BaseModel):
    """The forward process and what the network predicts; the default is the paper's (LDM's).

    `scaled_linear` is linear in sqrt(beta), which LDM calls "linear". `zero_terminal_snr` rescales
    the betas so that the last timestep is pure noise, which is what sampling starts from; sampling
    in one step needs it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["scaled_linear", "linear", "cosine"] = "scaled_linear"
    beta_start: float = Field(0.00085, gt=0, lt=1)
    beta_end: float = Field(0.012, gt=0, lt=1)
    num_train_timesteps: int = Field(1000, gt=1, le=MOST_TIMESTEPS)
    prediction: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    zero_terminal_snr: bool = False

    @model_validator(mode="after")
    def _check(self) -> ScheduleConfig:
        if self.prediction == "epsilon" and self.zero_terminal_snr:
            raise ValueError(
                "zero_terminal_snr needs prediction 'sample' or 'v_prediction': the last timestep "
                "is pure noise, where predicting epsilon says nothing about the clean sample"
            )
        return self


def make_scheduler(config: ScheduleConfig, name: str = "ddim") -> SchedulerMixin:
    """Builds the diffusers scheduler `name` (one of `SCHEDULER_NAMES`) for this forward process.

    Timesteps are spaced "trailing", so every sampler starts at t = T - 1, the noisiest one trained.

    Raises:
        UserError: The name is unknown, or the scheduler cannot run this prediction or schedule.
    """
    if name not in _SCHEDULERS:
        near = difflib.get_close_matches(name, SCHEDULER_NAMES, n=2, cutoff=0.4) or SCHEDULER_NAMES
        raise UserError(
            f"unknown scheduler {name!r}: did you mean {' or '.join(near)}? "
            f"Known: {', '.join(SCHEDULER_NAMES)}"
        )
    if name == "euler" and config.prediction == "sample":
        raise UserError(
            "scheduler 'euler' cannot run a model that predicts the clean sample: "
            "use ddim, dpm++ or unipc"
        )
    scheduler_class, settings = _SCHEDULERS[name]
    return scheduler_class(
        num_train_timesteps=config.num_train_timesteps,
        beta_schedule=_BETA_SCHEDULES[config.kind],
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        prediction_type=config.prediction,
        rescale_betas_zero_snr=config.zero_terminal_snr,
        timestep_spacing="trailing",
        **settings,
    )


def schedule_of(scheduler: SchedulerMixin) -> ScheduleConfig:
    """The forward process of a loaded scheduler, so that another sampler can take its place."""
    # Only what is part of the forward process: the rest is the sampler's own.
    config = scheduler.config
    kinds = {value: key for key, value in _BETA_SCHEDULES.items()}
    return ScheduleConfig.model_validate(
        {
            "kind": kinds[config.beta_schedule],
            "beta_start": config.beta_start,
            "beta_end": config.beta_end,
            "num_train_timesteps": config.num_train_timesteps,
            "prediction": config.prediction_type,
            "zero_terminal_snr": config.rescale_betas_zero_snr,
        }
    )


class NoiseProcess:
    """The forward process in closed form: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise (Eq. 5).

    In every method `t` is a LongTensor whose shape is the leading dimensions of the samples, for
    example (B,) or (B, T), and is broadcast over the rest.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        # The scheduler's own values: the loss and the sampler see the same bits.
        self.alphas_cumprod: Tensor = make_scheduler(config).alphas_cumprod
        self.num_timesteps = config.num_train_timesteps

    def to(self, device: torch.device | str) -> NoiseProcess:
        """Moves the schedule to the samples' device, in place."""
        self.alphas_cumprod = self.alphas_cumprod.to(device)
        return self

    def _coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t), shaped to be broadcast over `like` (*t.shape,...)."""
        signal_power = self.alphas_cumprod[t].reshape(t.shape + (1,) * (like.ndim - t.ndim))
        return signal_power.sqrt().to(like.dtype), (1 - signal_power).sqrt().to(like.dtype)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (B,...) for clean `x0` (B,...) and `noise` (B,...), Eq. 5."""
        signal, sigma = self._coefficients(t, x0)
        return signal * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network learns, (B,...): noise, x0, or v = sqrt(abar) noise - sqrt(1 - abar) x0."""
        if self.config.prediction == "epsilon":
            return noise
        if self.config.prediction == "sample":
            return x0
        signal, sigma = self._coefficients(t, x0)
        return signal * noise - sigma * x0

    def to_x0(self, prediction: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """The one-step estimate (B,...) of the clean sample.

        From epsilon it divides by sqrt(abar), which magnifies the network's error at high noise
        (x 15 at the last timestep of the default schedule).
        """
        if self.config.prediction == "sample":
            return prediction
        signal, sigma = self._coefficients(t, xt)
        if self.config.prediction == "epsilon":
            return (xt - sigma * prediction) / signal
        return signal * xt - sigma * prediction
