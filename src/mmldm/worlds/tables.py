"""What the tables of all worlds say alike: shares, classes, Fréchet distances, detectors' errors, cells.

Measured sets, found and true times -> JSON-ready numbers -> words
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmldm.errors import UserError
from mmldm.evaluation.classifiers import accuracy
from mmldm.evaluation.distances import compare
from mmldm.evaluation.events import lags
from mmldm.evaluation.intervals import Units, share_interval
from mmldm.evaluation.measuring import Measured
from mmldm.evaluation.page import markdown_table
from mmldm.types import AV


def column(measured: Measured, name: str) -> Tensor:
    """What the classifiers said of each clip: (N,) or (N,64)."""
    return torch.stack([clip[name] for clip in measured.findings["classes"]])


def over(value: float | None, real: float | None) -> float | None:
    """A value over real clips' own; None where one of the two is undefined or that is 0."""
    return None if value is None or not real else value / real


def share(hits: Tensor, units: Units | None = None) -> dict[str, Any]:
    """Share of true values (N,) bool, with its 95 % interval by Wilson's score.

    Args:
        units: (N,), which clips are of one recording; None: none.
    """
    shares = hits.double()
    return {
        "value": shares.mean().item(),
        "interval": list(share_interval(shares.numpy(), units)),
    }


def right_classes(
    measured: Measured, classes: AV[Tensor], class_names: Sequence[str]
) -> dict[str, float] | None:
    """Share of N clips whose class (N,) is named right, by modality; None where clips are of no class."""
    true = [clip.class_name for clip in measured.clips.clips]
    if not set(true) <= set(class_names):
        return None
    wanted = torch.tensor([list(class_names).index(name) for name in true if name is not None])
    return accuracy(classes, wanted)._asdict()


def frechet(measured: Measured, real: Measured, seed: int) -> dict[str, dict[str, Any]]:
    """Comparisons by the features of the sound (D = 64), of the picture (64), of both (128).

    Both together are compared at equal shares of the class that is seen: a wrong sound counts.

    Raises:
        UserError: The two sides have too few clips of the same classes.
    """
    found = {}
    for name, features, classes in (
        ("audio", ["sound"], "heard"),
        ("video", ["picture"], "seen"),
        ("both", ["sound", "picture"], "seen"),
    ):
        ours, others = (
            torch.cat([column(side, feature) for feature in features], dim=1)
            for side in (measured, real)
        )
        kinds, real_kinds = (column(side, classes) for side in (measured, real))
        try:
            found[name] = compare(ours, others, kinds, real_kinds, seed=seed)._asdict()
        except ValueError as error:
            raise UserError(
                f"the {len(ours)} clips of {measured.clips.name} and the {len(others)} real ones have too "
                f"few of the classes that are {classes} in common for a distance: measure more of both"
            ) from error
    return found


def detector_errors(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], tolerance: float
) -> dict[str, Any]:
    """How well times (N,) that were found in clips match the true ones (M,), in seconds.

    Returns:
        A JSON-ready dict of `tolerance`, `recall`, `precision` and, in ms, of the error of what matches
        `median_ms`, `sd_ms` and mean `offset_ms`, positive where found late; None where nothing was found.
    """
    claimed, wanted = (sum(len(pair[i]) for pair in pairs) for i in (0, 1))
    errors = np.concatenate([np.empty(0), *(1000 * lags(*pair, tolerance) for pair in pairs)])
    return {
        "tolerance": tolerance,
        "recall": len(errors) / wanted if wanted else None,
        "precision": len(errors) / claimed if claimed else None,
        "median_ms": float(np.median(np.abs(errors))) if len(errors) else None,
        "sd_ms": float(errors.std()) if len(errors) else None,
        "offset_ms": float(errors.mean()) if len(errors) else None,
    }


def detector_table(detectors: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Rows of `detector_errors`, by detector."""
    errors = [
        [
            detector,
            f"{1000 * row['tolerance']:.0f} ms",
            *(written(row[name], 3) for name in ("recall", "precision")),
            *(written(row[name], 2) for name in ("median_ms", "sd_ms", "offset_ms")),
        ]
        for detector, rows in detectors.items()
        for row in rows
    ]
    head = ["detector", "within", "recall", "precision", "median error, ms", "sd, ms", "offset, ms"]
    return markdown_table(head, errors)


def target_table(wanted: Mapping[str, Mapping[str, Any]]) -> str:
    """Targets of sets by name, as `targets` gives them, met or missed."""
    names = dict.fromkeys(name for of in wanted.values() for name in of)
    rows = [[name, *(_verdict(of.get(name)) for of in wanted.values())] for name in names]
    return markdown_table(["target", *wanted], rows)


def _verdict(target: Mapping[str, Any] | None) -> str:
    if target is None:
        return "-"
    word = "met" if target["met"] else "**missed**"
    value = "undefined" if target["value"] is None else f"{target['value']:.3g}"
    return f"{word}: {value} for {target['target']:.3g}"


def verdicts(
    least: Mapping[str, tuple[float | None, float]], most: Mapping[str, tuple[float | None, float]]
) -> dict[str, Any]:
    """Of values and bounds by target: JSON-ready dicts of `value`, `target` and `met`."""

    def verdict(value: float | None, target: float, met: bool) -> dict[str, Any]:
        return {"value": value, "target": target, "met": met}

    return {
        **{n: verdict(v, t, v is not None and v >= t) for n, (v, t) in least.items()},
        **{n: verdict(v, t, v is not None and v <= t) for n, (v, t) in most.items()},
    }


def distance_cells(
    distances: Mapping[str, Mapping[str, Any]], near: Mapping[str, Any]
) -> dict[str, str]:
    """Rows of a set's column: Fréchet distances over their floor, and how near training clips are."""
    cells = {}
    for words, key in (("picture", "video"), ("sound", "audio"), ("both", "both")):
        pair = distances[key]
        floor = f"{pair['floor']:.3g} ± {pair['floor_deviation']:.1g}"
        ratio = f"{pair['distance'] / pair['floor']:.2f}"
        cells[f"Fréchet distance, {words}"] = f"{pair['distance']:.3g} / {floor} = {ratio}"
    for words, key in (("median", "median"), ("5 % quantile", "quantile_5")):
        low, high = near[f"{key}_held_out_interval"]
        cells[f"nearest training clip, {words}"] = (
            f"{near[key]:.3f} (held out {low:.3f} to {high:.3f})"
        )
    cells["nearer than the held-out's nearest hundredth"] = (
        f"{near['share_near']:.3f} (inventing {near['expected_near']:.3f})"
    )
    return cells


def with_interval(value: Mapping[str, Any], digits: int) -> str:
    """A value and, in brackets, its interval; a dash where it is undefined."""
    text = written(value["value"], digits)
    if value["value"] is None or value["interval"] is None:
        return text
    return f"{text} [{', '.join(written(end, digits) for end in value['interval'])}]"


def written(value: float | None, digits: int) -> str:
    """A value with so many digits after the point; a dash where it is undefined."""
    return "-" if value is None else f"{value:.{digits}f}"
