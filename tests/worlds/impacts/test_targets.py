"""What is wanted of a set depends on what of it was made, and each bound is where it says."""

import copy

import pytest

from mmldm.worlds.impacts.targets import targets


def number(value):
    return {"value": value, "interval": None}


def good():
    """The report on a set that is like real clips."""
    numbers = {
        **{f"sync-{kind}-{ms}": number(0.9) for kind in ("recall", "precision") for ms in (20, 50)},
        "sync-timing": number(1.0),
        "loudness-speed": number(0.97),
        "attack": number(2.0),
        "jitter": number(0.1),
        "restitution-spread": number(0.003),
        "agreement": number(1.0),
    }
    near = {"median": 0.8, "quantile_5": 0.4}
    return {
        "numbers": numbers,
        "materials": {
            "drum": {"attack": number(2.0), "pre-echo": number(-30.0)},
            "wood": {"attack": number(2.0), "pre-echo": number(-60.0)},
        },
        "fine_over_real": {"drum": 1.0, "wood": 1.1},
        "same_hits": None,
        "evenness": {"largest_over_smallest": 1.1, "p": 0.5},
        "over_real": {"impacts-per-clip": 1.0, "ballistic": 1.0},
        "broken": number(0.0),
        "frechet": {"both": {"distance": 1.0, "floor": 1.0}},
        "memorisation": {**near, **{f"{name}_held_out_interval": (0.3, 0.9) for name in near}},
    }


def same_hits(excess=1.0, bias=0.1, spread=1.0):
    return {
        "attack_excess": {"all": number(excess), "drum": number(excess), "wood": number(None)},
        "loudness_bias": {**number(bias), "n": 9},
        "loudness_spread": {**number(spread), "n": 9},
    }


@pytest.mark.parametrize(
    "name", ["reconstruction", "generated", "audio-to-video", "video-to-audio", "another"]
)
def test_what_is_like_real_clips_meets_everything(name):
    own = {
        **good(),
        "same_hits": same_hits() if name in ("reconstruction", "video-to-audio") else None,
    }
    found = targets(own, good(), name)
    assert all(target["met"] for target in found.values())


def test_what_is_given_has_no_targets():
    a2v, v2a = (targets(good(), good(), name) for name in ("audio-to-video", "video-to-audio"))
    assert "path jitter, px" in a2v and "attack over real, ms" not in a2v
    assert "path jitter, px" not in v2a and "attack over real, ms" in v2a
    assert "largest class over smallest" not in a2v.keys() | v2a.keys()


def set_number(name, value):
    def change(own):
        own["numbers"][name]["value"] = value

    return change


def set_material(material, name, value):
    def change(own):
        own["materials"][material][name]["value"] = value

    return change


def set_part(name, value):
    def change(own):
        own[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "name", "missed"),
    [
        (set_number("sync-recall-20", 0.9 * 0.94), "video-to-audio", "recall at 20 ms over real"),
        (set_number("sync-recall-20", 0.9 * 0.91), "generated", "recall at 20 ms over real"),
        (set_number("sync-recall-50", None), "generated", "recall at 50 ms over real"),
        (set_number("sync-timing", 1.6), "reconstruction", "sound from picture, ms"),
        (set_number("sync-timing", 3.1), "generated", "sound from picture, ms"),
        (set_number("loudness-speed", 0.94), "generated", "loudness against speed, r"),
        (set_number("attack", 6.1), "generated", "attack over real, ms"),
        (set_material("wood", "attack", 8.1), "generated", "attack over real, any material, ms"),
        (set_material("wood", "pre-echo", -27.0), "generated", "before a hit, wood, dB"),
        (set_material("drum", "pre-echo", -19.0), "generated", "before a hit over real, drum, dB"),
        (set_part("same_hits", same_hits(excess=4.1)), "reconstruction", "attack over real, ms"),
        (set_part("same_hits", same_hits(bias=-0.6)), "video-to-audio", "loudness, bias, dB"),
        (set_part("same_hits", same_hits(spread=1.6)), "video-to-audio", "loudness, sd, dB"),
        (
            set_part("fine_over_real", {"drum": 0.6, "wood": 1.0}),
            "audio-to-video",
            "fine power over real, any material, least",
        ),
        (
            set_part("fine_over_real", {"drum": 1.4, "wood": 1.0}),
            "reconstruction",
            "fine power over real, any material, most",
        ),
        (set_number("jitter", 0.26), "generated", "path jitter, px"),
        (set_number("restitution-spread", 0.013), "generated", "restitution in a clip, sd"),
        (
            set_part("evenness", {"largest_over_smallest": 1.3, "p": 0.01}),
            "generated",
            "largest class over smallest",
        ),
    ],
)
def test_each_bound_is_where_it_says(change, name, missed):
    own = copy.deepcopy(good())
    change(own)
    found = targets(own, good(), name)
    assert [target for target, verdict in found.items() if not verdict["met"]] == [missed]
