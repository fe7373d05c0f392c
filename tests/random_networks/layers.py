"""Fully connected layers, convolutions, batch norm."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from hypothesis import strategies as st
from nets import Lambda
from torch import nn

from random_networks.table import NORMS, Draw, Layer, Shape, at_least, aten, choice, divisors, kind, layered, random

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def linear_options(draw: Draw, shape: Shape) -> dict[str, Any]:
    norm = draw(st.booleans()) if len(shape) == 1 else False
    return {"outputs": draw(st.integers(1, 5)), "bias": draw(st.booleans()), "norm": norm}


@kind("linear", linear_options)
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
