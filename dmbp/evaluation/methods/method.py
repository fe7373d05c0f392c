"""What a method of attribution is: a value of its options that makes maps, by one signature for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dmbp.evaluation.checks import Classes, check_network, check_pictures, class_indices, scores
from dmbp.evaluation.worded import Worded

BATCH = 16  # pictures that go through the network together


@dataclass(frozen=True)
class Method(Worded, ABC):
    """A method with its options, which gives maps: `method(network, x, target)`.

    The network is any `nn.Module` in eval mode that gives (N, classes), and is left as it is; x is (N, C, *picture);
    `target` is a class for all pictures or one for each. The map is shaped like x, or (N, 1, *picture) where the method
    ranks positions and knows no colours. The score that is explained is the network's output for the class. Each
    picture is explained by itself: a batch gives what its pictures give alone, to rounding.

    A subclass says in words for the table of all methods what its map is: `source`, `times_x`, `colours`, `sign`.
    Raises DmbpError for what does not fit, LinregError where a method needs a piecewise-linear network and has none.
    """

    title: ClassVar[str]
    source: ClassVar[str]
    times_x: ClassVar[str]
    colours: ClassVar[str]
    sign: ClassVar[str]

    def __call__(self, network: nn.Module, x: Tensor, target: Classes) -> Tensor:
        check_network(network)
        check_pictures(x)
        with torch.inference_mode(False):  # autograd takes no tensors that were made in that mode
            x = x.clone() if x.is_inference() else x.detach()
            classes = class_indices(target, len(x)).to(x.device)
            return self.attribute(network, x, classes).detach()

    def check_installed(self) -> None:
        """Raise DmbpError where the method needs a package that is not installed; most need none."""
        return

    @abstractmethod
    def attribute(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        """The map, for checked pictures and one class for each, (N,) on their device."""


def gradient(network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """∇ of each picture's score at x, shaped like x: by autograd, on the network itself."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        output = scores(network, leaf, target.tolist())
        return torch.autograd.grad(output.gather(1, target[:, None]).sum(), leaf)[0]


def path_sum(network: nn.Module, points: Iterable[tuple[Tensor, Tensor]], target: int) -> Tensor:
    """Σ_i w_i ⊙ ∇f(p_i) of one class, (C, *picture): points p (B, C, *picture) and weights w that broadcast to them."""
    parts = [(w * gradient(network, p, torch.full((len(p),), target, device=p.device))).sum(0) for p, w in points]
    return torch.stack(parts).sum(0)
