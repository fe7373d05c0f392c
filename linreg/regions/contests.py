"""Polygons cut to where one candidate wins each contest: max pools, ranks, sorts.

Where a polygon has a corner at which another candidate is ahead of the one that wins at its centre, it is cut along the
line where the two are equal. The order of such cuts is arbitrary, and some go on where a third candidate wins on both
sides. So at the end those parts of a polygon that choose the same are put together again where they are convex
together, as they are for an extreme, and for the k first of an order. Where a median is one element may be bent: it
stays in several polygons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from linreg.operators.base import Operator
from linreg.operators.contest import Contest
from linreg.regions.changes import BLOCK, chosen, noise
from linreg.regions.polygons import Born, Polygons, hull

CONVEX = 1e-9  # of their area, by which parts may miss their convex hull


def cut_by_contest(
    polygons: Polygons, contest: Contest, operator: Operator, x: Tensor, check: Callable[[int], None]
) -> tuple[Polygons, list[Born]]:
    """The polygons cut by the contests of one operator with values x (V, *shape) of its data, and the new vertices."""
    zero, shape, steps = noise(x), x.shape[1:], list[Born]()
    old = replace(polygons, parent=torch.arange(len(polygons)))
    open_ = torch.arange(len(old))  # polygons that may be cut
    while len(open_):
        which, ahead, behind = _contested(old.some(open_), contest, x.flatten(1), zero)
        which = open_[which]
        rings = old.rings[which]
        flat = x.flatten(1).cpu()
        levels = flat[rings.clamp_min(0), ahead[:, None]] - flat[rings.clamp_min(0), behind[:, None]]
        before = len(old)
        old, born, crossed = old.cut(which, levels, zero, shared=False)
        check(len(old))
        x = born.at(flat.to(x.device)).view(-1, *shape)
        steps.append(born)
        open_ = torch.cat([which[crossed], torch.arange(before, len(old))])
    return _together(polygons, old, chosen(operator, old.means(x)).cpu()), steps


def _contested(polygons: Polygons, contest: Contest, flat: Tensor, zero: float) -> tuple[Tensor, Tensor, Tensor]:
    """Polygons (n,) that a contest divides, one contest of each, and the candidates that change their order in it.

    In the order that the candidates have at the centre of a polygon, their values at a corner rise nowhere by more than
    rounding, unless two of them change places on the way to it. Of an extreme only the first of the order counts.
    """
    candidates = contest.candidates
    size = max(1, BLOCK // max(1, polygons.rings.shape[1] * candidates.numel()))
    found = [
        _contested_of(polygons.some(part), contest, flat.cpu(), zero, part)
        for part in torch.arange(len(polygons)).split(size)
    ]
    which, ahead, behind = (torch.cat(each) for each in zip(*found, strict=True))
    return which, ahead, behind


def _contested_of(
    polygons: Polygons, contest: Contest, flat: Tensor, zero: float, numbers: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for a few polygons, which have these numbers."""
    (count, width), (contests, most) = polygons.rings.shape, contest.candidates.shape
    sign = -1 if contest.extreme < 0 else 1
    every = torch.arange(contests)
    image = torch.arange(count).repeat_interleave(contests)
    rows = contest.rows(polygons.means(flat), image, every.repeat(count))
    order = (sign * rows).sort(dim=1, descending=True, stable=True).indices
    places = contest.candidates.repeat(count, 1).gather(1, order).view(count, 1, contests * most)
    values = sign * flat[polygons.rings.clamp_min(0)].gather(2, places.clamp_min(0).expand(-1, width, -1))
    values = values.masked_fill(places < 0, -torch.inf).view(count, width, contests, most)
    first = values[..., :1] if contest.extreme else values[..., :-1]
    rise = (values[..., 1:] - first).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
    rise = rise.masked_fill(~polygons.valid[:, :, None, None], -torch.inf).flatten(1)
    if not rise.shape[1]:
        return numbers[:0], numbers[:0], numbers[:0]
    largest, at = rise.max(1)
    (which,) = (largest > zero).nonzero(as_tuple=True)
    r, m = at[which] // (most - 1) % contests, at[which] % (most - 1)
    places = places.view(count, contests, most)
    return numbers[which], places[which, r, 0 if contest.extreme else m], places[which, r, m + 1]


def _together(polygons: Polygons, parts: Polygons, picked: Tensor) -> Polygons:
    """Parts of one polygon that choose the same, as one."""
    keys = torch.cat([parts.parent[:, None], picked], 1)
    _, group, counts = keys.unique(dim=0, return_inverse=True, return_counts=True)
    alone, areas = counts[group] == 1, parts.areas()
    rings, parents = list[Tensor](), list[int]()
    for number in (counts > 1).nonzero()[:, 0].tolist():
        members = (group == number).nonzero()[:, 0]
        corners = parts.rings[members]
        whole = torch.tensor(hull(parts.places, corners[corners >= 0]))
        area = Polygons(parts.places, whole[None], members[:1]).areas()
        if area <= areas[members].sum() * (1 + CONVEX):
            rings.append(whole)
            parents.append(int(parts.parent[members[0]]))
        else:
            alone[members] = True
    rings += [ring[ring >= 0] for ring in parts.rings[alone]]
    parents += parts.parent[alone].tolist()
    padded = torch.nn.utils.rnn.pad_sequence(rings, batch_first=True, padding_value=-1)
    return Polygons(parts.places, padded, polygons.parent[torch.tensor(parents, dtype=torch.long)])
