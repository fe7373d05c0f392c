"""A line taken through a network, node by node, and cut wherever a unit changes its piece.

On a cell, a stretch between two neighbouring cuts, every value so far is affine: it is known from its two ends. An
affine operator takes the values at the ends to values at the ends. Any other first tells where it changes its piece
within a cell; the cell is cut there, and the values that are still needed are interpolated at the new ends, exactly.
So every layer is computed as often as the line has cells there, which are few in the first layers.

Where a chunk of cells grows beyond what memory allows, it is cut in several, which go on to the output one after the
other: the first of them first, so that the line is finished from its start on. These cuts lie at an odd place within a
cell, where nothing else happens, and count for nothing.

Indices: v end of a cell (vertex), c cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from linreg.graph import INPUT, Node, OperatorGraph
from linreg.operators import Affine, Operator
from linreg.regions.changes import changes
from linreg.surroundings import plain

NEAREST = 2.0**-46  # of the whole line: two cuts that are no farther apart are one
GOLDEN = (5**0.5 - 1) / 2
FEW, FAST = 32, 2**27  # more cells than these, and than this many bytes, are no faster at a time
COPIES = 4  # of the values at hand that are in memory at a time


@dataclass(frozen=True, eq=False)
class Cells:
    """A chunk of neighbouring cells between `t` (C + 1,), float64, and `values` of nodes at their ends.

    They are `joined` where no value jumps: then v counts the numbers t. Else it counts the starts of all cells, and
    then their ends, and what is affine on a cell has at its end a value of its own.
    """

    t: Tensor
    values: Mapping[str, Tensor]
    joined: bool

    @property
    def may_jump(self) -> bool:
        return not self.joined

    def starts(self, values: Tensor) -> Tensor:
        return values[:-1] if self.joined else values[: len(values) // 2]

    def ends(self, values: Tensor) -> Tensor:
        return values[1:] if self.joined else values[len(values) // 2 :]

    def within(self, t: Tensor) -> Cells:
        """The cells between neighbours among these places, which lie on the chunk, in order."""
        cell = (torch.searchsorted(self.t, t, right=True) - 1).clamp_max(len(self.t) - 2)
        place = (t - self.t[cell]) / (self.t[cell + 1] - self.t[cell])
        if self.joined:
            taken = cell, place
        else:
            back = (place[1:] == 0).to(cell)
            taken = torch.cat([cell[:-1], cell[1:] - back]), torch.cat([place[:-1], place[1:] + back])
        return replace(self, t=t, values={name: self._at(value, *taken) for name, value in self.values.items()})

    def _at(self, values: Tensor, cell: Tensor, place: Tensor) -> Tensor:
        """Values in cells, (n, …)."""
        cell = cell.to(values.device)
        found = self.starts(values).index_select(0, cell)
        (inner,) = (place > 0).nonzero(as_tuple=True)
        if len(inner):
            weight = place[inner].to(values).view(-1, *[1] * (values.dim() - 1))
            inner = inner.to(values.device)
            near = self.starts(values).index_select(0, cell[inner])
            far = self.ends(values).index_select(0, cell[inner])
            between = torch.lerp(near, far, weight)
            if not between.sum().isfinite():  # −∞ of what is masked
                between = torch.where(near == far, near, between)
            found.index_copy_(0, inner, between)
        return found

    def apply(self, operator: Operator, layer: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
        """A node's value at the ends; where it may jump, that of its piece within each cell."""
        if not operator.jumps:
            return layer(*inputs)
        starts, ends = ([side(x) for x in inputs] for side in (self.starts, self.ends))
        affine = operator.freeze(*((a + b) / 2 for a, b in zip(starts, ends, strict=True)))
        return torch.cat([affine(*starts), affine(*ends)])


@dataclass(frozen=True, eq=False)
class Flips:
    """Units that change their piece, each at its place `t` on the line (float64): element `unit` of a node's value."""

    site: str
    t: Tensor
    unit: Tensor


@dataclass(frozen=True, eq=False)
class Chunk:
    """A part of the line that is done: cells between `t`, (C + 1,), and the output at their starts and ends, (C, …)."""

    t: Tensor
    starts: Tensor
    ends: Tensor


