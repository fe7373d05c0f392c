"""Fully connected layers, convolutions and batch norm."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from linreg.errors import LinregError
from linreg.operators.base import Affine, Constant, LinearFunction, Shape, sum_to
from linreg.operators.sparse import contraction, of_image, positions, selection, to_numpy
from linreg.operators.stencil import Stencil
from linreg.operators.table import Built, Call, Data, Known, rule
from linreg.rounding import Rounding


@dataclass(frozen=True, eq=False)
class Linear(Affine):
    """z = W x + b over the last dimension: W (out, in), x (N, …, in), with `places` vectors x in each image."""

    weight: Tensor
    constants: tuple[Constant, ...] = ()
    places: int = 1
    kind = "linear"

    def linear(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0], self.weight)

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        return (grad @ self.weight,)

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0], self.weight, _total(self.constants))

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        """diag(W, …, W), one W for each place."""
        columns = positions((self.places, 1, self.weight.shape[1]))
        return (contraction(to_numpy(self.weight), columns, columns.size),)

    def degrees(self) -> tuple[tuple[int, int], ...]:
        outputs, inputs = self.weight.shape
        return ((inputs, outputs),)

    def rounding(self, *inputs: Tensor) -> Rounding:
        return Rounding(replace(self, weight=self.weight.abs()).linear, *self.degrees()[0])

    def scaled(self, factor: Tensor, shift: Constant) -> Linear:
        """diag(factor) (W x + b) + shift: batch norm folded into the layer."""
        scaled = tuple(replace(c, value=c.value * factor) for c in self.constants)
        return replace(self, weight=self.weight * factor[:, None], constants=(*scaled, shift))


@dataclass(frozen=True, eq=False)
class Convolution(Affine):
    """z = W ∗ x + b in 1 to 3 dimensions, or its transpose (Eq. 15). `shape` is that of x: (channels, *positions)."""

    weight: Tensor
    shape: Shape
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    transposed: bool
    output_padding: list[int]
    constants: tuple[Constant, ...] = ()

    @property
    def kind(self) -> str:
        return f"conv{'_transpose' * self.transposed}{len(self.stride)}d" + " + bn" * any(
            c.kind == "shift" for c in self.constants
        )

    def _convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        geometry = (
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding,
            self.groups,
        )
        return torch.convolution(x, self.weight, bias, *geometry)

    def linear(self, *inputs: Tensor) -> Tensor:
        return self._convolve(inputs[0], None)

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        x = grad.new_empty(grad.shape[0], *self.shape)  # only its size enters; it is never read
        result, _, _ = torch.ops.aten.convolution_backward(
            grad, x, self.weight, None, self.stride, self.padding, self.dilation,
            self.transposed, self.output_padding, self.groups, [True, False, False],
        )  # fmt: skip
        return (result,)

    def __call__(self, *inputs: Tensor) -> Tensor:
        total = _total(self.constants)
        return self._convolve(inputs[0], None if total is None else total.flatten())

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        matrix = self.stencil.sparse()
        return (matrix.T.tocsr() if self.transposed else matrix,)

    def degrees(self) -> tuple[tuple[int, int], ...]:
        row, column = self.stencil.degrees()
        return ((column, row) if self.transposed else (row, column),)

    def rounding(self, *inputs: Tensor) -> Rounding:
        return Rounding(replace(self, weight=self.weight.abs()).linear, *self.degrees()[0])

    @property
    def stencil(self) -> Stencil:
        """This convolution, or the one from z to x that it is the transpose of."""
        shape, sizes = self.shape, self.sizes
        if self.transposed:
            shape, sizes = (self.weight.shape[1] * self.groups, *sizes), shape[1:]
        return Stencil(self.weight, shape, sizes, self.stride, self.padding, self.dilation, self.groups)

    @property
    def sizes(self) -> Shape:
        """The sizes of z."""
        sides = zip(
            self.shape[1:], self.weight.shape[2:], self.stride, self.padding, self.dilation, self.output_padding,
            strict=True,
        )  # fmt: skip
        if self.transposed:
            return tuple((n - 1) * s - 2 * p + d * (k - 1) + extra + 1 for n, k, s, p, d, extra in sides)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d, _ in sides)

    def scaled(self, factor: Tensor, shift: Constant) -> Convolution:
        """diag(factor) (W ∗ x + b) + shift: batch norm folded into the layer, one factor for each output channel."""
        column = factor.view(-1, *[1] * (self.weight.dim() - 1))
        scaled = tuple(replace(c, value=c.value * column[:, 0]) for c in self.constants)
        return replace(self, weight=self.weight * column, constants=(*scaled, shift))


@dataclass(frozen=True, eq=False)
class Scale(Affine):
    """z = a ⊙ x + β with a fixed `factor` a: free batch norm, a division, a change of sign. `shape` is that of x."""

    factor: Tensor | float
    shape: Shape
    constants: tuple[Constant, ...] = ()
    kind: str = "scale"

    def linear(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * self.factor

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        return (sum_to(grad * self.factor, (grad.shape[0], *self.shape)),)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        """diag(a), its rows repeated where x is broadcast."""
        scale = of_image(self.factor, image, len(self.shape)) if isinstance(self.factor, Tensor) else self.factor
        factor, source = np.broadcast_arrays(to_numpy(scale), positions(self.shape))
        return (selection(source, prod(self.shape), factor),)

    def rounding(self, *inputs: Tensor) -> Rounding:
        """One product; where the input is broadcast, its adjoint adds up the copies."""
        copies = self.linear(*inputs).numel() // inputs[0].numel()
        factor = self.factor.abs() if isinstance(self.factor, Tensor) else abs(self.factor)
        return Rounding(replace(self, factor=factor).linear, 1, copies)


@dataclass(frozen=True, eq=False)
class MatMul(LinearFunction):
    """z = x W, or W x with `left`, over the last two dimensions: W (…, k, m) fixed, or one for each image, (N, …)."""

    weight: Tensor = field(kw_only=True)
    left: bool = field(kw_only=True)
    kind: str = "matmul"

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        """Element (…, i, m) is row i of the left factor times column m of the right one, over k."""
        x, weight = positions((1, *self.shapes[0])), to_numpy(self._weight(image))
        if self.left:
            matrix = contraction(weight[..., :, None, :], x.swapaxes(-1, -2)[..., None, :, :], x.size)
        else:
            matrix = contraction(weight.swapaxes(-1, -2)[..., None, :, :], x[..., :, None, :], x.size)
        return (matrix,)

    def degrees(self) -> tuple[tuple[int, int], ...]:
        weight = self._weight()
        inner = weight.shape[-1 if self.left else -2]
        return ((inner, weight.numel() // inner),)

    def rounding(self, *inputs: Tensor) -> Rounding:
        weight = self.weight.abs()
        return Rounding(lambda x: weight @ x if self.left else x @ weight, *self.degrees()[0])

    def _weight(self, image: int = 0) -> Tensor:
        """W for one image; a vector as a matrix."""
        weight = of_image(self.weight, image, max(2, len(self.shapes[0])))
        return weight if weight.dim() > 1 else weight[None, :] if self.left else weight[:, None]


@dataclass(frozen=True, eq=False)
class SameConvolution(LinearFunction):
    """z = W ∗ x + b with z as large as x: an even window takes one zero more behind x than before it."""

    stencil: Stencil = field(kw_only=True)
    kind: str = "conv (same)"

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        return (self.stencil.sparse(),)

    def degrees(self) -> tuple[tuple[int, int], ...]:
        return (self.stencil.degrees(),)

    def rounding(self, *inputs: Tensor) -> Rounding:
        stencil, convolve = self.stencil, (F.conv1d, F.conv2d, F.conv3d)[len(self.stencil.positions) - 1]
        geometry = (stencil.stride, "same", stencil.dilation, stencil.groups)
        return Rounding(lambda x: convolve(x, stencil.weight.abs(), None, *geometry), *self.degrees()[0])


def _total(constants: tuple[Constant, ...]) -> Tensor | None:
    if not constants:
        return None
    total = constants[0].value
    for constant in constants[1:]:
        total = total + constant.value
    return total


def _bias(known: Known | None, positions: int) -> tuple[Constant, ...]:
    if known is None:
        return ()
    return (Constant("bias", known.value.view(-1, *[1] * positions), known.name),)


@rule("linear")
def _linear(call: Call) -> Built:
    x = call.one_data("input")
    return Linear(call["weight"].value, _bias(call["bias"], 0), prod(x.shape[:-1])), (x,)


@rule("addmm")
def _addmm(call: Call) -> Built:
    """β b + α x W, as exported from older linear layers."""
    x = call.one_data("mat1")
    weight = call["mat2"].value.t() * call["alpha"]
    if call["self"].value.numel() not in (1, len(weight)):
        raise LinregError("it adds a matrix that differs from image to image")
    bias = Known(call["self"].name, (call["self"].value * call["beta"]).flatten().expand(len(weight)))
    return Linear(weight, _bias(bias, 0)), (x,)


@rule("mm", "matmul", "bmm")
def _matmul(call: Call) -> Built:
    """x W or W x with W fixed; two data factors are a product and are refused."""
    place = next(name for name, argument in call.arguments.items() if isinstance(argument, Data))
    x = call.one_data(place)
    if place != "self" and len(x.shape) < 2:
        raise LinregError("it sums over the batch dimension: multiply from the right, x @ W")
    (weight,) = (leaf.value for leaf in call.leaves if isinstance(leaf, Known))
    return MatMul(call.evaluate, (x.shape,), weight=weight, left=place != "self"), (x,)


@rule("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _convolution(call: Call) -> Built:
    x, weight = call.one_data("input"), call["weight"].value
    positions = weight.dim() - 2
    transposed = bool(call["transposed"]) or "transpose" in str(call.target)

    def geometry(name: str) -> list[int]:
        return list(call[name]) * (positions // len(call[name]))

    stride, dilation = geometry("stride"), geometry("dilation")
    if isinstance(call["padding"], str):
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        padding = [r // 2 if call["padding"] == "same" else 0 for r in reach]
        if call["padding"] == "same" and any(r % 2 for r in reach):
            stencil = Stencil(weight, x.shape, x.shape[1:], stride, padding, dilation, call["groups"])
            return _same_convolution(call, stencil)
    else:
        padding = geometry("padding")
    return (
        Convolution(
            weight, x.shape, stride, padding, dilation, call["groups"], transposed,
            geometry("output_padding") if transposed else [0] * positions, _bias(call["bias"], positions),
        ),
        (x,),
    )  # fmt: skip


def _same_convolution(call: Call, stencil: Stencil) -> Built:
    x, bias = call.one_data("input"), call["bias"]
    bare = replace(call, arguments=call.arguments | {"bias": None})
    constants = _bias(bias, len(call.shape) - 1)
    return SameConvolution(bare.evaluate, (x.shape,), constants, stencil=stencil), (x,)


@rule("_native_batch_norm_legit_no_training", "batch_norm", "native_batch_norm", "cudnn_batch_norm")
def _batch_norm(call: Call) -> Built:
    """γ (x − μ) / √(v + ε) + β as a ⊙ x + shift, a = γ / √(v + ε), shift = β − a μ (formed in float64)."""
    mean, variance = call["running_mean"], call["running_var"]
    if call["training"] or mean is None or variance is None:
        raise LinregError(BATCH_STATISTICS)
    x = call.one_data("input")
    gamma, beta = call["weight"], call["bias"]
    factor = (variance.value.double() + call["eps"]).rsqrt()
    factor = factor if gamma is None else factor * gamma.value.double()
    shift = -factor * mean.value.double()
    shift = shift if beta is None else shift + beta.value.double()
    column = (-1, *[1] * (len(x.shape) - 1))
    factor, shift = (v.to(mean.value.dtype).view(column) for v in (factor, shift))
    owner = mean.name.removesuffix(".running_mean")
    return Scale(factor, x.shape, (Constant("shift", shift, f"{owner}.shift"),), "batch norm"), (x,)


BATCH_STATISTICS = (
    "batch norm without running statistics divides by the statistics of the batch, which is not piecewise linear: "
    "train it with track_running_stats=True, or replace it by a layer with fixed statistics"
)


@rule("_native_batch_norm_legit", "_native_batch_norm_legit_functional", "instance_norm")
def _batch_statistics(call: Call) -> Built:
    raise LinregError(BATCH_STATISTICS)
