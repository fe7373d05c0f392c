"""What the masks minimise: the objective (Eq. 10) and its ablations (Table 1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def loss_all(y: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """y⁻ − y⁺ + |y~| (Eq. 10), which equals max(y − 2 y⁺, 2 y⁻ − y): one of the two passes has no gradient."""
    return negative - positive + (y - positive - negative).abs()


def loss_both(y: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """y⁻ − y⁺ (DMBP⁺,⁻ of Table 1)."""
    return negative - positive


def loss_positive(y: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """−y⁺ (DMBP⁺ of Table 1)."""
    return -positive


LOSSES: dict[str, Loss] = {"all": loss_all, "+-": loss_both, "+": loss_positive}


@torch.enable_grad()
def slopes(loss: Loss, y: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """∂loss/∂y⁺ and ∂loss/∂y⁻ of each image, (N,)."""
    leaves = positive.detach().requires_grad_(), negative.detach().requires_grad_()
    plus, minus = torch.autograd.grad(loss(y, *leaves).sum(), leaves, allow_unused=True, materialize_grads=True)
    return plus, minus
