"""The reverse process for two modalities at once (MM-LDM Eq. 6), with any scheduler.

noise AV((B,...)) -> sample AV((B,...)). §3.2 and, for what is known, §3.3.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from mmldm.errors import UserError
from mmldm.types import AV, NOTHING_KNOWN, Known

Denoiser = Callable[[AV[Tensor], Tensor], AV[Tensor]]
"""(sample AV((B,...)), t 0-d or (B,) long, on any device) -> the network's prediction AV((B,...))."""


def pack(pair: AV[Tensor]) -> Tensor:
    """AV((B, ...), (B, ...)) -> (B, M): both modalities of a clip in one row."""
    return torch.cat([x.flatten(1) for x in pair], dim=1)


def unpack(packed: Tensor, like: AV[Tensor]) -> AV[Tensor]:
    """The inverse of `pack`: (B, M) -> tensors of the shapes of `like`."""
    parts = packed.split([x[0].numel() for x in like], dim=1)
    return AV(*parts).map(lambda part, x: part.reshape(x.shape), like)


def initial_noise(
    shapes: AV[tuple[int, ...]],
    seeds: Sequence[int | torch.Generator],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> AV[Tensor]:
    """Noise in which a clip depends on its own seed only, so that any batch split gives equal
    clips.

    Args:
        shapes: Shape of one clip per modality, without the batch dimension.
        seeds: One seed or CPU generator per clip; a generator is advanced, audio drawn first.

    Returns:
        AV((B, *shapes.audio), (B, *shapes.video)); drawn in float32 on the CPU for any device.
    """
    generators = [
        seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        for seed in seeds
    ]
    drawn = [
        AV(torch.randn(shapes.audio, generator=g), torch.randn(shapes.video, generator=g))
        for g in generators
    ]
    return AV.zip(drawn).map(lambda clips: torch.stack(clips).to(device, dtype))


def _set_timesteps(scheduler: SchedulerMixin, steps: int) -> None:
    longest = scheduler.config.num_train_timesteps
    if not 1 <= steps <= longest:
        raise UserError(f"the number of sampling steps must be from 1 to {longest}, not {steps}")
    # On the CPU: schedulers look tables up by t, and a GPU would be waited for at every step.
    scheduler.set_timesteps(steps)
    # Rounding in diffusers' "trailing" spacing adds a timestep -1 for some counts (61, 103, 121).
    if len(scheduler.timesteps) != steps:
        raise UserError(f"{steps} sampling steps cannot be spaced evenly: use {steps - 1}")


@torch.no_grad()
def sample(
    denoise: Denoiser,
    noise: AV[Tensor],
    scheduler: SchedulerMixin,
    num_inference_steps: int,
    known: Known = NOTHING_KNOWN,
    generator: list[torch.Generator] | None = None,
    callback: Callable[[int, Tensor, AV[Tensor]], AV[Tensor] | None] | None = None,
) -> AV[Tensor]:
    """Denoises both modalities jointly; what is known of them comes back bit for bit.

    Both modalities of a clip are packed into one row and step one scheduler: a multistep scheduler
    stepped once per modality and timestep would mix their histories. The stream of a known slot is
    its clean value re-noised at each t with its own fixed noise (Eq. 5), as in training.

    DDIM walks in strides of `num_train_timesteps // num_inference_steps`: step counts that divide
    the training timesteps (1, 2, 4, 5, 8, 10, 20, 25, 50, ...) end exactly on the clean sample.

    Args:
        denoise: The network with its conditions bound.
        noise: Standard normal start AV((B,...)), as from `initial_noise`.
        scheduler: From `make_scheduler`.
        known: Whole modalities (B,...) of any shape, or slots of (B,C,T',H',W').
        generator: One CPU generator per clip, used by stochastic schedulers (ddpm) only.
        callback: Called after each step with (step, t, noisy sample); may return a replacement.

    Returns:
        The clean sample AV((B,...)).

    Raises:
        UserError: The scheduler cannot space this number of steps.
    """
    _set_timesteps(scheduler, num_inference_steps)
    # Only some schedulers draw noise in a step; they draw it from the clips' own generators.
    step_options: dict[str, Any] = {"return_dict": False}
    if "generator" in inspect.signature(scheduler.step).parameters:
        step_options["generator"] = generator

    def in_known_slots(x: Tensor, value: Tensor, slots: Tensor | None) -> Tensor:
        """`x` (B,...) with the known slots of `value` (B,...); `slots` as `Known.slots`."""
        return value if slots is None else torch.where(slots, value, x)

    def renoise(
        t: Tensor, x: Tensor, clean: Tensor | None, slots: Tensor | None, own_noise: Tensor
    ) -> Tensor:
        """`x` (B,...) with what is known at t, Eq. 5."""
        if clean is None:
            return x
        noisy = scheduler.add_noise(clean, own_noise, t.reshape(1).expand(len(clean)))
        return in_known_slots(x, noisy, slots)

    state = noise.map(lambda n: n * scheduler.init_noise_sigma)
    for step, t in enumerate(scheduler.timesteps):
        state = state.map(partial(renoise, t), known.values, known.slots, noise)
        # Both modalities step together, in one row per clip.
        packed = pack(state)
        network_input = unpack(scheduler.scale_model_input(packed, t), like=noise)
        prediction = denoise(network_input, t.round().long())
        stepped = scheduler.step(pack(prediction), t, packed, **step_options)[0]
        state = unpack(stepped.to(packed.dtype), like=noise)
        if callback is not None:
            state = callback(step, t, state) or state

    def as_given(x: Tensor, clean: Tensor | None, slots: Tensor | None) -> Tensor:
        """`x` (B,...) with what is known, as it was given."""
        return x if clean is None else in_known_slots(x, clean, slots)

    return state.map(as_given, known.values, known.slots)
