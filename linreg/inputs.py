"""What a network takes where it takes more than one tensor: data, which is explained, and what is held fixed.

Data inputs are laid in a row, (N, Σ sizes), and that row is the graph's "input". Each of them is a node that cuts its
part out of the row and gives it its shape, under the name of the model's own argument. So whatever is true of a network
of one input is true of one of several, without a line for it: c·x sums over all of them, a Jacobian, an adjoint or a
matrix is by the row ("input") or by one of them (its name), and masks, ledgers and bounds never meet the difference.
Whoever shows values to people takes the row apart by name: `Inputs.parted`.

A fixed input is no data. What the model makes of fixed inputs alone is a constant, and where it meets data it is part
of an operator, which is linear in the data. As both may be others for each image, the graph is bound to the fixed
inputs when it is linearized (`linreg.operators.given`), and is from there on one of data alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor

from linreg.errors import LinregError

INPUT = "input"

# What a network is given: its inputs in order or by name; in order and, in a dict at the end, by name.
Given = Tensor | Sequence[Tensor | Mapping[str, Tensor]] | Mapping[str, Tensor]


@dataclass(frozen=True)
class Input:
    """One input: the name of the model's argument, its `shape` for one image, its dtype; data, or `fixed`.

    A fixed one may be the same for all images, `each` is False: its shape is then the whole one.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    fixed: bool = False
    each: bool = True

    @property
    def size(self) -> int:
        """How many numbers there are in one image."""
        return prod(self.shape)

    def __str__(self) -> str:
        shape = ", ".join(map(str, (*("N",) * self.each, *self.shape)))
        return f"{self.name} ({shape}){', fixed' * self.fixed}"


@dataclass(frozen=True, eq=False)
class Inputs(Mapping[str, Input]):
    """The inputs of a network by name, in the order of the model's arguments."""

    entries: tuple[Input, ...]

    def __getitem__(self, name: str) -> Input:
        return {entry.name: entry for entry in self.entries}[name]

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"Inputs({'; '.join(map(str, self.entries))})"

    @cached_property
    def data(self) -> tuple[Input, ...]:
        """Those that are explained."""
        return tuple(entry for entry in self.entries if not entry.fixed)

    @cached_property
    def fixed(self) -> tuple[Input, ...]:
        """Those that are held fixed."""
        return tuple(entry for entry in self.entries if entry.fixed)

    @property
    def several(self) -> bool:
        """Whether data comes in a row of several inputs; a single one is "input" itself, in its own shape."""
        return len(self.data) > 1

    @property
    def nodes(self) -> dict[str, str]:
        """The node that holds each data input: of its own name, or "input" where there is one; none but that is so."""
        if not self.several:
            return {self.data[0].name: INPUT}
        return {entry.name: f"{INPUT}@1" if entry.name == INPUT else entry.name for entry in self.data}

    @property
    def starts(self) -> tuple[int, ...]:
        """Where in the row each data input begins, and where the row ends."""
        return tuple(accumulate((entry.size for entry in self.data), initial=0))

    def parted(self, row: Tensor) -> Any:
        """Values in a row, (N, Σ sizes), each in its own shape, {name: (N, *shape)}; of one data input as they are."""
        if not self.several:
            return row
        parts = row.split([entry.size for entry in self.data], 1)
        return {entry.name: part.reshape(len(row), *entry.shape) for entry, part in zip(self.data, parts, strict=True)}

    def row(self, named: Mapping[str, Tensor]) -> Tensor:
        """The data among what is named, laid in a row; one input alone as it is."""
        parts = [named[entry.name] for entry in self.data]
        return torch.cat([part.reshape(len(part), -1) for part in parts], 1) if self.several else parts[0]

    def by_name(self, row: Tensor) -> dict[str, Tensor]:
        """The same as a mapping, of one data input too."""
        parts = self.parted(row)
        return dict(parts) if self.several else {self.data[0].name: row}

    def named(self, given: Given) -> dict[str, Tensor]:
        """What is given, by name. Raises LinregError unless it is one tensor for each input."""
        names = list(self)
        if isinstance(given, Mapping):
            if set(given) != set(names):
                odd = sorted(set(map(str, given)) ^ set(names))
                raise LinregError(f"the network takes {_listed(names)} by name; these differ: {_listed(odd)}")
            return {name: given[name] for name in names}
        order, by_name = ((given,), {}) if not isinstance(given, Sequence) else parted(given)
        if by_name:
            return self.named({**dict(zip(names, order, strict=False)), **by_name})
        tensors = order if isinstance(given, Tensor | Sequence) else ()
        if len(tensors) != len(names):
            came = "one tensor" if isinstance(given, Tensor) else f"{len(tensors)} of them"
            came = came if tensors else type(given).__name__
            raise LinregError(
                f"the network takes {len(names)} inputs, {_listed(names)}: give a tuple of tensors in this order, or a "
                f"dict by name, not {came}"
            )
        return dict(zip(names, tensors, strict=True))

    def without(self, *names: str) -> Inputs:
        """The others."""
        return replace(self, entries=tuple(entry for entry in self.entries if entry.name not in names))


