"""The region beyond a wall: what turns there, and by how much the affine function jumps.

The network is continuous, unless a gate jumps: on the wall both affine functions agree, so that their weights differ
along the wall's normal alone, c' − c = κ a, and their constants by −κ b.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from linreg.errors import LinregError
from linreg.linearization import Linearization
from linreg.regions.halfspaces import Label, inequalities
from linreg.regions.nearest import Wall, exits
from linreg.regions.programs import Polytope
from linreg.target import Target

STEPS = 40  # at most, to a point beyond a wall before the next


@dataclass(frozen=True, eq=False, repr=False)
class Neighbour:
    """Two regions that meet in a wall, at a `point` of it, (1, *input_shape).

    `here` and `beyond` are the affine functions of the two regions, both at this very point: each is as good there as
    the other. `normal` (*input_shape), of length 1, leads from one to the other, and `label` names a unit that turns.
    """

    label: Label
    normal: Tensor
    here: Linearization
    beyond: Linearization

    def __repr__(self) -> str:
        turned = ", ".join(f"{site}: {len(units)}" for site, units in self.turned.items())
        return f"Neighbour(across {self.label}; turned {{{turned}}})"

    @property
    def point(self) -> Tensor:
        """Where both are taken."""
        return self.here.input

    @cached_property
    def turned(self) -> dict[str, list[tuple[int, ...]]]:
        """The units that are on another piece beyond: {site: their places}. Of a wall that one unit makes, that one."""
        here, beyond = self.here.pattern(), self.beyond.pattern()
        found = {}
        for site in here:
            places = (here[site] != beyond[site]).nonzero()
            if len(places[0]):
                found[site] = [tuple(map(int, place)) for place in zip(*places, strict=True)]
        return found

    def jump(self, target: Target = None) -> Any:
        """c' − c, by which the gradient of the score changes, shaped like the input; of several inputs by name."""
        there, here = self.beyond.weight(target), self.here.weight(target)
        return {name: there[name] - here[name] for name in here} if isinstance(here, dict) else there - here

    def step(self, target: Target = None) -> float:
        """By how much the score itself jumps, y' − y on the wall: 0 to rounding, unless a gate jumps."""
        return (self.beyond.score(target) - self.here.score(target)).item()


@torch.no_grad()
def across(lin: Linearization, wall: Wall) -> Neighbour:
    """The region beyond a wall, at the wall's nearest point, which must be on the rim of the region of `lin`.

    The first wall of `walls` is always such; the point of a later one may lie behind another wall. Raises LinregError
    then, and where the arithmetic is too short for a point between two walls: float64 has more of them.

    >>> import torch, linreg
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
    >>> lin = linreg.trace(model, torch.ones(1, 2)).linearize(torch.ones(1, 2))
    >>> neighbour = linreg.regions.across(lin, linreg.regions.walls(lin)[0])
    >>> neighbour.turned, neighbour.jump()  # the second unit opens, of weight (1, −2)
    ({'1': [(1,)]}, tensor([[ 1., -2.]]))
    """
    region = inequalities(lin)
    rounding = 1024 * torch.finfo(lin.input.dtype).eps * region.slack.amax().item()
    if not region.contains(wall.point[None], rounding).all():
        raise LinregError(
            f"the nearest point of the wall of {wall.label} lies behind another wall: take an earlier one, or a small "
            "network's neighbours(polytope(lin)), which are at walls that bound the region"
        )
    return _neighbour(lin, wall.label, wall.point[None], wall.normal / wall.normal.norm(), 1.0)


def neighbours(region: Polytope) -> Iterator[Neighbour]:
    """The region beyond each wall of a polytope, one after the other, each at the middle of its wall.

    The middle is the centre of the largest ball within the wall. Raises LinregError as `across` does.
    """
    lin = region.region.lin
    for place in region.facets:
        ball = region.facet_ball(place)
        normal = torch.from_numpy(region.A[place]).to(lin.input).view(lin.input.shape[1:])
        label = region.region.label(region.owners(place)[0])
        yield _neighbour(lin, label, ball.centre[None], normal, ball.radius)


def _neighbour(lin: Linearization, label: Label, point: Tensor, normal: Tensor, room: float) -> Neighbour:
    here, beyond = _moved(lin, point), _moved(_beyond(lin, label, point, normal, room), point)
    return Neighbour(label, normal, here, beyond)


def _beyond(lin: Linearization, label: Label, point: Tensor, normal: Tensor, room: float) -> Linearization:
    """The network frozen a step beyond the wall, so short that from there straight back nothing comes before it."""
    step = room / 2
    for _ in range(STEPS):
        there = lin.graph.linearize(point + step * normal)
        back = exits(inequalities(there), -normal).clamp_min(0).amin().item()
        if abs(back - step) <= 1e-3 * step:
            return there
        # The region ends before the wall, or, where it is still the old one, behind it.
        step = (step - back) / 2 if 0 < back < step else step / 2
    raise LinregError(
        f"no point was found between the wall of {label} and the next beyond, in {lin.input.dtype}: "
        "trace the network in float64"
    )


def _moved(lin: Linearization, v: Tensor) -> Linearization:
    """The same affine function at another point."""
    return replace(lin, input=v).replace({})
