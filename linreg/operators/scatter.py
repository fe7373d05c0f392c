"""Elements brought together in groups by fixed indices: their means, sums and extremes (`scatter_reduce`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf, prod

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from linreg.errors import LinregError
from linreg.operators.base import Affine, Constant, Operator, Role, Shape
from linreg.operators.reach import Follows, Placed
from linreg.operators.reasons import DATA_INDEX
from linreg.operators.resample import Measured
from linreg.operators.rounding import Rounding, most
from linreg.operators.sparse import Array, selection, to_numpy
from linreg.operators.structure import keeps_images
from linreg.operators.table import Built, Call, Data, Known, rule


@dataclass(frozen=True, eq=False)
class Picked(Affine):
    """z_j = x_{i(j)}, or the fixed β_j where `index` (N, M), flat in x and z, is negative."""

    index: Tensor
    before: Shape
    after: Shape
    value: Tensor
    kind = "group extreme"
    new_value = new_gradients = True

    @property
    def constants(self) -> tuple[Constant, ...]:  # type: ignore[override]
        return (Constant("offset", self.value),) if self.value.any() else ()

    def linear(self, *inputs: Tensor) -> Tensor:
        x = inputs[0].flatten(1)
        picked = x.gather(1, self.index.clamp_min(0).expand(x.shape[0], -1))
        return torch.where(self.index < 0, x.new_zeros(()), picked).view(x.shape[0], *self.after)

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        flat = torch.where(self.index < 0, grad.new_zeros(()), grad.flatten(1))
        result = grad.new_zeros(grad.shape[0], prod(self.before))
        result.scatter_add_(1, self.index.clamp_min(0).expand(flat.shape), flat)
        return (result.view(grad.shape[0], *self.before),)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        return (selection(to_numpy(self.index[image]), prod(self.before)),)

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        """The groups are in no order: all positions come together."""
        return tuple({} for _ in inputs)

    def rounding(self, *inputs: Tensor) -> Rounding:
        """Moves only; the adjoint adds up the groups that picked one element."""
        copies = self.adjoint(torch.ones_like(self.linear(*inputs)))
        return Rounding(self.linear, 0, most(copies) - 1)


@dataclass(frozen=True, eq=False)
class GroupExtremum(Operator):
    """z_j = the largest (or least) x_i of group j, i in `members` (M, K), flat and filled up with the number of x.

    `start` (*after) is what a group without members gives; where `takes_part`, it is one of each group, and wins a tie.
    """

    largest: bool
    members: Tensor
    start: Tensor
    takes_part: bool
    before: Shape
    after: Shape
    kind = "group extreme"
    role = Role.MAX_POOL

    def freeze(self, *inputs: Tensor) -> Picked:
        candidates = self._candidates(inputs[0], -inf if self.largest else inf)
        best, place = candidates.max(-1) if self.largest else candidates.min(-1)
        start = self.start.flatten()
        taken = best.isfinite()
        if self.takes_part:
            taken = taken & (best > start if self.largest else best < start)
        index = self.members.expand(len(best), *self.members.shape).gather(-1, place[..., None])[..., 0]
        value = torch.where(taken, start.new_zeros(()), start).view(len(best), *self.after)
        return Picked(torch.where(taken, index, -1), self.before, self.after, value)

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        """The groups are in no order: all positions come together."""
        return tuple({} for _ in inputs)

    def moves(self, *errors: Tensor) -> Tensor:
        """An extreme moves no more than the element that moves most."""
        return self._candidates(errors[0], 0.0).amax(-1).view(len(errors[0]), *self.after)

    def _candidates(self, x: Tensor, fill: float) -> Tensor:
        """The members of each group, (N, M, K)."""
        flat = x.flatten(1)
        return torch.cat([flat, flat.new_full((len(flat), 1), fill)], 1)[:, self.members]


@dataclass(frozen=True, eq=False)
class _Groups:
    """Element `sources[i]` of x goes to `targets[i]` of z, both flat, of one image."""

    sources: Array
    targets: Array
    before: Shape
    after: Shape

    @property
    def counts(self) -> Array:
        return np.bincount(self.targets, minlength=prod(self.after))

    def members(self, device: torch.device) -> Tensor:
        """The elements of each group, filled up with the number of elements, (M, K)."""
        order = np.argsort(self.targets, kind="stable")
        targets, first = self.targets[order], np.cumsum(self.counts) - self.counts
        table = np.full((prod(self.after), max(1, self.counts.max(initial=0))), prod(self.before))
        table[targets, np.arange(len(order)) - first[targets]] = self.sources[order]
        return torch.as_tensor(table, device=device)


def _groups(call: Call, x: Data, index: Tensor, everywhere: bool) -> _Groups:
    """`index` names along `dim` the place of each element; of all that are in one place, where it has one dimension."""
    dim = call["dim"] % (len(call.shape) + call.leading) - call.leading
    if everywhere:
        index = index.view(-1, *[1] * (len(x.shape) - dim - 1)).expand(x.shape)
    elif not call.lifted:
        index = _of_one_image(index, call)
    at = np.indices(tuple(index.shape))
    sources = np.ravel_multi_index(tuple(at), x.shape)
    at[dim] = to_numpy(index)
    return _Groups(sources.ravel(), np.ravel_multi_index(tuple(at), call.shape).ravel(), x.shape, call.shape)


@dataclass(frozen=True, eq=False)
class GroupSum(Measured):
    """z_j = Σ w_i x_i over group j, as in `scatter_reduce` by sum or mean."""

    role: Role = field(kw_only=True, default=Role.AVERAGE)

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        """The groups are in no order: all positions come together."""
        return tuple({} for _ in inputs)


def _summed(sources: Tensor, targets: Tensor, weights: Tensor, shape: Shape, x: Tensor) -> Tensor:
    flat = x.flatten(1)[:, sources] * weights
    return flat.new_zeros(len(flat), prod(shape)).index_add(1, targets, flat).view(len(flat), *shape)


@rule("scatter_reduce", "index_reduce")
def _reduce(call: Call) -> Built:
    name = "src" if call.name == "scatter_reduce" else "source"
    if not isinstance(call["index"], Known):
        raise LinregError(str(DATA_INDEX))
    keeps_images(call, call["dim"])
    x = call.one_data(name)
    groups = _groups(call, x, call["index"].value, call.name == "index_reduce")
    fixed = _of_one_image(call.tensor(call["self"]), call)
    if call["reduce"] in ("amax", "amin"):
        members = groups.members(call.like.device)
        built = GroupExtremum(call["reduce"] == "amax", members, fixed, call["include_self"], x.shape, call.shape)
        return built, (x,)
    if call["reduce"] not in ("sum", "mean"):
        raise LinregError(f"it reduces by {call['reduce']}, which is not piecewise linear: use sums, means or maxima")
    return _averaged(call, groups, fixed, x)


def _averaged(call: Call, groups: _Groups, start: Tensor, x: Data) -> Built:
    """The start stands alone where a group has no members, and takes part in the sum if it is asked to."""
    counts = torch.as_tensor(groups.counts, device=start.device).view(call.shape)
    takes_part = counts.new_tensor(int(call["include_self"]))
    terms = counts + takes_part if call["reduce"] == "mean" else torch.ones_like(counts)
    scale = 1 / terms.clamp_min(1).to(call.like)
    constant = torch.where(counts == 0, start, start * takes_part * scale)
    sources, targets = (torch.as_tensor(each, device=start.device) for each in (groups.sources, groups.targets))
    function = partial(_summed, sources, targets, scale.flatten()[targets], call.shape)
    constants = (Constant("constant", constant, getattr(call["self"], "name", "")),) if constant.any() else ()
    kind = f"group {call['reduce']}"
    return GroupSum(function, (x.shape,), constants, kind, shape=call.shape, like=call.like), (x,)


def _of_one_image(value: Tensor, call: Call) -> Tensor:
    """What a fixed argument holds for each image alike."""
    if call.lifted:
        return value
    if (value != value[:1]).any():
        raise LinregError("what it is given differs between the images of a batch: give all of them the same")
    return value[0]
