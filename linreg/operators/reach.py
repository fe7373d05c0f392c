"""Where an operator's positions look, along one dimension at a time: what `linreg.geometry` is composed of.

Indices: q position of z, p position of x, each along one dimension; k tap of a window, d dimension of x, e of z. All
dimensions are those of one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, eye_array

from linreg.operators.sparse import Array, positions, selection

TOGETHER = "all its positions come together"
IN_ONE = "its positions are laid in one dimension with others"
DISORDERED = "a position holds several places, in no order"


@dataclass(frozen=True, eq=False)
class Reach:
    """How the positions q along one dimension of z look at the positions p along one of x.

    `reads` (q, p) is not 0 where z at q reads x at p. `centres` (q,) says where q lies, in positions of x and with
    what lies in the padding: u(q) = start + stride · q wherever a window slides. They are NaN where z reads nothing of
    x, and None where q has no place; `why` then says so.
    """

    reads: csr_array
    centres: Array | None
    stride: float = 1.0
    why: str = ""

    def inverse(self) -> Reach:
        """That of the transpose: p reads each q that reads it, and lies among the centres of these."""
        assert self.centres is not None
        count, size = self.reads.shape
        centres = extended(np.arange(size), self.centres, np.arange(count), 1 / self.stride)
        return Reach(self.reads.T.tocsr(), centres, 1 / self.stride)


class Placed(NamedTuple):
    """A data input: its `shape`, and those of its dimensions along which it has positions of the picture."""

    shape: tuple[int, ...]
    dims: frozenset[int]


# For each d the dimension e that follows it, or None where all of z is at one position; and how it looks at x.
# Along a d that is not named, all positions come together.
Follows = Mapping[int, tuple[int | None, Reach]]


def extended(at: Array, places: Array, values: Array, slope: float) -> Array:
    """Values given at rising places, linear between them and with this slope beyond the ends."""
    beyond = np.minimum(at - places[0], 0) + np.maximum(at - places[-1], 0)
    return np.asarray(np.interp(at, places, values) + slope * beyond)


def identity(size: int) -> Reach:
    """q looks at p = q."""
    return Reach(eye_array(size, format="csr"), np.arange(size, dtype=float))


def whole(size: int, why: str = TOGETHER) -> Reach:
    """One q that reads every p: it has no place, unless there is only one p."""
    centres = np.zeros(1) if size == 1 else None
    return Reach(csr_array(np.ones((1, size))), centres, float(size), why)


def sliding(size: int, count: int, window: int, stride: int, padding: int, dilation: int = 1) -> Reach:
    """q reads p = stride · q + dilation · k − padding, k < window; its centre is the middle of these, p outside or not.

    So the centres of an even window lie between two p, and those of q and q + 1 are a stride apart at borders too.
    """
    q, k = np.arange(count)[:, None], np.arange(window)
    p = stride * q + dilation * k - padding
    inside = (p >= 0) & (p < size)
    rows = np.broadcast_to(q, p.shape)[inside]
    reads = csr_array((np.ones(len(rows)), (rows, p[inside])), shape=(count, size))
    return Reach(reads, p.mean(1), float(stride))


def adaptive(size: int, count: int) -> Reach:
    """q reads p from ⌊q s / n⌋ up to ⌈(q + 1) s / n⌉, s = `size` and n = `count`; its centre is the middle of these.

    Where n > s, several q read one p: they share its place evenly, u(q) = (q + ½) s / n − ½.
    """
    q, p = np.arange(count)[:, None], np.arange(size)
    starts, ends = q * size // count, -(-(q + 1) * size // count)
    centres = (starts + ends - 1)[:, 0] / 2 if count <= size else half_pixel(count, size / count)
    stride = (centres[-1] - centres[0]) / (count - 1) if count > 1 else size
    return Reach(csr_array(((p >= starts) & (p < ends)).astype(float)), centres, float(stride))


def half_pixel(count: int, step: float) -> Array:
    """u(q) = (q + ½) step − ½: as many pixels on the same length, each at the middle of its own share."""
    return (np.arange(count) + 0.5) * step - 0.5


def elementwise(inputs: Sequence[Placed], output: tuple[int, ...]) -> tuple[Follows, ...]:
    """z at q reads each x at p = q; along a dimension in which x is broadcast it has its one position everywhere."""

    def follow(x: Placed, d: int) -> tuple[int | None, Reach]:
        e = d + len(output) - len(x.shape)
        return e if x.shape[d] == output[e] else None, identity(x.shape[d])

    return tuple({d: follow(x, d) for d in x.dims} for x in inputs)


def moved(source: Array, x: Placed) -> Follows:
    """Of an operator that copies elements: `source`, shaped as z, is the place in x of each, flat, or −1 for another's.

    A dimension d of x is followed by the dimension of z that tells most of where along d an element comes from.
    """
    if 0 in x.shape:
        return {}
    from_x = source >= 0
    places = np.unravel_index(np.maximum(source, 0), x.shape)
    return {d: _followed(places[d], from_x, x.shape, d) for d in x.dims}


def _followed(place: Array, from_x: Array, before: tuple[int, ...], d: int) -> tuple[int | None, Reach]:
    """Where along dimension d of x each element of z comes from."""
    size = before[d]
    low, high = np.where(from_x, place, size), np.where(from_x, place, -1)
    if low.min() >= high.max():  # it all comes from one position, or nothing does
        return _from_one(from_x, int(high.max()), before, d)
    bounds = []
    for e in range(place.ndim):
        others = tuple(axis for axis in range(place.ndim) if axis != e)
        bounds.append((low.min(others), high.max(others)))
    e = int(np.argmin([(last - first)[last >= 0].mean() for first, last in bounds]))
    first, last = bounds[e]
    read = last >= 0
    centres = np.full(len(first), np.nan)
    if (first == last)[read].all():
        centres[read] = _shared(first[read])
    elif _ordered(first[read]) and _ordered(last[read]):
        centres[read] = (first + last)[read] / 2
    else:
        rows, columns = np.zeros(from_x.sum(), int), place[from_x]
        return None, Reach(csr_array((np.ones(len(rows)), (rows, columns)), shape=(1, size)), None, why=DISORDERED)
    rows = np.indices(place.shape)[e][from_x]
    reads = csr_array((np.ones(len(rows)), (rows, place[from_x])), shape=(len(first), size))
    return e, Reach(reads, centres, _step(np.flatnonzero(read), centres[read]))


def _from_one(from_x: Array, p: int, before: tuple[int, ...], d: int) -> tuple[int | None, Reach]:
    """What comes from one position is all of z, or, where the dimensions are those of x, lies at some q along d."""
    if from_x.ndim == len(before):
        at = np.asarray(from_x.any(tuple(axis for axis in range(from_x.ndim) if axis != d)))
        if len(at) == 1 or not at.all():
            return d, Reach(selection(np.where(at, p, -1), before[d]), np.where(at, float(p), np.nan))
    only = np.array([p])
    return None, Reach(selection(only, before[d]), np.where(only < 0, np.nan, only))


def _ordered(values: Array) -> bool:
    steps = np.diff(values)
    return bool((steps > 0).all() or (steps < 0).all())


def _step(q: Array, centres: Array) -> float:
    """The usual step of the centres from one q to the next."""
    return float(np.median(np.diff(centres) / np.diff(q))) if len(q) > 1 else 1.0


def _shared(place: Array) -> Array:
    """Centres of positions that come from one place each; neighbours that come from the same one share it evenly."""
    begins = np.concatenate([[0], np.flatnonzero(np.diff(place)) + 1])
    counts = np.diff([*begins, len(place)])
    rank = positions((len(place),)) - np.repeat(begins, counts)
    count = np.repeat(counts, counts)
    step = _step(np.arange(len(begins)), place[begins])
    return place + (rank - (count - 1) / 2) / count * step
