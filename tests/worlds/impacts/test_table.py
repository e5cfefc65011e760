"""The report says 1 of good sets, finds what is broken in bad ones, and states its own error."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from mmldm.errors import UserError
from mmldm.worlds.impacts.clips import ImpactsConfig, synthesize
from mmldm.worlds.impacts.motion import background
from mmldm.worlds.impacts.report_old import (
    calibration,
    impacts_report,
    measure,
    share,
    true_impacts,
)
from mmldm.worlds.impacts.sync import Moments
from mmldm.worlds.impacts.table import markdown

NAMES = ("drum", "glass", "rubber")


@pytest.fixture(scope="module")
def empty(real):
    return background([clip.frames for clip in real])


@pytest.fixture(scope="module")
def report(rendered, real, empty, classifiers):
    """Held-out clips, clips with foreign sounds, copies of training clips, and broken pictures."""
    training = [r.clip for r in rendered[48:72]]
    labels = [index % 3 for index in range(24)]
    foreign = [
        dataclasses.replace(clip, waveform=real[(index + 1) % 24].waveform)
        for index, clip in enumerate(real)
    ]
    broken = list(real)
    broken[0] = dataclasses.replace(
        real[0], frames=torch.cat([real[0].frames[:12], empty.expand(4, -1, -1, -1)])
    )
    broken[1] = dataclasses.replace(
        real[1], frames=torch.cat([real[1].frames[:12], real[2].frames[12:]])
    )
    sets = {
        "real": measure(iter(real), classifiers, empty, labels),
        "foreign": measure(foreign, classifiers, empty, labels),
        "copies": measure(training, classifiers, empty),
        "broken": measure(broken, classifiers, empty, labels),
    }
    reference = measure((r.clip for r in rendered[24:72]), classifiers, empty)
    return impacts_report(sets, reference, measure(training, classifiers, empty).prints)


def met(report, name):
    return {target: verdict["met"] for target, verdict in report["targets"][name].items()}


def test_real_clips_agree_with_themselves(report):
    found = report["sets"]["real"]
    assert found["clips"] == 24
    assert found["agreement"]["value"] >= 0.95
    assert found["agreement_shuffled"] < 0.5
    assert min(found["accuracy"].values()) >= 0.95
    assert found["broken"]["value"] == 0
    assert found["class_shares"]["video"] == pytest.approx([1 / 3] * 3, abs=0.05)
    assert found["impacts_per_clip_ratio"] == found["ballistic_ratio"] == 1
    assert max(pair["distance"] / pair["floor"] for pair in found["frechet"].values()) < 2
    low, high = found["impacts_per_clip_interval"]
    assert low < found["impacts_per_clip"] < high


def test_foreign_sounds_break_agreement_sync_and_the_distance_of_both(report):
    found, real = report["sets"]["foreign"], report["sets"]["real"]
    assert found["agreement"]["value"] < 0.1
    assert found["sync"][0]["recall"] < real["sync"][0]["recall_shuffled"] + 0.2
    assert found["accuracy"]["video"] >= 0.95
    both = found["frechet"]["both"]
    assert both["distance"] > 4 * both["floor"]
    assert found["frechet"]["video"]["distance"] == real["frechet"]["video"]["distance"]
    assert not met(report, "foreign")["seen class = heard class"]
    for target in ("recall at 50 ms over real", "precision at 100 ms over real"):
        assert not met(report, "foreign")[target]
    assert met(report, "foreign")["departure of impacts a clip"]


def test_copies_of_training_clips_are_nearer_than_held_out_ones(report):
    found = report["sets"]["copies"]["memorisation"]
    assert found["median"] < 1e-5
    assert found["share_near"] == 1
    assert not met(report, "copies")["nearest training clip, median"]
    assert met(report, "foreign")["nearest training clip, 5 % quantile"]


def test_lost_ball_and_changed_material_break_a_clip_each(report):
    found = report["sets"]["broken"]
    assert found["ball_lost"]["value"] == pytest.approx(1 / 24)
    assert found["material_changes"]["value"] >= 1 / 24
    assert found["broken"]["value"] == pytest.approx(2 / 24)
    assert not met(report, "broken")["broken clips"]
    assert met(report, "foreign")["broken clips"]


def test_report_is_json_and_its_table_has_every_set(report):
    assert json.loads(json.dumps(report)) == report
    numbers, targets = markdown(report).split("\n\n")
    for table, names in ((numbers, report["sets"]), (targets, report["targets"])):
        head, _, *rows = table.splitlines()
        assert [cell.strip() for cell in head.split("|")[2:-1]] == list(names)
        assert {row.count("|") for row in rows} == {len(names) + 2}
    assert "**missed**: 0.0833 for 0.02" in targets


def test_measuring_does_not_depend_on_the_batch(real, empty, classifiers, monkeypatch):
    whole = measure(real[:6], classifiers, empty)
    monkeypatch.setattr("mmldm.worlds.impacts.report_old.BATCH", 4)
    parts = measure(real[:6], classifiers, empty)
    assert len(parts.moments) == 6
    assert torch.equal(whole.verdicts.classes.audio, parts.verdicts.classes.audio)
    assert all(map(torch.equal, whole.prints, parts.prints))
    with pytest.raises(UserError, match="no clips"):
        measure([], classifiers, empty)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(0, 10, 0, 0.278), (5, 10, 0.237, 0.763), (98, 100, 0.930, 0.994)],
)
def test_intervals_of_shares_are_wilsons(hits, count, low, high):
    found = share(torch.arange(count) < hits)
    assert found["value"] == pytest.approx(hits / count)
    assert found["interval"] == pytest.approx([low, high], abs=1e-3)


def moments(impacts, onsets):
    return Moments(np.array(onsets), np.array(impacts), last=1.5, kept=1.0, ballistic=1.0)


def test_calibration_counts_what_can_be_seen_and_what_can_be_heard():
    truths = [np.array([0.2, 0.8, 1.55]), np.array([0.5])]
    found = [moments([0.21, 0.87], [0.2, 0.8, 1.55]), moments([], [0.49, 1.0])]
    report = calibration(found, truths)
    close, loose = report["impacts"]
    assert (close["recall"], close["precision"]) == (1 / 3, 1 / 2)
    assert (loose["recall"], loose["precision"]) == (2 / 3, 1)
    assert loose["offset_ms"] == pytest.approx(40)
    assert loose["sd_ms"] == pytest.approx(30)
    onsets = report["onsets"][0]
    assert (onsets["recall"], onsets["precision"]) == (1, 4 / 5)
    assert calibration([moments([], [])], [np.array([0.3])])["impacts"][0]["precision"] is None


def test_detectors_find_the_truth_beside_rendered_files(rendered, empty, classifiers, tmp_path):
    synthesize(tmp_path, ImpactsConfig(seed=11, materials=NAMES), clips=3, workers=1)
    for index in range(3):
        truth = true_impacts(tmp_path / NAMES[index] / f"{index:06d}.mp4")
        assert truth.tolist() == [i.time for i in rendered[index].impacts if i.audible]
    truths = [np.array([i.time for i in r.impacts if i.audible]) for r in rendered[:24]]
    found = measure((r.clip for r in rendered[:24]), classifiers, empty)
    for detector in calibration(found.moments, truths).values():
        assert detector[0]["recall"] > 0.8
        assert detector[0]["precision"] > 0.85
        assert detector[0]["sd_ms"] < 20
    with pytest.raises(UserError, match="no ground truth"):
        true_impacts(tmp_path / "drum" / "000001.mp4")
