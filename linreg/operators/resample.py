"""Linear maps whose matrices are found by evaluating them: those that act along one dimension at a time, or any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from math import prod

import numpy as np
import torch
from scipy.sparse import csr_array, eye_array, kron, vstack
from torch import Tensor

from linreg.errors import LinregError
from linreg.operators.base import LinearFunction, Shape
from linreg.operators.reach import Follows, Placed, Reach, half_pixel, identity
from linreg.operators.reasons import AcrossImages
from linreg.operators.rounding import Rounding
from linreg.operators.sparse import degrees_of, to_numpy
from linreg.operators.table import Built, Call, Known, rule

aten = torch.ops.aten
CHUNK = 2**22  # elements of the largest value on the way, over all the unit vectors measured at once


@dataclass(frozen=True, eq=False)
class Separable(LinearFunction):
    """z = (A_1 ⊗ … ⊗ A_D) x, D the dimensions of x: a Kronecker product of one small matrix for each.

    `factors` make these when asked: A_d by the number d of the dimension, counted without the batch; the others are 1.
    `reaches` make for the same dimensions what they tell of places.
    """

    factors: Mapping[int, Callable[[], csr_array]] = field(kw_only=True)
    reaches: Mapping[int, Callable[[], Reach]] = field(kw_only=True)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        sizes = enumerate(self.shapes[0])
        factors = [self.factors[d]() if d in self.factors else eye_array(n, format="csr") for d, n in sizes]
        return (reduce(lambda left, right: kron(left, right, format="csr"), factors),)

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        """A sum over a whole dimension may drop it."""
        (x,) = inputs
        dropped = self.reaches if len(output) < len(x.shape) else ()
        follows: dict[int, tuple[int | None, Reach]] = {}
        for d in x.dims:
            e = None if d in dropped else d - sum(gone < d for gone in dropped)
            follows[d] = e, self.reaches[d]() if d in self.reaches else identity(x.shape[d])
        return (follows,)

    def degrees(self) -> tuple[tuple[int, int], ...]:
        rows, columns = zip((1, 1), *(degrees_of(factor()) for factor in self.factors.values()), strict=True)
        return ((prod(rows), prod(columns)),)

    def rounding(self, *inputs: Tensor) -> Rounding:
        """A product in one or two steps for each term, unless all coefficients are 1; then the sums."""
        factors = {d: factor() for d, factor in self.factors.items()}
        ((row, column),) = self.degrees()
        products = 0 if all((factor.data == 1).all() for factor in factors.values()) else 2
        signed = any((factor.data < 0).any() and (factor.data > 0).any() for factor in factors.values())
        absolute = partial(_absolute, factors) if signed else lambda x: self.linear(x).abs()
        return Rounding(absolute, row - 1 + products, column - 1 + products)


def _absolute(factors: dict[int, csr_array], x: Tensor) -> Tensor:
    """(|A_1| ⊗ … ⊗ |A_D|) x."""
    for d, factor in factors.items():
        first = x.movedim(d + 1, 0)
        product = abs(factor) @ first.double().flatten(1).numpy(force=True)  # numpy has no bfloat16
        x = torch.from_numpy(product).to(x).view(-1, *first.shape[1:]).movedim(0, d + 1)
    return x


@dataclass(frozen=True, eq=False)
class Measured(LinearFunction):
    """z = f(x_1, …, x_K) for any linear f: its matrices are its values at the unit vectors, measured in chunks.

    `like` is an empty tensor of the data's dtype and device, `shape` that of z, `images` how many images f takes where
    that is fixed; `channelwise` says that f treats each element of the first dimension by itself, and all alike.
    """

    shape: Shape = field(kw_only=True)
    like: Tensor = field(kw_only=True)
    images: int | None = field(kw_only=True, default=None)
    channelwise: bool = field(kw_only=True, default=False)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        if not self.channelwise:
            return tuple(self._measure(self.shapes, k, image) for k in range(len(self.shapes)))
        ((channels, *sides),) = self.shapes
        one = self._measure(((1, *sides),), 0, image)
        return (kron(eye_array(channels), one, format="csr"),)

    def degrees(self) -> tuple[tuple[int, int], ...]:
        first = 1 if self.channelwise else 0
        return tuple((prod(shape[first:]), prod(self.shape[first:])) for shape in self.shapes)

    def _measure(self, shapes: tuple[Shape, ...], k: int, image: int) -> csr_array:
        """The matrix of input k; a function of a fixed number of images takes one unit vector at a time, at `image`."""
        first = image if self.images else 0
        width, largest = prod(shapes[k]), max(prod(self.shape), *(prod(shape) for shape in shapes))
        chunk = 1 if self.images else max(1, CHUNK // largest)
        columns = []
        for numbers in torch.arange(width, device="cpu").split(chunk):
            inputs = [self.like.new_zeros(self.images or len(numbers), *shape) for shape in shapes]
            inputs[k].view(len(inputs[k]), -1)[first + torch.arange(len(numbers), device="cpu"), numbers] = 1
            values = self.function(*inputs)[first : first + len(numbers)]
            columns.append(csr_array(to_numpy(values.flatten(1))))
        return vstack(columns).T.tocsr()


# ---- upsampling ----

LINEAR, CUBIC = aten.upsample_bilinear2d.default, aten.upsample_bicubic2d.default
KERNELS: dict[str, Callable[..., Tensor]] = {
    **{f"upsample_nearest{d}d": aten.upsample_nearest2d.default for d in (1, 2, 3)},
    **{f"_upsample_nearest_exact{d}d": aten._upsample_nearest_exact2d.default for d in (1, 2, 3)},
    **dict.fromkeys(("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"), LINEAR),
    "upsample_bicubic2d": CUBIC,
    "_upsample_bilinear2d_aa": aten._upsample_bilinear2d_aa.default,
    "_upsample_bicubic2d_aa": aten._upsample_bicubic2d_aa.default,
}


@rule(*KERNELS)
def _upsample(call: Call) -> Built:
    """One small matrix for each position dimension: what the function makes of a row of pixels (F.interpolate)."""
    x = call.one_data("input" if call["input"] is not None else "self")
    sides = len(x.shape) - 1
    scales = call["scale_factors"] or [call[name] for name in ("scales_d", "scales_h", "scales_w")[-sides:]]
    scales = [call["scales"]] if call["scales"] is not None else scales
    rows = {d: partial(_row, call, x.shape[d], d, scale) for d, scale in enumerate(scales, 1)}
    reaches = {d: partial(_resampled, call, d, scale, rows[d]) for d, scale in enumerate(scales, 1)}
    return Separable(call.evaluate, (x.shape,), kind="upsample", factors=rows, reaches=reaches), (x,)


def _row(call: Call, size: int, d: int, scale: float | None) -> csr_array:
    units = torch.eye(size, dtype=call.like.dtype, device=call.like.device).view(size, 1, 1, size)
    corners = [] if call["align_corners"] is None else [call["align_corners"]]
    row = KERNELS[call.name](units, [1, call.shape[d]], *corners, None, scale)
    return csr_array(to_numpy(row[:, 0, 0].T.contiguous()))


def _resampled(call: Call, d: int, scale: float | None, row: Callable[[], csr_array]) -> Reach:
    """Corner to corner, or with half pixels, as the function takes it; fewer by `nearest` lie where they are read."""
    reads = row()
    count, size = reads.shape
    step = 1 / scale if scale else size / count
    if call["align_corners"]:
        step = (size - 1) / max(count - 1, 1)
        return Reach(reads, np.arange(count) * step, step)
    picks = "nearest" in call.name and step > 1
    return Reach(reads, reads.indices.astype(float) if picks else half_pixel(count, step), step)


@rule("grid_sampler")
def _grid_sampler(call: Call) -> Built:
    """Sampling at fixed places (a spatial transformer with a fixed transform): linear in the picture."""
    x = call.one_data("input")
    form = Measured(
        call.evaluate, (x.shape,), kind="grid sample",
        shape=call.shape, like=call.like, images=call.images, channelwise=True,
    )  # fmt: skip
    return form, (x,)


# ---- sums and differences along a dimension ----


Factor = Callable[[int], csr_array]


def _along(call: Call, kind: str, factor: Factor, reach: Callable[[csr_array], Reach]) -> Built:
    """`reach` tells of places, given what the `factor` makes for the size of x."""
    x = call.one_data("self")
    d = call["dim"] % (len(x.shape) + call.leading) - call.leading
    if d < 0:
        raise AcrossImages("it runs over the batch dimension: the images are not kept apart")
    matrix = partial(factor, x.shape[d])
    reaches = {d: partial(_told, reach, matrix)}
    return Separable(call.evaluate, (x.shape,), kind=kind, factors={d: matrix}, reaches=reaches), (x,)


def _told(reach: Callable[[csr_array], Reach], matrix: Callable[[], csr_array]) -> Reach:
    return reach(matrix())


@rule("cumsum")
def _cumsum(call: Call) -> Built:
    return _along(call, "cumsum", _triangle, partial(Reach, centres=None, why="a position holds all that come before"))


def _triangle(size: int) -> csr_array:
    return csr_array(np.tri(size))


@rule("diff")
def _diff(call: Call) -> Built:
    if isinstance(call["prepend"], Known) or isinstance(call["append"], Known):
        raise LinregError("it takes differences to fixed values: concatenate these to the data first")
    return _along(call, "diff", partial(_differences, call["n"]), partial(_between, call["n"]))


def _between(order: int, differences: csr_array) -> Reach:
    return Reach(differences, np.arange(differences.shape[0]) + order / 2)


def _differences(order: int, size: int) -> csr_array:
    matrix = eye_array(size, format="csr")
    for n in range(size, size - order, -1):
        matrix = (eye_array(n - 1, n, k=1) - eye_array(n - 1, n)) @ matrix
    return csr_array(matrix)
