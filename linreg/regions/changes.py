"""Where an operator changes its piece between the two ends of each of many cells.

A cell is a stretch on which everything that the operator reads is affine, so that its values at the two ends are all
there is to know. What decides the piece is a level, which changes its sign, or a contest, which another candidate wins.

A number within a few roundings of zero, of the largest of its kind, counts as zero: a unit that is at its kink all
along a cell would else turn by its rounding alone. In short arithmetic, where a cell may be hardly longer than
rounding, only what is within a quarter of one does.

Indices: v end of a cell, c cell, u unit, r contest, m candidate, k what is chosen of one contest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from linreg.graph import Node
from linreg.operators.base import Operator
from linreg.operators.contest import Contest

SLACK = {torch.float64: 16.0}  # roundings
SHORT_SLACK = 0.25
BLOCK = 2**22  # numbers that are compared at a time


class Cells(Protocol):
    """How the values at the ends of cells are laid in one tensor (V, …)."""

    @property
    def may_jump(self) -> bool:
        """Whether a value may be another one at the end of a cell than at the start of the next."""

    def starts(self, values: Tensor) -> Tensor:
        """Those at the start of each cell, (C, …)."""

    def ends(self, values: Tensor) -> Tensor:
        """Those at the end."""


@dataclass(frozen=True, eq=False)
class Changes:
    """Units that change their piece: `unit` within `cell` at `place`, 0 to 1 of its way (float64).

    `met` are units that change it where one cell meets the next, and `before` the first of the two.
    """

    cell: Tensor
    place: Tensor
    unit: Tensor
    before: Tensor
    met: Tensor


def changes(node: Node, cells: Cells, values: tuple[Tensor, ...]) -> list[Changes]:
    """Those of one node whose inputs have these values at the ends of cells."""
    found = [_of_level(level, cells, node.shape) for level in node.operator.levels(*values)]
    for operator, inputs, output in node.operator.deciders(values, node.shape):
        contest = operator.contest(output)
        if contest is not None:
            found.append(_of_contest(contest.to(inputs[0].device), operator, inputs[0], cells))
    return found


def noise(values: Tensor) -> float:
    """What counts as zero among such values."""
    if not values.numel():
        return 0.0
    largest = max(abs(bound.item()) for bound in values.aminmax())
    if largest == torch.inf:  # of padding, or of what is masked
        largest = values[values.isfinite()].abs().amax().item() if values.isfinite().any() else 0.0
    return SLACK.get(values.dtype, SHORT_SLACK) * torch.finfo(values.dtype).eps * largest


def _of_level(level: Tensor, cells: Cells, shape: tuple[int, ...]) -> Changes:
    fits = level.dim() == 1 + len(shape) and all(m in (1, n) for m, n in zip(level.shape[1:], shape, strict=True))
    if fits:
        level = level.expand(len(level), *shape)
    flat = level.flatten(1) if level.dim() > 1 else level[:, None]
    zero = noise(flat)
    above, below = flat > zero, flat < -zero
    (up, right_up), (down, right_down) = ((cells.starts(s), cells.ends(s)) for s in (above, below))
    cell, unit = ((up & right_down) | (down & right_up)).nonzero(as_tuple=True)
    at_start, at_end = (side[cell, unit].double() for side in (cells.starts(flat), cells.ends(flat)))
    before, met = cell[:0], unit[:0]
    if cells.may_jump or not (above | below).all():  # else no sign changes but within cells
        first = up | (~down & right_up)  # the sign within the cell, next to its start
        last = right_up | (~right_down & up)
        before, met = (last[:-1] ^ first[1:]).nonzero(as_tuple=True)
    if not fits:  # of another shape than the value, it says nothing of one unit
        unit, met = torch.zeros_like(unit), torch.zeros_like(met)
    return Changes(cell, at_start / (at_start - at_end), unit, before, met)


# ---- contests ----


@dataclass(frozen=True, eq=False)
class Turns:
    """What changes in some contests: those `changed` (K,) have another `chosen`, number `k`, from `place` on.

    `first` and `last` (n, k) are the places in their rows of what is chosen next to the start of the cell, and to its
    end.
    """

    changed: Tensor
    place: Tensor
    k: Tensor
    first: Tensor
    last: Tensor


def _of_contest(contest: Contest, operator: Operator, x: Tensor, cells: Cells) -> Changes:
    at_ends = chosen(operator, x)
    cell, row = _contested(contest, at_ends, x, cells).nonzero(as_tuple=True)
    first = cells.starts(at_ends).clone()  # where there is no contest, this is chosen in the whole cell
    last = first.clone()
    zero, found = noise(x), [(cell[:0], x.new_empty(0, dtype=torch.float64), cell[:0])]
    start, end = cells.starts(x).flatten(1), cells.ends(x).flatten(1)
    block = max(1, BLOCK // contest.candidates.shape[1] ** (1 if contest.extreme else 2))
    for c, r in zip(cell.split(block), row.split(block), strict=True) if len(cell) else ():
        left, right = (contest.rows(side, c, r).double() for side in (start, end))
        turns = _envelope(contest.extreme * left, contest.extreme * right, zero) if contest.extreme else _orders(
            left, right, zero, contest)  # fmt: skip
        units = contest.outputs[r]
        found.append((c[turns.changed], turns.place, units[turns.changed, turns.k]))
        first[c[:, None], units] = contest.candidates[r].gather(1, turns.first).to(first)
        last[c[:, None], units] = contest.candidates[r].gather(1, turns.last).to(last)
    before, met = (last[:-1] != first[1:]).nonzero(as_tuple=True)
    cell, place, unit = (torch.cat(each) for each in zip(*found, strict=True))
    return Changes(cell, place, unit, before, met)


def chosen(operator: Operator, x: Tensor) -> Tensor:
    """Which elements of the data the operator copies, (N, elements of the value): it is run on 0, 1, … to tell."""
    elements = x[0].numel()
    dtype = torch.float32 if elements <= 2**24 else torch.float64  # that holds these numbers
    numbers = torch.arange(elements, dtype=dtype, device=x.device)
    return operator.freeze(x).linear(numbers.view(1, *x.shape[1:]).expand(x.shape)).reshape(len(x), -1)


def _contested(contest: Contest, at_ends: Tensor, x: Tensor, cells: Cells) -> Tensor:
    """Where something may change within a cell, (C, R).

    Of an extreme: unless one candidate wins at both ends, and so between them, as the largest of affine functions is
    convex. Otherwise: unless the order of all candidates is the same at both.
    """
    if contest.extreme:
        return (cells.starts(at_ends) != cells.ends(at_ends))[:, contest.outputs[:, 0]]
    flat = x.flatten(1)
    every = torch.arange(len(contest.candidates), device=x.device)
    image = torch.arange(len(flat), device=x.device).repeat_interleave(len(every))
    rows = contest.rows(flat, image, every.repeat(len(flat)))
    order = rows.sort(dim=-1, stable=True).indices.view(len(flat), len(every), -1)
    return (cells.starts(order) != cells.ends(order)).any(-1)


def _envelope(left: Tensor, right: Tensor, zero: float) -> Turns:
    """The largest of affine functions with these values (n, M) at the ends: from each to the next that overtakes it."""
    winner = _first_of(_first_of(torch.ones_like(left, dtype=torch.bool), left, zero), right, zero).int().argmax(1)
    first, found = winner, [(winner[:0], left.new_empty(0))]
    while True:
        ahead = (left.gather(1, winner[:, None]) - left).clamp_min(0)
        behind = right - right.gather(1, winner[:, None])
        place = torch.where(behind > zero, ahead / (ahead + behind), torch.inf)
        nearest = place.amin(1)
        row = nearest.isfinite().nonzero()[:, 0]
        if not len(row):
            break
        found.append((row, nearest[row]))
        level = place <= nearest[:, None] + 1e-14
        winner = winner.clone()
        winner[row] = _first_of(level, right - left, 0.0).int().argmax(1)[row]
    changed, place = (torch.cat(each) for each in zip(*found, strict=True))
    return Turns(changed, place, torch.zeros_like(changed), first[:, None], winner[:, None])


def _first_of(among: Tensor, values: Tensor, zero: float) -> Tensor:
    """Those of the candidates that have the largest value."""
    values = values.masked_fill(~among, -torch.inf)
    return among & (values >= values.amax(1, keepdim=True) - zero)


def _orders(left: Tensor, right: Tensor, zero: float, contest: Contest) -> Turns:
    """What is chosen between all places where two candidates, values (n, M) at the ends, are equal."""
    size = left.shape[1]
    i, j = torch.triu_indices(size, size, 1, device=left.device)
    before, after = left[:, i] - left[:, j], right[:, i] - right[:, j]
    swap = ((before > zero) & (after < -zero)) | ((before < -zero) & (after > zero))
    swaps = torch.where(swap, before / (before - after), torch.inf).sort(1).values
    swaps = swaps[:, : int(swap.sum(1).max())]
    count = swaps.isfinite().sum(1)
    bounds = torch.cat([torch.zeros_like(left[:, :1]), swaps.clamp_max(1), torch.ones_like(left[:, :1])], 1)
    middle = (bounds[:, 1:] + bounds[:, :-1])[..., None] / 2
    chosen = contest.choose(torch.lerp(left[:, None], right[:, None], middle))  # (n, intervals, k)
    differ = (chosen[:, 1:] != chosen[:, :-1]) & swaps.isfinite()[..., None]
    changed, event, k = differ.nonzero(as_tuple=True)
    last = chosen.gather(1, count.view(-1, 1, 1).expand(-1, 1, chosen.shape[2]))[:, 0]
    return Turns(changed, swaps[changed, event], k, chosen[:, 0], last)
