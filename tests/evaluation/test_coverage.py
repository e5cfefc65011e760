"""Drawn sets whose windows hang together by file: 95 % intervals hold the truth 93 to 97 times in a hundred.

Six windows a file that correlate by .8, as windows of one recording do. Taken as independent, their intervals
held it 55 to 75 times.
"""

import numpy as np
import pytest
import torch

from mmldm.evaluation.clipwise import ClipMedian, ClipRatio
from mmldm.evaluation.kernels import polynomial
from mmldm.evaluation.metrics import FrechetDistance, KernelDistance
from mmldm.evaluation.protocol import find_protocol
from mmldm.evaluation.values import Grouped, Number

pytestmark = pytest.mark.slow

RULES = find_protocol("default").model_copy(update={"bootstraps": 400})
WINDOWS, ALIKE, DIM, DRAWS = 6, 0.8, 6, 600
NUMBER = Number("x", "x", "higher")


def drawn(files, rng, shift=0.0, scale=1.0, dim=DIM):
    """Features (N,D) of all windows of the files, N(shift, scale^2), and which file each is of."""
    own, of_window = (
        rng.standard_normal((files, 1, dim)),
        rng.standard_normal((files, WINDOWS, dim)),
    )
    values = scale * (ALIKE**0.5 * own + (1 - ALIKE) ** 0.5 * of_window) + shift
    return values.reshape(-1, dim), np.repeat(np.arange(files), WINDOWS)


def side(values, units):
    """A side of clips with one window of features each."""
    return Grouped([{"features": row[None]} for row in torch.from_numpy(values)], units)


def apart(found):
    """The same findings, as if no two clips hung together."""
    return list(found)


def coverage(metric, draw, truth=None, draws=DRAWS):
    """Shares of draws whose interval holds the truth (None: the mean), by file and by window."""
    values = []
    intervals: dict[str, list] = {"files": [], "windows": []}
    for _ in range(draws):
        sides = draw()
        for kind, used in (("files", sides), ("windows", [apart(x) for x in sides])):
            (value,) = metric.values(*used, RULES)
            intervals[kind].append(value.interval)
            if kind == "files":
                values.append(value.value)
    truth = np.mean(values) if truth is None else truth
    ends = {kind: np.array(found) for kind, found in intervals.items()}
    return {k: float(((x[:, 0] <= truth) & (truth <= x[:, 1])).mean()) for k, x in ends.items()}


def first(heard, seen):
    return seen["features"][0, 0].item(), 1.0


def above(heard, seen):
    return float(seen["features"][0, 0].item() > 0.5), 1.0


def every(heard, seen):
    return seen["features"][0].numpy()[:1]


def frechet():
    return FrechetDistance("fd", "Fréchet", "net")


def kernel():
    return KernelDistance("kd", "kernel", "net", polynomial)


@pytest.mark.parametrize("files", [12, 40])
@pytest.mark.parametrize(
    ("metric", "truth"),
    [
        (ClipRatio("x", NUMBER, "m", first), 0.0),
        (ClipRatio("x", NUMBER, "m", above, share=True), 0.3085),
        (ClipMedian("x", NUMBER, "m", every), 0.0),
    ],
    ids=["mean", "share", "median"],
)
def test_intervals_of_clips_hold_the_truth_as_often_as_they_say(metric, truth, files):
    rng = np.random.default_rng(files)
    found = coverage(metric, lambda: [side(*drawn(files, rng, dim=1))] * 2, truth)
    assert 0.93 <= found["files"] <= 0.97
    assert found["windows"] < 0.85


def two_sets(shift, scale, files=(24, 40), seed=1):
    """Draws of two sets of this many files, the first moved and widened."""
    rng = np.random.default_rng(seed)
    return lambda: [side(*drawn(files[0], rng, shift, scale)), side(*drawn(files[1], rng))]


@pytest.mark.parametrize(
    ("metric", "shift", "scale"),
    [(kernel(), 0.5, 1.0), (frechet(), 0.0, 1.5)],
    ids=["kernel", "fd"],
)
def test_intervals_of_distances_hold_their_mean_as_often_as_they_say(metric, shift, scale):
    found = coverage(metric, two_sets(shift, scale), draws=300)
    assert 0.93 <= found["files"] <= 0.97
    assert found["windows"] < 0.75


def test_kernel_distance_of_equal_laws_is_0_within_its_interval():
    """Between equal laws the jackknife is rather too wide, so it holds 0 more often than 95 times."""
    found = coverage(kernel(), two_sets(0.0, 1.0), truth=0.0, draws=300)
    assert found["files"] >= 0.95
    assert found["windows"] < 0.1


def test_kernel_distance_of_equal_laws_is_0_in_the_mean_and_above_where_pairs_of_a_file_count():
    draw = two_sets(0.0, 1.0)
    found = [kernel().values(*draw(), RULES)[0] for _ in range(200)]
    values, published = ([getattr(x, name) for x in found] for name in ("value", "published"))
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values)) < 3 * error
    assert np.mean(published) > 10 * error
