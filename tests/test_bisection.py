"""The pieces of a line against bisection, which knows forward passes and nothing else.

All inputs of one pattern are a convex set. So where the two ends of a stretch have the same pattern, the whole stretch
has it, and nothing is missed; where they differ, the stretch is halved. What decides by the order of several numbers,
and by logic, may choose the same in two cells and something else between them: for its sake the line is begun in many
parts, and what bisection does not find is looked at on both sides.
"""

from __future__ import annotations

import os

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_networks import KINDS, Network, networks
from torch import Tensor

import linreg
from linreg.regions import Segment, disagreements, segment

EXAMPLES = int(os.environ.get("LINREG_EXAMPLES", 12))  # 200 were tried by hand
PARTS = 32  # of the line, at first
FINEST = 2.0**-38  # of the line: a stretch that is no longer is a place
NEAR = 2.0**-34  # within which two such places are one

# Gates, choices, pools, sums of two values, concatenations: each must be in one network or more.
WANTED = {
    "relu", "relu of a method", "relu of a module", "relu, written over", "relu, written over after a copy", "abs",
    "clamp at zero", "relu6", "leaky relu", "prelu", "prelu, by its kernel's name", "hardtanh", "clamp",
    "clamp to one bound", "clamp to tensors", "threshold", "shrink", "randomised relu", "maximum", "minimum",
    "larger of two multiples", "where, of two data", "where, of itself", "where, of multiples",
    "maximum with a constant", "minimum with a constant", "max pool", "max pool with indices", "adaptive max pool",
    "maximum over dimensions", "minimum over dimensions", "largest", "smallest", "median", "k-th value", "top k",
    "sort", "smallest and largest", "average pool", "adaptive average pool", "add", "sum", "sum, written over",
    "difference", "concatenate", "stack", "write into a slice",
}  # fmt: skip


def bisected(graph: linreg.OperatorGraph, a: Tensor, b: Tensor) -> Tensor:
    """Where the pattern changes on the way from a to b: places in order, told apart as far as `FINEST`."""

    def differ(low: Tensor, high: Tensor) -> Tensor:
        ends = [graph.linearize(torch.lerp(a, b, t.view(-1, *[1] * (a.dim() - 1)))) for t in (low, high)]
        return sum(disagreements(*ends).values(), torch.zeros(len(low), dtype=torch.long)) > 0

    t = torch.linspace(0, 1, PARTS + 1, dtype=torch.float64)
    low, high = t[:-1], t[1:]
    while True:
        changed = differ(low, high)
        low, high = low[changed], high[changed]
        if not len(low) or high[0] - low[0] <= FINEST:
            return (low.sort().values + high.sort().values) / 2
        middle = (low + high) / 2
        low, high = torch.cat([low, middle]), torch.cat([middle, high])


def apart(places: Tensor) -> Tensor:
    """The first of all that are within `NEAR` of the one before."""
    first = torch.ones_like(places, dtype=torch.bool)
    first[1:] = places.diff() > NEAR
    return places[first]


def turns(line: Segment, places: Tensor) -> Tensor:
    """Whether the pattern is another one just behind each place than just before it."""
    near = [line.graph.linearize(line.points((places + side).clamp(0, 1))) for side in (-NEAR / 4, NEAR / 4)]
    return sum(disagreements(*near).values(), torch.zeros(len(places), dtype=torch.long)) > 0


def missing(places: Tensor, among: Tensor) -> Tensor:
    """Those of the places that have none of the others near them."""
    if not len(among):
        return places
    return places[(places[:, None] - among).abs().amin(1) > NEAR]


def compare(network: Network) -> tuple[int, int]:
    """How many breakpoints there are, and how many of them bisection did not find."""
    graph = linreg.trace(network.model(), network.input(network.images))
    if graph.batch is not None:
        return 0, 0
    a, b = (2 * network.input(2)).split(1)
    line = segment(graph, a, b, progress=False)
    told, found = apart(line.t[1:-1]), apart(bisected(graph, a, b))
    assert not len(missing(found, told)), f"missed by segment: {missing(found, told).tolist()}, of {network}"
    more = missing(told, found)
    more = more[(more > NEAR) & (more < 1 - NEAR)]
    assert not len(more) or turns(line, more).all(), f"nothing turns at {more.tolist()}, of {network}"
    return len(told), len(told) - len(found)


def compared(wanted: set[str], examples: int) -> list[tuple[Network, int, int]]:
    """So many networks, each with one of these kinds above others."""
    found = []

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.sampled_from(sorted(wanted)).flatmap(lambda name: networks(frozenset({name}), most=9)))
    def each(network: Network) -> None:
        found.append((network, *compare(network)))

    each()
    return found


def test_bisection_finds_no_missed_piece() -> None:
    """On random networks; if they are 200 and more, with every gate and selection in turn."""
    assert set(WANTED) <= set(KINDS)
    if EXAMPLES < 200:
        found = compared(WANTED, EXAMPLES)
    else:
        found = [each for name in sorted(WANTED) for each in compared({name}, -(-EXAMPLES // len(WANTED)))]
    pieces, more = sum(count for _, count, _ in found), sum(count for _, _, count in found)
    print(f"{len(found)} networks, {pieces} breakpoints; {more} that bisection did not find turn too")
    seen = {step.kind for network, *_ in found for step in network.steps}
    assert pieces > 5 * len(found)
    assert EXAMPLES < 200 or seen >= WANTED, WANTED - seen
