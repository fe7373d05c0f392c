"""The table of rules: which ATen call becomes which operator.

A rule takes a `Call` and returns the operator with the data inputs that it acts on. Adding an operator to the toolkit
is adding one rule next to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from linreg.errors import LinregError
from linreg.operators.base import Operator, Shape
from linreg.operators.reasons import PRODUCT


@dataclass(frozen=True)
class Data:
    """An argument that depends on the input: the value of node `name`, of `shape` for one image.

    In a program of one image, `whole` says that this is all of the program's own shape; else it has a 1 in front.
    """

    name: str
    shape: Shape
    whole: bool = False


@dataclass(frozen=True, eq=False)
class Known:
    """An argument that does not: a parameter, a buffer, or what was computed from them alone.

    `each` says that there is one for each image in dimension 0, made once.
    """

    name: str
    value: Tensor
    each: bool = False


@dataclass(frozen=True)
class Zeros:
    """Stands for zeros in the place of a fixed argument, in the dtype of the data; `each` as there."""

    shape: Shape
    each: bool = False


class _Batch:
    """Stands for the number of images wherever the program asks for it."""

    def __repr__(self) -> str:
        return "N"

    def __reduce__(self) -> str:
        return "BATCH"  # there is one, and a copy is the same


BATCH = _Batch()

Built = tuple[Operator, tuple[Data, ...]]

FIXED = "its rule takes fixed values where this call has data; keep them fixed, or choose with torch.maximum"


Order = tuple[tuple[str, bool], ...]


def order_of(target: Any) -> Order:
    """The arguments of an operator, and whether each is given by its name only."""
    return tuple((argument.name, argument.kwarg_only) for argument in target._schema.arguments)


@dataclass(frozen=True)
class Call:
    """One call of the captured program: an ATen operator and its arguments by name.

    `shape` is what it gives for one image, `like` an empty tensor of its dtype and device, `output` the index of the
    value in use where the operator returns several, `images` the number of images where the program fixes it. A
    `lifted` call is one of a program of one image: it knows of no batch, and is made for each image anew. `order` are
    the target's arguments, as `order_of` gives them: torch.compile cannot look them up.
    """

    target: Any
    arguments: dict[str, Any]
    shape: Shape
    like: Tensor
    output: int | None = None
    images: int | None = None
    lifted: bool = False
    order: Order = ()

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"target": str(self.target)}  # an ATen operator does not pickle; its name does

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, target=reduce(getattr, state["target"].split("."), torch.ops))

    @property
    def name(self) -> str:
        """The operator's name without namespace and overload."""
        return operator_name(self.target)

    @property
    def leading(self) -> int:
        """How many dimensions the call itself counts before those of `shape`: that of the batch, if it knows of it."""
        return 0 if self.lifted else 1

    @property
    def leaves(self) -> list[Any]:
        """All arguments, lists opened."""
        return list(_leaves(list(self.arguments.values())))

    @property
    def data(self) -> tuple[Data, ...]:
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, Data))

    def one_data(self, name: str) -> Data:
        """Argument `name`, which must be the only one that depends on the input."""
        if isinstance(self[name], Data) and len(self.data) == 1:
            return self[name]
        raise LinregError(str(PRODUCT) if len(self.data) > 1 else FIXED)

    def tensor(self, argument: Known | float) -> Tensor:
        """A fixed argument as a tensor of the call's dtype and device."""
        if argument is BATCH:
            raise LinregError("the number of images enters its arithmetic, so the images are not kept apart")
        if isinstance(argument, Data):
            raise LinregError(FIXED)
        return argument.value.to(self.like) if isinstance(argument, Known) else self.like.new_tensor(argument)

    def evaluate(self, *values: Tensor) -> Any:
        """Run the call with `values` in the place of its data; constants of each image are expanded to them all."""
        if self.lifted and values:
            return torch.func.vmap(self._at_one_image)(*values)
        return self._run(*values)

    def _at_one_image(self, *values: Tensor) -> Tensor:
        """A lifted call, of values without a batch."""
        whole = (value if data.whole else value[None] for value, data in zip(values, self.data, strict=True))
        result: Tensor = self._run(*whole)
        return result.reshape(self.shape)

    def _run(self, *values: Tensor) -> Any:
        remaining = iter(values)
        batch = values[0].shape[0] if values else 1

        def fill(argument: Any) -> Any:
            if isinstance(argument, Data):
                return next(remaining)
            if isinstance(argument, Zeros):
                return values[0].new_zeros((batch, *argument.shape[1:]) if argument.each else argument.shape)
            if isinstance(argument, Known):
                value = argument.value
                return value.expand(batch, *value.shape[1:]) if argument.each else value
            if argument is BATCH:
                return batch
            return [fill(item) for item in argument] if isinstance(argument, list) else argument

        order = self.order or order_of(self.target)
        filled = {name: fill(self.arguments[name]) for name, _ in order if name in self.arguments}
        positional = [filled.pop(name) for name, by_name in order if not by_name and name in filled]
        target = SOUND.get(self.name, self.target) if self.lifted else self.target
        result = target(*positional, **filled)
        return result if self.output is None else result[self.output]


def _select_scatter(x: Tensor, source: Tensor, dim: int, index: int) -> Tensor:
    size = x.shape[dim]
    return torch.slice_scatter(x, source.unsqueeze(dim), dim, index % size, index % size + 1)


# In the place of what PyTorch differentiates wrongly when it is vectorized (torch 2.13: a factor of the size).
SOUND: dict[str, Callable[..., Tensor]] = {"select_scatter": _select_scatter}


def _leaves(argument: Any) -> Any:
    if isinstance(argument, list | tuple):
        for item in argument:
            yield from _leaves(item)
    else:
        yield argument


# Calls that leave their data as they are: no operator. (The dependence on the input is kept behind `detach`.)
IDENTITIES = {
    "clone", "alias", "contiguous", "detach", "detach_", "lift_fresh", "lift_fresh_copy", "dropout", "_to_copy", "to",
    "feature_dropout", "alpha_dropout", "native_dropout", "type_as", "nan_to_num",
}  # fmt: skip

Rule = Callable[[Call], Built]
RULES: dict[str, Rule] = {}


def rule(*targets: str) -> Callable[[Rule], Rule]:
    """Register a rule for ATen operators, named with their overload ("mean.dim") or without ("relu")."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(targets, function))
        return function

    return register


def operator_name(target: Any) -> str:
    """ "conv2d" of aten.conv2d.default; with the namespace where that is another: "mine.conv2d"."""
    name = str(target).removeprefix("aten.")
    return name.rpartition(".")[0] or name


def rule_for(target: Any) -> Rule | None:
    """The rule of an ATen overload: its own if there is one, else that of its operator."""
    return RULES.get(str(target).removeprefix("aten."), RULES.get(operator_name(target)))
