"""The exact split y = y⁺ + y⁻ + y~ for given masks (Eqs. 6 to 9, 13, 14)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dmbp.errors import DmbpError
from dmbp.masks import Masks, check_masks, masked
from linreg import Ledger, Linearization, Node
from linreg.complete import CompleteMap
from linreg.target import Target, cotangent, sum_per_image

UNMASKED = ("nuisance", "both")
PARTS = ("positive", "negative", "nuisance", "unmasked")
Triple = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Split:
    """y = y⁺ + y⁻ + y~ of each image, with the ledgers of all parts.

    u = P(0) is what no mask touches. With `counting` "nuisance", y⁺ = P(σ) − u and y⁻ = P(1 − σ) − u, so that u lies in
    y~, counted once; with "both" u stays in either pass, Algorithm 1 to the letter. y~ = y − y⁺ − y⁻.
    """

    lin: Linearization
    masks: Masks
    target: Target
    counting: str
    passes: tuple[Linearization, Linearization, Linearization]

    def __repr__(self) -> str:
        parts = {name: getattr(self, name).tolist() for name in ("y", "positive", "negative", "nuisance", "unmasked")}
        return f"Split({', '.join(f'{name}={values}' for name, values in parts.items())})"

    @cached_property
    def y(self) -> Tensor:
        """The score, (N,)."""
        return self.lin.score(self.target)

    @cached_property
    def unmasked(self) -> Tensor:
        """u = P(0), (N,): the output's bias, and paths that pass no site."""
        return self.passes[2].score(self.target)

    @cached_property
    def positive(self) -> Tensor:
        """y⁺, (N,) (Eq. 9)."""
        return self.passes[0].score(self.target) - self._aside

    @cached_property
    def negative(self) -> Tensor:
        """y⁻, (N,) (Eq. 9)."""
        return self.passes[1].score(self.target) - self._aside

    @cached_property
    def nuisance(self) -> Tensor:
        """y~ = y − y⁺ − y⁻, (N,) (Algorithm 1, line 8)."""
        return self.y - self.positive - self.negative

    @cached_property
    def error(self) -> Tensor:
        """|y⁺ + y⁻ + y~ − y|, (N,), with y~ not from the difference but from its own recurrence."""
        mixed = sum_per_image(recurrence(self.lin, self.masks)[2] * cotangent(self.target, self.lin.output))
        # The recurrence's y⁺ and y⁻ each hold u: what is set aside of them lies in y~.
        return (self.positive + self.negative + mixed + 2 * self._aside - self.y).abs()

    def ledger(self, part: str) -> Ledger:
        """The ledger of "positive", "negative", "nuisance" or "unmasked"; its `weight` is that part's mapping ∇."""
        if part not in PARTS:
            raise DmbpError(f"a split has the parts {', '.join(PARTS)}, not {part!r}")
        return self._ledgers[part]

    def attribution(self, part: str) -> Tensor:
        """∇ ⊙ x of one part, shaped like the input (Eq. 7)."""
        return self.ledger(part).input

    def complete(self, part: str) -> CompleteMap:
        """Every term of one part at its place on the picture: map + rest = y⁺ (y⁻, y~, u); see `linreg.complete`."""
        return self.ledger(part).complete()

    @property
    def _aside(self) -> Tensor:
        return self.unmasked if self.counting == "nuisance" else torch.zeros_like(self.unmasked)

    @cached_property
    def _ledgers(self) -> dict[str, Ledger]:
        whole = self.lin.ledger(self.target)
        plus, minus, unmasked = (part.ledger(self.target) for part in self.passes)
        if self.counting == "nuisance":
            plus, minus = plus - unmasked, minus - unmasked
        return {"positive": plus, "negative": minus, "nuisance": whole - plus - minus, "unmasked": unmasked}


def decompose(lin: Linearization, masks: Masks, target: Target = None, unmasked: str = "nuisance") -> Split:
    """Split the score exactly by given masks, {site: σ in [0, 1], (N, *shape of the site)}.

    `unmasked` says where u = P(0) goes: "nuisance" (counted once, in y~) or "both" (in y⁺ and in y⁻, Algorithm 1 to
    the letter, which leaves −u in y~). Raises DmbpError for masks that do not fit.
    """
    if unmasked not in UNMASKED:
        raise DmbpError(f"unmasked must be one of {', '.join(map(repr, UNMASKED))}, not {unmasked!r}")
    check_masks(lin, masks)
    cotangent(target, lin.output)
    none = {site: mask.new_zeros(()) for site, mask in masks.items()}
    other = {site: 1 - mask for site, mask in masks.items()}
    return Split(lin, dict(masks), target, unmasked, (masked(lin, masks), masked(lin, other), masked(lin, none)))


@torch.no_grad()
def recurrence(lin: Linearization, masks: Masks) -> Triple:
    """(h⁺, h⁻, h~) of the output, three states carried forward at once; h⁺ + h⁻ + h~ is the output.

    They start as (x, x, −x). A linear A maps all three, a constant β adds (β, β, −β), and a site with mask σ, where
    A z + β arrives as (v⁺, v⁻, v~), makes (σ v⁺, (1 − σ) v⁻, σ (v⁻ + v~) + (1 − σ) (v⁺ + v~)) of it: y~ computed, not
    subtracted. (β adds 0 to v⁻ + v~ and to v⁺ + v~.)
    """

    def step(node: Node, inputs: tuple[Triple, ...]) -> Triple:
        affine = lin.frozen[node.name]
        plus, minus, mixed = (affine.linear(*states) for states in zip(*inputs, strict=True))
        for constant in affine.constants:
            plus, minus, mixed = plus + constant.value, minus + constant.value, mixed - constant.value
        if node.name not in masks:
            return plus, minus, mixed
        sigma = masks[node.name]
        return sigma * plus, (1 - sigma) * minus, sigma * (minus + mixed) + (1 - sigma) * (plus + mixed)

    x = lin.input
    return lin.graph.evaluate({"input": (x, x, -x)}, step)
