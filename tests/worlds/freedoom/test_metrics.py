"""Instruments that are learnt from the game's clips find its shots, and of foreign sounds they say chance."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest

from mmldm.errors import UserError
from mmldm.evaluation.classifiers import train_classifiers
from mmldm.evaluation.evaluate import evaluate
from mmldm.evaluation.features import Classes, Fingerprints, Measures
from mmldm.evaluation.measuring import FeatureCache
from mmldm.evaluation.metrics import choose
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.sets import ClipSet, ClipSource
from mmldm.evaluation.sides import RealSets, Sides
from mmldm.media.reader import read_clip
from mmldm.types import ClipSpec
from mmldm.worlds.freedoom import labels
from mmldm.worlds.freedoom.calibration import calibration
from mmldm.worlds.freedoom.clips import FreedoomConfig, synthesize
from mmldm.worlds.freedoom.metrics import (
    METRICS,
    is_freedoom,
    shots_of,
    true_window,
    vanished,
)
from mmldm.worlds.freedoom.scenarios import SCENARIOS
from mmldm.worlds.freedoom.table import TABLE_METRICS, freedoom_report, markdown

pytestmark = pytest.mark.slow

SPEC = ClipSpec(num_frames=28, fps=17.5, height=48, width=48, sample_rate=16000)
RULES = Protocol(name="freedoom", spec=SPEC, bootstraps=50, shuffles=2)
STARTS = (0.5, 2.3, 4.1)


@pytest.fixture(scope="module")
def folder(playable, tmp_path_factory):
    """Thirty clips of six seconds."""
    place = tmp_path_factory.mktemp("worlds") / "freedoom"
    synthesize(place, FreedoomConfig(width=48, height=48, num_frames=105, seed=5), 30, workers=1)
    return place


@pytest.fixture(scope="module")
def sets(folder):
    """Windows of two thirds of the files, and of the rest."""
    files = sorted(folder.glob("*/*.mp4"))

    def clip_set(name, chosen):
        clips = [
            ClipSource(
                f"{file.stem} {start}",
                str(file.relative_to(folder)),
                f"{file.stem} {start}",
                file.parent.name,
                partial(read_clip, file, start),
                start=start,
            )
            for file in chosen
            for start in STARTS
        ]
        return ClipSet(name, str(folder), tuple(clips))

    training = [file for number, file in enumerate(files) if number % 3]
    return clip_set("reference", training), clip_set("real", files[::3])


@pytest.fixture(scope="module")
def shots(sets):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels.learn_monsters, "__defaults__", (120, 0))
        return shots_of(sets[0], RULES, lambda *_: None)


@pytest.fixture(scope="module")
def report(sets, shots, tmp_path_factory):
    """Held-out clips as they are, and with the sounds of others."""
    reference, real = sets
    own = [clip.read(SPEC) for clip in real.clips]
    foreign = [
        dataclasses.replace(clip, waveform=own[(number + 7) % len(own)].waveform)
        for number, clip in enumerate(own)
    ]

    def in_memory(name, clips):
        sources = [
            dataclasses.replace(
                source, file=source.name, key=f"{name} {source.key}", read=lambda spec, c=clip: c
            )
            for source, clip in zip(real.clips, clips, strict=True)
        ]
        return ClipSet(name, name, tuple(sources))

    generated = {
        "generated": in_memory("generated", foreign),
        "video-to-audio": in_memory("video-to-audio", own),
    }
    named = [(clip.read(SPEC), clip.class_name) for clip in reference.clips]
    classifiers = train_classifiers(named, sorted(SCENARIOS), steps=60)
    measures = Measures([shots, Classes(classifiers), Fingerprints()], {})
    chosen = choose(TABLE_METRICS, SPEC.fps, further=METRICS)
    cache = FeatureCache(tmp_path_factory.mktemp("cache"), SPEC)
    known = RealSets(reference, reference, real)
    found = evaluate(Sides(generated, known), chosen, measures, RULES, cache)
    truths = {clip.name: true_window(clip, real, RULES) for clip in real.clips}
    files = {clip.name: clip.name for clip in real.clips}
    told = freedoom_report(
        found, reference, sorted(SCENARIOS), RULES, truths, {"video-to-audio": files}
    )
    told["calibration"] = calibration(found.sets["real"].findings["shots"], list(truths.values()))
    return told


def test_instruments_find_the_true_shots(report):
    found = report["calibration"]["detectors"]
    (flashes,), (bangs,) = found["flashes"], found["bangs"]
    assert flashes["recall"] > 0.9 and flashes["precision"] > 0.9
    assert bangs["recall"] > 0.9 and bangs["precision"] > 0.9
    assert bangs["median_ms"] < 8 and abs(flashes["offset_ms"]) < 8
    assert report["calibration"]["monsters"]["recall"] > 0.6
    assert report["calibration"]["turning"]["r"] > 0.4


def test_flash_and_bang_go_together_in_real_clips_and_not_under_foreign_sounds(report):
    real, foreign = (report["sets"][name]["numbers"] for name in ("real", "generated"))
    for number in ("shots-recall", "shots-precision"):
        assert real[number]["value"] > 0.9
        assert real[number]["shuffled"] < 0.35 and foreign[number]["value"] < 0.35
    assert not report["targets"]["generated"]["flashes with a bang over real"]["met"]


def test_same_clips_reach_all_that_their_originals_do(report):
    own, met = report["sets"]["video-to-audio"], report["targets"]["video-to-audio"]
    assert own["levels"]["value"] == pytest.approx(1)
    assert own["true_shots"] == report["sets"]["real"]["true_shots"]
    assert met["shots heard, recall over real"] == {"value": 1, "target": 0.95, "met": True}
    assert "shots seen, recall over real" not in met


def test_table_has_a_column_of_every_set_and_the_instruments_errors(report):
    text = markdown(report)
    assert "| | real | generated | video-to-audio |" in text.splitlines()[0].replace("|  |", "| |")
    for words in ("flashes with a bang", "| bangs | 57 ms |", "frames with a monster: recall"):
        assert words in text
    json.dumps(report)


def test_window_of_a_file_has_its_own_shots(sets, folder):
    clip = next(clip for clip in sets[1].clips if clip.start == STARTS[1])
    truth = json.loads((folder / clip.file).with_suffix(".json").read_text())
    start = round(STARTS[1] * 17.5) / 17.5
    wanted = [e["time"] - start for e in truth["events"] if e["kind"] == "shot"]
    window = true_window(clip, sets[1], RULES)
    np.testing.assert_allclose(window.shots, [t for t in wanted if 0 <= t < 1.6])
    first = round(start * 17.5)
    assert window.monsters.tolist() == truth["monster"][first:][:28]
    turns = np.diff(truth["angle"][first:][:28])
    known = ~np.isnan(window.turns) & (np.abs(turns) < 90)
    np.testing.assert_allclose(window.turns[known], turns[known] * 17.5)


def test_clips_without_ground_truth_are_named(sets, tmp_path):
    assert is_freedoom(sets[0])
    elsewhere = dataclasses.replace(sets[0], origin=str(tmp_path))
    assert not is_freedoom(elsewhere)
    with pytest.raises(UserError, match="no ground truth of a freedoom clip"):
        shots_of(elsewhere, RULES, lambda *_: None)


def test_monster_vanishes_where_it_was_and_soon_is_not():
    there = np.zeros(20, dtype=bool)
    there[:9] = True
    assert vanished(np.array([8.0 / 10]), there, 10).tolist() == [0.8]
    assert vanished(np.array([3.0 / 10]), there, 10).tolist() == []
    assert vanished(np.array([1.5]), there, 10).tolist() == []
