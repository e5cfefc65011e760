"""The instruments' own error, against what is known to be true."""

import numpy as np
import pytest
import torch

from mmldm.errors import UserError
from mmldm.worlds.impacts.calibration import Truth, calibration, read_truth
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip, synthesize
from mmldm.worlds.impacts.metrics import Impacts
from mmldm.worlds.impacts.motion import background
from mmldm.worlds.impacts.physics import Ball, Impact

BALL = Ball("wood", 0.12, 0.7, (0.5, 0.5), (0.0, 0.0), 1.0)


def truth(*times):
    return Truth([BALL], [Impact(time, 0, "floor", 2.0, True) for time in times])


def found_in(impacts, onsets):
    columns = {
        "onsets": onsets,
        "attacks": [float("nan")] * len(onsets),
        "loudness": [float("nan")] * len(onsets),
        "impacts": impacts,
        "speeds": [2.1] * len(impacts),
        "last": 1.5,
    }
    return {name: torch.tensor(x, dtype=torch.float64) for name, x in columns.items()}


def test_detectors_are_judged_by_what_can_be_seen_and_what_can_be_heard():
    truths = [truth(0.2, 0.8, 1.55), truth(0.5)]
    found = [found_in([0.21, 0.84], [0.2, 0.8, 1.55]), found_in([], [0.49, 1.0])]
    report = calibration(found, truths, 16_000)
    close, loose = report["detectors"]["impacts"]
    assert (close["recall"], close["precision"]) == (1 / 3, 1 / 2)
    assert (loose["recall"], loose["precision"]) == (2 / 3, 1)
    assert loose["offset_ms"] == pytest.approx(25)
    assert loose["median_ms"] == pytest.approx(25)
    assert loose["sd_ms"] == pytest.approx(15)
    onsets = report["detectors"]["onsets"][0]
    assert (onsets["recall"], onsets["precision"]) == (1, 4 / 5)
    assert report["errors"]["speed"]["median"] == pytest.approx(5)
    assert report["errors"]["speed"]["n"] == 1
    assert report["errors"]["attack"]["median"] is None
    silent = calibration([found_in([], [])], [truth(0.3)], 16_000)
    assert silent["detectors"]["impacts"][0]["precision"] is None


def test_instruments_find_the_truth_of_drawn_clips():
    rendered = [render_clip(ImpactsConfig(seed=11), index) for index in range(36)]
    empty = background([r.clip.frames for r in rendered])
    truths = [Truth(r.balls, [impact for impact in r.impacts if impact.audible]) for r in rendered]
    report = calibration(Impacts(empty)([r.clip for r in rendered]), truths, 16_000)
    for name, most in (("impacts", 2), ("onsets", 0.5)):
        close = report["detectors"][name][0]
        assert close["recall"] > 0.8
        assert close["precision"] > 0.9
        assert close["median_ms"] < most
    errors = report["errors"]
    assert errors["speed"]["median"] < 2 and errors["speed"]["n"] > 80
    assert errors["attack"]["median"] < 1
    assert errors["loudness"]["median"] < 0.5


def test_truth_is_read_beside_the_file_and_moved_with_the_window(tmp_path):
    synthesize(tmp_path, ImpactsConfig(seed=11, materials=("wood",)), clips=1, workers=1)
    clip = tmp_path / "wood" / "000000.mp4"
    wanted = [
        i for i in render_clip(ImpactsConfig(seed=11, materials=("wood",)), 0).impacts if i.audible
    ]
    whole = read_truth(clip)
    assert whole.times.tolist() == [impact.time for impact in wanted]
    start = whole.times[1] - 0.01
    part = read_truth(clip, start, 0.02)
    np.testing.assert_allclose(part.times, [0.01])
    assert part.impacts[0].speed == wanted[1].speed
    clip.with_suffix(".json").write_text("{}")
    with pytest.raises(UserError, match="no ground truth"):
        read_truth(clip)
