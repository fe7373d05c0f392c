"""The pieces of a network along a straight line: every place where it stops being one affine function.

x(t) = a + t (b − a), 0 ≤ t ≤ 1. Between neighbouring breakpoints all units keep their pieces, and all values are affine
in t. Breakpoints are numbers of float64; two that are within 2⁻⁴⁶ of the line's length count as one. In a float32
network their places, like all values, are those of its arithmetic.

Indices: k piece, from t_k to t_{k+1}; breakpoint k is where it begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from linreg.errors import LinregError
from linreg.graph import OperatorGraph
from linreg.inputs import Given
from linreg.linearization import Linearization
from linreg.regions.meaning import ROUNDINGS, of_all
from linreg.regions.subdivision import Chunk, Subdivision, most_cells, point
from linreg.target import Target, cotangent, sum_per_image
from linreg.text import counted, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEMORY = 2**30  # bytes that the values at hand may take, unless said otherwise
MOST = 65536  # cells that go through a network at a time


@dataclass(frozen=True, eq=False)
class Segment:
    """The pieces of `graph` from `a` to `b`, (1, *input_shape) each; made by `linreg.regions.segment`.

    `t` (K + 1,), float64, are the breakpoints, with the ends of the stretch: t[0] and t[-1], 0 and 1 if nothing else
    was asked for. `starts` and `ends` (K, *output shape) are the outputs at both ends of each piece; where nothing
    jumps, one piece ends as the next one starts. `flip_t`, `flip_site` and `flip_unit` list what flips: the place, the
    number of the node in `sites`, and the element of its value.

    >>> import torch, linreg
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 1, -1, -2, 1, 1, 0.0]), model.parameters())
    >>> graph = linreg.trace(model, torch.zeros(1, 1))
    >>> line = linreg.regions.segment(graph, torch.zeros(1, 1), torch.full((1, 1), 4.0))  # relu(x − 1) + relu(x − 2)
    >>> line.t.tolist(), line.slopes().tolist()
    ([0.0, 0.25, 0.5, 1.0], [0.0, 4.0, 8.0])
    >>> line.flips(1)
    {'1': tensor([0])}
    """

    graph: OperatorGraph
    a: Tensor
    b: Tensor
    t: Tensor
    starts: Tensor
    ends: Tensor
    sites: tuple[str, ...]
    flip_t: Tensor
    flip_site: Tensor
    flip_unit: Tensor
    wanted: float = 1.0

    def __len__(self) -> int:
        return len(self.t) - 1

    def __repr__(self) -> str:
        broken = "" if self.complete else f", broken off at t = {self.t[-1]:.6g}"
        return f"Segment of {counted(len(self), 'piece')} from t = {self.t[0]:.6g} to {self.wanted:.6g}{broken}"

    @property
    def complete(self) -> bool:
        """Whether the whole stretch was done; not if it was broken off."""
        return bool(self.t[-1] == self.wanted)

    @property
    def lengths(self) -> Tensor:
        """t_{k+1} − t_k, (K,)."""
        return self.t.diff()

    @property
    def middles(self) -> Tensor:
        """The middle of each piece, (K,)."""
        return (self.t[1:] + self.t[:-1]) / 2

    def points(self, t: Tensor) -> Tensor:
        """x(t) for each t, (n, *input_shape)."""
        return point(self.a, self.b, torch.as_tensor(t, dtype=torch.float64).reshape(-1))

    def piece(self, t: Tensor) -> Tensor:
        """The number of the piece that each t lies in, (n,); at a breakpoint that of the piece which begins there.

        Raises LinregError for a t outside of the stretch.
        """
        t = torch.as_tensor(t, dtype=torch.float64).reshape(-1)
        if not ((t >= self.t[0]) & (t <= self.t[-1])).all():
            raise LinregError(f"this line goes from t = {self.t[0]:g} to {self.t[-1]:g}: there is nothing else on it")
        return (torch.searchsorted(self.t, t, right=True) - 1).clamp_max(len(self) - 1)

    def output(self, t: Tensor) -> Tensor:
        """The network's output at each t, (n, *output shape), by the pieces and without a forward pass."""
        t = torch.as_tensor(t, dtype=torch.float64).reshape(-1)
        k = self.piece(t)
        place = (t - self.t[k]) / self.lengths[k].clamp_min(torch.finfo(torch.float64).tiny)
        weight = place.to(self.starts).view(-1, *[1] * (self.starts.dim() - 1))
        return torch.lerp(self.starts[k], self.ends[k], weight)

    def score(self, t: Tensor, target: Target = None) -> Tensor:
        """y at each t, (n,)."""
        output = self.output(t)
        return sum_per_image(output * self._weights(target))

    def scores(self, target: Target = None) -> tuple[Tensor, Tensor]:
        """y at the start and at the end of each piece, (K,) each."""
        w = self._weights(target)
        return sum_per_image(self.starts * w), sum_per_image(self.ends * w)

    def slopes(self, target: Target = None) -> Tensor:
        """dy/dt on each piece, (K,), from its two ends; `gradients` are exact where a piece is very short."""
        start, end = self.scores(target)
        return (end - start).double() / self.lengths.to(start.device).clamp_min(torch.finfo(torch.float64).tiny)

    def flips(self, k: int) -> dict[str, Tensor]:
        """What flips at breakpoint k, 1 ≤ k < K: for each site the units that go to another piece there.

        A unit of a gate is an element of its value; of a max pool, and of what else selects, it is an element that is
        another one's copy from there on. Where a comparison has another shape than what it chooses, 0 stands for it.
        """
        if not 0 < k < len(self):
            raise LinregError(f"there is no breakpoint {k}: this line has those from 1 to {len(self) - 1}")
        here = self.flip_t == self.t[k]
        numbers = self.flip_site[here]
        return {self.sites[n]: self.flip_unit[here][numbers == n] for n in numbers.unique().tolist()}

    def linearize(self, pieces: Tensor | list[int] | slice = slice(None)) -> Linearization:
        """The network on these pieces, an image for each: its affine map c·x + β there, and all that linreg tells.

        It is linearized at the middle of each piece.
        """
        return self.graph.linearize(self.points(self.middles[pieces]))

    def integrated_gradients(self, target: Target = None, size: int | None = None) -> Any:
        """(b − a) ⊙ ∫ ∇y dt, exactly: the sum over all pieces of their lengths times their gradients; as the input.

        Where nothing jumps it sums to y(b) − y(a), on the stretch that was done. `size` is how many pieces go through
        the network at a time. Of several inputs {name: share}.
        """
        total = torch.zeros_like(self.a, dtype=torch.float64)
        for pieces, gradient in self.gradients(target, size):
            weight = self.lengths[pieces].to(gradient.device)
            total += torch.tensordot(weight, gradient.double(), 1)
        return self.graph.inputs.parted((total * (self.b - self.a).double()).to(self.a.dtype))

    def gradients(self, target: Target = None, size: int | None = None) -> Iterator[tuple[slice, Tensor]]:
        """∇y on each piece, in batches: (which pieces, (n, *input_shape))."""
        size = max(1, min(MOST, most_cells(self.graph, MEMORY) // 4)) if size is None else size
        if size < 1:
            raise LinregError(f"1 piece or more goes through the network at a time, not {size}")
        weights = self._weights(target)
        for first in range(0, len(self), size):
            pieces = slice(first, min(first + size, len(self)))
            lin = self.linearize(pieces)
            yield pieces, lin.adjoint(weights.expand_as(lin.output))

    def merged(self, target: Target = None) -> Segment:
        """The same line, where neighbouring pieces with the same map c·x + β are one piece: `by="map"`.

        Of y by `target`; without one, of the whole output, which is judged by a sum of its elements with random
        weights. Two maps are the same if they differ by no more than rounding, 10⁴ ε of the largest number in them.
        """
        target = of_all(target, self.starts)
        before, differs = None, [torch.ones(1, dtype=torch.bool)]
        starts, _ = self.scores(target)
        for pieces, gradient in self.gradients(target):
            x = self.points(self.t[:-1][pieces])
            offset = starts[pieces].double() - sum_per_image(gradient.double() * x.double())
            rows = torch.cat([gradient.double().flatten(1), offset[:, None]], 1).cpu()
            both = rows if before is None else torch.cat([before, rows])
            scale = torch.maximum(both[1:].abs().amax(1), both[:-1].abs().amax(1)).clamp_min(starts.abs().max().item())
            differs.append((both[1:] - both[:-1]).abs().amax(1) > ROUNDINGS * torch.finfo(self.a.dtype).eps * scale)
            before = rows[-1:]
        first = torch.cat(differs)
        last = torch.cat([first[1:], first[:1]])
        t = torch.cat([self.t[:-1][first], self.t[-1:]])
        on = torch.isin(self.flip_t, t[1:-1])
        return replace(
            self, t=t, starts=self.starts[first], ends=self.ends[last],
            flip_t=self.flip_t[on], flip_site=self.flip_site[on], flip_unit=self.flip_unit[on],
        )  # fmt: skip

    @cached_property
    def norm(self) -> float:
        """‖b − a‖₂ of the stretch that was done."""
        return float((self.b - self.a).double().norm() * (self.t[-1] - self.t[0]))

    @property
    def density(self) -> float:
        """Breakpoints for each unit of ℓ2 length; NaN on a line of length 0."""
        return (len(self) - 1) / self.norm if self.norm else float("nan")

    def rows(self) -> list[tuple[str, ...]]:
        """What `summary` prints, as data: for each site how many of its units flip, and at how many breakpoints."""
        found = list[tuple[str, ...]]()
        for number, site in enumerate(self.sites):
            own = self.flip_t[self.flip_site == number]
            kind = self.graph[site].operator.kind
            found.append((site, kind, str(len(own)), str(len(own.unique()))))
        return found

    def summary(self) -> str:
        """A table of the sites that flip, and how often."""
        return f"{self!r}\n{table(self.rows(), ('site', 'operator', 'flips', 'breakpoints'))}"

    def draw(self, target: Target = None, ax: Axes | None = None) -> Axes:
        """y along the line, with its breakpoints; see `linreg.plot.draw_segment`."""
        from linreg.plot import draw_segment

        return draw_segment(self, target, ax)

    def _weights(self, target: Target) -> Tensor:
        return cotangent(target, self.starts[:1])


def inputs_of(graph: OperatorGraph, **given: Given) -> tuple[OperatorGraph, list[Tensor]]:
    """The graph and inputs that it takes, one each. Raises LinregError where they do not fit, or are not one.

    And for a network that is held to a number of inputs: a line is many.
    """
    if not isinstance(graph, OperatorGraph):
        raise LinregError(f"it takes a graph, linreg.trace(model, x), not {type(graph).__name__}")
    if graph.inputs.fixed:
        names = ", ".join(repr(entry.name) for entry in graph.inputs.fixed)
        raise LinregError(f"the network holds {names} fixed: bind it first, graph.bind({{name: value}})")
    if graph.batch is not None:
        advice = ": trace it with what is held fixed the same for all images, not one for each" if graph.bound else ""
        raise LinregError(
            f"this network takes {graph.batch} at a time and no other number, and a line is many inputs{advice}"
        )
    found = []
    for name, value in given.items():
        _, x = graph.take(value)
        if len(x) != 1:
            shape = ", ".join(map(str, (1, *graph.input_shape)))
            raise LinregError(f"{name} must be one input, ({shape}), not {len(x)}")
        found.append(x.detach().clone())
    return graph, found


def walk(
    graph: OperatorGraph, a: Tensor, b: Tensor, stretch: tuple[float, float], memory: int,
    report: Callable[[float, int], None] = lambda t, pieces: None, limit: float = float("inf"),
) -> Segment:  # fmt: skip
    """The pieces of a stretch; `report` hears after each chunk how far the line is done, and the number of cells.

    On Ctrl-C the line ends where it is. Raises LinregError beyond `limit` pieces.
    """
    start, stop = stretch
    subdivision = Subdivision(graph, a, b, min(MOST, most_cells(graph, memory)))
    done, pieces = list[Chunk](), 0
    try:
        for chunk in subdivision.chunks(start, stop):
            done.append(chunk)
            pieces += len(chunk.starts)
            report(float(chunk.t[-1]), pieces)
            if pieces > limit and chunk.t[-1] < stop:
                raise LinregError(
                    f"at t = {chunk.t[-1]:.6g} the line has {pieces} pieces already, and limit is {limit:g}: give a "
                    f"larger limit, or a shorter stretch, such as stretch=({start:g}, {float(chunk.t[-1]):.4g})"
                )
    except KeyboardInterrupt:
        if not done:
            raise
    return _gathered(subdivision, done, stop)


def _gathered(subdivision: Subdivision, done: list[Chunk], stop: float) -> Segment:
    """The pieces of all chunks: cells between which nothing flips are one."""
    t0, t1 = torch.cat([chunk.t[:-1] for chunk in done]), torch.cat([chunk.t[1:] for chunk in done])
    begin, end = t0[0], t1[-1]
    sites = tuple(node.name for node in subdivision.graph.nodes if node.name in {f.site for f in subdivision.flips})
    flips = torch.empty(3, 0, dtype=torch.float64)
    if sites:
        parts = [
            torch.stack([f.t, torch.full_like(f.t, sites.index(f.site)), f.unit.double()]) for f in subdivision.flips
        ]
        flips = torch.cat(parts, 1)
        flips = flips[:, (flips[0] > begin) & (flips[0] < end)].unique(dim=1)  # in order of t, site and unit
    begins = torch.isin(t0, flips[0])
    begins[0] = True
    over = torch.isin(t1, flips[0])
    over[-1] = True
    starts, ends = torch.cat([chunk.starts for chunk in done]), torch.cat([chunk.ends for chunk in done])
    return Segment(
        subdivision.graph, subdivision.a, subdivision.b, torch.cat([t0[begins], t1[-1:]]),
        starts[begins.to(starts.device)], ends[over.to(ends.device)], sites,
        flips[0], flips[1].long(), flips[2].long(), stop,
    )  # fmt: skip
