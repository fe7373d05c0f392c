"""Pictures of explicit matrices, with channels on their axes."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from linreg.linearization import Linearization
from linreg.operators.sparse import to_numpy
from linreg.plot.style import DIVERGING, LINE, own_settings


@own_settings()
def draw_matrix(
    lin: Linearization, stop: str | None = None, start: str = "input", ax: Axes | None = None, limit: int = 2**24
) -> Axes:
    """The matrix of a sub-path, `lin.matrix(stop, start)`, red above zero, blue below, white at exactly zero.

    Rows are the elements of `stop` and columns those of `start`, by channel, and by position within each: lines part
    the channels, which the axes number. Raises LinregError where the matrix cannot be had or takes more than `limit`
    bytes: a picture of more elements than pixels shows none of them.
    """
    stop = stop or lin.graph.output
    values = to_numpy(lin.matrix(stop, start, limit=limit))
    ax = ax or Figure(figsize=(8, 6), layout="constrained").add_subplot()
    largest = float(np.abs(values).max(initial=0)) or 1.0
    drawn = ax.imshow(
        values,
        cmap=DIVERGING,
        vmin=-largest,
        vmax=largest,
        interpolation="nearest",
        aspect="auto",
        rasterized=True,
    )
    _number_channels(ax.yaxis, ax.axhline, lin.graph.shape(stop), stop)
    _number_channels(ax.xaxis, ax.axvline, lin.graph.shape(start), start)
    figure = ax.get_figure()
    assert figure is not None
    figure.colorbar(drawn, ax=ax, label=f"∂ {stop} / ∂ {start}")
    return ax


def _number_channels(axis: Axis, line: Callable[..., Any], shape: tuple[int, ...], name: str) -> None:
    """A line before each channel, and its number in the middle of its rows; few enough numbers to be read."""
    channels, positions = (shape[0], prod(shape[1:])) if shape else (1, 1)
    step = max(1, -(-channels // 16))
    axis.set_ticks([(c + 0.5) * positions - 0.5 for c in range(0, channels, step)], labels=[*range(0, channels, step)])
    axis.set_tick_params(length=0 if positions > 1 else 3)
    sizes = "×".join(map(str, shape[1:]))
    axis.set_label_text(f"{name}: channel" + (f", {sizes} positions each" if sizes else ""), parse_math=False)
    if 1 < channels <= 64 and positions > 1:
        for border in range(1, channels):
            line(border * positions - 0.5, color=LINE, lw=0.5)
