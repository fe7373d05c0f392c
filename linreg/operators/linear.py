"""Fully connected layers, convolutions and batch norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn

from linreg.errors import LinregError
from linreg.operators.base import Affine, Constant, LinearFunction, Role, Shape, sum_to, with_parameters
from linreg.operators.reach import Follows, Placed, elementwise, identity
from linreg.operators.reasons import BATCH_STATISTICS
from linreg.operators.rounding import Rounding
from linreg.operators.sparse import contraction, of_image, positions, selection, to_numpy
from linreg.operators.stencil import Stencil
from linreg.operators.table import Built, Call, Known, rule


@dataclass(frozen=True, eq=False)
class Linear(Affine):
    """z = W x + b over the last dimension: W (out, in), x (N, …, in), with `places` vectors x in each image."""

    weight: Tensor
    constants: tuple[Constant, ...] = ()
    places: int = 1
    kind = "linear"
    role = Role.WEIGHTS
    channel_axis = -1
    new_value = new_gradients = shared = True

    def linear(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0], self.weight)

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        return (grad @ self.weight,)

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0], self.weight, _total(self.constants))

    def layer(self) -> nn.Module:
        outputs, inputs = self.weight.shape
        total = _total(self.constants)
        return with_parameters(nn.Linear(inputs, outputs, total is not None, device="meta"), self.weight, total)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        """diag(W, …, W), one W for each place."""
        columns = positions((self.places, 1, self.weight.shape[1]))
        return (contraction(to_numpy(self.weight), columns, columns.size),)

    def degrees(self) -> tuple[tuple[int, int], ...]:
        outputs, inputs = self.weight.shape
        return ((inputs, outputs),)

    def rounding(self, *inputs: Tensor) -> Rounding:
        return Rounding(replace(self, weight=self.weight.abs()).linear, *self.degrees()[0])

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        """Along the last dimension all positions come together; the others stay."""
        (x,) = inputs
        return ({d: (d, identity(x.shape[d])) for d in x.dims if d < len(x.shape) - 1},)

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
    role = Role.WEIGHTS
    channel_axis = 0
    new_value = new_gradients = shared = True

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
        last = grad.dim() == 4 and not grad.is_contiguous() and grad.is_contiguous(memory_format=torch.channels_last)
        order = torch.channels_last if last else torch.contiguous_format
        # Only its size and layout enter; it is never read.
        x = torch.empty((grad.shape[0], *self.shape), dtype=grad.dtype, device=grad.device, memory_format=order)
        result, _, _ = torch.ops.aten.convolution_backward(
            grad, x, self.weight, None, self.stride, self.padding, self.dilation,
            self.transposed, self.output_padding, self.groups, [True, False, False],
        )  # fmt: skip
        return (result,)

    def __call__(self, *inputs: Tensor) -> Tensor:
        total = _total(self.constants)
        return self._convolve(inputs[0], None if total is None else total.flatten())

    def layer(self) -> nn.Module:
        names = ("stride", "padding", "dilation") + ("output_padding",) * self.transposed
        geometry = {name: tuple(getattr(self, name)) for name in names}
        return _layer(self.weight, self.constants, self.groups, self.transposed, **geometry)

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        matrix = self.stencil.sparse()
        return (matrix.T.tocsr() if self.transposed else matrix,)

    def degrees(self) -> tuple[tuple[int, int], ...]:
        row, column = self.stencil.degrees()
        return ((column, row) if self.transposed else (row, column),)

    def rounding(self, *inputs: Tensor) -> Rounding:
        return Rounding(replace(self, weight=self.weight.abs()).linear, *self.degrees()[0])

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        windows = self.stencil.reach(inputs[0].dims)
        return ({d: (d, window.inverse() if self.transposed else window) for d, window in windows.items()},)

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
    """z = a ⊙ x + β with a fixed `factor` a: a product with a constant, a division. `shape` is that of x."""

    factor: Tensor | float
    shape: Shape
    constants: tuple[Constant, ...] = ()
    kind = "scale"
    role = Role.SCALE
    new_value = new_gradients = True

    @property
    def shared(self) -> bool:
        factor = self.factor
        return not isinstance(factor, Tensor) or factor.dim() <= len(self.shape) or len(factor) == 1

    def linear(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * self.factor

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        return (sum_to(grad * self.factor, (grad.shape[0], *self.shape)),)

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        return elementwise(inputs, output)

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
class BatchNorm(Scale):
    """z = a ⊙ x + β, one a and one β, the shift, for each channel: batch norm that is in no layer before it."""

    factor: Tensor
    kind = "batch norm"
    channel_axis = 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        factor, shift = self._channels
        zero, one = torch.zeros_like(factor), torch.ones_like(factor)
        return torch.batch_norm(inputs[0], factor, shift, zero, one, False, 0.0, 0.0, False)  # in one pass

    def layer(self) -> Callable[..., Tensor]:
        if len(self.shape) > 4:
            return super().layer()
        factor, shift = self._channels
        kind = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[len(self.shape) - 1]
        return with_parameters(kind(len(factor), eps=0.0).to(factor), factor, shift)

    @property
    def _channels(self) -> tuple[Tensor, Tensor]:
        (shift,) = self.constants
        return self.factor.flatten(), shift.value.flatten()


@dataclass(frozen=True, eq=False)
class SameConvolution(LinearFunction):
    """z = W ∗ x + b with z as large as x: an even window takes one zero more behind x than before it."""

    stencil: Stencil = field(kw_only=True)
    kind: str = "conv (same)"
    role = Role.WEIGHTS
    channel_axis = 0
    new_value = new_gradients = True

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        return (self.stencil.sparse(),)

    def degrees(self) -> tuple[tuple[int, int], ...]:
        return (self.stencil.degrees(),)

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        return ({d: (d, window) for d, window in self.stencil.reach(inputs[0].dims).items()},)

    def rounding(self, *inputs: Tensor) -> Rounding:
        stencil, convolve = self.stencil, (F.conv1d, F.conv2d, F.conv3d)[len(self.stencil.positions) - 1]
        geometry = (stencil.stride, "same", stencil.dilation, stencil.groups)
        return Rounding(lambda x: convolve(x, stencil.weight.abs(), None, *geometry), *self.degrees()[0])

    def layer(self) -> nn.Module:
        weight, groups, dilation = self.stencil.weight, self.stencil.groups, tuple(self.stencil.dilation)
        return _layer(weight, self.constants, groups, padding="same", dilation=dilation)


def _layer(
    weight: Tensor, constants: tuple[Constant, ...], groups: int, transposed: bool = False, **geometry: Any
) -> nn.Module:
    """The layer of torch.nn that is a convolution, or its transpose, with this weight."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    kind: Callable[..., nn.Module] = kinds[weight.dim() - 3 + 3 * transposed]
    channels, total = (weight.shape[1] * groups, len(weight)), _total(constants)
    inputs, outputs = channels[::-1] if transposed else channels
    layer = kind(inputs, outputs, weight.shape[2:], groups=groups, bias=total is not None, device="meta", **geometry)
    return with_parameters(layer, weight, None if total is None else total.flatten())


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
    if call["weight"].value.dim() != 2:
        raise LinregError("its weight is a vector, not a matrix (out, in): write x @ w")
    return Linear(call["weight"].value, _bias(call["bias"], 0), prod(x.shape[:-1])), (x,)


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


@rule("_native_batch_norm_legit_no_training", "batch_norm", "native_batch_norm", "cudnn_batch_norm", "instance_norm")
def _batch_norm(call: Call) -> Built:
    """γ (x − μ) / √(v + ε) + β as a ⊙ x + shift, a = γ / √(v + ε), shift = β − a μ (formed in float64)."""
    mean, variance = call["running_mean"], call["running_var"]
    if call["training"] or call["use_input_stats"] or mean is None or variance is None:
        raise LinregError(str(BATCH_STATISTICS))
    x = call.one_data("input")
    gamma, beta = call["weight"], call["bias"]
    factor = (variance.value.double() + call["eps"]).rsqrt()
    factor = factor if gamma is None else factor * gamma.value.double()
    shift = -factor * mean.value.double()
    shift = shift if beta is None else shift + beta.value.double()
    column = (-1, *[1] * (len(x.shape) - 1))
    factor, shift = (v.to(mean.value.dtype).view(column) for v in (factor, shift))
    owner = mean.name.removesuffix(".running_mean")
    return BatchNorm(factor, x.shape, (Constant("shift", shift, f"{owner}.shift"),)), (x,)
