"""What moves values about: shapes, slices, padding, resampling, indices, writes in place."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from nets import Lambda
from torch import Tensor, nn

from random_networks.table import (
    Draw,
    Layer,
    Shape,
    along,
    at_least,
    aten,
    choice,
    dims_of,
    divisors,
    kind,
    layered,
    one_dim,
    random,
    same,
    simple,
)

simple("flatten", lambda x: x.flatten(1), at_least(2))
simple("squeeze", lambda x: x.squeeze(1), lambda shape: len(shape) > 1 and shape[0] == 1)
simple("squeeze, copied", lambda x: torch.squeeze_copy(x, -1), lambda shape: len(shape) > 1 and shape[-1] == 1)
simple("squeeze several", lambda x: x.squeeze((1, -1)), lambda shape: len(shape) > 2 and 1 in (shape[0], shape[-1]))
simple("dropout", lambda x: F.dropout(x, 0.5, training=False))
simple("identity", lambda x: x.contiguous().clone())


@kind("view", lambda draw, shape: {"to": factors(draw, prod(shape))})
def _view(shape: Shape, to: Shape) -> Layer:
    return lambda x: x.reshape(x.shape[0], *to)


@kind("view as inferred", lambda draw, shape: {"to": factors(draw, prod(shape))})
def _inferred(shape: Shape, to: Shape) -> Layer:
    return lambda x: x.reshape(-1, *to)


def factors(draw: Draw, n: int) -> tuple[int, ...]:
    """n as a product of one to four numbers."""
    found: list[int] = []
    for _ in range(draw(st.integers(0, 3))):
        found.append(draw(st.sampled_from(divisors(n // prod(found)))))
    return (*found, n // prod(found))


@kind("unsqueeze", lambda draw, shape: {"dim": draw(st.integers(1, len(shape) + 1))}, at_least(1, 4))
def _unsqueeze(shape: Shape, dim: int) -> Layer:
    return lambda x: x.unsqueeze(dim)


@kind("unflatten", lambda draw, shape: {"first": draw(st.sampled_from(divisors(shape[0])))}, at_least(1, 4))
def _unflatten(shape: Shape, first: int) -> Layer:
    return nn.Unflatten(1, (first, shape[0] // first))


@kind("repeat", lambda draw, shape: {"times": tuple(draw(st.integers(1, 2)) for _ in shape)}, grows=True)
def _repeat(shape: Shape, times: tuple[int, ...]) -> Layer:
    return lambda x: x.repeat(1, *times)


@kind("expand", choice(to=[2, 3]), lambda shape: 1 in shape, grows=True)
def _expand(shape: Shape, to: int) -> Layer:
    first = shape.index(1)
    return lambda x: x.expand(-1, *(to if d == first else -1 for d in range(len(shape))))


@kind("permute", lambda draw, shape: {"dims": tuple(draw(st.permutations(range(1, len(shape) + 1))))}, at_least(2))
def _permute(shape: Shape, dims: tuple[int, ...]) -> Layer:
    return lambda x: x.permute(0, *dims)


@kind("transpose", lambda draw, shape: {"dims": dims_of(draw, shape, 2)[:2]}, at_least(2))
def _transpose(shape: Shape, dims: tuple[int, int]) -> Layer:
    return lambda x: x.transpose(*dims)


@kind("flip", lambda draw, shape: {"dims": dims_of(draw, shape)})
def _flip(shape: Shape, dims: tuple[int, ...]) -> Layer:
    return lambda x: x.flip(dims)


def _roll_options(draw: Draw, shape: Shape) -> dict[str, Any]:
    dims = dims_of(draw, shape)
    return {"shifts": tuple(draw(st.integers(-3, 3)) for _ in dims), "dims": dims}


@kind("roll", _roll_options)
def _roll(shape: Shape, shifts: tuple[int, ...], dims: tuple[int, ...]) -> Layer:
    return lambda x: x.roll(shifts, dims)


def _slice_options(draw: Draw, shape: Shape) -> dict[str, Any]:
    slices = []
    for n in shape:
        start = draw(st.integers(-n, n - 1))
        stop = draw(st.sampled_from([None, *range(start % n + 1, n + 1)]))
        slices.append((start, stop, draw(st.integers(1, 2))))
    return {"slices": tuple(slices)}


@kind("slice", _slice_options)
def _slice(shape: Shape, slices: tuple[tuple[int, int | None, int], ...]) -> Layer:
    return lambda x: x[(slice(None), *(slice(*bounds) for bounds in slices))]


def _place(draw: Draw, shape: Shape) -> dict[str, Any]:
    dim = draw(st.integers(1, len(shape)))
    return {"dim": dim, "place": draw(st.integers(0, shape[dim - 1] - 1))}


@kind("select", _place, at_least(2))
def _select(shape: Shape, dim: int, place: int) -> Layer:
    return lambda x: x.select(dim, place)


@kind("unbind", _place, at_least(2))
def _unbind(shape: Shape, dim: int, place: int) -> Layer:
    return lambda x: x.unbind(dim)[place]


@kind("narrow", _place)
def _narrow(shape: Shape, dim: int, place: int) -> Layer:
    return lambda x: x.narrow(dim, place, shape[dim - 1] - place)


def _pieces(draw: Draw, shape: Shape) -> dict[str, Any]:
    dim = draw(st.integers(1, len(shape)))
    size = draw(st.integers(1, shape[dim - 1]))
    return {"dim": dim, "size": size}


def _split(pieces: Callable[[Tensor, int, int], tuple[Tensor, ...]]) -> Callable[..., Layer]:
    """The first and the last piece, where they are of one size subtracted, else the last alone."""

    def build(shape: Shape, dim: int, size: int) -> Layer:
        def function(x: Tensor) -> Tensor:
            first, *_, last = [*pieces(x, size, dim)] * 2
            return first - 2 * last if first.shape == last.shape else last

        return function

    return build


kind("split", _pieces)(_split(lambda x, size, dim: x.split(size, dim)))
kind("split with sizes", _pieces)(_split(lambda x, size, dim: x.split([x.shape[dim] - size, size], dim)))
kind("chunk", _pieces)(_split(lambda x, size, dim: x.chunk(size, dim)))
kind("unsafe split", _pieces)(_split(torch.unsafe_split))
kind("unsafe chunk", _pieces)(_split(torch.unsafe_chunk))


@kind("concatenate", one_dim, beside=lambda shape, other: len(shape) == len(other), grows=True)
def _concatenate(shape: Shape, dim: int) -> Layer:
    """What the two have in common in the other dimensions, and the first once more."""

    def function(x: Tensor, y: Tensor) -> Tensor:
        for d in range(1, x.dim()):
            if d != dim % x.dim():
                n = min(x.shape[d], y.shape[d])
                x, y = x.narrow(d, 0, n), y.narrow(d, 0, n)
        return torch.cat([x, y, x], dim)

    return function


@kind("stack", lambda draw, shape: {"dim": draw(st.integers(1, len(shape)))}, at_least(1, 3), beside=same, grows=True)
def _stack(shape: Shape, dim: int) -> Layer:
    return lambda x, y: torch.stack([x, y], dim)


@kind("concatenate a token", choice(front=[True, False], learned=[True, False]), at_least(1), grows=True)
def _token(shape: Shape, front: bool, learned: bool) -> Layer:
    """A constant, the same in every image, beside the data; where not learned, a sheet made for each image."""
    if learned:
        return Lambda(
            lambda x, token: torch.cat([token.expand(x.shape[0], *token.shape[1:]), x][:: 1 if front else -1], 1),
            token=nn.Parameter(random(1, 2, *shape[1:])),
        )
    return lambda x: torch.cat([torch.ones(x.shape[0], 1, *shape[1:], dtype=x.dtype), x][:: 1 if front else -1], 1)


def _pad_options(draw: Draw, shape: Shape) -> dict[str, Any]:
    """Of some last dimensions, at most all positions; modes other than constant want them all, or all but one."""
    mode = draw(st.sampled_from(["constant", "constant", "reflect", "replicate", "circular"]))
    mode = mode if layered(shape) else "constant"
    dims = len(shape) - 1 if mode != "constant" else draw(st.integers(1, len(shape)))
    sides: list[int] = []
    for n in reversed(shape[-dims:]):
        most = min(2, n - 1) if mode == "reflect" else min(2, n)
        least = -1 if mode == "constant" and n > 2 else 0
        sides += [draw(st.integers(least, most)), draw(st.integers(least, most))]
    value = draw(st.sampled_from([0.0, 0.7, -1.5])) if mode == "constant" else None
    return {"sides": tuple(sides), "mode": mode, "value": value}


@kind("pad", _pad_options, grows=True)
def _pad(shape: Shape, sides: tuple[int, ...], mode: str, value: float | None) -> Layer:
    return lambda x: F.pad(x, sides, mode, value)


@kind("constant padding, by its own name", choice(value=[0, 0.25]), grows=True)
def _constant_pad(shape: Shape, value: float) -> Layer:
    return lambda x: aten.constant_pad_nd(x, [1, 0], value)


@kind("pixel shuffle", choice(), lambda shape: len(shape) == 3 and shape[0] % 4 == 0)
def _shuffle(shape: Shape) -> Layer:
    return nn.PixelShuffle(2)


@kind("pixel unshuffle", choice(), lambda shape: len(shape) == 3 and shape[1] % 2 == 0 == shape[2] % 2)
def _unshuffle(shape: Shape) -> Layer:
    return nn.PixelUnshuffle(2)


@kind("channel shuffle", choice(), lambda shape: layered(shape) and shape[0] % 2 == 0)
def _channels(shape: Shape) -> Layer:
    return nn.ChannelShuffle(2)


def _upsample_options(draw: Draw, shape: Shape) -> dict[str, Any]:
    scale, corners = draw(st.sampled_from([None, 1.7])), draw(st.booleans())
    return {"scale": scale, "sizes": tuple(n + draw(st.integers(-1, 2)) for n in shape[1:]), "corners": corners}


def _upsample(*modes: str) -> Callable[..., Layer]:
    """By a factor, or to sizes that may be smaller; `modes` of one, two and three dimensions, or of all."""

    def build(shape: Shape, scale: float | None, sizes: Shape, corners: bool) -> Layer:
        mode, to = modes[(len(shape) - 2) % len(modes)], sizes if scale is None else None
        return lambda x: F.interpolate(x, to, scale, mode, None if "nearest" in mode else corners)

    return build


def _resampled(shape: Shape) -> bool:
    return layered(shape) and min(shape[1:]) > 1


kind("upsample, nearest", _upsample_options, _resampled, grows=True)(_upsample("nearest"))
kind("upsample, nearest exact", _upsample_options, _resampled, grows=True)(_upsample("nearest-exact"))
kind("upsample, linear", _upsample_options, _resampled, grows=True)(_upsample("linear", "bilinear", "trilinear"))
kind("upsample, cubic", _upsample_options, lambda shape: _resampled(shape) and len(shape) == 3, grows=True)(
    _upsample("bicubic")
)


along("cumulative sum", lambda x, dim: x.cumsum(dim))
along("differences", lambda x, dim: x.diff(dim=dim) if x.shape[dim] > 1 else x)
along("each twice", lambda x, dim: x.repeat_interleave(2, dim), grows=True)
along("select by indices", lambda x, dim: x.index_select(dim, torch.arange(x.shape[dim] - 1, -1, -1)))
along("sums of windows", lambda x, dim: x.unfold(dim, (x.shape[dim] + 1) // 2, 1).sum(-1))
simple("index", lambda x: x[:, [-1, 0, 0]])
simple("fixed choice", lambda x: x.masked_fill(torch.arange(x.shape[-1]) % 2 == 1, 0.6))
simple("windows as columns", lambda x: F.unfold(x, 2, padding=1, stride=2), at_least(3, 3))
simple("triangle", lambda x: x.tril() - 0.5 * x.triu(1), at_least(2))
simple("diagonal", lambda x: x.diagonal(0, -2, -1), at_least(2))
simple("rotate", lambda x: x.rot90(1, (1, 2)), at_least(2))
simple("weighted mean of two", lambda x, y: torch.lerp(x, y, 0.3), beside=same)


@kind("write into a slice", _place)
def _write(shape: Shape, dim: int, place: int) -> Layer:
    """A copy, whose part from this place on is written over by what is made of it."""

    def function(x: Tensor) -> Tensor:
        x = x.clone()
        part = x.narrow(dim, place, shape[dim - 1] - place)
        part.copy_(part.relu() - 0.5)
        return x

    return function
