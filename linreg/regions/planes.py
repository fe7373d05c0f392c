"""The pieces of a network in a plane through three inputs: polygons, each with its affine map.

x(u, v) = p + u (q − p) + v (r − p), over a rectangle of u and v. It is taken through the network node by node, as a
line is: an affine operator takes the values at the corners of all polygons to values at the corners; any other first
cuts the polygons along the lines where it changes its piece within them.

Indices: f polygon, c corner of a polygon (vertex), k piece: a polygon, or by map several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, nan, prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from linreg.errors import LinregError
from linreg.graph import INPUT, Node, OperatorGraph
from linreg.inputs import Given
from linreg.linearization import Linearization
from linreg.operators import Affine
from linreg.operators.selection import largest_of
from linreg.regions.changes import noise
from linreg.regions.contests import cut_by_contest
from linreg.regions.meaning import ROUNDINGS, By, check_by, of_all
from linreg.regions.polygons import Born, Polygons, cut_by_levels
from linreg.regions.segments import MEMORY, inputs_of
from linreg.regions.subdivision import most_cells
from linreg.regions.touching import joined, touching
from linreg.surroundings import plain
from linreg.target import Target, cotangent, sum_per_image
from linreg.text import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Bounds = tuple[tuple[float, float], tuple[float, float]]
UNIT: Bounds = ((0.0, 1.0), (0.0, 1.0))
MOST = 4096  # pieces that go through a network at a time
SKETCH = 8  # random vectors by which two gradients are compared


@dataclass(frozen=True, eq=False)
class Plane:
    """The pieces of `graph` in the plane through `p`, `q` and `r`, (1, *input_shape) each; made by
    `linreg.regions.plane`.

    `polygons` are convex and fill the rectangle; `outputs` (V, *output shape) are those at their corners, which belong
    to one polygon each where a network may jump. `piece` (F,) is the number of the piece that each polygon is part of:
    by pattern each is one of its own, by map one may be several polygons, and bent, or have holes. What is told of
    pieces is told in the order of their numbers.

    >>> import torch, linreg
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 0, 0, 1, -0.25, -0.5, 1, 1, 0]), model.parameters())
    >>> graph = linreg.trace(model.double(), torch.zeros(1, 2).double())
    >>> corners = (torch.tensor([corner]).double() for corner in ([0, 0], [1, 0], [0, 1]))
    >>> plane = linreg.regions.plane(graph, *corners)  # cut by x₁ = 1/4 and x₂ = 1/2
    >>> len(plane), plane.areas().sort().values.tolist()
    (4, [0.125, 0.125, 0.375, 0.375])
    >>> plane.merged()  # no two have the same map
    Plane of 4 pieces, in 4 polygons
    """

    graph: OperatorGraph
    p: Tensor
    q: Tensor
    r: Tensor
    polygons: Polygons
    outputs: Tensor
    piece: Tensor

    def __len__(self) -> int:
        """How many pieces there are."""
        return len(self._first)

    def __repr__(self) -> str:
        return f"Plane of {counted(len(self), 'piece')}, in {counted(len(self.polygons), 'polygon')}"

    def polygon(self, f: int) -> Tensor:
        """The corners of one polygon in order around, (n, 2), in coordinates (u, v)."""
        ring = self.polygons.rings[f]
        return self.polygons.places[ring[ring >= 0]]

    def areas(self) -> Tensor:
        """The area of each piece, (K,), in coordinates (u, v)."""
        return torch.zeros(len(self), dtype=torch.float64).index_add_(0, self.piece, self.polygons.areas())

    def centres(self) -> Tensor:
        """A point within each piece, the mean of the corners of its largest polygon: (K, 2), in coordinates (u, v)."""
        return self.polygons.means(self.polygons.places)[self._first]

    def points(self, uv: Tensor) -> Tensor:
        """x(u, v) for rows of coordinates, (n, *input_shape)."""
        return _points(self.p, self.q, self.r, torch.as_tensor(uv, dtype=torch.float64))

    def linearize(self, which: Tensor | list[int] | slice = slice(None)) -> Linearization:
        """The network on these pieces, an image for each: its affine map there, and all that linreg tells."""
        return self.graph.linearize(self.points(self.centres()[which]))

    def maps(self, target: Target = None) -> Tensor:
        """y = g_u u + g_v v + h on each piece: its g_u, g_v and h, (K, 3)."""
        found = []
        for centres, _, c, y in self._gradients(target):
            along = [sum_per_image(c * (end - self.p).double()) for end in (self.q, self.r)]
            slopes = torch.stack(along, 1)
            offset = y - (slopes * centres.to(slopes)).sum(1)
            found.append(torch.cat([slopes, offset[:, None]], 1))
        return torch.cat(found)

    def merged(self, target: Target = None) -> Plane:
        """The same, where pieces that touch along an edge and have the same map c·x + β are one piece: `by="map"`.

        Of y by `target`; without one, of the whole output, judged by a sum of its elements with random weights. The map
        is that of the whole input, as `Segment.merged` and `walls` have it, and not only what is seen of it in the
        plane. (In the plane two maps can agree by chance alone: if units turn there together.) No c is kept: it is
        compared by its products with 8 random vectors. Two maps are the same if these, and the values at p, differ by
        no more than rounding, 10⁴ ε of ‖c‖₂ and of the largest y.
        """
        rows, sizes = self._sketches(of_all(target, self.outputs))
        edges = touching(self.polygons)
        one, other = self.piece[edges.first], self.piece[edges.second]
        size = torch.maximum(sizes[one], sizes[other])
        same = (rows[one] - rows[other]).abs().amax(1) <= ROUNDINGS * torch.finfo(self.p.dtype).eps * size
        return replace(self, piece=joined(len(self.polygons), edges.some(same | (one == other))))

    def borders(self) -> Tensor:
        """Where two pieces touch: straight stretches (n, 2, 2), from end to end, in coordinates (u, v)."""
        edges = touching(self.polygons)
        return edges.ends[self.piece[edges.first] != self.piece[edges.second]]

    def scores(self, target: Target = None) -> Tensor:
        """y at each vertex, (V,)."""
        return sum_per_image(self.outputs * cotangent(target, self.outputs[:1]))

    def classes(self) -> Tensor:
        """The class of the largest output at the centre of each polygon, (F,); of one output, whether it is above 0."""
        means = self.polygons.means(self.outputs.double()).flatten(1)
        return means.argmax(1) if means.shape[1] > 1 else (means[:, 0] > 0).long()

    def by_class(self) -> Plane:
        """The same, cut further where the largest output changes; of one output, where its sign does.

        A piece is then also of one class.
        """
        flat = self.outputs.flatten(1)
        count = flat.shape[1]
        numbered = replace(self.polygons, parent=torch.arange(len(self.polygons)))
        if count == 1:
            polygons, born, _ = cut_by_levels(numbered, flat, noise(flat), lambda _: None)
        else:
            largest = largest_of(count)
            contest = largest.contest((1,))
            polygons, born = cut_by_contest(numbered, contest, largest, flat, lambda _: None)
        outputs = self.outputs
        for step in born:
            outputs = step.at(outputs)
        cut = replace(self, polygons=polygons, outputs=outputs, piece=self.piece[polygons.parent])
        return cut._apart_by(torch.stack([cut.piece, cut.classes()], 1))

    def boundaries(self) -> tuple[Tensor, Tensor]:
        """Where the largest output changes: straight pieces (n, 2, 2) from end to end, and the two classes (n, 2).

        They are where two outputs are equal and no other is larger, in each polygon. A network with one output decides
        by its sign: they are where that is 0, and both classes are 0.
        """
        values = self.outputs.double().flatten(1).cpu()
        if values.shape[1] == 1:
            values = torch.cat([values, torch.zeros_like(values)], 1)
            lines, classes = _boundaries(self.polygons, values)
            return lines, torch.zeros_like(classes)
        return _boundaries(self.polygons, values)

    def draw(self, colour: Any = "class", ax: Axes | None = None) -> Axes:
        """The pieces, by class or any numbers; see `linreg.plot.draw_plane`."""
        from linreg.plot import draw_plane

        return draw_plane(self, colour, ax)

    # ---- within ----

    @cached_property
    def _first(self) -> Tensor:
        """The largest polygon of each piece, (K,)."""
        order = self.polygons.areas().argsort(descending=True, stable=True)
        _, place = np.unique(self.piece[order].numpy(), return_index=True)
        return order[torch.from_numpy(place)]

    def _apart_by(self, keys: Tensor) -> Plane:
        """The same polygons, where those of equal keys (F, n) that touch are one piece."""
        if len(keys.unique(dim=0)) == len(keys):
            return replace(self, piece=torch.arange(len(keys)))
        edges = touching(self.polygons)
        same = (keys[edges.first] == keys[edges.second]).all(1)
        return replace(self, piece=joined(len(keys), edges.some(same)))

    def _gradients(self, target: Target) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """For pieces, some at a time: centres (n, 2), x (n, *input_shape), and there ∇y and y, in float64."""
        weights = cotangent(target, self.outputs[:1])
        size = max(1, min(MOST, most_cells(self.graph, MEMORY) // 4))
        for part in self.centres().split(size):
            lin = self.graph.linearize(self.points(part))
            gradient = lin.adjoint(weights.expand_as(lin.output)).double()
            yield part, lin.input, gradient, sum_per_image(lin.output * weights).double()

    def _sketches(self, target: Target) -> tuple[Tensor, Tensor]:
        """Numbers by which the maps of two pieces are told apart, (K, SKETCH + 1), and the size of each map, (K,)."""
        generator = torch.Generator().manual_seed(0)
        vectors = torch.randn(self.p.numel(), SKETCH, generator=generator, dtype=torch.float64).to(self.p.device)
        highest, rows, sizes = self.scores(target).abs().amax().double(), [], []
        for _, x, gradient, y in self._gradients(target):
            at_p = y - sum_per_image(gradient * (x - self.p).double())
            rows.append(torch.cat([gradient.flatten(1) @ vectors, at_p[:, None]], 1).cpu())
            sizes.append(torch.maximum(gradient.flatten(1).norm(dim=1), at_p.abs()).clamp_min(highest).cpu())
        return torch.cat(rows), torch.cat(sizes)


def plane(
    graph: OperatorGraph, p: Given, q: Given, r: Given, *, by: By = "pattern", target: Target = None,
    bounds: Bounds = UNIT, limit: int = 100_000, memory: int = MEMORY,
) -> Plane:  # fmt: skip
    """Every piece of the network in the plane through three inputs: x(u, v) = p + u (q − p) + v (r − p).

    p, q and r are one input each, (1, *input_shape); `bounds` are the ranges of u and of v. `by` is "pattern", where
    each flip of a unit is an edge between two pieces, or "map": polygons that touch along an edge and have the same
    affine function (of y by `target`) are one piece, as `Plane.merged` makes it, and may be bent together. Where the
    inputs lie on one line, or are equal, the plane has rank 1 or 0: u and v still have their range, and the polygons
    are stripes or the whole. An edge that passes within 2⁻⁴⁰ of a corner goes through it.

    Raises LinregError for inputs that do not fit; for a network that fixes the number of its inputs; and, before a
    layer is cut, where that makes more than `limit` polygons or takes more than `memory` bytes for their corners.
    """
    check_by(by)
    places = _rectangle(bounds)
    same, (p, q, r) = inputs_of(graph, p=p, q=q, r=r)
    whole = Polygons(places, torch.arange(4)[None], torch.zeros(1, dtype=torch.long))
    state = _State(whole, {INPUT: _points(p, q, r, places)}, limit, memory)
    last = {name: number for number, node in enumerate(same.nodes) for name in node.inputs}
    with plain(), torch.no_grad():
        for number, node in enumerate(same.nodes):
            state = state.through(node)
            dead = [name for name in state.values if last.get(name, -1) <= number and name != same.output]
            state = replace(state, values={name: x for name, x in state.values.items() if name not in dead})
    found = Plane(same, p, q, r, state.polygons, state.values[same.output], torch.arange(len(state.polygons)))
    return found.merged(target) if by == "map" else found


def _rectangle(bounds: Bounds) -> Tensor:
    """Its corners, (4, 2), in order around."""
    try:
        ((u0, u1), (v0, v1)) = np.asarray(bounds, dtype=float)
    except (TypeError, ValueError):
        u0 = u1 = v0 = v1 = nan
    if not (-inf < u0 < u1 < inf and -inf < v0 < v1 < inf):
        raise LinregError(f"bounds are ((u from, u to), (v from, v to)), each from the smaller, not {bounds!r}")
    return torch.tensor([[u0, v0], [u1, v0], [u1, v1], [u0, v1]], dtype=torch.float64)


def _points(p: Tensor, q: Tensor, r: Tensor, uv: Tensor) -> Tensor:
    u, v = (each.to(p.device).view(-1, *[1] * (p.dim() - 1)) for each in uv.reshape(-1, 2).unbind(1))
    start = p.double()
    return (start + u * (q.double() - start) + v * (r.double() - start)).to(p.dtype)


@dataclass(frozen=True, eq=False)
class _State:
    """The polygons so far, and the values that later nodes read, (V, *shape) each."""

    polygons: Polygons
    values: Mapping[str, Tensor]
    limit: int
    memory: int

    def through(self, node: Node) -> _State:
        """With the value of a node, cut to where it is affine."""
        operator = node.operator
        self._fits(node)
        if isinstance(operator, Affine):
            return self._with(node, operator(*self._inputs(node)))
        state = self
        for number in range(len(operator.levels(*self._inputs(node)))):
            state = state._cut(operator.levels(*state._inputs(node))[number])
        for number in range(len(operator.deciders(state._inputs(node), node.shape))):
            decider, inputs, output = operator.deciders(state._inputs(node), node.shape)[number]
            contest = decider.contest(output)
            if contest is not None:
                made = cut_by_contest(state.polygons, contest, decider, inputs[0], state._check)
                state = state._made(*made)
        if not operator.jumps:
            return state._with(node, operator.layer()(*state._inputs(node)))
        return state._apart(node)

    def _cut(self, level: Tensor) -> _State:
        flat = level.flatten(1) if level.dim() > 1 else level[:, None]
        polygons, born, _ = cut_by_levels(self.polygons, flat, noise(flat), self._check)
        return self._made(polygons, born)

    def _made(self, polygons: Polygons, born: list[Born]) -> _State:
        """With these polygons, and all values at their vertices."""
        values = dict(self.values)
        for step in born:
            values = {name: step.at(value) for name, value in values.items()}
        return replace(self, polygons=polygons, values=values)

    def _apart(self, node: Node) -> _State:
        """With the value of a node that may jump: at the corners of each polygon that of its own piece."""
        polygons, vertex = self.polygons.apart()
        values = {name: value[vertex] for name, value in self.values.items()}
        state = replace(self, polygons=polygons, values=values)
        owner, _ = polygons.corners
        inputs = state._inputs(node)
        affine = node.operator.freeze(*(polygons.means(x)[owner] for x in inputs))
        return state._with(node, affine(*inputs))

    def _with(self, node: Node, value: Tensor) -> _State:
        return replace(self, values={**self.values, node.name: value})

    def _inputs(self, node: Node) -> tuple[Tensor, ...]:
        return tuple(self.values[name] for name in node.inputs)

    def _check(self, count: int) -> None:
        if count > self.limit:
            raise LinregError(
                f"the plane has at least {count:,} polygons here, and limit is {self.limit:,}: give a larger limit, or "
                "smaller bounds"
            )

    def _fits(self, node: Node) -> None:
        alive = sum(x[0].numel() for x in self.values.values()) + prod(node.shape)
        size = len(self.polygons.places) * alive * next(iter(self.values.values())).element_size()
        if size > self.memory:
            raise LinregError(
                f"{node}: the values at the corners of {len(self.polygons):,} polygons take {size / 2**30:.2g} GiB, "
                f"and memory is {self.memory / 2**30:.2g} GiB: give more, or smaller bounds"
            )


def _boundaries(polygons: Polygons, values: Tensor) -> tuple[Tensor, Tensor]:
    """Where two of some values (V, k) are equal and the largest."""
    tops = torch.stack([values.argmax(1)[polygons.rings.clamp_min(0)], polygons.rings], 2)
    several = [f for f in range(len(polygons)) if len(tops[f, tops[f, :, 1] >= 0, 0].unique()) > 1]
    lines, classes = [torch.empty(0, 2, 2, dtype=torch.float64)], [torch.empty(0, 2, dtype=torch.long)]
    for f in several:
        ring = polygons.rings[f]
        ring = ring[ring >= 0]
        for i in range(values.shape[1]):
            for j in range(i + 1, values.shape[1]):
                line = _boundary(polygons.places[ring], values[ring], i, j)
                if line is not None:
                    lines.append(line[None])
                    classes.append(torch.tensor([[i, j]]))
    return torch.cat(lines), torch.cat(classes)


def _boundary(corners: Tensor, values: Tensor, i: int, j: int) -> Tensor | None:
    """Where y_i = y_j ≥ all others in one polygon with these values at its corners, (2, 2), or None."""
    level = values[:, i] - values[:, j]
    following = torch.roll(torch.arange(len(level)), -1)
    over = ((level < 0) & (level[following] > 0)) | ((level > 0) & (level[following] < 0))
    place = (level / (level - level[following]))[over, None]
    ends = torch.cat([torch.lerp(corners[over], corners[following[over]], place), corners[level == 0]])
    if len(ends) != 2:
        return None
    at_ends = torch.cat([torch.lerp(values[over], values[following[over]], place), values[level == 0]])
    ahead = at_ends[:, i : i + 1] - at_ends  # ≥ 0 for all: affine on the way from one end to the other
    ahead[:, [i, j]] = 0.0
    start, end = ahead
    cross = start / (start - end)
    low = cross[(start < 0) & (end > 0)].amax() if ((start < 0) & (end > 0)).any() else start.new_zeros(())
    high = cross[(start > 0) & (end < 0)].amin() if ((start > 0) & (end < 0)).any() else start.new_ones(())
    if ((start < 0) & (end <= 0)).any() or ((start <= 0) & (end < 0)).any() or low >= high:
        return None
    return torch.stack([torch.lerp(ends[0], ends[1], low), torch.lerp(ends[0], ends[1], high)])
