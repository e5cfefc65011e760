"""A clip is a function of (config, index); a folder of them is whole, resumable and never mixed."""

import json

import numpy as np
import pydantic
import pytest
import torch

from mmldm.errors import UserError
from mmldm.evaluation.events import detect_onsets, match
from mmldm.media.reader import read_clip
from mmldm.types import ClipSpec
from mmldm.worlds.impacts.clips import (
    ImpactsConfig,
    material_of,
    render_clip,
    synthesize,
    true_impacts,
)
from mmldm.worlds.impacts.materials import MATERIALS
from mmldm.worlds.impacts.render import background

pytestmark = pytest.mark.slow


def test_same_seed_and_index_give_the_same_clip():
    config = ImpactsConfig(seed=4, max_balls=3)
    render_clip(config, 0)
    first, again = render_clip(config, 7), render_clip(config, 7)
    assert torch.equal(first.clip.frames, again.clip.frames)
    assert torch.equal(first.clip.waveform, again.clip.waveform)
    assert first.impacts == again.impacts


@pytest.mark.parametrize(
    ("index", "impacts", "brightness", "loudness"),
    [
        (0, [0.273739953, 1.038667751, 1.252212627], 51.838547, 0.0857828),
        (1, [0.48809513, 1.068684142, 1.469706159, 1.49713668], 50.178410, 0.0372209),
        (7, [0.460699359, 0.508112458, 1.015232423, 1.438630531], 50.229691, 0.0353733),
    ],
)
def test_published_clips_stay_what_they_are(index, impacts, brightness, loudness):
    """Measurements of years compare with them: as they were rendered by the first version."""
    rendered = render_clip(ImpactsConfig(seed=1), index)
    assert [hit.time for hit in rendered.impacts][: len(impacts)] == pytest.approx(impacts)
    assert rendered.clip.frames.float().mean().item() == pytest.approx(brightness, abs=1e-3)
    assert rendered.clip.waveform.square().mean().sqrt().item() == pytest.approx(loudness, 1e-4)
    assert (rendered.begin, rendered.throws) == (0.0, [])


def test_clip_that_begins_later_is_cut_out_of_the_world_that_goes_on():
    cuts = {index: render_clip(going_on(latest_start=20.0), index) for index in range(8)}
    index, cut = next((index, cut) for index, cut in cuts.items() if cut.begin > 5)
    whole = render_clip(going_on(num_frames=220), index)
    frame, sample = round(cut.begin * 10), round(cut.begin * 16000)
    assert torch.equal(cut.clip.frames, whole.clip.frames[frame : frame + 16])
    waveform = whole.clip.waveform[sample : sample + len(cut.clip.waveform)]
    assert torch.equal(cut.clip.waveform, waveform) and waveform.abs().max() > 0.01
    for mine, all_of_them in ((cut.impacts, whole.impacts), (cut.throws, whole.throws)):
        inside = [event.time - cut.begin for event in all_of_them]
        inside = [time for time in inside if 0 <= time < 1.6]
        assert [event.time for event in mine] == pytest.approx(inside)


def test_world_that_goes_on_starts_as_the_same_clip():
    ends, goes_on = render_clip(ImpactsConfig(seed=4), 3), render_clip(going_on(seed=4), 3)
    assert torch.equal(ends.clip.frames, goes_on.clip.frames)
    assert torch.equal(ends.clip.waveform, goes_on.clip.waveform)


def test_half_of_the_clips_begin_with_the_throw_in_every_class():
    config = going_on(latest_start=20.0, height=16, width=16)
    begins = np.array([render_clip(config, index).begin for index in range(360)])
    classes = np.arange(360) % len(MATERIALS)
    for material in range(len(MATERIALS)):
        assert 0.3 < (begins[classes == material] == 0).mean() < 0.7
    later = begins[begins > 0]
    assert later.min() < 2 and later.max() > 18 and 8 < later.mean() < 12
    np.testing.assert_allclose(later * 10, np.round(later * 10), atol=1e-9)


def test_balls_of_a_clip_are_where_its_first_frame_shows_them():
    config = going_on(latest_start=20.0, height=64, width=64, fps=100)
    room = 255 * background(64, 64)
    later = 0
    for index in range(24):
        rendered = render_clip(config, index)
        other = np.abs(rendered.clip.frames[0].permute(1, 2, 0).numpy() - room).max(-1) > 40
        rows, columns = np.nonzero(other)
        (ball,) = rendered.balls
        found = np.array([columns.mean(), rows.mean()]) / 64
        np.testing.assert_allclose(found, ball.position, atol=0.04)
        later += rendered.begin > 0
    assert later > 3


