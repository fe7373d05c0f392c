"""Paths: a score as a sum over all paths through the graph, grouped by how many gates or blocks they pass.

A path runs along the edges of the operator graph, from the input or from a constant to the output; its share of the
score is wᵀ A_K … A_1 x, or with a constant β in the place of x. Paths are exponentially many, but what they have in
common is computed once: one sweep back, with one gradient for each degree, gives the sum of every group exactly.

The degree of a path is the number of gates, of residual blocks (Veit et al., 2016) or of given nodes that it passes. A
node's constants pass the node: a gate's offset t counts its gate, as a mask multiplies s ⊙ z and t alike (Eq. 8). So
Σ_d λ^d y_d is the score where each gate or block lets through λ times its output, and y_0 is what none touches.

Index: d degree, n image, k input of a node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import log10
from typing import NamedTuple

import networkx as nx
import torch
from torch import Tensor

from linreg.errors import LinregError
from linreg.graph import INPUT, Node, OperatorGraph
from linreg.linearization import Linearization
from linreg.operators import Role
from linreg.target import Target, check_image, cotangent, sum_per_image
from linreg.text import numbers, signed, table

Grade = str | Sequence[str]


@dataclass(frozen=True, eq=False)
class PathSpectrum:
    """y = Σ_d y_d: `input` and `bias` (D, N) are the shares of the paths from the input and from constants.

    `degrees` has D entries, those that occur. `weight` (D, N, *input_shape) are the parts c_d of c = wᵀ H_L that the
    paths of each degree make up. `counts` and `constant_counts` tell how many paths of the graph there are.
    """

    grade: str
    degrees: tuple[int, ...]
    weight: Tensor
    input: Tensor
    bias: Tensor
    counts: tuple[int, ...]
    constant_counts: tuple[int, ...]

    def __repr__(self) -> str:
        degrees = f"degrees {self.degrees[0]} to {self.degrees[-1]}" if self.degrees else "no degree"
        paths = f"{_count(sum(self.counts))} paths from the input, {_count(sum(self.constant_counts))} from constants"
        return f"PathSpectrum({self.grade!r}, {degrees}; {paths};\n             y = {numbers(self.total.tolist())})"

    @property
    def value(self) -> Tensor:
        """y_d, (D, N)."""
        return self.input + self.bias

    @property
    def total(self) -> Tensor:
        """Σ_d y_d, (N,): y, to rounding."""
        return self.value.sum(0)

    def at(self, strength: float) -> Tensor:
        """Σ_d λ^d y_d, (N,): the score where every gate (or block, or node) lets through λ = `strength` of its output.

        The gates stay frozen: 1 gives y, 0 what passes none of them.
        """
        powers = self.value.new_tensor([strength**degree for degree in self.degrees])
        return (powers[:, None] * self.value).sum(0)

    def __sub__(self, other: PathSpectrum) -> PathSpectrum:
        """Degree by degree, of two spectra of one graph: that of y⁺ is that of P(σ) less that of u."""
        weight, inputs, bias = self.weight - other.weight, self.input - other.input, self.bias - other.bias
        return replace(self, weight=weight, input=inputs, bias=bias)

    def rows(self, image: int = 0) -> list[tuple[int, int, int, float, float, float]]:
        """(degree, paths from the input, from constants, their shares of y, y_d) of one image.

        Raises LinregError where the batch has no such image.
        """
        check_image(image, self.input.shape[1])
        shares = zip(self.input[:, image].tolist(), self.bias[:, image].tolist(), strict=True)
        counted = zip(self.degrees, self.counts, self.constant_counts, shares, strict=True)
        return [(d, paths, starts, x, b, x + b) for d, paths, starts, (x, b) in counted]

    def summary(self, image: int = 0) -> str:
        """The spectrum of one image as a table, with its total."""
        rows = [
            (str(d), f"{paths:,}", f"{starts:,}", *map(signed, shares))
            for d, paths, starts, *shares in self.rows(image)
        ]
        sums = (signed(v[:, image].sum().item()) for v in (self.input, self.bias, self.value))
        rows.append(("total", f"{sum(self.counts):,}", f"{sum(self.constant_counts):,}", *sums))
        header = (self.grade, "paths", "from constants", "input share", "bias share", "value")
        return table(rows, header, range(6))


def _count(paths: int) -> str:
    """A number of paths, which may exceed every float: all of its digits, or how many there are."""
    return f"{paths:,}" if paths < 10**9 else f"10^{log10(paths):.1f}"


class Bundle(NamedTuple):
    """Some of the ways from a node to the output: the gradient that they make up, and how many they are."""

    grad: Tensor
    ways: int


Graded = dict[int, Bundle]


@torch.no_grad()
def path_spectrum(lin: Linearization, target: Target = None, grade: Grade = "gates") -> PathSpectrum:
    """y_d = Σ of the shares of all paths of degree d, exactly and without enumeration.

    `grade` is "gates" (every elementwise gate), "blocks" (see `residual_blocks`) or names of nodes. It costs one
    backward pass for each degree that meets at a node: polynomial in the depth. Raises LinregError for another grade,
    an unknown node, and a target that does not fit.
    """
    marked = _marked(lin.graph, grade)
    bias: dict[int, Tensor] = {}
    starts: dict[int, int] = defaultdict(int)

    def step(node: Node, grads: Graded) -> tuple[Graded, ...]:
        affine, pulled = lin.frozen[node.name], {}
        for d, (grad, ways) in _raised(grads, node.name in marked.nodes).items():
            for _, share in affine.shares(grad):
                bias[d] = bias.get(d, 0) + sum_per_image(share)
                starts[d] += ways
            pulled[d] = [Bundle(g, ways) for g in affine.adjoint(grad)]
        parts = ({d: bundles[k] for d, bundles in pulled.items()} for k in range(len(node.inputs)))
        return tuple(_raised(part, (node.name, k) in marked.edges) for k, part in enumerate(parts))

    seed = {lin.graph.output: {0: Bundle(cotangent(target, lin.output), 1)}}
    arrived = lin.graph.pull(seed, step, add=_merged)[INPUT]
    return _spectrum(lin, grade if isinstance(grade, str) else "nodes", arrived, bias, starts)


def _spectrum(
    lin: Linearization, grade: str, arrived: Graded, bias: dict[int, Tensor], starts: dict[int, int]
) -> PathSpectrum:
    degrees = tuple(sorted({*arrived, *bias}))
    nothing = Bundle(torch.zeros_like(lin.input), 0)
    bundles = [arrived.get(d, nothing) for d in degrees]
    weight = torch.stack([bundle.grad for bundle in bundles])
    inputs = torch.stack([sum_per_image(c * lin.input) for c in weight])
    biases = torch.stack([bias.get(d, torch.zeros_like(inputs[0])) for d in degrees])
    counts, constant_counts = tuple(b.ways for b in bundles), tuple(starts.get(d, 0) for d in degrees)
    return PathSpectrum(grade, degrees, weight, inputs, biases, counts, constant_counts)


def _raised(grads: Graded, by: int) -> Graded:
    return {d + by: bundle for d, bundle in grads.items()} if by else grads


def _merged(a: Graded, b: Graded) -> Graded:
    both = {d: Bundle(a[d].grad + b[d].grad, a[d].ways + b[d].ways) for d in a.keys() & b.keys()}
    return {**a, **b, **both}


@torch.no_grad()
def node_share(lin: Linearization, target: Target = None, grade: Grade = "gates") -> dict[str, Tensor]:
    """g · h at each gate, block or node: the sum over all paths that pass it, (N,), constants' paths included.

    A block goes by the name of its last node, whose value enters the sum. As a path of degree d passes d of them, all
    shares together are Σ_d d y_d (Euler's identity). Holds the values of these nodes at a time; raises as
    `path_spectrum`.
    """
    graph, marked = lin.graph, _marked(lin.graph, grade)
    wanted = marked.nodes | {graph[name].inputs[k] for name, k in marked.edges}
    values: dict[str, Tensor] = {}
    shares: dict[str, Tensor] = {}

    def forward(node: Node, inputs: tuple[Tensor, ...]) -> Tensor:
        value = lin.frozen[node.name](*inputs)
        if node.name in wanted:
            values[node.name] = value
        return value

    def collect(name: str, grad: Tensor) -> None:
        shares[name] = shares.get(name, 0) + sum_per_image(grad * values[name])

    def backward(node: Node, grad: Tensor) -> tuple[Tensor, ...]:
        if node.name in marked.nodes:
            collect(node.name, grad)
        pulled = lin.frozen[node.name].adjoint(grad)
        for k, name in enumerate(node.inputs):
            if (node.name, k) in marked.edges:
                collect(name, pulled[k])
        return pulled

    graph.evaluate({INPUT: lin.input}, forward)
    graph.pull({graph.output: cotangent(target, lin.output)}, backward)
    return {node.name: shares[node.name] for node in graph.nodes if node.name in shares}


# ---- what raises the degree ----


def residual_blocks(graph: OperatorGraph) -> dict[str, tuple[int, ...]]:
    """The joins that close residual blocks, each with the numbers k of those of its inputs that are blocks.

    A join is a node of two or more inputs, a sum or a concatenation. Let a be the last node that all paths to it share
    (its immediate dominator). The weight of an input is that of the lightest way to it from a: how many gates, and
    among equals how many convolutions, linear layers and matrix products. If the lightest input passes no gate, it is
    the skip, and each heavier one is a block. So a projection skips beside a gated branch, dense layers are blocks of
    DenseNet's concatenations, and Inception's parallel branches, all gated, are not.
    """
    joins = [node for node in graph.nodes if len(node.inputs) > 1]
    dominators = nx.immediate_dominators(graph.to_networkx(), INPUT) if joins else {}
    blocks: dict[str, tuple[int, ...]] = {}
    for join in joins:
        ways = _lightest_ways(graph, dominators[join.name])
        weights = [ways[name] for name in join.inputs]
        skip = min(weights)
        heavier = tuple(k for k, weight in enumerate(weights) if weight > skip)
        if heavier and skip[0] == 0:
            blocks[join.name] = heavier
    return blocks


def _lightest_ways(graph: OperatorGraph, start: str) -> dict[str, tuple[int, int]]:
    """(gates, weighted operators) on the lightest way from `start` to each node after it, that node included."""
    ways = {start: (0, 0)}
    for node in graph.nodes:
        before = [ways[name] for name in node.inputs if name in ways]
        if before:
            gates, weighted = min(before)
            ways[node.name] = (gates + node.is_gate, weighted + (node.operator.role is Role.WEIGHTS))
    return ways


class Marked(NamedTuple):
    """Where the degree rises: on leaving a node (its constants included), or on entering a node by its k-th input."""

    nodes: frozenset[str] = frozenset()
    edges: frozenset[tuple[str, int]] = frozenset()


def _marked_gates(graph: OperatorGraph) -> Marked:
    return Marked(nodes=frozenset(node.name for node in graph.nodes if node.is_gate))


def _marked_blocks(graph: OperatorGraph) -> Marked:
    return Marked(edges=frozenset((name, k) for name, numbers in residual_blocks(graph).items() for k in numbers))


GRADES: dict[str, Callable[[OperatorGraph], Marked]] = {"gates": _marked_gates, "blocks": _marked_blocks}


def _marked(graph: OperatorGraph, grade: Grade) -> Marked:
    if not isinstance(grade, str):
        return Marked(nodes=frozenset(graph[name].name for name in grade))
    if grade not in GRADES:
        raise LinregError(f"grade must be one of {', '.join(map(repr, GRADES))} or names of nodes, not {grade!r}")
    return GRADES[grade](graph)
