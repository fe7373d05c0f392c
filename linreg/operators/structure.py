"""What only moves, copies or drops values: the reshape family, slices, windows, concatenation, padding.

All are linear, so each is a line of the table; adjoint and matrix come from their own forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, eye_array
from torch import Tensor

from linreg.operators.base import Affine, Constant, LinearFunction, Role, Shape
from linreg.operators.reach import IN_ONE, Follows, Placed, Reach, half_pixel, identity, moved, whole
from linreg.operators.reasons import AcrossImages
from linreg.operators.rounding import Rounding, most
from linreg.operators.sparse import Array, selection, to_numpy
from linreg.operators.table import BATCH, Built, Call, Data, Known, Zeros, order_of, rule

EXPAND = torch.ops.aten.expand.default
RESHAPES = ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze", "squeeze_copy")
MOVES = ("permute", "transpose", "movedim", "swapaxes", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle")
PIECES = (
    "slice",
    "select",
    "split",
    "split_with_sizes",
    "chunk",
    "unbind",
    "narrow",
    "unsafe_chunk",
    "unsafe_split",
)


@dataclass(frozen=True, eq=False)
class Reshape(Affine):
    """z = x with other dimensions: from (N, *before) to (N, *after), in the same order."""

    before: Shape
    after: Shape
    kind = "reshape"
    shared = True

    def linear(self, *inputs: Tensor) -> Tensor:
        return inputs[0].reshape(inputs[0].shape[0], *self.after)

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        return (grad.reshape(grad.shape[0], *self.before),)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        return (eye_array(prod(self.before), format="csr"),)

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        (x,) = inputs
        return ({d: self._follow(d, x.dims) for d in x.dims},)

    def _follow(self, d: int, placed: frozenset[int]) -> tuple[int | None, Reach]:
        """A dimension that begins where one of z does is that one, or is cut into it and others, or takes others in.

        What it takes in, or is cut from, must hold no other positions: an image is not flattened and kept in place.
        """
        size, start = self.before[d], prod(self.before[:d])
        e = next((e for e, n in enumerate(self.after) if prod(self.after[:e]) == start and (n > 1) == (size > 1)), None)
        if e is None:
            return None, whole(size, IN_ONE)
        count = self.after[e]
        if count == size:
            return e, identity(size)
        larger, smaller = max(size, count), min(size, count)
        taken = {other for other in placed if d < other and prod(self.before[:other]) < start * count}
        if larger % smaller or taken:
            return None, whole(size, IN_ONE)
        q, p = np.arange(count) * size // larger, np.arange(size) * count // larger
        return e, Reach(csr_array((q[:, None] == p).astype(float)), half_pixel(count, size / count), size / count)

    def rounding(self, *inputs: Tensor) -> Rounding:
        return Rounding(self.linear, 0, 0)


@dataclass(frozen=True, eq=False)
class Move(LinearFunction):
    """z_j = x_{i(j)}, or 0: each output is a copy of one element of one of the inputs x_1 … x_K.

    `images` is how many images the function takes, where that is fixed, `like` an empty tensor on its device; some
    moves put their inputs side by side, which their `role` says.
    """

    images: int | None = field(kw_only=True, default=None)
    like: Tensor = field(kw_only=True)
    role: Role = field(kw_only=True, default=Role.OTHER)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        sources = zip(self.sources(image if self.images else 0), self.shapes, strict=True)
        return tuple(selection(source, prod(shape)) for source, shape in sources)

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        return tuple(moved(source, x) for source, x in zip(self.sources(), inputs, strict=True))

    def sources(self, image: int = 0) -> tuple[Array, ...]:
        """For each input, shaped as z, where in it each element came from, flat; −1 for what comes from elsewhere.

        The function itself tells: it is run on 1, 2, … in the place of values.
        """
        *firsts, _ = accumulate((prod(shape) for shape in self.shapes), initial=1)
        places = []
        for first, shape in zip(firsts, self.shapes, strict=True):
            numbers = torch.arange(first, first + prod(shape), dtype=torch.float64, device=self.like.device)
            places.append(numbers.view(shape).expand(self.images or 1, *shape))
        source = to_numpy(self.function(*places)[image]).astype(np.int64)
        return tuple(_within(source - first, prod(shape)) for first, shape in zip(firsts, self.shapes, strict=True))

    def rounding(self, *inputs: Tensor) -> Rounding:
        """Moves only; the adjoint adds up the copies of one element."""
        copies = self.adjoint(torch.ones_like(self.linear(*inputs)))
        return Rounding(self.linear, 0, most(copies) - 1)


@dataclass(frozen=True, eq=False)
class Concat(Move):
    """z = [x_1, …, x_K] along dimension `dim`; its adjoint only cuts, where that of its function would copy."""

    dim: int = field(kw_only=True)
    role: Role = field(kw_only=True, default=Role.CONCATENATION)

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        return grad.split([shape[self.dim - 1] for shape in self.shapes], self.dim)

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        firsts = accumulate((shape[self.dim - 1] for shape in self.shapes), initial=0)
        return tuple(
            {d: (d, _shifted(x.shape[d], output[d], first if d == self.dim - 1 else 0)) for d in x.dims}
            for x, first in zip(inputs, firsts, strict=False)
        )


def _shifted(size: int, count: int, first: int) -> Reach:
    """q looks at p = q − first, where x has that; elsewhere at nothing of x."""
    p = np.arange(count) - first
    inside = (p >= 0) & (p < size)
    return Reach(selection(np.where(inside, p, -1), size), np.where(inside, p, np.nan))


@dataclass(frozen=True, eq=False)
class Pad(Move):
    """z = x with more around it, of x itself or of constants, or less. `sides`: before and after, the last dimension's
    first, negative where x is cropped.
    """

    sides: tuple[int, ...] = field(kw_only=True)

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        """q lies at p = q − before, in x or around it, wherever the padding is copied from."""
        (x,), follows = inputs, dict[int, tuple[int | None, Reach]]()
        for d in x.dims:
            before = dict(enumerate(self.sides[::2])).get(len(output) - 1 - d, 0)
            p = np.arange(output[d]) - before
            follows[d] = d, Reach(selection(self._copied(d, p), x.shape[d]), p.astype(float))
        return (follows,)

    def _copied(self, d: int, p: Array) -> Array:
        """The positions along dimension d of x that p = q − before are copied from; −1 for a constant."""
        (source,) = self.sources()
        place = np.where(source >= 0, np.unravel_index(np.maximum(source, 0), self.shapes[0])[d], -1)
        return place.max(tuple(axis for axis in range(place.ndim) if axis != d))


@dataclass(frozen=True, eq=False)
class Border(Pad):
    """z = x with zeros around it; its adjoint only cuts. `sides`: before and after, the last dimension's first."""

    def _copied(self, d: int, p: Array) -> Array:
        return np.where(p < self.shapes[0][d], p, -1)

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        for dim, before in enumerate(self.sides[::2], start=1):
            grad = grad.narrow(-dim, before, self.shapes[0][-dim])
        return (grad,)


