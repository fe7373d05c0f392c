"""The custom autograd Function of the method: both masked passes, with the gradient of the masks in closed form.

Indices: l site, n image. σ_l = sigmoid(θ_l); v_l is the value of site l before its mask, g_l the adjoint that arrives
there. Then ∂P/∂σ_l = g_l ⊙ v_l: one backward sweep of first order, where Algorithm 1 differentiates a backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from linreg import Linearization, Node
from linreg.operators import Affine
from linreg.target import sum_per_image

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class MaskedNetwork:
    """The part of a linear region that masks can change: the sites and all nodes after them.

    `border` holds the values that enter it, the same for every mask; `seed` is w, so that P = Σ w ⊙ output.
    """

    frozen: Mapping[str, Affine]
    sites: tuple[str, ...]
    nodes: tuple[Node, ...]
    border: Mapping[str, Tensor]
    seed: Tensor
    lin: Linearization

    @classmethod
    @torch.no_grad()
    def of(cls, lin: Linearization, sites: Sequence[str], seed: Tensor) -> MaskedNetwork:
        after = set(sites)
        for node in lin.graph.nodes:
            if after.intersection(node.inputs):
                after.add(node.name)
        nodes = tuple(node for node in lin.graph.nodes if node.name in after)
        entering = {name for node in nodes for name in node.inputs} - after
        border = {"input": lin.input} if "input" in entering else {}

        def step(node: Node, inputs: tuple[Tensor, ...]) -> Tensor:
            value = lin.frozen[node.name](*inputs)
            if node.name in entering:
                border[node.name] = value
            return value

        before = [node for node in lin.graph.nodes if node.name not in after]
        if before:
            lin.graph.evaluate({"input": lin.input}, step, before)
        return cls(lin.frozen, tuple(sites), nodes, border, seed, lin)

    def forward(self, logits: Mapping[str, Tensor]) -> tuple[Pair, dict[str, Pair]]:
        """(P(σ), P(1 − σ)), each (N,), and the values before the masks, both passes side by side."""
        values: dict[str, Pair] = {}

        def step(node: Node, inputs: tuple[Pair, ...]) -> Pair:
            affine = self.frozen[node.name]
            plus, minus = affine(*(i[0] for i in inputs)), affine(*(i[1] for i in inputs))
            if node.name not in logits:
                return plus, minus
            values[node.name] = plus, minus
            sigma = logits[node.name].sigmoid()
            # (1 − σ) v takes the place of σ: on a CPU, fresh memory costs more than the arithmetic.
            return plus * sigma, torch.addcmul(minus, minus, sigma, value=-1, out=sigma)

        border = {name: (value, value) for name, value in self.border.items()}
        plus, minus = self.lin.graph.evaluate(border, step, self.nodes)
        return (self._score(plus), self._score(minus)), values

    def backward(
        self, cotangent: Tensor, positive: Tensor, logits: Mapping[str, Tensor], values: Mapping[str, Pair]
    ) -> dict[str, Tensor]:
        """∂/∂θ of Σ_n cotangent_n · (P(σ)_n if positive_n else P(1 − σ)_n): one sweep, each image in its own pass."""
        grads: dict[str, Tensor] = {}
        agree = bool(positive.all()) or not bool(positive.any())

        def step(node: Node, grad: Tensor) -> tuple[Tensor, ...]:
            name = node.name
            if name in logits:
                side = _per_image(positive, grad)
                sigma, (plus, minus) = logits[name].sigmoid(), values[name]
                if agree:
                    mask, value = (sigma, plus) if positive[0] else (1 - sigma, minus)
                else:
                    mask, value = torch.where(side, sigma, 1 - sigma), torch.where(side, plus, minus)
                grad = grad * mask
                # σ' = σ (1 − σ), and (1 − σ)' = −σ': in either pass the derivative of the mask is mask · (side − σ).
                grads[name] = torch.mul(grad, value).mul_(torch.sub(side.to(grad), sigma, out=mask))
            return self.frozen[name].adjoint(grad)

        self.lin.graph.pull({self.lin.graph.output: _per_image(cotangent, self.seed) * self.seed}, step, self.nodes)
        return grads

    def _score(self, output: Tensor) -> Tensor:
        return sum_per_image(output * self.seed)


def _per_image(v: Tensor, like: Tensor) -> Tensor:
    """v (N,) with as many dimensions as `like`."""
    return v.view(-1, *[1] * (like.dim() - 1))


class MaskedScores(torch.autograd.Function):
    """θ ↦ (P(σ), P(1 − σ)), each (N,). A true derivative of first order, in closed form.

    The values before the masks are returned too, undifferentiated, only so that the backward pass may keep them.
    """

    @staticmethod
    def forward(network: MaskedNetwork, *logits: Tensor) -> tuple[Tensor, ...]:
        (plus, minus), values = network.forward(dict(zip(network.sites, logits, strict=True)))
        return plus, minus, *(value for site in network.sites for value in values[site])

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
        count = len(network.sites)
        logits = dict(zip(network.sites, ctx.saved_tensors[:count], strict=True))
        saved = iter(ctx.saved_tensors[count:])
        values = dict(zip(network.sites, zip(saved, saved, strict=True), strict=True))
        zero = network.seed.new_zeros(network.seed.shape[0])
        plus, minus = (zero if c is None else c for c in cotangents[:2])
        if not ((plus != 0) & (minus != 0)).any():  # Eq. 10: an image needs one of its two passes only
            grads = network.backward(plus + minus, plus != 0, logits, values)
        else:
            grads = network.backward(plus, torch.ones_like(plus, dtype=torch.bool), logits, values)
            other = network.backward(minus, torch.zeros_like(minus, dtype=torch.bool), logits, values)
            for site in network.sites:
                grads[site] += other[site]
        return None, *(grads[site] for site in network.sites)


def masked_scores(network: MaskedNetwork, logits: Mapping[str, Tensor]) -> Pair:
    """P(σ) and P(1 − σ) of each image, differentiable with respect to the logits."""
    plus, minus, *_ = MaskedScores.apply(network, *(logits[site] for site in network.sites))
    return plus, minus
