"""The exact split y = y⁺ + y⁻ + y~ for given masks (Eqs. 6 to 9, 13, 14)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dmbp.account import LINES, Checks, Shares, and_more, as_html, as_sum, as_table, elementwise
from dmbp.account import PARTS as PARTS  # people find the names of the parts here
from dmbp.errors import DmbpError
from dmbp.masks import Masks, check_masks, masked
from linreg import Ledger, Linearization, Node
from linreg.inputs import Inputs
from linreg.target import Target, cotangent, held, sum_per_image

UNMASKED = ("nuisance", "both")
Triple = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Split:
    """y = y⁺ + y⁻ + y~ of each image, with the ledgers of all parts.

    u = P(0) is what no mask touches. With `counting` "nuisance", y⁺ = P(σ) − u and y⁻ = P(1 − σ) − u, so that u lies in
    y~, counted once; with "both" u stays in either pass, Algorithm 1 to the letter. y~ = y − y⁺ − y⁻.

    >>> import dmbp, linreg, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
    >>> lin = linreg.trace(model, torch.ones(1, 2)).linearize(torch.ones(1, 2))
    >>> split = dmbp.decompose(lin, {"1": torch.tensor([[0.8, 0.5]])})
    >>> split
    Split(y = 13.50: y⁺ = 2.800, y⁻ = 0.7000, y~ = 10.00, u = 10.00 (in y~))
    >>> split.attribution("positive"), split.ledger("positive")["0.bias"].total
    (tensor([[0.8000, 1.6000]]), tensor([0.4000]))
    """

    lin: Linearization
    masks: Masks
    target: Target
    counting: str
    passes: tuple[Linearization, Linearization, Linearization]

    def __repr__(self) -> str:
        """The sums of the first two images, a line each."""
        images = range(min(2, len(self.y)))
        lines = ";\n      ".join(as_sum(self, image) for image in images)
        return f"Split({lines}{and_more(self, len(images))})"

    def _repr_html_(self) -> str:
        return as_html(self)

    def summary(self, image: int = 0) -> str:
        """The table of one image: y and its parts, what of each comes from the input and from bias terms; and checks.

        The last lines are its certificate, and how exactly the parts add up. Raises DmbpError where there is no such
        image.
        """
        return as_table(self, image)

    @property
    def input(self) -> Tensor:
        """x, (N, *input shape); several inputs in a row, which `lin.inputs` has by name."""
        return self.lin.input

    @property
    def layout(self) -> Inputs:
        """The inputs that x holds."""
        return self.lin.graph.inputs

    @property
    def fixed(self) -> Mapping[str, Tensor]:
        """What was held fixed, by name."""
        return self.lin.graph.bound

    @property
    def weights(self) -> Tensor:
        """w, (N, *output shape), by which y weighs the output (Eq. 1): what `target` means."""
        return cotangent(self.target, self.lin.output)

    @property
    def output(self) -> Tensor:
        """All scores of the network, (N, *output shape)."""
        return self.lin.output

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

    @property
    def scores(self) -> dict[str, Tensor]:
        """y and its parts by name, each (N,)."""
        return {line: getattr(self, line) for line in LINES}

    @cached_property
    def shares(self) -> dict[str, Shares]:
        """Where y and each of its parts come from: what of the ledgers the table and the picture need."""
        return {line: _shares(self.ledger(line)) for line in LINES}

    @cached_property
    def checks(self) -> Checks:
        """How exactly all of it holds: the certificate of y, and `error`."""
        found = self.lin.certificate(self.target)
        words = tuple(found.summary(image) for image in range(len(self.y)))
        gates = sum(margin.units for margin in found.margins)
        return Checks(found.completeness_error, found.bound, self.error, words, found.doubtful, gates)

    def ledger(self, part: str) -> Ledger:
        """The ledger of "y", "positive", "negative", "nuisance" or "unmasked"; its `weight` is the mapping ∇."""
        _check_line(part)
        if part == "y":
            return self._whole
        if part == "nuisance":
            return self._whole - self._books["positive"] - self._books["negative"]
        return self._books[part]

    def attribution(self, part: str) -> Any:
        """∇ ⊙ x of one part, or of y, shaped like the input (Eq. 7); of several inputs {name: ∇ ⊙ x}."""
        _check_line(part)
        return elementwise(self, part)

    def complete(self, part: str) -> Any:
        """Every term of one part, or of y, at its place on the picture: map + rest = y⁺ (…); see `linreg.complete`.

        A `CompleteMap`, or `CompleteMaps` of several inputs.
        """
        return self.ledger(part).complete()

    @property
    def _aside(self) -> Tensor:
        return self.unmasked if self.counting == "nuisance" else torch.zeros_like(self.unmasked)

    @cached_property
    def _whole(self) -> Ledger:
        return self.lin.ledger(self.target)

    @cached_property
    def _books(self) -> dict[str, Ledger]:
        """The ledgers of the masked passes, by part."""
        plus, minus, unmasked = (part.ledger(self.target) for part in self.passes)
        if self.counting == "nuisance":
            plus, minus = plus - unmasked, minus - unmasked
        return {"positive": plus, "negative": minus, "unmasked": unmasked}


def _check_line(line: str) -> None:
    if line not in LINES:
        raise DmbpError(f"a split has {', '.join(LINES)}, not {line!r}")


def _shares(ledger: Ledger) -> Shares:
    totals = [ledger.input_share, *(term.total for term in ledger.terms)]
    complete = ledger.complete()
    return Shares(
        ledger.weight, ledger.labels, totals[0], torch.stack(totals)[1:], complete.map, tuple(complete.unplaced)
    )


def decompose(lin: Linearization, masks: Masks, target: Target = None, unmasked: str = "nuisance") -> Split:
    """Split the score exactly by given masks, {site: σ in [0, 1], (N, *shape of the site)}.

    `unmasked` says where u = P(0) goes: "nuisance" (counted once, in y~) or "both" (in y⁺ and in y⁻, Algorithm 1 to
    the letter, which leaves −u in y~). Raises DmbpError for masks that do not fit.

    >>> import dmbp, linreg, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
    >>> lin = linreg.trace(model, torch.ones(1, 2)).linearize(torch.ones(1, 2))
    >>> split = dmbp.decompose(lin, {"1": torch.tensor([[0.8, 0.5]])})
    >>> split.positive, split.negative, split.nuisance  # of 13.5: 0.8 · 3.5, 0.2 · 3.5, and the output's bias
    (tensor([2.8000]), tensor([0.7000]), tensor([10.]))
    """
    if unmasked not in UNMASKED:
        raise DmbpError(f"unmasked must be one of {', '.join(map(repr, UNMASKED))}, not {unmasked!r}")
    check_masks(lin, masks)
    cotangent(target, lin.output)
    masks, target = {site: mask.detach().clone() for site, mask in masks.items()}, held(target)
    none = {site: mask.new_zeros(()) for site, mask in masks.items()}
    other = {site: 1 - mask for site, mask in masks.items()}
    return Split(lin, masks, target, unmasked, (masked(lin, masks), masked(lin, other), masked(lin, none)))


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
