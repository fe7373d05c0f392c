"""Pictures × methods on one sheet, in the style of the paper's Figure 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from dmbp.errors import DmbpError
from dmbp.plot.scales import limit_of
from linreg.plot.style import DIVERGING, FRAME, NO_VALUE

SIDE = 1.55  # inches of a cell


@dataclass(frozen=True, eq=False)
class Line:
    """One row of a sheet: a picture (H, W, 3), what is explained, and a map (H, W) of each method, or None."""

    picture: np.ndarray
    title: str
    maps: Sequence[np.ndarray | None]


def draw_rivals(lines: Sequence[Line], methods: Sequence[str], title: str = "") -> Figure:
    """A row for each picture, a column for each method; each map on a scale of its own, white at exactly zero.

    Methods have units of their own, so that colours tell signs and places, and no amounts between columns. Full colour
    stands for the 99.5th percentile of the map's absolute values that are not zero.
    """
    if not lines or any(len(line.maps) != len(methods) for line in lines):
        raise DmbpError("a sheet of methods needs at least one picture, and a map or None of each method for each")
    shape = (len(lines), len(methods) + 1)
    height = SIDE * lines[0].picture.shape[0] / lines[0].picture.shape[1]
    figure = Figure(
        figsize=(SIDE * shape[1] + 0.4, (height + 0.1) * shape[0] + 0.8),
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0),
    )
    axes = figure.subplots(*shape, squeeze=False)
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=11, wrap=True)
    for row, line in zip(axes, lines, strict=True):
        row[0].imshow(line.picture, interpolation="nearest")
        row[0].set_ylabel(line.title.replace("$", r"\$"), fontsize=7, wrap=True)
        for ax, values in zip(row[1:], line.maps, strict=True):
            _map(ax, values)
    for ax, name in zip(axes[0], ("picture", *methods), strict=True):
        ax.set_title(name, fontsize=8)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_color(FRAME)
    return figure


def _map(ax: Axes, values: np.ndarray | None) -> None:
    if values is None:
        ax.text(0.5, 0.5, "not kept", ha="center", va="center", color=NO_VALUE, fontsize=8, transform=ax.transAxes)
        return
    limit = limit_of(values)
    ax.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