def parted(given: Sequence[Any] | Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What is given in order, and what by name: of (x, {"mask": m}), x in order and the mask by name."""
    if isinstance(given, Mapping):
        return (), dict(given)
    if len(given) > 1 and isinstance(given[-1], Mapping):
        return tuple(given[:-1]), dict(given[-1])
    return tuple(given), {}


def check_shape(x: Tensor, shape: tuple[int, ...], batch: int | None, what: str = "the input") -> None:
    """Raise LinregError unless x is a tensor (N, *shape), N any number but 0, or `batch` if that is not None."""
    if not isinstance(x, Tensor):
        raise LinregError(f"{what} must be a torch.Tensor, not {type(x).__name__}")
    if tuple(x.shape[1:]) != shape or x.dim() == 0 or x.shape[0] == 0:
        wanted = ", ".join(map(str, ("N" if batch is None else batch, *shape)))
        alone = ": it lacks the batch dimension, which x[None] adds" if tuple(x.shape) == shape else ""
        raise LinregError(f"{what} must have shape ({wanted}), not {tuple(x.shape)}{alone}")
    if batch is not None and x.shape[0] != batch:
        raise LinregError(
            f"this network fixes its batch size, and was traced with {batch} images, not {x.shape[0]}: "
            "its forward holds the number of inputs as a constant, as len(x) does: use x.shape[0], or trace it with "
            "an example of that batch size"
        )


def check_data(
    x: Tensor, shape: tuple[int, ...], batch: int | None, dtype: torch.dtype, device: torch.device,
    what: str = "the input",
) -> None:  # fmt: skip
    """Raise LinregError unless x, which is called `what`, is a finite tensor (N, *shape) like the network."""
    check_shape(x, shape, batch, what)
    if x.dtype != dtype or x.device != device:
        raise LinregError(
            f"{what} must be {dtype} on {device} like the network, not {x.dtype} on {x.device}: "
            f"use x.to({str(device)!r}, {dtype})"
        )
    if not x.isfinite().all():
        raise LinregError(f"{what} holds NaN or infinite values: a linear region needs finite numbers")


def of_torch(x: Tensor) -> Tensor:
    """A tensor of torch's own class, for one of a subclass: of a tensor with metadata, say, the tensor.

    Raises LinregError for one within torch.vmap and its like, which stands for many values at once.
    """
    if isinstance(x, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(x):
        raise LinregError(
            "this tensor is one within torch.vmap, or another transform of torch.func, where it has no values of its "
            "own: trace and linearize outside of it, a batch at once"
        )
    if type(x) is Tensor or not isinstance(x, Tensor):
        return x
    with torch._C.DisableTorchFunctionSubclass():
        return x.as_subclass(Tensor)


def check_bound(batch: int | None, images: int) -> None:
    """Raise LinregError unless a graph that is bound to the fixed inputs of `batch` images is given as many."""
    if batch not in (None, images):
        raise LinregError(
            f"this graph is bound to the fixed inputs of {batch} images, and is given {images}: linearize the graph "
            "that was traced, with the fixed inputs of these"
        )


def images_of(named: Mapping[str, Tensor], inputs: Inputs) -> int:
    """How many images there are. Raises LinregError where the data inputs do not agree on it."""
    counts = {entry.name: len(named[entry.name]) for entry in inputs.data}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name!r} {count}" for name, count in counts.items())
        raise LinregError(f"all inputs must hold the same number of images, one for one; they hold: {told}")
    return next(iter(counts.values()))


def check_fixed(entry: Input, value: Tensor, images: int, device: torch.device) -> Tensor:
    """A fixed input for so many images. Raises LinregError where it does not fit."""
    if not isinstance(value, Tensor):
        raise LinregError(f"the fixed input '{entry.name}' must be a torch.Tensor, not {type(value).__name__}")
    wanted = (images, *entry.shape) if entry.each else entry.shape
    for_all = (1, *entry.shape) if entry.each else entry.shape
    if tuple(value.shape) not in (wanted, for_all):
        raise LinregError(f"the fixed input '{entry.name}' must have shape {wanted}, not {tuple(value.shape)}")
    if value.dtype != entry.dtype or value.device != device:
        raise LinregError(
            f"the fixed input '{entry.name}' must be {entry.dtype} on {device}, not {value.dtype} on {value.device}"
        )
    if not value.isfinite().all():
        raise LinregError(f"the fixed input '{entry.name}' holds NaN or infinite values")
    return value.detach().clone().expand(wanted)  # the caller may use its memory for the next image


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