def _within(source: np.ndarray, size: int) -> np.ndarray:
    """−1 for what comes from elsewhere."""
    return np.where(source < size, source, -1)


def copied(
    call: Call, kind: str, *terms: str, form: Callable[..., LinearFunction] = Move, constant: str = "constant"
) -> Built:
    """A call that copies the elements of its arguments, or adds them up, as an operator of this `form`.

    Of the arguments named in `terms`, the fixed ones are a constant, the kind of which is `constant`: β holds them, and
    zeros in the place of the data; the linear part has zeros in their place.
    """
    shapes, images = tuple(data.shape for data in call.data), call.images
    if not any(_fixed(call[term]) for term in terms):
        return form(call.evaluate, shapes, kind=kind, images=images, like=call.like), call.data
    linear = replace(call, arguments=call.arguments | {term: _zeroed(call[term]) for term in terms})
    value: Tensor = call.evaluate(*(call.like.new_zeros(images or 1, *shape) for shape in shapes))
    constants = (Constant(constant, value),) if value.any() else ()
    return form(linear.evaluate, shapes, constants, kind, images=images, like=call.like), call.data


def _fixed(argument: Any) -> bool:
    """Whether any of it does not depend on the input."""
    if isinstance(argument, list):
        return any(_fixed(item) for item in argument)
    return not isinstance(argument, Data) and argument is not None


