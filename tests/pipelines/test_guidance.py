"""Guidance: what is evaluated, and what the null half knows."""

from functools import partial

import pytest
import torch

from mmldm.diffusion.sampling import initial_noise, sample
from mmldm.diffusion.schedules import NoiseProcess, ScheduleConfig, make_scheduler
from mmldm.models.generator import JointGenerator
from mmldm.pipelines.guidance import generator_denoiser, guide
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.types import AV, NOTHING_KNOWN, Known

pytestmark = pytest.mark.slow


def close(a: AV, b: AV) -> bool:
    return all(torch.allclose(x, y, atol=1e-5) for x, y in zip(a, b, strict=True))


@pytest.fixture
def evaluations(pipeline: SoundingVideoPipeline):
    """Rows the generator has seen, one entry per evaluation."""
    seen: list[int] = []
    hook = pipeline.generator.register_forward_hook(
        lambda module, inputs, output: seen.append(len(output.audio))
    )
    yield seen
    hook.remove()


def test_scale_one_makes_no_null_evaluation(pipeline, evaluations, waveforms):
    pipeline(num_samples=2, audio=waveforms[0], guidance_scale=1.0, output_type="latent", seed=0)
    assert evaluations == [2] * 4


def test_guidance_doubles_the_batch_not_the_calls(pipeline, evaluations, waveforms):
    pipeline(num_samples=2, audio=waveforms[0], guidance_scale=2.0, output_type="latent", seed=0)
    assert evaluations == [4] * 4


def test_joint_generation_is_guided_by_the_other_modality_if_trained_on_one_alone(
    pipeline, renoising_pipeline
):
    seen: list[int] = []
    for pipe in (pipeline, renoising_pipeline):
        hook = pipe.generator.register_forward_hook(
            lambda module, inputs, output: seen.append(len(output.audio))
        )
        pipe(num_samples=2, guidance_scale=5.0, num_inference_steps=1, output_type="latent", seed=0)
        hook.remove()
    assert seen == [6, 2]


def test_null_of_each_jointly_generated_modality_is_that_modality_alone(pipeline):
    generator = pipeline.generator
    noise, x = (initial_noise(generator.latent_shapes, [seed]) for seed in (0, 1))
    t = torch.tensor(500)
    nothing = NOTHING_KNOWN
    null = generator_denoiser(generator, noise, nothing, None, AV(0.0, 0.0))(x, t)
    with torch.no_grad():
        audio = generator(AV(x.audio, noise.video), t.expand(1)).audio
        video = generator(AV(noise.audio, x.video), t.expand(1)).video
    assert close(null, AV(audio, video))


@pytest.mark.parametrize("task", ["audio", "frames", "class"])
def test_guidance_extrapolates_from_the_null_prediction(
    pipeline, renoising_pipeline, waveforms, frames, task
):
    condition = {
        "audio": {"audio": waveforms[0]},
        "frames": {"frames": frames[0]},
        "class": {"class_labels": "wood"},
    }[task]
    options = {"num_samples": 1, "seed": 0, "num_inference_steps": 1, "output_type": "latent"}
    for pipe in (pipeline, renoising_pipeline):
        at = {w: pipe(**condition, **options, guidance_scale=w).latents for w in (0.0, 1.0, 3.0)}
        # One step from pure noise is linear in the prediction, hence in the scale.
        expected = at[0.0].map(lambda null, given: null + 3.0 * (given - null), at[1.0])
        for actual, wanted in zip(at[3.0], expected, strict=True):
            assert torch.allclose(actual, wanted, atol=1e-4)
        assert not close(at[0.0], at[1.0])
    if task == "class":
        free = renoising_pipeline(**options).latents
        null = renoising_pipeline(**condition, **options, guidance_scale=0.0).latents
        assert close(null, free)


