"""Gates that a program writes as several calls: `where(x > 0, x, 0.1 * x)`, `x * (x > 0)`, `maximum(x, -x)`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import inf

import torch
from torch import Tensor

from linreg.operators.base import Diagonal, Operator, Shape
from linreg.operators.gates import Bound, Gate
from linreg.operators.selection import Extremum
from linreg.operators.steps import Choice

Line = tuple[Operator, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Cut:
    """The line cut into pieces of a gate, for each element of its input.

    `cuts` (m, *shape) are where the piece changes, sorted, and ∞ for none; `steepest` (*shape) is the largest |s|, ∞
    where φ jumps. Both have dimensions of size 1 where all elements have the same. `shifts` says that t is not 0 on
    all of the pieces.
    """

    cuts: Tensor
    steepest: Tensor
    shifts: bool


@dataclass(frozen=True, eq=False)
class Pointwise(Gate):
    """φ(z), computed by elementwise operators: line k of the `tape` makes v_{k+1} of earlier values, where v_0 = z.

    At a kink the program decides by its own comparison. `shape` is that of z, `like` an empty tensor of its dtype.
    """

    tape: tuple[Line, ...]
    shape: Shape
    like: Tensor

    @property
    def kind(self) -> str:
        return self.tape[-1][0].kind

    @property
    def kinks(self) -> tuple[Bound, ...]:
        return tuple(self.pieces.cuts) or (inf,)

    @property
    def steepest(self) -> Bound:
        return self.pieces.steepest

    def freeze(self, *inputs: Tensor) -> Diagonal:
        slope, offset = self._piece(inputs[0])
        switch = bool(((slope == 0) | (slope == 1)).all())
        return Diagonal(slope, offset if self.pieces.shifts or offset.any() else None, switch)

    def evaluate(self, *inputs: Tensor) -> Tensor:
        """Line by line, without `pieces`: so that torch.export can go through it."""
        values = list(inputs)
        for operator, places in self.tape:
            values.append(operator.evaluate(*(values[p] for p in places)))
        return values[-1]

    @cached_property
    def pieces(self) -> Cut:
        """Where φ changes its piece: between two cuts the arguments of a line are affine in z, and it adds its own."""
        cuts = self.like.new_empty(0, *self.shape)
        for operator, places in self.tape:
            left, right, low, high = _intervals(cuts)
            levels = zip(*(_levels(operator, self._arguments(z, places)) for z in (low, high)), strict=True)
            roots = (low - a * (high - low) / (b - a) for a, b in levels)
            inside = (torch.where((left < root) & (root < right), root, inf) for root in roots)
            cuts = _finite(torch.cat([cuts, *inside]))
        slopes, offsets = self._piece(_intervals(cuts)[2])
        slope, offset = self._piece(cuts)
        sides = ((slopes[:-1], offsets[:-1]), (slopes[1:], offsets[1:]), (slope, offset))
        differ = [(a[0] != b[0]) | (a[1] != b[1]) for a, b in combinations(sides, 2)]
        real = cuts.isfinite() & (differ[0] | (differ[1] & differ[2]))
        heights = torch.stack([s * cuts + t for s, t in sides])
        terms = torch.stack([(s * cuts).abs() + t.abs() for s, t in sides])
        rounding = 16 * torch.finfo(cuts.dtype).eps * terms.amax(0)
        jumps = (real & (heights.amax(0) - heights.amin(0) > rounding)).any(0)
        steepest = torch.where(jumps, inf, slopes.abs().amax(0))
        cuts = _compact(_finite(torch.where(real, cuts, inf)))
        return Cut(cuts, _compact(steepest[None])[0], bool(offsets.any()))

    def _arguments(self, z: Tensor, places: tuple[int, ...]) -> list[Tensor]:
        """The values at these places."""
        values = [z]
        for operator, own in self.tape[: max(places)]:
            inputs = [values[p] for p in own]
            values.append(operator.freeze(*inputs)(*inputs))
        return [values[p] for p in places]

    def _piece(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Slope and offset of φ at z."""
        values, slopes, offsets = [z], [torch.ones_like(z)], [torch.zeros_like(z)]
        for operator, places in self.tape:
            inputs = [values[p] for p in places]
            affine = operator.freeze(*inputs)
            values.append(affine(*inputs))
            slopes.append(affine.linear(*(slopes[p] for p in places)))
            offsets.append(affine(*(offsets[p] for p in places)))
        return slopes[-1], offsets[-1]


def _levels(operator: Operator, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """What changes its sign where the operator changes its piece."""
    if isinstance(operator, Gate):
        return tuple(inputs[0] - kink for kink in operator.kinks)
    return operator.levels(*inputs) if isinstance(operator, Choice | Extremum) else ()


def _finite(cuts: Tensor) -> Tensor:
    """Sorted, without the rows that hold none."""
    cuts = cuts.sort(0).values
    return cuts[[bool(row.isfinite().any()) for row in cuts]]


def _compact(rows: Tensor) -> Tensor:
    """One number for each row, (m, 1, …), where all of a row are the same."""
    firsts = rows[(slice(None), *[slice(1)] * (rows.dim() - 1))]
    return firsts.clone() if (rows == firsts).all() else rows


def _intervals(cuts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Left and right ends of the intervals between cuts, and two numbers in each."""
    end = cuts.new_full((1, *cuts.shape[1:]), inf)
    left, right = torch.cat([-end, cuts]), torch.cat([cuts, end])
    third = torch.where(left.isfinite() & right.isfinite(), (right - left) / 3, 1.0)
    first = torch.where(left.isfinite(), left + third, torch.where(right.isfinite(), right - 2 * third, 0.0))
    return left, right, first, first + third
