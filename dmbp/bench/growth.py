"""How the cost grows: time against iterations, images and pixels, each with a straight line through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dmbp.bench.report import Report, Row
from dmbp.bench.subject import Problem, Subject, in_turn
from linreg import LinregError
from linreg.plot.style import GRID, OURS, RIVAL, despine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ITERATIONS, IMAGES, SCALES = (5, 10, 20, 40), (1, 2, 4, 8), (0.5, 1.0, 1.5, 2.0)
Clocks = tuple[Callable[[], float], Callable[[], float]]  # ours and the floor's
AXES = {  # what is counted, its unit, and what is timed
    "iterations": ("iterations", "iteration", "a run of n iterations on one image"),
    "images": ("images in the batch", "image", "one iteration"),
    "pixels": ("pixels of the image", "pixel", "one iteration on one image"),
}


def grow(report: Report, subject: Subject, iterations: int, rounds: int) -> None:
    """Rows of the report: seconds of a run by iterations, and of one iteration by images and by pixels.

    Beside each stands what so much of the floor takes. A network that takes pictures of one size only has no third row.
    """
    one = subject.problem(1)
    report.growth.append(_row("iterations", {n: _run(one, n) for n in ITERATIONS}, rounds))
    batches = {images: subject.problem(images) for images in IMAGES}
    report.growth.append(_row("images", {n: _iteration(each, iterations) for n, each in batches.items()}, rounds))
    height, width = subject.pictures.shape[-2:]
    try:
        sizes = [(round(height * scale), round(width * scale)) for scale in SCALES]
        pictures = {size[0] * size[1]: subject.problem(1, size) for size in sizes}
    except LinregError as error:
        reason = str(error).partition("\n")[0]
        report.notes.append(f"growth with pixels: not measured, the network does not take other sizes: {reason}")
        return
    report.growth.append(_row("pixels", {n: _iteration(each, iterations) for n, each in pictures.items()}, rounds))


def _run(problem: Problem, iterations: int) -> Clocks:
    floor = problem.clock(problem.laid_out.floor, iterations)
    return problem.clock(lambda: problem.learn(iterations)), lambda: iterations * floor()


def _iteration(problem: Problem, iterations: int) -> Clocks:
    return lambda: problem.iteration(iterations), problem.clock(problem.laid_out.floor, iterations)


def _row(name: str, clocks: Mapping[int, Clocks], rounds: int) -> Row:
    rivals = {(n, side): clock for n, both in clocks.items() for side, clock in enumerate(both)}
    times = in_turn(rivals, rounds, f"growth with {name}")
    own, floor = ([times[n, side] for n in clocks] for side in (0, 1))
    start, slope, residual = line(tuple(clocks), own)
    return {
        "name": name, "amounts": list(clocks), "seconds": own, "floor_seconds": floor,
        "start": start, "slope": slope, "residual": residual,
    }  # fmt: skip


def line(amounts: Sequence[float], times: Sequence[float]) -> tuple[float, float, float]:
    """start + slope · amount with the least squares of relative errors, and the largest relative error."""
    x, t = np.asarray(amounts, float), np.asarray(times, float)
    slope, start = np.polyfit(x, t, 1, w=1 / t)
    return float(start), float(slope), float(np.abs((start + slope * x) / t - 1).max())


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