@dataclass(frozen=True, eq=False)
class Subdivision:
    """The line from `a` to `b`, (1, *input_shape) each, through `graph`, in chunks of about `size` cells.

    `flips` fills up as the chunks come, and tells for a stretch that is done all that flips there.
    """

    graph: OperatorGraph
    a: Tensor
    b: Tensor
    size: int
    flips: list[Flips] = field(default_factory=list)

    def chunks(self, start: float = 0.0, stop: float = 1.0) -> Iterator[Chunk]:
        """The parts of the stretch from `start` to `stop`, in order."""
        t = torch.tensor([start, stop], dtype=torch.float64)
        joined = not any(node.operator.jumps for node in self.graph.nodes)
        return self._from(0, Cells(t, {INPUT: point(self.a, self.b, t)}, joined))

    def _from(self, first: int, cells: Cells) -> Iterator[Chunk]:
        """Take cells through the nodes from number `first` on."""
        for number in range(first, len(self.graph.nodes)):
            groups = self._cut(self.graph.nodes[number], cells)
            if len(groups) > 1:
                for group in groups:
                    yield from self._from(number + 1, self._step(number, cells.within(group)))
                return
            cells = self._step(number, cells.within(groups[0]) if groups else cells)
        output = cells.values[self.graph.output]
        yield Chunk(cells.t, cells.starts(output), cells.ends(output))

    def _step(self, number: int, cells: Cells) -> Cells:
        """The cells with the value of a node, and without those that no later one reads."""
        node = self.graph.nodes[number]
        inputs = tuple(cells.values[name] for name in node.inputs)
        with plain(), torch.no_grad():
            value = cells.apply(node.operator, self._layers[number], inputs)
        kept = {name: old for name, old in cells.values.items() if self._last[name] > number}
        return replace(cells, values={**kept, node.name: value})

    def _cut(self, node: Node, cells: Cells) -> list[Tensor]:
        """The ends of the cells that a node needs, in groups of about `size`; no group where they are as they were."""
        if isinstance(node.operator, Affine):
            return []
        with plain(), torch.no_grad():
            found = changes(node, cells, tuple(cells.values[name] for name in node.inputs))
        at = as_one([snapped(cells.t, each.cell.cpu(), each.place.cpu()) for each in found])
        for each, within in zip(found, at, strict=True):
            t = torch.cat([within, cells.t[each.before.cpu() + 1]])
            if len(t):
                self.flips.append(Flips(node.name, t, torch.cat([each.unit, each.met]).cpu()))
        ends = torch.cat([cells.t, *at]).unique()
        return grouped(ends, self.size) if len(ends) > len(cells.t) else []

    @cached_property
    def _layers(self) -> list[Callable[..., Tensor]]:
        """What computes each node at any ends: an affine operator itself, else its layer, which keeps no piece."""
        operators = [node.operator for node in self.graph.nodes]
        return [operator if isinstance(operator, Affine) else operator.layer() for operator in operators]

    @cached_property
    def _last(self) -> dict[str, int]:
        """The number of the last node that reads each value; one past all for the output."""
        last = {name: number for number, node in enumerate(self.graph.nodes) for name in node.inputs}
        unread = {node.name: -1 for node in self.graph.nodes}
        return {**unread, **last, self.graph.output: len(self.graph.nodes)}


def point(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """a + t (b − a) for each t, (n, *shape), in the dtype of a: a itself at 0 and b at 1."""
    weight = t.to(a.device).view(-1, *[1] * (a.dim() - 1))
    return torch.lerp(a.double(), b.double(), weight).to(a.dtype)


def snapped(t: Tensor, cell: Tensor, place: Tensor) -> Tensor:
    """Places within cells as places on the line; at the end of the cell what is as near as `NEAREST`."""
    start, end = t[cell], t[cell + 1]
    at = torch.lerp(start, end, place)
    at = torch.where(at - start <= NEAREST, start, at)
    return torch.where(end - at <= NEAREST, end, at)


def as_one(places: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Several tensors of places, where all that lie within `NEAREST` of the one before are put at the first of them."""
    if not places:
        return ()
    distinct, number = torch.cat(tuple(places)).unique(return_inverse=True)
    apart = torch.ones_like(distinct, dtype=torch.bool)
    apart[1:] = distinct.diff() > NEAREST
    return distinct[apart][apart.cumsum(0) - 1][number].split([len(each) for each in places])


def grouped(ends: Tensor, size: int) -> list[Tensor]:
    """The ends of neighbouring cells in groups of about `size`; between groups a cell is cut in two, at an odd place.

    A line that is no longer than two groups is one.
    """
    if len(ends) <= 2 * size:
        return [ends]
    groups, first, width = list[Tensor](), ends[:1], ends.diff()
    position = 0
    while len(ends) - position > 2 * size:
        window = width[position + size // 2 : position + size + 1]
        cell = position + size // 2 + int(window.argmax())
        cut = torch.lerp(ends[cell], ends[cell + 1], GOLDEN)[None]
        groups.append(torch.cat([first, ends[position + (len(groups) == 0) : cell + 1], cut]))
        first, position = cut, cell + 1
    groups.append(torch.cat([first, ends[position:]]))
    return groups


def most_cells(graph: OperatorGraph, memory: int) -> int:
    """How many cells go through the network at a time in so many bytes, and no more than are fast: at least 2."""
    last = {name: number for number, node in enumerate(graph.nodes) for name in node.inputs}
    sizes = {INPUT: prod(graph.input_shape)} | {node.name: prod(node.shape) for node in graph.nodes}
    alive, most = sizes[INPUT], 1
    for number, node in enumerate(graph.nodes):
        alive += sizes[node.name]
        most = max(most, alive)
        alive -= sum(sizes[name] for name in set(node.inputs) if last[name] == number)
    each = COPIES * most * graph.dtype.itemsize
    return max(2, min(memory // each, max(FEW, FAST // each)))
