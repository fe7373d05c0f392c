"""The ledger: every term that adds up to a score."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from linreg.summary import table
from linreg.target import sum_per_image


@dataclass(frozen=True, eq=False)
class Term:
    """g_k ⊙ β_k of one constant at one node: (N, *shape of the constant), in units of the score."""

    node: str
    name: str
    kind: str
    values: Tensor

    @property
    def total(self) -> Tensor:
        """The constant's share of y, (N,)."""
        return sum_per_image(self.values)


@dataclass(frozen=True, eq=False)
class Ledger:
    """y = c·x + Σ_k terms_k: `weight` c and `x`, both (N, *input_shape), and one term for each constant (Eq. 13)."""

    weight: Tensor
    x: Tensor
    terms: tuple[Term, ...]

    @property
    def input(self) -> Tensor:
        """c ⊙ x: the input's elementwise shares of y (Eq. 5)."""
        return self.weight * self.x

    @property
    def input_share(self) -> Tensor:
        """c·x, (N,)."""
        return sum_per_image(self.input)

    @property
    def bias_share(self) -> Tensor:
        """Σ_k g_k·β_k, (N,)."""
        return sum((term.total for term in self.terms), self.input_share * 0)

    @property
    def total(self) -> Tensor:
        """What the ledger sums to, (N,): y, to rounding."""
        return self.input_share + self.bias_share

    @cached_property
    def magnitude(self) -> Tensor:
        """Σ|terms|, (N,): the scale of the rounding errors in `total`."""
        inputs = sum_per_image(self.input.abs())
        return sum((sum_per_image(term.values.abs()) for term in self.terms), inputs)

    def __sub__(self, other: Ledger) -> Ledger:
        """Term by term, of two ledgers of one graph: those of y⁺ are those of P(σ) less those of u."""
        pairs = zip(self.terms, other.terms, strict=True)
        return Ledger(
            self.weight - other.weight, self.x, tuple(replace(a, values=a.values - b.values) for a, b in pairs)
        )

    def rows(self, image: int = 0) -> list[tuple[str, str, float]]:
        """(term, kind, share of y) of one image, from the input through every constant in the order of the graph."""
        rows = [("c · x", "input", self.input_share[image].item())]
        return rows + [(term.name, term.kind, term.total[image].item()) for term in self.terms]

    def summary(self, image: int = 0) -> str:
        """The ledger of one image as a table, with its total."""
        rows = [*self.rows(image), ("total", "", self.total[image].item())]
        return table(
            [(name, kind, f"{share:+.6g}") for name, kind, share in rows],
            ("term", "kind", "share of y"),
            (2,),
        )
