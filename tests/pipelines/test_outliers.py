"""Given media are told from a model's world; 1 % of held-out clips pass its limits; bad ones are refused."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmldm.cli.generate import load_model
from mmldm.errors import UserError
from mmldm.pipelines.outliers import (
    Measures,
    Reference,
    Watch,
    distances_of,
    features_of,
    fit,
    sentences,
)
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.types import AV, MODALITIES
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip

from .conftest import SPEC, build_pipeline


def sounds(count: int, seed: int) -> Tensor:
    """Tones (N,S) of one loudness: a small world."""
    g = torch.Generator().manual_seed(seed)
    pitch = 300 + 200 * torch.rand(count, 1, generator=g)
    return 0.3 * torch.sin(2 * torch.pi * pitch * torch.arange(SPEC.num_samples) / SPEC.sample_rate)


def pictures(count: int, seed: int) -> Tensor:
    """Frames (N,T,3,H,W): a brightness for each clip, in grain."""
    g = torch.Generator().manual_seed(seed)
    shape = (SPEC.num_frames, 3, SPEC.height, SPEC.width)
    level = torch.randint(80, 140, (count, 1, 1, 1, 1), generator=g)
    return (level + torch.randint(0, 20, (count, *shape), generator=g)).to(torch.uint8)


@pytest.fixture(scope="module")
def calibrated() -> SoundingVideoPipeline:
    pipeline = build_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    detector = pipeline.outlier_detector()
    own = [
        fit(*(detector.measure(make(60, seed), modality) for seed in (1, 2)))
        for make, modality in ((sounds, "audio"), (pictures, "video"))
    ]
    stored = Reference(audio=own[0], video=own[1], networks="of the test", held_out=60)
    parts = {name: pipeline.components[name] for name in pipeline.components}
    settings = {"clip_spec": pipeline.config.clip_spec, "class_names": pipeline.config.class_names}
    made = SoundingVideoPipeline(**parts, **settings, outliers=stored.model_dump(mode="json"))
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.slow
def test_bundled_model_knows_its_world_from_grey_noise_and_silence() -> None:
    pipeline = load_model(None, "cpu")
    spec = pipeline.clip_spec

    def media(seed: int) -> AV[Tensor]:
        """96 clips of the impacts world, AV((96,S), (96,T,3,H,W))."""
        clips = [render_clip(ImpactsConfig(seed=seed, spec=spec), i).clip for i in range(96)]
        return AV(
            *(torch.stack(x) for x in zip(*((c.waveform, c.frames) for c in clips), strict=True))
        )

    detector = pipeline.outlier_detector()
    train, held_out, fresh = (media(seed).map(detector.measure, MODALITIES) for seed in (1, 2, 3))
    known = train.map(fit, held_out)
    # About one of 96 is expected beyond the farthest of 96 others.
    assert all((x > 1).sum() <= 5 for x in fresh.map(distances_of, known))
    g = torch.Generator().manual_seed(5)
    strange = AV(
        torch.stack(
            [torch.zeros(spec.num_samples), torch.rand(spec.num_samples, generator=g) - 0.5]
        ),
        torch.full((1, spec.num_frames, 3, spec.height, spec.width), 128, dtype=torch.uint8),
    )
    others = strange.map(detector.measure, MODALITIES).map(distances_of, known)
    assert (others.audio > 1).all() and (others.video > 1).all()


def test_output_tells_of_what_was_given_alone(calibrated: SoundingVideoPipeline) -> None:
    silence = torch.zeros(SPEC.num_samples)
    output = calibrated(audio=silence, num_samples=2, seed=0, num_inference_steps=1)
    distances = output.outlier_distances
    assert distances.video is None
    assert distances.audio is not None and distances.audio.shape == (1, 1)
    # The latents that the task has encoded and those encoded for it alone are the same.
    alone = calibrated.outlier_distances(AV(silence[None], None))
    assert alone.audio is not None
    torch.testing.assert_close(distances.audio, alone.audio)
    joint = calibrated(num_samples=1, seed=0, num_inference_steps=1)
    assert joint.outlier_distances == AV(None, None)


def test_tuple_without_names_stays_clips_and_latents(calibrated: SoundingVideoPipeline) -> None:
    made = calibrated(num_samples=1, seed=0, num_inference_steps=1, return_dict=False)
    assert len(made) == 2


def test_distance_of_a_clip_depends_on_no_other_one(calibrated: SoundingVideoPipeline) -> None:
    media = sounds(11, 6)
    together = calibrated.outlier_distances(AV(media, None)).audio
    alone = calibrated.outlier_distances(AV(media[9:10], None)).audio
    assert together is not None and alone is not None
    torch.testing.assert_close(together[9:10], alone)


def test_windows_of_a_long_sound_are_judged_one_by_one(calibrated: SoundingVideoPipeline) -> None:
    tone, size = sounds(1, 7), SPEC.num_samples
    long = torch.cat([tone, torch.zeros(1, size), tone[:, : size // 2]], dim=1)
    distances = calibrated.outlier_distances(AV(long, None)).audio
    assert distances is not None and distances.shape == (1, 3)
    # A tone, silence, and the last window, which ends where the clip does: half of both.
    parts = torch.cat([tone, torch.zeros(1, size), long[:, -size:]])
    alone = calibrated.outlier_distances(AV(parts, None)).audio
    assert alone is not None
    torch.testing.assert_close(distances[0], alone[:, 0])


def test_parts_that_pass_by_are_judged_as_windows(calibrated: SoundingVideoPipeline) -> None:
    parts = [sounds(1, 8)[0], torch.zeros(SPEC.num_samples), torch.zeros(SPEC.num_samples // 3)]
    watch = Watch(calibrated.outlier_distances, "audio", SPEC.duration)
    passed = list(watch.passing(parts))
    assert all(torch.equal(a, b) for a, b in zip(passed, parts, strict=True))
    whole = [calibrated.outlier_distances(AV(part[None], None)).audio for part in parts]
    expected = sentences(AV(torch.cat([w for w in whole if w is not None], 1), None), "x", 1.6)
    assert list(watch.sentences("x")) == list(expected)


def test_model_without_a_reference_says_nothing() -> None:
    distances = build_pipeline().outlier_distances(AV(sounds(1, 0), None))
    assert distances == AV(None, None)
    assert list(sentences(distances, "x.wav", 1.6)) == []


def test_limits_let_one_held_out_clip_in_a_hundred_pass() -> None:
    g = torch.Generator().manual_seed(0)

    def measures(count: int) -> Measures:
        return Measures(torch.randn(count, 6, generator=g), torch.randn(count, generator=g).exp())

    reference = fit(measures(500), held := measures(1000))
    share = (distances_of(held, reference) > 1).float().mean().item()
    assert 0.004 < share < 0.012
    fresh = (distances_of(measures(4000), reference) > 1).float().mean().item()
    assert 0.003 < fresh < 0.025
    # Of few, the farthest is the limit.
    few = fit(measures(20), held := measures(20))
    assert distances_of(held, few).max() == pytest.approx(1, rel=1e-4)


def test_features_are_means_and_log_spreads_of_channels() -> None:
    latents = torch.randn(2, 3, 4, 2, 1)
    features = features_of(latents)
    flat = latents.flatten(2)
    torch.testing.assert_close(features[:, :3], flat.mean(2))
    spread = flat.var(2, correction=0).sqrt()
    torch.testing.assert_close(features[:, 3:], (spread + 0.01).log())


def test_one_sentence_a_modality_says_how_much_of_it_is_strange() -> None:
    one = list(sentences(AV(torch.tensor([[8.31]]), None), "hammer.wav", 1.6))
    assert len(one) == 1
    assert one[0].startswith("the sound of hammer.wav is unlike all")
    assert "distance 8.3" in one[0]
    many = AV(torch.tensor([[0.5]]), torch.tensor([[0.5, 3.0, 1.2]]))
    (sentence,) = sentences(many, "whale.mp4", 1.6)
    assert sentence.startswith("the picture of whale.mp4 is in 2 of 3 windows of 1.6 s unlike all")


def test_reference_is_stored_and_read_with_the_model(
    calibrated: SoundingVideoPipeline, tmp_path: Path
) -> None:
    calibrated.save_pretrained(tmp_path)
    again = SoundingVideoPipeline.from_pretrained(tmp_path)
    assert again.outlier_reference == calibrated.outlier_reference


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"audio": None}, "audio"),
        ({"held_out": "many"}, "held_out"),
        ({"unheard": 1}, "unheard"),
    ],
)
def test_strange_reference_in_a_folder_is_refused(
    change: dict, word: str, calibrated: SoundingVideoPipeline, tmp_path: Path
) -> None:
    calibrated.save_pretrained(tmp_path)
    path = tmp_path / "model_index.json"
    index = json.loads(path.read_text())
    index["outliers"] |= change
    path.write_text(json.dumps(index))
    with pytest.raises(UserError, match=word):
        SoundingVideoPipeline.from_pretrained(tmp_path)


def test_reference_of_other_latents_is_refused(calibrated: SoundingVideoPipeline) -> None:
    assert calibrated.outlier_reference is not None
    with pytest.raises(UserError, match="calibrate it again"):
        calibrated.outlier_reference.check(AV(5, 6))