def test_other_seed_or_index_gives_another_clip():
    base = render_clip(ImpactsConfig(seed=4), 0)
    for config, index in ((ImpactsConfig(seed=5), 0), (ImpactsConfig(seed=4), 6)):
        other = render_clip(config, index)
        assert other.material == base.material
        assert other.balls != base.balls


def test_classes_are_balanced():
    config = ImpactsConfig()
    names = [material_of(config, index) for index in range(60)]
    assert len(MATERIALS) >= 6
    assert {names.count(name) for name in MATERIALS} == {60 // len(MATERIALS)}


def test_balls_of_a_clip_share_its_material_and_number_within_bounds():
    config = ImpactsConfig(min_balls=1, max_balls=3)
    counts = set()
    for index in range(24):
        rendered = render_clip(config, index)
        assert {ball.material for ball in rendered.balls} == {rendered.material}
        counts.add(len(rendered.balls))
    assert counts == {1, 2, 3}


@pytest.mark.parametrize(
    "spec",
    [
        ClipSpec(height=40, width=56, num_frames=9, fps=12.5, sample_rate=22050),
        ClipSpec(height=128, width=128, num_frames=8, fps=25, sample_rate=48000),
    ],
)
def test_clip_has_the_lengths_of_its_spec(spec):
    clip = render_clip(ImpactsConfig(spec=spec), 1).clip
    assert clip.frames.shape == (spec.num_frames, 3, spec.height, spec.width)
    assert clip.frames.dtype == torch.uint8
    assert clip.waveform.shape == (spec.num_samples,)
    assert (clip.fps, clip.sample_rate) == (spec.fps, spec.sample_rate)


def test_a_clip_has_a_few_audible_impacts():
    counts = [
        sum(impact.audible for impact in render_clip(ImpactsConfig(seed=1), index).impacts)
        for index in range(60)
    ]
    assert 3 <= sum(counts) / 60 <= 6


@pytest.mark.parametrize(
    "wrong",
    [
        {"materials": ("wood", "jelly")},
        {"materials": ()},
        {"min_balls": 3, "max_balls": 2},
        {"max_balls": 4},
        {"colour": "red"},
        {"spec": ClipSpec(height=128, width=48)},
        {"latest_start": 5.0},
        {"throws_again": True, "latest_start": -1.0},
    ],
)
def test_impossible_worlds_are_refused(wrong):
    with pytest.raises(pydantic.ValidationError):
        ImpactsConfig(**wrong)


def tiny(**changes):
    return ImpactsConfig(spec=ClipSpec(height=32, width=32, num_frames=8), **changes)


def going_on(seed=4, latest_start=0.0, **spec):
    return ImpactsConfig(
        seed=seed, throws_again=True, latest_start=latest_start, spec=ClipSpec(**spec)
    )


def test_folder_holds_clips_by_class_with_their_ground_truth(tmp_path):
    calls = []
    written = synthesize(
        tmp_path / "world", tiny(), 6, workers=1, progress=lambda *a: calls.append(a)
    )
    assert written == 6
    assert calls == [(n, 6) for n in range(1, 7)]
    clips = sorted(tmp_path.glob("world/*/*.mp4"))
    assert [path.parent.name for path in clips] == sorted(MATERIALS)
    for path in clips:
        truth = json.loads(path.with_suffix(".json").read_text())
        rendered = render_clip(tiny(), truth["index"])
        assert truth["material"] == path.parent.name == rendered.material
        assert [impact["time"] for impact in truth["impacts"]] == [
            impact.time for impact in rendered.impacts
        ]
    config = json.loads((tmp_path / "world" / "impacts.json").read_text())
    assert ImpactsConfig(**config) == tiny()


def test_interrupted_folder_is_completed_and_whole_clips_are_kept(tmp_path):
    synthesize(tmp_path, tiny(), 6, workers=1)
    clips = sorted(tmp_path.glob("*/*.mp4"))
    stamps = {path: path.stat().st_mtime_ns for path in clips}
    clips[0].unlink()
    clips[1].with_suffix(".json").unlink()
    assert synthesize(tmp_path, tiny(), 8, workers=1) == 4
    assert len(list(tmp_path.glob("*/*.mp4"))) == 8
    assert len(list(tmp_path.glob("*/*.json"))) == 8
    assert all(path.stat().st_mtime_ns == stamps[path] for path in clips[2:])


def test_workers_write_what_one_process_writes(tmp_path):
    synthesize(tmp_path / "one", tiny(seed=3), 4, workers=1)
    synthesize(tmp_path / "two", tiny(seed=3), 4, workers=2)
    written = sorted((tmp_path / "one").rglob("*.*"))
    assert len(written) == 9
    for path in written:
        twin = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert twin.read_bytes() == path.read_bytes(), path.name


def test_folder_of_another_configuration_is_refused_by_name(tmp_path):
    synthesize(tmp_path, tiny(), 1, workers=1)
    with pytest.raises(UserError, match="seed"):
        synthesize(tmp_path, tiny(seed=1), 1, workers=1)


def test_folder_of_an_older_version_is_gone_on_with(tmp_path):
    synthesize(tmp_path, tiny(), 1, workers=1)
    described = tmp_path / "impacts.json"
    facts = json.loads(described.read_text())
    for later in ("throws_again", "latest_start"):
        del facts[later]
    described.write_text(json.dumps(facts))
    assert synthesize(tmp_path, tiny(), 2, workers=1) == 1
    with pytest.raises(UserError, match=r"another configuration \(throws_again differ\)"):
        synthesize(tmp_path, tiny(throws_again=True), 2, workers=1)


def test_ground_truth_lists_throws_and_where_the_clip_begins(tmp_path):
    config = going_on(latest_start=20.0, height=32, width=32, num_frames=60)
    synthesize(tmp_path, config, 6, workers=1)
    thrown = 0
    for index in range(6):
        rendered = render_clip(config, index)
        path = tmp_path / rendered.material / f"{index:06d}.json"
        truth = json.loads(path.read_text())
        assert truth["begin"] == rendered.begin
        expected = [{"time": throw.time, "ball": throw.ball} for throw in rendered.throws]
        assert truth["throws"] == expected
        thrown += len(expected)
    assert thrown > 3


def test_true_impacts_of_a_window_are_on_its_own_clock(tmp_path):
    config = going_on(height=32, width=32, num_frames=80)
    synthesize(tmp_path, config, 1, workers=1)
    path = tmp_path / "drum" / "000000.mp4"
    every = true_impacts(path)
    inside = every[(every >= 2.5) & (every < 4.1)]
    assert 0 < len(inside) < len(every) and every.max() > 5
    np.testing.assert_allclose(true_impacts(path, 2.5, 1.6), inside - 2.5)
    assert true_impacts(path, 100.0, 1.6).shape == (0,)


def test_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"precious")
    with pytest.raises(UserError, match="not empty"):
        synthesize(tmp_path, tiny(), 1, workers=1)
    assert (tmp_path / "holiday.mp4").read_bytes() == b"precious"
    with pytest.raises(UserError, match="not empty"):
        synthesize(tmp_path / "holiday.mp4", tiny(), 1, workers=1)


