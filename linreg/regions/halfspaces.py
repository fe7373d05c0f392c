"""The region of one input as A v ≤ b: rows on demand, an operator for all of them, membership.

A row belongs to one inequality of one node (`linreg.regions.decisions`); with s(v) ≥ 0 its slack, s is affine on the
region: −a is its gradient, and b = s(x) + a·x at the input x. It is at equality on the *wall*, beyond which the unit
would be on another piece. Rows come from adjoint passes, so that none has to be held that is not asked for.

Indices: l row, counted through all sites in the order of the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, prod
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from linreg.errors import LinregError
from linreg.graph import INPUT, Node
from linreg.jacobian import BATCH
from linreg.linearization import LIMIT, Linearization
from linreg.operators.sparse import to_numpy
from linreg.regions.decisions import Decisions, decisions

Units = Mapping[str, Sequence[int] | Tensor]


class Label(NamedTuple):
    """Whose wall a row is: the unit of a site, (channel, y, x) of a picture, and what it is compared with.

    `kink` is that of a gate; `rival` the element of the node's first input, say, which would be chosen instead; the
    other of the two is None.
    """

    site: str
    unit: tuple[int, ...]
    kink: float | None = None
    rival: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return f"{self.site}[{', '.join(map(str, self.unit))}]"


@dataclass(frozen=True, eq=False, repr=False)
class Inequalities:
    """A v ≤ b, the region of the input of `lin` by pattern, or the part of it that some sites and units make.

    Made by `inequalities`. Rows that are 0 belong to units that nothing can turn here; they hold everywhere.

    >>> import torch, linreg
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
    >>> lin = linreg.trace(model, torch.ones(1, 2)).linearize(torch.ones(1, 2))
    >>> region = linreg.regions.inequalities(lin)  # x₁ + 2 x₂ + ½ ≥ 0, and x₁ − 2 x₂ ≤ 0
    >>> region.rows().tolist(), region.b.tolist()
    ([[-1.0, -2.0], [1.0, -2.0]], [0.5, 0.0])
    >>> region.contains(torch.tensor([[1.0, 1.0], [3.0, 1.0]])).tolist()
    [True, False]
    """

    lin: Linearization
    decided: Mapping[str, Decisions]
    slack: Tensor

    def __len__(self) -> int:
        return len(self.slack)

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"Inequalities({rows:,} rows of {len(self.decided)} sites in {columns:,} dimensions)"

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, elements of the input)."""
        return len(self), self.lin.input[0].numel()

    @property
    def sites(self) -> tuple[str, ...]:
        """The nodes that decide, in the order of the graph."""
        return tuple(self.decided)

    @cached_property
    def starts(self) -> Mapping[str, int]:
        """The number of each site's first row."""
        counts = [len(each) for each in self.decided.values()]
        return dict(zip(self.decided, np.cumsum([0, *counts]).tolist(), strict=False))

    @cached_property
    def b(self) -> Tensor:
        """The right-hand side, (rows,): s(x) + a·x, by one product."""
        return self.slack + self.times(self.lin.input)[0]

    def site(self, row: int) -> str:
        """The node that a row belongs to."""
        return next(name for name, each in self.decided.items() if row < self.starts[name] + len(each))

    def label(self, row: int) -> Label:
        """Whose wall a row is."""
        row = range(len(self))[row]
        site = self.site(row)
        each, number = self.decided[site], row - self.starts[site]
        node = self.lin.graph[site]
        unit = _place(int(each.unit[number]), node.shape)
        if each.minus is None or int(each.minus[number]) < 0:
            return Label(site, unit, kink=each.kink[number].item())
        return Label(site, unit, rival=self._rival(node, int(each.minus[number])))

    # ---- rows ----

    def rows(self, numbers: Sequence[int] | Tensor | slice = slice(None), limit: int = LIMIT) -> Tensor:
        """Rows of A in the order asked for, each shaped like the input: (count, *input_shape).

        Raises LinregError, before any work, where they would take more than `limit` bytes; `row_chunks` has no limit.
        """
        chosen = self._numbers(numbers)
        needed = len(chosen) * self.shape[1] * self.lin.input.element_size()
        if needed > limit:
            raise LinregError(
                f"{len(chosen):,} rows of {self.shape[1]:,} elements take {needed / 2**30:.3g} GiB, and the limit is "
                f"{limit / 2**30:.3g} GiB: row_chunks() gives a few at a time; or ask for some, for some sites, or "
                "with a higher limit="
            )
        order = chosen.argsort(stable=True)
        found = self.lin.input.new_empty(len(chosen), *self.lin.input.shape[1:])
        first = 0
        for _, rows in self.row_chunks(chosen[order]):
            found[order[first : first + len(rows)].to(found.device)] = rows
            first += len(rows)
        return found

    def row_chunks(self, numbers: Sequence[int] | Tensor | slice = slice(None)) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows, site after site, in chunks of what is pulled back at once: (numbers, rows), as `rows` gives them."""
        chosen = self._numbers(numbers)
        for site, each in self.decided.items():
            first = self.starts[site]
            own = chosen[(chosen >= first) & (chosen < first + len(each))]
            for part in own.split(self._at_once):
                if len(part):
                    yield part, self._pulled(site, each.some((part - first).to(each.plus.device)))

    # ---- products ----

    @torch.no_grad()
    def times(self, v: Tensor) -> Tensor:
        """A v for v (N, *input_shape), without a matrix: (N, rows). One forward product for all sites."""
        parts = list(self.time_chunks(v))
        return torch.cat(parts) if parts else v.new_empty(0, len(self))

    @torch.no_grad()
    def time_chunks(self, v: Tensor) -> Iterator[Tensor]:
        """A v as `times` gives it, for as many v as are pushed at once."""
        self._check(v)
        for part in v.split(self._at_once):
            row = torch.empty(len(part), len(self), dtype=part.dtype, device=part.device)
            for site, values in self._sweep(part, linear=True):
                each = self.decided[site]
                row[:, self.starts[site] : self.starts[site] + len(each)] = -each.linear(values)
            yield row

    @torch.no_grad()
    def back(self, g: Tensor) -> Tensor:
        """Aᵀ g for g (N, rows): (N, *input_shape). One adjoint pass for all sites."""
        like = self.lin.input
        if not isinstance(g, Tensor) or g.dim() != 2 or g.shape[1] != len(self):
            given = tuple(g.shape) if isinstance(g, Tensor) else type(g).__name__
            raise LinregError(f"weights of the rows must have shape (N, {len(self):,}), not {given}")
        if g.dtype != like.dtype or g.device != like.device:
            raise LinregError(f"weights must be {like.dtype} on {like.device}, not {g.dtype} on {g.device}")
        parts = [self._pull_all(part) for part in g.split(self._at_once)]
        return torch.cat(parts) if parts else g.new_empty(0, *self.lin.input.shape[1:])

    def aslinearoperator(self) -> LinearOperator:
        """A for `scipy.sparse.linalg`; vectors are flattened."""

        def times(columns: np.ndarray) -> np.ndarray:
            vectors = torch.from_numpy(np.ascontiguousarray(columns.T)).to(self.lin.input)
            return to_numpy(self.times(vectors.reshape(-1, *self.lin.input.shape[1:]))).T

        def back(columns: np.ndarray) -> np.ndarray:
            weights = torch.from_numpy(np.ascontiguousarray(columns.T)).to(self.lin.input)
            return to_numpy(self.back(weights.reshape(-1, len(self))).flatten(1)).T

        def one(v: np.ndarray) -> np.ndarray:
            return times(v.reshape(-1, 1))[:, 0]

        def one_back(g: np.ndarray) -> np.ndarray:
            return back(g.reshape(-1, 1))[:, 0]

        dtype = to_numpy(self.lin.input[:0]).dtype
        return LinearOperator(self.shape, matvec=one, rmatvec=one_back, matmat=times, rmatmat=back, dtype=dtype)

    # ---- membership ----

    @torch.no_grad()
    def least_slack(self, v: Tensor) -> Tensor:
        """min_l s_l(v), (N,): negative where v (N, *input_shape) is outside; ∞ where there is nothing to decide."""
        self._check(v)
        found = []
        for part in v.split(self._at_once):
            least = part.new_full((len(part),), inf)
            for site, values in self._sweep(part, linear=False):
                if len(self.decided[site]):
                    least = torch.minimum(least, self.decided[site].slack(values).amin(1))
            found.append(least)
        return torch.cat(found) if found else v.new_empty(0)

    def contains(self, v: Tensor, tolerance: float = 0.0) -> Tensor:
        """Whether v (N, *input_shape) is in the region, walls included, up to a slack of −`tolerance`: (N,)."""
        return self.least_slack(v) >= -tolerance

    # ---- within ----

    @cached_property
    def _at_once(self) -> int:
        graph = self.lin.graph
        if graph.batch is not None:
            return 1
        largest = max(prod(graph.shape(name)) for name in (INPUT, *(node.name for node in graph.nodes)))
        return max(1, BATCH.get(self.lin.input.device.type, BATCH["cpu"]) // max(1, largest))

    def _sweep(self, v: Tensor, linear: bool) -> Iterator[tuple[str, Tensor]]:
        """Each site with its inputs laid in a row, (N, all), where the frozen network is at v, or its linear part."""
        kept: dict[str, Tensor] = {}

        def step(node: Node, inputs: tuple[Tensor, ...]) -> Tensor:
            if node.name in self.decided:
                kept[node.name] = torch.cat([each.flatten(1) for each in inputs], 1)
            affine = self.lin.frozen[node.name]
            return affine.linear(*inputs) if linear else affine(*inputs)

        self.lin.graph.evaluate({INPUT: v}, step)
        yield from kept.items()

    def _pulled(self, site: str, some: Decisions) -> Tensor:
        """The rows of some inequalities of a site, (count, *input_shape)."""
        weights = torch.eye(len(some), dtype=self.lin.input.dtype, device=self.lin.input.device)
        return self._pull({site: (some, -weights)})

    def _pull_all(self, g: Tensor) -> Tensor:
        starts = self.starts
        return self._pull({n: (each, -g[:, starts[n] : starts[n] + len(each)]) for n, each in self.decided.items()})

    @torch.no_grad()
    def _pull(self, seeds: Mapping[str, tuple[Decisions, Tensor]]) -> Tensor:
        """Aᵀ of weights at sites, all (N, their rows): one pass back."""
        graph, count = self.lin.graph, len(next(iter(seeds.values()))[1]) if seeds else 1
        grads: dict[str, Tensor] = {}
        for site, (each, weights) in seeds.items():
            names = graph[site].inputs
            sizes = [prod(graph.shape(name)) for name in names]
            for name, part in zip(names, each.adjoint(weights, sum(sizes)).split(sizes, 1), strict=True):
                shaped = part.reshape(count, *graph.shape(name))
                grads[name] = grads[name] + shaped if name in grads else shaped
        found = graph.pull(grads, lambda node, grad: self.lin.frozen[node.name].adjoint(grad))
        zeros = self.lin.input.new_zeros(count, *self.lin.input.shape[1:])
        return found.get(INPUT, zeros).contiguous()

    def _numbers(self, numbers: Sequence[int] | Tensor | slice) -> Tensor:
        if isinstance(numbers, slice):
            return torch.arange(len(self))[numbers]
        return _within(numbers, len(self), f"there are rows 0 to {len(self) - 1:,}").cpu()

    def _rival(self, node: Node, place: int) -> tuple[int, ...]:
        for name in node.inputs:
            shape = self.lin.graph.shape(name)
            if place < prod(shape):
                return _place(place, shape)
            place -= prod(shape)
        raise AssertionError

    def _check(self, v: object) -> None:
        wanted = self.lin.input.shape[1:]
        if not isinstance(v, Tensor) or v.shape[1:] != wanted or v.dim() != len(wanted) + 1:
            given = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
            raise LinregError(f"points must have shape (N, {', '.join(map(str, wanted))}), not {given}")
        if v.dtype != self.lin.input.dtype or v.device != self.lin.input.device:
            like = self.lin.input
            raise LinregError(f"points must be {like.dtype} on {like.device}, not {v.dtype} on {v.device}")


def inequalities(lin: Linearization, sites: Sequence[str] | None = None, units: Units | None = None) -> Inequalities:
    """The region of one input as A v ≤ b; of chosen sites, or of chosen units {site: their places, flattened}, alone.

    Raises LinregError for several images, and for sites and units that there are not.
    """
    if not isinstance(lin, Linearization):
        raise LinregError(f"a region is that of a linearization, graph.linearize(x), not of {type(lin).__name__}")
    if isinstance(sites, str) or not isinstance(units, Mapping | None):
        raise LinregError(f"sites are a list of names, and units are {{site: places}}; not {sites!r} and {units!r}")
    if len(lin.input) != 1:
        raise LinregError(
            f"a region is of one input, and this linearization holds {len(lin.input)}: linearize one of them, "
            "graph.linearize(x[:1])"
        )
    found: dict[str, Decisions] = {}
    slacks: list[Tensor] = []
    wanted = None if sites is None and units is None else {*(sites or ()), *(units or {})}

    def step(node: Node, inputs: tuple[Tensor, ...]) -> Tensor:
        affine = lin.frozen[node.name]
        if wanted is None or node.name in wanted:
            each = decisions(node, inputs, affine)
            if each is not None:
                each = _of_units(each, node, units)
                found[node.name] = each
                slacks.append(each.slack(torch.cat([x.flatten(1) for x in inputs], 1))[0])
        return affine(*inputs)

    with torch.no_grad():
        lin.graph.evaluate({INPUT: lin.input}, step)
    for name in (wanted or set()) - found.keys():
        lin.graph[name]  # which says what is near an unknown name
        raise LinregError(f"'{name}' decides nothing: it is the same affine function everywhere")
    return Inequalities(lin, found, torch.cat(slacks) if slacks else lin.input.new_empty(0))


def _of_units(each: Decisions, node: Node, units: Units | None) -> Decisions:
    if units is None or node.name not in units:
        return each
    size = prod(node.shape)
    chosen = _within(units[node.name], size, f"'{node.name}' has units 0 to {size - 1:,}, flattened")
    return each.some(torch.isin(each.unit, chosen.to(each.unit.device)))


def _within(numbers: Sequence[int] | Tensor, size: int, wanted: str) -> Tensor:
    """Whole numbers below `size`, or those where a mask is true, in a row; for others raises LinregError, as wanted."""
    chosen = torch.as_tensor(numbers).reshape(-1)
    if chosen.dtype == torch.bool and len(chosen) == size:
        return chosen.nonzero()[:, 0]
    if len(chosen) and (chosen.dtype == torch.bool or chosen.is_floating_point()):
        raise LinregError(f"{wanted}; or give a mask of them all, not {chosen.dtype} ({len(chosen)},)")
    if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < size:
        raise LinregError(wanted)
    return chosen.long()


def _place(number: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(number, shape)) if shape else ()
