"""An operator on each of several parts of an image: frames, views, points or tokens that are merged with the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from scipy.sparse import block_diag, csr_array
from torch import Tensor, nn

from linreg.operators.base import Affine, Constant, Operator, Role, Shape
from linreg.operators.contest import Contest
from linreg.operators.gates import LeakyReLU
from linreg.operators.reach import Follows, Placed, identity
from linreg.operators.rounding import Rounding
from linreg.operators.selection import Selection
from linreg.operators.table import Built, Call, Data, Rule


@dataclass(frozen=True, eq=False)
class Each(Operator):
    """z_p = φ(x_p) for the parts p = 1 … P of an image: (N, P, *shape) to (N, P, *out), where φ maps (N, *shape)."""

    each: Operator
    parts: int

    @property
    def kind(self) -> str:
        return self.each.kind

    @property
    def role(self) -> Role:
        return self.each.role

    @property
    def channel_axis(self) -> int | None:  # type: ignore[override]
        return _behind_parts(self.each.channel_axis)

    def freeze(self, *inputs: Tensor) -> Affine:
        affine = self.each.freeze(*_apart(inputs))
        if isinstance(affine, Selection) and affine.dims < len(affine.shape):  # it counts within the last ones only
            return Selection(self._together(affine.index), (self.parts, *affine.shape), affine.dims)
        return EachAffine(affine, self.parts)

    def moves(self, *errors: Tensor) -> Tensor:
        return self._together(self.each.moves(*_apart(errors)))

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return self._together(self.each.evaluate(*_apart(inputs)))

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        """Each part looks at itself, and within it as φ does."""
        own = [Placed(x.shape[1:], frozenset(d - 1 for d in x.dims if d > 0)) for x in inputs]
        found = self.each.reach(own, output[1:])
        return tuple(_behind(follows, x) for follows, x in zip(found, inputs, strict=True))

    @property
    def jumps(self) -> bool:
        return self.each.jumps

    def levels(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._together(level) for level in self.each.levels(*_apart(inputs)))

    def contest(self, output: Shape) -> Contest | None:
        one = self.each.contest(output[1:])
        return None if one is None else one.repeated(self.parts)

    def layer(self) -> Callable[..., Tensor]:
        """φ's own layer on all parts at once, if that has no parameters: a layer within a function would hide them."""
        layer = self.each.layer()
        if isinstance(layer, nn.Module) and any(True for _ in layer.parameters()):
            return self.evaluate
        return partial(_on_parts, layer, self.parts)

    def _together(self, value: Tensor) -> Tensor:
        return value.unflatten(0, (-1, self.parts))


@dataclass(frozen=True, eq=False)
class EachAffine(Affine):
    """z_p = A x_p + β for the parts p = 1 … P of an image, or A_p and β_p, where `each` holds one for each of them."""

    each: Affine
    parts: int

    @property
    def kind(self) -> str:
        return self.each.kind

    @property
    def role(self) -> Role:
        return self.each.role

    @property
    def channel_axis(self) -> int | None:  # type: ignore[override]
        return _behind_parts(self.each.channel_axis)

    @property
    def new_value(self) -> bool:
        return self.each.new_value

    @property
    def new_gradients(self) -> bool:
        return self.each.new_gradients

    @property
    def shared(self) -> bool:
        return self.each.shared

    @property
    def constants(self) -> tuple[Constant, ...]:  # type: ignore[override]
        return self.each.constants

    def linear(self, *inputs: Tensor) -> Tensor:
        return self._together(self.each.linear(*_apart(inputs)))

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._together(part) for part in self.each.adjoint(grad.flatten(0, 1)))

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self._together(self.each(*_apart(inputs)))

    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        """diag(A_1, …, A_P)."""
        numbers = [0] * self.parts if self.shared else range(image * self.parts, (image + 1) * self.parts)
        parts = [self.each.sparse(number) for number in dict.fromkeys(numbers)]
        parts = parts * (self.parts // len(parts))
        return tuple(csr_array(block_diag(matrices, format="csr")) for matrices in zip(*parts, strict=True))

    def degrees(self) -> tuple[tuple[int, int], ...]:
        return self.each.degrees()

    def reach(self, inputs: Sequence[Placed], output: Shape) -> tuple[Follows | None, ...]:
        return Each(self.each, self.parts).reach(inputs, output)

    def layer(self) -> Callable[..., Tensor]:
        return self.evaluate

    def rounding(self, *inputs: Tensor) -> Rounding:
        rule = self.each.rounding(*_apart(inputs))
        return replace(rule, absolute=lambda *errors: self._together(rule.absolute(*_apart(errors))))

    def _together(self, value: Tensor) -> Tensor:
        return value.unflatten(0, (-1, self.parts))


def _behind_parts(axis: int | None) -> int | None:
    """An axis of one part among those of all parts; one that is counted from the end stays."""
    return axis if axis is None or axis < 0 else axis + 1


def _on_parts(layer: Callable[..., Tensor], parts: int, *inputs: Tensor) -> Tensor:
    return layer(*_apart(inputs)).unflatten(0, (-1, parts))


def _apart(values: Sequence[Tensor]) -> list[Tensor]:
    """(N, P, …) as (N · P, …)."""
    return [value.flatten(0, 1) for value in values]


def _behind(follows: Follows | None, x: Placed) -> Follows | None:
    """What follows the dimensions of one part, as those of all parts."""
    if follows is None:
        return None
    parts = {0: (0, identity(x.shape[0]))} if 0 in x.dims else {}
    inner = {d + 1: (None if e is None else e + 1, reach) for d, (e, reach) in follows.items()}
    return parts | inner


def for_each(rule: Rule) -> Rule:
    """The rule of a layer whose data have their parts where it expects the images."""

    def build(call: Call) -> Built:
        parts = call.shape[0]
        inner = {name: _one_part(argument) for name, argument in call.arguments.items()}
        built, _ = rule(replace(call, arguments=inner, shape=call.shape[1:]))
        if isinstance(built, LeakyReLU):  # one slope for each channel of each part
            return replace(built, negative_slope=torch.as_tensor(built.negative_slope)[None]), call.data
        if isinstance(built, Affine):
            return EachAffine(built, parts), call.data
        return Each(built, parts), call.data

    return build


def _one_part(argument: object) -> object:
    if isinstance(argument, Data):
        return replace(argument, shape=argument.shape[1:])
    return [_one_part(item) for item in argument] if isinstance(argument, list) else argument
