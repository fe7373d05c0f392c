"""Every operator: dot test, matrix = Jacobian, adjoint = vjp, value = the module's. One operator, one case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import literal
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from nets import Lambda, randomised
from torch import Tensor, nn
from triad import EXACT, TRIAD, values

import linreg
import linreg.capture.translate
from linreg.operators import RULES, Gate

aten = torch.ops.aten
IMAGES = 2


@dataclass(frozen=True)
class Case:
    """A module of one operator (or a function) and the shape of one input.

    `twin` is the same function written otherwise, where autograd's formula for it is not exact, or slow.
    """

    build: Callable[[], nn.Module] | Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    images: int = 2
    twin: Callable[[Tensor], Tensor] | None = None

    def module(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = self.build() if isinstance(self.build, type) or self.build.__name__ == "make" else Lambda(self.build)
            return randomised(made.double()).eval()  # type: ignore[arg-type, union-attr]

    def input(self) -> Tensor:
        return values(self.images, *self.shape, seed=1)


def layer(kind: Callable[..., nn.Module], *arguments: object, **options: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        return kind(*arguments, **options)

    return make


def set_below(x: Tensor, bound: float) -> Tensor:
    x[x < bound] = bound
    return x


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :2], x[:, 2:]


W34, W2433, ROW, CHANNELS, SLOPES = (
    values(3, 4), values(2, 4, 3, 3), values(4), values(4, 1, 1), torch.tensor([0.25, -0.5, 2.0, 0.0]).double(),
)  # fmt: skip
BOUNDS = (-CHANNELS.abs(), CHANNELS.abs() / 2)
STATISTICS = {"running_mean": values(4, seed=2), "running_var": values(4, seed=3).abs() + 0.5}


def writing(write: Callable[[Tensor], object]) -> Callable[[Tensor], Tensor]:
    """A function that writes in place to what it was given, and returns that."""

    def function(x: Tensor) -> Tensor:
        x = 1 * x
        write(x)
        return x

    return function


def doubled(x: Tensor) -> None:
    x[:, 2:] += x[:, :2]
    x[:, :, 0] *= 2


def filled(x: Tensor) -> Tensor:
    """Writes into what is zero, has a value, and is not set at all."""
    zeros = x.new_zeros(x.shape[0], 6, 5, 6)
    zeros[:, 1:5] = x
    values = torch.full_like(x, 0.5)
    values[:, ::2] -= x[:, :2]
    empty = torch.empty_like(x)
    empty[:, :2], empty[:, 2:] = x[:, 2:], 1.5
    return torch.cat([zeros, values, empty], 1)


INDEX, PAIRS, MASK = torch.tensor([2, 0, 2, 1]), torch.tensor([[0, 3], [1, 1]]), torch.tensor([True, False, True, True])
MANY, CUBE, GRIDS = values(4, 6, 2), values(3, 2, 4), values(1, 2, 2, 2, 3)
GRID, THETA = values(1, 3, 4, 2, seed=5), torch.tensor([[[0.8, 0.2, 0.1], [-0.3, 1.1, 0.0]]]).double()

PLANE, LINE, SPACE = (4, 5, 6), (4, 9), (4, 4, 3, 5)
CASES = {
    # fully connected
    "linear": Case(layer(nn.Linear, 5, 4), (5,)),
    "linear without bias": Case(layer(nn.Linear, 5, 4, bias=False), (5,)),
    "linear over the last dimension": Case(layer(nn.Linear, 5, 4), (2, 3, 5)),
    "addmm": Case(lambda x: torch.addmm(ROW, x, W34, beta=0.5, alpha=-2.0), (3,)),
    "mm": Case(lambda x: torch.mm(x, W34), (3,)),
    "matmul": Case(lambda x: x @ W34, (2, 3)),
    "matmul from the left": Case(lambda x: W34 @ x, (4, 2)),
    "bmm": Case(lambda x: torch.bmm(x, W34.expand(IMAGES, 3, 4)), (2, 3)),
    # convolutions
    "conv1d": Case(layer(nn.Conv1d, 4, 3, 3, stride=2, padding=1), LINE),
    "conv1d dilated": Case(layer(nn.Conv1d, 4, 3, 3, dilation=3), LINE),
    "conv2d": Case(layer(nn.Conv2d, 4, 3, 3), PLANE),
    "conv2d without bias": Case(layer(nn.Conv2d, 4, 3, 3, bias=False), PLANE),
    "conv2d strided, padded": Case(layer(nn.Conv2d, 4, 3, 3, stride=2, padding=1), PLANE),
    "conv2d unequal": Case(layer(nn.Conv2d, 4, 3, (2, 3), stride=(1, 2), padding=(2, 0), dilation=(1, 2)), PLANE),
    "conv2d grouped": Case(layer(nn.Conv2d, 4, 6, 3, groups=2), PLANE),
    "conv2d depthwise": Case(layer(nn.Conv2d, 4, 8, 3, padding=1, groups=4), PLANE),
    "conv2d valid": Case(layer(nn.Conv2d, 4, 3, 3, padding="valid"), PLANE),
    "conv2d same, odd kernel": Case(layer(nn.Conv2d, 4, 3, 3, padding="same", dilation=2), PLANE),
    "conv2d same, even kernel": Case(layer(nn.Conv2d, 4, 3, 2, padding="same"), PLANE),
    "conv2d same, odd and even": Case(layer(nn.Conv2d, 4, 6, (4, 3), padding="same", groups=2), PLANE),
    "conv2d reflecting": Case(layer(nn.Conv2d, 4, 3, 3, padding=1, padding_mode="reflect"), PLANE),
    "conv2d circular": Case(layer(nn.Conv2d, 4, 3, 3, padding=1, padding_mode="circular"), PLANE),
    "conv3d": Case(layer(nn.Conv3d, 4, 2, 2, stride=(1, 2, 1), padding=1), SPACE),
    "conv by its own name": Case(
        lambda x: aten.convolution(x, W2433, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1), PLANE
    ),
    "transposed conv1d": Case(layer(nn.ConvTranspose1d, 4, 3, 3, stride=2, padding=1, output_padding=1), LINE),
    "transposed conv2d": Case(layer(nn.ConvTranspose2d, 4, 3, 3, stride=3, output_padding=(2, 1)), (4, 2, 3)),
    "transposed conv2d grouped": Case(layer(nn.ConvTranspose2d, 4, 6, 2, groups=2, dilation=2, padding=1), (4, 3, 2)),
    "transposed conv3d": Case(layer(nn.ConvTranspose3d, 4, 2, 2, stride=2, bias=False), (4, 2, 1, 2)),
    "conv2d, weight norm": Case(
        layer(lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 3, 3, bias=False))), PLANE
    ),
    # batch norm
    "batch norm of channels": Case(layer(nn.BatchNorm2d, 4), PLANE),
    "batch norm, not affine": Case(layer(nn.BatchNorm2d, 4, affine=False, eps=0.1), PLANE),
    "batch norm of numbers": Case(layer(nn.BatchNorm1d, 5), (5,)),
    "batch norm of lines": Case(layer(nn.BatchNorm1d, 4), LINE),
    "batch norm of volumes": Case(layer(nn.BatchNorm3d, 4), SPACE),
    "batch norm without training": Case(
        lambda x: aten._native_batch_norm_legit_no_training(x, ROW, None, *STATISTICS.values(), 0.1, 1e-5)[0], PLANE
    ),
    "conv and batch norm": Case(
        layer(nn.Sequential, nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.BatchNorm2d(6)), PLANE
    ),
    "batch norm, then conv": Case(
        layer(nn.Sequential, nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1)), PLANE
    ),
    "conv (same) and batch norm": Case(
        layer(nn.Sequential, nn.Conv2d(4, 3, 2, padding="same"), nn.BatchNorm2d(3)), PLANE
    ),
    "transposed conv and batch norm": Case(
        layer(nn.Sequential, nn.ConvTranspose2d(4, 3, 2), nn.BatchNorm2d(3)), PLANE
    ),
    "linear and batch norm": Case(layer(nn.Sequential, nn.Linear(5, 4), nn.BatchNorm1d(4)), (5,)),
    "linear and batch norm of rows": Case(layer(nn.Sequential, nn.Linear(5, 4), nn.BatchNorm1d(3)), (3, 5)),
    # gates
    "relu": Case(layer(nn.ReLU), PLANE),
    "relu in place": Case(lambda x: torch.relu_(x * 2), PLANE),
    "relu6": Case(lambda x: F.relu6(4 * x), PLANE),
    "relu6 by its own name": Case(lambda x: aten.relu6(4 * x), PLANE),
    "hardtanh": Case(layer(nn.Hardtanh, -0.5, 0.25), PLANE),
    "clamp": Case(lambda x: x.clamp(-0.5, 1), PLANE),
    "clamp from below": Case(lambda x: x.clamp(min=-0.25), PLANE),
    "clamp from above": Case(lambda x: x.clamp(max=0.25), PLANE),
    "clamp at zero": Case(lambda x: x.clamp(min=0), PLANE),
    "clamp_min": Case(lambda x: torch.clamp_min(x, 0.5), PLANE),
    "clamp_max": Case(lambda x: torch.clamp_max(x, 0.5), PLANE),
    "clamp, upside down": Case(lambda x: x.clamp(0.5, -0.5), PLANE),
    "clamp to tensors": Case(lambda x: x.clamp(*BOUNDS), PLANE),
    "clamp to a tensor from below": Case(lambda x: x.clamp(min=BOUNDS[0]), PLANE),
    "leaky relu": Case(layer(nn.LeakyReLU, 0.1), PLANE),
    "leaky relu, negative": Case(layer(nn.LeakyReLU, -0.5), PLANE),
    "prelu of one slope": Case(layer(nn.PReLU), PLANE),
    "prelu of channels": Case(lambda x: F.prelu(x, SLOPES), PLANE),
    "prelu by its kernel's name": Case(lambda x: aten._prelu_kernel(x, SLOPES.view(4, 1, 1)), PLANE),
    "prelu of numbers": Case(lambda x: F.prelu(x, SLOPES), (4,)),
    "abs": Case(torch.abs, PLANE),
    "relu of both signs": Case(lambda x: torch.cat([F.relu(x), F.relu(-x)], 1), PLANE),
    "hardtanh in place": Case(lambda x: F.hardtanh_(2 * x), PLANE),
    "leaky relu in place": Case(lambda x: F.leaky_relu_(2 * x, 0.1), PLANE),
    "clip": Case(lambda x: x.clip(-0.5, 1), PLANE),
    "threshold": Case(layer(nn.Threshold, 0.25, -2.0), PLANE, twin=lambda x: torch.where(x > 0.25, x, -2.0)),
    "threshold in place": Case(
        lambda x: F.threshold_(2 * x, -0.5, -0.5), PLANE, twin=lambda x: (2 * x).clamp(min=-0.5)
    ),
    "hardsigmoid": Case(lambda x: F.hardsigmoid(4 * x), PLANE, twin=lambda x: F.relu6(4 * x + 3) / 6),
    "rrelu": Case(layer(nn.RReLU, 0.1, 0.5), PLANE, twin=lambda x: F.leaky_relu(x, 0.3)),
    "softshrink": Case(layer(nn.Softshrink, 0.4), PLANE),
    "hardshrink": Case(layer(nn.Hardshrink, 0.4), PLANE),
    "maximum with a constant": Case(lambda x: torch.maximum(CHANNELS, x), PLANE),
    "minimum with a constant": Case(lambda x: torch.minimum(x, CHANNELS), PLANE),
    "fmax with a number": Case(lambda x: torch.fmax(x, torch.tensor(0.25).double()), PLANE),
    "fmin with zero": Case(lambda x: torch.fmin(x, torch.zeros_like(x)), PLANE),
    "maximum of multiples": Case(lambda x: torch.maximum(x, 0.1 * x), PLANE),
    "maximum of affine functions": Case(lambda x: torch.maximum(2 * x - 1, CHANNELS - x), PLANE),
    # comparisons
    "where": Case(lambda x: torch.where(x > 0, x, 0.0), PLANE),
    "where, the number first": Case(lambda x: torch.where(x >= 0.5, -1.5, x), PLANE),
    "where of a buffer": Case(lambda x: torch.where(x < CHANNELS, CHANNELS, x), PLANE),
    "where of multiples": Case(lambda x: torch.where(x.abs() <= 0.5, 2 * x + 1, F.leaky_relu(x) - CHANNELS), PLANE),
    "where by other data": Case(lambda x: torch.where(x.flip(1) > 0, x, 0.5), PLANE),
    "where of two data": Case(lambda x: torch.where(halves(x)[0] > halves(x)[1], *halves(x)), PLANE),
    "where, broadcasting": Case(lambda x: torch.where(x[:, :1] > 0, x, x.mean((2, 3), keepdim=True)), PLANE),
    "where, broadcasting one for each channel": Case(
        lambda x: torch.where(x.mean(1, keepdim=True) > 0, x[:, :1], CHANNELS), PLANE
    ),
    "where, fixed": Case(lambda x: torch.where(CHANNELS > 0, x, 0.5), PLANE),
    "where, fixed, of two data": Case(lambda x: torch.where(CHANNELS[:2] > 0, *halves(x)), PLANE),
    "where neither, nor both": Case(lambda x: torch.where(~((x > 0) ^ (x < 1) | (x != x)), x, 0.5), PLANE),
    "where both": Case(lambda x: torch.where(torch.logical_and(x > -1, torch.logical_not(x > 1)), x, 0), PLANE),
    "where one": Case(lambda x: torch.where(torch.logical_or(x < -1, torch.logical_xor(x > 1, x == 0)), x, 0), PLANE),
    "where any": Case(lambda x: torch.where((x > 1).any(1, keepdim=True), x, -x), PLANE),
    "masked fill": Case(lambda x: x.masked_fill(x < 0.1, 0.5), PLANE),
    "masked fill, fixed": Case(lambda x: x.masked_fill(CHANNELS > 0, 0.5), PLANE),
    "masked fill of attention": Case(lambda x: x.masked_fill(x < x.mean(1, keepdim=True), -1e3), PLANE),
    "set by a comparison": Case(lambda x: set_below(2 * x, -0.5), PLANE),
    "multiply by a comparison": Case(lambda x: x * (x > 0), PLANE),
    "multiply by a comparison in numbers": Case(lambda x: (1 - (x > 0.5).to(x.dtype)) * x, PLANE),
    "multiply by comparisons of channels": Case(lambda x: x * (x.mean((2, 3)) > 0)[:, :, None, None].double(), PLANE),
    "multiply by a sign": Case(lambda x: x * x.sign(), PLANE),
    "add a comparison": Case(lambda x: x + (x > 0).double(), PLANE),
    "subtract a comparison": Case(lambda x: torch.sub((x > 0).double(), x, alpha=2), PLANE),
    "subtract from a comparison": Case(lambda x: torch.rsub(x, (x > 0).double()), PLANE),
    # selections
    "maximum": Case(lambda x: torch.maximum(*halves(x)), PLANE),
    "maximum, broadcasting": Case(lambda x: torch.maximum(x.mean((1, 2), keepdim=True), x), PLANE),
    "max of two": Case(lambda x: torch.max(*halves(x)), PLANE),
    "minimum": Case(lambda x: torch.minimum(*halves(x)), PLANE),
    "min of two": Case(lambda x: torch.min(x, x.flip(1)), PLANE),
    "fmax": Case(lambda x: torch.fmax(*halves(x)), PLANE),
    "fmin": Case(lambda x: torch.fmin(*halves(x)), PLANE),
    "max over a dimension": Case(lambda x: x.max(2)[0], PLANE),
    "min over a dimension": Case(lambda x: x.min(-1, keepdim=True)[0], PLANE),
    "maxout": Case(lambda x: x.view(x.shape[0], 2, 2, 5, 6).max(2).values, PLANE),
    "amax over positions": Case(lambda x: x.amax((-1, 2)), PLANE),
    "amax over channels and columns": Case(lambda x: x.amax((3, 1), keepdim=True), PLANE),
    "amax over all": Case(lambda x: x.amax((1, 2), keepdim=True), (4, 5)),
    "amin": Case(lambda x: x.amin(1), PLANE),
    "aminmax": Case(lambda x: x.aminmax(dim=1)[0] - 2 * x.aminmax(dim=1)[1], PLANE),
    "topk": Case(lambda x: x.topk(3, 1)[0], PLANE),
    "topk, smallest": Case(lambda x: x.flatten(1).topk(5, largest=False)[0], PLANE),
    "sort": Case(lambda x: x.sort(1)[0], PLANE),
    "sort, stable": Case(lambda x: x.sort(dim=2, stable=True, descending=True)[0], PLANE),
    "kthvalue": Case(lambda x: x.kthvalue(2, 1)[0], PLANE),
    "median": Case(lambda x: x.median(2, keepdim=True)[0], PLANE),
    # pools
    "max pool": Case(layer(nn.MaxPool2d, 2), PLANE),
    "max pool, overlapping": Case(layer(nn.MaxPool2d, 3, 2, padding=1), PLANE),
    "max pool, ceil": Case(layer(nn.MaxPool2d, 2, ceil_mode=True), PLANE),
    "max pool, dilated": Case(layer(nn.MaxPool2d, 2, 1, dilation=2), PLANE),
    "max pool, unequal": Case(layer(nn.MaxPool2d, (2, 3), (1, 2), padding=(1, 0)), PLANE),
    "max pool with indices": Case(lambda x: F.max_pool2d_with_indices(x, 2)[0], PLANE),
    "max pool of lines": Case(layer(nn.MaxPool1d, 3, 2, padding=1, ceil_mode=True), LINE),
    "max pool of volumes": Case(layer(nn.MaxPool3d, 2, 1), SPACE),
    "max pool of volumes with indices": Case(lambda x: F.max_pool3d_with_indices(x, (2, 1, 3))[0], SPACE),
    "max pool of lines with indices": Case(lambda x: F.max_pool1d_with_indices(x, 3, 2, 1)[0], LINE),
    "max pool of volumes, padded, ceil": Case(layer(nn.MaxPool3d, 2, 2, padding=1, ceil_mode=True), SPACE),
    "max pool of lines, dilated": Case(layer(nn.MaxPool1d, 2, 1, dilation=3), LINE),
    "adaptive max pool of lines": Case(layer(nn.AdaptiveMaxPool1d, 4), LINE),
    "adaptive max pool": Case(layer(nn.AdaptiveMaxPool2d, (2, 4)), PLANE),
    "adaptive max pool to one": Case(layer(nn.AdaptiveMaxPool2d, 1), PLANE),
    "adaptive max pool of volumes": Case(layer(nn.AdaptiveMaxPool3d, (2, None, 3)), SPACE),
    "max pool and back": Case(
        lambda x: F.max_unpool2d(-2 * F.max_pool2d(x, 2), F.max_pool2d(x, 2, return_indices=True)[1], 2), (2, 4, 6)
    ),
    "max pool and back, of volumes": Case(
        lambda x: F.max_unpool3d(*F.max_pool3d(x, 2, return_indices=True), 2), (2, 4, 2, 4)
    ),
    "average pool": Case(layer(nn.AvgPool2d, 2), PLANE),
    "average pool, overlapping": Case(layer(nn.AvgPool2d, 3, 1, padding=1), PLANE),
    "average pool without padding": Case(
        layer(nn.AvgPool2d, 3, 2, padding=1, ceil_mode=True, count_include_pad=False), PLANE
    ),
    "average pool, divided": Case(layer(nn.AvgPool2d, 2, divisor_override=3), PLANE),
    "average pool of lines": Case(layer(nn.AvgPool1d, 3, 2, padding=1), LINE),
    "average pool of volumes": Case(layer(nn.AvgPool3d, 2, 1), SPACE),
    "adaptive pool of lines": Case(layer(nn.AdaptiveAvgPool1d, 4), LINE),
    "adaptive pool": Case(layer(nn.AdaptiveAvgPool2d, (2, 4)), PLANE),
    "adaptive pool to one": Case(layer(nn.AdaptiveAvgPool2d, 1), PLANE),
    "adaptive pool of volumes": Case(layer(nn.AdaptiveAvgPool3d, (2, 1, 3)), SPACE),
    "adaptive pool by its own name": Case(lambda x: aten._adaptive_avg_pool2d(x, [2, 4]), PLANE),
    "mean of positions": Case(lambda x: x.mean((2, 3)), PLANE),
    "mean of channels": Case(lambda x: x.mean(1, keepdim=True), PLANE),
    "sum of positions": Case(lambda x: x.sum((-1, -2), keepdim=True), PLANE),
    "sum of channels": Case(lambda x: x.sum(1), PLANE),
    # arithmetic
    "add": Case(lambda x: torch.add(*halves(x), alpha=-3), PLANE),
    "add itself": Case(lambda x: x + x, PLANE),
    "add, broadcasting": Case(lambda x: x + x.mean((2, 3), keepdim=True), PLANE),
    "add a constant": Case(lambda x: x + CHANNELS, PLANE),
    "add to a constant": Case(lambda x: torch.add(CHANNELS, x, alpha=2), PLANE),
    "add a constant, broadcasting": Case(lambda x: x + ROW, (1,)),
    "add what is made for each image": Case(lambda x: x + torch.ones(x.shape[0], 1).double(), (3,)),
    "add a number": Case(lambda x: x + 0.3, PLANE),
    "subtract": Case(lambda x: halves(x)[0] - halves(x)[1], PLANE),
    "subtract a constant": Case(lambda x: x - CHANNELS, PLANE),
    "subtract, alpha": Case(lambda x: torch.sub(CHANNELS, x, alpha=2), PLANE),
    "subtract from a number": Case(lambda x: torch.rsub(x, 1, alpha=0.5), PLANE),
    "negate": Case(torch.neg, PLANE),
    "multiply": Case(lambda x: x * CHANNELS, PLANE),
    "multiply, broadcasting": Case(lambda x: CHANNELS * x, (1, 2, 3)),
    "multiply by a number": Case(lambda x: -2 * x, PLANE),
    "divide": Case(lambda x: x / CHANNELS, PLANE),
    "divide by a number": Case(lambda x: x / 4, PLANE),
    # structure
    "view": Case(lambda x: x.view(x.shape[0], 2, -1), PLANE),
    "view as inferred": Case(lambda x: x.view(-1, 120), PLANE),
    "unsafe view": Case(lambda x: aten._unsafe_view(x, [IMAGES, 20, 6]), PLANE),
    "reshape": Case(lambda x: x.transpose(1, 2).reshape(x.shape[0], -1, 3), PLANE),
    "flatten": Case(layer(nn.Flatten, 2), PLANE),
    "unflatten": Case(layer(nn.Unflatten, 1, (2, 2)), PLANE),
    "unsqueeze": Case(lambda x: x.unsqueeze(1), PLANE),
    "squeeze": Case(lambda x: x.squeeze(1), (1, 5)),
    "squeeze, copied": Case(lambda x: torch.squeeze_copy(x, 1), (1, 5)),
    "squeeze all": Case(lambda x: x.squeeze(), (1, 5, 1)),
    "repeat": Case(lambda x: x.repeat(1, 2, 1), LINE),
    "expand": Case(lambda x: x.expand(-1, 4, -1), (1, 5)),
    "permute": Case(lambda x: x.permute(0, 3, 1, 2), PLANE),
    "transpose": Case(lambda x: x.transpose(-1, 1), PLANE),
    "movedim": Case(lambda x: x.movedim(1, -1), PLANE),
    "swapaxes": Case(lambda x: x.swapaxes(1, 2), PLANE),
    "pixel shuffle": Case(layer(nn.PixelShuffle, 2), PLANE),
    "pixel unshuffle": Case(layer(nn.PixelUnshuffle, 2), (2, 4, 6)),
    "channel shuffle": Case(layer(nn.ChannelShuffle, 2), PLANE),
    "flip": Case(lambda x: x.flip(1, -1), PLANE),
    "roll": Case(lambda x: x.roll((1, -2), (1, 3)), PLANE),
    "slice": Case(lambda x: x[:, 1:, ::2, -2:], PLANE),
    "select": Case(lambda x: x[:, 2], PLANE),
    "narrow": Case(lambda x: x.narrow(1, 1, 2), PLANE),
    "split": Case(lambda x: 2 * x.split(3, 1)[0][:, :1] - x.split(3, 1)[1], PLANE),
    "split with sizes": Case(lambda x: x.split([1, 3], 1)[1], PLANE),
    "chunk": Case(lambda x: x.chunk(2, 1)[1], PLANE),
    "unbind": Case(lambda x: x.unbind(1)[3], PLANE),
    "unsafe split": Case(lambda x: torch.unsafe_split(x, 3, 1)[1], PLANE),
    "unsafe chunk": Case(lambda x: torch.unsafe_chunk(x, 2, 2)[0], PLANE),
    "concatenate": Case(lambda x: torch.cat([x, *halves(x)], 1), PLANE),
    "concatenate, by another name": Case(lambda x: aten.concat([x, x], 2), PLANE),
    "concatenate a constant": Case(lambda x: torch.cat([x, CHANNELS[None], -x], 2), (4, 1, 1), images=1),
    "concatenate a token": Case(lambda x: torch.cat([ROW.expand(x.shape[0], 1, 4), 2 * x], 1), (2, 4)),
    "concatenate what is made for each image": Case(
        lambda x: torch.cat([x, torch.ones(x.shape[0], 2).double()], 1), (3,)
    ),
    "stack": Case(lambda x: torch.stack(halves(x), 2), PLANE),
    "pad": Case(lambda x: F.pad(x, (1, 2, 0, 3)), PLANE),
    "pad with a value": Case(lambda x: F.pad(x, (1, 2, 0, 3), value=-1.5), PLANE),
    "pad with −∞": Case(lambda x: F.pad(x, (1, 1), value=-torch.inf).amax(3) - F.relu(x).sum(3), PLANE),
    "pad, images named": Case(lambda x: F.pad(x, (1, 0, 0, 2, 0, 1, 0, 0)), PLANE),
    "pad of nothing": Case(lambda x: F.pad(x, ()) * 2.0, PLANE),
    "pad, cropping": Case(lambda x: F.pad(x, (-1, 2), value=0.5), PLANE),
    "pad with zeros by its own name": Case(lambda x: aten.constant_pad_nd(x, [1, 1], 0.25), PLANE),
    "pad, reflecting": Case(layer(nn.ReflectionPad2d, (2, 1, 1, 0)), PLANE),
    "pad, replicating": Case(layer(nn.ReplicationPad2d, 2), PLANE),
    "pad, circular": Case(lambda x: F.pad(x, (1, 2, 0, 1), mode="circular"), PLANE),
    "copy": Case(writing(lambda x: x[:, :2].copy_(x[:, 2:3])), PLANE),
    "tile": Case(lambda x: x.tile(2), LINE),
    "repeat each": Case(lambda x: x.repeat_interleave(2, 1), PLANE),
    "repeat each as often as told": Case(lambda x: 2 * x.repeat_interleave(torch.tensor([1, 0, 2, 3]), 1), LINE),
    "rotate": Case(lambda x: x.rot90(1, (2, 3)), PLANE),
    "flip left and right": Case(torch.fliplr, PLANE),
    "diagonal": Case(lambda x: x.diagonal(1, 1, 2), PLANE),
    "diagonal embedded": Case(lambda x: x.diag_embed(), LINE),
    "lower triangle": Case(lambda x: x.tril(), PLANE),
    "upper triangle": Case(lambda x: x.triu(1), PLANE),
    "windows": Case(
        lambda x: x.unfold(2, 4, 2), LINE, twin=lambda x: torch.stack([x[..., :4], x[..., 2:6], x[..., 4:8]], 2)
    ),
    "windows as columns": Case(layer(nn.Unfold, (2, 3), padding=1, stride=2), PLANE),
    "columns added up": Case(layer(nn.Fold, (4, 5), 2, padding=1), (8, 30)),
    "stack sideways": Case(lambda x: torch.hstack([x, CHANNELS[:, 0].T.expand(x.shape[0], 4)]), (4,)),
    "stack in depth": Case(lambda x: torch.dstack([x, 2 * x]), LINE),
    "stack columns": Case(lambda x: torch.column_stack([x, 2 * x]), LINE),
    # indices
    "index": Case(lambda x: x[:, [2, -1, 0]], PLANE),
    "index by a mask": Case(lambda x: 3 * x[:, MASK] - 1, PLANE),
    "index twice": Case(lambda x: x[:, PAIRS, [[1], [0]]], PLANE),
    "index behind": Case(lambda x: x[..., INDEX], PLANE),
    "index_select": Case(lambda x: x.index_select(2, INDEX), PLANE),
    "gather": Case(lambda x: x.gather(1, INDEX[:3].expand(x.shape[0], 3)), (4,)),
    "take along": Case(lambda x: torch.take_along_dim(x, INDEX[None, :, None], 1), LINE),
    "write a number": Case(writing(lambda x: x[:, 0].fill_(1.5)), PLANE),
    "write zeros": Case(writing(lambda x: x[:, :, 1:3].zero_()), PLANE),
    "write data": Case(writing(lambda x: x[:, :2].copy_(x[:, 2:] * 2)), PLANE),
    "write in part": Case(writing(doubled), PLANE),
    "write into constants": Case(filled, PLANE),
    "write a diagonal": Case(lambda x: torch.diagonal_scatter(x, x[:, :, 0, :5], 1, 2, 3), PLANE),
    "write at the end": Case(lambda x: torch.slice_scatter(x, 2 * x[..., :5], -1, 1), PLANE),
    "write at indices": Case(writing(lambda x: x[:, [0, 2]].relu_()), PLANE),
    "write a constant at indices": Case(writing(lambda x: x.__setitem__((slice(None), [2, 0]), CHANNELS[:2])), PLANE),
    "write data at indices": Case(writing(lambda x: x.__setitem__((slice(None), [2, 0]), 2 * x[:, :2])), PLANE),
    "add at indices": Case(lambda x: aten.index_put(x, [None, INDEX], 2 * x[:, :1], True), LINE),
    "add a constant at indices": Case(lambda x: aten.index_put(x, [None, INDEX], ROW[:1], True), LINE),
    "index_add": Case(lambda x: torch.zeros_like(x).index_add(1, INDEX, x) + x.index_add(1, INDEX, 3 * x), PLANE),
    "index_copy": Case(lambda x: x.index_copy(1, INDEX[1:], 2 * x[:, :3]), PLANE),
    "index_fill": Case(lambda x: x.index_fill(1, INDEX, 0.5), PLANE),
    "scatter": Case(lambda x: x.scatter(1, INDEX[1:].expand(x.shape[0], 3), 2 * x[:, :3]), (4,)),
    "scatter a number": Case(lambda x: x.scatter(1, INDEX[1:].expand(x.shape[0], 3), 0.5), (4,)),
    "scatter_add": Case(lambda x: torch.ones_like(x).scatter_add(1, INDEX.expand(x.shape[0], 4), x), (4,)),
    # products
    "mv": Case(lambda x: torch.mv(x, ROW)[:, None], (4,)),
    "vector from the left": Case(lambda x: ROW @ x, LINE),
    "matmul of many": Case(lambda x: x @ MANY, PLANE),
    "bmm of one for all": Case(lambda x: torch.bmm(x, W34.expand(x.shape[0], 3, 4)), (2, 3)),
    "addmm of rows": Case(lambda x: torch.addmm(W34[:1, :3], x, W34.T), (4,)),
    "addmm to data": Case(lambda x: torch.addmm(x[:, :3], x, W34.T, beta=0.5, alpha=-1), (4,)),
    "addmm of constants": Case(lambda x: torch.addmm(x, W34[:1].expand(x.shape[0], 4), W34.T), (3,)),
    "addmv": Case(lambda x: torch.addmv(ROW[0], x, ROW, beta=2, alpha=0.5)[:, None], (4,)),
    "baddbmm": Case(lambda x: torch.baddbmm(ROW, x, W34.expand(x.shape[0], 3, 4), beta=0.5, alpha=2), (2, 3)),
    "baddbmm to data": Case(lambda x: torch.baddbmm(x, x, W34[:, :3].expand(x.shape[0], 3, 3)), (2, 3)),
    "baddbmm from the left": Case(lambda x: torch.baddbmm(ROW[:3, None], W34.expand(x.shape[0], 3, 4), x), LINE),
    "einsum": Case(lambda x: torch.einsum("nij,jk->nki", x, W34.T), (4, 4)),
    "einsum of several": Case(lambda x: torch.einsum("bij, kj, ik -> bk", x, W34, W34[:, :3].T @ W34[:, 1:]), (3, 4)),
    "einsum, implied": Case(lambda x: torch.einsum("...ij,jk", x, W34.T), (2, 3, 4)),
    "einsum of a diagonal": Case(lambda x: torch.einsum("nii->ni", x), (4, 4)),
    "einsum with one for each image": Case(
        lambda x: torch.einsum("bij,bjk->bik", x, W34.T.expand(IMAGES, 4, 3)), (2, 4)
    ),
    "tensordot": Case(lambda x: torch.tensordot(x, CUBE, dims=([1, 2], [2, 0])), (4, 3)),
    "inner": Case(lambda x: torch.inner(x, W34), (2, 4)),
    "vecdot": Case(lambda x: torch.linalg.vecdot(x, W34.T, dim=1), (4, 3)),
    # sums and differences
    "cumsum": Case(lambda x: x.cumsum(-1), PLANE),
    "diff": Case(lambda x: x.diff(dim=1), PLANE),
    "diff of diff": Case(lambda x: x.diff(2), LINE),
    "lerp": Case(lambda x: torch.lerp(halves(x)[0], halves(x)[1], 0.3), PLANE),
    "lerp by a tensor": Case(lambda x: torch.lerp(*halves(x), CHANNELS[:2]), PLANE),
    "lerp to a constant": Case(lambda x: torch.lerp(x, CHANNELS, CHANNELS.abs()), PLANE),
    "addcmul": Case(lambda x: torch.addcmul(x, CHANNELS, x.mean(2, keepdim=True), value=-2), PLANE),
    "addcmul to a constant": Case(lambda x: torch.addcmul(CHANNELS, CHANNELS, x, value=0.5), PLANE),
    "addcmul of constants": Case(lambda x: torch.addcmul(x, CHANNELS, ROW[:3, None, None, None][0]), PLANE),
    "addcdiv": Case(lambda x: torch.addcdiv(CHANNELS, x, CHANNELS, value=0.5), PLANE),
    "negative": Case(torch.negative, PLANE),
    "subtract by its long name": Case(lambda x: torch.subtract(x, CHANNELS), PLANE),
    "multiply by its long name": Case(lambda x: torch.multiply(x, CHANNELS), PLANE),
    "divide by its long name": Case(lambda x: torch.divide(x, CHANNELS), PLANE),
    "divide by its true name": Case(lambda x: torch.true_divide(x, x.shape[1]), PLANE),
    # resampling
    "nearest of lines": Case(layer(nn.Upsample, scale_factor=2), LINE),
    "nearest": Case(lambda x: F.interpolate(x, scale_factor=1.7), PLANE),
    "nearest to the size of another": Case(lambda x: x + F.interpolate(x[:, :, ::2, 1:], size=x.shape[2:]), PLANE),
    "nearest of volumes": Case(layer(nn.Upsample, (5, 7, 2)), SPACE),
    "nearest exact of lines": Case(
        lambda x: F.interpolate(x, 5, mode="nearest-exact"), LINE, twin=lambda x: x[:, :, ::2]
    ),
    "nearest exact": Case(
        lambda x: F.interpolate(x, scale_factor=(2, 0.6), mode="nearest-exact"), PLANE,
        twin=lambda x: x.repeat_interleave(2, 2)[..., ::2],
    ),
    "nearest exact of volumes": Case(
        lambda x: F.interpolate(x, (8, 2, 3), mode="nearest-exact"), SPACE,
        twin=lambda x: x.repeat_interleave(2, 2)[:, :, :, ::2, ::2],
    ),
    "linear of lines": Case(layer(nn.Upsample, scale_factor=1.5, mode="linear"), LINE),
    "bilinear": Case(lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"), PLANE),
    "bilinear at corners": Case(layer(nn.UpsamplingBilinear2d, (8, 4)), PLANE),
    "bilinear by its kernel's name": Case(lambda x: aten.upsample_bilinear2d(x, [8, 9], False, 1.6, 1.5), PLANE),
    "bilinear, smoothed": Case(lambda x: F.interpolate(x, (3, 4), mode="bilinear", antialias=True), PLANE),
    "trilinear": Case(lambda x: F.interpolate(x, (5, 2, 6), mode="trilinear", align_corners=True), SPACE),
    "bicubic": Case(lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic"), PLANE),
    "bicubic at corners": Case(lambda x: F.interpolate(x, (3, 8), mode="bicubic", align_corners=True), PLANE),
    "bicubic, smoothed": Case(lambda x: F.interpolate(x, (3, 4), mode="bicubic", antialias=True), PLANE),
    "grid sample": Case(lambda x: F.grid_sample(x, GRID.expand(x.shape[0], -1, -1, -1), align_corners=False), PLANE),
    "grid sample, nearest": Case(
        lambda x: F.grid_sample(x, GRID.expand(IMAGES, 3, 4, 2), "nearest", "reflection", align_corners=True), PLANE
    ),
    "grid sample of volumes": Case(
        lambda x: F.grid_sample(x, GRIDS.expand(x.shape[0], -1, -1, -1, -1), align_corners=True), SPACE
    ),
    "affine grid": Case(
        lambda x: F.grid_sample(
            x, F.affine_grid(THETA.expand(x.shape[0], 2, 3), x.shape, align_corners=False), "bicubic", "border", False
        ), PLANE,
    ),
    "instance norm by running statistics": Case(
        layer(nn.InstanceNorm2d, 4, affine=True, track_running_stats=True), PLANE
    ),
}  # fmt: skip

# Names under which no exported program calls these operators here, each an alias of one that has a case.
ALIASES = {
    "batch_norm": "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm": "_native_batch_norm_legit_no_training",
    "native_batch_norm": "_native_batch_norm_legit_no_training",
    "chunk": "split",
    "unsafe_chunk": "unsafe_split",
    "narrow": "slice",
    "movedim": "permute",
    "swapaxes": "permute",
    "flatten": "unsqueeze",
    "unflatten": "unsqueeze",
    "reshape": "unsqueeze",
}

every_case = pytest.mark.parametrize("case", CASES)


@dataclass(frozen=True)
class Traced:
    module: nn.Module
    x: Tensor
    lin: linreg.Linearization
    rules: frozenset[str]


@cache
def traced(name: str) -> Traced:
    """The case's module traced and linearized at its input, and the names of the rules that took part."""
    module, x = CASES[name].module(), CASES[name].input()
    used: set[str] = set()

    def spy(target: object) -> object:
        packet, _, overload = str(target).removeprefix("aten.").partition(".")
        used.add(packet if f"{packet}.{overload}" not in RULES else f"{packet}.{overload}")
        return rule_for(target)

    rule_for = linreg.capture.translate.rule_for
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linreg.capture.translate, "rule_for", spy)
        graph = linreg.trace(module, x)
    twin = CASES[name].twin
    return Traced(Lambda(twin) if twin else module, x, graph.linearize(x), frozenset(used))


