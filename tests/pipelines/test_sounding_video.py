"""The three tasks, determinism and the file format, on tiny real parts."""

import json

import pytest
import torch

from mmldm.errors import UserError
from mmldm.media.clip import Clip
from mmldm.pipelines.sounding_video import SoundingVideoOutput, SoundingVideoPipeline
from mmldm.types import AV


def equal(a: AV, b: AV) -> bool:
    return all(map(torch.equal, a, b))


def close(a: AV, b: AV) -> bool:
    return all(torch.allclose(x, y, atol=1e-5) for x, y in zip(a, b, strict=True))


def test_joint_generation_returns_whole_clips(pipeline):
    output = pipeline(num_samples=3, seed=0)
    assert isinstance(output, SoundingVideoOutput)
    assert len(output.clips) == 3
    assert output.latents.audio.shape == (3, 4, 8, 1, 1)
    for clip in output.clips:
        assert isinstance(clip, Clip)
        assert clip.frames.shape == (8, 3, 32, 32)
        assert clip.frames.dtype == torch.uint8
        assert clip.waveform.shape == (pipeline.clip_spec.num_samples,)
        assert clip.waveform.isfinite().all()
        assert (clip.fps, clip.sample_rate) == (10.0, 8000)
    assert not torch.equal(output.clips[0].frames, output.clips[1].frames)


def test_same_seed_same_clip_different_seed_different_clip(pipeline):
    first, again, other = (pipeline(num_samples=1, seed=s) for s in (3, 3, 4))
    assert equal(first.latents, again.latents)
    assert torch.equal(first.clips[0].frames, again.clips[0].frames)
    assert torch.equal(first.clips[0].waveform, again.clips[0].waveform)
    assert not torch.equal(first.latents.video, other.latents.video)
    assert not torch.equal(first.clips[0].frames, other.clips[0].frames)


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_a_clip_is_the_same_in_any_batch_split(pipeline, scheduler):
    options = {"num_samples": 3, "seed": 7, "scheduler": scheduler}
    whole = pipeline(**options)
    split = pipeline(**options, batch_size=2)
    alone = pipeline(num_samples=1, seed=9, scheduler=scheduler)
    assert close(whole.latents, split.latents)
    assert close(whole.latents.map(lambda z: z[2:]), alone.latents)
    difference = whole.clips[2].frames.int() - alone.clips[0].frames.int()
    assert difference.abs().max() <= 1
    # Griffin-Lim magnifies the last bits of the image; the sound agrees to -40 dB and far better.
    heard, expected = whole.clips[2].waveform, alone.clips[0].waveform
    assert (heard - expected).square().mean() < 1e-4 * expected.square().mean()


def test_generators_follow_diffusers_conventions(pipeline):
    def run(generator):
        return pipeline(num_samples=2, generator=generator, output_type="latent").latents

    single = [run(torch.Generator().manual_seed(1)) for _ in range(2)]
    assert equal(*single)
    listed = run([torch.Generator().manual_seed(s) for s in (1, 2)])
    swapped = run([torch.Generator().manual_seed(s) for s in (2, 1)])
    assert close(listed, swapped.map(lambda z: z.flip(0)))


def test_given_audio_is_in_the_clips_untouched_and_shapes_the_video(pipeline, waveforms):
    first = pipeline(num_samples=2, audio=waveforms[0], seed=0)
    for clip in first.clips:
        assert torch.equal(clip.waveform, waveforms[0])
    second = pipeline(num_samples=2, audio=waveforms[1], seed=0)
    joint = pipeline(num_samples=2, seed=0)
    assert not torch.allclose(first.latents.video, second.latents.video, atol=1e-4)
    assert not torch.allclose(first.latents.video, joint.latents.video, atol=1e-4)


def test_given_frames_are_in_the_clips_untouched_and_shape_the_audio(pipeline, frames):
    output = pipeline(frames=frames, seed=0)
    assert len(output.clips) == 2
    for clip, own in zip(output.clips, frames, strict=True):
        assert torch.equal(clip.frames, own)
    swapped = pipeline(frames=frames.flip(0), seed=0)
    assert not torch.allclose(output.latents.audio, swapped.latents.audio, atol=1e-4)


def test_given_latents_are_the_autoencoders(pipeline, frames):
    output = pipeline(frames=frames, seed=0, output_type="latent")
    assert output.clips == []
    encoded = pipeline.encode(AV(None, frames))
    assert encoded.audio is None
    assert torch.allclose(output.latents.video, encoded.video, atol=1e-5)


def test_known_frames_do_not_change_how_the_sound_is_decoded(pipeline, frames):
    given = pipeline(frames=frames[0], num_samples=1, seed=0)
    generators = [torch.Generator().manual_seed(11)]
    partly = pipeline.decode(given.latents, AV(None, frames[:1]), generators=generators)
    generators = [torch.Generator().manual_seed(11)]
    wholly = pipeline.decode(given.latents, generators=generators)
    assert torch.allclose(partly[0].waveform, wholly[0].waveform, atol=1e-2)
    assert not torch.equal(wholly[0].frames, frames[0])


def test_class_shapes_the_clip(pipeline):
    def run(labels):
        return pipeline(num_samples=2, seed=0, class_labels=labels).latents

    assert equal(run("metal"), run(1))
    assert equal(run("metal"), run(["metal", 1]))
    assert not close(run("metal"), run("wood"))
    assert not close(run("metal"), run(None))


