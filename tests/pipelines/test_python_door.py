"""What a person hands the pipeline in Python: numpy, seeds, stereo, offloading."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import DiffusionPipeline

from mmldm.errors import UserError
from mmldm.media.clip import Clip
from mmldm.pipelines.decoding import DECODER_IMAGES_PER_CALL

from .conftest import SPEC, build_pipeline


def latents(pipeline, **given):
    return pipeline(**given, output_type="latent").latents


@pytest.mark.parametrize("seed", [np.int64(7), np.uint8(7), torch.tensor(7)])
def test_whole_numbers_of_any_library_are_seeds(pipeline, seed):
    first = latents(pipeline, num_samples=1, seed=seed)
    assert torch.equal(first.audio, latents(pipeline, num_samples=1, seed=7).audio)
    several = latents(pipeline, num_samples=2, seed=[seed, np.int64(8)])
    torch.testing.assert_close(several.video, latents(pipeline, num_samples=2, seed=7).video)


@pytest.mark.parametrize("seed", [2**64, -1, 1.5, True, [1, 2**64], "7"])
def test_what_is_no_seed_is_a_sentence(pipeline, seed):
    with pytest.raises(UserError, match="seed"):
        pipeline(num_samples=2 if isinstance(seed, list) else 1, seed=seed)


def test_largest_seed_is_one(pipeline):
    assert latents(pipeline, num_samples=1, seed=2**64 - 1).audio.isfinite().all()


def test_numpy_media_are_taken_as_tensors_are(pipeline, waveforms, frames):
    for name, media in (("audio", waveforms[0]), ("frames", frames[0])):
        ours, theirs = (
            latents(pipeline, **{name: m}, num_samples=1, seed=0) for m in (media, media.numpy())
        )
        assert torch.equal(ours.audio, theirs.audio)


def test_batch_of_one_is_one_clip_and_a_bare_sound_serves_four(pipeline, waveforms):
    assert len(latents(pipeline, audio=waveforms[:1], seed=0).audio) == 1
    assert len(latents(pipeline, audio=waveforms[0], seed=0).audio) == 4


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"audio": np.zeros(6400, np.int16)}, "divide 16-bit samples by 32768"),
        (
            {"audio": np.zeros((6400, 2), np.float32)},
            r"mix its two channels to one, audio.mean\(1\)",
        ),
        ({"audio": np.array(["a"])}, "holds no media"),
        ({"audio": "hit.wav"}, "must be a tensor, a numpy array or a list"),
        ({"audio": [torch.zeros(6400), torch.zeros(10)]}, "differ in shape"),
        ({"frames": np.zeros((8, 32, 32, 3), np.uint8)}, r"\(8, 32, 32, 3\)"),
        ({"num_samples": 2.0}, "num_samples must be at least 1, a whole number"),
        ({"num_samples": True}, "num_samples must be at least 1"),
        ({"images_per_call": 0}, "images_per_call must be at least 1"),
        ({"guidance_scale": float("nan")}, "guidance_scale nan"),
        ({"num_inference_steps": 2.5}, "num_inference_steps 2.5"),
        ({"num_inference_steps": 10**10}, "num_inference_steps 10000000000"),
        ({"class_labels": True}, "True"),
    ],
)
def test_what_does_not_fit_is_a_sentence(pipeline, asked, sentence):
    with pytest.raises(UserError, match=sentence):
        pipeline(**asked)


def test_numpys_numbers_are_numbers_everywhere(pipeline):
    plain = pipeline(num_samples=2, seed=0, class_labels=[1, 0], num_inference_steps=2)
    numpys = pipeline(
        num_samples=np.int64(2),
        seed=np.array([0, 1]),
        class_labels=np.array([1, 0]),
        num_inference_steps=np.int32(2),
        decoder_steps=np.int64(2),
        guidance_scale=np.float32(1),
        batch_size=np.int64(2),
        images_per_call=np.int64(34),
    )
    assert torch.equal(plain.latents.audio, numpys.latents.audio)
    assert torch.equal(plain.clips[1].frames, numpys.clips[1].frames)
    one = latents(pipeline, num_samples=2, seed=0, class_labels=np.int64(1))
    assert torch.equal(one.video, latents(pipeline, num_samples=2, seed=0, class_labels=1).video)


def test_two_channels_are_not_two_clips_unless_two_are_asked_for(pipeline, waveforms):
    with pytest.raises(UserError, match=r"mix stereo to one channel, audio.mean\(0\)"):
        pipeline(audio=waveforms, seed=0)
    assert len(latents(pipeline, audio=waveforms, num_samples=2, seed=0).audio) == 2
    assert len(latents(pipeline, audio=list(waveforms), seed=0).audio) == 2


@pytest.mark.parametrize(
    ("factor", "sentence"),
    [(10.0, "divide it by its peak"), (float("nan"), "NaN"), (float("inf"), "NaN or infinite")],
)
def test_sound_that_is_no_waveform_is_a_sentence(pipeline, waveforms, factor, sentence):
    with pytest.raises(UserError, match=sentence):
        pipeline(audio=waveforms[0] * factor, seed=0)


@pytest.mark.parametrize("suffix", [".wav", ".mp4"])
def test_clip_whose_sound_is_not_finite_is_not_written(tmp_path, suffix):
    frames = torch.zeros(SPEC.num_frames, 3, 32, 32, dtype=torch.uint8)
    clip = Clip(frames, torch.full((SPEC.num_samples,), float("nan")), SPEC.fps, SPEC.sample_rate)
    with pytest.raises(UserError, match="NaN or infinite"):
        clip.save(tmp_path / f"clip{suffix}")
    assert not any(tmp_path.iterdir())


@contextmanager
def counted_inputs(module: torch.nn.Module) -> Iterator[list[int]]:
    """How many rows a network is given, call by call."""
    seen: list[int] = []
    hook = module.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    yield seen
    hook.remove()


def test_given_clip_is_encoded_once_for_all_samples(pipeline, waveforms):
    with counted_inputs(pipeline.autoencoder.encoders.audio) as seen:
        latents(pipeline, audio=waveforms[0], num_samples=5, batch_size=2, seed=0)
    assert seen == [1]


def test_decoder_sees_a_bounded_number_of_images(pipeline):
    made = latents(pipeline, num_samples=9, batch_size=9, seed=0)
    whole = pipeline.decode(made, images_per_call=1000)
    with counted_inputs(pipeline.autoencoder.decoder) as seen:
        clips = pipeline.decode(made)
    assert max(seen) <= DECODER_IMAGES_PER_CALL < 9 * (SPEC.num_frames + 1)
    for clip, other in zip(clips, whole, strict=True):
        assert (clip.frames.int() - other.frames.int()).abs().max() <= 1


def test_diffusers_own_class_names_ours(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "model")
    with pytest.raises(Exception, match="SoundingVideoPipeline"):
        DiffusionPipeline.from_pretrained(tmp_path / "model")


def test_offloaded_networks_come_whichever_method_is_called(waveforms):
    """Hooks of offloading, counted: a network used without them would stay behind on the CPU."""
    pipeline = build_pipeline()
    fetched: list[str] = []

    class Fetching(ModelHook):
        def __init__(self, name: str) -> None:
            self.name = name

        def pre_forward(self, module, *args, **kwargs):
            fetched.append(self.name)
            return args, kwargs

    order = pipeline.model_cpu_offload_seq.split("->")
    assert order == ["student", "generator", "autoencoder", "vae", "vocoder"]
    for name in ("generator", "autoencoder", "vae"):
        add_hook_to_module(getattr(pipeline, name), Fetching(name))
    made = pipeline(audio=waveforms[0], num_samples=1, seed=0).clips
    assert set(fetched) == {"generator", "autoencoder", "vae"}
    # Encoding first: the image VAE and the autoencoder, and only then the generator.
    assert fetched.index("vae") < fetched.index("autoencoder") < fetched.index("generator")
    assert torch.equal(made[0].waveform, waveforms[0])


def test_offloaded_model_makes_the_same_clips_call_after_call(pipeline, waveforms, frames):
    """diffusers' own switch, with the CPU as the device to compute on."""
    offloaded = build_pipeline()
    offloaded.enable_model_cpu_offload(device="cpu")
    for given in ({"audio": waveforms[0]}, {"frames": frames[0]}, {}):
        ours, theirs = (p(**given, num_samples=1, seed=0) for p in (offloaded, pipeline))
        assert torch.equal(ours.clips[0].frames, theirs.clips[0].frames)
        assert torch.equal(ours.latents.audio, theirs.latents.audio)
    kept = offloaded.reconstruct(Clip(frames[0], waveforms[0], SPEC.fps, SPEC.sample_rate))
    assert kept.frames.shape == frames[0].shape


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator")
def test_offloaded_model_computes_on_the_accelerator_and_leaves_it(waveforms):
    offloaded = build_pipeline()
    offloaded.enable_model_cpu_offload()
    clip = offloaded(audio=waveforms[0], num_samples=1, seed=0).clips[0]
    assert clip.frames.shape == (SPEC.num_frames, 3, 32, 32)
    assert {p.device.type for p in offloaded.generator.parameters()} == {"cpu"}


def test_offloading_without_an_accelerator_is_refused_by_diffusers_with_a_reason():
    if torch.accelerator.is_available():
        pytest.skip("there is an accelerator to offload from")
    with pytest.raises(RuntimeError, match="requires accelerator"):
        build_pipeline().enable_model_cpu_offload()
