"""What is wanted of a model of the impacts world, and whether it is reached.

report on a set, report on real clips -> target by name: value, bound, met or missed

A recall or a precision is wanted over that of real clips: what real clips themselves lack is no fault. What a
task is given is real, and has no targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmldm.worlds.tables import verdicts

MADE = {
    "reconstruction": ("audio", "video"),
    "generated": ("audio", "video"),
    "audio-to-video": ("video",),
    "video-to-audio": ("audio",),
}
"""What is made and not given, by name of the set; of any other set both are."""
RECALL = {
    "reconstruction": {20: 0.95, 50: 0.97},
    "generated": {20: 0.92, 50: 0.95},
    "audio-to-video": {20: 0.95, 50: 0.97},
    "video-to-audio": {20: 0.95, 50: 0.97},
}
"""Least over real clips' own, by set and tolerance in ms; of any other set those of "generated"."""
PRECISION = {"reconstruction": {50: 0.97}}
PRECISION_ELSE = {50: 0.90}
"""The same of precision."""
TIMING = {"reconstruction": 1.5, "generated": 3.0}
"""Most median ms from onset to impact."""
ATTACK_EXCESS, ATTACK_EXCESS_OF_ANY = 4.0, 6.0
"""Most median ms over real clips' attack: in all, and of any material."""
RINGING = ("drum", "metal")
"""Materials that still ring at the next hit: before it stands their ring, which none can be rid of."""
PRE_ECHO_OVER_REAL, PRE_ECHO = 10.0, -28.0
"""Most dB over real clips' for those, and at all for the others."""
LOUDNESS_SPEED = 0.95
LOUDNESS_BIAS, LOUDNESS_SPREAD = 0.5, 1.5
"""Most dB, of a sound made for a given picture."""
FINE = 0.7, 1.3
"""Power above a quarter of Nyquist on the ball, over real clips', of any material."""
JITTER, RESTITUTION_SPREAD = 0.25, 0.012
SHARES = 1.25
"""Largest over smallest share of a class in joint samples."""
DEPARTURE = 0.10
"""Of impacts a clip and of the ballistic share, relative to real clips."""
AGREEMENT = 0.95
BROKEN = 0.02
FRECHET = 2.0
"""Times the distance between real clips and other real clips."""


def targets(own: Mapping[str, Any], real: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What was wanted of a set, what it reached, and whether that is enough.

    Args:
        own: The report on it, as `table.impacts_report` makes it.
        real: That on real clips.
        name: Of the set.

    Returns:
        By target a JSON-ready dict of `value`, `target` and `met`; without those that are undefined.
    """
    least: dict[str, tuple[float | None, float]] = {}
    most: dict[str, tuple[float | None, float]] = {}
    made = MADE.get(name, ("audio", "video"))
    numbers = {number: value["value"] for number, value in own["numbers"].items()}
    real_numbers = {number: value["value"] for number, value in real["numbers"].items()}

    # Sync beside real clips'.
    for number, wanted in (
        ("recall", RECALL.get(name, RECALL["generated"])),
        ("precision", PRECISION.get(name, PRECISION_ELSE)),
    ):
        for ms, bound in wanted.items():
            value, other = (n[f"sync-{number}-{ms}"] for n in (numbers, real_numbers))
            if other:
                least[f"{number} at {ms} ms over real"] = ((value or 0.0) / other, bound)
    if name in TIMING:
        most["sound from picture, ms"] = (numbers["sync-timing"], TIMING[name])
    least["loudness against speed, r"] = (numbers["loudness-speed"], LOUDNESS_SPEED)
    if "audio" in made:
        most |= _of_the_sound(own, real, name)
    if "video" in made:
        # The path, and what is fine on the ball.
        most["path jitter, px"] = (numbers["jitter"], JITTER)
        most["restitution in a clip, sd"] = (numbers["restitution-spread"], RESTITUTION_SPREAD)
        ratios = [ratio for ratio in own["fine_over_real"].values() if ratio is not None]
        if ratios:
            least["fine power over real, any material, least"] = (min(ratios), FINE[0])
            most["fine power over real, any material, most"] = (max(ratios), FINE[1])
    if name == "generated":
        most["largest class over smallest"] = (own["evenness"]["largest_over_smallest"], SHARES)

    for number, words in (("impacts-per-clip", "impacts a clip"), ("ballistic", "ballistic")):
        ratio = own["over_real"][number]
        if ratio is not None:
            most[f"departure of {words}"] = (abs(ratio - 1), DEPARTURE)
    # What is whole, and as varied as real clips.
    least["seen class = heard class"] = (numbers["agreement"], AGREEMENT)
    most["broken clips"] = (own["broken"]["value"], BROKEN)
    farthest = max(pair["distance"] / pair["floor"] for pair in own["frechet"].values())
    most["Fréchet distance over floor"] = (farthest, FRECHET)
    # Held-out clips themselves vary: what is not below their interval is not nearer than they are.
    near = own["memorisation"]
    for quantile, words in {"median": "median", "quantile_5": "5 % quantile"}.items():
        bound = near[f"{quantile}_held_out_interval"][0]
        least[f"nearest training clip, {words}"] = (near[quantile], bound)
    return verdicts(least, most)


def _of_the_sound(
    own: Mapping[str, Any], real: Mapping[str, Any], name: str
) -> dict[str, tuple[float | None, float]]:
    """Most of attack, pre-echo and loudness of sounds that were made."""
    most: dict[str, tuple[float | None, float]] = {}
    # Attack: over that of the same hits where there are such, else over that of real clips.
    paired = own["same_hits"]
    if paired is not None:
        excess = {material: x["value"] for material, x in paired["attack_excess"].items()}
    else:
        excess = {"all": _over(own["numbers"], real["numbers"], "attack")}
        for material, values in own["materials"].items():
            if material in real["materials"]:
                excess[material] = _over(values, real["materials"][material], "attack")
    most["attack over real, ms"] = (excess.pop("all"), ATTACK_EXCESS)
    known = [value for value in excess.values() if value is not None]
    if known:
        most["attack over real, any material, ms"] = (max(known), ATTACK_EXCESS_OF_ANY)

    # What is heard before a hit.
    for material, values in own["materials"].items():
        before = values["pre-echo"]["value"]
        if before is None:
            continue
        if material not in RINGING:
            most[f"before a hit, {material}, dB"] = (before, PRE_ECHO)
        elif material in real["materials"]:
            over = _over(values, real["materials"][material], "pre-echo")
            most[f"before a hit over real, {material}, dB"] = (over, PRE_ECHO_OVER_REAL)

    if name == "video-to-audio" and paired is not None and paired["loudness_bias"]["n"]:
        most["loudness, bias, dB"] = (abs(paired["loudness_bias"]["value"]), LOUDNESS_BIAS)
        most["loudness, sd, dB"] = (paired["loudness_spread"]["value"], LOUDNESS_SPREAD)
    return most


def _over(own: Mapping[str, Any], real: Mapping[str, Any], number: str) -> float | None:
    """How much larger a number is than that of real clips; None where one of the two is undefined."""
    value, other = own[number]["value"], real[number]["value"]
    return None if value is None or other is None else value - other