@pytest.mark.parametrize("check", TRIAD)
@every_case
def test_triad(case: str, check: str) -> None:
    t = traced(case)
    TRIAD[check](t.module, t.x, t.lin)


def test_every_rule_has_a_case() -> None:
    used = frozenset().union(*(traced(case).rules for case in CASES))
    assert set(RULES) - used == set(ALIASES), "add a case for each new rule, or name what it is an alias of"
    assert not set(ALIASES) & used
    assert all(RULES[name] is RULES[other] and other in used for name, other in ALIASES.items())


# ---- the operators against their definitions in loops ----


@settings(max_examples=12, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(
    dimensions=st.integers(1, 2), window=st.integers(1, 3), stride=st.integers(1, 3), padding=st.integers(0, 2),
    dilation=st.integers(1, 2), groups=st.sampled_from([1, 2]), transposed=st.booleans(),
)  # fmt: skip
def test_convolution_is_its_matrix(
    dimensions: int, window: int, stride: int, padding: int, dilation: int, groups: int, transposed: bool
) -> None:
    """`transposed` asks for the layer that is the transpose of the convolution."""
    shape = (2, 5, 6)[: dimensions + 1]
    weight = values(4, 2 // groups, *[window] * dimensions)
    matrix, out = literal.convolution(weight, shape, stride, padding, dilation, groups)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    kind = (F.conv1d, F.conv2d, F.conv_transpose1d, F.conv_transpose2d)[dimensions - 1 + 2 * transposed]
    if transposed:
        reach = [stride * (o - 1) - 2 * padding + dilation * (window - 1) + 1 for o in out[1:]]
        geometry["output_padding"] = [size - r for size, r in zip(shape[1:], reach, strict=True)]  # type: ignore[assignment]
        matrix, shape = matrix.T, out
    x = values(3, *shape, seed=1)
    lin = linreg.trace(Lambda(lambda x: kind(x, weight, **geometry)), x).linearize(x)
    torch.testing.assert_close(lin.output.flatten(1), x.flatten(1) @ matrix.T, **EXACT)
    g = values(*lin.output.shape, seed=2)
    torch.testing.assert_close(lin.adjoint(g).flatten(1), g.flatten(1) @ matrix, **EXACT)


@pytest.mark.parametrize(
    ("layer", "twin"),
    [
        (nn.ReLU(), {"kind": "relu"}),
        (nn.ReLU6(), {"kind": "clamp", "low": 0.0, "high": 6.0}),
        (nn.Hardtanh(-1.0, 2.0), {"kind": "clamp", "low": -1.0, "high": 2.0}),
        (Lambda(lambda z: z.clamp(-1.0, 2.0)), {"kind": "clamp", "low": -1.0, "high": 2.0}),
        (Lambda(lambda z: z.clamp(max=2.0)), {"kind": "clamp", "low": -1e9, "high": 2.0}),
        (Lambda(lambda z: z.clamp(min=-1.0)), {"kind": "clamp", "low": -1.0, "high": 1e9}),
        (Lambda(lambda z: z.clamp(min=0)), {"kind": "relu"}),
        (nn.LeakyReLU(0.1), {"kind": "leaky", "alpha": 0.1}),
        (nn.PReLU(1, -0.5).double(), {"kind": "leaky", "alpha": -0.5}),
        (Lambda(torch.abs), {"kind": "abs"}),
        (nn.Threshold(2.0, -5.0), {"kind": "threshold", "low": 2.0, "high": -5.0}),
        (nn.Hardshrink(0.5), {"kind": "hardshrink", "alpha": 0.5}),
        (nn.Softshrink(0.5), {"kind": "softshrink", "alpha": 0.5}),
        (nn.Hardsigmoid(), {"kind": "hardsigmoid"}),
        (nn.RReLU(0.25, 0.75), {"kind": "leaky", "alpha": 0.5}),
        (Lambda(lambda z: torch.maximum(z, torch.full_like(z, 2.0))), {"kind": "clamp", "low": 2.0, "high": 1e9}),
        (Lambda(lambda z: torch.fmin(torch.tensor(2.0).double(), z)), {"kind": "clamp", "low": -1e9, "high": 2.0}),
        (Lambda(lambda z: torch.maximum(0.1 * z, z)), {"kind": "leaky", "alpha": 0.1}),
        (Lambda(lambda z: torch.where(z > 0, z, 0.1 * z)), {"kind": "leaky", "alpha": 0.1}),
        (Lambda(lambda z: torch.where(z < 2, 0.0, z)), {"kind": "at least", "low": 2.0}),
        (
            Lambda(lambda z: torch.where((z > -1) & (z < 2), z, z.clamp(-1, 2))),
            {"kind": "clamp", "low": -1.0, "high": 2.0},
        ),
        (Lambda(lambda z: z.masked_fill(z <= 2, -5.0)), {"kind": "threshold", "low": 2.0, "high": -5.0}),
        (Lambda(lambda z: z * (z > 0)), {"kind": "relu"}),
        (Lambda(lambda z: (z >= -1).to(z.dtype) * z), {"kind": "at least", "low": -1.0}),
        (Lambda(lambda z: z * (z.abs() > 0.5)), {"kind": "hardshrink", "alpha": 0.5}),
    ],
)
def test_gate_is_slope_and_offset(layer: nn.Module, twin: dict) -> None:
    """At its kinks too, where the closed side wins: relu'(0) = 0, relu6'(0) = relu6'(6) = 0, leaky'(0) = α."""
    z = torch.tensor([[-7.0, -3.0, -1.0, -0.5, 0.0, 0.5, 2.0, 3.0, 6.0, 7.0]], dtype=torch.float64)
    slopes, offsets = zip(*(literal.gate(z=value, **twin) for value in z[0].tolist()), strict=True)
    lin = linreg.trace(layer, z).linearize(z)
    (name,) = lin.frozen
    affine = lin.frozen[name]
    assert lin.graph[name].is_gate
    assert affine.linear(torch.ones_like(z))[0].tolist() == list(slopes)
    assert sum((constant.value for constant in affine.constants), torch.zeros_like(z))[0].tolist() == list(offsets)


@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 0)])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_max_pool_takes_the_first_of_equals(dimensions: int, window: int, stride: int, padding: int) -> None:
    """The values are small whole numbers: most windows tie."""
    x = torch.randint(0, 2, (2, 2, 7, 5)[: dimensions + 2], generator=torch.Generator().manual_seed(0)).double()
    pool = (nn.MaxPool1d, nn.MaxPool2d)[dimensions - 1](window, stride, padding)
    lin = linreg.trace(pool, x).linearize(x)
    g = values(*lin.output.shape)
    for image, grad, adjoint in zip(x, g, lin.adjoint(g), strict=True):
        matrix = literal.max_pool(image, window, stride, padding)
        torch.testing.assert_close(adjoint.flatten(), matrix.T @ grad.flatten(), **EXACT)


