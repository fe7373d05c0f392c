"""What a node decides, as inequalities in its inputs: which of them hold says on which piece each of its units is.

Each is of one form, with values x of the node's inputs laid in a row: ± (x_plus − x_minus − kink) ≥ 0. A gate compares
one element with a kink, on each side where it has one. A selection compares what it chose with every other candidate.
The left-hand side, which is not negative on the region, is its *slack*.

Indices: l inequality, j element of the node's value, i element of its inputs, c candidate, m place in a ranked row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linreg.errors import LinregError
from linreg.graph import Node
from linreg.operators import Affine, Data, Diagonal, Gate, Selection, rule_for
from linreg.operators.pooling import MaxPool
from linreg.operators.reach import Placed
from linreg.operators.selection import Extremum, Ranked
from linreg.operators.steps import JUMPS, Choice, Step, steps_of

Shapes = Sequence[tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Decisions:
    """± (x_plus − x_minus − kink) ≥ 0 for each l: what one node has decided at an input.

    `plus` (L,) counts in the node's inputs laid in a row, and `minus` (L,) too, where −1 stands for none, as None does
    for all. `sign` (L,) is 1 or −1, `kink` (L,) a number. `unit` (L,) is the element of the node's value that would be
    on another piece beyond.
    """

    plus: Tensor
    minus: Tensor | None
    kink: Tensor
    sign: Tensor
    unit: Tensor

    def __len__(self) -> int:
        return len(self.plus)

    def linear(self, row: Tensor) -> Tensor:
        """± (x_plus − x_minus) of inputs in a row, (N, all inputs): (N, L)."""
        difference = row[:, self.plus]
        if self.minus is not None:
            difference = difference - row[:, self.minus.clamp_min(0)] * (self.minus >= 0)
        return difference * self.sign

    def slack(self, row: Tensor) -> Tensor:
        """± (x_plus − x_minus − kink): (N, L)."""
        return self.linear(row) - self.sign * self.kink

    def adjoint(self, weights: Tensor, width: int) -> Tensor:
        """The transpose of `linear`, of weights (N, L): (N, width)."""
        row = weights.new_zeros(len(weights), width)
        signed = weights * self.sign
        row.index_add_(1, self.plus, signed)
        if self.minus is not None:
            row.index_add_(1, self.minus.clamp_min(0), -signed * (self.minus >= 0))
        return row

    def some(self, chosen: Tensor) -> Decisions:
        """Those of these numbers, or under a mask."""
        minus = None if self.minus is None else self.minus[chosen]
        return Decisions(self.plus[chosen], minus, self.kink[chosen], self.sign[chosen], self.unit[chosen])


def decisions(node: Node, inputs: tuple[Tensor, ...], frozen: Affine) -> Decisions | None:
    """What a node decided at inputs (1, *shape) each, where it became `frozen`; None for one that decides nothing.

    Raises LinregError for an operator that does not tell.
    """
    operator = node.operator
    if isinstance(operator, Affine):
        return None
    for kind, rule in RULES.items():
        if isinstance(operator, kind):
            return rule(operator, inputs, frozen)
    raise LinregError(f"{node} does not tell where its piece ends")


# ---- gates ----


def _of_gate(gate: Gate, inputs: tuple[Tensor, ...], frozen: Affine) -> Decisions:
    """z ≥ the kink below it, z ≤ the kink above it; at a kink the frozen piece says which of the two it is."""
    z = inputs[0][0]
    up = _above(gate, inputs[0], frozen)
    below, above = torch.full_like(z, -inf), torch.full_like(z, inf)
    for kink in gate.kinks:
        place = torch.as_tensor(kink, device=z.device).to(z.dtype).expand(z.shape)
        under = (place < z) | ((place == z) & up)
        below = torch.where(under, torch.maximum(below, place), below)
        above = torch.where(under, above, torch.minimum(above, place))
    kinks = torch.stack([below, above]).flatten(1)
    sides, units = kinks.isfinite().nonzero(as_tuple=True)
    return Decisions(units, None, kinks[sides, units], (1 - 2 * sides).to(z.dtype), units)


def _above(gate: Gate, z: Tensor, frozen: Affine) -> Tensor:
    """Where a unit at its kink is on the piece above it, for one image."""
    upper = gate.freeze(z.nextafter(z.new_tensor(inf)))
    if not isinstance(frozen, Diagonal) or not isinstance(upper, Diagonal):
        return torch.zeros_like(z[0], dtype=torch.bool)
    same = frozen.slope[0] == upper.slope[0]
    if frozen.offset is not None and upper.offset is not None:
        same = same & (frozen.offset == upper.offset)[0]
    return same.expand(z[0].shape)


# ---- one of several ----


def _of_pool(pool: MaxPool, inputs: tuple[Tensor, ...], frozen: Affine) -> Decisions:
    """x_chosen ≥ each other input of the window."""
    assert isinstance(frozen, Selection)
    out = tuple(frozen.index.shape[1:])
    kept = len(pool.shape) - pool.dims
    plane = prod(pool.shape[kept:])
    first = torch.arange(prod(pool.shape[:kept])).view(-1, 1) * plane
    chosen = (first + frozen.index[0].reshape(len(first), -1).cpu()).reshape(-1)
    windows = _windows(pool, out)  # (positions, c), −1 for none
    candidates = torch.where(windows >= 0, first[:, :, None] + windows, -1).flatten(0, 1)
    units, places = ((candidates >= 0) & (candidates != chosen[:, None])).nonzero(as_tuple=True)
    return _compared(chosen[units], candidates[units, places], 1.0, units, inputs[0])


def _windows(pool: MaxPool, out: tuple[int, ...]) -> Tensor:
    """The inputs of each window in the pooled dimensions laid in a row, (positions, c), filled up with −1."""
    (follows,) = pool.reach((Placed(pool.shape, frozenset(range(len(pool.shape)))),), out)
    table = torch.zeros(1, 1, dtype=torch.long)
    for d in range(len(pool.shape) - pool.dims, len(pool.shape)):
        reads = (follows or {})[d][1].reads.tocsr()
        counts = np.diff(reads.indptr)
        side = torch.full((len(counts), int(counts.max(initial=1))), -1)
        side[np.repeat(np.arange(len(counts)), counts), np.concatenate([np.arange(n) for n in counts])] = (
            torch.from_numpy(reads.indices.astype(np.int64))
        )
        left, right = table[:, None, :, None], side[None, :, None, :]
        table = torch.where((left >= 0) & (right >= 0), left * pool.shape[d] + right, -1)
        table = table.flatten(2).flatten(0, 1)
    return table


def _of_ranked(ranked: Ranked, inputs: tuple[Tensor, ...], frozen: Affine) -> Decisions:
    """What was chosen stays above all that are below it, and below all that are above."""
    values = _rows(inputs[0], ranked.axes)[0].flatten(0, -2)
    places = _rows(torch.arange(prod(ranked.before)).view(1, *ranked.before), ranked.axes)[0].flatten(0, -2)
    chosen = ranked.choose(values)  # (rows, k)
    size = values.shape[-1]
    ranks = ranked.choose(torch.arange(size, device=values.device)[None].to(values.dtype))[0]
    below = torch.stack([_below(values, chosen[:, k], int(rank), ranks) for k, rank in enumerate(ranks)], 1)
    units = _units(ranked, len(values), chosen.shape[1])
    rows, outputs, others = (torch.arange(size) != chosen.cpu()[..., None]).nonzero(as_tuple=True)
    sign = torch.where(below.cpu()[rows, outputs, others], 1.0, -1.0)
    plus, minus = places[rows, chosen.cpu()[rows, outputs]], places[rows, others]
    return _compared(plus, minus, sign, units[rows, outputs], inputs[0])


def _rows(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """x (N, …) with the axes as one, and last."""
    rows = x.movedim(tuple(1 + axis for axis in axes), tuple(range(-len(axes), 0))).flatten(-len(axes))
    return rows if rows.dim() > 2 else rows[:, None]


def _units(ranked: Ranked, rows: int, count: int) -> Tensor:
    """The element of the value that each choice (row, k) makes."""
    numbers = torch.arange(prod(ranked.after))
    if count == 1:
        return numbers.view(rows, 1)
    return numbers.view(ranked.after).movedim(ranked.axes[0], -1).reshape(rows, count)


def _below(values: Tensor, chosen: Tensor, rank: int, ranks: Tensor) -> Tensor:
    """Which elements of a row are below the chosen one, where `rank` of them are; of equal ones the first or last."""
    value = values.gather(1, chosen[:, None])
    less = values < value
    tied = (values == value) & (torch.arange(values.shape[1], device=values.device) != chosen[:, None])
    falling = bool(ranks[0] > ranks[-1]) or rank > values.shape[1] // 2
    order = tied.flip(1).cumsum(1).flip(1) if falling else tied.cumsum(1)
    return less | (tied & (order <= (rank - less.sum(1))[:, None]))


def _of_extremum(extremum: Extremum, inputs: tuple[Tensor, ...], frozen: Affine) -> Decisions:
    """The one that was chosen is no smaller (no larger) than the other."""
    chosen = frozen.condition[0].expand(extremum.shape)  # type: ignore[attr-defined]
    sign = torch.where(chosen == extremum.largest, 1.0, -1.0).flatten().cpu()
    first, second = _positions(extremum.shapes)
    plus, minus = (place.expand(1, *extremum.shape).flatten() for place in (first, second))
    return _compared(plus, minus, sign, torch.arange(prod(extremum.shape)), inputs[0])


def _compared(plus: Tensor, minus: Tensor, sign: Tensor | float, unit: Tensor, like: Tensor) -> Decisions:
    plus, minus, unit = (each.to(like.device) for each in (plus, minus, unit))
    signs = torch.as_tensor(sign, device=like.device).to(like.dtype).expand(len(plus))
    return Decisions(plus, minus, torch.zeros_like(signs), signs, unit)


def _positions(shapes: Shapes) -> list[Tensor]:
    """The places of the elements of each input in the row of them all, (1, *shape) each."""
    starts = np.cumsum([0, *map(prod, shapes)])
    return [torch.arange(prod(s)).view(1, *s) + int(start) for s, start in zip(shapes, starts, strict=False)]


# ---- by comparison ----


def _of_choice(choice: Choice, inputs: tuple[Tensor, ...], frozen: Affine) -> Decisions:
    """Each comparison that the choice is made of keeps its answer."""
    names = [data.name for data in choice.inputs]
    values = dict(zip(names, inputs, strict=True))
    places = dict(zip(names, _positions([data.shape for data in choice.inputs]), strict=True))
    parts = [part for step in steps_of(choice.call) for part in _of_step(step, values, places)]
    if not parts:
        raise LinregError(f"operator '{choice.kind}' does not tell where its piece ends")
    return _joined(parts, prod(choice.call.shape), inputs[0])


def _of_step(step: Step, values: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> list[Decisions]:
    call = step.call
    if call.name in JUMPS and call.data:
        return [_of_comparison(step, values, places)]
    found = [part for inner in steps_of(call) for part in _of_step(inner, values, places)]
    rule = rule_for(call.target)
    if call.data and rule is not None:  # the places that a max pool found
        operator, data = rule(call)
        own = tuple(values[each.name] for each in data)
        frozen = operator.freeze(*own)
        local = RULES[MaxPool](operator, own, frozen) if isinstance(operator, MaxPool) else None
        if local is not None and local.minus is not None:
            row = torch.cat([places[each.name].flatten() for each in data]).to(own[0].device)
            found.append(Decisions(row[local.plus], row[local.minus], local.kink, local.sign, local.unit))
    return found


def _of_comparison(step: Step, values: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> Decisions:
    """The side on which a difference is; at 0 that of the answer which the comparison gives there."""
    call, like = step.call, next(iter(values.values()))

    def side(argument: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Value, place in the row or −1, and constant."""
        if isinstance(argument, Data):
            return values[argument.name], places[argument.name].to(like.device), like.new_zeros(())
        fixed = like.new_zeros(()) if argument is None else call.tensor(argument).to(like)
        return fixed, torch.full((), -1, device=like.device), fixed

    shape = (1, *step.shape)
    (a, plus, own), (b, minus, other) = (
        [each.expand(shape).flatten() for each in side(argument)] for argument in (call["self"], call["other"])
    )
    level = a - b
    at_zero = -1.0 if call.name in ("gt", "le") else 1.0
    sign = torch.where(level == 0, level.new_tensor(at_zero), level.sign())
    flipped = plus < 0  # a constant compared with data
    plus, minus, sign = (
        torch.where(flipped, minus, plus),
        torch.where(flipped, plus, minus),
        sign.where(~flipped, -sign),
    )
    kink = torch.where(flipped, own, other)
    unit = torch.arange(len(plus), device=like.device)
    return Decisions(plus, None if bool((minus < 0).all()) else minus, kink, sign, unit)


def _joined(parts: list[Decisions], units: int, like: Tensor) -> Decisions:
    """One after the other; a comparison of another shape than the value says nothing of one unit: unit 0."""
    minus = None
    if any(part.minus is not None for part in parts):
        none = [torch.full_like(part.plus, -1) if part.minus is None else part.minus for part in parts]
        minus = torch.cat(none)
    fitting = [part.unit if len(part) and int(part.unit.max()) < units else 0 * part.unit for part in parts]
    plus, kink, sign = (torch.cat([getattr(part, name) for part in parts]) for name in ("plus", "kink", "sign"))
    return Decisions(plus, minus, kink, sign, torch.cat(fitting))


RULES: dict[Any, Callable[..., Decisions]] = {
    Gate: _of_gate,
    MaxPool: _of_pool,
    Ranked: _of_ranked,
    Extremum: _of_extremum,
    Choice: _of_choice,
}
