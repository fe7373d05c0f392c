"""Values that a forward asks for as Python's own, where they depend on parameters and buffers alone.

The exporter hides all values behind stand-ins, and stops at `if self.ready:` or `int(self.size)`. But what a model
computes from its own tensors is fixed: a choice by it is none, and a number read from it is a number. So the model is
run once as it is, what it reads is written down, and the exporter is given the same answers in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

READS = {
    Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.item, Tensor.tolist, Tensor.numpy,
    Tensor.__array__, Tensor.equal, Tensor.allclose, Tensor.is_nonzero, torch.equal, torch.allclose, torch.is_nonzero,
}  # fmt: skip
ASKS = {
    getattr(owner, name) for owner in (torch, Tensor) for name in ("isnan", "isinf", "isposinf", "isneginf", "isfinite")
}  # fmt: skip
Read = tuple[Callable[..., Any], bool, Any]


class Written(TorchFunctionMode):
    """While a model runs: `reads` are its `READS` in order, each with whether it is fixed, and what it gave."""

    def __init__(self, *data: Tensor) -> None:
        super().__init__()
        self.reads: list[Read] = []
        self.depend: dict[int, Tensor] = {
            id(each): each for each in data
        }  # on the input; held, so that no other takes its identity

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        dependent = any(id(each) in self.depend for each in _tensors((args, kwargs)))
        if func in READS:
            self.reads.append((func, not dependent, result))
        if dependent and func not in ASKS:  # of finite data the answer is known
            written = getattr(func, "__name__", "").endswith("_") and args  # x.add_(y), and x[0] = y
            self.depend.update((id(each), each) for each in _tensors((result, args[:1] if written else ())))
        return result


class Replayed(TorchFunctionMode):
    """While the exporter runs the model: reads that are fixed give what they gave before."""

    def __init__(self, reads: list[Read]) -> None:
        super().__init__()
        self.reads: Iterator[Read] = iter(reads)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            same, fixed, value = next(self.reads, (None, False, None))
            if same is not func:  # it has taken another way: from here on nothing is known
                self.reads = iter(())
            elif fixed:
                return value
        return func(*args, **kwargs or {})


class ValuesTaken(TorchFunctionMode):
    """Raises RuntimeError where a model takes the `.data` of what is no parameter, so that its line is known."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.data.__get__ and not isinstance(args[0], torch.nn.Parameter):  # type: ignore[attr-defined]
            raise RuntimeError(".data")
        return func(*args, **kwargs or {})


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]
