"""Smooth units as gates: piecewise-linear interpolants with a proved error, for `trace(…, nonlinear="pwl")`.

A unit has an interpolant where it is a function f of one number with a straight asymptote on either side. Beyond the
outer knots φ is the asymptotes; between them it consists of chords of f.

The stated error is the maximum of |φ − f| over all numbers, to the rounding of float64, and not an estimate: between
neighbours among the knots and the inflections of f, f − φ is convex or concave, so that |f − φ| is largest at an end or
where f′ is the slope of the chord, which is one point and is found by bisection; and towards an asymptote it falls
monotonically to 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf, isfinite, log, pi

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import brentq
from torch import Tensor

from linreg.errors import LinregError
from linreg.operators.gates import Pieces
from linreg.operators.table import Built, Call

Line = tuple[float, float]

CONSTANT, IDENTITY = (0.0, 0.0), (1.0, 0.0)
GRID, REACH = 2**14, 30.0  # the knots are placed on so many points sinh(t), |t| ≤ REACH


@dataclass(frozen=True, eq=False)
class Interpolant(Pieces):
    """φ ≈ f for the smooth `unit` f, an ATen operator: |φ(z) − f(z)| ≤ `max_error` for all z, before φ is rounded."""

    unit: str = ""
    max_error: float = 0.0

    @property
    def pieces(self) -> int:
        """The number of linear pieces, the two asymptotes among them."""
        return len(self.slopes)


@dataclass(frozen=True)
class Unit:
    """A function f of one number that tends to the line `left` (slope, intercept) on one side and `right` on the other.

    f is `left` itself below `ends[0]` and `right` above `ends[1]`; between the ends it is smooth, and convex or concave
    between neighbours among its `inflections`. `width` is its scale along the axis. ATen's unit is f but for `slack`.
    """

    function: Callable[[Tensor], Tensor]
    left: Line
    right: Line
    inflections: tuple[float, ...] = ()
    ends: tuple[float, float] = (-inf, inf)
    width: float = 1.0
    slack: float = 0.0

    @torch.inference_mode(False)
    @torch.enable_grad()
    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """f(z) and f′(z), in float64."""
        at = torch.tensor(z, dtype=torch.float64, requires_grad=True)
        value = self.function(at)
        (slope,) = torch.autograd.grad(value.sum(), at)
        return value.detach().numpy(), slope.numpy()


def line(of: Line, z: np.ndarray) -> np.ndarray:
    """The line at z."""
    return of[0] * z + of[1]


def knots(unit: Unit, pieces: int) -> np.ndarray:
    """pieces − 1 knots that spread the error ε evenly: over the chords, and over |f − asymptote| at the outer knots.

    The error of a chord of length h is about h² |f″| / 8, so that each has the same share of ∫ |f″|^½, and pieces − 2
    chords share (pieces − 2) √(8 ε). The fewer the chords, the larger ε, and the nearer the outer knots: ε is the root.
    """
    low, high = unit.ends
    z = np.unique(np.clip(unit.width * np.sinh(np.linspace(-REACH, REACH, GRID)), low, high))
    value, slope = unit(z)
    mass = np.concatenate([[0.0], np.sqrt(np.abs(np.diff(slope) * np.diff(z))).cumsum()])
    left, right = (np.abs(value - line(asymptote, z)) for asymptote in (unit.left, unit.right))
    left, right = (np.where(gap > 1e-14 * np.abs(value), gap, 0.0) for gap in (left, right))  # far off, it is rounding
    left, right = np.maximum.accumulate(left), np.maximum.accumulate(right[::-1])

    def outer(error: float) -> np.ndarray:
        """The mass at the first point where f is `error` off its asymptote, and at the last."""
        first = low if isfinite(low) else np.interp(error, left, z)
        last = high if isfinite(high) else np.interp(error, right, z[::-1])
        return np.interp([first, last], z, mass)

    def excess(log_error: float) -> float:
        start, stop = outer(exp(log_error))
        return float(stop - start) - (pieces - 2) * (8 * exp(log_error)) ** 0.5

    largest = log(mass[-1] ** 2 / 8)
    start, stop = outer(exp(brentq(excess, largest - 90, largest)))
    return np.unique(np.interp(np.linspace(start, stop, pieces - 1), mass, z))


def interpolate(unit: Unit, pieces: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Breaks, slopes, offsets and maximal error of an interpolant of so many pieces."""
    at = knots(unit, pieces)
    values = unit(at)[0]
    values[0], values[-1] = line(unit.left, at[0]), line(unit.right, at[-1])
    chords = np.diff(values) / np.diff(at)
    slopes = np.concatenate([unit.left[:1], chords, unit.right[:1]])
    offsets = np.concatenate([unit.left[1:], values[:-1] - chords * at[:-1], unit.right[1:]])

    def error(z: np.ndarray) -> float:
        piece = np.searchsorted(at, z)
        return float(np.abs(unit(z)[0] - slopes[piece] * z - offsets[piece]).max())

    ends = np.union1d(at, unit.inflections)
    farthest = _where_slope_is(unit, slopes[np.searchsorted(at, ends[1:])], ends[:-1], ends[1:])
    return at, slopes, offsets, max(error(ends), error(farthest)) + unit.slack


