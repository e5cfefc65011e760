"""Clips of any length: longer, shorter, extended, retaken, endless; on tiny real parts."""

import itertools

import pytest
import torch

from mmldm.errors import UserError
from mmldm.media.clip import Clip
from mmldm.media.spectrogram import AudioImage
from mmldm.pipelines.making import joined
from mmldm.pipelines.pieces import Piece
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.pipelines.tasks import extension, retaking
from mmldm.types import AV

from .conftest import SPEC, build_pipeline

RATE, FPS = SPEC.sample_rate, SPEC.fps


@pytest.fixture(scope="module", params=[False, True], ids=["parallel", "sequential"])
def model(request) -> SoundingVideoPipeline:
    """A model that makes windows together, and one that goes on from known slots."""
    pipeline = build_pipeline(guidance_scale=2.0)
    pipeline.register_to_config(known_slots=request.param)
    return pipeline


@pytest.fixture(scope="module")
def going_on() -> SoundingVideoPipeline:
    pipeline = build_pipeline()
    pipeline.register_to_config(known_slots=True)
    return pipeline


@pytest.fixture(scope="module")
def sound() -> torch.Tensor:
    return 0.2 * torch.randn(30 * 800, generator=torch.Generator().manual_seed(1)).clamp(-3, 3)


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    small = torch.randint(0, 256, (30, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return small.repeat_interleave(4, 2).repeat_interleave(4, 3)


@pytest.fixture(scope="module")
def clip(sound, picture) -> Clip:
    return Clip(picture, sound, FPS, RATE)


def same(a: Clip, b: Clip) -> bool:
    """Equal but for the last bits: another batch, other sums; Griffin-Lim may turn them into other phases."""
    frames = (a.frames.int() - b.frames.int()).abs().max() <= 1
    spec = SPEC.model_copy(update={"num_frames": len(b.frames)})
    heard, expected = (AudioImage(spec).decibels(clip.waveform[None]) for clip in (a, b))
    return bool(frames) and bool((heard - expected).abs().mean() < 0.5)


def whole(pieces: list[Clip]) -> Clip:
    made = joined([Piece(p.frames[None], p.waveform[None]) for p in pieces])
    return made.clips(FPS, RATE)[0]


@pytest.mark.parametrize("seconds", [0.1, 0.5, 0.8, 0.9, 2.34, 3.0])
def test_clips_are_as_long_as_asked_for(model, seconds):
    output = model(num_samples=1, seed=0, seconds=seconds)
    frames = round(seconds * FPS)
    assert output.clips[0].frames.shape == (frames, 3, 32, 32)
    assert output.clips[0].waveform.shape == (frames * 800,)
    assert output.latents.audio.shape == (1, 4, max(8, frames), 1, 1)
    assert output.clips[0].waveform.isfinite().all()


def test_a_longer_clip_is_the_same_in_any_batch_split(model):
    options = {"num_samples": 3, "seed": 7, "seconds": 2.1, "scheduler": "ddpm"}
    together, split = model(**options), model(**options, batch_size=2)
    alone = model(**{**options, "num_samples": 1, "seed": 9})
    for other, row in ((split.clips[2], 2), (alone.clips[0], 2), (split.clips[0], 0)):
        assert same(other, together.clips[row])
    assert not torch.equal(together.clips[0].frames, together.clips[1].frames)


def test_a_stream_is_the_clip_in_pieces(model):
    made = model(num_samples=1, seed=3, seconds=2.5).clips[0]
    pieces = list(model.stream(seconds=2.5, seed=3))
    assert len(pieces) > 2
    streamed = whole(pieces)
    assert torch.equal(streamed.frames, made.frames)
    assert torch.equal(streamed.waveform, made.waveform)
    for piece in pieces:
        assert len(piece.waveform) == len(piece.frames) * 800


def test_a_stream_without_an_end_goes_on_and_begins_as_a_long_clip(going_on):
    endless = whole(list(itertools.islice(going_on.stream(seed=3), 6)))
    assert len(endless.frames) > 30
    again = going_on(num_samples=1, seed=3, seconds=4.0).clips[0]
    # Until the last window of the shorter one, which ends with the clip.
    assert torch.equal(endless.frames[:24], again.frames[:24])
    assert torch.equal(endless.waveform[: 20 * 800], again.waveform[: 20 * 800])


def test_a_stream_forgets_what_is_over(going_on):
    seen = []

    def remember(pipeline, step, t, values):
        seen.append(values["latents"].audio.shape)
        return {}

    pieces = going_on.stream(seed=0, callback_on_step_end=remember)
    for _ in itertools.islice(pieces, 12):
        pass
    assert set(seen) == {(1, 4, 8, 1, 1)}


def test_given_sound_of_any_length_is_in_the_clips_untouched(model, sound):
    for length in (5000, 6400, 13_000, len(sound)):
        output = model(num_samples=2, audio=sound[:length], seed=0)
        for made in output.clips:
            assert torch.equal(made.waveform, sound[:length])
            assert len(made.frames) == round(length * FPS / RATE)
    # The end of it is followed, too.
    other = sound.clone()
    other[-4000:] = 0
    changed = model(num_samples=2, audio=other, seed=0)
    assert not torch.equal(changed.clips[0].frames[-3:], output.clips[0].frames[-3:])
    if model.config.known_slots:
        assert torch.equal(changed.clips[0].frames[:12], output.clips[0].frames[:12])


def test_given_picture_of_any_length_is_in_the_clips_untouched(model, picture):
    for length in (1, 3, 8, 30):
        made = model(num_samples=1, frames=picture[:length], seed=0).clips[0]
        assert torch.equal(made.frames, picture[:length])
        assert made.waveform.shape == (length * 800,)


def test_seconds_cut_what_is_given(model, sound):
    made = model(num_samples=1, audio=sound, seconds=1.2, seed=0).clips[0]
    assert torch.equal(made.waveform, sound[:9600])
    assert torch.equal(
        made.frames, model(audio=sound[:9600], num_samples=1, seed=0).clips[0].frames
    )


def test_parts_of_a_sound_make_what_the_whole_makes(model, sound):
    parts = (part for part in sound.split(3_300))
    pieces = list(model.stream(audio=parts, seed=4))
    made = model(audio=sound, num_samples=1, seed=4).clips[0]
    assert same(Clip(torch.cat([p.frames for p in pieces]), sound, FPS, RATE), made)
    assert all(len(piece.waveform) == 0 for piece in pieces)


def test_long_media_are_encoded_in_windows_whose_middles_are_kept(model, sound, picture):
    latents = model.encode(AV(sound[None], picture[None]))
    assert latents.audio.shape == (1, 4, 30, 1, 1)
    # Windows of 8 ticks begin at 0, 6, 12, 18, 22 and share two, or four.
    first = model.encode(AV(sound[None, : 8 * 800], picture[None, :8]))
    third = model.encode(AV(sound[None, 12 * 800 : 20 * 800], picture[None, 12:20]))
    for long, start, middle in zip(latents, first, third, strict=True):
        assert torch.allclose(long[:, :, :7], start[:, :, :7], atol=1e-5)
        assert torch.allclose(long[:, :, 13:19], middle[:, :, 1:7], atol=1e-5)


def test_an_extended_clip_begins_with_what_it_was(model, clip):
    output = model.extend(clip, 1.5, seed=1, num_samples=2)
    for made in output.clips:
        assert len(made.frames) == 45
        assert len(made.waveform) == 45 * 800
        assert torch.equal(made.frames[:30], clip.frames)
        assert torch.equal(made.waveform[: 30 * 800], clip.waveform)
    assert not torch.equal(output.clips[0].frames[30:], output.clips[1].frames[30:])
    streamed = whole(list(model.stream(1.5, after=clip, seed=1)))
    assert same(streamed, output.clips[0])


def test_an_extended_clip_follows_the_sound_that_it_is_given(model, clip, sound):
    more = sound.flip(0)[:9000]
    made = model.extend(clip, audio=more, seed=1).clips[0]
    assert torch.equal(made.waveform, torch.cat([clip.waveform, more[: 11 * 800]]))
    other = model.extend(clip, audio=0 * more, seed=1).clips[0]
    assert torch.equal(other.frames[:30], made.frames[:30])
    assert not torch.equal(other.frames[30:], made.frames[30:])


@pytest.mark.parametrize("only", [None, "sound", "picture"])
@pytest.mark.parametrize(("start", "end"), [(0.75, 1.2), (0.0, 0.4), (2.5, 3.0), (0.4, 2.6)])
def test_a_retaken_clip_differs_where_it_was_asked_to(model, clip, start, end, only):
    made = model.retake(clip, start, end, only, seed=1).clips[0]
    assert (len(made.frames), len(made.waveform)) == (30, 24000)
    first, last = round(start * 100) // 10, -(-round(end * 100) // 10)
    inside = torch.zeros(30, dtype=torch.bool)
    inside[first:last] = True
    frames = (made.frames != clip.frames).flatten(1).any(1)
    samples = (made.waveform != clip.waveform).view(30, 800).any(1)
    assert torch.equal(frames, inside & (only != "sound"))
    assert torch.equal(samples, inside & (only != "picture"))


def test_known_slots_come_back_bit_for_bit(model, clip):
    media = AV(clip.waveform[None], clip.frames[None])
    asked, maker, _ = model._asked({"num_samples": 1, "seed": 0})
    tasks = [
        extension(media, 2.0, None, maker.coder),
        retaking(media, 0.5, 2.2, None, maker.coder),
        retaking(media, 0.5, 2.2, "sound", maker.coder),
    ]
    for task in tasks:
        canvas = maker.canvas(task, 1)
        ticks = range(task.outline.length)
        before = canvas.latents(ticks).map(torch.clone)
        known = canvas.known(ticks)
        list(maker.pieces(task, canvas, [0], None, lambda *_: None, decode=False))
        for old, new, value, mask in zip(
            before, canvas.latents(ticks), known.values, known.mask, strict=True
        ):
            assert value is not None
            rows = torch.ones(len(ticks), dtype=torch.bool) if mask is None else mask[0]
            assert torch.equal(old[:, :, rows], new[:, :, rows])
            assert not rows.all() or torch.equal(old, new)
            assert rows.all() or not torch.equal(old[:, :, ~rows], new[:, :, ~rows])


def test_long_latents_decode_to_the_clip_they_came_from(model):
    output = model(num_samples=2, seed=5, seconds=2.5)
    made = model.decode(output.latents)
    assert [len(c.frames) for c in made] == [25, 25]
    kept = model.reconstruct(output.clips[0])
    assert kept.frames.shape == output.clips[0].frames.shape
    assert kept.waveform.shape == output.clips[0].waveform.shape
    with pytest.raises(UserError, match="not of one length"):
        model.decode(AV(output.latents.audio[:, :, :9], output.latents.video))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda p, c: p(seconds=0), "at least 0.1"),
        (lambda p, c: p(seconds=float("nan")), "must be a number"),
        (lambda p, c: p(seconds="3"), "must be a number"),
        (lambda p, c: p(audio=c.waveform, seconds=30), "lasts 3.00 s"),
        (lambda p, c: p(audio=torch.zeros(200)), "a frame of this model 100 ms"),
        (lambda p, c: p(windows="random"), "sequential"),
        (lambda p, c: p.extend(c, 0), "at least 0.1"),
        (lambda p, c: p.extend(c), "how many seconds"),
        (lambda p, c: p.extend(c, 5, audio=c.waveform), "lasts 3.00 s"),
        (lambda p, c: p.extend("clip.mp4", 5), "mmldm.media.reader"),
        (lambda p, c: p.extend(Clip(c.frames, c.waveform, 25.0, RATE), 1), "25 frames"),
        (lambda p, c: p.extend(Clip(c.frames[:0], c.waveform, FPS, RATE), 1), "frames has shape"),
        (lambda p, c: p.retake(c, 2, 1), "does not lie in the clip's 3 s"),
        (lambda p, c: p.retake(c, 2, 3.5), "does not lie in the clip's 3 s"),
        (lambda p, c: p.retake(c, float("nan"), 1), "does not lie"),
        (lambda p, c: p.retake(c, 0, 3), "nothing of the clip is left"),
        (lambda p, c: p.retake(c, 1, 2, "smell"), "'sound' or 'picture'"),
        (lambda p, c: next(p.stream(audio=iter([]))), "nothing to encode"),
        (lambda p, c: next(p.stream(3, audio=iter([c.waveform]))), "how long it is"),
    ],
)
def test_what_cannot_be_is_a_sentence(pipeline, clip, call, sentence):
    with pytest.raises(UserError, match=sentence):
        call(pipeline, clip)
