"""Pictures of a region: how far its nearest walls are, and in the plane its corners and its largest ball."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon

from linreg.errors import LinregError
from linreg.plot.style import BLUE, INK, LINE, PALE_BLUE, RED, despine, own_settings
from linreg.regions.halfspaces import Label
from linreg.regions.nearest import Walls
from linreg.regions.programs import Polytope
from linreg.text import number


@own_settings()
def draw_walls(walls: Walls, ax: Axes | None = None) -> Axes:
    """The nearest walls as lines from the input, on a logarithmic axis: blue ends at gates, red at selections.

    Their numbers are those of `Wall.distance`. Raises LinregError where there is no wall that could be drawn.
    """
    if not walls:
        raise LinregError("there are no walls to draw: the region has no end")
    if ax is None:
        ax = Figure(figsize=(7.5, 1.6 + 0.27 * len(walls)), layout="constrained").add_subplot()
    places = np.arange(len(walls))
    far = np.array([wall.distance for wall in walls])
    left = far[far > 0].min(initial=1.0) / 2
    shown = np.maximum(far, left)  # a wall that the input is on has no place on a logarithmic axis
    ax.hlines(places, left, shown, color=LINE, lw=1.4)
    for name, colour, gate in (("a gate", BLUE, True), ("a selection", RED, False)):
        chosen = np.array([(wall.label.rival is None) == gate for wall in walls])
        if chosen.any():
            ax.plot(shown[chosen], places[chosen], "o", color=colour, label=f"wall of {name}")
    for place, at, distance in zip(places, shown, far, strict=True):
        ax.annotate(number(distance), (at, place), (7, 0), textcoords="offset points", va="center", fontsize=8)
    ax.set_xscale("log")
    ax.set_xlim(left, shown.max() * (shown.max() / left) ** 0.25)
    ax.set_yticks(places, [_name(wall.label) for wall in walls], parse_math=False)
    ax.set_ylim(len(walls) - 0.5, -0.5)
    ax.set_xlabel(f"distance, {walls.measure}")
    ax.set_title(f"The {len(walls)} nearest of {walls.total:,} walls", fontsize=11)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    despine(ax)
    return ax


def _name(label: Label) -> str:
    """The unit, and of a selection what it would choose instead."""
    return str(label) if label.rival is None else f"{label}: [{', '.join(map(str, label.rival))}]"


@own_settings()
def draw_region(region: Polytope, ax: Axes | None = None, names: bool = True, ball: bool = True) -> Axes:
    """The region of a network with two inputs: its corners, its walls by the units they belong to, its largest ball.

    `names` and `ball` say whether the last two are drawn. Raises LinregError as `Polytope.vertices`.
    """
    corners = region.vertices().double().numpy(force=True)
    if ax is None:
        ax = Figure(figsize=(5.4, 5.0), layout="constrained").add_subplot()
    ax.add_patch(Polygon(corners, fc=PALE_BLUE, ec=INK, alpha=0.45, lw=1.5))
    x = region.region.lin.input[0].double().numpy(force=True)
    if ball and np.isfinite(region.ball.radius):
        centre = region.ball.centre.double().numpy(force=True)
        ax.add_patch(Circle((centre[0], centre[1]), region.ball.radius, fill=False, ec=BLUE, lw=1.2))
        ax.plot(*centre, "+", color=BLUE, ms=8)
    ax.plot(*x, "o", color="white", mec="black", ms=8)
    for place in region.facets if names else ():
        on = np.abs(corners @ region.A[place] - region.b[place]) < 1e-6 * (1 + np.abs(corners).max())
        if on.sum() >= 2:
            labels = [str(region.region.label(row)) for row in region.owners(place)]
            ax.annotate(
                ", ".join(labels), corners[on].mean(0), region.A[place] * 12, textcoords="offset points",
                ha="center", va="center", fontsize=8, parse_math=False,
            )  # fmt: skip
    ax.set_aspect("equal")
    ax.autoscale_view()
    ax.margins(0.12)
    ax.set(xlabel="$x_1$", ylabel="$x_2$")
    despine(ax)
    return ax
