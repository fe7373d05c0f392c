"""Elementwise gates, and choices by comparison."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases.case import CHANNELS, PLANE, Case, halves, layer

aten = torch.ops.aten
SLOPES = torch.tensor([0.25, -0.5, 2.0, 0.0]).double()
BOUNDS = (-CHANNELS.abs(), CHANNELS.abs() / 2)


def set_below(x: Tensor, bound: float) -> Tensor:
    x[x < bound] = bound
    return x


CASES = {
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
}  # fmt: skip
