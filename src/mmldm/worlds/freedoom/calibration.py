"""How far the instruments of the Freedoom world are to be trusted, by the true events of real clips.

findings in clips, what is true of each -> recall, precision and error of every instrument
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmldm.evaluation.features import Findings
from mmldm.worlds.freedoom.labels import GONE, THERE
from mmldm.worlds.freedoom.metrics import TURNS, Window
from mmldm.worlds.tables import detector_errors


def calibration(found: Sequence[Findings], truths: Sequence[Window]) -> dict[str, Any]:
    """What the instruments find of what is true.

    Args:
        found: Of the measure `Shots`, in clips that its instruments were not learnt from.
        truths: Of each clip. Shots after its last frame can be heard, not seen.

    Returns:
        A JSON-ready dict. `detectors`, of "flashes", "bangs" and "kills": one row each of
        `tables.detector_errors`, within a frame. `monsters`, by frames: `recall` where one is there,
        `alarms` where none is, and the share of frames `in_doubt`, which count for neither. `turning`, by
        frames: `recall` and `precision`, and the correlation `r` of found and true speeds.
    """
    clips = list(zip(found, truths, strict=True))

    def seen(times: np.ndarray, clip: Findings) -> np.ndarray:
        """Those of times (N,) of which a frame comes later."""
        return times[times <= clip["last"].item()]

    detected = {
        "flashes": [(clip["seen"].numpy(), seen(truth.shots, clip)) for clip, truth in clips],
        "bangs": [(clip["heard"].numpy(), truth.shots) for clip, truth in clips],
        "kills": [(clip["kills"].numpy(), seen(truth.kills, clip)) for clip, truth in clips],
    }
    frame = found[0]["frame"].item()
    tall = np.concatenate([truth.monsters for _, truth in clips])
    told = np.concatenate([clip["monster"].numpy() for clip, _ in clips])
    there, gone = tall >= THERE, tall <= GONE
    turns = np.concatenate([truth.turns for _, truth in clips])
    read = np.concatenate([clip["turns"].numpy() for clip, _ in clips])[~np.isnan(turns)]
    turns = turns[~np.isnan(turns)]
    fast, told_fast = np.abs(turns) > TURNS, np.abs(read) > TURNS
    return {
        "detectors": {name: [detector_errors(pairs, frame)] for name, pairs in detected.items()},
        "monsters": {
            "recall": _share(told[there]),
            "alarms": _share(told[gone]),
            "in_doubt": _share(~there & ~gone),
        },
        "turning": {
            "recall": _share(told_fast[fast]),
            "precision": _share(fast[told_fast]),
            "r": float(np.corrcoef(read, turns)[0, 1]),
        },
    }


def _share(values: np.ndarray) -> float | None:
    """Mean of values (N,); None of none."""
    return float(values.mean()) if len(values) else None
