"""The calls of the pipeline beside generation: extend, retake, stream, encode, decode, reconstruct.

Clip, seconds -> clips that go on; nothing -> pieces without an end; media <-> latents AV((B,C,T',H',W')).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast, overload

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from mmldm.diffusion.schedules import make_scheduler, schedule_of
from mmldm.errors import UserError
from mmldm.media.clip import Clip
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.generator import JointGenerator
from mmldm.models.image_vae import ImageVAE
from mmldm.models.pretrained_vocoder import Vocoder
from mmldm.pipelines.canvas import Canvas
from mmldm.pipelines.decoding import ClipCoder, parts_of
from mmldm.pipelines.loading import FolderPipeline
from mmldm.pipelines.making import Maker, SoundingVideoOutput, begun, between, decoded, joined
from mmldm.pipelines.pieces import Piece
from mmldm.pipelines.request import (
    Media,
    Request,
    asked_for,
    checked_images,
    checked_windows,
    given_clips,
)
from mmldm.pipelines.rollout import Sampler
from mmldm.pipelines.seeds import clip_seeds, spread_classes
from mmldm.pipelines.settings import Qualities, Settings
from mmldm.pipelines.tasks import (
    Task,
    extension,
    from_parts,
    retaking,
    rows_of,
    whole_task,
)
from mmldm.types import AV, MODALITIES, ClipSpec, Progress

StepCallback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any] | None]
SETTINGS = ("scheduler", "num_inference_steps", "decoder_steps", "guidance_scale")
"""Of sampling, that a call may ask for."""


class Calls(FolderPipeline):
    """What can be asked of a pipeline whose parts are there; `SoundingVideoPipeline` says which."""

    vae: ImageVAE
    autoencoder: MultiModalAutoencoder
    generator: JointGenerator
    scheduler: SchedulerMixin
    decoder_scheduler: SchedulerMixin
    vocoder: Vocoder | None
    student: JointGenerator | None
    student_scheduler: SchedulerMixin | None
    clip_spec: ClipSpec
    class_names: tuple[str, ...]
    qualities: Qualities

    def extend(
        self,
        clip: Clip | Sequence[Clip],
        seconds: float | None = None,
        audio: Media | None = None,
        **options: Any,
    ) -> SoundingVideoOutput:
        """Goes on with clips: the same picture and sound, and after them `seconds` of new ones.

        Args:
            clip: Of the model's rates and size. One, for all samples, or a list, one per sample. Of its end,
                what fills no latent slot is left out.
            seconds: To be added; default: as many as `audio` has.
            audio: The sound of what is added, if it is given: (S,), or one per sample.
            options: As in the call: num_samples (default: 1, or one per clip), class_labels, quality,
                guidance_scale, num_inference_steps, decoder_steps, scheduler, generator, seed, batch_size,
                images_per_call, windows, callback_on_step_end, progress (see `pieces`).

        Returns:
            Whole clips, and the latents of all of them.

        Raises:
            UserError: What is asked for does not fit the model or itself.
        """
        media = given_clips(clip, self.clip_spec)
        progress, count = options.pop("progress", None), {"num_samples": len(media.video)}
        asked, maker, callback = self._asked({**count, **options}, audio=audio)
        task = extension(media, seconds, asked.media.audio, maker.coder)
        return self._made(task, maker, asked, callback, progress, media)

    def retake(
        self,
        clip: Clip | Sequence[Clip],
        start: float,
        end: float,
        only: Literal["sound", "picture"] | None = None,
        **options: Any,
    ) -> SoundingVideoOutput:
        """Makes a part of clips anew, from `start` to `end` seconds; all else stays.

        The part is widened to whole latent slots.

        Args:
            clip: As in `extend`.
            only: "sound" or "picture" of the part alone; None: both.
            options: As in `extend`.

        Raises:
            UserError: There is no such part, or what is asked for does not fit the model.
        """
        media = given_clips(clip, self.clip_spec)
        progress, count = options.pop("progress", None), {"num_samples": len(media.video)}
        asked, maker, callback = self._asked({**count, **options})
        task = retaking(media, start, end, only, maker.coder)
        return self._made(task, maker, asked, callback, progress, media)

    def stream(
        self,
        seconds: float | None = None,
        audio: Media | Iterator[Tensor] | None = None,
        frames: Media | Iterator[Tensor] | None = None,
        after: Clip | None = None,
        **options: Any,
    ) -> Iterator[Clip]:
        """Makes one clip piece by piece, for ever if no length is given; memory does not grow.

        Args:
            seconds: Length of the clip; None: as long as what is given, or without an end.
            audio: As in the call, of one clip; or its consecutive parts (s,), which are all read before the
                first piece is made, and not kept: the pieces are then without sound.
            frames: Likewise; parts are (t,3,H,W).
            after: A clip to go on from, as in `extend`; it is the first piece.
            options: As in the call: class_labels, quality, guidance_scale, num_inference_steps,
                decoder_steps, scheduler, generator, seed, images_per_call, windows, callback_on_step_end.

        Yields:
            Consecutive pieces, whose frames and samples will not change any more.

        Raises:
            UserError: What is asked for does not fit the model or itself.
        """
        for _, clips in self.pieces(1, seconds, audio, frames, after, **options):
            yield clips[0]

    def pieces(
        self,
        num_samples: int,
        seconds: float | None = None,
        audio: Media | Iterator[Tensor] | None = None,
        frames: Media | Iterator[Tensor] | None = None,
        after: Clip | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Iterator[tuple[int, list[Clip]]]:
        """As `stream`, for several clips: those of a batch side by side, batch after batch.

        Args:
            audio: As in `stream`: (S,), one per clip, or parts (s,).
            frames: Likewise: (T,3,H,W), or parts (t,3,H,W).
            progress: Shows the sampler's steps, of all windows and batches; of clips that have an end.

        Yields:
            Number of the batch's first clip, and the next piece of each of its clips.
        """
        parts = AV(audio, frames).map(lambda x: x if isinstance(x, Iterator) else None)
        whole = AV(audio, frames).map(lambda x: None if isinstance(x, Iterator) else x)
        nothing = audio is None and frames is None and after is None
        asked, maker, callback = self._asked(
            options,
            nothing,
            num_samples=num_samples,
            audio=whole.audio,
            frames=whole.video,
            seconds=seconds,
        )
        coder = maker.coder
        if after is not None:
            if frames is not None or parts.audio is not None:
                raise UserError(
                    "a clip that goes on can be given its sound alone, and that as a whole"
                )
            media = given_clips(after, self.clip_spec)
            task = extension(media, seconds, asked.media.audio, coder, endless=True)
        elif parts != (None, None):
            if (audio is not None and frames is not None) or seconds is not None:
                raise UserError(
                    "parts of one modality are all that is given: they say how long it is"
                )
            modality = MODALITIES.video if parts.audio is None else MODALITIES.audio
            task = from_parts(next(p for p in parts if p is not None), modality, coder)
        else:
            task = whole_task(asked, coder, endless=seconds is None)

        spec = self.clip_spec
        decoding = maker.num_decoded(task) if maker.manner_of(task) == "parallel" else 0
        for rows, _, made in self._batches(task, maker, asked, callback, progress):
            if after is not None:
                first = begun(given_clips(after, spec), task, maker.coder.grid, rows)
                yield rows.start, first.clips(spec.fps, spec.sample_rate)
            for number, piece in enumerate(made, 1):
                # Where all windows are sampled together, decoding them is what takes long after that.
                if progress is not None and number < decoding:
                    progress("windows decoded", number, decoding)
                yield rows.start, piece.clips(spec.fps, spec.sample_rate)
        if progress is not None and decoding:
            progress("windows decoded", decoding, decoding)
        self.maybe_free_model_hooks()

    def drawn_classes(self, seeds: Sequence[int]) -> Tensor | None:
        """The classes, (B,) long, that clips of these seeds have if they are made from nothing and asked for
        without a class; None: the generator chooses."""
        shares = self.config.class_shares
        return None if shares is None else spread_classes(seeds, shares)

    def settings(self, quality: str | None = None, **asked: Any) -> Settings:
        """What a call with these arguments samples with.

        Args:
            quality: Name of a row; None: the model's default.
            asked: Fields of `Settings`; None: not asked for.

        Raises:
            UserError: There is no such row, or its student cannot do what is asked for.
        """
        return self.qualities.settings(quality, **asked)

    @overload
    def encode(self, media: AV[Tensor]) -> AV[Tensor]: ...
    @overload
    def encode(self, media: AV[Tensor | None]) -> AV[Tensor | None]: ...
    def encode(self, media: AV[Tensor | None]) -> AV[Tensor | None]:
        """Waveforms (B,S) and frames uint8 (B,T,3,H,W) -> latents AV((B,C,T',H',W')).

        The latents are the mode of the posterior, not normalised. None stays None.
        """
        latents = self._coder().encode(media)
        self.maybe_free_model_hooks()
        return latents

    def decode(
        self,
        latents: AV[Tensor],
        media: AV[Tensor | None] = AV(None, None),  # noqa: B008 (a NamedTuple is immutable)
        class_labels: Tensor | None = None,
        generators: Sequence[torch.Generator] | None = None,
        decoder_steps: int | None = None,
        quality: str | None = None,
        images_per_call: int | None = None,
    ) -> list[Clip]:
        """Latents -> clips, by the signal decoder, the image VAE and the vocoder or Griffin-Lim.

        Args:
            latents: AV((B,C,T',H',W')), not normalised.
            media: Known media, of one clip or of all B: taken as they are, not decoded.
            class_labels: (B,); None: the autoencoder predicts the class from the latents.
            generators: One CPU generator per clip for the decoder's noise; None: clip i has seed i.
            decoder_steps: Signal decoder steps.
            quality: As in the call.
            images_per_call: As in the call.
        """
        if generators is None:
            generators = [torch.Generator().manual_seed(i) for i in range(len(latents.audio))]
        chosen = self.settings(quality, decoder_steps=decoder_steps)
        images, coder, spec = checked_images(images_per_call), self._coder(), self.clip_spec
        clips: list[Clip] = []
        # Of a batch a few at a time, because whole clips are in memory.
        for rows in parts_of(len(latents.audio)):
            part = AV(latents.audio[rows], latents.video[rows])
            labels = None if class_labels is None else class_labels[rows]
            known = rows_of(media, rows)
            made = decoded(coder, part, known, generators[rows], labels, chosen, images)
            clips += made.clips(spec.fps, spec.sample_rate)
        self.maybe_free_model_hooks()
        return clips

    def reconstruct(self, clip: Clip, decoder_steps: int | None = None, seed: int = 0) -> Clip:
        """What the autoencoder keeps of a clip: encoded to the posterior's mode and decoded.

        Raises:
            UserError: The clip is not of the model's rates and size.
        """
        latents = self.encode(given_clips(clip, self.clip_spec))
        generators = [torch.Generator().manual_seed(clip_seeds(1, seed, None)[0])]
        kept = self.decode(latents, generators=generators, decoder_steps=decoder_steps)[0]
        # A clip that fills no window, or no slot, was filled up.
        frames, waveform = kept.frames[: len(clip.frames)], kept.waveform[: len(clip.waveform)]
        return Clip(frames, waveform, kept.fps, kept.sample_rate)

    def _coder(self) -> ClipCoder:
        return ClipCoder(
            self.vae,
            self.autoencoder,
            self.decoder_scheduler,
            self.vocoder,
            self.clip_spec,
            self._execution_device,
        )

    def _asked(
        self, options: Mapping[str, Any], draws_class: bool = False, **asked: Any
    ) -> tuple[Request, Maker, StepCallback | None]:
        """Arguments of a call, checked: what is asked for, and with what it is made.

        Args:
            options: What the person asked for by name.
            draws_class: Whether the clips are made from nothing: without a class, one has that of its seed.
            asked: Arguments of `request.asked_for` that the call itself sets.
        """
        wanted = {**options, **asked}
        callback = cast("StepCallback | None", wanted.pop("callback_on_step_end", None))
        windows = checked_windows(wanted.pop("windows", None))
        chosen = self.settings(
            wanted.pop("quality", None), **{name: wanted.pop(name, None) for name in SETTINGS}
        )
        request = asked_for(self.clip_spec, self.class_names, **wanted)
        # Nothing is known of these clips, so that none of it could contradict a class.
        if draws_class and request.class_labels is None and request.media == (None, None):
            request = replace(request, class_labels=self.drawn_classes(request.seeds))
        # Of the two generators a call uses one.
        model, scheduler = self.generator, self.scheduler
        if chosen.student:
            assert self.student is not None and self.student_scheduler is not None
            model, scheduler = self.student, self.student_scheduler
        elif chosen.scheduler is not None:
            scheduler = make_scheduler(schedule_of(scheduler), chosen.scheduler)
        scale = AV(chosen.guidance_scale, chosen.guidance_scale)
        sampler = Sampler(
            model, scheduler, chosen.num_inference_steps, scale, bool(self.config.known_slots)
        )
        maker = Maker(self._coder(), sampler, chosen, request.images_per_call, windows)
        return request, maker, callback

    def _batches(
        self,
        task: Task,
        maker: Maker,
        asked: Request,
        callback: StepCallback | None,
        progress: Progress | None,
        decode: bool = True,
    ) -> Iterator[tuple[slice, Canvas, Iterator[Piece]]]:
        """Which clips, their canvas, and what makes their pieces, batch by batch."""
        batches = -(-asked.count // asked.batch_size)
        total, done = batches * (maker.num_steps(task) or 0), 0
        with self.progress_bar(total=total) if total else self.progress_bar(iter(())) as bar:

            def after_step(step: int, t: Tensor, x: AV[Tensor]) -> AV[Tensor] | None:
                """t 0-d, x AV((B,C,T',H',W')) -> what the caller puts in its place, if anything."""
                nonlocal done
                done += 1
                bar.update()
                if progress is not None and total:
                    progress("generator steps", min(done, total), total)
                if callback is None:
                    return None
                return (callback(self, step, t, {"latents": x}) or {}).get("latents")

            for rows in parts_of(asked.count, asked.batch_size):
                own, seeds = task.rows(rows), asked.seeds[rows]
                labels = None if asked.class_labels is None else asked.class_labels[rows]
                canvas = maker.canvas(own, len(seeds))
                yield rows, canvas, maker.pieces(own, canvas, seeds, labels, after_step, decode)

    def _made(
        self,
        task: Task,
        maker: Maker,
        asked: Request,
        callback: StepCallback | None,
        progress: Progress | None = None,
        beside: AV[Tensor] | None = None,
        decode: bool = True,
    ) -> SoundingVideoOutput:
        """Makes all clips of a task that has an end.

        Args:
            beside: Media AV((B,S), (B,T,3,H,W) u8) that what was made stands in, or goes on.
            decode: False: latents alone.
        """
        clips: list[Clip] = []
        latents: list[AV[Tensor]] = []
        spec, grid = self.clip_spec, maker.coder.grid
        for rows, canvas, made in self._batches(task, maker, asked, callback, progress, decode):
            pieces = list(made)
            latents.append(maker.latents(task, canvas))
            if decode:
                whole = joined(pieces)
                if beside is not None:
                    whole = between(rows_of(beside, rows), whole, task.outline.wanted, grid)
                clips += whole.clips(spec.fps, spec.sample_rate)
        self.maybe_free_model_hooks()
        return SoundingVideoOutput(clips=clips, latents=AV.zip(latents).map(torch.cat))
