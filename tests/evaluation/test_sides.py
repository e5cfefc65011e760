"""A model's sets hold what was given, with its class, and are made once."""

import shutil
from dataclasses import replace

import pytest
import torch

from mmldm.errors import UserError
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.sides import Finder, reconstruction_file
from mmldm.pipelines.published import BUNDLED
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.worlds.impacts.clips import ImpactsConfig, synthesize

pytestmark = pytest.mark.slow

SETTINGS = {"num_inference_steps": 1, "guidance_scale": 1.0}
COUNT = 3


@pytest.fixture(scope="module")
def pipeline():
    pipeline = SoundingVideoPipeline.from_pretrained(BUNDLED)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def finder(pipeline, tmp_path_factory):
    rules = Protocol(name="test", spec=pipeline.clip_spec)
    return Finder(tmp_path_factory.mktemp("out"), rules, 1, lambda what, done, total: None)


@pytest.fixture(scope="module")
def known(finder, pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "clips"
    config = ImpactsConfig(materials=("wood", "glass"), spec=pipeline.clip_spec)
    synthesize(folder, config, 4, workers=1)
    return finder.real_sets(folder, None)


@pytest.fixture(scope="module")
def sides(finder, pipeline, known):
    return finder.model_sides(pipeline, BUNDLED, known, ["joint", "a2v", "v2a"], COUNT, SETTINGS)


def test_every_task_has_a_set_of_its_own(sides):
    assert list(sides.generated) == ["generated", "audio-to-video", "video-to-audio"]
    for clips in sides.generated.values():
        assert [clip.file for clip in clips.clips] == [f"{seed:06d}.mp4" for seed in range(COUNT)]
    assert {clip.class_name for clip in sides.generated["generated"].clips} == {None}


def test_what_is_given_is_that_of_the_held_out_clips_in_turn_and_keeps_its_class(
    sides, known, pipeline
):
    real = [known.real.clips[seed % 2] for seed in range(COUNT)]
    for name in ("audio-to-video", "video-to-audio"):
        for clip, source in zip(sides.generated[name].clips, real, strict=True):
            assert clip.class_name == source.class_name
            made, given = (x.read(pipeline.clip_spec) for x in (clip, source))
            if name == "audio-to-video":
                sounds = torch.stack([made.waveform, given.waveform])
                assert torch.corrcoef(sounds)[0, 1] > 0.9
            else:
                assert (made.frames.float() - given.frames.float()).abs().mean() < 4


def test_reconstructions_have_the_class_of_their_originals(sides, known):
    classes = {reconstruction_file(clip): clip.class_name for clip in known.real.clips}
    assert {clip.file: clip.class_name for clip in sides.reconstruction.clips} == classes


def test_clips_are_kept_between_calls_and_others_are_refused(sides, finder, pipeline, known):
    def refuse(*args, **kwargs):
        raise AssertionError("made again")

    def again(known, settings):
        return finder.model_sides(refuse, BUNDLED, known, ["joint", "v2a"], COUNT, settings)

    made = again(known, SETTINGS)
    for name, clips in made.generated.items():
        assert clips.sha256 == sides.generated[name].sha256
    other = replace(known, real=known.anchor)
    for real, settings in ((known, {}), (other, SETTINGS)):
        with pytest.raises(UserError, match="other settings, or from other held-out clips"):
            again(real, settings)
    with pytest.raises(UserError, match="holds more than 1 samples"):
        finder.model_sides(refuse, BUNDLED, known, ["joint"], 1, SETTINGS)
    damaged = finder.out / "samples" / "model.json"
    shutil.copy(damaged, kept := damaged.with_suffix(".kept"))
    damaged.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        again(known, SETTINGS)
    shutil.move(kept, damaged)
