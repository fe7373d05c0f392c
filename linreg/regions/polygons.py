"""A plane region cut into convex polygons by lines, and the numbers at their corners.

Corners that polygons share are one vertex, so that two neighbours are cut at the same place of the edge between them.

Indices: v vertex, f polygon, w place in the ring of a polygon (padded with −1), u unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

NEAREST = 2.0**-40  # of the plane's own coordinates: a cut that passes a vertex no farther off goes through it


class Born(NamedTuple):
    """New vertices (n,): each lies between vertices `first` and `second`, at `place`, 0 to 1 of the way."""

    first: Tensor
    second: Tensor
    place: Tensor

    def at(self, values: Tensor) -> Tensor:
        """Values of vertices (V, …), with those of the new ones behind them."""
        weight = self.place.to(values.device, values.dtype).view(-1, *[1] * (values.dim() - 1))
        near, far = values[self.first], values[self.second]
        between = torch.lerp(near, far, weight)
        if not between.sum().isfinite():  # −∞ of what is masked
            between = torch.where(near == far, near, between)
        return torch.cat([values, between])


@dataclass(frozen=True, eq=False)
class Polygons:
    """Convex polygons: `places` (V, 2) of their corners, float64, and `rings` (F, W) of vertices, in order around.

    `parent` (F,) is the polygon that each one was cut from, whatever a caller takes for that.
    """

    places: Tensor
    rings: Tensor
    parent: Tensor

    def __len__(self) -> int:
        return len(self.rings)

    @property
    def valid(self) -> Tensor:
        """Which places of a ring hold a vertex, (F, W)."""
        return self.rings >= 0

    @property
    def following(self) -> Tensor:
        """The place in its ring of the corner that follows each one, (F, W)."""
        return _following(self.valid)

    def means(self, values: Tensor) -> Tensor:
        """The mean of values (V, …) over the corners of each polygon, (F, …): that of an affine function is one of its
        values within.
        """
        counts = self.valid.sum(1)
        total = values.new_zeros(len(self), *values.shape[1:])
        owner, vertex = self.corners
        total.index_add_(0, owner.to(values.device), values[vertex.to(values.device)])
        return total / counts.to(total).view(-1, *[1] * (values.dim() - 1))

    @property
    def corners(self) -> tuple[Tensor, Tensor]:
        """Every corner of every polygon: (polygon, vertex)."""
        owner, place = self.valid.nonzero(as_tuple=True)
        return owner, self.rings[owner, place]

    def some(self, kept: Tensor) -> Polygons:
        """Those of these numbers, or under a mask."""
        return replace(self, rings=self.rings[kept], parent=self.parent[kept])

    def apart(self) -> tuple[Polygons, Tensor]:
        """The same with corners that belong to one polygon each; and the vertex that each of them was."""
        _, vertex = self.corners
        rings = torch.full_like(self.rings, -1)
        rings[self.valid] = torch.arange(len(vertex))
        return replace(self, places=self.places[vertex], rings=rings), vertex

    def cut(self, which: Tensor, levels: Tensor, zero: float, shared: bool) -> tuple[Polygons, Born, Tensor]:
        """Cut some polygons where a level, (n, W) at the corners of each of them, changes its sign.

        The level is `shared` if it is the same number for all polygons at a corner. What is within `zero` of 0 counts
        as 0. Returns all polygons, the new vertices, and which of the n are cut: one side stays in its place, the other
        comes last.
        """
        rings = self.rings[which]
        valid = rings >= 0
        sign = ((levels > zero).to(torch.int8) - (levels < -zero).to(torch.int8)).masked_fill(~valid, 0)
        following = _following(valid)
        sign = self._through_corners(rings, levels, sign, following, shared)
        crossed = (sign > 0).any(1) & (sign < 0).any(1)
        rings, levels, sign, following = rings[crossed], levels[crossed], sign[crossed], following[crossed]
        ahead = rings.gather(1, following)
        over = sign * sign.gather(1, following) < 0
        born, number = _born(rings[over], ahead[over], levels[over], levels.gather(1, following)[over])
        middle = torch.full_like(rings, -1)
        middle[over] = number + len(self.places)
        ring = torch.stack([rings, middle], 2).flatten(1)
        side = torch.stack([sign, torch.zeros_like(sign)], 2).flatten(1)
        parts = _compact(torch.cat([ring.masked_fill(side < 0, -1), ring.masked_fill(side > 0, -1)]))
        width = max(self.rings.shape[1], parts.shape[1])
        kept, parts = (_wide(each, width) for each in (self.rings, parts))
        where = which[crossed]
        kept = kept.clone()
        kept[where] = parts[: len(where)]
        places = born.at(self.places)
        parent = torch.cat([self.parent, self.parent[where]])
        return Polygons(places, torch.cat([kept, parts[len(where) :]]), parent), born, crossed

    def _through_corners(self, rings: Tensor, levels: Tensor, sign: Tensor, following: Tensor, shared: bool) -> Tensor:
        """The signs, 0 at a corner that an edge is cut next to: of this polygon, or of all that share the level."""
        over = sign * sign.gather(1, following) < 0
        if not over.any():
            return sign
        row, near = over.nonzero(as_tuple=True)
        far = following[row, near]
        start, end = levels[row, near].double(), levels[row, far].double()
        length = (self.places[rings[row, near]] - self.places[rings[row, far]]).norm(dim=1)
        place = start / (start - end)
        at_near, at_far = place * length <= NEAREST, (1 - place) * length <= NEAREST
        if not (at_near | at_far).any():
            return sign
        sign = sign.clone()
        sign[row[at_near], near[at_near]] = 0
        sign[row[at_far], far[at_far]] = 0
        met = torch.cat([rings[row[at_near], near[at_near]], rings[row[at_far], far[at_far]]])
        return sign.masked_fill(torch.isin(rings, met), 0) if shared else sign

    def areas(self) -> Tensor:
        """The area of each polygon, (F,)."""
        valid = self.valid
        ring = self.rings.clamp_min(0)
        here, there = self.places[ring], self.places[ring.gather(1, self.following)]
        first = here[:, :1]
        (x, y), (p, q) = (here - first).unbind(2), (there - first).unbind(2)
        return ((x * q - y * p) * valid).sum(1).abs() / 2


def cut_by_levels(polygons: Polygons, levels: Tensor, zero: float, check: Callable[[int], None]) -> tuple[
    Polygons, list[Born], Tensor
]:  # fmt: skip
    """Cut all polygons by the lines where levels (V, U) change their sign; `check` hears how many there will be.

    Returns the polygons, the new vertices step by step, and for each polygon the old one that it lies in.
    """
    old = replace(polygons, parent=torch.arange(len(polygons)))
    active = ((levels > zero).any(0) & (levels < -zero).any(0)).nonzero()[:, 0]
    levels = levels[:, active].double().cpu()
    check(len(old) + _crossings(old, levels, zero))
    steps = list[Born]()
    for unit in range(levels.shape[1]):
        own = levels[:, unit]
        above, below = ((sign[old.rings] & old.valid).any(1) for sign in (own > zero, own < -zero))
        which = (above & below).nonzero()[:, 0]
        if len(which):
            old, born, _ = old.cut(which, own[old.rings[which].clamp_min(0)], zero, shared=True)
            levels = born.at(levels)
            steps.append(born)
    return replace(old, parent=polygons.parent[old.parent]), steps, old.parent


def _crossings(polygons: Polygons, levels: Tensor, zero: float) -> int:
    """How many pairs there are of a polygon and a line through it: at least so many polygons are added."""
    count = 0
    for part in levels.split(max(1, 2**24 // max(1, polygons.rings.numel())), 1):
        above, below = (
            (sign[polygons.rings] & polygons.valid[..., None]).any(1) for sign in (part > zero, part < -zero)
        )
        count += int((above & below).sum())
    return count


def _following(valid: Tensor) -> Tensor:
    """The place in its ring of the corner that follows each one, (F, W)."""
    place = torch.arange(valid.shape[1]).expand(valid.shape)
    return torch.where(place + 1 < valid.sum(1, keepdim=True), place + 1, 0)


def _born(near: Tensor, far: Tensor, start: Tensor, end: Tensor) -> tuple[Born, Tensor]:
    """The vertices that cut edges, each edge once, and the number of that of each given edge."""
    turned = near > far
    first, second = torch.where(turned, far, near), torch.where(turned, near, far)
    place = start.double() / (start.double() - end.double())
    place = torch.where(turned, 1 - place, place)
    edges, number = torch.stack([first, second], 1).unique(dim=0, return_inverse=True)
    of_edge = torch.zeros(len(edges), dtype=torch.float64)
    of_edge[number] = place
    return Born(edges[:, 0], edges[:, 1], of_edge), number


def _compact(rings: Tensor) -> Tensor:
    """The vertices of each ring first, then −1, without columns that hold none."""
    valid = rings >= 0
    order = (~valid).to(torch.int8).sort(dim=1, stable=True).indices
    return rings.gather(1, order)[:, : max(1, int(valid.sum(1).max()) if len(rings) else 1)]


def _wide(rings: Tensor, width: int) -> Tensor:
    """Padded to so many columns."""
    more = rings.new_full((len(rings), width - rings.shape[1]), -1)
    return torch.cat([rings, more], 1)


def hull(places: Tensor, vertices: Tensor) -> list[int]:
    """The vertices of the convex hull of some, in order around."""
    order = sorted(set(vertices.tolist()), key=lambda v: tuple(places[v].tolist()))

    def half(of: list[int]) -> list[int]:
        found = list[int]()
        for vertex in of:
            while len(found) > 1 and _turn(places, found[-2], found[-1], vertex) <= 0:
                found.pop()
            found.append(vertex)
        return found[:-1]

    return half(order) + half(order[::-1])


def _turn(places: Tensor, a: int, b: int, c: int) -> float:
    """Twice the signed area of a triangle, above 0 for a left turn; of collinear points rounding decides."""
    (ax, ay), (bx, by), (cx, cy) = (places[v].tolist() for v in (a, b, c))
    return (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
