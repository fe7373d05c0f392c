"""Pools, and what picks or sums along dimensions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

from random_networks.table import Draw, Layer, Shape, along, at_least, aten, dims_of, kind, layered


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
# The copy is for the model's sake: of an expanded tensor torch 2.13's median reads what lies beside its memory.
along("median", lambda x, dim: x.contiguous().median(dim, keepdim=True).values)
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
