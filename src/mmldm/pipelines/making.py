"""From a task to pieces of clips: sampling, decoding and cutting of one batch, on one model's parts.

Task, seeds, class labels -> pieces (B,F,3,H,W) u8 and (B,S), one after another -> latents AV((B,C,T',H',W')).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers.utils.outputs import BaseOutput
from torch import Tensor

from mmldm.errors import UserError
from mmldm.media.clip import Clip
from mmldm.pipelines.canvas import Canvas, Outline, latents_in
from mmldm.pipelines.decoding import ClipCoder
from mmldm.pipelines.pieces import Piece, PieceDecoder
from mmldm.pipelines.rollout import AfterStep, Manner, Sampler, num_steps, num_windows, rollout
from mmldm.pipelines.settings import Settings
from mmldm.pipelines.tasks import Task, rows_of
from mmldm.pipelines.windows import TimeGrid, window_starts, windows_with_cuts
from mmldm.types import AV


@dataclass
class SoundingVideoOutput(BaseOutput):
    """What the pipeline returns.

    Attributes:
        clips: One per sample; empty for `output_type="latent"`.
        latents: AV((B,C,T',H',W')) on the CPU, as the autoencoder encodes them (not normalised), of a
            window at least.
        outlier_distances: How far what was given is from all that the model was trained on, window by
            window, AV((B,W)), or (1,W) of one clip for all samples. Above 1, which 1 % of the model's own
            clips exceed, it is an outlier. None: not given, or the model cannot tell. Of the call itself;
            other calls leave it open.
    """

    clips: list[Clip]
    latents: AV[Tensor]
    outlier_distances: AV[Tensor | None] = AV(None, None)  # noqa: RUF009 (a NamedTuple is immutable)


@dataclass(frozen=True)
class Maker:
    """One call's settings and parts.

    Attributes:
        coder: Between media and latents.
        sampler: Of latents.
        chosen: Decoder steps, phase iterations.
        images_per_call: As in the pipeline's call.
        manner: How windows of a longer clip are sampled; None: one after another where the model has learnt
            known slots or the clip has no end, else together.
    """

    coder: ClipCoder
    sampler: Sampler
    chosen: Settings
    images_per_call: int | None
    manner: Manner | None = None

    def manner_of(self, task: Task) -> Manner:
        """How the windows of a task are sampled."""
        grid = self.coder.grid
        alone = num_windows(task.outline, grid, "sequential") == 1
        if task.outline.length is None or (alone and self.manner is None):
            return "sequential"
        return self.manner or ("sequential" if self.sampler.reads_slots else "parallel")

    def num_steps(self, task: Task) -> int | None:
        """Sampler steps that a batch of the task takes; None: it has no end."""
        return num_steps(task.outline, self.coder.grid, self.manner_of(task), self.sampler.steps)

    def num_decoded(self, task: Task) -> int:
        """Windows that a clip of the task is decoded in; 0: without an end."""
        return num_windows(task.outline, self.coder.grid, "sequential") or 0

    def canvas(self, task: Task, count: int) -> Canvas:
        """A canvas of `count` clips with what is known of them."""
        model, known = self.sampler.model, task.known
        on_device = known.map(lambda z: None if z is None else z.to(self.coder.device))
        return Canvas(
            self.coder.grid,
            model.latent_shapes,
            task.outline,
            model.normalise(on_device),
            count,
            self.coder.device,
        )

    def latents(self, task: Task, canvas: Canvas) -> AV[Tensor]:
        """All latents of clips that have an end, AV((B,C,T',H',W')) on the CPU, not normalised."""
        assert task.outline.length is not None
        length = max(task.outline.length, self.coder.grid.ticks)
        made = self.sampler.model.denormalise(canvas.latents(range(length)))
        return made.map(Tensor.cpu)

    @torch.no_grad()
    def pieces(
        self,
        task: Task,
        canvas: Canvas,
        seeds: Sequence[int],
        class_labels: Tensor | None,
        after_step: AfterStep,
        decode: bool = True,
    ) -> Iterator[Piece]:
        """Makes a batch, piece by piece.

        Args:
            task: Its rows are of this batch, or serve all of it.
            seeds: One per clip.
            class_labels: (B,), or None.
            after_step: As in `rollout`.
            decode: False: fills the canvas and gives no pieces.
        """
        coder, grid, outline = self.coder, self.coder.grid, task.outline
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        labels = None if class_labels is None else class_labels.to(coder.device)
        decoder = PieceDecoder(
            coder,
            task.reads(grid),
            task.around,
            outline.wanted,
            outline.length is None,
            num_windows(outline, grid, "sequential") == 1,
            generators,
            labels,
            self.chosen,
            self.images_per_call,
        )
        missing = _missing(task, coder)
        windows = rollout(
            self.sampler,
            canvas,
            outline,
            grid,
            generators,
            labels,
            self.manner_of(task),
            after_step,
        )
        for window in windows:
            if not decode:
                continue
            latents = canvas.latents(range(window.start, window.start + grid.ticks))
            piece = decoder.add(window, self.sampler.model.denormalise(latents))
            if piece is None:
                continue
            if missing is not None:
                # The last tick may hold more than was asked for.
                piece = Piece(
                    piece.frames[:, : missing.video],
                    piece.waveforms
                    if task.given.audio is not None
                    else piece.waveforms[:, : missing.audio],
                )
                missing = AV(
                    missing.audio - piece.waveforms.shape[1], missing.video - piece.frames.shape[1]
                )
            yield piece


def _missing(task: Task, coder: ClipCoder) -> AV[int] | None:
    """Samples and frames to be made; None: without an end."""
    if task.num_frames is None:
        return None
    spec = coder.spec
    return AV(round(task.num_frames * spec.sample_rate / spec.fps), task.num_frames)


def joined(pieces: Sequence[Piece]) -> Piece:
    """Pieces in a row as one."""
    return Piece(
        torch.cat([piece.frames for piece in pieces], dim=1),
        torch.cat([piece.waveforms for piece in pieces], dim=1),
    )


def between(known: AV[Tensor | None], made: Piece, wanted: range, grid: TimeGrid) -> Piece:
    """What was made of the wanted ticks, in its place among known media AV((B,S), (B,T,3,H,W) u8)."""
    assert known.audio is not None and known.video is not None
    frames = known.video.expand(len(made.frames), -1, -1, -1, -1)
    waveforms = known.audio.expand(len(made.frames), -1)
    begin = AV(wanted.start * grid.samples, wanted.start * grid.frames)
    # Of clips that go on nothing is left after it.
    end = AV(begin.audio + made.waveforms.shape[1], begin.video + made.frames.shape[1])
    rest = wanted.stop * grid.frames < frames.shape[1]
    parts = [Piece(frames[:, : begin.video], waveforms[:, : begin.audio]), made]
    if rest:
        parts.append(Piece(frames[:, end.video :], waveforms[:, end.audio :]))
    return joined(parts)


def begun(known: AV[Tensor], task: Task, grid: TimeGrid, rows: slice) -> Piece:
    """Of clips AV((B,S), (B,T,3,H,W) u8), or (1,...), what those of these rows go on from."""
    begin, count = task.outline.wanted.start, rows.stop - rows.start
    waveforms, frames = rows_of(known, rows)
    assert waveforms is not None and frames is not None
    return Piece(
        frames[:, : begin * grid.frames].expand(count, -1, -1, -1, -1),
        waveforms[:, : begin * grid.samples].expand(count, -1),
    )


@torch.no_grad()
def decoded(
    coder: ClipCoder,
    latents: AV[Tensor],
    given: AV[Tensor | None],
    generators: Sequence[torch.Generator],
    class_labels: Tensor | None,
    chosen: Settings,
    images_per_call: int | None,
) -> Piece:
    """Latents AV((B,C,T',H',W')) of any length -> clips; `given` as `Task.given`, the rest as `Maker`.

    Raises:
        UserError: The latents are not of whole ticks, or the model makes no clips of this length.
    """
    grid = coder.grid
    length = latents.video.shape[2] // grid.slots.video
    if any(z.shape[2] != length * slots for z, slots in zip(latents, grid.slots, strict=True)):
        raise UserError(
            f"latents of {latents.audio.shape[2]} audio and {latents.video.shape[2]} video slots are not of "
            "one length"
        )
    grid.check_length(length)
    ticks = range(length)
    task = Task(Outline(length, ticks, AV(ticks, ticks)), length * grid.frames, given=given)
    windows = list(
        windows_with_cuts(
            window_starts(ticks, length, grid.ticks, grid.overlap), ticks, False, grid.ticks
        )
    )
    decoder = PieceDecoder(
        coder,
        task.reads(grid),
        task.around,
        ticks,
        False,
        len(windows) == 1,
        generators,
        class_labels,
        chosen,
        images_per_call,
    )
    pieces = [
        decoder.add(
            window, latents_in(latents, range(window.start, window.start + grid.ticks), grid)
        )
        for window in windows
    ]
    return joined([piece for piece in pieces if piece is not None])
