"""Which polygons of a plane touch along an edge, and which are one piece together.

Found from the places of their corners alone, whatever has cut them: two neighbours may have corners of their own at the
same place, and a corner of one may lie within an edge of the other. Corners within `SAME` of the plane's size are one,
and an edge that is no longer joins nothing.

Indices: f polygon, e edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from linreg.regions.polygons import Polygons

Numbers = NDArray[np.int64]
Places = NDArray[np.float64]

SAME = 2.0**-38  # of the larger side of all polygons together


@dataclass(frozen=True, eq=False)
class Edges:
    """What pairs of polygons have in common: `first` and `second` (E,) are their numbers, `ends` (E, 2, 2) the ends of
    the edge between them.
    """

    first: Tensor
    second: Tensor
    ends: Tensor

    def some(self, kept: Tensor) -> Edges:
        """Those under a mask."""
        return Edges(self.first[kept], self.second[kept], self.ends[kept])


def touching(polygons: Polygons) -> Edges:
    """All pairs of polygons that have an edge, or a stretch of one, in common."""
    places: Places = polygons.places.numpy()
    near = SAME * float(np.ptp(places, axis=0).max(initial=0))
    number = _welded(places, near)
    spots = np.zeros((number.max(initial=-1) + 1, 2))
    spots[number] = places
    sides = _sides(polygons, number)
    alone = _alone(sides)
    inner = sides[alone & ~_on_border(spots, sides, near)]
    sides = np.concatenate([sides[~alone], _divided(spots, inner, near)])
    pairs = _paired(sides)
    ends = torch.from_numpy(spots[sides[pairs[:, 0], 1:]])
    first, second = (torch.from_numpy(sides[pairs[:, end], 0]) for end in (0, 1))
    return Edges(first, second, ends)


def joined(count: int, edges: Edges) -> Tensor:
    """The number of the piece of each polygon, (count,): they are one if a way leads over these edges."""
    links = (edges.first.numpy(), edges.second.numpy())
    _, label = connected_components(coo_array((np.ones(len(links[0])), links), (count, count)), directed=False)
    _, begins = np.unique(label, return_index=True)
    order = np.empty(len(begins), dtype=np.int64)
    order[np.argsort(begins)] = np.arange(len(begins))  # pieces are counted in the order of their first polygons
    return torch.from_numpy(order[label])


def _welded(places: Places, near: float) -> Numbers:
    """A number for each corner, the same for all at one place."""
    pairs = cKDTree(places).query_pairs(near, output_type="ndarray")
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (len(places), len(places)))
    return connected_components(links, directed=False)[1].astype(np.int64)


def _sides(polygons: Polygons, number: Numbers) -> Numbers:
    """The sides of all polygons: (its number, corner, corner), the smaller corner first; without those of no length."""
    owner, place = polygons.valid.nonzero(as_tuple=True)
    here = polygons.rings[owner, place].numpy()
    there = polygons.rings.gather(1, polygons.following)[owner, place].numpy()
    ends = np.sort(np.stack([number[here], number[there]], 1), axis=1)
    sides = np.concatenate([owner.numpy()[:, None], ends], 1)
    return sides[ends[:, 0] != ends[:, 1]]


def _alone(sides: Numbers) -> NDArray[np.bool_]:
    """Sides that no other polygon has with the same corners."""
    _, same, counts = np.unique(sides[:, 1:], axis=0, return_inverse=True, return_counts=True)
    return counts[same.reshape(-1)] == 1


def _on_border(spots: Places, sides: Numbers, near: float) -> NDArray[np.bool_]:
    """Sides on the rim of the rectangle that the polygons fill."""
    rim = np.stack([spots - spots.min(0) <= near, spots.max(0) - spots <= near])
    return (rim[:, sides[:, 1]] & rim[:, sides[:, 2]]).any((0, 2))


def _divided(spots: Places, sides: Numbers, near: float) -> Numbers:
    """The sides, cut at corners of others that lie on them."""
    corners = np.unique(sides[:, 1:])
    corners = corners[np.argsort(spots[corners, 0], kind="stable")]
    found = [np.empty((0, 3), dtype=np.int64)]
    for owner, a, b in sides.tolist():
        low, high = sorted((spots[a, 0], spots[b, 0]))
        start, stop = np.searchsorted(spots[corners, 0], [low - near, high + near])
        on = _between(spots, corners[start:stop], a, b, near)
        way = np.array([a, *on, b])
        found.append(np.stack([np.full(len(way) - 1, owner), *np.sort(np.stack([way[:-1], way[1:]]), axis=0)], 1))
    return np.concatenate(found)


def _between(spots: Places, corners: Numbers, a: int, b: int, near: float) -> Numbers:
    """Those of the corners that lie on the way from a to b, in order."""
    along = spots[b] - spots[a]
    length = float(np.hypot(*along))
    off = spots[corners] - spots[a]
    step = off @ along / length
    aside = np.abs(off @ np.array([-along[1], along[0]])) / length
    on = (aside <= near) & (step > near) & (step < length - near)
    return corners[on][np.argsort(step[on])]


def _paired(sides: Numbers) -> Numbers:
    """Pairs of sides of two polygons with the same corners, (E, 2)."""
    order = np.lexsort((sides[:, 0], sides[:, 2], sides[:, 1]))
    ordered = sides[order]
    same = (ordered[1:, 1:] == ordered[:-1, 1:]).all(1) & (ordered[1:, 0] != ordered[:-1, 0])
    return np.stack([order[:-1][same], order[1:][same]], 1)
