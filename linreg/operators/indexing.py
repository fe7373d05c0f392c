"""Fixed indices: reading elements (x[:, [2, 0]], gather), and writing them (x[:, 0] = h), made functional by export."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

import torch
from scipy.sparse import csr_array
from torch import Tensor

from linreg.errors import LinregError
from linreg.operators.base import LinearFunction, Shape
from linreg.operators.reasons import DATA_INDEX
from linreg.operators.resample import Measured
from linreg.operators.rounding import Rounding, most
from linreg.operators.selection import where
from linreg.operators.sparse import selection, to_numpy
from linreg.operators.structure import Move, copied, keeps_images
from linreg.operators.table import Built, Call, Data, Known, rule


@dataclass(frozen=True, eq=False)
class Sums(LinearFunction):
    """z_j = Σ x_i over the i that go to j: each element of an input is added to one output at most (F.fold).

    Aᵀ moves, so it is asked where each element goes. `shape` is that of z, `like` an empty tensor on the data's device.
    """

    shape: Shape = field(kw_only=True)
    images: int | None = field(kw_only=True, default=None)
    like: Tensor = field(kw_only=True)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        """The adjoint is run on 1, 2, … in the place of values."""
        rows = prod(self.shape)
        numbers = torch.arange(1, rows + 1, dtype=torch.float64, device=self.like.device).view(1, *self.shape)
        places = self.adjoint(numbers.expand(self.images or 1, *self.shape))
        goals = [to_numpy(place[image if self.images else 0]).astype(int) - 1 for place in places]
        return tuple(selection(goal, rows).T.tocsr() for goal in goals)

    def rounding(self, *inputs: Tensor) -> Rounding:
        """Additions only; the adjoint moves."""
        terms = self.linear(*(torch.ones_like(x) for x in inputs))
        return Rounding(self.linear, most((terms,)) - 1, 0)


def _fixed_index(call: Call, *names: str) -> None:
    """Raise LinregError where an index depends on the input, or runs over the images."""
    leaves = [leaf for name in names for leaf in (call[name] if isinstance(call[name], list) else [call[name]])]
    if any(isinstance(leaf, Data) for leaf in leaves):
        raise LinregError(str(DATA_INDEX))
    first = call["indices"][0] if isinstance(call["indices"], list) else None
    if first is not None and not _is_own_image(first, call):
        keeps_images(call, 0)
    if call["dim"] is not None:
        keeps_images(call, call["dim"])


def _is_own_image(index: Any, call: Call) -> bool:
    """Whether an index along the batch is that of each image itself, as in x[arange(N), last]."""
    if not isinstance(index, Known) or index.value.dtype != torch.long or len(index.value) != call.images:
        return False
    own = torch.arange(call.images, device=index.value.device)
    return bool((index.value.flatten(1) == own[:, None] if index.value.dim() > 1 else index.value == own).all())


@rule("index", "_unsafe_index", "index_select", "gather", "take_along_dim")
def _read(call: Call) -> Built:
    _fixed_index(call, "indices", "index")
    return copied(call, "index")


@rule("slice_scatter", "select_scatter", "diagonal_scatter", "index_copy", "scatter.src", "scatter.value", "index_fill")
def _write(call: Call) -> Built:
    """x with some elements replaced by those of another, or by a number; what is fixed is a constant."""
    dims = [call["dim1"], call["dim2"]] if call.name == "diagonal_scatter" else [call["dim"]]
    keeps_images(call, *dims)
    _fixed_index(call, "index")
    if call["end"] is not None:  # the exporter's "to the end" is the largest integer, which overflows under vmap
        call = replace(call, arguments=call.arguments | {"end": min(call["end"], max(call.shape, default=1))})
    terms = (name for name in ("self", "src", "source", "value") if name in call.arguments)
    return _once(call, copied(call, "write", *terms))


def _once(call: Call, built: Built) -> Built:
    """Raise LinregError where two elements of data go to one place: PyTorch leaves open which of them stays.

    Its gradient goes to both, which is no transpose: ⟨A 1, 1⟩ < ⟨1, Aᵀ 1⟩. In float64, which counts exactly.
    """
    operator, data = built
    assert isinstance(operator, Move)
    ones = (call.like.new_ones(call.images or 1, *x.shape, dtype=torch.float64) for x in data)
    written = operator.linear(*ones)
    if sum(each.sum() for each in operator.adjoint(torch.ones_like(written))) > written.sum():
        why = "it writes two elements to one place, and which of them stays is not defined"
        raise LinregError(f"{why}: give each index once, or add them up (index_add, index_put with accumulate=True)")
    return built


def _is_mask(index: Any, call: Call) -> bool:
    """Whether an index says of each element of x, in all dimensions, whether it is meant."""
    rank = len(call.shape) + call.leading
    return isinstance(index, Known) and index.value.dtype == torch.bool and index.value.dim() == rank


@rule("index_put")
def _put(call: Call) -> Built:
    """x[:, indices] = values, or += where it accumulates: then one value may be added to several elements.

    x[mask] = number is a choice between the two.
    """
    mask, value = call["indices"][0], call["values"]
    if _is_mask(mask, call) and isinstance(value, Known) and value.value.numel() == 1 and not call["accumulate"]:
        return where(call, mask, replace(value, value=value.value.reshape(())), call["self"])
    _fixed_index(call, "indices")
    if call["accumulate"]:
        return copied(call, "write", "self", "values", form=partial(Measured, shape=call.shape))
    return _once(call, copied(call, "write", "self", "values"))


@rule("index_add", "scatter_add")
def _add(call: Call) -> Built:
    _fixed_index(call, "index")
    if call["alpha"] not in (None, 1):
        raise LinregError("it multiplies what it adds: multiply by alpha beforehand")
    return copied(call, "index add", "self", "src", "source", form=partial(Sums, shape=call.shape))


@rule("col2im")
def _fold(call: Call) -> Built:
    return copied(call, "fold", form=partial(Sums, shape=call.shape))
