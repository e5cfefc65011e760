"""Rollouts of a model become files once, as long as asked for; files become films of windows and joins."""

import json
import shutil

import pytest

from mmldm.errors import UserError
from mmldm.evaluation.drift import LEAST_WINDOWS
from mmldm.evaluation.features import build_measures
from mmldm.evaluation.long import BUILDERS, OF_JOINS, evaluate_long, followed
from mmldm.evaluation.long_page import save_long, tables
from mmldm.evaluation.measuring import FeatureCache
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.rollouts import FILM_SETS, SEEDS, long_sides, seams
from mmldm.evaluation.sides import Finder
from mmldm.media.reader import read_clip
from mmldm.types import ClipSpec
from mmldm.worlds.impacts.clips import ImpactsConfig, synthesize

from ..pipelines.conftest import SPEC, build_pipeline

RULES = Protocol(name="test", spec=SPEC.model_copy(update={"num_frames": 16}), bootstraps=50)
SECONDS = LEAST_WINDOWS * RULES.spec.duration
ROLLOUTS = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    pipeline = build_pipeline()
    pipeline.save_pretrained(folder)
    return folder, pipeline


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Eight films of 6.4 s."""
    folder = tmp_path_factory.mktemp("worlds") / "real"
    spec = ClipSpec(num_frames=64, height=32, width=32, sample_rate=8000,
                    spectrogram=SPEC.spectrogram)  # fmt: skip
    config = ImpactsConfig(seed=1, materials=("wood", "glass"), spec=spec, throws_again=True)
    synthesize(folder, config, 8, workers=1)
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


def quiet(what, done, total):
    assert 0 <= done <= total, what


def sides_of(out, generated, folder, pipeline, world, task="joint"):
    finder = Finder(out, RULES, 1, quiet)
    return long_sides(
        finder, generated, folder, pipeline, world, None, FILM_SETS[task], LEAST_WINDOWS, ROLLOUTS
    )


@pytest.fixture(scope="module")
def sides(model, world, out):
    folder, pipeline = model
    return sides_of(out, folder, folder, pipeline, world)


def measured(sides, out, given=None):
    names = ["events", "level", "looks", "fingerprints", *OF_JOINS]
    measures = build_measures(names, sides.anchor, RULES, quiet, further=BUILDERS)
    cache = FeatureCache(out / "cache", RULES.spec)
    return evaluate_long(
        sides, followed(RULES, []), measures, RULES, cache, progress=quiet, given=given
    )


def test_seams_are_where_windows_of_the_plan_are_cut(model):
    _, pipeline = model
    # Windows of 8 ticks of .1 s that share two: without an end cut in the middle of what they share.
    assert seams(pipeline, 2.0, endless=True) == pytest.approx([0.7, 1.3, 1.9])
    # With an end the last window begins a window before it.
    assert seams(pipeline, 2.0, endless=False) == pytest.approx([0.7, 1.3])
    assert seams(pipeline, 1.8, endless=False) == pytest.approx([0.7, 1.2])
    assert seams(pipeline, 0.8, endless=False) == []


def test_films_are_as_long_as_asked_for_and_cut_into_windows_and_joins(sides, out):
    made = sides.made
    assert made.files == [f"{seed:06d}.mp4" for seed in range(ROLLOUTS)]
    assert len(made.windows.clips) == ROLLOUTS * LEAST_WINDOWS
    assert len(made.joins.clips) == ROLLOUTS * len(made.instants) > 0
    film = read_clip(
        out / "rollouts" / "000001.mp4", 0, RULES.spec.model_copy(update={"num_frames": 64})
    )
    assert len(film.frames) == 64 and len(film.waveform) == 64 * 800
    for number in (1, 3):
        window = made.windows.clips[LEAST_WINDOWS + number].read(RULES.spec)
        assert (window.frames == film.frames[16 * number : 16 * number + 16]).all()
    join = made.joins.clips[len(made.instants)].read(RULES.spec)
    first = round(made.instants[0] * 10) - 8
    assert (join.frames == film.frames[first : first + 16]).all()
    assert sides.real.instants == made.instants and len(sides.real.files) == ROLLOUTS
    # Windows of all other real films.
    assert not {clip.file for clip in sides.anchor.clips} & set(sides.real.files)
    assert len(sides.anchor.clips) == 4 * LEAST_WINDOWS


def test_continuations_begin_with_their_prefix(sides, out):
    windows = sides.continuations.windows.clips
    clips = [windows[i].read(RULES.spec) for i in range(0, 3 * SEEDS + 1, 3)]
    same = [(clip.frames.float() - clips[0].frames.float()).abs().mean() for clip in clips]
    assert max(same[:SEEDS]) < 4 < same[SEEDS]


def test_films_are_not_made_again_and_others_are_refused(sides, model, world, out):
    folder, pipeline = model
    kept = {path: path.stat().st_mtime_ns for path in out.glob("rollouts/*.mp4")}
    lost = out / "rollouts" / "000001.mp4"
    before = read_clip(lost, 0, RULES.spec).frames.float()
    lost.unlink()
    again = sides_of(out, folder, folder, pipeline, world)
    assert again.made.files == sides.made.files
    # The same seed, in a batch of another size.
    assert (read_clip(lost, 0, RULES.spec).frames - before).abs().mean() < 1
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items() if path != lost)
    owner = out / "rollouts" / "model.json"
    facts = json.loads(owner.read_text())
    shutil.copy(owner, out / "kept.json")
    owner.write_text(json.dumps({**facts, "seconds": 3.2}))
    with pytest.raises(UserError, match="other settings"):
        sides_of(out, folder, folder, pipeline, world)
    shutil.move(out / "kept.json", owner)


def test_a_report_tells_all_beside_real_films(sides, out):
    report = measured(sides, out)
    assert report["films"] == {"generated": ROLLOUTS, "real": ROLLOUTS}
    names = {"onsets-per-second", "loudness", "sharpness", "moved-colour", "event-overlap"}
    assert names == {n["name"] for n in report["numbers"]}
    loudness = report["numbers"][1]["sets"]
    assert len(loudness["generated"]["values"]) == LEAST_WINDOWS
    assert -60 < loudness["real"]["values"][0] < 0
    assert report["seams"].keys() == {"steps", "onsets", "changes"}
    assert report["continuations"]["prefixes"] == 2
    wanted = {"step of the sound at joins", "changes of the picture at joins over elsewhere"}
    assert wanted <= report["targets"].keys()
    assert report["targets"]["drift: loudness, median"]["met"] in (True, False)
    page = save_long(
        {
            **report,
            "protocol": RULES.model_dump(mode="json"),
            "date": "",
            "mmldm": "",
            "command": "",
        },
        out,
    )
    text = page.read_text()
    assert tables(report) in text and "nan" not in text.lower()
    json.loads((out / "report.json").read_text(), parse_constant=pytest.fail)
    # Nothing is measured twice.
    assert measured(sides, out)["speed"] == "All clips had been measured before."


def test_sound_that_is_given_has_no_joins(model, world, out):
    folder, pipeline = model
    sides = sides_of(out, folder, folder, pipeline, world, "a2v")
    given = sides.real.windows.clips[0].read(RULES.spec).waveform
    made = sides.made.windows.clips[0].read(RULES.spec).waveform
    assert (given - made).abs().max() < 0.2 * given.abs().max()
    assert sides.continuations is None
    # Nothing is told of what was given.
    report = measured(sides, out, "audio")
    told = {number["name"] for number in report["numbers"]}
    assert report["seams"].keys() == {"changes"}
    assert told == {"sharpness", "moved-colour", "event-overlap"}


def test_films_of_a_folder_have_no_known_joins(world, tmp_path):
    sides = sides_of(tmp_path, world, None, None, world)
    assert sides.made.instants == () and len(sides.made.files) == ROLLOUTS
    assert measured(sides, tmp_path)["seams"] == {}
    with pytest.raises(UserError, match="name a model"):
        sides_of(tmp_path, world, None, None, world, "v2a")
