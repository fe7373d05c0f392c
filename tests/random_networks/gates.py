"""Gates, and choices by comparison."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from nets import Lambda
from torch import nn

from random_networks.table import Layer, Shape, aten, broadcasts, choice, constant, kind, random, simple

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
constant("maximum with a constant", torch.maximum)
constant("minimum with a constant", torch.minimum)
