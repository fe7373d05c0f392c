"""The region of a small network as a polytope: its Chebyshev centre, the walls that bound it, its corners in a plane.

All by linear programs over every row of A v ≤ b at once (HiGHS, of scipy), in float64 on the CPU. Rows are scaled to
length 1, so that slacks are distances in ℓ2.

Indices: i row; d element of the input, flattened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from math import inf
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array, hstack, vstack
from torch import Tensor

from linreg.errors import LinregError
from linreg.linearization import Linearization
from linreg.regions.halfspaces import Inequalities, inequalities

Array = NDArray[Any]
Bounds = tuple[float | Tensor, float | Tensor]
Hyperplane = tuple[Array, float]  # a and b of a·v = b

LARGEST = 4_000_000  # numbers in A, for which a linear program takes some seconds
METHOD = "highs-ipm"  # its interior point method, five times as fast as the simplex where rows are dense
AIMED = 1e-3  # of the inradius: how far beyond a wall a ray is aimed
TURNS = 40  # how often the point that it is aimed at is moved
ROUNDING = 1e-9  # what two numbers of a linear program may differ by and be the same


@dataclass(frozen=True)
class Ball:
    """The largest ball in a region: `radius` in ℓ2, and its centre, shaped like the input.

    Where the region holds balls of any size the radius is ∞, and the centre is that of one of radius 1 or more.
    """

    centre: Tensor
    radius: float


@dataclass(frozen=True, eq=False, repr=False)
class Polytope:
    """{v: A v ≤ b, low ≤ v ≤ high}, rows of length 1; `numbers` (m,) are those of the rows in `region`.

    Rows that are 0 are left out. Made by `polytope`.
    """

    region: Inequalities
    A: Array
    b: Array
    numbers: Array
    low: Array
    high: Array

    def __repr__(self) -> str:
        return f"Polytope({self.A.shape[0]:,} rows in {self.A.shape[1]:,} dimensions)"

    @cached_property
    def ball(self) -> Ball:
        """The Chebyshev centre: of all points the one whose nearest wall is farthest, max r with A v + r ≤ b."""
        grows = self._grows()
        centre, radius = self._largest(self.A, self.b, np.ones(len(self.A)), 1.0 if grows else None)
        return Ball(self._shaped(centre), inf if grows else radius)

    @cached_property
    def facets(self) -> tuple[int, ...]:
        """The places in A of the rows that bound the region; all others could be left out. Of equal rows the first.

        Most show themselves as the first wall on a ray from the inside, at random or aimed at them; a linear program
        decides for each of the rest, whether it can be passed while those that are known to bound are kept. Raises
        LinregError for a region without an inside.
        """
        inside = self._inside()
        found = self._hit(inside, self._rays())
        rest = np.array(sorted(set(range(len(self.A))) - found), dtype=int)
        found |= self._hit(inside, self._aimed(inside, rest))
        for row in range(len(self.A)):
            while row not in found and (beyond := self._passed(row, found)) is not None:
                found |= self._first(inside, beyond - inside) - found or {row}
        return tuple(sorted(found))

    def owners(self, place: int) -> tuple[int, ...]:
        """The rows of `region` whose wall is the same as that of row `place` of A, itself included."""
        same = (np.abs(self.A - self.A[place]).max(1, initial=0) < ROUNDING) & (
            np.abs(self.b - self.b[place]) < ROUNDING * (1 + abs(self.b[place]))
        )
        return tuple(self.numbers[same].tolist())

    def facet_ball(self, place: int) -> Ball:
        """The largest ball within a wall: its centre lies on the wall, and no other wall is nearer than its radius."""
        others = np.array([i for i in range(len(self.A)) if self.numbers[i] not in self.owners(place)], dtype=int)
        along = self.A[others] @ self.A[place]
        within = np.sqrt(np.maximum(1 - along**2, 0.0))  # how much of each normal lies in the wall
        wall = (self.A[place], self.b[place])
        centre, radius = self._largest(self.A[others], self.b[others], within, 1.0, wall)
        return Ball(self._shaped(centre), radius)

    def vertices(self) -> Tensor:
        """The corners of a region of a network with two inputs, (corners, 2), counter-clockwise.

        Raises LinregError for another number of inputs, and for a region without an end, unless bounds close it.
        """
        if self.A.shape[1] != 2:
            raise LinregError(f"corners are of a plane, and the input has {self.A.shape[1]:,} elements")
        facets = list(self.facets)
        sides = [(s * np.eye(2)[d], s * end[d]) for s, end in ((-1, self.low), (1, self.high)) for d in range(2)]
        rows = np.array([*self.A[facets], *(row for row, end in sides if np.isfinite(end))]).reshape(-1, 2)
        ends = np.array([*self.b[facets], *(end for _, end in sides if np.isfinite(end))])
        if not self._is_bounded():
            raise LinregError("the region has no end on some side: give bounds=(low, high)")
        inside = self._inside()
        corners = [
            corner for pair in combinations(range(len(ends)), 2) if (corner := _meet(rows, ends, pair)) is not None
        ]
        kept = [c for c in corners if (rows @ c <= ends + ROUNDING * (1 + np.abs(ends))).all()]
        angle = np.argsort([np.arctan2(*(c - inside)[::-1]) for c in kept])
        ordered = np.array(kept)[angle]
        apart = np.abs(ordered - np.roll(ordered, 1, 0)).max(1) > ROUNDING * (1 + np.abs(ordered).max())
        return torch.from_numpy(ordered[apart]).to(self.region.lin.input)

    # ---- within ----

    @property
    def _x(self) -> Array:
        return self.region.lin.input[0].flatten().double().numpy(force=True)

    def _shaped(self, v: Array) -> Tensor:
        like = self.region.lin.input
        return torch.from_numpy(np.ascontiguousarray(v)).to(like).view(like.shape[1:])

    def _grows(self) -> bool:
        """Whether there are balls of any size: a direction that leads away from all walls, with every end that is."""
        if (np.isfinite(self.low) & np.isfinite(self.high)).any():
            return False
        ends = (np.where(np.isfinite(end), 0.0, end) for end in (self.low, self.high))
        away = replace(self, b=np.zeros(len(self.b)), low=next(ends), high=next(ends))
        unit = np.ones(len(self.A))
        return away._largest(self.A, away.b, unit, 1.0, reach=1.0)[1] > ROUNDING

    def _largest(
        self,
        A: Array,
        b: Array,
        lengths: Array,
        most: float | None,
        equal: Hyperplane | None = None,
        reach: float = inf,
    ) -> tuple[Array, float]:
        """max r ≤ most with A v + r · lengths ≤ b, low + r ≤ v ≤ high − r, |v| ≤ reach, equal[0] · v = equal[1]."""
        size = self.A.shape[1]
        rows, ends = [csr_array(np.column_stack([A, lengths]))], [b]
        for sign, end in ((-1.0, self.low), (1.0, self.high)):
            closed = np.flatnonzero(np.isfinite(end))
            unit = csr_array((np.full(len(closed), sign), (np.arange(len(closed)), closed)), (len(closed), size))
            rows.append(hstack([unit, np.ones((len(closed), 1))]))
            ends.append(sign * end[closed])
        same = {} if equal is None else {"A_eq": np.append(equal[0], 0.0)[None], "b_eq": [equal[1]]}
        limits = [*[(-reach, reach)] * size, (None, most)]
        found = linprog(
            np.append(np.zeros(size), -1.0), vstack(rows), np.concatenate(ends), bounds=limits, method=METHOD, **same
        )
        if found.status != 0:
            raise LinregError(f"HiGHS found no largest ball: {found.message}")
        return found.x[:-1], float(found.x[-1])

    def _inside(self) -> Array:
        """A point away from all walls."""
        if self.ball.radius <= ROUNDING:
            raise LinregError("the region has no inside: it is as thin as rounding, or lies outside of the bounds")
        return self.ball.centre.flatten().double().numpy(force=True)

    def _rays(self) -> Array:
        """Straight at each wall, along the axes on which the others stay as they are, and in random directions."""
        random = np.random.default_rng(0).standard_normal((4 * len(self.A) + 64, self.A.shape[1]))
        return np.concatenate([self.A, np.linalg.pinv(self.A).T, random]) if len(self.A) else random

    def _aimed(self, inside: Array, rows: Array) -> Array:
        """A ray for each of these rows, at a point beyond its wall and no other, within the bounds, if one is found.

        The point is moved by turns: to the nearest one with what A v should be there, and back into the bounds.
        """
        back, margin = np.linalg.pinv(self.A).T, AIMED * min(self.ball.radius, 1.0)
        points, own = np.tile(inside, (len(rows), 1)), (np.arange(len(rows)), rows)
        for _ in range(TURNS):
            values = points @ self.A.T
            wanted = np.minimum(values, self.b - margin)
            wanted[own] = self.b[rows] + margin
            points = np.clip(points + (wanted - values) @ back, self.low, self.high)
        return points - inside

    def _hit(self, inside: Array, rays: Array) -> set[int]:
        """The walls that rays meet first, each alone and before the bounds."""
        if not len(self.A):
            return set()
        ahead = rays @ self.A.T
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = np.where(ahead > 1e-12, (self.b - self.A @ inside) / ahead, inf)
            sides = np.where(rays > 0, (self.high - inside) / rays, np.where(rays < 0, (self.low - inside) / rays, inf))
        first = steps.argmin(1)
        least = steps[np.arange(len(rays)), first]
        others = steps.copy()
        others[np.arange(len(rays)), first] = inf
        alone = (least < inf) & (np.minimum(others.min(1), sides.min(1)) > least * (1 + ROUNDING))
        return set(first[alone].tolist())

    def _first(self, inside: Array, ray: Array) -> set[int]:
        return self._hit(inside, ray[None])

    def _passed(self, row: int, known: set[int]) -> Array | None:
        """A point beyond the wall of a row that all walls known to bound keep; None where there is none."""
        kept = sorted(known)
        rows, ends = np.vstack([self.A[kept], self.A[row]]), np.append(self.b[kept], self.b[row] + 1)
        limits = np.column_stack([self.low, self.high])
        found = linprog(-self.A[row], rows, ends, bounds=limits, method=METHOD)
        beyond = found.status == 0 and -found.fun > self.b[row] + ROUNDING * (1 + abs(self.b[row]))
        return found.x if beyond else None

    def _is_bounded(self) -> bool:
        limits = np.column_stack([self.low, self.high])
        rows, ends = (self.A, self.b) if len(self.A) else (None, None)
        axes = (sign * axis for axis in np.eye(self.A.shape[1]) for sign in (-1, 1))
        return all(linprog(axis, rows, ends, bounds=limits).status == 0 for axis in axes)


def polytope(
    lin: Linearization, bounds: Bounds | None = None, sites: Sequence[str] | None = None, largest: int = LARGEST
) -> Polytope:
    """The region of one input as a polytope, cut to `bounds` (low, high), numbers or tensors shaped like the input.

    A region with fewer walls than inputs always has room for balls of any size: pictures want the bounds of their
    pixels. Raises LinregError, before any row is made, where A has more than `largest` numbers, and for an input that
    is out of bounds.

    >>> import torch, linreg
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
    >>> lin = linreg.trace(model, torch.ones(1, 2)).linearize(torch.ones(1, 2))
    >>> linreg.regions.polytope(lin, bounds=(-4, 4)).vertices()  # of x₁ ≤ 2 x₂ and x₁ + 2 x₂ + ½ ≥ 0
    tensor([[-4.0000,  1.7500],
            [-0.2500, -0.1250],
            [ 4.0000,  2.0000],
            [ 4.0000,  4.0000],
            [-4.0000,  4.0000]])
    """
    region = inequalities(lin, sites)
    rows, columns = region.shape
    if rows * columns > largest:
        raise LinregError(
            f"the region has {rows:,} rows of {columns:,} numbers, {rows * columns:,} in all, and linear programs are "
            f"for up to {largest:,}: walls() finds the nearest of so many; or ask for some sites, or with a higher "
            "largest="
        )
    low, high = _ends(lin, bounds)
    x = lin.input[0].flatten().double().numpy(force=True)
    if (x < low).any() or (x > high).any():
        raise LinregError(f"the input is out of bounds: it goes from {x.min():.4g} to {x.max():.4g}")
    A = region.rows().flatten(1).double().numpy(force=True)
    lengths = np.linalg.norm(A, axis=1)
    kept = np.flatnonzero(lengths > ROUNDING * lengths.max(initial=0))
    A = A[kept] / lengths[kept, None]
    slack = region.slack.double().numpy(force=True)[kept] / lengths[kept]
    return Polytope(region, A, A @ x + slack, kept, low, high)


def _ends(lin: Linearization, bounds: Bounds | None) -> tuple[Array, Array]:
    """Both bounds for each element of the input, flattened."""
    shape = lin.input.shape[1:]
    try:
        low, high = (-inf, inf) if bounds is None else bounds
        ends = [torch.as_tensor(end, dtype=torch.float64, device="cpu").expand(shape) for end in (low, high)]
    except (TypeError, ValueError, RuntimeError):
        ends = [torch.full(shape, torch.nan)]
    if any(end.isnan().any() for end in ends):
        raise LinregError(f"bounds are (low, high), numbers or tensors that fit one input, {tuple(shape)}")
    lower, upper = (end.flatten().numpy().copy() for end in ends)
    return lower, upper


def _meet(rows: Array, ends: Array, pair: tuple[int, int]) -> Array | None:
    """Where two lines meet, if they do."""
    two = rows[list(pair)]
    return np.linalg.solve(two, ends[list(pair)]) if abs(np.linalg.det(two)) > ROUNDING else None