@pytest.mark.parametrize(
    ("function", "kinks", "steepest"),
    [
        (lambda z: F.softshrink(z, 0.25), [-0.25, 0.25], 1),  # written with |z| and sign z, which have a kink at 0
        (lambda z: F.hardshrink(z, 0.25), [-0.25, 0.25], torch.inf),
        (lambda z: torch.where(z > 0, 3 * z, -z), [0], 3),
        (lambda z: torch.where(z > 0, z, z), [], 1),
        (lambda z: torch.where((z - 1).abs() > 2, z, 2 * z), [-1, 3], torch.inf),
        (lambda z: torch.maximum(z.abs() - 1, 0.5 * z), [-2 / 3, 2], 1),
        (lambda z: torch.maximum(F.relu(z), 2 - z), [1], 1),
        (lambda z: torch.where(z == 4, -1.0, z), [4], torch.inf),
        (lambda z: z * (z > 0) * (z < 5), [0, 5], torch.inf),
    ],
)
def test_kinks_of_a_gate_written_as_several_calls(
    function: Callable[[Tensor], Tensor], kinks: list[float], steepest: float
) -> None:
    graph = linreg.trace(Lambda(function), values(2, 3))
    gate = graph.nodes[-1].operator
    assert isinstance(gate, Gate) and len(graph.nodes) == 1
    found = [kink for kink in map(float, gate.kinks) if kink != torch.inf]
    assert found == pytest.approx(kinks, abs=1e-12) and float(gate.steepest) == steepest


