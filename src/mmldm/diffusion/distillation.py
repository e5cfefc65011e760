"""Progressive distillation: what one step must predict to land where a teacher lands in several.

state AV((B,...)), number of the step (B,) -> clean estimate AV((B,...)) that one DDIM step takes there.
Salimans & Ho, "Progressive distillation for fast sampling of diffusion models", 2022, Alg. 2. A guided
teacher hands its guidance down: Meng et al., "On distillation of guided diffusion models", 2023.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from mmldm.diffusion.sampling import Denoiser
from mmldm.diffusion.schedules import NoiseProcess, ScheduleConfig
from mmldm.errors import UserError
from mmldm.types import AV, Known

CLEAN = -1
"""The timestep of the clean sample."""


class StepMatching:
    """A student's DDIM steps on a teacher's forward process, each divided into steps of the teacher.

    The student starts its step 0 from pure noise, as sampling does, also where the process leaves
    some signal at its last timestep.

    Args:
        process: Of the teacher, on the data's device.
        steps: Of the student, from noise to the clean sample.
        teacher_steps: Of the teacher, over the same way.

    Attributes:
        student: The same forward process; it says what the student predicts.
        stops: (steps, parts + 1): timesteps of the teacher within each step; the last one is `CLEAN`.

    Raises:
        UserError: The timesteps cannot be divided so.
    """

    def __init__(self, process: NoiseProcess, steps: int, teacher_steps: int) -> None:
        total = process.num_timesteps
        if total % steps or teacher_steps % steps or teacher_steps > total:
            raise UserError(
                f"a student of {steps} steps needs a number that divides {total} timesteps and its "
                f"teacher's {teacher_steps} steps"
            )
        self.process, self.steps = process, steps
        device = process.alphas_cumprod.device
        self.student = NoiseProcess(student_schedule(process.config)).to(device)
        # Trailing timesteps, as samplers have them: the first step starts at the noisiest one.
        starts = total - 1 - torch.arange(steps, device=device) * (total // steps)
        parts = teacher_steps // steps
        offsets = torch.arange(parts + 1, device=device) * (total // steps) // parts
        self.stops = starts[:, None] - offsets
        # The clean sample's comes last, where index CLEAN finds it.
        power = torch.cat([process.alphas_cumprod, process.alphas_cumprod.new_ones(1)])
        self._signal, self._sigma = power.sqrt(), (1 - power).sqrt()

    def timesteps(self, step: Tensor) -> Tensor:
        """Where the steps `step` (B,) start, (B,) long."""
        return self.stops[step, 0]

    def start(self, clean: AV[Tensor], noise: AV[Tensor], step: Tensor) -> AV[Tensor]:
        """The noisy state in which each row's step (B,) begins, AV (B,...) as `clean` and `noise` (Eq. 5)."""
        t = self.timesteps(step)

        def noisy(x: Tensor, n: Tensor) -> Tensor:
            return torch.where(_like(step == 0, x), n, self.process.add_noise(x, n, t))

        return clean.map(noisy, noise)

    @torch.no_grad()
    def target(
        self,
        teacher: Denoiser,
        state: AV[Tensor],
        step: Tensor,
        known: Known,
        noise: AV[Tensor],
    ) -> AV[Tensor]:
        """The clean estimate AV (B,...) with which one DDIM step ends where the teacher's steps do.

        Args:
            teacher: Its prediction for timesteps (B,), with guidance and conditions bound.
            state: As `start` gives it.
            step: (B,).
            known: Its values are noised anew at each timestep, as in sampling.
            noise: The clips' own.
        """
        stops = self.stops[step]
        first, last = stops[:, 0], stops[:, -1]

        # The teacher's own steps from the state on (Alg. 2, "2 steps of DDIM with teacher").
        now = state
        for t, following in pairwise(stops.unbind(1)):
            now = now.map(partial(self._renoise, t), known.values, known.slots, noise)
            prediction = teacher(now, t)
            now = now.map(partial(self._ddim, t, following), prediction)

        # One DDIM step is linear in the clean estimate: solved for it (Alg. 2, "teacher x-hat target").
        def estimate_of_one_step(end: Tensor, x: Tensor) -> Tensor:
            ratio = _like(self._sigma[last] / self._sigma[first], x)
            signal = _like(self._signal[last], x) - ratio * _like(self._signal[first], x)
            return (end - ratio * x) / signal

        return now.map(estimate_of_one_step, state)

    def errors(
        self,
        student: Denoiser,
        state: AV[Tensor],
        step: Tensor,
        target: AV[Tensor],
        weights: AV[Tensor | None] = AV(None, None),  # noqa: B008 (a NamedTuple is immutable)
    ) -> AV[Tensor]:
        """How far the student's clean estimates are from the target, AV (B,), each as `error`.

        Args:
            student: As `target`'s teacher.
            state: As `start` gives it, AV (B,...).
            step: (B,).
            target: As `target` gives it.
            weights: Of the target's parts, to be broadcast over it; None: all count the same.
        """
        t = self.timesteps(step)

        def of_one(prediction: Tensor, x: Tensor, wanted: Tensor, weight: Tensor | None) -> Tensor:
            return self.error(self.student.to_x0(prediction, x, t), wanted, step, weight)

        return student(state, t).map(of_one, state, target, weights)

    def error(
        self, estimate: Tensor, target: Tensor, step: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Squared error (B,) of clean estimates (B,...), weighted as that of v: 1 + SNR at the start."""
        squares = (estimate - target).square()
        if weights is None:
            errors = squares.flatten(1).mean(1)
        else:
            weights = weights.expand_as(squares).flatten(1)
            errors = (squares.flatten(1) * weights).sum(1) / weights.sum(1)
        return errors / self._sigma[self.timesteps(step)].square()

    def _renoise(
        self, t: Tensor, x: Tensor, clean: Tensor | None, slots: Tensor | None, noise: Tensor
    ) -> Tensor:
        """`x` (B,...) with what is known at t (B,), by Eq. 5; `slots` as `Known.slots`."""
        if clean is None:
            return x
        noisy = self.process.add_noise(clean, noise, t)
        return noisy if slots is None else torch.where(slots, noisy, x)

    def _ddim(self, t: Tensor, following: Tensor, x: Tensor, prediction: Tensor) -> Tensor:
        """x (B,...) at t (B,) -> x at `following` (B,).

        Song et al., "Denoising diffusion implicit models", 2021, Eq. 12 with eta 0.
        """
        x0 = self.process.to_x0(prediction, x, t)
        noise = (x - _like(self._signal[t], x) * x0) / _like(self._sigma[t], x)
        return _like(self._signal[following], x) * x0 + _like(self._sigma[following], x) * noise


def student_schedule(teacher: ScheduleConfig) -> ScheduleConfig:
    """The teacher's, with v in place of epsilon, which says nothing about the sample at high noise."""
    if teacher.prediction != "epsilon":
        return teacher
    return teacher.model_copy(update={"prediction": "v_prediction"})


def _like(values: Tensor, x: Tensor) -> Tensor:
    """(B,) -> (B,1,...), to be broadcast over `x`."""
    return values.view(-1, *(1,) * (x.ndim - 1))