def _where_slope_is(unit: Unit, slope: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Where f′ is `slope` in each interval, by bisection; the end that is nearest to it where f′ never is."""
    rising = unit(lower + 0.75 * (upper - lower))[1] > unit(lower + 0.25 * (upper - lower))[1]
    for _ in range(64):
        middle = (lower + upper) / 2
        above = (unit(middle)[1] < slope) == rising
        lower, upper = np.where(above, middle, lower), np.where(above, upper, middle)
    return (lower + upper) / 2


def interpolant(call: Call, pieces: int) -> Built:
    """The rule for all smooth units of the table."""
    z = call.one_data("self")
    *numbers, error = interpolate(UNITS[call.name](call), pieces)
    breaks, slopes, offsets = (torch.tensor(each).to(call.like) for each in numbers)
    kind = f"{call.name} ({len(slopes)} pieces)"
    return Interpolant(breaks, slopes, offsets, kind, unit=call.name, max_error=error), (z,)


def _exponential(alpha: float, scale: float, rate: float) -> Unit:
    """f(z) = scale · z where z > 0, scale · α (e^{rate z} − 1) elsewhere."""
    if alpha * scale == 0 or rate <= 0:
        raise LinregError(
            f"with alpha {alpha:g}, scale {scale:g} and input_scale {rate:g} it is no curve with two asymptotes"
        )
    return Unit(
        lambda z: torch.ops.aten.elu(z, alpha, scale, rate),
        (0.0, -scale * alpha), (scale, 0.0), ends=(-inf, 0.0), width=1 / rate,
    )  # fmt: skip


def _celu(call: Call) -> Unit:
    return _exponential(call["alpha"], 1.0, 1 / call["alpha"])


def _softplus(call: Call) -> Unit:
    """log(1 + e^{βz}) / β; ATen's goes over to z where βz > threshold, with a jump that is the slack."""
    beta, threshold = call["beta"], call["threshold"]
    if beta == 0:
        raise LinregError("with beta 0 it is infinite")
    lines = (CONSTANT, IDENTITY) if beta > 0 else (IDENTITY, CONSTANT)
    slack = float(np.logaddexp(0.0, -threshold)) / abs(beta)
    return Unit(lambda z: -F.logsigmoid(-beta * z) / beta, *lines, width=1 / abs(beta), slack=slack)


def _gelu(call: Call) -> Unit:
    approximate = call["approximate"]
    turn = 1.4185040087908285 if approximate == "tanh" else 2**0.5
    return Unit(lambda z: F.gelu(z, approximate=approximate), CONSTANT, IDENTITY, (-turn, turn))


# What a unit is, by the name of its ATen operator; its parameters come from the call.
UNITS: dict[str, Callable[[Call], Unit]] = {
    "sigmoid": lambda call: Unit(torch.sigmoid, CONSTANT, (0.0, 1.0), (0.0,)),
    "tanh": lambda call: Unit(torch.tanh, (0.0, -1.0), (0.0, 1.0), (0.0,)),
    "erf": lambda call: Unit(torch.erf, (0.0, -1.0), (0.0, 1.0), (0.0,)),
    "erfc": lambda call: Unit(torch.erfc, (0.0, 2.0), CONSTANT, (0.0,)),
    "atan": lambda call: Unit(torch.atan, (0.0, -pi / 2), (0.0, pi / 2), (0.0,)),
    "silu": lambda call: Unit(F.silu, CONSTANT, IDENTITY, (-2.3993572805154677, 2.3993572805154677)),
    "gelu": _gelu,
    "mish": lambda call: Unit(F.mish, CONSTANT, IDENTITY, (-2.256376396360793, 1.490571179485428)),
    "softplus": _softplus,
    "log_sigmoid": lambda call: Unit(F.logsigmoid, IDENTITY, CONSTANT),
    "elu": lambda call: _exponential(call["alpha"], call["scale"], call["input_scale"]),
    "selu": lambda call: _exponential(1.6732632423543772, 1.0507009873554805, 1.0),
    "celu": _celu,
    "hardswish": lambda call: Unit(F.hardswish, CONSTANT, IDENTITY, ends=(-3.0, 3.0)),
}
UNITS |= {
    "special_expit": UNITS["sigmoid"],
    "special_erf": UNITS["erf"],
    "special_erfc": UNITS["erfc"],
    "arctan": UNITS["atan"],
}
