"""Where the nodes of an operator graph go in a picture of it.

Layers follow each other from left to right, by the longest path from the input; long networks are set in rows like
text. The longest path of all runs straight on, what goes beside it (skips, projections, parallel branches) above it. A
value that is read further on has one line of its own up to its last reader, from which its readers branch off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import sqrt
from typing import NamedTuple

from linreg.graph import INPUT, OperatorGraph

STUB = 0.75  # of a line at the end and the beginning of a row, in columns
BETWEEN = 1.7  # main lines of two rows with nothing above the lower one
Point = tuple[float, float]
Lane = dict[str, float]


class Band(NamedTuple):
    """Columns `first` to `last` and heights `bottom` to `top` belong to module `title`."""

    title: str
    first: float
    last: float
    bottom: float
    top: float


@dataclass(frozen=True)
class Layout:
    """A node is at (x, y), `place`, in columns and in heights that grow upwards; the first row is the highest.

    `heights` are those above the main line of a node's row, `labels` the names less the title of the band around them.
    `links` are the pieces of the lines from column to column, `bands` the modules of several nodes. The picture reaches
    from 0 to `columns` and to `height`.
    """

    places: Mapping[str, Point]
    heights: Mapping[str, float]
    labels: Mapping[str, str]
    links: tuple[tuple[Point, Point], ...]
    bands: tuple[Band, ...]
    columns: int
    height: float


class Run(NamedTuple):
    """Layers `first` to `last` belong to the module with this path."""

    path: tuple[str, ...]
    first: int
    last: int

    @property
    def title(self) -> str:
        return ".".join(self.path)


class Row(NamedTuple):
    """Layers `first` to `last` are side by side, their main line at height `base`; `top` is how far they reach up."""

    first: int
    last: int
    base: float
    top: float


def lay_out(graph: OperatorGraph, columns: int | None = None) -> Layout:
    """The layout of a graph in rows of at most `columns` layers (default: such that the whole is a wide rectangle)."""
    layers = _layers(graph)
    lanes = _lanes(graph, layers)
    runs = _module_runs(layers)
    rows = _rows(lanes, runs, columns or max(14, round(sqrt(4 * len(lanes)))))
    row_of = [row for row in rows for _ in range(row.first, row.last + 1)]

    def point(name: str, layer: int) -> Point:
        return layer - row_of[layer].first, row_of[layer].base + lanes[layer][name]

    return Layout(
        places={name: point(name, layer) for name, layer in layers.items()},
        heights={name: lanes[layer][name] for name, layer in layers.items()},
        labels={name: _label(name, layer, runs) for name, layer in layers.items()},
        links=tuple(dict.fromkeys(_links(graph, layers, lanes, point))),
        bands=tuple(_bands(runs, rows)),
        columns=max(row.last - row.first + 1 for row in rows),
        height=rows[0].base + rows[0].top + BETWEEN,
    )


def _layers(graph: OperatorGraph) -> dict[str, int]:
    """The number of nodes on the longest path from the input."""
    layers = {INPUT: 0}
    for node in graph.nodes:
        layers[node.name] = 1 + max(layers[name] for name in node.inputs)
    return layers


# ---- heights ----


def _lanes(graph: OperatorGraph, layers: Mapping[str, int]) -> list[Lane]:
    """For each layer the height of all values that are made in it or pass it on their way to a later reader.

    They are in the order of what they come from, after a node of the longest path; of equals, what has the longest
    way to go is lowest.
    """
    readers: dict[str, list[str]] = {name: [] for name in layers}
    remaining = dict.fromkeys(layers, 0)
    for node in reversed(graph.nodes):
        for name in node.inputs:
            readers[name].append(node.name)
            remaining[name] = max(remaining[name], remaining[node.name] + 1)
    lanes: list[Lane] = [{INPUT: 0.0}]
    for layer in range(1, 1 + remaining[INPUT]):
        before = lanes[-1]
        later = {name: [remaining[r] for r in readers[name] if layers[r] > layer] for name in before}
        keys = {name: (before[name], -max(ways)) for name, ways in later.items() if ways}
        passing = set(keys)
        for node in graph.nodes:
            if layers[node.name] == layer:
                longest = layer + remaining[node.name] == remaining[INPUT]
                middle = sum(before[name] for name in node.inputs) / len(node.inputs)
                keys[node.name] = (-1.0 if longest else middle, -remaining[node.name])
        lanes.append(_stacked(sorted(keys, key=lambda name: keys[name]), passing))
    return lanes


def _stacked(names: Sequence[str], passing: set[str]) -> Lane:
    """Heights from 0 upwards: a node wants room for itself and its label, a line that only passes wants less."""

    def gap(below: str, name: str) -> float:
        return 1.0 if name not in passing else 0.55 if below not in passing else 0.16

    gaps = (gap(below, name) for below, name in pairwise(names))
    return dict(zip(names, accumulate(gaps, initial=0.0), strict=True))


# ---- modules and rows ----


def _module_runs(layers: Mapping[str, int]) -> list[Run]:
    """Modules of more than one node, side by side: those that share a layer are taken together under what they share.

    The module of layer1.0.downsample.1 is layer1.0: its path up to the first number. What shares a layer with a node of
    no module has no band.
    """
    modules: dict[tuple[str, ...], set[int]] = {}
    for name, layer in layers.items():
        modules.setdefault(_module(name), set()).add(layer)
    pieces = (Run(path, first, last) for path, own in modules.items() for first, last in _stretches(own))
    runs: list[Run] = []
    for run in sorted(pieces, key=lambda run: run.first):
        while runs and runs[-1].last >= run.first:
            other = runs.pop()
            run = Run(_shared(other.path, run.path), other.first, max(other.last, run.last))
        runs.append(run)
    return [run for run in runs if run.path and run.last > run.first]


def _stretches(numbers: set[int]) -> list[tuple[int, int]]:
    """First and last of each stretch of successive numbers."""
    firsts = sorted(n for n in numbers if n - 1 not in numbers)
    lasts = sorted(n for n in numbers if n + 1 not in numbers)
    return list(zip(firsts, lasts, strict=True))


def _module(name: str) -> tuple[str, ...]:
    parents = name.split(".")[:-1]
    numbers = [i for i, part in enumerate(parents) if part.isdigit()]
    return tuple(parents[: numbers[0] + 1] if numbers else parents)


def _shared(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, ...]:
    same = [x == y for x, y in zip(a, b, strict=False)]
    return a[: same.index(False) if False in same else len(same)]


def _label(name: str, layer: int, runs: Iterable[Run]) -> str:
    title = next((run.title + "." for run in runs if run.first <= layer <= run.last), "")
    return name.removeprefix(title)


def _rows(lanes: Sequence[Lane], runs: Iterable[Run], columns: int) -> list[Row]:
    """A row ends at `columns`, or before, where near it a module ends or at least no more than one value passes on."""
    ends = {run.first for run in runs} | {run.last + 1 for run in runs}
    starts = [0]
    while len(lanes) - starts[-1] > columns:
        near = range(starts[-1] + columns, starts[-1] + columns // 2, -1)
        single = [layer for layer in near if len(lanes[layer - 1]) == 1]
        starts.append(next(iter([*(layer for layer in single if layer in ends), *single, near[0]])))
    rows: list[Row] = []
    for first, after in reversed(list(pairwise([*starts, len(lanes)]))):
        base = rows[-1].base + rows[-1].top + BETWEEN if rows else 0.0
        top = max(height for lane in lanes[first:after] for height in lane.values())
        rows.append(Row(first, after - 1, base, top))
    return rows[::-1]


def _bands(runs: Iterable[Run], rows: Sequence[Row]) -> Iterator[Band]:
    for run in runs:
        for row in rows:
            first, last = max(run.first, row.first), min(run.last, row.last)
            if first <= last:
                yield Band(run.title, first - row.first, last - row.first, row.base, row.base + row.top)


def _links(
    graph: OperatorGraph, layers: Mapping[str, int], lanes: Sequence[Lane], point: Callable[[str, int], Point]
) -> Iterator[tuple[Point, Point]]:
    """Each value from column to column, and from there to its readers; over the end of a row in two stubs."""
    onward = [(name, layer, name) for layer, (a, b) in enumerate(pairwise(lanes)) for name in a if name in b]
    read = [(name, layers[node.name] - 1, node.name) for node in graph.nodes for name in node.inputs]
    for name, layer, following in sorted([*onward, *read], key=lambda link: link[1]):
        (x0, y0), (x1, y1) = point(name, layer), point(following, layer + 1)
        if x1 > x0:
            yield (x0, y0), (x1, y1)
        else:
            entry = y1 - lanes[layer + 1][following] + lanes[layer][name]
            yield (x0, y0), (x0 + STUB, y0)
            yield (x1 - STUB, entry), (x1, y1)
