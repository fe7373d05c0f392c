"""How far Integrated Gradients in m steps are from the exact ones: an answer for each rule and each m.

A rule takes gradients at m places t_i and weighs them: (b − a) ⊙ Σ_i w_i ∇y(t_i). The exact value is a sum over pieces,
`Segment.integrated_gradients`. Two errors are told. The *gap*, by which the sum over the input misses y(b) − y(a), is
what users see as a "convergence delta". The *distance* of the maps, ‖IG_m − IG‖₁ / ‖IG‖₁, they do not see, and it is
not small because the gap is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from linreg.errors import LinregError
from linreg.numerals import whole_number
from linreg.regions.segments import Segment
from linreg.target import Target, cotangent

Nodes = tuple[Tensor, Tensor]  # places and weights, (m,) each, float64


@dataclass(frozen=True, eq=False)
class RuleErrors:
    """For each number of `steps` of a `rule` the `gap`, Σ IG_m − (y(b) − y(a)), and the `distance` of the maps."""

    rule: str
    steps: tuple[int, ...]
    gap: Tensor
    distance: Tensor


def rule_errors(
    segment: Segment, target: Target = None, steps: Sequence[int] = (5, 10, 20, 50, 100, 200), rule: str = "trapezoid"
) -> RuleErrors:
    """The errors of a rule in m steps for each of several m, against the exact Integrated Gradients on a line.

    The rules have m places each, as in Captum: "left", "right", "middle", "trapezoid" and "gauss" (Gauss–Legendre).
    Raises LinregError for another, for fewer than two steps, and for a line that was broken off.
    """
    if rule not in RULES:
        raise LinregError(f"rule must be one of {', '.join(map(repr, RULES))}, not {rule!r}")
    if not isinstance(steps, Sequence) or not steps or any((whole_number(m) or 0) < 2 for m in steps):
        raise LinregError(f"steps is a list of numbers of steps, two or more each, not {steps!r}")
    if not segment.complete:
        raise LinregError(f"this line was broken off at t = {segment.t[-1]:g}: what is integrated must be whole")
    starts, ends = segment.scores(target)
    change = float(ends[-1] - starts[0])
    exact, gaps, distances = _flat(segment, segment.integrated_gradients(target)), [], []
    for m in steps:
        approximate = _in_steps(segment, target, RULES[rule](m))
        gaps.append(float(approximate.sum()) - change)
        norm = float(exact.abs().sum())
        distances.append(float((approximate - exact).abs().sum()) / norm if norm else 0.0)
    return RuleErrors(rule, tuple(steps), *(torch.tensor(each, dtype=torch.float64) for each in (gaps, distances)))


def gaps(segment: Segment, target: Target, steps: Sequence[int], rule: str) -> Tensor:
    """The gaps alone, (len(steps),), from the slopes of y along the line: without a pass of the network."""
    slopes, (starts, ends) = segment.slopes(target).double().cpu(), segment.scores(target)
    found = []
    for m in steps:
        places, weights = _stretched(segment, RULES[rule](m))
        found.append(float((weights * slopes[segment.piece(places)]).sum() - (ends[-1] - starts[0])))
    return torch.tensor(found, dtype=torch.float64)


def _in_steps(segment: Segment, target: Target, nodes: Nodes) -> Tensor:
    places, weights = _stretched(segment, nodes)
    total, score = torch.zeros_like(segment.a, dtype=torch.float64), cotangent(target, segment.starts[:1])
    for t, w in zip(places.split(64), weights.split(64), strict=True):
        lin = segment.graph.linearize(segment.points(t))
        gradient = lin.adjoint(score.expand_as(lin.output)).double()
        total += torch.tensordot(w.to(gradient.device), gradient, 1)
    return (total * (segment.b - segment.a).double()).flatten()


def _stretched(segment: Segment, nodes: Nodes) -> Nodes:
    """The places of a rule for 0 to 1 on the stretch of the line that was done."""
    begin, length = segment.t[0], segment.t[-1] - segment.t[0]
    return (begin + length * nodes[0]).clamp(segment.t[0], segment.t[-1]), nodes[1] * length


def _flat(segment: Segment, shares: Tensor | dict[str, Tensor]) -> Tensor:
    """Shares of the input as one row."""
    return (shares if isinstance(shares, Tensor) else segment.graph.inputs.row(shares)).double().flatten()


def _riemann(shift: float) -> Callable[[int], Nodes]:
    def nodes(m: int) -> Nodes:
        return (torch.arange(m, dtype=torch.float64) + shift) / m, torch.full((m,), 1 / m, dtype=torch.float64)

    return nodes


def _trapezoid(m: int) -> Nodes:
    weights = torch.full((m,), 1 / (m - 1), dtype=torch.float64)
    weights[[0, -1]] /= 2
    return torch.linspace(0, 1, m, dtype=torch.float64), weights


def _gauss(m: int) -> Nodes:
    places, weights = np.polynomial.legendre.leggauss(m)
    return torch.from_numpy((1 + places) / 2), torch.from_numpy(weights / 2)


RULES: dict[str, Callable[[int], Nodes]] = {
    "left": _riemann(0.0),
    "right": _riemann(1.0),
    "middle": _riemann(0.5),
    "trapezoid": _trapezoid,
    "gauss": _gauss,
}
