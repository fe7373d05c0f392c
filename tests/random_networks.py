"""Random networks: a hypothesis strategy that draws a description, and the module that runs it.

A `Network` is a list of steps; each applies one kind of operator, of the table KINDS, to values that came before it
(value 0 is the input). The description is all there is: its repr, pasted into a test, is the same network again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from nets import Lambda, randomised
from torch import Tensor, nn

aten = torch.ops.aten
Shape = tuple[int, ...]
Draw = Callable[[st.SearchStrategy], Any]
Layer = Callable[..., Tensor]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FUNCTIONS = (F.conv1d, F.conv2d, F.conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
LARGE = 60  # elements of one image, from which on nothing makes a value larger


@dataclass(frozen=True)
class Step:
    """Value = operator of this kind (values that it reads)."""

    kind: str
    reads: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """A description: the shape of one input, the number of images, the seed of all weights, the steps."""

    shape: Shape
    images: int
    seed: int
    steps: tuple[Step, ...]

    def model(self) -> nn.Module:
        """The network in float64 and eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return randomised(Model(self).double()).eval().requires_grad_(False)

    def input(self, images: int | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(images or self.images, *self.shape, generator=generator, dtype=torch.float64)


class Model(nn.Module):
    """Runs a description: its value is that of the last step."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.steps = network.steps
        self.layers: tuple[Layer, ...] = ()
        shapes = [network.shape]
        for step in network.steps:
            layer = build(step, shapes[step.reads[0]], self.layers)
            self.layers += (layer,)
            shapes.append(shape_of(layer, [shapes[i] for i in step.reads]))
        for i, layer in enumerate(self.layers):
            if isinstance(layer, nn.Module):
                self.add_module(f"step{i}", layer)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for step, layer in zip(self.steps, self.layers, strict=True):
            values.append(layer(*(values[i] for i in step.reads)))
        return values[-1]


def build(step: Step, shape: Shape, layers: tuple[Layer, ...] = ()) -> Layer:
    """The module or function of a step that first reads a value of this shape."""
    if step.kind == AGAIN:
        return layers[step.options["step"]]
    return KINDS[step.kind].build(shape, **step.options)


@torch.no_grad()
def shape_of(layer: Layer, shapes: list[Shape]) -> Shape:
    """What the layer makes of images of these shapes, as it tells when it is run."""
    if isinstance(layer, nn.Module):
        layer = layer.double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the copy that "same" makes for an even window, once in each process
        return tuple(layer(*(torch.zeros(2, *shape, dtype=torch.float64) for shape in shapes)).shape[1:])


# ---- the table of kinds ----


@dataclass(frozen=True)
class Kind:
    """One kind of step: `build` makes a layer for a shape and options, `options` draws them for a shape that `suits`.

    `beside` says which shapes the other value may have, where the step reads two. `grows` makes a value larger;
    `writes` changes the value that it reads, which must not have been read before, and comes from a layer that does
    not need its output for autograd.
    """

    build: Callable[..., Layer]
    options: Callable[[Draw, Shape], dict[str, Any]]
    suits: Callable[[Shape], bool]
    beside: Callable[[Shape, Shape], bool] | None = None
    grows: bool = False
    writes: bool = False


KINDS: dict[str, Kind] = {}
AGAIN = "again"  # the module of an earlier step, with its weights
JOIN = "join"  # the last step, where several values are left unread
SELDOM = frozenset(
    {AGAIN, "relu, written over", "sum, written over", "pixel shuffle", "squeeze", "squeeze, copied", "squeeze several"}
)
WRITABLE = frozenset({"linear", "convolution", "batch norm", "add", "sum"})


def kind(
    name: str,
    options: Callable[[Draw, Shape], dict[str, Any]] = lambda draw, shape: {},
    suits: Callable[[Shape], bool] = lambda shape: True,
    **rest: Any,
) -> Callable[[Callable[..., Layer]], Callable[..., Layer]]:
    """Enter a builder into the table."""

    def register(build: Callable[..., Layer]) -> Callable[..., Layer]:
        KINDS[name] = Kind(build, options, suits, **rest)
        return build

    return register


def simple(name: str, function: Layer, suits: Callable[[Shape], bool] = lambda shape: True, **rest: Any) -> None:
    """A kind without options: one function."""
    KINDS[name] = Kind(lambda shape: function, lambda draw, shape: {}, suits, **rest)


def choice(**choices: list) -> Callable[[Draw, Shape], dict[str, Any]]:
    """Options each drawn from a list."""
    return lambda draw, shape: {name: draw(st.sampled_from(values)) for name, values in choices.items()}


def along(name: str, function: Callable[[Tensor, int], Tensor], **rest: Any) -> None:
    """A kind that runs along one dimension."""
    KINDS[name] = Kind(lambda shape, dim: lambda x: function(x, dim), one_dim, lambda shape: True, **rest)


def layered(shape: Shape) -> bool:
    """Channels and positions: (C, L), (C, H, W) or (C, D, H, W)."""
    return 2 <= len(shape) <= 4


def at_least(rank: int, most: int = 12) -> Callable[[Shape], bool]:
    return lambda shape: rank <= len(shape) <= most


def dims_of(draw: Draw, shape: Shape, least: int = 1) -> tuple[int, ...]:
    """Some of the dimensions after the batch, in any order, a few of them counted from the end."""
    dims = draw(st.lists(st.integers(1, len(shape)), min_size=least, max_size=len(shape), unique=True))
    return tuple(d - len(shape) - 1 if draw(st.booleans()) else d for d in dims)


def one_dim(draw: Draw, shape: Shape) -> dict[str, Any]:
    return {"dim": draw(st.sampled_from([*range(1, len(shape) + 1), -1]))}


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def same(shape: Shape, other: Shape) -> bool:
    return shape == other


def broadcasts(shape: Shape, other: Shape) -> bool:
    return len(shape) == len(other) and all(a == b or 1 in (a, b) for a, b in zip(shape, other, strict=True))


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def constant_shape(draw: Draw, shape: Shape) -> dict[str, Any]:
    """That of a constant that broadcasts to the value, with as many dimensions or fewer."""
    full = tuple(n if draw(st.booleans()) else 1 for n in shape)
    return {"constant": full[draw(st.integers(0, len(shape))) :], "learned": draw(st.booleans())}


def with_constant(function: Callable[[Tensor, Tensor], Tensor], constant: Shape, learned: bool) -> Layer:
    value = random(*constant)
    value = value.sign() * (0.5 + value.abs())
    return Lambda(lambda x, a: function(x, a), a=nn.Parameter(value) if learned else value)


# ---- fully connected layers and convolutions ----


def _linear_options(draw: Draw, shape: Shape) -> dict[str, Any]:
    norm = draw(st.booleans()) if len(shape) == 1 else False
    return {"outputs": draw(st.integers(1, 5)), "bias": draw(st.booleans()), "norm": norm}


@kind("linear", _linear_options)
def _linear(shape: Shape, outputs: int, bias: bool, norm: bool) -> Layer:
    layer = nn.Linear(shape[-1], outputs, bias)
    return nn.Sequential(layer, nn.BatchNorm1d(outputs)) if norm else layer


@kind("addmm", choice(outputs=[1, 3], beta=[1, 0.5], alpha=[1, -2.0]), at_least(1, 1))
def _addmm(shape: Shape, outputs: int, beta: float, alpha: float) -> Layer:
    weight = random(*shape, outputs) / prod(shape)
    return Lambda(lambda x, b, W: torch.addmm(b, x, W, beta=beta, alpha=alpha), b=random(outputs), W=weight)


@kind("matmul", choice(outputs=[1, 2, 4]))
def _matmul(shape: Shape, outputs: int) -> Layer:
    return Lambda(lambda x, W: x @ W, W=random(shape[-1], outputs) / shape[-1])


@kind("mm", choice(outputs=[1, 2, 4]), at_least(1, 1))
def _mm(shape: Shape, outputs: int) -> Layer:
    return Lambda(lambda x, W: torch.mm(x, W), W=random(shape[-1], outputs) / shape[-1])


@kind("matmul from the left", choice(outputs=[1, 2, 4]), at_least(2))
def _left(shape: Shape, outputs: int) -> Layer:
    return Lambda(lambda x, W: W @ x, W=random(outputs, shape[-2]) / shape[-2])


def _convolution_options(draw: Draw, shape: Shape) -> dict[str, Any]:
    channels, *sizes = shape
    groups = draw(st.sampled_from(divisors(channels)))
    mode = draw(st.sampled_from(["zeros", "zeros", "same", "valid", "reflect", "circular", "replicate"]))
    kernel, stride, padding, dilation = [], [], [], []
    for size in sizes:
        padding.append(draw(st.integers(0, min(2, size - 1))) if mode not in ("same", "valid") else 0)
        room = size + 2 * padding[-1]
        kernel.append(draw(st.integers(1, 3 if mode == "same" else min(3, room))))
        dilation.append(draw(st.integers(1, 2)) if mode == "same" or 2 * (kernel[-1] - 1) < room else 1)
        stride.append(draw(st.integers(1, 3)) if mode != "same" else 1)
    return {
        "outputs": groups * draw(st.integers(1, 2)), "kernel": tuple(kernel), "stride": tuple(stride),
        "padding": mode if mode in ("same", "valid") else tuple(padding), "dilation": tuple(dilation),
        "groups": groups, "bias": draw(st.booleans()), "mode": "zeros" if mode in ("same", "valid") else mode,
        "norm": draw(st.sampled_from(["", "after", "before"])),
    }  # fmt: skip


@kind("convolution", _convolution_options, layered)
def _convolution(
    shape: Shape, outputs: int, kernel: Shape, stride: Shape, padding: Any, dilation: Shape, groups: int, bias: bool,
    mode: str, norm: str,
) -> Layer:  # fmt: skip
    """With batch norm after it (folded) or before it (not), or alone."""
    dims = len(kernel)
    layer = CONVOLUTIONS[dims - 1](
        shape[0], outputs, kernel, stride, padding, dilation, groups, bias, padding_mode=mode
    )  # fmt: skip
    if norm == "after":
        return nn.Sequential(layer, NORMS[dims](outputs, affine=bias))
    return nn.Sequential(NORMS[dims](shape[0], affine=bias), layer) if norm else layer


@kind("convolution, by its own name", choice(dilation=[1, 2], transposed=[False, True]), layered)
def _own_name(shape: Shape, dilation: int, transposed: bool) -> Layer:
    dims = len(shape) - 1
    ones, zeros = [1] * dims, [0] * dims
    weight = random(*((shape[0], 2) if transposed else (2, shape[0])), *[2] * dims) / shape[0] / 2**dims
    return Lambda(
        lambda x, W, b: aten.convolution(
            x, W, b, ones, [dilation] * dims if not transposed else zeros, [dilation] * dims, transposed, zeros, 1
        ),
        W=weight, b=random(2),
    )  # fmt: skip


def _transposed_options(draw: Draw, shape: Shape) -> dict[str, Any]:
    channels, *sizes = shape
    groups = draw(st.sampled_from(divisors(channels)))
    options: dict[str, list[int]] = {name: [] for name in ("kernel", "stride", "padding", "extra", "dilation")}
    for size in sizes:
        most = 3 if len(sizes) < 3 else 2
        kernel, stride, dilation = draw(st.integers(1, most)), draw(st.integers(1, most)), draw(st.integers(1, 2))
        whole = (size - 1) * stride + dilation * (kernel - 1) + 1
        padding = draw(st.integers(0, min(1, (whole - 1) // 2)))
        extra = draw(st.integers(0, max(stride, dilation) - 1))
        for values, value in zip(options.values(), (kernel, stride, padding, extra, dilation), strict=True):
            values.append(value)
    tuples = {name: tuple(values) for name, values in options.items()}
    return tuples | {
        "outputs": groups * draw(st.integers(1, 2)), "groups": groups, "bias": draw(st.booleans()),
        "norm": draw(st.booleans()),
    }  # fmt: skip


@kind("transposed convolution", _transposed_options, layered, grows=True)
def _transposed(
    shape: Shape, outputs: int, kernel: Shape, stride: Shape, padding: Shape, extra: Shape, dilation: Shape,
    groups: int, bias: bool, norm: bool,
) -> Layer:  # fmt: skip
    dims = len(kernel)
    layer = TRANSPOSED[dims - 1](shape[0], outputs, kernel, stride, padding, extra, groups, bias, dilation)
    return nn.Sequential(layer, NORMS[dims](outputs)) if norm else layer


@kind("batch norm", choice(affine=[True, False], eps=[1e-5, 0.1]), at_least(1, 4))
def _batch_norm(shape: Shape, affine: bool, eps: float) -> Layer:
    return NORMS[len(shape) - 1](shape[0], affine=affine, eps=eps)


# ---- gates ----

simple("relu", torch.relu)
simple("relu of a method", lambda x: x.relu())
simple("relu, written over", torch.relu_, writes=True)
simple("relu, written over after a copy", lambda x: F.relu(x * 1.5, inplace=True))
simple("abs", torch.abs)
simple("clamp at zero", lambda x: x.clamp(min=0))


@kind("relu of a module", choice(inplace=[False]))
def _relu(shape: Shape, inplace: bool) -> Layer:
    return nn.ReLU(inplace)


@kind("relu6", choice(gain=[1, 8], own=[False, True]))
def _relu6(shape: Shape, gain: int, own: bool) -> Layer:
    return lambda x: (aten.relu6 if own else F.relu6)(gain * x)


@kind("leaky relu", choice(slope=[0.1, -0.5, 0.0, 1.5]))
def _leaky(shape: Shape, slope: float) -> Layer:
    return nn.LeakyReLU(slope)


@kind("prelu", choice(channels=[False, True]))
def _prelu(shape: Shape, channels: bool) -> Layer:
    return Lambda(lambda x, slopes: F.prelu(x, slopes), slopes=nn.Parameter(random(shape[0] if channels else 1)))


@kind("prelu, by its kernel's name")
def _prelu_kernel(shape: Shape) -> Layer:
    slopes = random(shape[0], *[1] * (len(shape) - 1))
    return Lambda(lambda x, slopes: aten._prelu_kernel(x, slopes), slopes=slopes)


@kind("hardtanh", choice(low=[-0.5, 0.0, -2.0], high=[0.25, 1.0]))
def _hardtanh(shape: Shape, low: float, high: float) -> Layer:
    return nn.Hardtanh(low, high)


@kind("clamp", choice(low=[-0.5, None, 0.3], high=[0.5, 1]))
def _clamp(shape: Shape, low: float | None, high: float) -> Layer:
    return lambda x: x.clamp(low, high)


@kind("clamp to one bound", choice(bound=[-0.4, 0.3], above=[True, False]))
def _clamp_one(shape: Shape, bound: float, above: bool) -> Layer:
    return lambda x: (torch.clamp_max if above else torch.clamp_min)(x, bound)


@kind("clamp to tensors", choice(low=[True, False], high=[True, False]))
def _clamp_tensors(shape: Shape, low: bool, high: bool) -> Layer:
    """Bounds of the channels; where neither is wanted, the upper one."""
    bounds = {"a": -random(shape[0], *[1] * (len(shape) - 1)).abs(), "b": random(*shape).abs() / 2}
    return Lambda(lambda x, a, b: x.clamp(a if low else None, b if high or not low else None), **bounds)


@kind("threshold", choice(value=[-2.0, 0.37]))
def _threshold(shape: Shape, value: float) -> Layer:
    return nn.Threshold(0.37, value)


@kind("shrink", choice(soft=[True, False]))
def _shrink(shape: Shape, soft: bool) -> Layer:
    return nn.Softshrink(0.23) if soft else nn.Hardshrink(0.23)


@kind("randomised relu", choice(lower=[0.1, -0.3]))
def _rrelu(shape: Shape, lower: float) -> Layer:
    return nn.RReLU(lower, 0.5)


simple("maximum", torch.maximum, beside=broadcasts)
simple("minimum", torch.minimum, beside=broadcasts)
simple("larger of two multiples", lambda x: torch.maximum(x, 0.1 * x))
simple("where, of two data", lambda x, y: torch.where(x > y, x + y, y), beside=broadcasts)
simple("where, of itself", lambda x: torch.where(x > 0.37, x, -0.5))
simple("where, of multiples", lambda x: torch.where(x.abs() <= 0.41, 2 * x, x - 1))


@kind("maximum with a constant", constant_shape)
def _maximum_constant(shape: Shape, constant: Shape, learned: bool) -> Layer:
    return with_constant(torch.maximum, constant, learned)


@kind("minimum with a constant", constant_shape)
def _minimum_constant(shape: Shape, constant: Shape, learned: bool) -> Layer:
    return with_constant(torch.minimum, constant, learned)


# ---- pools ----


def _pool_sides(draw: Draw, sizes: Shape, dilated: bool) -> dict[str, tuple[int, ...]]:
    sides = []
    for size in sizes:
        kernel = draw(st.integers(1, min(3, size)))
        padding = draw(st.integers(0, kernel // 2))
        dilation = draw(st.integers(1, 2 if dilated and 2 * (kernel - 1) < size else 1))
        sides.append((kernel, draw(st.integers(1, 3)), padding, dilation))
    return dict(zip(("kernel", "stride", "padding", "dilation"), zip(*sides, strict=True), strict=True))


def _max_pool_options(draw: Draw, shape: Shape) -> dict[str, Any]:
    return _pool_sides(draw, shape[1:], True) | {"ceil": draw(st.booleans())}


@kind("max pool", _max_pool_options, layered)
def _max_pool(shape: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape, ceil: bool) -> Layer:
    pool = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[len(kernel) - 1]
    return pool(kernel, stride, padding, dilation, ceil_mode=ceil)


@kind("max pool with indices", _max_pool_options, layered)
def _max_pool_indices(shape: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape, ceil: bool) -> Layer:
    pool = (F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices)[len(kernel) - 1]
    return lambda x: pool(x, kernel, stride, padding, dilation, ceil)[0]


def _average_pool_options(draw: Draw, shape: Shape) -> dict[str, Any]:
    sides = _pool_sides(draw, shape[1:], False)
    del sides["dilation"]
    divisor = draw(st.sampled_from([None, 3])) if len(shape) > 2 else None
    return sides | {"ceil": draw(st.booleans()), "counted": draw(st.booleans()), "divisor": divisor}


@kind("average pool", _average_pool_options, layered)
def _average_pool(
    shape: Shape, kernel: Shape, stride: Shape, padding: Shape, ceil: bool, counted: bool, divisor: int | None
) -> Layer:
    if len(kernel) == 1:
        return nn.AvgPool1d(kernel, stride, padding, ceil, counted)
    pool = (nn.AvgPool2d, nn.AvgPool3d)[len(kernel) - 2]
    return pool(kernel, stride, padding, ceil, counted, divisor)


def _sizes(draw: Draw, shape: Shape) -> dict[str, Any]:
    return {"sizes": tuple(draw(st.integers(1, 4)) for _ in shape[1:])}


@kind("adaptive average pool", _sizes, layered)
def _adaptive(shape: Shape, sizes: Shape) -> Layer:
    return (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[len(sizes) - 1](sizes)


@kind("adaptive average pool, by its own name", _sizes, at_least(3, 3))
def _adaptive_own(shape: Shape, sizes: Shape) -> Layer:
    return lambda x: aten._adaptive_avg_pool2d(x, sizes)


@kind("adaptive max pool", _sizes, layered)
def _adaptive_max(shape: Shape, sizes: Shape) -> Layer:
    return (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)[len(sizes) - 1](sizes)


def _reduction(draw: Draw, shape: Shape) -> dict[str, Any]:
    dims = dims_of(draw, shape)
    keep = len(dims) == len(shape) or draw(st.booleans())
    return {"dims": dims, "keep": keep}


@kind("maximum over dimensions", _reduction)
def _amax(shape: Shape, dims: tuple[int, ...], keep: bool) -> Layer:
    return lambda x: x.amax(dims, keepdim=keep)


@kind("minimum over dimensions", _reduction)
def _amin(shape: Shape, dims: tuple[int, ...], keep: bool) -> Layer:
    return lambda x: x.amin(dims, keepdim=keep)


along("largest", lambda x, dim: x.max(dim, keepdim=True).values)
along("smallest", lambda x, dim: x.min(dim, keepdim=True)[0])
along("median", lambda x, dim: x.median(dim, keepdim=True).values)
along("k-th value", lambda x, dim: x.kthvalue((x.shape[dim] + 1) // 2, dim, keepdim=True).values)
along("top k", lambda x, dim: x.topk(min(2, x.shape[dim]), dim).values)
along("sort", lambda x, dim: x.sort(dim, descending=True).values)
along("smallest and largest", lambda x, dim: torch.add(*x.aminmax(dim=dim, keepdim=True)))


@kind("mean", _reduction)
def _mean(shape: Shape, dims: tuple[int, ...], keep: bool) -> Layer:
    return lambda x: x.mean(dims, keepdim=keep)


@kind("sum over dimensions", _reduction)
def _sum_over(shape: Shape, dims: tuple[int, ...], keep: bool) -> Layer:
    return lambda x: x.sum(dims, keepdim=keep)


# ---- arithmetic ----

simple("sum", lambda x, y: x + y, beside=same)
simple("difference", lambda x, y: x - y, beside=broadcasts)
simple("add itself", lambda x: x + x)
simple("sum, written over", lambda x, y: x.add_(y), beside=same, writes=True)
simple("negate", lambda x: -x)


@kind("add", choice(alpha=[1, -3, 0.5]), beside=broadcasts)
def _add(shape: Shape, alpha: float) -> Layer:
    return lambda x, y: torch.add(x, y, alpha=alpha)


@kind("add a constant", constant_shape)
def _add_constant(shape: Shape, constant: Shape, learned: bool) -> Layer:
    return with_constant(torch.add, constant, learned)


@kind("subtract a constant", constant_shape)
def _subtract_constant(shape: Shape, constant: Shape, learned: bool) -> Layer:
    return with_constant(torch.sub, constant, learned)


@kind("subtract from a constant", constant_shape)
def _from_constant(shape: Shape, constant: Shape, learned: bool) -> Layer:
    return with_constant(lambda x, a: torch.sub(a, x, alpha=2), constant, learned)


@kind("multiply by a constant", constant_shape)
def _multiply_constant(shape: Shape, constant: Shape, learned: bool) -> Layer:
    return with_constant(lambda x, a: a * x, constant, learned)


@kind("divide by a constant", constant_shape)
def _divide_constant(shape: Shape, constant: Shape, learned: bool) -> Layer:
    return with_constant(torch.div, constant, learned)


for sign, function in (
    ("plus", torch.add), ("minus", torch.sub), ("times", torch.mul), ("divided by", torch.div),
    ("subtracted from", lambda x, a: a - x), ("half subtracted from", lambda x, a: torch.rsub(x, a, alpha=0.5)),
):  # fmt: skip
    kind(f"{sign} a number", choice(number=[0.3, -2, 1.5]))(
        lambda shape, number, function=function: lambda x: function(x, number)
    )


@kind("add what is made for each image", choice(number=[1, 0.5]))
def _made(shape: Shape, number: float) -> Layer:
    return lambda x: x + torch.full((x.shape[0], *shape), number, dtype=x.dtype)


# ---- structure ----

simple("flatten", lambda x: x.flatten(1), at_least(2))
simple("squeeze", lambda x: x.squeeze(1), lambda shape: len(shape) > 1 and shape[0] == 1)
simple("squeeze, copied", lambda x: torch.squeeze_copy(x, -1), lambda shape: len(shape) > 1 and shape[-1] == 1)
simple("squeeze several", lambda x: x.squeeze((1, -1)), lambda shape: len(shape) > 2 and 1 in (shape[0], shape[-1]))
simple("dropout", lambda x: F.dropout(x, 0.5, training=False))
simple("identity", lambda x: x.contiguous().clone())


@kind("view", lambda draw, shape: {"to": factors(draw, prod(shape))})
def _view(shape: Shape, to: Shape) -> Layer:
    return lambda x: x.reshape(x.shape[0], *to)


@kind("view as inferred", lambda draw, shape: {"to": factors(draw, prod(shape))})
def _inferred(shape: Shape, to: Shape) -> Layer:
    return lambda x: x.reshape(-1, *to)


def factors(draw: Draw, n: int) -> tuple[int, ...]:
    """n as a product of one to four numbers."""
    found: list[int] = []
    for _ in range(draw(st.integers(0, 3))):
        found.append(draw(st.sampled_from(divisors(n // prod(found)))))
    return (*found, n // prod(found))


@kind("unsqueeze", lambda draw, shape: {"dim": draw(st.integers(1, len(shape) + 1))}, at_least(1, 4))
def _unsqueeze(shape: Shape, dim: int) -> Layer:
    return lambda x: x.unsqueeze(dim)


@kind("unflatten", lambda draw, shape: {"first": draw(st.sampled_from(divisors(shape[0])))}, at_least(1, 4))
def _unflatten(shape: Shape, first: int) -> Layer:
    return nn.Unflatten(1, (first, shape[0] // first))


@kind("repeat", lambda draw, shape: {"times": tuple(draw(st.integers(1, 2)) for _ in shape)}, grows=True)
def _repeat(shape: Shape, times: tuple[int, ...]) -> Layer:
    return lambda x: x.repeat(1, *times)


@kind("expand", choice(to=[2, 3]), lambda shape: 1 in shape, grows=True)
def _expand(shape: Shape, to: int) -> Layer:
    first = shape.index(1)
    return lambda x: x.expand(-1, *(to if d == first else -1 for d in range(len(shape))))


@kind("permute", lambda draw, shape: {"dims": tuple(draw(st.permutations(range(1, len(shape) + 1))))}, at_least(2))
def _permute(shape: Shape, dims: tuple[int, ...]) -> Layer:
    return lambda x: x.permute(0, *dims)


@kind("transpose", lambda draw, shape: {"dims": dims_of(draw, shape, 2)[:2]}, at_least(2))
def _transpose(shape: Shape, dims: tuple[int, int]) -> Layer:
    return lambda x: x.transpose(*dims)


@kind("flip", lambda draw, shape: {"dims": dims_of(draw, shape)})
def _flip(shape: Shape, dims: tuple[int, ...]) -> Layer:
    return lambda x: x.flip(dims)


def _roll_options(draw: Draw, shape: Shape) -> dict[str, Any]:
    dims = dims_of(draw, shape)
    return {"shifts": tuple(draw(st.integers(-3, 3)) for _ in dims), "dims": dims}


@kind("roll", _roll_options)
def _roll(shape: Shape, shifts: tuple[int, ...], dims: tuple[int, ...]) -> Layer:
    return lambda x: x.roll(shifts, dims)


def _slice_options(draw: Draw, shape: Shape) -> dict[str, Any]:
    slices = []
    for n in shape:
        start = draw(st.integers(-n, n - 1))
        stop = draw(st.sampled_from([None, *range(start % n + 1, n + 1)]))
        slices.append((start, stop, draw(st.integers(1, 2))))
    return {"slices": tuple(slices)}


@kind("slice", _slice_options)
def _slice(shape: Shape, slices: tuple[tuple[int, int | None, int], ...]) -> Layer:
    return lambda x: x[(slice(None), *(slice(*bounds) for bounds in slices))]


def _place(draw: Draw, shape: Shape) -> dict[str, Any]:
    dim = draw(st.integers(1, len(shape)))
    return {"dim": dim, "place": draw(st.integers(0, shape[dim - 1] - 1))}


@kind("select", _place, at_least(2))
def _select(shape: Shape, dim: int, place: int) -> Layer:
    return lambda x: x.select(dim, place)


@kind("unbind", _place, at_least(2))
def _unbind(shape: Shape, dim: int, place: int) -> Layer:
    return lambda x: x.unbind(dim)[place]


@kind("narrow", _place)
def _narrow(shape: Shape, dim: int, place: int) -> Layer:
    return lambda x: x.narrow(dim, place, shape[dim - 1] - place)


def _pieces(draw: Draw, shape: Shape) -> dict[str, Any]:
    dim = draw(st.integers(1, len(shape)))
    size = draw(st.integers(1, shape[dim - 1]))
    return {"dim": dim, "size": size}


def _split(pieces: Callable[[Tensor, int, int], tuple[Tensor, ...]]) -> Callable[..., Layer]:
    """The first and the last piece, where they are of one size subtracted, else the last alone."""

    def build(shape: Shape, dim: int, size: int) -> Layer:
        def function(x: Tensor) -> Tensor:
            first, *_, last = [*pieces(x, size, dim)] * 2
            return first - 2 * last if first.shape == last.shape else last

        return function

    return build


kind("split", _pieces)(_split(lambda x, size, dim: x.split(size, dim)))
kind("split with sizes", _pieces)(_split(lambda x, size, dim: x.split([x.shape[dim] - size, size], dim)))
kind("chunk", _pieces)(_split(lambda x, size, dim: x.chunk(size, dim)))
kind("unsafe split", _pieces)(_split(torch.unsafe_split))
kind("unsafe chunk", _pieces)(_split(torch.unsafe_chunk))


@kind("concatenate", one_dim, beside=lambda shape, other: len(shape) == len(other), grows=True)
def _concatenate(shape: Shape, dim: int) -> Layer:
    """What the two have in common in the other dimensions, and the first once more."""

    def function(x: Tensor, y: Tensor) -> Tensor:
        for d in range(1, x.dim()):
            if d != dim % x.dim():
                n = min(x.shape[d], y.shape[d])
                x, y = x.narrow(d, 0, n), y.narrow(d, 0, n)
        return torch.cat([x, y, x], dim)

    return function


@kind("stack", lambda draw, shape: {"dim": draw(st.integers(1, len(shape)))}, at_least(1, 3), beside=same, grows=True)
def _stack(shape: Shape, dim: int) -> Layer:
    return lambda x, y: torch.stack([x, y], dim)


@kind("concatenate a token", choice(front=[True, False], learned=[True, False]), at_least(1), grows=True)
def _token(shape: Shape, front: bool, learned: bool) -> Layer:
    """A constant, the same in every image, beside the data; where not learned, a sheet made for each image."""
    if learned:
        return Lambda(
            lambda x, token: torch.cat([token.expand(x.shape[0], *token.shape[1:]), x][:: 1 if front else -1], 1),
            token=nn.Parameter(random(1, 2, *shape[1:])),
        )
    return lambda x: torch.cat([torch.ones(x.shape[0], 1, *shape[1:], dtype=x.dtype), x][:: 1 if front else -1], 1)


def _pad_options(draw: Draw, shape: Shape) -> dict[str, Any]:
    """Of some last dimensions, at most all positions; modes other than constant want them all, or all but one."""
    mode = draw(st.sampled_from(["constant", "constant", "reflect", "replicate", "circular"]))
    mode = mode if layered(shape) else "constant"
    dims = len(shape) - 1 if mode != "constant" else draw(st.integers(1, len(shape)))
    sides: list[int] = []
    for n in reversed(shape[-dims:]):
        most = min(2, n - 1) if mode == "reflect" else min(2, n)
        least = -1 if mode == "constant" and n > 2 else 0
        sides += [draw(st.integers(least, most)), draw(st.integers(least, most))]
    value = draw(st.sampled_from([0.0, 0.7, -1.5])) if mode == "constant" else None
    return {"sides": tuple(sides), "mode": mode, "value": value}


@kind("pad", _pad_options, grows=True)
def _pad(shape: Shape, sides: tuple[int, ...], mode: str, value: float | None) -> Layer:
    return lambda x: F.pad(x, sides, mode, value)


@kind("constant padding, by its own name", choice(value=[0, 0.25]), grows=True)
def _constant_pad(shape: Shape, value: float) -> Layer:
    return lambda x: aten.constant_pad_nd(x, [1, 0], value)


@kind("pixel shuffle", choice(), lambda shape: len(shape) == 3 and shape[0] % 4 == 0)
def _shuffle(shape: Shape) -> Layer:
    return nn.PixelShuffle(2)


@kind("pixel unshuffle", choice(), lambda shape: len(shape) == 3 and shape[1] % 2 == 0 == shape[2] % 2)
def _unshuffle(shape: Shape) -> Layer:
    return nn.PixelUnshuffle(2)


@kind("channel shuffle", choice(), lambda shape: layered(shape) and shape[0] % 2 == 0)
def _channels(shape: Shape) -> Layer:
    return nn.ChannelShuffle(2)


def _upsample_options(draw: Draw, shape: Shape) -> dict[str, Any]:
    scale, corners = draw(st.sampled_from([None, 1.7])), draw(st.booleans())
    return {"scale": scale, "sizes": tuple(n + draw(st.integers(-1, 2)) for n in shape[1:]), "corners": corners}


def _upsample(*modes: str) -> Callable[..., Layer]:
    """By a factor, or to sizes that may be smaller; `modes` of one, two and three dimensions, or of all."""

    def build(shape: Shape, scale: float | None, sizes: Shape, corners: bool) -> Layer:
        mode, to = modes[(len(shape) - 2) % len(modes)], sizes if scale is None else None
        return lambda x: F.interpolate(x, to, scale, mode, None if "nearest" in mode else corners)

    return build


def _resampled(shape: Shape) -> bool:
    return layered(shape) and min(shape[1:]) > 1


kind("upsample, nearest", _upsample_options, _resampled, grows=True)(_upsample("nearest"))
kind("upsample, nearest exact", _upsample_options, _resampled, grows=True)(_upsample("nearest-exact"))
kind("upsample, linear", _upsample_options, _resampled, grows=True)(_upsample("linear", "bilinear", "trilinear"))
kind("upsample, cubic", _upsample_options, lambda shape: _resampled(shape) and len(shape) == 3, grows=True)(
    _upsample("bicubic")
)


along("cumulative sum", lambda x, dim: x.cumsum(dim))
along("differences", lambda x, dim: x.diff(dim=dim) if x.shape[dim] > 1 else x)
along("each twice", lambda x, dim: x.repeat_interleave(2, dim), grows=True)
along("select by indices", lambda x, dim: x.index_select(dim, torch.arange(x.shape[dim] - 1, -1, -1)))
along("sums of windows", lambda x, dim: x.unfold(dim, (x.shape[dim] + 1) // 2, 1).sum(-1))
simple("index", lambda x: x[:, [-1, 0, 0]])
simple("fixed choice", lambda x: x.masked_fill(torch.arange(x.shape[-1]) % 2 == 1, 0.6))
simple("windows as columns", lambda x: F.unfold(x, 2, padding=1, stride=2), at_least(3, 3))
simple("triangle", lambda x: x.tril() - 0.5 * x.triu(1), at_least(2))
simple("diagonal", lambda x: x.diagonal(0, -2, -1), at_least(2))
simple("rotate", lambda x: x.rot90(1, (1, 2)), at_least(2))
simple("weighted mean of two", lambda x, y: torch.lerp(x, y, 0.3), beside=same)


@kind("write into a slice", _place)
def _write(shape: Shape, dim: int, place: int) -> Layer:
    """A copy, whose part from this place on is written over by what is made of it."""

    def function(x: Tensor) -> Tensor:
        x = x.clone()
        part = x.narrow(dim, place, shape[dim - 1] - place)
        part.copy_(part.relu() - 0.5)
        return x

    return function


# ---- the strategy ----

SHAPES = [(6,), (2, 5), (4, 7), (2, 4, 4), (3, 5, 4), (4, 3, 5), (1, 6, 5), (8, 3, 2), (2, 3, 2, 4)]


@st.composite
def networks(draw: Draw, wanted: frozenset[str] = frozenset(), most: int = 12) -> Network:
    """Networks of four to `most` steps, and one or two more that bring all that is left unread into the output.

    The kinds in `wanted` are preferred, and those in SELDOM, which hardly any value suits.
    """
    if any(KINDS[name].writes for name in wanted & KINDS.keys()):
        wanted |= WRITABLE
    begin = draw(st.sampled_from(sorted(wanted & KINDS.keys()) or list(KINDS)))
    shapes = [draw(st.sampled_from([shape for shape in SHAPES if KINDS[begin].suits(shape)] or SHAPES))]
    steps: list[Step] = []
    _append(draw, shapes, steps, 0, frozenset({begin}))
    for _ in range(draw(st.integers(3, most - 1))):
        first = max(0, len(steps) - draw(st.sampled_from([0, 0, 0, 0, 1, 2, 3])))
        _append(draw, shapes, steps, first, wanted)
    read = {i for step in steps for i in step.reads}
    unread = tuple(i for i in range(len(shapes)) if i not in read)
    if len(unread) > 1:
        steps.append(Step(JOIN, unread))
    if draw(st.booleans()):
        last = (sum(prod(shapes[i]) for i in unread),) if len(unread) > 1 else shapes[-1]
        steps.append(Step("linear", (len(steps),), _linear_options(draw, last)))
    return Network(shapes[0], draw(st.integers(1, 3)), draw(st.integers(0, 99)), tuple(steps))


def _append(draw: Draw, shapes: list[Shape], steps: list[Step], first: int, wanted: frozenset[str]) -> None:
    """Add one step that reads value `first`."""
    shape = shapes[first]
    names = [*_suitable(shapes, steps, first)]
    preferred = [name for name in names if name.rstrip("0123456789") in wanted | SELDOM]
    name = draw(st.sampled_from(preferred if preferred and draw(st.integers(0, 5)) < 5 else names))
    if name.startswith(AGAIN):
        step = Step(AGAIN, (first,), {"step": int(name.removeprefix(AGAIN))})
        source = steps[step.options["step"]]
        layer = build(source, shape)
    else:
        kind, reads = KINDS[name], (first,)
        if kind.beside:
            reads += (draw(st.sampled_from([i for i, other in enumerate(shapes) if kind.beside(shape, other)][::-1])),)
        step = Step(name, reads, kind.options(draw, shape))
        layer = build(step, shape)
    steps.append(step)
    shapes.append(shape_of(layer, [shapes[i] for i in step.reads]))


def _suitable(shapes: list[Shape], steps: list[Step], first: int) -> Iterator[str]:
    """The kinds that can read this value, and "again", with its number, for each module that has read such a one.

    A kind that suits few values is named as often as makes up for it.
    """
    shape = shapes[first]
    large = prod(shape) > LARGE
    read = any(first in step.reads for step in steps)
    used = {step.kind for step in steps}
    writable = first > 0 and steps[first - 1].kind in WRITABLE and not read
    for name, kind in KINDS.items():
        if name not in used and kind.suits(shape) and not (kind.writes and not writable) and not (kind.grows and large):
            yield from [name] * (len(SHAPES) // max(1, sum(map(kind.suits, SHAPES))) * (2 if kind.writes else 1))
    for i, step in enumerate(steps):
        if step.kind in ("linear", "convolution", "batch norm", "prelu") and shapes[step.reads[0]] == shape:
            yield f"{AGAIN}{i}"


KINDS[JOIN] = Kind(
    lambda shape: lambda *values: torch.cat([value.flatten(1) for value in values], 1),
    lambda draw, shape: {},
    lambda shape: False,
)