@pytest.mark.parametrize("name", ["ddpm", "dpm++", "unipc", "euler"])
def test_other_samplers_run_by_name(pipeline, name, waveforms):
    output = pipeline(num_samples=1, audio=waveforms[0], seed=0, scheduler=name)
    assert all(z.isfinite().all() for z in output.latents)
    assert output.clips[0].waveform.isfinite().all()


def test_callback_sees_each_step_and_can_replace_the_latents(pipeline):
    seen = []

    def zero(pipe, step, timestep, values):
        seen.append((step, int(timestep)))
        return {"latents": values["latents"].map(torch.zeros_like)}

    output = pipeline(num_samples=1, seed=0, callback_on_step_end=zero, output_type="latent")
    assert seen == [(0, 999), (1, 749), (2, 499), (3, 249)]
    expected = pipeline.generator.denormalise(output.latents.map(torch.zeros_like))
    assert equal(output.latents, expected)


def test_return_dict_false_returns_a_tuple(pipeline):
    clips, latents = pipeline(num_samples=1, seed=0, return_dict=False)
    assert len(clips) == 1
    assert latents.video.shape == (1, 6, 8, 1, 1)


def test_reconstruction_has_the_clips_form_and_depends_on_the_clip(pipeline, waveforms, frames):
    clips = [Clip(f, w, 10.0, 8000) for f, w in zip(frames, waveforms, strict=True)]
    first, again, second = (pipeline.reconstruct(c) for c in (clips[0], clips[0], clips[1]))
    assert first.frames.shape == clips[0].frames.shape
    assert first.waveform.shape == clips[0].waveform.shape
    assert torch.equal(first.frames, again.frames)
    assert not torch.equal(first.frames, second.frames)
    assert not torch.equal(first.waveform, second.waveform)


def test_saved_loaded_saved_pipeline_generates_the_same_clip(pipeline, tmp_path, waveforms):
    pipeline.save_pretrained(tmp_path / "first")
    loaded = SoundingVideoPipeline.from_pretrained(tmp_path / "first")
    loaded.set_progress_bar_config(disable=True)
    assert loaded.clip_spec == pipeline.clip_spec
    assert loaded.class_names == ("wood", "metal")
    loaded.save_pretrained(tmp_path / "second")
    indices = [
        json.loads((tmp_path / n / "model_index.json").read_text()) for n in ("first", "second")
    ]
    assert {**indices[0], "_name_or_path": None} == {**indices[1], "_name_or_path": None}
    for file in (tmp_path / "first").rglob("*.safetensors"):
        assert (
            file.read_bytes()
            == (tmp_path / "second" / file.relative_to(tmp_path / "first")).read_bytes()
        )
    for options in ({}, {"audio": waveforms[0], "guidance_scale": 2.0}, {"class_labels": "metal"}):
        a, b = (p(num_samples=1, seed=0, **options) for p in (pipeline, loaded))
        assert equal(a.latents, b.latents)
        assert torch.equal(a.clips[0].frames, b.clips[0].frames)
        assert torch.equal(a.clips[0].waveform, b.clips[0].waveform)


def test_component_paths_in_the_model_folder_are_pinned(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["vae"] == ["mmldm.models.image_vae", "PatchAutoencoderKL"]
    assert index["autoencoder"] == ["mmldm.models.autoencoder", "MultiModalAutoencoder"]
    assert index["generator"] == ["mmldm.models.generator", "JointGenerator"]
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    assert index["decoder_scheduler"] == ["diffusers", "DDIMScheduler"]


def test_parts_that_do_not_belong_together_are_refused(pipeline):
    with pytest.raises(UserError, match="class names"):
        SoundingVideoPipeline(
            **pipeline.components, class_names=["wood"], clip_spec=pipeline.config.clip_spec
        )


def test_half_precision_weights_generate_finite_clips(pipeline, tmp_path, waveforms):
    pipeline.save_pretrained(tmp_path)
    half = SoundingVideoPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert half.generator.dtype == torch.bfloat16
    options = {"num_samples": 1, "seed": 0, "audio": waveforms[0], "guidance_scale": 2.0}
    output, expected = half(**options), pipeline(**options)
    assert output.latents.video.dtype == torch.float32
    error = (output.latents.video - expected.latents.video).square().mean().sqrt()
    assert error < 0.1 * expected.latents.video.std()
    assert torch.equal(output.clips[0].waveform, waveforms[0])


def test_saved_folder_does_not_tell_where_it_was_loaded_from(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "first")
    SoundingVideoPipeline.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    for file in (tmp_path / "second").rglob("*.json"):
        assert str(tmp_path) not in file.read_text(), file


def test_images_per_call_changes_no_number(pipeline):
    whole, parts = (
        pipeline(num_samples=2, seed=0, images_per_call=images).clips for images in (64, 3)
    )
    for a, b in zip(whole, parts, strict=True):
        assert (a.frames.int() - b.frames.int()).abs().max() <= 1
        # Griffin-Lim starts from the image, and an onset's threshold may fall on the other side.
        assert (a.waveform - b.waveform).norm() < 0.01 * a.waveform.norm()
