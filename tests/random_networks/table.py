"""The table of kinds of steps: how each is built, what it suits, and how its options are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from nets import Lambda
from torch import Tensor, nn

aten = torch.ops.aten
Shape = tuple[int, ...]
Draw = Callable[[st.SearchStrategy], Any]
Layer = Callable[..., Tensor]
NORMS = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Kind:
    """One kind of step: `build` makes a layer for a shape and options, `options` draws them for a shape that `suits`.

    `beside` says which shapes the other value may have, where the step reads two. `grows` makes a value larger;
    `writes` changes the value that it reads, which must not have been read before, and comes from a layer that does
    not need its output for autograd.
    """

    build: Callable[..., Layer]
    options: Callable[[Draw, Shape], dict[str, Any]]
    suits: Callable[[Shape], bool]
    beside: Callable[[Shape, Shape], bool] | None = None
    grows: bool = False
    writes: bool = False


KINDS: dict[str, Kind] = {}
AGAIN = "again"  # the module of an earlier step, with its weights
JOIN = "join"  # the last step, where several values are left unread


def kind(
    name: str,
    options: Callable[[Draw, Shape], dict[str, Any]] = lambda draw, shape: {},
    suits: Callable[[Shape], bool] = lambda shape: True,
    **rest: Any,
) -> Callable[[Callable[..., Layer]], Callable[..., Layer]]:
    """Enter a builder into the table."""

    def register(build: Callable[..., Layer]) -> Callable[..., Layer]:
        KINDS[name] = Kind(build, options, suits, **rest)
        return build

    return register


def simple(name: str, function: Layer, suits: Callable[[Shape], bool] = lambda shape: True, **rest: Any) -> None:
    """A kind without options: one function."""
    KINDS[name] = Kind(lambda shape: function, lambda draw, shape: {}, suits, **rest)


def choice(**choices: list) -> Callable[[Draw, Shape], dict[str, Any]]:
    """Options each drawn from a list."""
    return lambda draw, shape: {name: draw(st.sampled_from(values)) for name, values in choices.items()}


def along(name: str, function: Callable[[Tensor, int], Tensor], **rest: Any) -> None:
    """A kind that runs along one dimension."""
    KINDS[name] = Kind(lambda shape, dim: lambda x: function(x, dim), one_dim, lambda shape: True, **rest)


def layered(shape: Shape) -> bool:
    """Channels and positions: (C, L), (C, H, W) or (C, D, H, W)."""
    return 2 <= len(shape) <= 4


def at_least(rank: int, most: int = 12) -> Callable[[Shape], bool]:
    return lambda shape: rank <= len(shape) <= most


def dims_of(draw: Draw, shape: Shape, least: int = 1) -> tuple[int, ...]:
    """Some of the dimensions after the batch, in any order, a few of them counted from the end."""
    dims = draw(st.lists(st.integers(1, len(shape)), min_size=least, max_size=len(shape), unique=True))
    return tuple(d - len(shape) - 1 if draw(st.booleans()) else d for d in dims)


def one_dim(draw: Draw, shape: Shape) -> dict[str, Any]:
    return {"dim": draw(st.sampled_from([*range(1, len(shape) + 1), -1]))}


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def same(shape: Shape, other: Shape) -> bool:
    return shape == other


def broadcasts(shape: Shape, other: Shape) -> bool:
    return len(shape) == len(other) and all(a == b or 1 in (a, b) for a, b in zip(shape, other, strict=True))


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def constant_shape(draw: Draw, shape: Shape) -> dict[str, Any]:
    """That of a constant that broadcasts to the value, with as many dimensions or fewer."""
    full = tuple(n if draw(st.booleans()) else 1 for n in shape)
    return {"constant": full[draw(st.integers(0, len(shape))) :], "learned": draw(st.booleans())}


def with_constant(function: Callable[[Tensor, Tensor], Tensor], constant: Shape, learned: bool) -> Layer:
    value = random(*constant)
    value = value.sign() * (0.5 + value.abs())
    return Lambda(lambda x, a: function(x, a), a=nn.Parameter(value) if learned else value)


def constant(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """A kind of the value and a constant that broadcasts to it."""
    kind(name, constant_shape)(lambda shape, constant, learned: with_constant(function, constant, learned))
