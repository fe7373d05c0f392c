"""A network frozen at one input: the affine function y = c·x + Σ β that it is on that linear region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from linreg.certificate import Certificate
from linreg.errors import LinregError
from linreg.ledger import Ledger, Term
from linreg.operators import Affine, Diagonal
from linreg.summary import table
from linreg.target import Target, cotangent, sum_per_image

if TYPE_CHECKING:
    from linreg.graph import Node, OperatorGraph


@dataclass(frozen=True, eq=False)
class Linearization:
    """The graph with every gate frozen at `input` (N, *input_shape): affine operators, one for each node.

    `frozen` maps a node to its operator (Ŵ_l is a convolution followed by the diagonal of its gate), `output` is what
    they give at `input`, (N, *output shape).
    """

    graph: OperatorGraph
    input: Tensor
    frozen: Mapping[str, Affine]
    output: Tensor

    def replace(self, frozen: Mapping[str, Affine]) -> Linearization:
        """The same region with some operators exchanged (by masked ones, say), and the output that they give."""
        frozen = {**self.frozen, **frozen}
        with torch.no_grad():
            output = self.graph.evaluate({"input": self.input}, lambda node, xs: frozen[node.name](*xs))
        return Linearization(self.graph, self.input, frozen, output)

    @torch.no_grad()
    def forward(self, v: Tensor, start: str = "input", stop: str | None = None) -> Tensor:
        """J v, with J = ∂stop/∂start on this region (no constants); `stop` is the output by default.

        v is (N, *shape of start). Raises LinregError for unknown or unconnected nodes and for a wrong shape.
        """
        stop = stop or self.graph.output
        self._check(v, start)
        if start == stop:
            return v
        nodes = self.graph.between(start, stop)
        return self.graph.evaluate(
            {start: v}, lambda node, xs: self.frozen[node.name].linear(*xs), nodes, missing=self._zeros
        )

    @torch.no_grad()
    def adjoint(self, g: Tensor, stop: str | None = None, start: str = "input") -> Tensor:
        """Jᵀ g, with J = ∂stop/∂start on this region: g (N, *shape of stop) pulled back to `start`."""
        stop = stop or self.graph.output
        self._check(g, stop)
        if start == stop:
            return g
        nodes = self.graph.between(start, stop)
        return self.graph.pull({stop: g}, lambda node, g: self.frozen[node.name].adjoint(g), nodes)[start]

    def score(self, target: Target = None) -> Tensor:
        """y of each image, (N,): the output weighted by `target` (w of Eq. 1)."""
        return sum_per_image(self.output * cotangent(target, self.output))

    def weight(self, target: Target = None) -> Tensor:
        """c = wᵀ H_L = ∇ₓ y, shaped like the input (Eqs. 4, 5)."""
        return self.adjoint(cotangent(target, self.output))

    @torch.no_grad()
    def ledger(self, target: Target = None) -> Ledger:
        """Every constant's share of y, g_k ⊙ β_k, and c ⊙ x (Eqs. 13, 14, 18, 19)."""
        terms: list[Term] = []

        def step(node: Node, grad: Tensor) -> tuple[Tensor, ...]:
            affine = self.frozen[node.name]
            terms.extend(
                Term(node.name, constant.name or f"{node.name}.{constant.kind}", constant.kind, share)
                for constant, share in reversed(affine.shares(grad))
            )
            return affine.adjoint(grad)

        seed = cotangent(target, self.output)
        weight = self.graph.pull({self.graph.output: seed}, step)["input"]
        return Ledger(weight, self.input, tuple(reversed(terms)))

    def certificate(self, target: Target = None) -> Certificate:
        """Whether y = c·x + Σ ledger holds at this input, and to what."""
        return Certificate.of(self.score(target), self.ledger(target))

    def open_fraction(self, name: str) -> float | None:
        """The share of a gate's units whose slope is not 0, over all images; None for a node that is no gate."""
        affine = self.frozen[name]
        return affine.slope.ne(0).double().mean().item() if isinstance(affine, Diagonal) else None

    def summary(self) -> str:
        """The graph's table with the share of open gates."""
        rows = []
        for row in self.graph.rows():
            share = self.open_fraction(row[0])
            rows.append((*row[:3], "" if share is None else f"{share:.1%}", row[3]))
        return table(rows, ("node", "operator", "shape", "open", "inputs"), right=(3,))

    def _zeros(self, name: str) -> Tensor:
        return self.input.new_zeros(self.input.shape[0], *self.graph.shape(name))

    def _check(self, value: Tensor, name: str) -> None:
        wanted = (self.input.shape[0], *self.graph.shape(name))
        if tuple(value.shape) != wanted:
            raise LinregError(f"a vector at '{name}' must have shape {wanted}, not {tuple(value.shape)}")
