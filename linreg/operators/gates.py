"""Elementwise gates: φ(z) = s ⊙ z + t on one region. At a kink the closed side wins."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from linreg.errors import LinregError
from linreg.operators.base import Diagonal, Operator
from linreg.operators.table import Built, Call, rule

Bound = Tensor | float


class Gate(Operator):
    """An elementwise piecewise-linear unit, φ(z) = s ⊙ z + t with s, t fixed by the region: the place of a mask."""

    @property
    @abstractmethod
    def kinks(self) -> tuple[Bound, ...]:
        """Where φ changes its piece: numbers, or tensors that broadcast to z."""

    @property
    def steepest(self) -> Bound:
        """The largest |s|; infinite where φ jumps."""
        return 1.0

    def moves(self, *errors: Tensor) -> Tensor:
        return (torch.as_tensor(self.steepest).to(errors[0]) * errors[0]).nan_to_num(nan=0.0, posinf=torch.inf)


@dataclass(frozen=True, eq=False)
class ReLU(Gate):
    """φ(z) = max(z, 0): s = [z > 0], t = 0 (Eqs. 2 and 3)."""

    kind = "relu"
    kinks = (0.0,)

    def freeze(self, *inputs: Tensor) -> Diagonal:
        return Diagonal((inputs[0] > 0).to(inputs[0]), switch=True)


@dataclass(frozen=True, eq=False)
class LeakyReLU(Gate):
    """φ(z) = z where z > 0, α z elsewhere: s ∈ {1, α}, t = 0. PReLU has one α for each channel; abs has α = −1."""

    negative_slope: Bound
    kind: str = "leaky relu"
    kinks = (0.0,)

    @property
    def steepest(self) -> Bound:
        return torch.as_tensor(self.negative_slope, dtype=torch.float64).abs().clamp_min(1)

    def freeze(self, *inputs: Tensor) -> Diagonal:
        (z,) = inputs
        return Diagonal(torch.where(z > 0, z.new_ones(()), self.negative_slope))


@dataclass(frozen=True, eq=False)
class Clamp(Gate):
    """φ(z) = min(max(z, low), high): s = [low < z < high], t = the bound where saturated (ReLU6, hardtanh, clamp)."""

    low: Bound | None
    high: Bound | None
    kind: str = "clamp"

    @property
    def kinks(self) -> tuple[Bound, ...]:
        return tuple(bound for bound in (self.low, self.high) if bound is not None)

    def freeze(self, *inputs: Tensor) -> Diagonal:
        (z,) = inputs
        inside = torch.ones_like(z, dtype=torch.bool)
        if self.low is not None:
            inside = z > self.low
        if self.high is not None:
            inside = inside & (z < self.high)
        offset = torch.where(inside, z.new_zeros(()), z.clamp(self.low, self.high))  # type: ignore[arg-type]
        return Diagonal(inside.to(z), offset, switch=True)


@dataclass(frozen=True, eq=False)
class Pieces(Gate):
    """φ(z) = s_i z + t_i on the i-th interval, i = 0 … m, of those into which `breaks` b_1 < … < b_m cut the line.

    A break belongs to the flatter of its two pieces: the closed side. `jumps` says that φ is not continuous.
    """

    breaks: Tensor
    slopes: Tensor
    offsets: Tensor
    kind: str = "pieces"
    jumps: bool = False

    @property
    def kinks(self) -> tuple[Bound, ...]:
        return tuple(self.breaks.tolist())

    @property
    def steepest(self) -> Bound:
        return torch.inf if self.jumps else self.slopes.abs().max()

    def freeze(self, *inputs: Tensor) -> Diagonal:
        piece = torch.bucketize(inputs[0], self._ends)
        offset = self.offsets[piece] if self.offsets.any() else None
        return Diagonal(self.slopes[piece], offset, switch=bool(((self.slopes == 0) | (self.slopes == 1)).all()))

    @property
    def _ends(self) -> Tensor:
        """The last number of each interval but the last: its upper break, or the one before it in this arithmetic."""
        flatter = self.slopes[:-1].abs() <= self.slopes[1:].abs()
        return torch.where(flatter, self.breaks, self.breaks.nextafter(self.breaks.new_tensor(-torch.inf)))


@rule("relu")
def _relu(call: Call) -> Built:
    return ReLU(), (call.one_data("self"),)


@rule("leaky_relu")
def _leaky_relu(call: Call) -> Built:
    return LeakyReLU(call["negative_slope"]), (call.one_data("self"),)


@rule("prelu", "_prelu_kernel")
def _prelu(call: Call) -> Built:
    z, slope = call.one_data("self"), call["weight"].value
    per_channel = slope.view(-1, *[1] * (len(z.shape) - 1)) if slope.dim() == 1 else slope
    return LeakyReLU(per_channel, "prelu"), (z,)


@rule("abs")
def _abs(call: Call) -> Built:
    return LeakyReLU(-1.0, "abs"), (call.one_data("self"),)


@rule("relu6")
def _relu6(call: Call) -> Built:
    return Clamp(0.0, 6.0, "relu6"), (call.one_data("self"),)


@rule("hardtanh")
def _hardtanh(call: Call) -> Built:
    low, high = call["min_val"], call["max_val"]
    return Clamp(low, high, "relu6" if (low, high) == (0.0, 6.0) else "hardtanh"), (call.one_data("self"),)


@rule("clamp", "clamp_min", "clamp_max")
def _clamp(call: Call) -> Built:
    if call.one_data("self").shape != call.shape:
        raise LinregError(
            f"its bounds broadcast the data to (N, {', '.join(map(str, call.shape))}): expand the data first"
        )
    low, high = (None if call[bound] is None else call.tensor(call[bound]) for bound in ("min", "max"))
    if high is None and low is not None and not low.any():
        return ReLU(), (call.one_data("self"),)
    return Clamp(low, high), (call.one_data("self"),)
