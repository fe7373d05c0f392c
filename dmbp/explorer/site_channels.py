"""The strongest channels of each site: what of y⁺ and of y⁻ passes them, and which pixels they see.

In P(σ), with h⁺ in front of site l and g⁺ the adjoint behind it, the part of y⁺ that passes channel c of the site is

    Σ_q g⁺ σ h⁺ [c, q],

and its part of the map ∇⁺ ⊙ x is what the adjoint makes of g⁺ at this channel alone, times x. By linearity the maps of
all channels sum to that of the site, and what passes no unit of the site (a shortcut beside it) is the rest of ∇⁺ ⊙ x.
A channel's part less the sum of its map came in from constants in front of the site. So with P(1 − σ), y⁻ and ∇⁻ ⊙ x.

Indices: l site, c channel (the first dimension of a site), q position, n image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmbp.masks import Masked
from dmbp.split import Split
from linreg import Linearization, Node
from linreg.target import cotangent

SIDES = ("positive", "negative")
ALL_SHOWN = 80  # channels of all sites together and one side, about: each is a pass back through what lies before it
SHOWN = 5  # of one site and a side, at most


@dataclass(frozen=True, eq=False)
class Passing:
    """What passes one site in P(σ) or P(1 − σ), (N, *shape): value before the mask, mask, and gradient behind it."""

    site: str
    value: Tensor
    mask: Tensor
    gradient: Tensor

    def channels(self, image: int) -> Tensor:
        """The part of y⁺ or y⁻ that passes each channel, (C,)."""
        return _by_channel((self.gradient * self.mask * self.value)[image]).sum(1)

    def means(self, image: int) -> dict[str, Tensor]:
        """Of each channel, the means over its positions, (C,): of value, mask and gradient."""
        parts = {"value": self.value, "mask": self.mask.expand_as(self.value), "gradient": self.gradient}
        return {name: _by_channel(part[image]).mean(1) for name, part in parts.items()}


@torch.no_grad()
def passing(split: Split, side: str) -> dict[str, Passing]:
    """That of all sites on one side, "positive" or "negative", by one sweep forward and one back."""
    lin = _pass(split, side)
    values: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}

    def forward(node: Node, inputs: tuple[Tensor, ...]) -> Tensor:
        affine = lin.frozen[node.name]
        if node.name not in split.masks:
            return affine(*inputs)
        assert isinstance(affine, Masked)
        values[node.name] = affine.affine(*inputs)
        return affine.mask * values[node.name]

    def back(node: Node, gradient: Tensor) -> tuple[Tensor, ...]:
        if node.name in split.masks:
            gradients[node.name] = gradient
        return lin.frozen[node.name].adjoint(gradient)

    lin.graph.evaluate({"input": lin.input}, forward)
    lin.graph.pull({lin.graph.output: cotangent(split.target, lin.output)}, back)
    masks = {site: mask if side == "positive" else 1 - mask for site, mask in split.masks.items()}
    found = {site: gradients.get(site, torch.zeros_like(value)) for site, value in values.items()}
    return {site: Passing(site, value, masks[site], found[site]) for site, value in values.items()}


def strongest(parts: Tensor, side: str, count: int) -> list[int]:
    """The channels that give most to y⁺, or take most in y⁻, at most `count`: those of the other sign are none."""
    wanted = parts if side == "positive" else -parts
    order = torch.argsort(wanted, descending=True, stable=True)[:count]
    return [channel for channel in order.tolist() if wanted[channel] > 0]


def shown_of(sites: int) -> int:
    """How many channels of each site and side are shown: fewer in a deep network, so that a page takes seconds."""
    return max(1, min(SHOWN, round(ALL_SHOWN / max(sites, 1))))


@torch.no_grad()
def seen(split: Split, side: str, at: Passing, image: int, channel: int | None = None) -> Any:
    """The part of ∇⁺ ⊙ x, or of ∇⁻ ⊙ x, that passes a channel of a site, or all of it; shaped like the input.

    Of several inputs {name: part}. All images of a batch go through the sweep, as each has gates of its own.
    """
    lin = _pass(split, side)
    gradient = torch.zeros_like(at.gradient)
    if channel is None or at.gradient.dim() == 1:
        gradient[image] = at.gradient[image]
    else:
        gradient[image, channel] = at.gradient[image, channel]
    parted = lin.graph.inputs.parted(lin.adjoint(gradient, stop=at.site) * lin.input)
    if isinstance(parted, Mapping):
        return {name: values[image] for name, values in parted.items()}
    return parted[image]


def _pass(split: Split, side: str) -> Linearization:
    return split.passes[SIDES.index(side)]


def _by_channel(values: Tensor) -> Tensor:
    """(C, positions) of a value (C, *positions); a site that is one number is one channel."""
    return values.reshape(values.shape[0], -1) if values.dim() else values.reshape(1, 1)
