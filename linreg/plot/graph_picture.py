"""Pictures of the operator graph; where its nodes go is told by `linreg.plot.placement`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from linreg.errors import LinregError
from linreg.graph import INPUT, OperatorGraph
from linreg.operators import Role
from linreg.plot.placement import Layout, Point, lay_out
from linreg.plot.style import BAND, DIVERGING, INK, LINE, MARKERS, NO_VALUE, own_settings

PLAIN: dict[str, Any] = {"parse_math": False}  # a dollar in a name is a dollar


class Family(NamedTuple):
    """Operators that look alike, those of one role: marker, its size, and colour where no other is given."""

    name: str
    marker: str
    size: float
    colour: str
    role: Role | None


FAMILIES = (
    Family("input", ">", 110, MARKERS["input"], None),  # which is no operator
    Family("weights", "s", 95, MARKERS["weights"], Role.WEIGHTS),
    Family("gate", "o", 105, MARKERS["gate"], Role.GATE),
    Family("sum", "P", 140, MARKERS["sum"], Role.SUM),
    Family("concatenation", "D", 75, MARKERS["concatenation"], Role.CONCATENATION),
    Family("max pool", "v", 110, MARKERS["max pool"], Role.MAX_POOL),
    Family("average or total", "^", 110, MARKERS["average"], Role.AVERAGE),
    Family("scale or shift", "h", 115, MARKERS["scale"], Role.SCALE),
    Family("other", "d", 75, MARKERS["other"], Role.OTHER),
)


@own_settings()
def draw_graph(
    graph: OperatorGraph, ax: Axes | None = None, colour: Mapping[str, float] | None = None, label: str = ""
) -> Axes:
    """The operator graph from left to right: markers tell the roles of operators, bands their modules.

    `colour` gives a number for each node, or for some: blue below zero, white at zero, red above; `label` says what it
    is and in which units. Draws into `ax`, or into a new figure (`.figure` of the result). Raises LinregError for a
    node that does not exist and a number that is not finite.
    """
    layout = lay_out(graph)
    numbers = None if colour is None else _numbers(graph, colour)
    if ax is None:
        width = layout.columns * (1.05 if layout.columns < 10 else 0.8) + 0.6
        size = (max(width, 4.5), 0.62 * layout.height + (1.5 if numbers else 0.7))
        ax = Figure(figsize=size, layout="constrained").add_subplot()
    _draw_bands(ax, layout)
    _draw_links(ax, layout)
    _draw_nodes(ax, graph, layout, numbers)
    if numbers is not None:
        drawn = ScalarMappable(_scale(numbers), DIVERGING)
        ax.figure.colorbar(drawn, ax=ax, location="bottom", label=label, shrink=0.5, aspect=40, pad=0.02)
    ax.set(xlim=(-0.8, layout.columns - 0.2), ylim=(-0.75, layout.height - 0.75))
    ax.set_axis_off()
    return ax


def _numbers(graph: OperatorGraph, colour: Mapping[str, float]) -> dict[str, float]:
    numbers = {name if name == INPUT else graph[name].name: float(value) for name, value in colour.items()}
    broken = [name for name, value in numbers.items() if not np.isfinite(value)]
    if broken or not numbers:
        raise LinregError(f"colour needs a finite number for some nodes; it has {broken or 'none at all'}")
    return numbers


def _scale(numbers: Mapping[str, float]) -> Normalize:
    limit = max(map(abs, numbers.values())) or 1.0
    return Normalize(-limit, limit)


def _draw_bands(ax: Axes, layout: Layout) -> None:
    for title, first, last, bottom, top in layout.bands:
        corner, width = (first - 0.38, bottom - 0.55), last - first + 0.76
        style = {"boxstyle": "round,pad=0,rounding_size=0.15", "fc": BAND, "ec": "none", "zorder": 0}
        ax.add_patch(FancyBboxPatch(corner, width, top - bottom + 0.95, **style))  # type: ignore[arg-type]
        room = int(12 * width)
        ax.text(
            first - 0.3, top + 0.43, _short(title, room), fontsize=7.5, color=INK, va="bottom", weight="bold", **PLAIN
        )


def _draw_links(ax: Axes, layout: Layout) -> None:
    """Every piece as a curve that leaves and arrives level."""
    vertices: list[Point] = []
    for (x0, y0), (x1, y1) in layout.links:
        middle = (x0 + x1) / 2
        vertices += [(x0, y0), (middle, y0), (middle, y1), (x1, y1)]
    codes = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4] * len(layout.links)
    ax.add_patch(PathPatch(Path(vertices, codes), fc="none", ec=LINE, lw=1.1, zorder=1, capstyle="round"))


def _draw_nodes(ax: Axes, graph: OperatorGraph, layout: Layout, numbers: Mapping[str, float] | None) -> None:
    roles = {INPUT: None} | {node.name: node.operator.role for node in graph.nodes}
    for family in FAMILIES:
        names = [name for name, role in roles.items() if role is family.role]
        if names:
            _draw_markers(ax, layout, names, family, numbers)
            face = family.colour if numbers is None else "white"
            _scatter(ax, [], family.marker, family.size, face, label=family.name)
    if numbers is not None and len(numbers) < len(roles):
        _scatter(ax, [], "o", 40, NO_VALUE, linewidths=0, label="no value")
    _draw_labels(ax, layout)
    ax.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(FAMILIES), frameon=False, fontsize=8,
        handletextpad=0.2, columnspacing=1.2,
    )  # fmt: skip


def _draw_markers(
    ax: Axes, layout: Layout, names: Sequence[str], family: Family, numbers: Mapping[str, float] | None
) -> None:
    """The nodes of one family; those without a number, where others have one, are small and grey."""
    known = [name for name in names if numbers is None or name in numbers]
    unknown = [layout.places[name] for name in names if name not in known]
    places = [layout.places[name] for name in known]
    faces = family.colour if numbers is None else DIVERGING(_scale(numbers)([numbers[name] for name in known]))
    _scatter(ax, unknown, family.marker, 0.35 * family.size, NO_VALUE, linewidths=0)
    _scatter(ax, places, family.marker, family.size, faces)


def _scatter(ax: Axes, places: Sequence[Point], marker: str, size: float, face: Any, **options: Any) -> None:
    look: dict[str, Any] = {"edgecolors": INK, "linewidths": 0.8, "zorder": 2} | options
    ax.scatter([x for x, _ in places], [y for _, y in places], s=size, c=face, marker=marker, **look)


def _draw_labels(ax: Axes, layout: Layout) -> None:
    """Names below the straight main line, and above what runs beside it, which its lines reach from below."""
    for name, (x, y) in layout.places.items():
        aside = layout.heights[name] > 0
        offset, align = (8, "bottom") if aside else (-8, "top")
        ax.annotate(
            _short(layout.labels[name], 15), (x, y), (0, offset), textcoords="offset points", ha="center", va=align,
            fontsize=6.5, color=INK, **PLAIN,
        )  # fmt: skip


def _short(text: str, room: int) -> str:
    """The text with its middle left out where it is longer than `room` characters."""
    return text if len(text) <= room else f"{text[: room // 2 - 1]}…{text[len(text) - room + room // 2 :]}"
