"""One of several inputs, cut out of the row that they are laid in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from linreg.operators.base import Affine, Shape
from linreg.operators.reach import Follows, Placed
from linreg.operators.rounding import Rounding
from linreg.operators.sparse import selection


@dataclass(frozen=True, eq=False)
class Part(Affine):
    """z = x[first : first + size] of a row x of `total` numbers, in the shape of the input that lies there."""

    first: int
    total: int
    shape: Shape
    kind = "part of input"
    shared = new_gradients = True

    @property
    def size(self) -> int:
        return prod(self.shape)

    def linear(self, *inputs: Tensor) -> Tensor:
        (row,) = inputs
        return row[:, self.first : self.first + self.size].reshape(len(row), *self.shape)

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        after = self.total - self.first - self.size
        return (F.pad(grad.reshape(len(grad), self.size), (self.first, after)),)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        return (selection(np.arange(self.first, self.first + self.size), self.total),)

    def degrees(self) -> tuple[tuple[int, int], ...]:
        return ((1, 1),)

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        """A row has no axes of a picture; those of a part begin with it."""
        return ({},)

    def rounding(self, *inputs: Tensor) -> Rounding:
        return Rounding(self.linear, 0, 0)
