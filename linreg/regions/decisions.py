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
from linreg.operators import Affine, Data, Diagonal, Gate, Operator
from linreg.operators.contest import Contest
from linreg.operators.each import Each
from linreg.operators.selection import Extremum
from linreg.operators.steps import JUMPS, Choice, Step, steps_of

Shape = tuple[int, ...]
Inputs = tuple[Tensor, ...]


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


def decisions(node: Node, inputs: Inputs, frozen: Affine) -> Decisions | None:
    """What a node decided at inputs (1, *shape) each, where it became `frozen`; None for one that decides nothing.

    Raises LinregError for an operator that does not tell.
    """
    if isinstance(node.operator, Affine):
        return None
    found = _decided(node.operator, inputs, frozen, node.shape)
    if found is None:
        raise LinregError(f"{node} does not tell where its piece ends")
    return found


def _decided(operator: Operator, inputs: Inputs, frozen: Affine, shape: Shape) -> Decisions | None:
    contest = operator.contest(shape)
    if contest is not None:
        return _of_contest(contest, inputs[0])
    for kind, rule in RULES.items():
        if isinstance(operator, kind):
            return rule(operator, inputs, frozen, shape)
    return None


# ---- gates ----


def _of_gate(gate: Gate, inputs: Inputs, frozen: Affine, shape: Shape) -> Decisions:
    """z ≥ the kink below it, z ≤ the kink above it; at a kink the frozen piece says which of the two it is."""
    z = inputs[0][0]
    up = on_upper_piece(gate, inputs[0], frozen)[0]
    below, above = torch.full_like(z, -inf), torch.full_like(z, inf)
    for kink in gate.kinks:
        place = torch.as_tensor(kink, dtype=z.dtype, device=z.device).expand(z.shape)
        under = (place < z) | ((place == z) & up)
        below = torch.where(under, torch.maximum(below, place), below)
        above = torch.where(under, above, torch.minimum(above, place))
    kinks = torch.stack([below.flatten(), above.flatten()], 1)
    units, sides = kinks.isfinite().nonzero(as_tuple=True)
    return Decisions(units, None, kinks[units, sides], (1 - 2 * sides).to(z.dtype), units)


def on_upper_piece(gate: Gate, z: Tensor, frozen: Affine) -> Tensor:
    """Where a unit, if it is at a kink, was frozen to the piece above that, (N, *shape)."""
    upper = gate.freeze(z.nextafter(z.new_tensor(inf)))
    if not isinstance(frozen, Diagonal) or not isinstance(upper, Diagonal):
        return torch.zeros_like(z, dtype=torch.bool)
    same = frozen.slope == upper.slope
    if frozen.offset is not None and upper.offset is not None:
        same = same & (frozen.offset == upper.offset)
    return same.expand(z.shape)


# ---- one of several ----


def _of_contest(contest: Contest, x: Tensor) -> Decisions:
    """What was chosen stays above all that are below it, and below all that are above."""
    candidates, contest = contest.candidates, contest.to(x.device)
    every = torch.arange(len(candidates), device=x.device)
    rows = contest.rows(x.flatten(1), torch.zeros_like(every), every).cpu()
    chosen = contest.choose(rows)  # (R, k)
    size = rows.shape[1]
    if contest.extreme:
        below = torch.full((*chosen.shape, size), contest.extreme > 0)
    else:
        ranks = contest.choose(torch.arange(size)[None].to(rows.dtype))[0]
        below = torch.stack([_below(rows, chosen[:, k], int(rank), ranks) for k, rank in enumerate(ranks)], 1)
    rivals = (torch.arange(size) != chosen[..., None]) & (candidates >= 0)[:, None]
    r, k, m = rivals.nonzero(as_tuple=True)
    sign = torch.where(below[r, k, m], 1.0, -1.0)
    return _compared(candidates[r, chosen[r, k]], candidates[r, m], sign, contest.outputs.cpu()[r, k], x)


def _below(values: Tensor, chosen: Tensor, rank: int, ranks: Tensor) -> Tensor:
    """Which elements of a row are below the chosen one, where `rank` of them are; of equal ones the first or last."""
    value = values.gather(1, chosen[:, None])
    less = values < value
    tied = (values == value) & (torch.arange(values.shape[1], device=values.device) != chosen[:, None])
    falling = bool(ranks[0] > ranks[-1]) or rank > values.shape[1] // 2
    order = tied.flip(1).cumsum(1).flip(1) if falling else tied.cumsum(1)
    return less | (tied & (order <= (rank - less.sum(1))[:, None]))


