"""Where decoded blocks of sound lie: end to end, except at real gaps.

Block times (n,) and lengths (n,) -> levels (n,): a block begins `level + samples before it / rate`.
Packet times of many files jitter by 20 ms while their sound is whole, so a single time is not
believed: sound stays contiguous until the times are off for good. docs/data.md.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

# Times off by this much (seconds) for HOLD seconds are a gap or an overlap. Jitter seen in web
# files reaches 21 ms, but comes back; one lost AAC packet is 21 ms, too, and does not.
TOLERANCE, HOLD = 0.015, 0.5
# A jump as large as this needs only so many seconds of sound behind it.
LARGE, BRIEF = 0.1, 0.1
# Share of the sound after a jump whose times must agree that it happened.
AGREEING = 0.75
# Changes of the offset (seconds) that may be a jump at all: Matroska rounds to 1 ms.
STEP = 0.005


def levels(times: np.ndarray, lengths: np.ndarray, rate: int) -> np.ndarray:
    """For each block the offset (seconds) of its contiguous piece, shared within a piece.

    A piece lies at the median of the offsets of its blocks, each weighed by its length.

    Args:
        times: Of the blocks, in seconds, in the order of decoding.
        lengths: Of the blocks, in samples, each above 0.
        rate: Samples per second.
    """
    seconds = lengths / rate
    offsets = times - (np.cumsum(lengths) - lengths) / rate
    result = np.empty(len(times))
    for first, stop in pairwise([0, *_jumps(offsets, seconds), len(times)]):
        result[first:stop] = _quantile(offsets[first:stop], seconds[first:stop], 0.5)
    return result


def notes(times: np.ndarray, lengths: np.ndarray, rate: int) -> tuple[str, ...]:
    """Sentences on gaps, overlaps and jitter of a whole sound; arguments as for `levels`."""
    pieces = levels(times, lengths, rate)
    jumps = np.diff(pieces)
    said = []
    for what, sizes in (("gap", jumps[jumps > 0]), ("overlap", -jumps[jumps < 0])):
        if len(sizes):
            many = "" if len(sizes) == 1 else "s"
            said.append(f"its sound has {len(sizes)} {what}{many}, {sizes.sum():.3f} s in all")
    offsets = times - (np.cumsum(lengths) - lengths) / rate
    steps = np.abs(np.diff(offsets) - jumps)
    if (steps > STEP).any():
        said.append(
            f"the times of its sound jitter by {1000 * steps.max():.0f} ms; it is read as contiguous"
        )
    return tuple(said)


def _jumps(offsets: np.ndarray, seconds: np.ndarray) -> list[int]:
    """Indices of the blocks that begin a new piece."""
    ends = np.cumsum(seconds)
    first, jumps = 0, []
    for step in np.flatnonzero(np.abs(np.diff(offsets)) > STEP) + 1:
        if step <= first:
            continue
        now = ends[step - 1]
        begin = max(first, int(np.searchsorted(ends, now - HOLD, "right")))
        level = _quantile(offsets[begin:step], seconds[begin:step], 0.5)
        direction = np.sign(offsets[step] - level)
        for size, reach, support in ((LARGE, BRIEF, 0.0), (TOLERANCE, HOLD, BRIEF)):
            stop = int(np.searchsorted(ends, now + reach)) + 1
            after, weights = offsets[step:stop], seconds[step:stop]
            known = now - (ends[first] - seconds[first])
            if known < support or weights.sum() < reach / 2:
                continue
            if _quantile(direction * (after - level), weights, 1 - AGREEING) < size:
                continue
            first = int(step) + _split(after, weights, level)
            jumps.append(first)
            break
    return jumps


def _split(offsets: np.ndarray, seconds: np.ndarray, level: float) -> int:
    """How many blocks still belong to the level before the jump: by least absolute error."""
    new_level = _quantile(offsets, seconds, 0.5)
    gain = seconds * (np.abs(offsets - level) - np.abs(offsets - new_level))
    old = int(np.searchsorted(np.cumsum(seconds), (1 - AGREEING) * seconds.sum()))
    costs = np.concatenate([[0.0], np.cumsum(gain[:old])])
    return int(np.argmin(costs))


def _quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """The least value that has `share` of the weight at or below it."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(total, share * total[-1] - 1e-12)]])
