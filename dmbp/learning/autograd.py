"""The custom autograd Function of the method: both masked passes, differentiable by the logits of the masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dmbp.learning.kernels import accumulate
from dmbp.learning.passes import MaskedNetwork, Pair, passes


class MaskedPasses(torch.autograd.Function):
    """θ ↦ (P(σ), P(1 − σ)), each (N,). A true derivative of first order, in closed form.

    The values behind the masks are returned too, undifferentiated, only so that the backward pass may keep them.
    """

    @staticmethod
    def forward(network: MaskedNetwork, *logits: Tensor) -> tuple[Tensor, ...]:
        theta = [logit.detach() for logit in logits]
        (plus, minus), kept = network.forward(dict(zip(network.sites, theta, strict=True)))
        return plus, minus, *(kept[site] for site in network.sites)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        network, *logits = inputs
        ctx.network = network
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*logits, *output[2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        network: MaskedNetwork = ctx.network
        logits, kept = ctx.saved_tensors[: len(network.sites)], ctx.saved_tensors[len(network.sites) :]
        values = dict(zip(network.sites, zip(logits, kept, strict=True), strict=True))
        grads = {site: network.sites[site].place(theta).zero_() for site, (theta, _) in values.items()}
        zero = network.seed.new_zeros(len(network.seed))
        plus, minus = (zero if c is None else c for c in cotangents[:2])
        for side, cotangent in passes(plus, minus):

            def visit(site: str, grad: Tensor, side: Tensor = side) -> None:
                theta, value = values[site]
                network.at(site, accumulate, side, grad, value, (theta, grads[site]))

            network.backward(cotangent, visit)
        return None, *(grads[site] for site in network.sites)


def both_passes(network: MaskedNetwork, logits: Mapping[str, Tensor]) -> Pair:
    """P(σ) and P(1 − σ) of each image, differentiable with respect to the logits."""
    plus, minus, *_ = MaskedPasses.apply(network, *(logits[site] for site in network.sites))
    return plus, minus
