"""The picture of how the cost grows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dmbp.bench.report import Row
from linreg.plot.style import GRID, OURS, RIVAL, despine, own_settings

AXES = {  # what is counted, its unit, and what is timed
    "iterations": ("iterations", "iteration", "a run of n iterations on one image"),
    "images": ("images in the batch", "image", "one iteration"),
    "pixels": ("pixels of the image", "pixel", "one iteration on one image"),
}


@own_settings()
def draw_growth(rows: Sequence[Row], title: str) -> Figure:
    """Measured times as dots, ours and the floor's, and the straight line through ours with what it misses by."""
    figure = Figure(figsize=(4.6 * len(rows), 4.6), layout="constrained")
    figure.suptitle(title, fontsize=13)
    for ax, row in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
        _panel(ax, row)
    return figure


def _panel(ax: Axes, row: Row) -> None:
    counted, each, timed = AXES[row["name"]]
    time = EngFormatter("s", places=2, sep=" ")
    x = np.array([0, max(row["amounts"])])
    sign = "+" if row["slope"] >= 0 else "−"
    fit = (
        f"line: {time(row['start'])} {sign} {time(abs(row['slope']))} per {each},\noff by at most {row['residual']:.0%}"
    )
    ax.plot(x, row["start"] + row["slope"] * x, color=OURS, lw=1.5, label=fit, zorder=1)
    ax.plot(row["amounts"], row["seconds"], "o", ms=8, color=OURS, label="DMBP", zorder=2)
    ax.plot(
        row["amounts"],
        row["floor_seconds"],
        "s",
        ms=7,
        mfc="white",
        mew=1.8,
        color=RIVAL,
        label="the floor: plain PyTorch",
    )
    ax.set_title(timed, fontsize=11)
    ax.set_xlabel(counted, fontsize=11)
    ax.set_ylabel("time", fontsize=11)
    ax.yaxis.set_major_formatter(EngFormatter("s", sep=" "))
    ax.set_xlim(0, 1.08 * x[1])
    ax.set_ylim(0, None)
    ax.set_xticks(row["amounts"], [f"{amount:,}" for amount in row["amounts"]])
    ax.legend(frameon=False, loc="upper left", fontsize=9.5)
    ax.margins(y=0.28)
    despine(ax)
    ax.grid(axis="y", color=GRID, lw=0.8)
    ax.set_axisbelow(True)
