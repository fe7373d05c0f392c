"""How sure the gates are: the distance of each unit from its kink, and what rounding may have done to it.

Two errors are carried forward beside each value ẑ, as bounds on |ẑ − z|:

    e ← |A| e + γ (|A| |ẑ| + |β|),   at a gate e ← max|slope| e.

The first starts with 0 at the input and goes through all layers: where |ẑ − kink| > e, exact arithmetic chooses the
same piece. Each |W| multiplies the last, so in a deep network it soon says nothing. The second starts anew after each
gate: it is what the roundings since the last gates can do, with the values that these gave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from linreg.graph import Node, OperatorGraph
from linreg.operators import Affine, Gate, Operator
from linreg.operators.rounding import gamma, underflow, widening

State = tuple[Tensor, Tensor, Tensor]  # ẑ, its error from the input on, its error since the last gates


@dataclass(frozen=True, eq=False)
class Margin:
    """One gate site of `units` units for each image; all other fields (N,).

    `nearest` is min |ẑ − kink|, `relative` the same in units of the bound since the last gates. `doubtful` counts the
    units that are within that bound, `unproved` those within the bound from the input on.
    """

    site: str
    units: int
    nearest: Tensor
    relative: Tensor
    doubtful: Tensor
    unproved: Tensor


@torch.no_grad()
def margins(graph: OperatorGraph, x: Tensor) -> tuple[Margin, ...]:
    """The margin of every elementwise gate at x, in the order of the graph; the ties of selections are not judged.

    Raises LinregError where x does not fit the graph.
    """
    graph.check(x)
    found: list[Margin] = []

    def step(node: Node, states: tuple[State, ...]) -> State:
        if isinstance(node.operator, Gate) and states[0][0].numel():
            found.append(_margin(node, *states[0]))
        return carry(node.operator, states)

    zero = torch.zeros_like(x)
    graph.evaluate({"input": (x, zero, zero)}, step)
    return tuple(found)


def closeness(graph: OperatorGraph, found: Sequence[Margin], image: int) -> str:
    """A line on the gates of an image that rounding may have turned, and on the one that is closest to that."""
    units = sum(margin.units for margin in found)
    count = sum(int(margin.doubtful[image]) for margin in found)
    are, kink, turned = ("are", "their kinks", "them") if count > 1 else ("is", "its kink", "it")
    line = (
        f"{count or 'none'} of {units} gates {are} so close to {kink} that rounding since the gates before may have "
        f"turned {turned}"
    )
    first = min(found, key=lambda margin: margin.relative[image].item(), default=None)
    if first is None:
        line = "there are no gates"
    elif first.relative[image].isfinite():
        far = "" if count else f", at {first.relative[image]:.2g} times that distance"
        line += f" (closest: '{first.site}'{far})"
    chooses = any(not isinstance(node.operator, Affine | Gate) for node in graph.nodes)
    return f"{line}; selections are not judged" if chooses else line


def _margin(node: Node, z: Tensor, total: Tensor, recent: Tensor) -> Margin:
    assert isinstance(node.operator, Gate)
    distance = reduce(torch.minimum, ((z - kink).abs() for kink in node.operator.kinks))
    distance, total, recent = (each.reshape(len(z), -1) for each in (distance, total, recent))
    far = distance.isinf()  # units of −∞, which are masked: nothing turns them
    relative = torch.where((distance > 0) & recent.isfinite(), distance / recent, 0.0).where(~far, torch.inf)
    return Margin(
        node.name, distance.shape[1], distance.amin(1), relative.amin(1),
        ((distance <= recent) & ~far).sum(1), ((distance <= total) & ~far).sum(1),
    )  # fmt: skip


def carry(operator: Operator, states: tuple[State, ...]) -> State:
    """The value and its two errors after one operator."""
    values, totals, recents = zip(*states, strict=True)
    affine = operator.freeze(*values)
    z = affine(*values)
    if isinstance(operator, Affine):
        error = _errors(affine, values)
        return z, error(totals), error(recents)
    if isinstance(operator, Gate):
        error = _errors(affine, values)
        return z, error((torch.zeros_like(z),)) + operator.moves(*totals), torch.zeros_like(z)
    return z, operator.moves(*totals), operator.moves(*recents)


def _errors(affine: Affine, values: tuple[Tensor, ...]) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """e ↦ |A| e + γ (|A| |ẑ| + |β|), rounded up."""
    rule, like = affine.rounding(*values), values[0]
    roundings = rule.forward + len(affine.constants)
    factor, wider = gamma(roundings, like), widening(roundings, like)
    lost = min(roundings, 1 / torch.finfo(like.dtype).eps) * underflow(like)  # beyond 1/ε, `factor` is infinite
    constants = sum((constant.value.abs() for constant in affine.constants), like.new_zeros(()))

    def error(errors: tuple[Tensor, ...]) -> Tensor:
        if not factor:
            return rule.absolute(*errors)
        moved = rule.absolute(*(e + factor * z.abs() for e, z in zip(errors, values, strict=True)))
        return ((moved + factor * constants + lost) * wider).nan_to_num(nan=torch.inf, posinf=torch.inf)

    return error
