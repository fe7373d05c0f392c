"""FullGrad: the terms of the ledger as a map, each layer's biases at their positions.

Index letters: N pictures, l nodes with constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmbp.evaluation.captured import captured
from dmbp.evaluation.methods.guided import MODES
from dmbp.evaluation.methods.method import Method
from dmbp.evaluation.worded import option
from linreg import Linearization
from linreg.graph import INPUT, Node
from linreg.target import cotangent

EPSILON = 1e-6  # as in the authors' code


@dataclass(frozen=True)
class FullGrad(Method):
    """Σ ψ(c ⊙ x) + Σ_l Σ ψ(g_l ⊙ β_l) enlarged to the picture, summed over colours and channels: (N, 1, *picture).

    As in the authors' code: ψ takes the absolute value (theirs: it is the method itself) and brings each term, of one
    picture, to the range 0 to 1; terms are enlarged bilinearly, corner on corner; those without positions are left out.
    The terms are those of `linreg`'s ledger, which sums to the score on any network; theirs are biases of convolutions
    and of batch norm, found by their modules. So where a batch norm follows a convolution that has a bias too, their
    two terms are one here; and here are offsets of ReLU6, constants that pad, and all other constants, without which
    theirs miss the score.

    `psi="signed"` takes no absolute value and no range: the sum of the terms themselves, each spread over the pixels
    around its place (`linreg.complete`). That map sums to the score, but for what has no place.
    """

    label: ClassVar[str] = "fullgrad"
    title: ClassVar[str] = "FullGrad (FG)"
    source: ClassVar[str] = "Srinivas and Fleuret (2019)"
    times_x: ClassVar[str] = "yes, and biases by their gradients"
    colours: ClassVar[str] = "none"
    sign: ClassVar[str] = "absolute, as its authors define it; psi=signed: signed"

    psi: str = option("absolute", "what is done with each term: absolute or signed", "the authors' code")

    def __post_init__(self) -> None:
        self._check_word("psi", MAPS)

    @torch.no_grad()
    def attribute(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        return MAPS[self.psi](captured(network, x).graph.linearize(x), target)


def terms(lin: Linearization, target: Tensor) -> Iterator[Tensor]:
    """c ⊙ x, and g ⊙ β of each constant at each element of its node, (N, *shape of the node): together the score."""
    found: list[Tensor] = []

    def step(node: Node, grad: Tensor) -> tuple[Tensor, ...]:
        affine = lin.frozen[node.name]
        found.extend(affine.elements(place, grad) for place in range(len(affine.constants)))
        return affine.adjoint(grad)

    weight = lin.graph.pull({lin.graph.output: cotangent(target, lin.output)}, step)[INPUT]
    yield weight * lin.input
    yield from found


def _absolute(lin: Linearization, target: Tensor) -> Tensor:
    picture = lin.input.shape[2:]
    total = torch.zeros_like(lin.input[:, :1])
    for term in terms(lin, target):
        if term.dim() == lin.input.dim():
            summed = unit(term).sum(1, keepdim=True)  # before they are enlarged, which is linear
            total += F.interpolate(summed, size=picture, mode=MODES[len(picture)], align_corners=True)
    return total


def unit(term: Tensor) -> Tensor:
    """|term|, less its smallest value and over its largest, of each picture."""
    term = term.abs()
    term = term - term.flatten(1).amin(1).view(-1, *[1] * (term.dim() - 1))
    return term / (term.flatten(1).amax(1).view(-1, *[1] * (term.dim() - 1)) + EPSILON)


def _signed(lin: Linearization, target: Tensor) -> Tensor:
    return lin.ledger(target).complete().map.unsqueeze(1)


MAPS: dict[str, Callable[[Linearization, Tensor], Tensor]] = {"absolute": _absolute, "signed": _signed}
