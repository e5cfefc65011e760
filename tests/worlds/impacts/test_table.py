"""The report says 1 of good sets, finds what is broken in bad ones, and states its own error."""

import dataclasses
import json

import pytest
import torch

from mmldm.evaluation.evaluate import evaluate
from mmldm.evaluation.features import Classes, Fingerprints, Measures
from mmldm.evaluation.measuring import FeatureCache
from mmldm.evaluation.metrics import choose
from mmldm.evaluation.protocol import Protocol
from mmldm.evaluation.sets import ClipSet, ClipSource
from mmldm.evaluation.sides import RealSets, Sides
from mmldm.types import ClipSpec
from mmldm.worlds.impacts.metrics import METRICS, Impacts
from mmldm.worlds.impacts.motion import background
from mmldm.worlds.impacts.table import TABLE_METRICS, impacts_report, markdown, share

pytestmark = pytest.mark.slow

NAMES = ("drum", "glass", "rubber")
RULES = Protocol(name="impacts", spec=ClipSpec())
ITSELF = {f"{i}": f"{i}" for i in range(24)}
"""The real clip of the same number."""


def in_memory(name, clips, classes=None):
    """A set of clips that are there already."""

    def source(i, clip):
        return ClipSource(
            f"{i}", f"{i}", f"{name} {i}", classes and classes[i % 3], lambda spec: clip
        )

    sources = tuple(source(i, clip) for i, clip in enumerate(clips))
    return ClipSet(name, name, sources)


@pytest.fixture(scope="module")
def empty(real):
    return background([clip.frames for clip in real])


@pytest.fixture(scope="module")
def found(rendered, real, empty, classifiers, tmp_path_factory):
    """Held-out clips, clips with foreign sounds, copies of training clips, and broken pictures."""
    training = [r.clip for r in rendered[24:72]]
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
    generated = {
        "generated": in_memory("generated", foreign, NAMES),
        "copies": in_memory("copies", training[24:]),
        "broken": in_memory("broken", broken, NAMES),
    }
    reference = in_memory("reference", training)
    known = RealSets(reference, reference, in_memory("real", real, NAMES))
    measures = Measures([Impacts(empty), Classes(classifiers), Fingerprints()], {})
    cache = FeatureCache(tmp_path_factory.mktemp("cache"), RULES.spec)
    chosen = choose(TABLE_METRICS, RULES.spec.fps, further=METRICS)
    return evaluate(Sides(generated, known), chosen, measures, RULES, cache)


@pytest.fixture(scope="module")
def report(found):
    return impacts_report(found, found.sets["reference"].clips, NAMES, RULES, {"broken": ITSELF})


def test_hits_made_from_one_recording_are_one_unit(found):
    made = found.sets["generated"]
    # The same clips, as if each six of them were of one recording.
    clips = tuple(
        dataclasses.replace(clip, group=f"{i // 6}") for i, clip in enumerate(made.clips.clips)
    )
    grouped = dataclasses.replace(made, clips=dataclasses.replace(made.clips, clips=clips))
    widths = []
    for own in (made, grouped):
        sets = {**found.sets, "generated": own}
        evaluation = dataclasses.replace(found, sets=sets)
        reports = impacts_report(
            evaluation, found.sets["reference"].clips, NAMES, RULES, {"generated": ITSELF}
        )
        bias = reports["sets"]["generated"]["same_hits"]["loudness_bias"]
        assert bias["n"] > 10
        widths.append(bias["interval"])
    assert widths[0] != widths[1]


def met(report, name):
    return {target: verdict["met"] for target, verdict in report["targets"][name].items()}


def test_real_clips_agree_with_themselves(report):
    found = report["sets"]["real"]
    numbers = found["numbers"]
    assert found["clips"] == 24
    assert numbers["agreement"]["value"] >= 0.95
    assert numbers["agreement"]["shuffled"] < 0.5
    assert min(found["accuracy"].values()) >= 0.95
    assert found["broken"]["value"] == 0
    assert found["class_shares"]["video"] == pytest.approx([1 / 3] * 3, abs=0.05)
    assert found["over_real"]["impacts-per-clip"] == found["over_real"]["ballistic"] == 1
    assert max(pair["distance"] / pair["floor"] for pair in found["frechet"].values()) < 2
    low, high = numbers["impacts-per-clip"]["interval"]
    assert low < numbers["impacts-per-clip"]["value"] < high