def _of_extremum(extremum: Extremum, inputs: Inputs, frozen: Affine, shape: Shape) -> Decisions:
    """The one that was chosen is no smaller (no larger) than the other."""
    chosen = frozen.condition[0].expand(shape)  # type: ignore[attr-defined]
    sign = torch.where(chosen == extremum.largest, 1.0, -1.0).flatten().cpu()
    first, second = _positions(extremum.shapes)
    plus, minus = (place.expand(1, *shape).flatten() for place in (first, second))
    return _compared(plus, minus, sign, torch.arange(prod(shape)), inputs[0])


def _compared(plus: Tensor, minus: Tensor, sign: Tensor | float, unit: Tensor, like: Tensor) -> Decisions:
    plus, minus, unit = (each.to(like.device) for each in (plus, minus, unit))
    signs = torch.as_tensor(sign, device=like.device).to(like.dtype).expand(len(plus))
    return Decisions(plus, minus, torch.zeros_like(signs), signs, unit)


def _positions(shapes: Sequence[Shape]) -> list[Tensor]:
    """The places of the elements of each input in the row of them all, (1, *shape) each."""
    starts = np.cumsum([0, *map(prod, shapes)])
    return [torch.arange(prod(s)).view(1, *s) + int(start) for s, start in zip(shapes, starts, strict=False)]


# ---- by comparison ----


def _of_choice(choice: Choice, inputs: Inputs, frozen: Affine, shape: Shape) -> Decisions | None:
    """Each comparison that the choice is made of keeps its answer, and each pool whose places it uses its choices."""
    names = [data.name for data in choice.inputs]
    spots = _positions([data.shape for data in choice.inputs])
    values, places = dict(zip(names, inputs, strict=True)), dict(zip(names, spots, strict=True))
    steps = [step for top in steps_of(choice.call) for step in _comparisons(top)]
    parts = [_of_comparison(step, values, places, shape) for step in steps]
    pools = zip(choice.deciders(inputs, shape), choice.deciders(tuple(spots), shape), strict=True)
    for (operator, own, out), (_, there, _) in pools:
        contest = operator.contest(out)
        if contest is None:
            return None
        local, row = _of_contest(contest, own[0]), there[0].flatten().to(own[0].device)
        assert local.minus is not None
        parts.append(Decisions(row[local.plus], row[local.minus], local.kink, local.sign, local.unit))
    return _joined(parts) if parts else None


def _comparisons(step: Step) -> list[Step]:
    """The comparisons of data that a step is made of."""
    if step.call.name in JUMPS and step.call.data:
        return [step]
    return [found for inner in steps_of(step.call) for found in _comparisons(inner)]


def _of_comparison(step: Step, values: Mapping[str, Tensor], places: Mapping[str, Tensor], value: Shape) -> Decisions:
    """The side on which a difference is; at 0 that of the answer which the comparison gives there.

    Of another shape than the `value` that is chosen, it says nothing of one unit: it is put down to unit 0.
    """
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
    unit = torch.arange(len(plus), device=like.device) * (step.shape == value)
    return Decisions(plus, None if bool((minus < 0).all()) else minus, kink, sign, unit)


def _joined(parts: list[Decisions]) -> Decisions:
    """One after the other."""
    minus = None
    if any(part.minus is not None for part in parts):
        none = [torch.full_like(part.plus, -1) if part.minus is None else part.minus for part in parts]
        minus = torch.cat(none)
    names = ("plus", "kink", "sign", "unit")
    plus, kink, sign, unit = (torch.cat([getattr(part, name) for part in parts]) for name in names)
    return Decisions(plus, minus, kink, sign, unit)


# ---- of several parts ----


def _of_each(each: Each, inputs: Inputs, frozen: Affine, shape: Shape) -> Decisions | None:
    """Those of every part, one after the other."""
    sizes = [x[0, 0].numel() for x in inputs]
    starts = np.cumsum([0, *(x[0].numel() for x in inputs)])
    found = list[Decisions]()
    for p in range(each.parts):
        own = tuple(x[:, p] for x in inputs)
        part = _decided(each.each, own, each.each.freeze(*own), shape[1:])
        if part is None:
            return None
        row = torch.cat(
            [torch.arange(size) + int(start) + p * size for size, start in zip(sizes, starts, strict=False)]
        )
        row = row.to(own[0].device)
        minus = None if part.minus is None else torch.where(part.minus < 0, -1, row[part.minus.clamp_min(0)])
        unit = part.unit + p * prod(shape[1:])
        found.append(Decisions(row[part.plus], minus, part.kink, part.sign, unit))
    return _joined(found)


RULES: dict[Any, Callable[..., Decisions | None]] = {
    Gate: _of_gate,
    Extremum: _of_extremum,
    Choice: _of_choice,
    Each: _of_each,
}
