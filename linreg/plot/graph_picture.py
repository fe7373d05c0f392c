"""Pictures of the operator graph, of matrices and of path spectra; what they draw can be had as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log10, prod
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from linreg.errors import LinregError
from linreg.graph import INPUT, OperatorGraph
from linreg.linearization import Linearization
from linreg.operators import Role
from linreg.operators.sparse import to_numpy
from linreg.paths import PathSpectrum
from linreg.plot.placement import Layout, Point, lay_out

# Blue and red are told apart by colour-blind eyes too; unlike matplotlib's own maps, the middle is white to the bit.
BLUE_WHITE_RED = LinearSegmentedColormap.from_list(
    "blue_white_red", ["#2166ac", "#92c5de", "#ffffff", "#f4a582", "#b2182b"], N=257
)
DARK, LINE, BAND, UNKNOWN = "#404040", "#8c8c8c", "#f1f1f1", "#a6a6a6"
GREEN, PURPLE = "#5aae61", "#9970ab"
PLAIN: dict[str, Any] = {"parse_math": False}  # a dollar in a name is a dollar


class Family(NamedTuple):
    """Operators that look alike, those of one role: marker, its size, and colour where no other is given."""

    name: str
    marker: str
    size: float
    colour: str
    role: Role | None


FAMILIES = (
    Family("input", ">", 110, "#d9d9d9", None),  # which is no operator
    Family("weights", "s", 95, "#88a8d0", Role.WEIGHTS),
    Family("gate", "o", 105, "#f2b54a", Role.GATE),
    Family("sum", "P", 140, "#7fbf8e", Role.SUM),
    Family("concatenation", "D", 75, "#c79ac7", Role.CONCATENATION),
    Family("max pool", "v", 110, "#e08a6a", Role.MAX_POOL),
    Family("average or total", "^", 110, "#a9cfe0", Role.AVERAGE),
    Family("scale or shift", "h", 115, "#c9c08a", Role.SCALE),
    Family("other", "d", 75, "#bdbdbd", Role.OTHER),
)


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
        drawn = ScalarMappable(_scale(numbers), BLUE_WHITE_RED)
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
            first - 0.3, top + 0.43, _short(title, room), fontsize=7.5, color=DARK, va="bottom", weight="bold", **PLAIN
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
        _scatter(ax, [], "o", 40, UNKNOWN, linewidths=0, label="no value")
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
    faces = family.colour if numbers is None else BLUE_WHITE_RED(_scale(numbers)([numbers[name] for name in known]))
    _scatter(ax, unknown, family.marker, 0.35 * family.size, UNKNOWN, linewidths=0)
    _scatter(ax, places, family.marker, family.size, faces)


def _scatter(ax: Axes, places: Sequence[Point], marker: str, size: float, face: Any, **options: Any) -> None:
    look: dict[str, Any] = {"edgecolors": DARK, "linewidths": 0.8, "zorder": 2} | options
    ax.scatter([x for x, _ in places], [y for _, y in places], s=size, c=face, marker=marker, **look)


def _draw_labels(ax: Axes, layout: Layout) -> None:
    """Names below the straight main line, and above what runs beside it, which its lines reach from below."""
    for name, (x, y) in layout.places.items():
        aside = layout.heights[name] > 0
        offset, align = (8, "bottom") if aside else (-8, "top")
        ax.annotate(
            _short(layout.labels[name], 15), (x, y), (0, offset), textcoords="offset points", ha="center", va=align,
            fontsize=6.5, color=DARK, **PLAIN,
        )  # fmt: skip


def _short(text: str, room: int) -> str:
    """The text with its middle left out where it is longer than `room` characters."""
    return text if len(text) <= room else f"{text[: room // 2 - 1]}…{text[len(text) - room + room // 2 :]}"


def draw_spectrum(spectrum: PathSpectrum, ax: Axes | None = None, image: int = 0) -> Axes:
    """The score of one image by the degree of its paths, in units of the score, and how many paths there are.

    Bars are the shares of the input and of constants, black their sum y_d; the numbers of paths have a logarithmic
    axis of their own. Returns the axes of the bars.
    """
    degrees = np.array(spectrum.degrees)
    if ax is None:
        width = min(max(5.5, 0.35 * (degrees[-1] - degrees[0]) + 3), 13.0)
        ax = Figure(figsize=(width, 3.8), layout="constrained").add_subplot()
    inputs, biases = (part[:, image].numpy(force=True) for part in (spectrum.input, spectrum.bias))
    ax.bar(degrees - 0.2, inputs, 0.4, color=GREEN, label="from the input")
    ax.bar(degrees + 0.2, biases, 0.4, color=PURPLE, label="from bias terms")
    ax.plot(degrees, inputs + biases, "D", color="black", ms=4, label="$y_d$, both together")
    ax.axhline(0, color="black", lw=0.8)
    total = spectrum.total[image].item()
    ax.set_xlabel(f"{spectrum.grade} that a path passes   (all paths together: y = {total:.4g})".replace("-", "−"))
    ax.set_ylabel("share of the score")
    ax.set_xlim(degrees[0] - 0.8, degrees[-1] + 0.8)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _draw_counts(ax, spectrum)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _draw_counts(ax: Axes, spectrum: PathSpectrum) -> None:
    """The numbers of paths on an axis of powers of ten: they may exceed every float."""
    right = ax.twinx()
    for counts, colour, style, start in (
        (spectrum.counts, GREEN, "o-", "the input"),
        (spectrum.constant_counts, PURPLE, "s:", "constants"),
    ):
        powers = {d: log10(count) for d, count in zip(spectrum.degrees, counts, strict=True) if count}
        right.plot(
            list(powers), list(powers.values()), style, color=colour, ms=3.5, lw=1, mfc="white", clip_on=False,
            label=f"paths from {start} (right)",
        )  # fmt: skip
    most = max(*spectrum.counts, *spectrum.constant_counts)
    right.set_ylim(0, max(1.0, 1.1 * log10(most)))
    right.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    right.yaxis.set_major_formatter(lambda power, _: f"$10^{{{power:.0f}}}$")
    right.set_ylabel("number of paths")
    right.spines["top"].set_visible(False)
    (bars, names), (lines, more) = ax.get_legend_handles_labels(), right.get_legend_handles_labels()
    ax.legend(
        bars[1:] + lines + bars[:1], names[1:] + more + names[:1],
        loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, fontsize=8,
    )  # fmt: skip


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
        cmap=BLUE_WHITE_RED,
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
