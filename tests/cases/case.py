"""What a case of one operator is, and the numbers that several families of cases are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from approx import values
from nets import Lambda, randomised
from torch import Tensor, nn

IMAGES = 2
PLANE, LINE, SPACE = (4, 5, 6), (4, 9), (4, 4, 3, 5)

W34, ROW, CHANNELS = values(3, 4), values(4), values(4, 1, 1)
INDEX = torch.tensor([2, 0, 2, 1])


@dataclass(frozen=True)
class Case:
    """A module of one operator (or a function) and the shape of one input.

    `twin` is the same function written otherwise, where autograd's formula for it is not exact, or slow.
    """

    build: Callable[[], nn.Module] | Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    images: int = IMAGES
    twin: Callable[[Tensor], Tensor] | None = None

    def module(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = self.build() if isinstance(self.build, type) or self.build.__name__ == "make" else Lambda(self.build)
            return randomised(made.double()).eval()  # type: ignore[arg-type, union-attr]

    def input(self) -> Tensor:
        return values(self.images, *self.shape, seed=1)


def layer(kind: Callable[..., nn.Module], *arguments: object, **options: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        return kind(*arguments, **options)

    return make


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :2], x[:, 2:]


def writing(write: Callable[[Tensor], object]) -> Callable[[Tensor], Tensor]:
    """A function that writes in place to what it was given, and returns that."""

    def function(x: Tensor) -> Tensor:
        x = 1 * x
        write(x)
        return x

    return function
