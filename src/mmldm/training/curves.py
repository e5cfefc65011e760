"""Numbers of a job over its steps as pictures with words: which curves there are, and what each means.

records of metrics.jsonl -> Chart (series of (step, value), a sentence) -> SVG as text; a warning. Drawn with
a few lines of our own: the page asks for no script, no font and no file.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from mmldm.sections import TASKS
from mmldm.text import printable

Points = list[tuple[int, float]]
"""(step, value), steps ascending."""

WIDTH, HEIGHT = 640, 200
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 10, 24
"""Margins for the numbers of the axes, pixels."""
MOST_POINTS = 400
"""Of a line; more cannot be told apart."""
SMOOTHED = 20
"""A smoothed point is the mean of so many neighbours at most, a twentieth of the line at most."""
COLOURS = ("#1e5ab4", "#d66014", "#288c46", "#963ca0", "#a08214", "#c83c5a", "#3c96a0", "#787878")
"""Of the lines of a chart, in turn."""
RISEN = 1.1
"""A held-out error so many times its best is no chance."""
LOSS = "model/loss"
HELD_OUT = "validate/"
LOWER, HIGHER = "lower", "higher"

MEANING: dict[str, tuple[str | None, str]] = {
    "psnr": (
        HIGHER,
        "how near held-out clips come back from this job, in dB: 6 dB more is half the error. "
        "Below about 20 shapes are lost, above 30 differences are hard to see",
    ),
    "sharpness": (
        None,
        "fine detail of what comes back, over that of the clips themselves: below 1 is blur, above 1 is "
        "grain",
    ),
    "class_accuracy": (
        HIGHER,
        "share of held-out clips whose class the autoencoder tells; guessing gives 1 / number of classes",
    ),
    "gap": (
        HIGHER,
        "what the other modality is worth: by how much the error falls when it is given. At 0 the generator "
        "does not listen to what it sees, or look at what it hears",
    ),
    "mse": (LOWER, "held-out error against the teacher's steps"),
    "mel": (LOWER, "distance of held-out sounds from the original, in dB of a mel spectrogram"),
    "convergence": (LOWER, "distance of held-out sounds, loud parts first (spectral convergence)"),
    "log_magnitude": (LOWER, "distance of held-out sounds, quiet parts too (log magnitudes)"),
    "error of audio": (
        LOWER,
        "held-out error of the predicted sound, per task. When it rises while the loss falls, the model "
        "learns the training clips by heart: more clips help, more steps do not",
    ),
    "error of video": (
        LOWER,
        "held-out error of the predicted picture, per task. When it rises while the loss falls, the model "
        "learns the training clips by heart: more clips help, more steps do not",
    ),
    LOSS: (
        LOWER,
        "what training makes smaller, on training clips; it compares with itself alone, not between jobs",
    ),
}
"""Chart -> which way is better (None: neither), and what it says, as half a sentence."""


@dataclass(frozen=True)
class Chart:
    """Some lines over the same steps.

    Attributes:
        title: A key of `MEANING`, or the number's own name.
        lines: Name -> its points.
    """

    title: str
    lines: Mapping[str, Points]

    @property
    def sentence(self) -> str:
        """What the chart says, and where each held-out line was best."""
        better, words = MEANING.get(self.title, (None, "a held-out number"))
        said = [f"{self.title}: {words}"]
        if better is not None and self.title != LOSS:
            said += [_best(name, points, better) for name, points in self.lines.items()]
        return ". ".join(said) + "."


def charts(records: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """The loss, then the held-out numbers, those of one kind together; empty ones are left out."""
    lines: dict[str, dict[str, Points]] = {LOSS: {}}
    for record in records:
        for name, value in record.items():
            if name == LOSS:
                where = (LOSS, "loss")
            elif name.startswith(HELD_OUT):
                where = _place(name.removeprefix(HELD_OUT))
            else:
                continue
            if is_number(value):
                chart, line = where
                lines.setdefault(chart, {}).setdefault(line, []).append((record["step"], value))
    return [Chart(title, found) for title, found in lines.items() if found]


def is_number(value: Any) -> bool:
    """Whether a value of a record can be drawn."""
    return type(value) in (int, float) and math.isfinite(value)


def figure(chart: Chart) -> str:
    """A chart as an SVG with a legend and its sentence, HTML."""
    lines = {name: thinned(points) for name, points in chart.lines.items()}
    text = f"<p>{_shown(chart.sentence)}</p>"
    legend = " ".join(
        f"<span style='color:{_colour(number)}'>&#9632; {_shown(name)}: {_ends(points)}</span>"
        for number, (name, points) in enumerate(chart.lines.items())
    )
    text += f"<p class=legend>{legend}</p>"
    drawn = {name: points for name, points in lines.items() if len(points) > 1}
    return text + (_svg(drawn, list(lines), smooth=chart.title == LOSS) if drawn else "")


def thinned(points: Points) -> Points:
    """At most `MOST_POINTS` of them, means of neighbours where there are more."""
    size = -(-len(points) // MOST_POINTS)
    if size <= 1:
        return points
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(v for _, v in group) / len(group)) for group in groups]


def _place(name: str) -> tuple[str, str]:
    """Chart and line of a held-out number: psnr/audio, joint/video, class_accuracy."""
    kind, _, modality = name.partition("/")
    if kind in (*TASKS, "prefix", "retake"):
        return f"error of {modality}", kind
    return kind, modality or kind


def _best(name: str, points: Points, better: str) -> str:
    """Where a line was best, and whether it has got worse since."""
    choose = min if better == LOWER else max
    best = choose(value for _, value in points)
    step = next(step for step, value in points if value == best)
    if step == points[-1][0]:
        return f"{name} is best now, at step {step}"
    return f"{name} was best at step {step} ({best:.4g}), and is {points[-1][1]:.4g} now"


def by_heart(records: Sequence[Mapping[str, Any]]) -> str:
    """A sentence where a generator's held-out error has risen since it was best; "" where it has not."""
    told = []
    for chart in charts(records):
        modality = chart.title.removeprefix("error of ")
        if modality == chart.title:
            continue
        # The first task speaks for all: it is the one with the largest share in every recipe of ours.
        points = next(iter(chart.lines.values()))
        step, best = min(points, key=itemgetter(1))
        now = points[-1][1]
        if now > RISEN * best:
            told.append(f"of {modality} from {best:.2g} at step {step} to {now:.2g}")
    if not told:
        return ""
    return (
        f"the held-out error rose, {' and '.join(told)}: it learns the training clips by heart. More clips "
        "help, more steps do not"
    )


