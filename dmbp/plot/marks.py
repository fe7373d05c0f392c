"""The target of a segmentation on the picture: a ring around one pixel, an outline around a region."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from linreg.plot.style import INK

SMALL = 0.02  # of the picture's sides: what is no larger gets a ring
MARKED = "framed: where the score is taken"


def outline(ax: Axes, inside: np.ndarray, shape: tuple[int, ...]) -> None:
    """The outline of places (rows, columns) of the output on a picture (…, H, W), black on white.

    An output of fewer places than the picture has pixels is laid over the whole of it.
    """
    steps = np.array(shape[-2:]) / inside.shape
    lines = [(points * steps - 0.5)[:, ::-1] for points in _edges(inside)]
    for colour, width in (("white", 3.2), (INK, 1.4)):
        ax.add_collection(LineCollection(lines, colors=colour, linewidths=width, capstyle="projecting"))
    rows, columns = np.nonzero(inside)
    extent = np.array([np.ptp(rows) + 1, np.ptp(columns) + 1]) / inside.shape
    if extent.max() <= SMALL:
        row, column = (np.array([rows.mean(), columns.mean()]) + 0.5) * steps - 0.5
        for colour, width in (("white", 3.2), (INK, 1.6)):
            ax.plot(column, row, "o", ms=15, mfc="none", mec=colour, mew=width)


def span(ax: Axes, inside: np.ndarray, size: int) -> None:
    """The steps (places,) of the output along a signal of so many steps, between dashed lines."""
    step = size / len(inside)
    for first, last in _runs(inside):
        ax.axvspan(first * step - 0.5, last * step - 0.5, fill=False, edgecolor=INK, ls="--", lw=1.3)


def _edges(inside: np.ndarray) -> list[np.ndarray]:
    """The sides between places within and without, each as two corners (row, column), in places."""
    padded = np.pad(inside, 1)
    below = np.argwhere(padded[1:] != padded[:-1])
    beside = np.argwhere(padded[:, 1:] != padded[:, :-1])
    lines = [np.array([[row, column - 1], [row, column]]) for row, column in below]
    return lines + [np.array([[row - 1, column], [row, column]]) for row, column in beside]


def _runs(inside: np.ndarray) -> list[tuple[int, int]]:
    """(first, stop) of each stretch of true places."""
    changes = np.flatnonzero(np.diff(np.pad(inside.astype(int), 1)))
    return list(pairwise(changes.tolist()))[::2]
