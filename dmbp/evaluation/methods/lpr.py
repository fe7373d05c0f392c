"""LPR, inferred: learned propagation rules, of which no code is public.

Yang et al. (ECCV 2020) say in their abstract: a learnable module is put into the non-linear layers during the backward
pass, with a rule for each element; the gradient makes a mask; the masked picture is fed into the network again, and its
output, combined with the original one, guides the learning, by second derivatives. The paper of DMBP adds that the
gradients make a binary mask, and that its authors wrote an implementation of their own. What is not said there is
chosen here, in the simplest way, and marked so in the table: this is a stand-in, not Yang et al.'s numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dmbp.errors import DmbpError
from dmbp.evaluation.captured import captured
from dmbp.evaluation.checks import scores
from dmbp.evaluation.methods.method import Method
from dmbp.evaluation.worded import option
from linreg import Linearization
from linreg.graph import INPUT, Node
from linreg.target import cotangent

INFERRED = "inferred"
SMALL = 1e-12  # of a map that is constant


@dataclass(frozen=True)
class LPR(Method):
    """x ⊙ ∇, with ∇ the gradient whose gates pass on 2 sigmoid(θ) ⊙ s ⊙ g, and θ learned, one for each unit. Inferred.

    θ = 0 is the plain gradient. With a = Σ_colours x ⊙ ∇, its mask is m = sigmoid(`sharpness` · (a − mean)/std), and
    Adam lowers, for each picture by itself,

        |y(x) − y(m ⊙ x)| / |y(x)| + `size` · mean(m):

    what is kept shall give the score alone, and be small. It needs what second derivatives need: some three sweeps and
    their memory for an iteration.
    """

    label: ClassVar[str] = "lpr"
    title: ClassVar[str] = "Learned propagation rules (LPR), inferred"
    source: ClassVar[str] = "Yang et al. (2020), inferred from its abstract"
    times_x: ClassVar[str] = "yes"
    colours: ClassVar[str] = "own values"
    sign: ClassVar[str] = "signed"

    iterations: int = option(50, "updates of θ", INFERRED)
    lr: float = option(0.1, "Adam's learning rate", INFERRED)
    sharpness: float = option(5.0, "how near the mask is to a binary one", INFERRED)
    size: float = option(1.0, "what the mean of the mask weighs", INFERRED)

    def __post_init__(self) -> None:
        self._check_numbers("iterations", least=0)
        self._check_positive("lr", "sharpness", "size")

    def attribute(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        lin = captured(network, x).graph.linearize(x)
        shapes = {node.name: node.shape for node in lin.graph.nodes if node.is_gate}
        if not shapes:
            raise DmbpError("LPR learns rules for gates, and the network has none")
        theta = {name: x.new_zeros(len(x), *shape, requires_grad=True) for name, shape in shapes.items()}
        optimiser = torch.optim.Adam(theta.values(), lr=self.lr)
        for _ in range(self.iterations):
            with torch.enable_grad():
                loss = self.loss(network, lin, theta, target)
                grads = torch.autograd.grad(loss.sum(), list(theta.values()))
            for logits, grad in zip(theta.values(), grads, strict=True):
                logits.grad = grad
            optimiser.step()
        with torch.no_grad():
            return propagated(lin, theta, target) * x

    def loss(self, network: nn.Module, lin: Linearization, theta: dict[str, Tensor], target: Tensor) -> Tensor:
        """What each picture's θ lower, (N,)."""
        x, column = lin.input, target[:, None]
        mask = self.mask((propagated(lin, theta, target) * x).sum(1, keepdim=True))
        masked = scores(network, mask * x, target.tolist()).gather(1, column)[:, 0]
        whole = lin.output.gather(1, column)[:, 0]
        return (whole - masked).abs() / whole.abs().clamp_min(SMALL) + self.size * mask.flatten(1).mean(1)

    def mask(self, values: Tensor) -> Tensor:
        """Values (N, 1, *picture) from 0 to 1, about half of them near 1."""
        flat = values.flatten(1)
        centred = flat - flat.mean(1, keepdim=True)
        spread = centred.square().mean(1, keepdim=True).clamp_min(SMALL).sqrt()
        return (self.sharpness * centred / spread).sigmoid().view_as(values)


def propagated(lin: Linearization, theta: dict[str, Tensor], target: Tensor) -> Tensor:
    """The sweep back in which each gate multiplies by 2 sigmoid(θ), shaped like the input; differentiable in θ."""

    def step(node: Node, grad: Tensor) -> tuple[Tensor, ...]:
        return lin.frozen[node.name].adjoint(grad * (2 * theta[node.name].sigmoid()) if node.is_gate else grad)

    return lin.graph.pull({lin.graph.output: cotangent(target, lin.output)}, step)[INPUT]