def _zeroed(argument: Any) -> Any:
    if isinstance(argument, list):
        return [_zeroed(item) for item in argument]
    if isinstance(argument, Known):
        return Zeros(tuple(argument.value.shape), argument.each)
    return 0.0 if isinstance(argument, int | float) else argument


def keeps_images(call: Call, *dims: int) -> None:
    """Raise LinregError where a call moves elements along dimension 0, if that is the batch."""
    if not call.lifted and any(dim % (len(call.data[0].shape) + 1) == 0 for dim in dims):
        raise AcrossImages("this call mixes the images of a batch: move dimensions other than 0")


@rule(*RESHAPES)
def _reshape(call: Call) -> Built:
    """Each by the shapes that it had in the program, so that a batch of one stays a batch under squeeze()."""
    x = call.one_data("self")
    return Reshape(x.shape, call.shape), (x,)


@rule("expand", "repeat", "tile")
def _expand(call: Call) -> Built:
    return copied(call, "expand")


@rule("copy")
def _copy(call: Call) -> Built:
    """What is copied onto a value, in the shape of that one; `copy` itself has no derivative."""
    arguments = {"self": call["src"], "size": [BATCH, *call.shape]}
    return copied(replace(call, target=EXPAND, arguments=arguments, order=order_of(EXPAND)), "expand")


@rule("repeat_interleave")
def _repeat(call: Call) -> Built:
    keeps_images(call, call["dim"] or 0)
    call.one_data("self")
    return copied(call, "expand")


@rule(*MOVES)
def _permute(call: Call) -> Built:
    return copied(call, "permute")


@rule(*PIECES)
def _piece(call: Call) -> Built:
    return copied(call, "slice")


@rule("diagonal", "diag_embed", "tril", "triu")
def _diagonal(call: Call) -> Built:
    """Elements on, above or below a diagonal, or zeros with x for their diagonal."""
    keeps_images(call, *(call[name] for name in ("dim1", "dim2") if call.name == "diagonal"))
    return copied(call, "diagonal")


@rule("unfold", "im2col")
def _unfold(call: Call) -> Built:
    """Windows, as a dimension of their own."""
    keeps_images(call, *(call[name] for name in ("dimension",) if call.name == "unfold"))
    return copied(call, "unfold")


@rule("cat", "concat", "stack", "hstack", "dstack", "column_stack")
def _concatenate(call: Call) -> Built:
    """[x_1, …, x_K]; fixed parts (a class token) are constants."""
    parts, dim = call["tensors"], (call["dim"] or 0) % (len(call.shape) + 1)
    if call.name in ("cat", "concat") and dim > 0 and not call.lifted and all(isinstance(part, Data) for part in parts):
        shapes = tuple(part.shape for part in parts)
        form = partial(Concat, kind="concat", images=call.images, like=call.like, dim=dim)
        return form(call.evaluate, shapes), call.data
    return copied(call, "concat", "tensors", form=partial(Move, role=Role.CONCATENATION))


@rule("flip", "roll", "rot90", "fliplr")
def _reorder(call: Call) -> Built:
    keeps_images(call, *([1] if call.name == "fliplr" else call["dims"] or [0]))
    return copied(call, "permute")


@rule("pad", "constant_pad_nd")
def _pad(call: Call) -> Built:
    """Zeros, reflections or copies at the border; a constant other than 0 is a line of the ledger."""
    sides = tuple(call["pad"])[: 2 * len(call.shape)]  # what is beyond, of the batch, is 0
    if call["mode"] not in (None, "constant"):
        return copied(call, "pad", form=partial(Pad, sides=sides))
    terms = ("value",) if call["value"] else ()
    form = partial(Border if min(sides, default=0) >= 0 else Pad, sides=sides)
    return copied(call, "pad", *terms, form=form, constant="pad")
