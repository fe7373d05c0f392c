"""Sums, differences, products with constants."""

from __future__ import annotations

import torch

from random_networks.table import Layer, Shape, broadcasts, choice, constant, kind, same, simple

simple("sum", lambda x, y: x + y, beside=same)
simple("difference", lambda x, y: x - y, beside=broadcasts)
simple("add itself", lambda x: x + x)
simple("sum, written over", lambda x, y: x.add_(y), beside=same, writes=True)
simple("negate", lambda x: -x)


@kind("add", choice(alpha=[1, -3, 0.5]), beside=broadcasts)
def _add(shape: Shape, alpha: float) -> Layer:
    return lambda x, y: torch.add(x, y, alpha=alpha)


constant("add a constant", torch.add)
constant("subtract a constant", torch.sub)
constant("subtract from a constant", lambda x, a: torch.sub(a, x, alpha=2))
constant("multiply by a constant", lambda x, a: a * x)
constant("divide by a constant", torch.div)

for sign, function in (
    ("plus", torch.add), ("minus", torch.sub), ("times", torch.mul), ("divided by", torch.div),
    ("subtracted from", lambda x, a: a - x), ("half subtracted from", lambda x, a: torch.rsub(x, a, alpha=0.5)),
):  # fmt: skip
    kind(f"{sign} a number", choice(number=[0.3, -2, 1.5]))(
        lambda shape, number, function=function: lambda x: function(x, number)
    )


@kind("add what is made for each image", choice(number=[1, 0.5]))
def _made(shape: Shape, number: float) -> Layer:
    return lambda x: x + torch.full((x.shape[0], *shape), number, dtype=x.dtype)
