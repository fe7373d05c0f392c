"""Sizes in a program: N, the number of images, which stays open, and those that only a look at a constant tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from linreg.capture.refuse import Refused
from linreg.operators.base import Shape
from linreg.operators.structure import PIECES, RESHAPES
from linreg.operators.table import BATCH, Call

# Calls that take sizes, and the argument that holds them.
SIZED = {
    "repeat": "repeats",
    "tile": "dims",
    "reshape": "shape",
    **dict.fromkeys(("expand", "view", "_unsafe_view", "zeros", "ones", "full", "empty"), "size"),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty", "affine_grid_generator"), "size"),
}


PLACED = (*PIECES, "slice_scatter", "select_scatter", "index_select", "repeat_interleave")  # they take places along it


@dataclass(frozen=True)
class Sizes:
    """What is known of the sizes in a program, each of them a number or an expression of the exporter's.

    `batch` is N, `dims` the number of dimensions of the input. `learned` holds the sizes that the exporter leaves open
    because values decide them, such as that of `x[:, mask]`: where the mask is constant, so is the size.
    """

    batch: Any
    dims: int
    learned: Mapping[Any, int] = field(default_factory=dict)

    @classmethod
    def of_input(cls, value: Tensor) -> Sizes:
        """From the input as the exporter sees it, (N, …)."""
        size = value.shape[0]
        return cls(size.node.expr if isinstance(size, torch.SymInt) else size, value.dim())

    def learn(self, value: Tensor, actual: Tensor) -> Sizes:
        """The same, and the open sizes of a value, which are those that it actually has."""
        learned = dict(self.learned)
        for size, number in zip(value.shape, actual.shape, strict=True):
            if isinstance(size, torch.SymInt) and free_unbacked_symbols(size):
                learned[size.node.expr] = number
        return replace(self, learned=learned)

    def number(self, size: torch.SymInt | int) -> Any:
        """A size as a number where it is known, else as the expression that it is."""
        if not isinstance(size, torch.SymInt):
            return size
        known = size.node.expr.xreplace(self.learned)
        return int(known) if isinstance(known, int) or known.is_number else known

    def argument(self, size: torch.SymInt | int) -> Any:
        """A size as calls and their rules are given it: a number, BATCH, or as it came where it is neither."""
        if not isinstance(size, torch.SymInt):
            return size
        number = self.number(size)
        if number == self.batch:
            return BATCH
        return number if isinstance(number, int) else size

    def of_one_image(self, value: Tensor) -> Shape:
        """The shape of a value without N; raises Refused unless dimension 0 is N and keeps the images apart."""
        sizes = [self.number(size) for size in value.shape]
        if sizes and sizes[0] == self.batch and all(isinstance(size, int) for size in sizes[1:]):
            return tuple(sizes[1:])
        shape = ", ".join("N" if size == self.batch else str(size) for size in sizes)
        why = f"its result has shape ({shape}), which does not keep the images of a batch apart in dimension 0"
        advice = "reshape to (N, …), and reduce over the other dimensions only"
        picture = "; is the batch dimension missing? x[None]" * (self.dims == 3)  # (C, H, W), taken for (N, …)
        raise Refused(f"{why}: {advice}{picture}", arranges=True)


def is_open(value: Tensor) -> bool:
    """Whether the exporter leaves a size of this value open, other than N."""
    return bool(free_unbacked_symbols(value))


def check_sizes(call: Call) -> None:
    """Raise Refused where a call computes with N, other than to keep it as a size, or with another open size."""
    sized = call.name in RESHAPES or call.name in SIZED
    if any(isinstance(leaf, torch.SymInt) or (leaf is BATCH and not sized) for leaf in call.leaves):
        why = "it computes with the number of images, which the graph leaves open"
        raise Refused(why, call, arranges=sized or call.name in PLACED)
