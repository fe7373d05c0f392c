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
from linreg.regions.changes import chosen, noise
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
        old, born, crossed = old.cut(which, levels, zero)
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
    flat = flat.cpu()
    sign = -1 if contest.extreme < 0 else 1
    every = torch.arange(len(contest.candidates))
    centre = polygons.means(flat)
    which, ahead, behind = list[int](), list[int](), list[int]()
    for f in range(len(polygons)):
        ring = polygons.rings[f][polygons.rings[f] >= 0]
        rows = sign * contest.rows(centre[f].expand(len(every), -1), every)
        order = rows.sort(dim=1, descending=True, stable=True).indices  # (R, M)
        places = contest.candidates.gather(1, order)
        values = flat[ring][:, places.clamp_min(0)] * sign  # (corners, R, M)
        values = values.masked_fill(places < 0, -torch.inf)
        first = values[..., :1] if contest.extreme else values[..., :-1]
        rise = (values[..., 1:] - first).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
        if not rise.numel() or not (rise > zero).any():
            continue
        _, r, m = (int(n) for n in torch.unravel_index(rise.argmax(), rise.shape))
        which.append(f)
        ahead.append(int(places[r, 0 if contest.extreme else m]))
        behind.append(int(places[r, m + 1]))
    return torch.tensor(which, dtype=torch.long), torch.tensor(ahead, dtype=torch.long), torch.tensor(
        behind, dtype=torch.long)  # fmt: skip


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
