"""Runs in the environment that has matplotlib: `plots_script.py READINGS.json DRAWING.svg`. Imports nothing of ours.

Nothing in the drawing depends on the day or the machine: fixed ids, no date, text as text.
"""

import json
import sys

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

STYLE = {
    "svg.hashsalt": "growth",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
LABELS = {"ours": "this bridge, one channel", "node": "plain Node bridge, a socket each"}
COLOURS = {"ours": "#1f6feb", "node": "#d1730f"}
PANELS = (
    ("users", "cpuPercent", "users, 1 price a second each", "% of a core"),
    ("users", "rssMib", "users", "memory, MiB"),
    ("positions", "cpuPercent", "positions per user", "% of a core"),
    ("events", "cpuPercent", "prices per user and second", "% of a core"),
    ("intervals", "cpuPercent", "flush interval, s", "% of a core"),
    ("positions", "rssMib", "positions per user", "memory, MiB"),
)


def main(readings: str, drawing: str) -> None:
    with open(readings) as file:
        growth = json.load(file)["growth"]
    mpl.rcParams.update(STYLE)
    figure, places = plt.subplots(2, 3, figsize=(10, 5.4))
    for place, (series, value, x_label, y_label) in zip(places.flat, PANELS, strict=True):
        for name, line in growth["series"][series].items():
            xs, ys = [point["x"] for point in line], [point[value] for point in line]
            place.plot(xs, ys, marker="o", markersize=3.5, color=COLOURS[name], label=LABELS[name])
        place.set_xlabel(x_label)
        place.set_ylabel(y_label)
        place.set_xlim(left=0)
        place.set_ylim(bottom=0)
        if len(growth["series"][series]) > 1:
            place.legend(frameon=False, fontsize=8)
    base, at_intervals = growth["base"], growth["atIntervals"]
    figure.suptitle(
        f"Where not varied: {base['users']} users, {base['positions']} positions and {base['eventsPerUser']:g} price "
        f"a second each (flush interval: {at_intervals['positions']} and {at_intervals['eventsPerUser']:g}), "
        f"flush every {base['flushIntervalS']:g} s",
        fontsize=9,
    )
    figure.tight_layout()
    figure.savefig(drawing, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
