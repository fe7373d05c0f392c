"""What the masks minimise: the objective (Eq. 10), its ablations (Table 1), or a function of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature

import torch
from torch import Tensor

from dmbp.errors import DmbpError

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


# ---- a function of one's own ----


@dataclass(frozen=True)
class RecordedLoss:
    """A function that a file names and does not hold: the loss of a result that was saved and loaded."""

    name: str

    def __call__(self, y: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        raise DmbpError(f"the loss {self.name} is known by name only, from a saved result: give the function itself")


def loss_name(loss: str | Loss) -> str:
    """A built-in loss's name; a function's qualified one, with its module, which no built-in has."""
    if isinstance(loss, str):
        return loss
    if isinstance(loss, RecordedLoss):
        return loss.name
    while isinstance(loss, partial):
        loss = loss.func
    named = loss if hasattr(loss, "__qualname__") else type(loss)
    return f"{named.__module__}.{named.__qualname__}"


def check_arguments(loss: Loss) -> None:
    """Raise DmbpError where a loss cannot be called with y, y⁺ and y⁻."""
    try:
        signature(loss).bind(None, None, None)
    except ValueError:  # some of C's functions do not say what they take
        return
    except TypeError as error:
        raise DmbpError(f"the loss {loss_name(loss)} must take three tensors, f(y, y⁺, y⁻): {error}") from None


def value_and_slopes(
    loss: Loss, y: Tensor, positive: Tensor, negative: Tensor, updates: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """f(y, y⁺, y⁻) of each image and its two slopes, each (N,), after so many updates.

    Raises DmbpError for a value of another shape, one that autograd cannot differentiate, and numbers that are not
    finite; what f itself raises is left as it is.
    """
    name, scores = loss_name(loss), (y, positive, negative)
    leaves = positive.detach().requires_grad_(), negative.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(y, *leaves)
        _check_value(name, value, y)
        try:
            plus, minus = torch.autograd.grad(value.sum(), leaves, allow_unused=True, materialize_grads=True)
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise DmbpError(f"autograd cannot differentiate the loss {name}: {reason}") from error
    value = value.detach().to(y)
    _check_finite(f"the loss {name}", value, scores, updates)
    _check_finite(f"the derivative of the loss {name}, by y⁺ or by y⁻,", plus + minus, scores, updates)
    return value, plus, minus


def _check_value(name: str, value: object, y: Tensor) -> None:
    wanted = f"the loss {name} must return a tensor of shape {tuple(y.shape)}, one number for each image"
    if not isinstance(value, Tensor):
        raise DmbpError(f"{wanted}, not {type(value).__name__}")
    if value.shape != y.shape:
        advice = "" if value.dim() else ": leave out the sum or mean over images, which are independent problems"
        raise DmbpError(f"{wanted}, not {tuple(value.shape)}{advice}")
    if not value.requires_grad:
        raise DmbpError(
            f"the loss {name} has no derivative by y⁺ or y⁻: compute it from them by differentiable operations of "
            "torch, without detach(), item() or whole numbers"
        )


def _check_finite(what: str, values: Tensor, scores: tuple[Tensor, Tensor, Tensor], updates: int) -> None:
    broken = (~values.isfinite()).nonzero()
    if len(broken):
        n = int(broken[0])
        y, positive, negative = (score[n].item() for score in scores)
        raise DmbpError(
            f"{what} is {values[n].item()} for image {n}, where y = {y:.6g}, y⁺ = {positive:.6g} and "
            f"y⁻ = {negative:.6g}, after {updates} updates"
        )