def test_null_stream_forms_differ_before_the_last_timestep(pipeline, renoising_pipeline, waveforms):
    options = {"audio": waveforms[0], "num_samples": 1, "seed": 0, "guidance_scale": 0.0}
    noise = pipeline(**options, output_type="latent").latents
    renoised = renoising_pipeline(**options, output_type="latent").latents
    assert not torch.allclose(noise.video, renoised.video, atol=1e-4)


def test_null_prediction_with_a_noise_stream_knows_nothing_of_the_given_audio(pipeline, waveforms):
    first, second = (
        pipeline(audio=w, num_samples=1, seed=0, guidance_scale=0.0, output_type="latent").latents
        for w in waveforms
    )
    assert torch.allclose(first.video, second.video, atol=1e-5)
    assert not torch.allclose(first.audio, second.audio, atol=1e-2)


def prefix_of(generator: JointGenerator, seed: int = 2, slots: AV = AV(3, 2)) -> Known:  # noqa: B008
    return Known.prefix(initial_noise(generator.latent_shapes, [seed]), slots)


def test_null_of_a_modality_keeps_its_own_known_slots_and_none_of_the_other(pipeline):
    generator = pipeline.generator
    noise, x = (initial_noise(generator.latent_shapes, [seed]) for seed in (0, 1))
    t, known = torch.tensor(500), prefix_of(generator)
    null = generator_denoiser(generator, noise, known, None, AV(0.0, 0.0))(x, t)
    with torch.no_grad():
        own = AV(known.values.audio, None), AV(known.mask.audio, None)
        audio = generator(AV(x.audio, noise.video), t.expand(1), *own).audio
        own = AV(None, known.values.video), AV(None, known.mask.video)
        video = generator(AV(noise.audio, x.video), t.expand(1), *own).video
        both = generator(x, t.expand(1), known.values, known.mask)
    assert close(null, AV(audio, video))
    guided = generator_denoiser(generator, noise, known, None, AV(3.0, 3.0))(x, t)
    assert close(guided, guide(both, AV(audio, video), AV(3.0, 3.0)))
    assert not close(null, both)


def test_sound_known_whole_guides_a_picture_whose_start_is_known(pipeline):
    generator = pipeline.generator
    noise, x = (initial_noise(generator.latent_shapes, [seed]) for seed in (0, 1))
    t, start = torch.tensor(500), prefix_of(generator)
    known = start._replace(mask=AV(None, start.mask.video))
    seen: list[int] = []
    hook = generator.register_forward_hook(
        lambda module, inputs, output: seen.append(len(output.audio))
    )
    null = generator_denoiser(generator, noise, known, None, AV(0.0, 0.0))(x, t)
    hook.remove()
    assert seen == [2]  # A modality that is known as a whole needs no null rows.
    with torch.no_grad():
        own = AV(None, start.values.video), AV(None, start.mask.video)
        video = generator(AV(noise.audio, x.video), t.expand(1), *own).video
    assert torch.allclose(null.video, video, atol=1e-5)


def test_known_slots_alone_are_no_condition_of_the_papers_form(renoising_pipeline):
    generator = renoising_pipeline.generator
    noise, x = (initial_noise(generator.latent_shapes, [seed]) for seed in (0, 1))
    t, start = torch.tensor(500), prefix_of(generator)

    def at(scale: float, known: Known) -> AV:
        return generator_denoiser(generator, noise, known, None, AV(scale, scale))(x, t)

    assert close(at(0.0, start), at(1.0, start))
    # Beside a whole given sound, the null half keeps the known start of the picture.
    whole = start._replace(mask=AV(None, start.mask.video))
    picture_alone = start._replace(values=AV(None, start.values.video), mask=whole.mask)
    assert close(at(0.0, whole), at(1.0, picture_alone))
    assert not close(at(0.0, whole), at(1.0, whole))


SCHEDULE = ScheduleConfig(prediction="v_prediction", zero_terminal_snr=True)


def paired_latents(count: int) -> AV:
    """Audio signs are random; the video is a function of them."""
    audio = torch.randn(count, 2, 4, 1, 1).sign() + 0.1 * torch.randn(count, 2, 4, 1, 1)
    first, second = audio.unbind(1)
    return AV(audio, torch.stack([second, -first], dim=1))