def _ends(points: Points) -> str:
    (first, begun), (last, now) = points[0], points[-1]
    return f"{begun:.4g} at step {first}, {now:.4g} at {last}"


def _svg(lines: Mapping[str, Points], names: Sequence[str], smooth: bool) -> str:
    """Lines on common axes; the vertical one goes from the smallest value to the largest."""
    # Of a loss the extremes of the first steps would flatten all that follows: they are cut off.
    steps = [step for points in lines.values() for step, _ in points]
    values = sorted(value for points in lines.values() for _, value in points)
    low, high = values[0], values[int(0.98 * (len(values) - 1))] if smooth else values[-1]
    first, last = min(steps), max(steps)
    span, width = (high - low) or abs(high) or 1.0, (last - first) or 1
    inner = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(step: float, value: float) -> str:
        # The vertical axis of SVG points down.
        height = min(max((value - low) / span, 0.0), 1.0)
        x, y = LEFT + inner[0] * (step - first) / width, TOP + inner[1] * (1 - height)
        return f"{x:.1f},{y:.1f}"

    # Axes with five marks each.
    parts = [f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}' role='img'>"]
    for mark in (0.0, 0.25, 0.5, 0.75, 1.0):
        y, value = TOP + inner[1] * (1 - mark), low + mark * span
        parts.append(f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y:.1f}' y2='{y:.1f}'/>")
        parts.append(f"<text x='{LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{value:.4g}</text>")
        x, step = LEFT + inner[0] * mark, first + mark * (last - first)
        anchor = "end" if mark == 1 else "middle"
        parts.append(f"<text x='{x:.1f}' y='{HEIGHT - 6}' text-anchor='{anchor}'>{step:.0f}</text>")

    # The lines; a loss is noisy: faint as it is, and its mean over neighbours.
    for name, points in lines.items():
        colour = _colour(names.index(name))
        versions = [(points, 0.25), (_smoothed(points), 1.0)] if smooth else [(points, 1.0)]
        for version, opacity in versions:
            path = " ".join(place(step, value) for step, value in version)
            parts.append(f"<polyline stroke='{colour}' opacity='{opacity}' points='{path}'/>")
    return "".join(parts) + "</svg>"


def _smoothed(points: Points) -> Points:
    """Each value with the mean of those around it."""
    reach = min(SMOOTHED, len(points) // SMOOTHED) // 2
    return [
        (step, _mean([v for _, v in points[max(0, i - reach) : i + reach + 1]]))
        for i, (step, _) in enumerate(points)
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _shown(text: str) -> str:
    return html.escape(printable(text))
