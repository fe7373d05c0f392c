"""The picture of a table of differences: how far each method is from one of them, with its interval."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from dmbp.errors import DmbpError
from dmbp.evaluation.bootstrap import Mean
from dmbp.evaluation.tables import Table
from linreg.plot.style import GRID, INK, LINE, NO_VALUE, despine
from linreg.text import counted

LINE_HEIGHT = 0.27  # inches of a method
WIDTH = 3.1  # inches of a panel
CAPTION = "Filled: the 95 % interval does not hold 0. Grey: undecided, or fewer than 10 pictures."


def draw_differences(table: Table) -> Figure:
    """A panel for each row of the table: networks and data sets below each other, metrics side by side.

    In a panel each method is a point with its interval, left of the line where it has less than the method that all are
    compared with. It is filled where the interval does not hold zero, and grey where nothing is decided. Raises
    DmbpError for a table of anything else, or an empty one.
    """
    if not table.signed or not table.rows:
        raise DmbpError("expected a table of differences between at least two methods")
    blocks = [_block(table, place) for place in dict.fromkeys(row.place for row in table.rows)]
    measures = list(dict.fromkeys(row.measure for row in table.rows))
    heights = [LINE_HEIGHT * len(block.methods) + 1.2 for block in blocks]
    figure = Figure(
        figsize=(WIDTH * len(measures) + 1.4, sum(heights) + 0.7),
        layout=ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.06),
    )
    figure.suptitle(_plain(table.title), fontsize=12, x=0.02, ha="left")
    figure.supxlabel(CAPTION, fontsize=8, x=0.02, ha="left")
    parts = figure.subfigures(len(blocks), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, block in zip(parts, blocks, strict=True):
        part.suptitle(_plain(block.place), fontsize=10, x=0.02, ha="left")
        axes = part.subplots(1, len(measures), squeeze=False, sharey=True)[0]
        for ax, measure in zip(axes, measures, strict=True):
            if measure in block.cells:
                _panel(ax, measure, block.cells[measure], block.methods)
            else:
                ax.set_visible(False)
        axes[0].set_ylim(len(block.methods) - 0.4, -0.6)
    return figure


@dataclass(frozen=True)
class Block:
    """What was found on one network and data set: of each metric a cell for each method that has any number there."""

    place: str
    methods: tuple[str, ...]
    cells: dict[str, list[Mean | None]]


def _block(table: Table, place: str) -> Block:
    rows = [row for row in table.rows if row.place == place]
    there = [k for k in range(len(table.columns)) if any(row.cells[k] for row in rows)]
    return Block(
        place, tuple(table.columns[k] for k in there), {row.measure: [row.cells[k] for k in there] for row in rows}
    )


def _panel(ax: Axes, measure: str, cells: Sequence[Mean | None], methods: Sequence[str]) -> None:
    ax.axvline(0, color=LINE, lw=1)
    for at, cell in enumerate(cells):
        if cell is not None:
            _point(ax, at, cell)
    most = max(cell.count for cell in cells if cell is not None)
    ax.set_title("\n".join([*textwrap.wrap(_plain(measure), 34), counted(most, "picture")]), fontsize=9)
    ax.set_yticks(range(len(methods)), [_plain(name) for name in methods], fontsize=8)
    ax.tick_params(axis="x", labelsize=8)
    ax.grid(axis="x", color=GRID, lw=0.6)
    ax.set_axisbelow(True)
    despine(ax)


def _plain(text: str) -> str:
    """No mathematics to matplotlib."""
    return text.replace("$", r"\$")


def _point(ax: Axes, at: int, cell: Mean) -> None:
    color = INK if cell.decided else NO_VALUE
    ax.plot((cell.low, cell.high), (at, at), color=color, lw=2, solid_capstyle="butt")
    ax.plot(cell.value, at, "o", color=color, mfc=color if cell.decided else "white", ms=5.5, mew=1.4)
