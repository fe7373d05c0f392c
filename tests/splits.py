"""What tests of the split share: masks at random, and the parts of a score by recurrences, none of them a difference.

`dmbp.Split` has y~ = y − y⁺ − y⁻, of which the sum y⁺ + y⁻ + y~ = y proves nothing. Here y~ is carried forward beside
y⁺ and y⁻, and never sees y.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

import dmbp
import linreg
from linreg.target import Target, cotangent, sum_per_image

Masks = dict[str, Tensor]
States = tuple[Tensor, Tensor, Tensor]


def random_masks(lin: linreg.Linearization, sites: dmbp.masks.Sites = "gates", seed: int = 0) -> Masks:
    """Uniform in [0, 1], with exact zeros and ones among them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(site: str) -> Tensor:
        shape = (len(lin.input), *lin.graph.shape(site))
        return (1.4 * torch.rand(shape, generator=generator, dtype=lin.graph.dtype) - 0.2).clamp(0, 1)

    return {site: draw(site) for site in dmbp.find_sites(lin.graph, sites)}


def uniform_masks(lin: linreg.Linearization, value: float, sites: dmbp.masks.Sites = "gates") -> Masks:
    return {site: torch.full_like(mask, value) for site, mask in random_masks(lin, sites).items()}


def complement(masks: Mapping[str, Tensor]) -> Masks:
    return {site: 1 - mask for site, mask in masks.items()}


@dataclass(frozen=True)
class Parts:
    """y⁺, y⁻, y~ and u of each image, (N,)."""

    positive: Tensor
    negative: Tensor
    nuisance: Tensor
    unmasked: Tensor

    @property
    def total(self) -> Tensor:
        """y⁺ + y⁻ + y~, which y must be."""
        return self.positive + self.negative + self.nuisance


def recurred(
    lin: linreg.Linearization, masks: Mapping[str, Tensor], target: Target = None, counting: str = "nuisance"
) -> Parts:
    """The parts by `dmbp.recurrence`; u is what it makes of masks of zeros."""
    seed = cotangent(target, lin.output)
    nothing = {site: torch.zeros_like(mask) for site, mask in masks.items()}
    plus, minus, mixed = (sum_per_image(state * seed) for state in dmbp.recurrence(lin, masks))
    unmasked = sum_per_image(dmbp.recurrence(lin, nothing)[0] * seed)
    if counting == "nuisance":  # P(σ) and P(1 − σ) each hold u: taken off both, it lies in y~
        return Parts(plus - unmasked, minus - unmasked, mixed + 2 * unmasked, unmasked)
    return Parts(plus, minus, mixed, unmasked)


# ---- the shares of every constant, literally ----


@dataclass(frozen=True)
class Shares:
    """Of one part of the score: its gradient by x, and β ∂/∂β of the k-th constant of each node, summed, (N,)."""

    weight: Tensor
    constants: dict[tuple[str, int], Tensor]


def literal_shares(
    lin: linreg.Linearization, masks: Mapping[str, Tensor], target: Target = None, counting: str = "nuisance"
) -> dict[str, Shares]:
    """The ledger of each part by plain autograd: the parts are linear in x and in all constants.

    h⁺, h⁻, h~ start as x, x, −x. A linear A maps all three, and its constants β add β, β, −β; at a site with mask σ,
    h⁺ = σ (A z⁺ + β), h⁻ = (1 − σ)(A z⁻ + β), h~ = σ A (z⁻ + z~) + (1 − σ) A (z⁺ + z~).
    """
    x = lin.input.clone().requires_grad_()
    betas = {
        (node.name, k): constant.value.broadcast_to(len(x), *node.shape).clone().requires_grad_()
        for node in lin.graph.nodes
        for k, constant in enumerate(lin.frozen[node.name].constants)
    }

    def scores(masks: Mapping[str, Tensor]) -> States:
        def step(node: linreg.Node, inputs: tuple[States, ...]) -> States:
            linear = lin.frozen[node.name].linear
            beta = sum((b for (name, _), b in betas.items() if name == node.name), x.new_zeros(()))
            plus, minus, mixed = zip(*inputs, strict=True)
            if node.name not in masks:
                return linear(*plus) + beta, linear(*minus) + beta, linear(*mixed) - beta
            sigma = masks[node.name]
            met_minus = linear(*(a + b for a, b in zip(minus, mixed, strict=True)))
            met_plus = linear(*(a + b for a, b in zip(plus, mixed, strict=True)))
            return (
                sigma * (linear(*plus) + beta),
                (1 - sigma) * (linear(*minus) + beta),
                sigma * met_minus + (1 - sigma) * met_plus,
            )

        seed = cotangent(target, lin.output)
        states = lin.graph.evaluate({"input": (x, x, -x)}, step)
        plus, minus, mixed = (sum_per_image(state * seed) for state in states)
        return plus, minus, mixed

    plus, minus, mixed = scores(masks)
    unmasked, _, _ = scores({site: torch.zeros_like(mask) for site, mask in masks.items()})
    aside = unmasked if counting == "nuisance" else torch.zeros_like(unmasked)
    parts = {"positive": plus - aside, "negative": minus - aside, "nuisance": mixed + 2 * aside, "unmasked": unmasked}
    return {part: _shares(score, x, betas) for part, score in parts.items()}


def _shares(score: Tensor, x: Tensor, betas: dict[tuple[str, int], Tensor]) -> Shares:
    leaves = [x, *betas.values()]
    weight, *grads = torch.autograd.grad(
        score.sum(), leaves, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    found = {place: sum_per_image(g * b.detach()) for (place, b), g in zip(betas.items(), grads, strict=True)}
    return Shares(weight, found)
