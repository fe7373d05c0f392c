"""Algorithm 1 as the paper prints it: hooks multiply gradients by masks, and double backward learns the masks.

It is there to be measured against: every pass back through the network is recorded, and then differentiated itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dmbp.learning.objective import loss_all
from dmbp.masks import Masks, Sites, find_sites, initial_logits
from linreg import Linearization, Node
from linreg.target import Target, cotangent, sum_per_image


class Literal:
    """RMSprop on the masks of a linear region, from B.1's; `step` is one iteration, `masks` what was reached.

    The forward pass is made once (line 2); gradients of constants are taken for each image. As in `learn_masks`, what
    no mask touches is counted once, in y~.
    """

    def __init__(self, lin: Linearization, target: Target = None, sites: Sites = "gates", lr: float = 0.01) -> None:
        names = find_sites(lin.graph, sites)
        self.theta = {site: theta.requires_grad_() for site, theta in initial_logits(lin, names, target).items()}
        self.optimizer = torch.optim.RMSprop(self.theta.values(), lr=lr)
        self.leaves = [lin.input.clone().requires_grad_()]
        self.y = lin.score(target).detach()
        self._active: dict[str, Tensor] = {}
        with torch.enable_grad():
            self._output = self._forward(lin, names, self._active)
            self._score = (self._output * cotangent(target, lin.output)).sum()
        self.untouched = self._pass({site: torch.zeros_like(theta) for site, theta in self.theta.items()}).detach()

    @property
    def masks(self) -> dict[str, Tensor]:
        return {site: theta.detach().sigmoid() for site, theta in self.theta.items()}

    @torch.enable_grad()
    def step(self) -> None:
        """Lines 4 to 11."""
        sigma = {site: theta.sigmoid() for site, theta in self.theta.items()}
        positive = self._pass(sigma) - self.untouched
        negative = self._pass({site: 1 - mask for site, mask in sigma.items()}) - self.untouched
        loss = loss_all(self.y, positive, negative).sum()
        logits = tuple(self.theta.values())
        for theta, grad in zip(logits, torch.autograd.grad(loss, logits), strict=True):
            theta.grad = grad
        self.optimizer.step()

    def _forward(self, lin: Linearization, sites: tuple[str, ...], active: Masks) -> Tensor:
        """The frozen network on the input, with a leaf for each constant and a hook at each site."""

        def step(node: Node, inputs: tuple[Tensor, ...]) -> Tensor:
            affine = lin.frozen[node.name]
            value = affine.linear(*inputs)
            for constant in affine.constants:
                self.leaves.append(_for_each_image(constant.value, value).requires_grad_())
                value = value + self.leaves[-1]
            if node.name in sites:  # `active`, not self: a cycle through autograd's graph would never be freed
                value.register_hook(lambda grad, site=node.name: active[site] * grad)
            return value

        return lin.graph.evaluate({"input": self.leaves[0]}, step)

    @torch.enable_grad()
    def _pass(self, masks: Masks) -> Tensor:
        """y(σ) = ∇ₓF·x + Σ ∇_b F·b of each image (Eq. 14), (N,): lines 4 and 5, or 6 and 7."""
        self._active.update(masks)
        grads = torch.autograd.grad(self._score, self.leaves, create_graph=True)
        shares = [sum_per_image(grad * leaf.detach()) for grad, leaf in zip(grads, self.leaves, strict=True)]
        return torch.stack(shares).sum(0)


def _for_each_image(value: Tensor, like: Tensor) -> Tensor:
    """A constant with a batch dimension, its own copy for each image."""
    value = value.reshape(*[1] * (like.dim() - value.dim()), *value.shape)
    return value.expand(len(like), *value.shape[1:]).clone()
