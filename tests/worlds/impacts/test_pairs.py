"""The same hits, uneven classes, and how different several sounds of one picture are."""

import numpy as np
import pytest
import torch

from mmldm.worlds.impacts.pairs import diversity, evenness, same_hits


def heard(onsets, attacks, loudness):
    columns = {"onsets": onsets, "attacks": attacks, "loudness": loudness}
    return {name: torch.tensor(x, dtype=torch.float64) for name, x in columns.items()}


NAN = float("nan")


def test_excess_and_loudness_are_of_the_hits_that_both_have():
    real = heard([0.2, 0.6, 1.0], [2.0, 2.0, NAN], [-20.0, -22.0, -24.0])
    slow = heard([0.21, 0.61, 1.01, 1.4], [12.0, 8.0, 9.0, 99.0], [-18.0, -21.0, NAN, 0.0])
    other = heard([0.2], [2.5], [-20.0])
    found = same_hits([(slow, real), (other, real)], ["drum", "wood"])
    assert found["attack_excess"]["all"]["value"] == 6
    assert found["attack_excess"]["drum"]["value"] == 8
    assert found["attack_excess"]["wood"]["value"] == 0.5
    assert found["attack_excess"]["all"]["n"] == 3
    low, high = found["attack_excess"]["all"]["interval"]
    assert low <= 6 <= high
    assert found["loudness_bias"]["value"] == pytest.approx(1)
    assert found["loudness_spread"]["value"] == pytest.approx(np.std([2, 1, 0]))


def test_more_samples_of_the_same_given_clips_narrow_no_interval():
    rng = np.random.default_rng(0)
    real = heard([0.2, 0.6], [2.0, 2.0], [-20.0, -22.0])
    shifts = rng.normal(size=(12, 2, 2))
    made = [(heard([0.2, 0.6], 2 + own[0], own[1] - 20), real) for own in shifts]
    once = same_hits(made, ["drum"] * 12)
    again = same_hits(made * 4, ["drum"] * 48, units=np.tile(np.arange(12), 4))
    as_clips = same_hits(made * 4, ["drum"] * 48)

    def widths(found):
        numbers = (*found["attack_excess"].values(), found["loudness_bias"])
        return [high - low for low, high in (x["interval"] for x in numbers)]

    assert widths(again) == pytest.approx(widths(once))
    assert again["loudness_spread"]["interval"] == pytest.approx(
        once["loudness_spread"]["interval"]
    )
    assert all(x < 0.8 * y for x, y in zip(widths(as_clips), widths(once), strict=True))


def test_hits_that_none_has_are_undefined():
    nothing = heard([], [], [])
    found = same_hits([(nothing, nothing)], ["drum"])
    assert found["attack_excess"]["all"]["value"] is None
    assert found["loudness_bias"] == {"value": None, "interval": None, "n": 0}


@pytest.mark.parametrize("counts", [[40, 40, 40], [56, 55, 33, 32, 32, 32], [20, 10]])
def test_chance_of_uneven_classes_is_that_of_the_chi_square_test(counts):
    stats = pytest.importorskip("scipy.stats")
    total = sum(counts)
    found = evenness([count / total for count in counts], total)
    assert found["p"] == pytest.approx(stats.chisquare(counts).pvalue)
    assert found["largest_over_smallest"] == pytest.approx(max(counts) / min(counts))


def test_a_class_that_never_comes_has_no_ratio():
    assert evenness([1.0, 0.0], 10)["largest_over_smallest"] is None


def test_diversity_is_nothing_for_equal_samples_and_one_where_the_given_clip_tells_nothing():
    rng = torch.Generator().manual_seed(0)
    own = torch.randn(6, 1, 8, 10, generator=rng)
    assert diversity(own.expand(-1, 4, -1, -1))["ratio"] == pytest.approx(0, abs=1e-9)
    independent = diversity(torch.randn(6, 4, 8, 10, generator=rng))
    assert independent["ratio"] == pytest.approx(1, abs=0.05)
    half = diversity(own + 0.5 * torch.randn(6, 4, 8, 10, generator=rng))
    assert 0.2 < half["ratio"] < 0.7
