"""Learning in a shorter arithmetic, where it is asked for: masks, optimiser and the final split keep the network's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dmbp.errors import DmbpError
from linreg.operators import Affine, Convolution, Linear, Role
from linreg.operators.rounding import PRODUCTS

PRECISIONS = ("full", "tf32", "bf16")


@dataclass(frozen=True, eq=False)
class Lowered(Affine):
    """A layer whose products are of bfloat16 numbers, with values of the network's dtype before and after it."""

    affine: Convolution | Linear
    dtype: torch.dtype
    kind = "lowered"
    role = Role.WEIGHTS
    new_value = new_gradients = shared = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self.affine(*(x.bfloat16() for x in inputs)).to(self.dtype)

    def linear(self, *inputs: Tensor) -> Tensor:
        return self.affine.linear(*(x.bfloat16() for x in inputs)).to(self.dtype)

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(g.to(self.dtype) for g in self.affine.adjoint(grad.bfloat16()))


def lowered(affine: Affine) -> Affine:
    """The operator with its weights in bfloat16, if it is a convolution or a linear layer; else itself."""
    if not isinstance(affine, Convolution | Linear):
        return affine
    constants = tuple(replace(c, value=c.value.bfloat16()) for c in affine.constants)
    return Lowered(replace(affine, weight=affine.weight.bfloat16(), constants=constants), affine.weight.dtype)


@contextmanager
def matrix_products(precision: str) -> Iterator[None]:
    """Inside, with "tf32", CUDA's float32 convolutions and matrix products are TF32's; else they stay as they are."""
    if precision != "tf32":
        yield
        return
    # Not `allow_tf32`: torch refuses to read it where the user has set this newer one, and writing it sets both.
    held = [setting.fp32_precision for setting in PRODUCTS]
    try:
        for setting in PRODUCTS:
            setting.fp32_precision = "tf32"
        yield
    finally:
        for setting, before in zip(PRODUCTS, held, strict=True):
            setting.fp32_precision = before


def check_precision(precision: str, device: torch.device) -> None:
    """Raise DmbpError unless the device can compute so."""
    if precision == "tf32" and device.type != "cuda":
        raise DmbpError(f"precision 'tf32' is an arithmetic of CUDA devices, and the network is on {device}")
