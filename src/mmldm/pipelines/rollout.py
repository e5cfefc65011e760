"""Sampling on a canvas of any length: window after window, or all windows at once.

canvas (known and unknown ticks) -> latents AV((B,C,T',H',W')) of window after window. A generator that has
learnt known slots continues what came before, so its windows follow each other, for ever if asked to. One
that has not makes all windows of a clip together: at each step every tick is predicted by one of the windows
that cover it, which another step chooses anew (as SaFa swaps; the mean of all, MultiDiffusion, blurs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from mmldm.diffusion.sampling import Denoiser, initial_noise, sample
from mmldm.models.generator import JointGenerator
from mmldm.pipelines.canvas import Canvas, Outline
from mmldm.pipelines.guidance import generator_denoiser
from mmldm.pipelines.windows import TimeGrid, Window, window_starts, windows_with_cuts
from mmldm.types import AV, Known

Manner = Literal["sequential", "parallel"]
"""Window after window, or all at once."""
STRIDE = 0.25
"""Part of a window between the starts of two that are sampled together."""
ROWS_PER_CALL = 64
"""Windows that the generator sees at once where all are sampled together: bounds memory."""
JOINS = (
    "this model has not learnt to go on from what it knows, so where windows meet may be seen and heard; "
    "train its generator with known_slots to mend that"
)
"""What is said where such a model makes more than a window."""
AfterStep = Callable[[int, Tensor, AV[Tensor]], AV[Tensor] | None]


@dataclass(frozen=True)
class Sampler:
    """How one call samples.

    Attributes:
        model: The generator, or its student.
        scheduler: Its sampler.
        steps: Of a window.
        scale: phi of Eq. 8 per modality.
        reads_slots: Whether the model has learnt known slots; another is told of whole modalities alone, and
            known slots take their place in its samples without its knowing.
    """

    model: JointGenerator
    scheduler: SchedulerMixin
    steps: int
    scale: AV[float]
    reads_slots: bool

    def denoiser(self, noise: AV[Tensor], known: Known, class_labels: Tensor | None) -> Denoiser:
        """The model for one window of each clip; `noise` AV((B,C,T',H',W')) is the clips' own."""
        return generator_denoiser(self.model, noise, self.told(known), class_labels, self.scale)

    def told(self, known: Known) -> Known:
        """What the network is told of what is known."""
        if self.reads_slots:
            return known
        return Known(known.values.map(lambda z, whole: z if whole else None, known.whole))


def num_windows(outline: Outline, grid: TimeGrid, manner: Manner) -> int | None:
    """Windows that a clip is sampled in; None: they have no end."""
    if outline.length is None:
        return None
    if manner == "parallel":
        return len(_together(_covered(outline, grid), grid))
    starts = window_starts(outline.wanted, outline.length, grid.ticks, grid.overlap)
    return sum(1 for _ in starts)


def num_steps(outline: Outline, grid: TimeGrid, manner: Manner, steps: int) -> int | None:
    """Sampler steps of a batch; None: without an end."""
    windows = num_windows(outline, grid, "sequential") if manner == "sequential" else 1
    return None if windows is None else windows * steps


def rollout(
    sampler: Sampler,
    canvas: Canvas,
    outline: Outline,
    grid: TimeGrid,
    generators: Sequence[torch.Generator],
    class_labels: Tensor | None,
    manner: Manner,
    after_step: AfterStep,
) -> Iterator[Window]:
    """Fills the unknown ticks of a canvas. Yields each window once all its latents are there.

    Args:
        generators: One CPU generator per clip, on which alone a clip depends.
        class_labels: (B,), or None.
        after_step: Called after each step with (step, t, noisy normalised latents).
    """
    device = canvas.latents(range(1)).audio.device
    if manner == "parallel" and outline.length is not None:
        # All of the clip that an unknown tick can hear or see.
        covered = _covered(outline, grid)
        known = canvas.known(covered)
        shapes = sampler.model.latent_shapes.map(
            lambda shape, slots: (shape[0], len(covered) * slots, *shape[2:]), grid.slots
        )
        noise = initial_noise(shapes, generators, device)
        denoise = _all_windows(sampler, noise, known, class_labels, len(covered), grid)
        made = sample(
            denoise, noise, sampler.scheduler, sampler.steps, known, list(generators), after_step
        )
        canvas.write(covered, made)

    starts = window_starts(outline.wanted, outline.length, grid.ticks, grid.overlap)
    for window in windows_with_cuts(starts, outline.wanted, outline.length is None, grid.ticks):
        ticks = range(window.start, window.start + grid.ticks)
        if manner == "sequential":
            known = canvas.known(ticks)
            noise = initial_noise(sampler.model.latent_shapes, generators, device)
            denoise = sampler.denoiser(noise, known, class_labels)
            made = sample(
                denoise,
                noise,
                sampler.scheduler,
                sampler.steps,
                known,
                list(generators),
                after_step,
            )
            canvas.write(ticks, made)
        yield window
        canvas.forget(window.start)


def _covered(outline: Outline, grid: TimeGrid) -> range:
    """Ticks that windows sampled together cover: what is unknown, and as much around it as a window sees."""
    assert outline.length is not None
    around = grid.ticks - grid.overlap
    first = max(0, outline.wanted.start - around)
    last = max(min(outline.length, outline.wanted.stop + around), grid.ticks)
    return range(max(0, min(first, last - grid.ticks)), last)


def _together(covered: range, grid: TimeGrid) -> list[int]:
    """Where windows begin that are sampled together, from the first covered tick on."""
    stride = max(1, round(STRIDE * grid.ticks))
    last = len(covered) - grid.ticks
    return sorted({*range(0, last + 1, stride), last})


def _all_windows(
    sampler: Sampler,
    noise: AV[Tensor],
    known: Known,
    class_labels: Tensor | None,
    length: int,
    grid: TimeGrid,
) -> Denoiser:
    """The model over a row of `length` ticks, AV((B,C,T',H',W')), as overlapping windows in one batch."""
    starts, size = _together(range(length), grid), grid.ticks
    count = len(noise.audio)
    per_call = max(1, ROWS_PER_CALL // count)
    calls = [starts[i : i + per_call] for i in range(0, len(starts), per_call)]

    def windows(begins: list[int], x: Tensor | None, slots: int, dim: int = 2) -> Tensor | None:
        """Rows (B,C,T',H',W') or masks (B,T') of all ticks -> (W*B,...) of these windows."""
        if x is None:
            return None
        return torch.cat([x.narrow(dim, begin * slots, size * slots) for begin in begins])

    def present(begins: list[int], x: Tensor, slots: int) -> Tensor:
        """As `windows`, of what is there."""
        return torch.cat([x.narrow(2, begin * slots, size * slots) for begin in begins])

    # Each call's windows have conditions of their own.
    denoisers: list[tuple[list[int], Denoiser]] = []
    for begins in calls:
        cut = partial(windows, begins)
        values = known.values.map(cut, grid.slots)
        masks = known.mask.map(cut, grid.slots, AV(1, 1))
        own = noise.map(partial(present, begins), grid.slots)
        labels = None if class_labels is None else class_labels.repeat(len(begins))
        denoisers.append((begins, sampler.denoiser(own, Known(values, masks), labels)))

    # Windows that cover a tick: from the first to the last of `covering`.
    begin = torch.tensor(starts)
    ticks = torch.arange(length)
    first = torch.searchsorted(begin, ticks - size, right=True)
    covering = torch.searchsorted(begin, ticks, right=True) - first

    def denoise(x: AV[Tensor], t: Tensor) -> AV[Tensor]:
        """AV((B,C,T',H',W')) of all ticks, t 0-d -> the prediction."""
        parts = [
            denoiser(x.map(partial(present, begins), grid.slots), t)
            for begins, denoiser in denoisers
        ]
        predictions = AV.zip(parts).map(torch.cat)
        # The same choice for all clips, another at each step: it is a function of t alone.
        draw = torch.Generator().manual_seed(int(t))
        chosen = first + (torch.rand(length, generator=draw) * covering).long()

        def gathered(rows: Tensor, slots: int) -> Tensor:
            """(W*B,C,T',H',W') of the windows -> (B,C,T',H',W') of all ticks."""
            by_window = rows.unflatten(0, (len(starts), count)).movedim(3, 1)  # W T' B C H W
            window = chosen.repeat_interleave(slots)
            slot = torch.arange(length * slots) - begin[window] * slots
            device = rows.device
            return by_window[window.to(device), slot.to(device)].movedim(0, 2)

        return predictions.map(gathered, grid.slots)

    return denoise
