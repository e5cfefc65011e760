"""Metrics give numbers with what they must be read with, or the reason why there is none."""

import math

import pytest
import torch

from mmldm.errors import UserError
from mmldm.evaluation.clipwise import ClipRatio
from mmldm.evaluation.features import Alarms, Events, Fingerprints
from mmldm.evaluation.kernels import gaussian
from mmldm.evaluation.metrics import (
    OPTIONAL,
    FrechetDistance,
    KernelDistance,
    NearestReal,
    SharedRegions,
    choose,
    metrics,
)
from mmldm.evaluation.protocol import PROTOCOLS, find_protocol
from mmldm.evaluation.values import Number, Value

RULES = find_protocol("default")


def drawn(clips, seed, windows=1, dim=4, shift=0.0):
    rng = torch.Generator().manual_seed(seed)
    return [{"features": torch.randn(windows, dim, generator=rng) + shift} for _ in range(clips)]


def frechet():
    return FrechetDistance("fd", "Fréchet", "net")


def named(name):
    return next(metric for metric in metrics(10.0) if metric.name == name)


def test_distance_of_a_set_to_itself_is_nothing_and_to_another_grows_with_the_shift():
    rows = drawn(40, 0)
    (same,) = frechet().values(rows, rows, RULES)
    assert same.value == pytest.approx(0, abs=1e-6) and (same.n, same.against) == (40, 40)
    near, far = (frechet().values(drawn(40, 1, shift=s), rows, RULES)[0] for s in (0.0, 1.0))
    assert near.interval[0] < near.value < near.interval[1] < far.interval[0]


def test_audioclips_distance_is_ten_thousand_times_the_frechet_distance():
    rows, real = drawn(20, 0, shift=1.0), drawn(30, 1)
    plain, scaled = (
        metric.values(rows, real, RULES)[0] for metric in (frechet(), named("fad-audioclip"))
    )
    assert scaled.value == pytest.approx(10_000 * plain.value)
    assert scaled.interval == pytest.approx([10_000 * end for end in plain.interval])
    assert named("fad-audioclip").numbers[0].biased


def test_windows_count_for_the_caveat_and_clips_for_n():
    (few,) = frechet().values(drawn(10, 0, dim=16), drawn(30, 1, dim=16), RULES)
    assert few.n == 10 and few.note.startswith("10 features of 16 numbers")
    (many,) = frechet().values(drawn(10, 0, 2, 16), drawn(30, 1, 2, 16), RULES)
    assert many.n == 10 and many.note is None


@pytest.mark.parametrize(
    ("metric", "rows", "reason"),
    [
        (frechet(), drawn(1, 0), "1 clip, and 2 are the least"),
        (SharedRegions("net"), drawn(5, 0), "5 clips, and 6 are the least"),
        (
            KernelDistance("kad", "KAD", "net", gaussian),
            [{"features": torch.ones(1, 4)}] * 8,
            "half of the reference features are equal",
        ),
        (
            FrechetDistance("odd", "odd", "net", lambda a, b: math.nan),
            drawn(4, 0),
            "not finite",
        ),
    ],
)
def test_what_is_undefined_says_why_and_is_no_nan(metric, rows, reason):
    for value in metric.values(rows, rows, RULES):
        assert value.value is None and reason in value.note


def test_regions_of_one_law_are_full_and_of_another_empty():
    real = drawn(60, 0)
    near, far = (SharedRegions("net").values(drawn(60, 1, shift=s), real, RULES) for s in (0, 50))
    assert min(value.value for value in near) > 0.6
    assert [value.value for value in far] == [0, 0, 0, 0]
    assert {value.note for value in near} == {None}
    few = SharedRegions("net").values(drawn(10, 1), real, RULES)
    assert all("10 clips lie far apart" in value.note for value in few)
    assert all(value.interval[0] <= value.value <= value.interval[1] for value in [*near, *far])


def test_density_of_clips_in_the_midst_of_all_regions_exceeds_one():
    values = SharedRegions("net").values([{"features": torch.zeros(1, 4)}] * 8, drawn(40, 0), RULES)
    found = {
        number.name: value
        for number, value in zip(SharedRegions("net").numbers, values, strict=True)
    }
    density = found["density-net"]
    assert density.value > 1 and density.interval == pytest.approx((density.value, density.value))


def test_sounds_of_other_clips_align_less_than_a_clips_own(real):
    rows = Events()(real)
    (value,) = named("event-overlap").values(rows, rows, RULES)
    assert value.value > 1.5 * value.shuffled and value.against is None
    low, high = value.interval
    assert value.shuffled < low < value.value < high


def test_clips_with_nothing_to_align_are_not_counted(real):
    still = {name: torch.zeros(0) for name in ("onsets", "peaks", "rests")}
    rows = Events()(real[:6])
    own, padded = (named("event-overlap").values(r, r, RULES)[0] for r in (rows, [*rows, still]))
    assert (own.value, own.n) == (padded.value, padded.n)
    (nothing,) = named("beat-alignment").values([still], [still], RULES)
    assert nothing.value is None and "nothing to count" in nothing.note


def test_copies_are_nearer_to_real_clips_than_new_ones_are(real):
    prints = Fingerprints()(real)
    copies, new = (
        NearestReal().values(rows, prints[:12], RULES) for rows in (prints[:12], prints[12:])
    )
    assert copies[0].value == pytest.approx(0, abs=1e-6)
    assert new[0].interval[0] > 0.1 and new[1].value <= new[0].value


def test_share_of_silent_clips_has_an_interval_even_where_it_is_none(real):
    (value,) = named("silent").values(Alarms()(real), [], RULES)
    assert value.value == 0 and 0 < value.interval[1] < 0.2 and value.shuffled is None


def test_share_counts_each_clip_once():
    metric = ClipRatio("x", Number("x", "x", "higher"), "m", lambda a, b: (1.0, 1.0), share=True)
    (value,) = metric.values([{}] * 10, [], RULES)
    assert value == Value(1.0, value.interval, 10, recordings=10) and value.interval[0] < 0.8


def test_metrics_are_chosen_by_name_and_the_rest_by_what_the_clips_are():
    assert {m.name for m in choose(None, 10)} == {m.name for m in metrics(10)} - set(OPTIONAL)
    usual, wider = ({m.name for m in choose(None, 10, also)} for also in ((), ["fad-audioclip"]))
    assert wider - usual == {"fad-audioclip"}
    assert [m.measure for m in choose(["kad", "fvd"], 10)] == ["i3d", "yamnet"]
    with pytest.raises(UserError, match="unknown 'fid'"):
        choose(["fid"], 10)


def test_numbers_have_names_of_their_own():
    names = [number.name for metric in metrics(10) for number in metric.numbers]
    assert len(names) == len(set(names))


def test_protocols_differ_in_their_hash_and_so_do_seeds_and_counts():
    protocols = [
        *PROTOCOLS.values(),
        find_protocol("default", seed=1),
        find_protocol("default", samples=8),
    ]
    assert len({protocol.sha256 for protocol in protocols}) == len(protocols)
    assert find_protocol("mm-diffusion").samples == 2048
    assert find_protocol("mm-diffusion-256").spec.num_samples == 70_560
    with pytest.raises(UserError, match="there are default, mm-diffusion, mm-diffusion-256"):
        find_protocol("fvd2048")
