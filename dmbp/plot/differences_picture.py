"""The picture of a table of differences: how far each method is from one of them, with its interval."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from dmbp.errors import DmbpError
from dmbp.evaluation.bootstrap import Mean
from dmbp.evaluation.tables import BETTER, Row, Table
from linreg.plot.style import GRID, INK, LINE, NO_VALUE, despine
from linreg.text import counted

LINE_HEIGHT = 0.27  # inches of a method
WIDTH = 3.1  # inches of a panel
LEAST = 20  # letters of room for the names of methods, so that a title has room too
LETTER = 0.07  # inches of a letter at 9 points, a little more than most take
CAPTION = (
    "Right of the line a method has more than the one that all are compared with. Filled: the 95 % interval does not "
    "hold 0. Grey: it holds 0, or there are fewer than 10 pictures."
)


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
    names = max(LEAST, *(len(name) for block in blocks for name in block.methods))
    width = WIDTH * len(measures) + LETTER * names + 0.5
    caption = _wrapped(CAPTION, 8, width)
    height = sum(heights) + 0.6 + 0.15 * len(caption.splitlines())
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.06))
    figure.suptitle(_wrapped(table.title, 12, width), fontsize=12, x=0.02, ha="left")
    figure.supxlabel(caption, fontsize=8, x=0.02, ha="left")
    parts = figure.subfigures(len(blocks), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, block in zip(parts, blocks, strict=True):
        part.suptitle(_wrapped(block.place, 10, width), fontsize=10, x=0.02, ha="left")
        axes = dict(zip(measures, part.subplots(1, len(measures), squeeze=False, sharey=True)[0], strict=True))
        for measure, ax in axes.items():
            if measure in block.rows:
                _panel(ax, block.rows[measure], block.methods)
            else:
                ax.set_visible(False)
        first = axes[next(measure for measure in measures if measure in block.rows)]
        first.tick_params(axis="y", labelleft=True)  # which is not the leftmost one where that has no numbers
        first.set_ylim(len(block.methods) - 0.4, -0.6)
    return figure


@dataclass(frozen=True)
class Block:
    """What was found on one network and data set: of each metric a cell for each method that has any number there."""

    place: str
    methods: tuple[str, ...]
    rows: dict[str, Row]


def _block(table: Table, place: str) -> Block:
    rows = [row for row in table.rows if row.place == place]
    there = [k for k in range(len(table.columns)) if any(row.cells[k] for row in rows)]
    kept = {row.measure: replace(row, cells=tuple(row.cells[k] for k in there)) for row in rows}
    return Block(place, tuple(table.columns[k] for k in there), kept)


def _panel(ax: Axes, row: Row, methods: Sequence[str]) -> None:
    ax.axvline(0, color=LINE, lw=1)
    for at, cell in enumerate(row.cells):
        if cell is not None:
            _point(ax, at, cell)
    ax.set_title("\n".join([_wrapped(row.measure, 9, WIDTH), f"{_pictures(row)}; {BETTER[row.better]}"]), fontsize=9)
    ax.set_yticks(range(len(methods)), [_plain(name) for name in methods], fontsize=8)
    ax.tick_params(axis="x", labelsize=8)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
    ax.xaxis.get_offset_text().set_fontsize(8)
    ax.grid(color=GRID, lw=0.6)
    ax.set_axisbelow(True)
    despine(ax)


def _pictures(row: Row) -> str:
    counts = [cell.count for cell in row.cells if cell is not None]
    few = "" if min(counts) == max(counts) else f"{min(counts)} to "
    return few + counted(max(counts), "picture")


def _wrapped(text: str, points: float, width: float) -> str:
    """The text in lines that fit so many inches, without mathematics."""
    letters = int(0.95 * width / LETTER * 9 / points)
    return _plain("\n".join(textwrap.wrap(text, letters, break_on_hyphens=False)))


def _plain(text: str) -> str:
    """No mathematics to matplotlib."""
    return text.replace("$", r"\$")


def _point(ax: Axes, at: int, cell: Mean) -> None:
    color = INK if cell.decided else NO_VALUE
    ax.plot((cell.low, cell.high), (at, at), color=color, lw=2, solid_capstyle="butt")
    ax.plot(cell.value, at, "o", color=color, mfc=color if cell.decided else "white", ms=5.5, mew=1.4)