@pytest.fixture(scope="module")
def paired_generator() -> JointGenerator:
    """Trained for seconds on joint, audio-to-video and video-only rows."""
    torch.manual_seed(0)
    shape = [2, 4, 1, 1]
    generator = JointGenerator(
        shape, shape, width=64, depth=2, heads=4, adaln="single", null_stream="noise"
    )
    process, rows, steps = NoiseProcess(SCHEDULE), 64, 150
    optimizer = torch.optim.AdamW(generator.parameters(), lr=4e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    task = torch.arange(rows) % 10
    given, alone = task < 4, task == 4
    for _ in range(steps):
        clean = paired_latents(rows)
        noise, t = clean.map(torch.randn_like), torch.randint(0, 1000, (rows,))
        noisy = clean.map(partial(process.add_noise, t=t), noise)
        audio = torch.where(alone[:, None, None, None, None], noise.audio, noisy.audio)
        mask = AV(given, torch.zeros_like(given))
        prediction = generator(AV(audio, noisy.video), t, clean, mask)
        target = clean.map(partial(process.target, t=t), noise)
        errors = prediction.map(lambda p, w: (p - w).square().mean((1, 2, 3, 4)), target)
        loss = errors.video.mean() + (errors.audio * ~(given | alone)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return generator.eval()


def test_a_trained_generator_follows_the_given_audio_the_more_the_stronger_the_guidance(
    paired_generator,
):
    torch.manual_seed(1)
    clean = paired_latents(128)
    given = Known(AV(clean.audio, None))
    noise = initial_noise(paired_generator.latent_shapes, list(range(128)))
    agreement = {}
    for scale in (0.0, 1.0, 2.0):
        denoise = generator_denoiser(paired_generator, noise, given, None, AV(scale, scale))
        video = sample(denoise, noise, make_scheduler(SCHEDULE), 20, given).video
        agreement[scale] = float((video.sign() == clean.video.sign()).float().mean())
    assert agreement[0.0] == pytest.approx(0.5, abs=0.08)
    assert agreement[1.0] > 0.9
    assert agreement[2.0] > agreement[1.0]


def test_clips_may_stand_at_different_noise_levels(pipeline):
    generator, nothing, scale = pipeline.generator, NOTHING_KNOWN, AV(2.0, 2.0)
    noise, x = (initial_noise(generator.latent_shapes, seeds) for seeds in ([0, 1], [2, 3]))
    levels = torch.tensor([100, 900])
    together = generator_denoiser(generator, noise, nothing, None, scale)(x, levels)
    for row, t in enumerate(levels):
        own_noise, own, wanted = (
            AV(pair.audio[row : row + 1], pair.video[row : row + 1])
            for pair in (noise, x, together)
        )
        alone = generator_denoiser(generator, own_noise, nothing, None, scale)(own, t)
        assert close(alone, wanted)


def pair(seed: int) -> AV:
    generator = torch.Generator().manual_seed(seed)
    return AV(torch.randn(2, 3, generator=generator), torch.randn(2, 4, 5, generator=generator))


def test_scale_one_is_the_conditional_prediction_and_zero_the_null_one():
    given, null = pair(0), pair(1)
    assert all(map(torch.equal, guide(given, null, AV(1.0, 1.0)), given))
    assert all(map(torch.equal, guide(given, null, AV(0.0, 0.0)), null))


def test_each_modality_is_extrapolated_by_its_own_scale():
    given, null = pair(0), pair(1)
    guided = guide(given, null, AV(3.0, 0.5))
    assert torch.allclose(guided.audio, null.audio + 3.0 * (given.audio - null.audio), atol=1e-5)
    assert torch.allclose(guided.video, (given.video + null.video) / 2, atol=1e-6)


def test_equal_predictions_stay_as_they_are_at_any_scale():
    given = pair(0)
    guided = guide(given, given, AV(7.5, 7.5))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(guided, given, strict=True))
