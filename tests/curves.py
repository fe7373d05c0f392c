"""Smooth units and their interpolants, and small networks that hold them, each beside its literal chords."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import pi
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from approx import values
from nets import Lambda, randomised
from torch import Tensor, nn

import linreg
import linreg.capture.translate
from linreg.operators import Call, smooth
from linreg.operators.smooth import Interpolant

aten = torch.ops.aten
Function = Callable[[Tensor], Tensor]
Line = tuple[float, float]

ZERO, IDENTITY = (0.0, 0.0), (1.0, 0.0)
FUNCTIONS: dict[str, tuple[Function, Line, Line]] = {
    # name: (function, the line that it tends to on the left, and on the right)
    "sigmoid": (torch.sigmoid, ZERO, (0, 1)),
    "sigmoid in place": (lambda z: (1 * z).sigmoid_(), ZERO, (0, 1)),
    "expit": (torch.special.expit, ZERO, (0, 1)),
    "tanh": (nn.Tanh(), (0, -1), (0, 1)),
    "erf": (torch.erf, (0, -1), (0, 1)),
    "special erf": (aten.special_erf, (0, -1), (0, 1)),
    "erfc": (torch.erfc, (0, 2), ZERO),
    "special erfc": (aten.special_erfc, (0, 2), ZERO),
    "atan": (torch.atan, (0, -pi / 2), (0, pi / 2)),
    "arctan": (torch.arctan, (0, -pi / 2), (0, pi / 2)),
    "silu": (nn.SiLU(), ZERO, IDENTITY),
    "silu in place": (lambda z: F.silu(1 * z, inplace=True), ZERO, IDENTITY),
    "gelu": (nn.GELU(), ZERO, IDENTITY),
    "gelu, tanh": (nn.GELU("tanh"), ZERO, IDENTITY),
    "mish": (nn.Mish(), ZERO, IDENTITY),
    "softplus": (nn.Softplus(), ZERO, IDENTITY),
    "softplus, steep": (nn.Softplus(beta=100.0), ZERO, IDENTITY),
    "softplus, flat": (nn.Softplus(beta=0.25), ZERO, IDENTITY),
    "softplus, downwards": (nn.Softplus(beta=-2.0), IDENTITY, ZERO),
    "softplus with a jump": (nn.Softplus(beta=2.0, threshold=5.0), ZERO, IDENTITY),
    "log sigmoid": (nn.LogSigmoid(), IDENTITY, ZERO),
    "elu": (nn.ELU(), (0, -1), IDENTITY),
    "elu with a kink": (nn.ELU(alpha=2.0), (0, -2), IDENTITY),
    "elu, falling": (nn.ELU(alpha=-0.5), (0, 0.5), IDENTITY),
    "elu, scaled": (lambda z: aten.elu(z, 0.5, 1.5, 0.25), (0, -0.75), (1.5, 0)),
    "selu": (nn.SELU(), (0, -1.0507009873554805 * 1.6732632423543772), (1.0507009873554805, 0)),
    "selu in place": (
        lambda z: F.selu(1 * z, inplace=True), (0, -1.0507009873554805 * 1.6732632423543772), (1.0507009873554805, 0),
    ),
    "celu": (nn.CELU(alpha=0.7), (0, -0.7), IDENTITY),
    "hardswish": (nn.Hardswish(), ZERO, IDENTITY),
}  # fmt: skip
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def pwl(model: nn.Module, x: Tensor, pieces: int = 32, **options: Any) -> linreg.OperatorGraph:
    return linreg.trace(model, x, nonlinear="pwl", pieces=pieces, **options)


def module(function: Function) -> nn.Module:
    return function if isinstance(function, nn.Module) else Lambda(function)


@cache
def exported(name: str) -> Call:
    """The call that a function is to the exporter, as trace hands it to the rule."""
    calls: list[Call] = []

    def spy(call: Call, pieces: int) -> Any:
        calls.append(call)
        return smooth.interpolant(call, pieces)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linreg.capture.translate, "interpolant", spy)
        pwl(module(FUNCTIONS[name][0]), values(2, 3))
    (call,) = calls
    return call


@cache
def interpolant(name: str, pieces: int = 32) -> Interpolant:
    """What takes the place of a function in a graph of float64."""
    found, _ = smooth.interpolant(exported(name), pieces)
    assert isinstance(found, Interpolant)
    return found


def apply(function: Function | Interpolant, z: Tensor) -> Tensor:
    """At numbers."""
    with torch.no_grad():
        return function.freeze(z)(z) if isinstance(function, Interpolant) else function(z)


def samples(breaks: Sequence[float], count: int) -> Tensor:
    """Random numbers in [−50, 50], even ones where f bends, in the tails, and next to the breaks."""
    generator = np.random.default_rng(0)
    kinks = np.array(breaks)
    parts = [
        generator.uniform(-50, 50, count // 2), np.linspace(-10, 10, count // 2), np.linspace(-1e3, 1e3, count // 10),
        *(kinks + step for step in (0, 1e-9, -1e-9, 1e-4, -1e-4)), (kinks[1:] + kinks[:-1]) / 2,
    ]  # fmt: skip
    return torch.from_numpy(np.concatenate(parts))


# ---- networks ----


class Block(nn.Module):
    """A residual block with SiLU, depthwise, batch norm: EfficientNet's without squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.act = nn.SiLU(inplace=True)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.project = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.project(self.act(self.depthwise(self.act(self.norm(self.expand(h))))))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3))


