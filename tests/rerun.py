"""A network run again, gates and all, with the values of some nodes given: what the tests differentiate."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from linreg import Linearization


def rerun(lin: Linearization, seeds: dict[str, Tensor], stop: str) -> Tensor:
    """The value of `stop`."""
    values = {"input": lin.input} | seeds
    for node in lin.graph.nodes:
        if node.name not in values:
            inputs = [values[name] for name in node.inputs]
            values[node.name] = node.operator.freeze(*inputs)(*inputs)
    return values[stop]


def value(lin: Linearization, name: str) -> Tensor:
    return rerun(lin, {}, name)


def jvp(function: Callable[[Tensor], Tensor], at: Tensor, v: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own torch.jit.script
        return torch.func.jvp(function, (at,), (v,))[1]