@pytest.mark.parametrize(
    "function",
    [
        lambda z: z * (1 + (z - 0.3).sign()) / 2,
        lambda z: torch.where(z == 0.3, 5.0, z),
        lambda z: torch.where(z.abs() <= 0.3, z.clone(), torch.zeros_like(z)),
        lambda z: z * (z == 0.3),
    ],
)
def test_on_a_kink_the_comparison_decides(function: Callable[[Tensor], Tensor]) -> None:
    """On the number compared with, and on its neighbours in this arithmetic."""
    x = torch.tensor([[0.3, np.nextafter(0.3, 0), np.nextafter(0.3, 1), -0.3, 0.0]], dtype=torch.float64)
    graph = linreg.trace(Lambda(function), values(2, 5))
    (lin, z) = graph.linearize(x), x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(z).sum(), z)
    torch.testing.assert_close(graph(x), function(x), **EXACT)
    torch.testing.assert_close(lin.weight(torch.ones(5).double()), expected, **EXACT)
    torch.testing.assert_close(linreg.trace(Lambda(function), values(2, 5)).linearize(-x).output, function(-x), **EXACT)


RANKS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], Callable[[list[float]], list[int]]]] = {
    "max": (lambda x: x.max(2)[0], (1,), lambda row: [row.index(max(row))]),
    "min": (lambda x: x.min(1)[0], (0,), lambda row: [row.index(min(row))]),
    "amax": (lambda x: x.amax((3, 1)), (0, 2), lambda row: [row.index(max(row))]),
    "amin": (lambda x: x.amin((1, 2, 3), keepdim=True), (0, 1, 2), lambda row: [row.index(min(row))]),
    "topk": (lambda x: x.topk(3, 3)[0], (2,), lambda row: sorted(range(len(row)), key=lambda i: -row[i])[:3]),
    "sort": (lambda x: x.sort(3)[0], (2,), lambda row: sorted(range(len(row)), key=lambda i: row[i])),
    "kthvalue": (lambda x: x.kthvalue(3, 3)[0], (2,), lambda row: [sorted(range(len(row)), key=lambda i: row[i])[2]]),
    "median": (lambda x: x.median(2)[0], (1,), lambda row: [sorted(range(len(row)), key=lambda i: row[i])[1]]),
    "maximum": (lambda x: torch.maximum(x[:, 0], x[:, 1]), (0,), lambda row: [0 if row[0] >= row[1] else 1]),
    "minimum": (lambda x: torch.fmin(x[:, 0], x[:, 1]), (0,), lambda row: [0 if row[0] <= row[1] else 1]),
    "where": (lambda x: torch.where(x[:, 0] > x[:, 1], x[:, 0], x[:, 1]), (0,), lambda row: [int(row[0] <= row[1])]),
    "adaptive": (lambda x: F.adaptive_max_pool2d(x, 1), (1, 2), lambda row: [row.index(max(row))]),
}  # fmt: skip