def test_foreign_sounds_break_agreement_sync_and_the_distance_of_both(report):
    found, real = report["sets"]["generated"], report["sets"]["real"]
    assert found["numbers"]["agreement"]["value"] < 0.1
    recall, wanted = (own["numbers"]["sync-recall-50"] for own in (found, real))
    assert recall["value"] < wanted["shuffled"] + 0.2
    assert found["accuracy"]["video"] >= 0.95
    both = found["frechet"]["both"]
    assert both["distance"] > 4 * both["floor"]
    assert found["frechet"]["video"]["distance"] == real["frechet"]["video"]["distance"]
    assert not met(report, "generated")["seen class = heard class"]
    for target in ("recall at 20 ms over real", "precision at 50 ms over real"):
        assert not met(report, "generated")[target]
    assert met(report, "generated")["departure of impacts a clip"]


def test_copies_of_training_clips_are_nearer_than_held_out_ones(report):
    found = report["sets"]["copies"]["memorisation"]
    assert found["median"] < 1e-5
    assert found["share_near"] == 1
    assert not met(report, "copies")["nearest training clip, median"]
    assert met(report, "generated")["nearest training clip, 5 % quantile"]
    assert report["sets"]["copies"]["accuracy"] is None


def test_lost_ball_and_changed_material_break_a_clip_each(report):
    found = report["sets"]["broken"]
    assert found["numbers"]["ball-lost"]["value"] == pytest.approx(1 / 24)
    assert found["numbers"]["material-changes"]["value"] >= 1 / 24
    assert found["broken"]["value"] == pytest.approx(2 / 24)
    assert not met(report, "broken")["broken clips"]
    assert met(report, "generated")["broken clips"]


def test_report_is_json_and_its_table_has_every_set(report):
    plain = json.loads(json.dumps(report))
    assert plain.keys() == report.keys() and markdown(plain) == markdown(report)
    numbers, targets = markdown(report).split("\n\n")
    for table, names in ((numbers, report["sets"]), (targets, report["targets"])):
        head, _, *rows = table.splitlines()
        assert [cell.strip() for cell in head.split("|")[2:-1]] == list(names)
        assert {row.count("|") for row in rows} == {len(names) + 2}
    assert "**missed**: 0.0833 for 0.02" in targets


def test_measuring_does_not_depend_on_the_batch(real, empty, classifiers):
    for measure in (Impacts(empty), Classes(classifiers), Fingerprints()):
        whole, parts = measure(real[:6]), [*measure(real[:4]), *measure(real[4:6])]
        assert len(whole) == 6
        for one, other in zip(whole, parts, strict=True):
            assert one.keys() == other.keys()
            assert all(
                torch.allclose(one[name], other[name], atol=1e-5, equal_nan=True) for name in one
            )


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(0, 10, 0, 0.278), (5, 10, 0.237, 0.763), (98, 100, 0.930, 0.994)],
)
def test_intervals_of_shares_are_wilsons(hits, count, low, high):
    found = share(torch.arange(count) < hits)
    assert found["value"] == pytest.approx(hits / count)
    assert found["interval"] == pytest.approx([low, high], abs=1e-3)


def test_hits_and_edges_are_told_by_material_and_beside_the_same_hits(report):
    for name in ("real", "generated", "broken"):
        found = report["sets"][name]
        assert found["materials"].keys() == set(NAMES)
        for material, values in found["materials"].items():
            assert values["attack"]["value"] < 8
            low, high = values["laplacian"]["interval"]
            assert low <= values["laplacian"]["value"] <= high
            if name != "broken":
                assert found["fine_over_real"][material] == 1
    same = report["sets"]["broken"]["same_hits"]
    assert same["attack_excess"].keys() == {"all", *NAMES}
    every = same["attack_excess"]["all"]
    assert (every["value"], every["interval"]) == (0, (0, 0)) and every["n"] > 30
    assert same["loudness_bias"]["value"] == same["loudness_spread"]["value"] == 0
    assert report["sets"]["generated"]["same_hits"] is None


def test_real_pictures_and_sounds_meet_what_is_wanted_of_them(report):
    verdicts = met(report, "generated")
    for target in (
        "attack over real, ms",
        "attack over real, any material, ms",
        "before a hit, rubber, dB",
        "before a hit over real, drum, dB",
        "path jitter, px",
        "fine power over real, any material, least",
        "fine power over real, any material, most",
        "largest class over smallest",
    ):
        assert verdicts[target], target
    assert not verdicts["sound from picture, ms"]