@pytest.mark.parametrize(
    ("text", "named"), [("{half", "impacts.json cannot be read"), ("[]", "impacts.json"),
                        ('{"seed": 0, "wind": 3}', "impacts.json.*wind")]
)  # fmt: skip
def test_damaged_or_strange_description_is_named(tmp_path, text, named):
    (tmp_path / "impacts.json").write_text(text)
    with pytest.raises(UserError, match=named):
        synthesize(tmp_path, tiny(), 1, workers=1)


def test_class_folder_that_cannot_be_made_is_named(tmp_path):
    synthesize(tmp_path, tiny(), 0, workers=1)
    (tmp_path / "drum").symlink_to(tmp_path / "nowhere" / "at all")
    with pytest.raises(UserError, match="drum"):
        synthesize(tmp_path, tiny(), 1, workers=1)


def test_written_clips_sound_when_the_ground_truth_says(tmp_path):
    config = ImpactsConfig(seed=2)
    synthesize(tmp_path, config, 12, workers=1)
    found = expected = 0
    for path in sorted(tmp_path.glob("*/*.mp4")):
        truth = json.loads(path.with_suffix(".json").read_text())
        times = [impact["time"] for impact in truth["impacts"] if impact["audible"]]
        clip = read_clip(path, 0.0, config.spec)
        onsets = detect_onsets(clip.waveform, clip.sample_rate)
        found += len(match(onsets, np.array(times), 0.015))
        expected += len(times)
    assert found / expected > 0.85
