"""The picture of a comparison: a row of maps for each class, a column for each method."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from dmbp.errors import DmbpError
from dmbp.plot.explanation_picture import words_below
from dmbp.plot.overlay import overlay
from dmbp.plot.scales import frame, limit_of, scaled
from dmbp.standing import probable
from linreg.plot.style import DIVERGING, own_settings

if TYPE_CHECKING:
    from dmbp.comparison import Comparison, Row

SIDE = 2.1  # inches of a cell
LINE = 0.18  # inches of a line of text
SMALL, LARGE = 10, 11  # points, of what stands under a map and above it
BELOW = (
    "Each map on a scale of its own, the same for all classes: red for the class, blue against it, {zero} zero. "
    "Units are those of each method: colours tell signs and places, not amounts between methods."
)


@own_settings()
def draw_comparison(
    comparison: Comparison,
    picture: np.ndarray | None = None,
    title: str = "",
    columns: int = 5,
    over: bool = False,
) -> Figure:
    """The picture, and the maps of each method beside it, a row for each class; under each its insertion area.

    All maps of one method are on one scale of colours, white at exactly zero, full at the 99.5th percentile of their
    |values|. The best area of a class is bold. Methods go on in further rows after `columns` of them: 5 fit a slide, 2
    a column of a page. `picture` (H, W, 3) in [0, 1] is drawn in the place of x; `over` lays the maps over it. Raises
    DmbpError for a number of columns below 1.
    """
    if columns < 1:
        raise DmbpError(f"a comparison needs at least 1 column of maps, not {columns}")
    shown = scaled(comparison.x[0]) if picture is None else picture
    blocks = [comparison.rows[first : first + columns] for first in range(0, len(comparison.rows), columns)]
    across, down = min(columns, len(comparison.rows)) + 1, len(blocks) * len(comparison.targets)
    height = SIDE * shown.shape[0] / shown.shape[1]
    named = max(len(_title(row.name)) for row in comparison.rows)  # lines above a map
    below = BELOW.format(zero="clear" if over else "white")
    if comparison.rows[0].areas:
        below += " Insertion area: higher is better, the best bold."
    figure = Figure(
        figsize=(SIDE * across + 0.3, (height + 0.42 + LINE * named) * down + LINE * (4 + 40 // (8 * across))),
        layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.05, wspace=0, hspace=0.02),
    )
    axes = figure.subplots(down, across, squeeze=False)
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=LARGE + 2, wrap=True)
    limits = {row.name: limit_of(row.maps.numpy(force=True)) for row in comparison.rows}
    for line, cells in enumerate(axes):
        block, place = blocks[line // len(comparison.targets)], line % len(comparison.targets)
        _picture(cells[0], comparison, place, shown)
        for ax, row in zip(cells[1:], block, strict=False):
            _map(ax, comparison, row, place, limits[row.name], shown if over else None)
        for ax in cells[len(block) + 1 :]:
            ax.set_axis_off()
    words_below(figure, [below])
    return figure


def _picture(ax: Axes, comparison: Comparison, place: int, shown: np.ndarray) -> None:
    ax.imshow(shown, interpolation="nearest")
    first = comparison.labels[place].partition(",")[0]
    frame(ax, first if len(first) < 24 else f"{first[:22]}…", LARGE)
    if comparison.probabilities is not None:
        ax.set_xlabel(f"probability {probable(comparison.probabilities[place])}", fontsize=SMALL)


def _map(ax: Axes, comparison: Comparison, row: Row, place: int, limit: float, ground: np.ndarray | None) -> None:
    values = row.maps[place].numpy(force=True)
    if ground is None:
        ax.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    else:
        overlay(ax, values, ground, limit)
    lines = _title(row.name)
    frame(ax, "\n".join(lines), SMALL if len(lines) > 1 else LARGE)
    if row.areas:
        best = round(row.areas[place], 3) == round(max(other.areas[place] for other in comparison.rows), 3)
        ax.set_xlabel(f"insertion {row.areas[place]:.3f}", fontsize=SMALL, fontweight="bold" if best else "normal")


def _title(name: str) -> list[str]:
    """A method's name, and its options, in a line each."""
    label, _, options = name.partition(":")
    return [label, *options.split(",")] if options else [label]