def efficient() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), Block(4), Block(4), nn.Flatten(), nn.Linear(64, 3))


def mixed() -> nn.Module:
    units = nn.GELU(), nn.ReLU(), nn.MaxPool2d(2), nn.Hardswish(), nn.Flatten()
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), *units, nn.Linear(54, 6), nn.ELU(), nn.Linear(6, 4), nn.Tanhshrink(),
        nn.Linear(4, 3),
    )  # fmt: skip


NETWORKS = {"mlp": (mlp, (5,)), "efficient": (efficient, (3, 6, 6)), "mixed": (mixed, (3, 6, 6))}
every_network = pytest.mark.parametrize("name", NETWORKS)


def network(name: str, images: int = 3) -> tuple[nn.Module, Tensor]:
    build, shape = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return randomised(build().double()).eval(), values(images, *shape)


class Chords(nn.Module):
    """The literal interpolant: f at the breaks, its lines beyond them, joined by chords; plain autograd."""

    def __init__(self, breaks: Tensor, function: Function, left: Line, right: Line) -> None:
        super().__init__()
        values = apply(function, breaks)
        values[0], values[-1] = left[0] * breaks[0] + left[1], right[0] * breaks[-1] + right[1]
        # One more point on either line, so that all pieces are chords.
        self.points = torch.cat([breaks[:1] - 1e3, breaks, breaks[-1:] + 1e3])
        self.values = torch.cat([values[:1] - 1e3 * left[0], values, values[-1:] + 1e3 * right[0]])

    def forward(self, z: Tensor) -> Tensor:
        place = torch.searchsorted(self.points, z.detach()).clamp(1, len(self.points) - 1)
        (x0, x1), (y0, y1) = ((v[place - 1], v[place]) for v in (self.points, self.values))
        return y0 * ((x1 - z) / (x1 - x0)) + y1 * ((z - x0) / (x1 - x0))


KEYS = {
    nn.Tanh: "tanh",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.Hardswish: "hardswish",
    nn.ELU: "elu",
    nn.Tanhshrink: "tanh",
}


def literal(name: str, graph: linreg.OperatorGraph) -> nn.Module:
    """The network with its smooth layers replaced by hand, at the graph's knots."""
    model, _ = network(name)
    knots = {i.unit: i.breaks for i in graph.approximation.interpolants.values()}
    for parent in list(model.modules()):
        for child, layer in list(parent.named_children()):
            if type(layer) not in KEYS:
                continue
            key = KEYS[type(layer)]
            chords = Chords(knots[key], *FUNCTIONS[key])
            shrink = Lambda(lambda z, chords: z - chords(z), chords=chords)
            setattr(parent, child, shrink if isinstance(layer, nn.Tanhshrink) else chords)
    return model


@cache
def approximated(name: str, pieces: int = 32) -> linreg.OperatorGraph:
    """A network of NETWORKS with its units in pieces, traced once for all the tests that only look at it."""
    return pwl(*network(name), pieces)
