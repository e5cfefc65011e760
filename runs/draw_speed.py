"""Draws time against quality from measured rows.

    python runs/draw_speed.py docs/images/speed.json docs/images/speed.png

The JSON holds the recall of real clips, "real", and "rows" of name, seconds, recall, recall_interval; a row's
"shift" moves its name down, in pixels. Needs matplotlib.
"""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

from mmldm.evaluation.pictures import DPI, save_plot

SECONDS = 0.095, 0.5
MARKS = 0.1, 0.15, 0.2, 0.3, 0.4
RECALLS = 0.84, 0.92
DOT, REAL = "#1e5ac8", "#148c3c"


def main() -> None:
    measured = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    figure = Figure((900 / DPI, 480 / DPI), layout="constrained")
    axis = figure.subplots()
    axis.set(xscale="log", xlim=SECONDS, ylim=RECALLS)
    axis.set_xticks(MARKS, [f"{seconds:g}" for seconds in MARKS])
    axis.set_xticks([], minor=True)
    axis.grid(color="#dcdcdc")
    axis.set_axisbelow(True)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("CPU seconds a clip, one thread (logarithmic)")
    axis.set_title("recall at 50 ms of joint samples, 95 % interval", loc="left", fontsize="medium")

    axis.axhline(measured["real"], color=REAL, linewidth=2)
    axis.text(SECONDS[1], measured["real"], "real clips ", color=REAL, ha="right", va="bottom")
    for row in measured["rows"]:
        point = row["seconds"], row["recall"]
        axis.plot((row["seconds"],) * 2, row["recall_interval"], color=DOT, linewidth=2)
        axis.plot(*point, "o", color=DOT, markersize=8)
        place = 9, -row.get("shift", 0)
        axis.annotate(row["name"], point, xytext=place, textcoords="offset pixels", va="center")
    save_plot(Path(sys.argv[2]), figure)


if __name__ == "__main__":
    main()
