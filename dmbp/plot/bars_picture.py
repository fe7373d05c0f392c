"""A table: bars of its features, (F,)."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from dmbp.plot.view import Kind, Place, View
from linreg.plot.style import BAND, BLUE, NUISANCE, RED, despine
from linreg.text import counted, number

MOST = 16  # features with bars of their own


def heights(view: View) -> tuple[float]:
    return (max(0.27 * min(view.x.shape[0], MOST + 1), 3.4),)


def draw(view: View, place: Place) -> None:
    """Bars of ∇⁺ ⊙ x, ∇⁻ ⊙ x and a for each feature, on one scale; those with the largest |a| first, the rest summed.

    With each feature's name stands its value. Under the bars stands what all features sum to, and of what.
    """
    labels, found, summed = ranked(view, MOST)
    limit = max(np.abs(list(found.values())).max(), np.finfo(float).tiny)
    captions = view.captions(view.maps, "features")
    for k, ((title, each), caption) in enumerate(zip(found.items(), captions, strict=True)):
        ax = place.cell(0, k)
        bars(ax, each, limit, summed)
        ax.set_title(title if k or view.title == "x" else f"{view.title}: {title}", fontsize=11)
        ax.set_xlabel(caption.replace(" of ", "\nof "), fontsize=9)
        ax.set_yticks(range(len(labels)), [] if k else labels, fontsize=9)
        ax.set_ylim(len(labels) - 0.5, -0.5)


def ranked(view: View, most: int) -> tuple[list[str], dict[str, np.ndarray], bool]:
    """The features with the largest |a|: their names with their values, their maps, and whether a last one sums up."""
    maps = view.maps
    order = np.argsort(-np.abs(maps["attribution a"]), kind="stable")
    shown, rest = order[:most], order[most:]
    values = view.x.numpy(force=True)
    labels = [f"{view.label(int(k), 'feature')} = {number(float(values[k]))}" for k in shown]
    if len(rest):
        labels.append(f"{counted(len(rest), 'more feature')}, together")
    found = {title: np.append(each[shown], each[rest].sum() if len(rest) else []) for title, each in maps.items()}
    return labels, found, bool(len(rest))


def bars(ax: Axes, values: np.ndarray, limit: float, summed: bool, size: float = 8) -> None:
    """Bars with their numbers, every other row on a band; the last is grey if it sums up many features."""
    places = np.arange(len(values))
    colours = [RED if value > 0 else BLUE for value in values]
    if summed:
        colours[-1] = NUISANCE
    for row in places[::2]:
        ax.axhspan(row - 0.5, row + 0.5, color=BAND, lw=0, zorder=0)
    ax.barh(places, values, 0.66, color=colours, zorder=2)
    ax.axvline(0, color="black", lw=0.8, zorder=3)
    for row, value in enumerate(values):
        inside = abs(value) > 0.55 * limit
        away = np.sign(value) if value else 1.0
        ax.annotate(
            number(float(value)), (value, row), (-4 * away if inside else 4 * away, 0), textcoords="offset points",
            ha="right" if (away > 0) == inside else "left", va="center", fontsize=size,
            color="white" if inside else "black", zorder=4,
        )  # fmt: skip
    ax.set_xlim(-1.1 * limit, 1.1 * limit)
    despine(ax, "left")
    ax.tick_params(axis="x", labelsize=size)
    ax.tick_params(axis="y", length=0)


BARS = Kind(heights, lambda view: 1.6, draw)