@pytest.mark.parametrize("case", RANKS)
def test_a_selection_takes_the_first_of_equals(case: str) -> None:
    """The values are small whole numbers: most rows tie. `where` decides by its own comparison."""
    function, axes, order = RANKS[case]
    x = torch.randint(0, 2, (2, 2, 4, 5), generator=torch.Generator().manual_seed(0)).double()
    lin = linreg.trace(Lambda(function), x).linearize(x)
    g = values(*lin.output.shape)
    for image, grad, adjoint in zip(x, g, lin.adjoint(g), strict=True):
        matrix = literal.picked(image, axes, order)
        torch.testing.assert_close(adjoint.flatten(), matrix.T @ grad.flatten(), **EXACT)


MOVING = (
    "maximum", "maximum, broadcasting", "amax over positions", "topk", "median", "adaptive max pool", "softshrink",
    "maximum of affine functions", "where", "where by other data", "hardshrink", "multiply by a sign",
)  # fmt: skip


@pytest.mark.parametrize("case", MOVING)
def test_no_value_moves_more_than_its_bound(case: str) -> None:
    """Within the region and out of it: the errors are as large as the values, and some elements have none."""
    t = traced(case)
    errors = values(*t.x.shape, seed=5).abs() * (values(*t.x.shape, seed=6) > -0.5)
    bounds = t.lin.graph.evaluate({"input": errors}, lambda node, inputs: node.operator.moves(*inputs))
    assert bounds.shape == t.lin.output.shape
    for seed in range(20):
        moved = t.lin.graph(t.x + errors * values(*t.x.shape, seed=seed).clamp(-1, 1)) - t.lin.output
        assert (moved.abs() <= bounds * (1 + 1e-12) + 1e-12).all()
    assert ((bounds > 0) & bounds.isfinite()).any() != (case in ("where by other data", "hardshrink"))


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: x.topk(2, 1, sorted=False)[0], r"node 'topk'.* use sorted=True"),
        (lambda x: x.max(0)[0], r"node 'max'.* images of a batch"),
        (lambda x: x.sort(0)[0], r"node 'sort'.* images of a batch"),
        (lambda x: F.relu(x - x.mean(0)) * (x > 0), r"node 'mean'.* images of a batch"),
        (lambda x: x - x.amax(), r"node 'amax'.* images of a batch"),
        (lambda x: x * x.topk(4, 1)[1].sort(0)[0], "batch"),
        (lambda x: F.rrelu(x, training=True), r"node 'rrelu'.* random in training mode"),
        (lambda x: F.fractional_max_pool2d(x, 2, output_size=2), "random"),
        (lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, 1, return_indices=True), 2, 1), "two elements in one place"),
        (lambda x: torch.maximum(x[:, :1], CHANNELS), r"node 'maximum'.* expand the data first"),
        (writing(lambda x: x.__setitem__((slice(None), [1, 1]), 2 * x[:, :1])), "two elements to one place"),
        (lambda x: x.index_copy(1, INDEX, 2 * x), r"node 'index_copy'.* two elements to one place"),
        (lambda x: x.scatter(1, INDEX[:, None, None].expand(len(x), 4, 5, 6), 2 * x), "two elements to one place"),
        (lambda x: F.linear(x, x.new_ones(6)), r"node 'linear'.* write x @ w"),
        (lambda x: torch.where(x > 0, 1.0, -1.0), r"node 'gt'.* a step"),
        (lambda x: torch.cat([x, (x > 0).double()], 1), r"node 'gt'.* a step"),
        (lambda x: 2 * (x.abs() <= 1).double().flatten(1), r"node 'le'.* a step"),
        (lambda x: x.clamp(min=x.sign()), r"node 'sign'.* a step"),
        (lambda x: x / (x > 0), r"node 'gt'.* a step"),
        (lambda x: torch.where(x.isnan(), 0.0, x), r"node 'isnan'.* a step"),
    ],
)
def test_what_is_no_selection_is_refused(function: Callable[[Tensor], Tensor], why: str) -> None:
    with pytest.raises(linreg.LinregError, match=why):
        linreg.trace(Lambda(function), values(3, *PLANE))


def overflowing() -> tuple[nn.Module, Tensor]:
    """A network whose first layer gives −∞ at this input, which its ReLU turns into 0."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    nn.init.constant_(model[0].weight, -100.0)  # type: ignore[arg-type]
    return model, torch.full((1, 2), 1e307, dtype=torch.float64)


def test_closed_gate_stops_what_overflowed() -> None:
    model, x = overflowing()
    assert model(x).isfinite().all()
    graph = linreg.trace(model, torch.ones_like(x))
    torch.testing.assert_close(graph(x), model(x).detach(), **EXACT)
    torch.testing.assert_close(graph.linearize(x).output, model(x).detach(), **EXACT)


def test_batch_norm_before_a_padded_convolution_stays_apart() -> None:
    """Its shift is not what the border sees; batch norm after the convolution goes into it."""
    apart = [node.operator.kind for node in traced("batch norm, then conv").lin.graph.nodes]
    fused = [node.operator.kind for node in traced("conv and batch norm").lin.graph.nodes]
    assert apart == ["batch norm", "conv2d"]
    assert fused == ["conv2d + bn"]
