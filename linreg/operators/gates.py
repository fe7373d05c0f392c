"""Elementwise gates: φ(z) = s ⊙ z + t on one region. At a kink the closed side wins."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from linreg.errors import LinregError
from linreg.operators.base import Diagonal, Operator, Role, Shape, with_parameters
from linreg.operators.reach import Follows, Placed, elementwise
from linreg.operators.table import Built, Call, Data, rule

Bound = Tensor | float


class Gate(Operator):
    """An elementwise piecewise-linear unit, φ(z) = s ⊙ z + t with s, t fixed by the region: the place of a mask."""

    role = Role.GATE

    @property
    @abstractmethod
    def kinks(self) -> tuple[Bound, ...]:
        """Where φ changes its piece: numbers, or tensors that broadcast to z."""

    @property
    def steepest(self) -> Bound:
        """The largest |s|; infinite where φ jumps."""
        return 1.0

    @property
    def jumps(self) -> bool:
        return bool(torch.as_tensor(self.steepest).isinf().any())

    def levels(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """z − kink for each kink."""
        (z,) = inputs
        return tuple(z if isinstance(kink, float) and kink == 0 else z - kink for kink in self.kinks)

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        return elementwise(inputs, output)

    def moves(self, *errors: Tensor) -> Tensor:
        steepest = torch.as_tensor(self.steepest, device=errors[0].device).to(errors[0])
        return (steepest * errors[0]).nan_to_num(nan=0.0, posinf=torch.inf)


@dataclass(frozen=True, eq=False)
class ReLU(Gate):
    """φ(z) = max(z, 0): s = [z > 0], t = 0 (Eqs. 2 and 3)."""

    kind = "relu"
    kinks = (0.0,)

    def freeze(self, *inputs: Tensor) -> Diagonal:
        (z,) = inputs
        one = z.new_ones(()).expand_as(z)
        return Diagonal(torch.ops.aten.threshold_backward(one, z, 0).to(torch.int8), switch=True)  # [z > 0], fast

    def layer(self) -> nn.Module:
        return nn.ReLU()


@dataclass(frozen=True, eq=False)
class LeakyReLU(Gate):
    """φ(z) = z where z > 0, α z elsewhere: s ∈ {1, α}, t = 0. PReLU has one α for each channel."""

    negative_slope: Bound
    kind: str = "leaky relu"
    kinks = (0.0,)

    @property
    def steepest(self) -> Bound:
        device = getattr(self.negative_slope, "device", "cpu")
        return torch.as_tensor(self.negative_slope, dtype=torch.float64, device=device).abs().clamp_min(1)

    def freeze(self, *inputs: Tensor) -> Diagonal:
        (z,) = inputs
        return Diagonal(torch.where(z > 0, z.new_ones(()), self.negative_slope))

    def layer(self) -> Callable[..., Tensor]:
        slope = self.negative_slope
        if not isinstance(slope, Tensor):
            return nn.LeakyReLU(slope)
        if slope.shape[1:].numel() > 1:
            return super().layer()
        return with_parameters(nn.PReLU(slope.numel(), device="meta"), slope.flatten())


@dataclass(frozen=True, eq=False)
class Abs(LeakyReLU):
    """φ(z) = |z|: s ∈ {1, −1}, t = 0."""

    negative_slope: Bound = -1.0
    kind: str = "abs"

    def layer(self) -> Callable[..., Tensor]:
        return torch.abs


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
        if isinstance(self.low, Tensor) or isinstance(self.high, Tensor):
            inside = torch.ones_like(z, dtype=torch.bool)
            if self.low is not None:
                inside = z > self.low
            if self.high is not None:
                inside = inside & (z < self.high)
            offset = torch.where(inside, z.new_zeros(()), z.clamp(self.low, self.high))  # type: ignore[arg-type]
            return Diagonal(inside.to(torch.int8), offset, switch=True)
        low, high = -torch.inf if self.low is None else self.low, torch.inf if self.high is None else self.high
        within = torch.ops.aten.hardtanh_backward  # g where low < z < high, else 0, in one pass
        offset = z.clamp(low, high).sub_(within(z, z, low, high))
        return Diagonal(within(z.new_ones(()).expand_as(z), z, low, high).to(torch.int8), offset, switch=True)

    def layer(self) -> Callable[..., Tensor]:
        numbers = [float(bound) for bound in self.kinks if torch.as_tensor(bound, device="cpu").dim() == 0]
        if len(numbers) == 2 and numbers[0] < numbers[1]:
            low, high = numbers
            return nn.ReLU6() if (low, high) == (0, 6) else nn.Hardtanh(low, high)
        return partial(torch.clamp, min=self.low, max=self.high)


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
        piece = torch.bucketize(inputs[0].contiguous(), self._ends)
        offset = self.offsets[piece] if self.offsets.any() else None
        return Diagonal(self.slopes[piece], offset, switch=bool(((self.slopes == 0) | (self.slopes == 1)).all()))

    def evaluate(self, *inputs: Tensor) -> Tensor:
        """Without a choice by the values of its tensors: so that torch.export can go through it."""
        (z,) = inputs
        piece = torch.bucketize(z.detach().contiguous(), self._ends)
        slope, offset = self.slopes[piece], self.offsets[piece]
        return torch.where(slope == 0, offset, slope * z + offset)

    def layer(self) -> Callable[..., Tensor]:
        """A threshold where φ is a fixed number up to its break, and z beyond.

        Not Hardsigmoid, which differentiates with 1/6 in single precision.
        """
        slopes, offsets = self.slopes.tolist(), self.offsets.tolist()
        if slopes == [0, 1] and offsets[1] == 0:
            return nn.Threshold(self.breaks.item(), offsets[0])
        return super().layer()

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
    return Abs(), (call.one_data("self"),)


@rule("relu6")
def _relu6(call: Call) -> Built:
    return Clamp(0.0, 6.0, "relu6"), (call.one_data("self"),)


@rule("hardtanh")
def _hardtanh(call: Call) -> Built:
    low, high = call["min_val"], call["max_val"]
    return Clamp(low, high, "relu6" if (low, high) == (0.0, 6.0) else "hardtanh"), (call.one_data("self"),)


@rule("clamp", "clip", "clamp_min", "clamp_max")
def _clamp(call: Call) -> Built:
    low, high = (None if call[bound] is None else call.tensor(call[bound]) for bound in ("min", "max"))
    return bounded(call, call.one_data("self"), low, high)


def bounded(call: Call, z: Data, low: Tensor | None, high: Tensor | None) -> Built:
    """The gate of a call that clips z to fixed bounds."""
    if z.shape != call.shape:
        raise LinregError(
            f"its bounds broadcast the data to (N, {', '.join(map(str, call.shape))}): expand the data first"
        )
    if high is None and low is not None and not low.any():
        return ReLU(), (z,)
    return Clamp(_number(low), _number(high)), (z,)


def _number(bound: Tensor | None) -> Bound | None:
    return bound.item() if bound is not None and bound.dim() == 0 else bound


@rule("threshold")
def _threshold(call: Call) -> Built:
    """φ(z) = z where z > θ, a fixed value elsewhere."""
    limit, value = float(call["threshold"]), float(call["value"])
    breaks, slopes, offsets = (call.like.new_tensor(v) for v in ([limit], [0.0, 1.0], [value, 0.0]))
    return Pieces(breaks, slopes, offsets, "threshold", jumps=limit != value), (call.one_data("self"),)


@rule("hardsigmoid")
def _hardsigmoid(call: Call) -> Built:
    """φ(z) = (z + 3) / 6, clipped to [0, 1]."""
    breaks, slopes, offsets = (call.like.new_tensor(v) for v in ([-3.0, 3.0], [0.0, 1 / 6, 0.0], [0.0, 0.5, 1.0]))
    return Pieces(breaks, slopes, offsets, "hardsigmoid"), (call.one_data("self"),)


@rule("rrelu")
def _rrelu(call: Call) -> Built:
    """In eval mode, where its slope is the mean of the two between which it is drawn in training."""
    if call["training"]:
        raise LinregError("its slopes are random in training mode: it must be off in eval mode")
    return LeakyReLU((call["lower"] + call["upper"]) / 2, "rrelu"), (call.one_data("self"),)
