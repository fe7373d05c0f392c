"""How far the walls of a region are, and the nearest of them, on networks of any size.

With s ≥ 0 the slack of a unit at x and a its row, its wall is the hyperplane a·(v − x) = s, and x is away from it by

    s / ‖a‖₂ in ℓ2,    s / ‖a‖₁ in ℓ∞,    s / ‖a‖_∞ in ℓ1,    s / (a·u) steps along a vector u, where a·u > 0.

The least of these is the exact distance from x to the end of its region. The wall of another unit may lie behind
others, where the region has ended already: its distance is that of the hyperplane.

A network may have millions of rows, each one pass back. To find the nearest walls few are needed: A g for random g,
one product for all rows at once, tells the norm of every row within a factor, and only rows that may be near are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from math import inf, log

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import chi2
from torch import Tensor

from linreg.errors import LinregError
from linreg.graph import Node
from linreg.linearization import Linearization
from linreg.numerals import real_number, whole_number
from linreg.operators.steps import Choice
from linreg.regions.bar import Told, bar
from linreg.regions.halfspaces import Inequalities, Label, Units, inequalities
from linreg.regions.meaning import By, check_by
from linreg.text import number, table

DRAWS = 64  # random vectors, of which the norm of every row is told
FEW = 2048  # up to so many rows, all are made
MOST = 20_000  # rows that are made for one question, unless said otherwise


@dataclass(frozen=True, eq=False)
class Wall:
    """One wall: whose it is, how far away, `point`, the nearest of it to x, and `normal`, its row of A v ≤ b.

    `point` and `normal` are shaped like one input; `normal` leads out of the region. `row` is its number in
    `Inequalities`.
    """

    label: Label
    distance: float
    point: Tensor = field(repr=False)
    normal: Tensor = field(repr=False)
    row: int


@dataclass(frozen=True, eq=False)
class Walls(Sequence[Wall]):
    """The nearest walls, the nearest first. `total` were asked about; `whole` says that these are all of the network.

    (By map: all across which the output is another affine function.) `examined` rows were made. `miss` is the
    probability that one of those that were not is nearer; it is 0 where all were made, and 1 where too many may be
    near: a nearer one is then still at least `beyond` away.
    """

    found: tuple[Wall, ...]
    measure: str
    total: int
    whole: bool
    examined: int
    miss: float
    beyond: float = inf

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        return self.found[place]

    def __len__(self) -> int:
        return len(self.found)

    def __repr__(self) -> str:
        return f"Walls({self.told})"

    @property
    def told(self) -> str:
        """What was looked at, in words."""
        what = f"the nearest {len(self)} of {self.total:,} walls"
        if not self.whole:
            what += " that were asked about, not of all"
        if self.miss == 0:
            return f"{what}; every row was made"
        if self.miss < 1:
            return (
                f"{what}; {self.examined:,} rows were made, and one was missed with a probability below {self.miss:g}"
            )
        away = number(self.beyond)
        return f"{what}; {self.examined:,} rows were made, and a wall may be nearer that is at least {away} away"

    def __str__(self) -> str:
        rows = [(number(wall.distance), str(wall.label), _compared(wall.label)) for wall in self]
        return f"{table(rows, (f'distance, {self.measure}', 'unit', 'its wall is where'), right=(0,))}\n{self.told}"


@torch.no_grad()
def walls(
    lin: Linearization,
    count: int = 10,
    norm: float = 2,
    *,
    towards: Tensor | None = None,
    sites: Sequence[str] | None = None,
    units: Units | None = None,
    sample: int | None = None,
    by: By = "pattern",
    miss: float = 1e-9,
    most: int = MOST,
    seed: int = 0,
    progress: bool = True,
) -> Walls:
    """The `count` nearest walls of the region of one input, in ℓ2, ℓ∞ (`norm=inf`) or ℓ1, with their units.

    With `towards` (*input_shape) they are those that x meets on its way along this vector, which is the unit of their
    distances. Asked about are all walls, or those of some `sites`, of some `units` {site: places}, or a random `sample`
    of these; `by="map"` leaves out those across which the network's output is the same affine function.

    Of more than 2,048 rows only those are made that may be among the nearest: each is told to be farther with a
    probability of missing one below `miss` in all, whatever the network (0 makes every row). In float32 the nearest
    walls of a large network are closer than rounding: ask in float64. Long work shows a bar.
    Raises LinregError for several images, where `miss=0` needs more than `most` rows, and for what has no such name.

    >>> import torch, linreg
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
    >>> lin = linreg.trace(model, torch.ones(1, 2)).linearize(torch.ones(1, 2))
    >>> print(linreg.regions.walls(lin))  # x₁ − 2 x₂ ≤ 0, and x₁ + 2 x₂ + ½ ≥ 0
    distance, ℓ2  unit  its wall is where
    ────────────  ────  ─────────────────
           0.447  1[1]  it passes 0
            1.57  1[0]  it passes 0
    the nearest 2 of 2 walls; every row was made
    """
    check_by(by)
    if (whole_number(count) or 0) < 1:
        raise LinregError(f"count is how many walls are looked for, 1 or more, not {count!r}")
    region = inequalities(lin, sites, units)
    asked = _asked(region, by, sample, seed)
    whole = sites is None and units is None and (sample is None or sample > len(asked))
    if towards is not None:
        found = _along(region, asked, towards, count)
        return Walls(found, "steps of the vector", len(asked), whole, len(found), 0.0)
    measure = _measure(norm)
    if len(asked) <= FEW or miss == 0:
        search = _all(region, asked, norm, count, most, progress)
    else:
        search = _likely(region, asked, _largest_norms(region, norm, miss, seed, progress), norm, count, most, progress)
        search = replace(search, miss=max(search.miss, miss))
    nearest = tuple(_walls(region, norm, search))
    return Walls(nearest, measure, len(asked), whole, search.examined, search.miss, search.beyond)


@torch.no_grad()
def distances(region: Inequalities, norm: float = 2) -> Tensor:
    """How far x is from the wall of each row, (rows,), in ℓ2, ℓ∞ (`norm=inf`) or ℓ1; ∞ for a row that is 0.

    Every row is made, a chunk at a time: `walls` finds the nearest with fewer.
    """
    _measure(norm)
    return _exact(region, torch.arange(len(region)), norm)


@torch.no_grad()
def exits(region: Inequalities, direction: Tensor) -> Tensor:
    """After how many steps of `direction` (*input_shape) x is at the wall of each row, (rows,); ∞ where it never is.

    By one product for all rows. The least is where the region ends that way. Raises LinregError for what is no
    direction.
    """
    wanted = region.lin.input.shape[1:]
    if not isinstance(direction, Tensor) or direction.shape != wanted:
        given = tuple(direction.shape) if isinstance(direction, Tensor) else type(direction).__name__
        raise LinregError(f"a direction is a tensor of the shape of one input, {tuple(wanted)}, not {given}")
    if not direction.isfinite().all():
        raise LinregError("a direction must hold finite numbers only, not NaN or infinity")
    approach = region.times(direction[None])[0]
    return torch.where(approach > 0, region.slack / approach, inf)


@torch.no_grad()
def changing(region: Inequalities) -> Tensor:
    """Which rows have a wall across which the network's output is another affine function, (rows,).

    By one pass back with random weights of the output: a unit that no output can feel turns unseen. (A comparison that
    changes nothing of a choice by logic is not told from one that does.)
    """
    lin = region.lin
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(lin.output.shape, generator=generator, dtype=torch.float64).to(lin.output)
    felt: dict[str, Tensor] = {}

    def step(node: Node, grad: Tensor) -> tuple[Tensor, ...]:
        if node.name in region.decided:
            felt[node.name] = grad[0].flatten() != 0
        return lin.frozen[node.name].adjoint(grad)

    lin.graph.pull({lin.graph.output: weights}, step)
    parts = []
    for site, each in region.decided.items():
        at_all = felt.get(site, torch.zeros(1, dtype=torch.bool, device=lin.output.device))
        whole = isinstance(lin.graph[site].operator, Choice)  # one comparison may choose many elements
        parts.append(at_all.any().expand(len(each)) if whole else at_all[each.unit])
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.bool)


# ---- which rows ----


@dataclass(frozen=True, eq=False)
class _Search:
    """Numbers of the nearest rows and their distances; how many rows were made for it, and what may have escaped."""

    rows: Tensor
    distances: Tensor
    examined: int
    miss: float = 0.0
    beyond: float = inf


def _asked(region: Inequalities, by: By, sample: int | None, seed: int) -> Tensor:
    rows = torch.arange(len(region))
    if by == "map" and len(region):
        rows = rows[changing(region).cpu()]
    if sample is None or sample >= len(rows):
        return rows
    if sample < 1:
        raise LinregError(f"a sample has at least 1 wall, not {sample}")
    generator = torch.Generator().manual_seed(seed)
    return rows[torch.randperm(len(rows), generator=generator)[:sample]].sort().values


def _all(region: Inequalities, asked: Tensor, norm: float, count: int, most: int, progress: bool) -> _Search:
    if len(asked) > max(most, FEW):
        raise LinregError(
            f"all {len(asked):,} rows are asked for, one pass back each, and most={most:,}: ask with miss=1e-9, which "
            "makes those that may be near, for some sites, for a sample, or with a higher most="
        )
    with bar(progress, len(asked)) as told:
        found = _exact(region, asked, norm, told)
    order = found.sort().indices[:count]
    return _Search(asked[order.cpu()], found[order], len(asked))


def _likely(
    region: Inequalities, asked: Tensor, largest: Tensor, norm: float, count: int, most: int, progress: bool
) -> _Search:
    """Rows in the order of how near they may be, with norms up to `largest`, until no other may be nearer."""
    place = asked.to(region.slack.device)
    nearest = torch.where(largest[place] > 0, region.slack[place].double() / largest[place], inf)
    nearest, order = nearest.sort()
    order = order.cpu()
    best, rows = torch.empty(0, dtype=torch.float64, device=nearest.device), torch.empty(0, dtype=torch.long)
    made, size = 0, max(count, DRAWS)
    with bar(progress, 1.0) as told:
        while made < len(asked) and nearest[made] < inf and (len(best) < count or nearest[made] < best[-1]):
            if made >= most:
                return _Search(rows, best, made, 1.0, nearest[made].item())
            new = asked[order[made : made + size]]
            best, kept = torch.cat([best, _exact(region, new, norm).double()]).sort()
            best, rows, made = best[:count], torch.cat([rows, new])[kept.cpu()][:count], made + len(new)
            size *= 2
            near = int((nearest < best[-1]).sum())
            told(made / max(made, min(near, most)), f"{made:,} rows of at most {max(made, near):,}")
    return _Search(rows, best, made)


def _largest_norms(region: Inequalities, norm: float, miss: float, seed: int, progress: bool = False) -> Tensor:
    """For each row a number that its dual norm exceeds with a probability below `miss` for all of them together.

    ‖a‖₂² is the mean of (a·g)² for normal g, with the tail of χ². For ‖a‖₁ the g are Cauchy: a·g is then ‖a‖₁ times a
    Cauchy number, and the mean of log|a·g| − log‖a‖₁ falls below −t with a probability of at most
    exp(−K (s t + log cos(πs/2))) for every s < 1, as E|g|^s = 1 / cos(πs/2). ‖a‖_∞ is no larger than ‖a‖₂.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (DRAWS, *region.lin.input.shape[1:])
    total = torch.zeros(len(region), dtype=torch.float64, device=region.slack.device)
    draws = torch.randn(shape, generator=generator, dtype=torch.float64)
    if norm == inf:
        draws = draws / torch.randn(shape, generator=generator, dtype=torch.float64)
    with bar(progress, DRAWS) as told:
        for number, one in enumerate(chain.from_iterable(region.time_chunks(draws.to(region.lin.input))), 1):
            value = one.double()  # one at a time: there may be millions of rows
            total += value.abs().log() if norm == inf else value.square()
            told(number, f"{number} of {DRAWS} products")
    each = miss / max(1, len(region))
    if norm == inf:
        return (total / DRAWS + _cauchy_tail(each)).exp()
    return (total / chi2.ppf(each, DRAWS)).sqrt()


def _cauchy_tail(probability: float) -> float:
    """The least t of the bound above with that probability: min over s of (log(1/p)/K − log cos(πs/2)) / s."""
    rate = log(1 / probability) / DRAWS
    found = minimize_scalar(
        lambda s: (rate - np.log(np.cos(np.pi * s / 2))) / s, bounds=(1e-3, 1 - 1e-9), method="bounded"
    )
    return float(found.fun)


# ---- how far ----


def _exact(region: Inequalities, rows: Tensor, norm: float, told: Told = lambda done, words: None) -> Tensor:
    """The distances of these rows, in their order."""
    found, made = region.slack.new_full((len(region),), inf), 0
    for numbers, chunk in region.row_chunks(rows):
        place = numbers.to(found.device)
        norms = _dual(chunk, norm)
        differences = region.decided[region.site(int(numbers[0]))].minus is not None
        found[place] = torch.where(norms > _rounding(norms) * differences, region.slack[place] / norms, inf)
        made += len(numbers)
        told(made, f"{made:,} rows")
    return found[rows.to(found.device)]


def _rounding(norms: Tensor) -> Tensor:
    """What rounding may leave of the difference of two equal rows."""
    return 64 * torch.finfo(norms.dtype).eps * norms.amax()


def _dual(rows: Tensor, norm: float) -> Tensor:
    flat = rows.flatten(1)
    if norm == 2:
        return flat.norm(dim=1)
    return flat.abs().sum(1) if norm == inf else flat.abs().amax(1)


def _along(region: Inequalities, asked: Tensor, direction: Tensor, count: int) -> tuple[Wall, ...]:
    steps = exits(region, direction)[asked.to(region.slack.device)]
    steps, order = steps.sort()
    steps = steps[:count]
    chosen = asked[order.cpu()][: len(steps)][steps.isfinite().cpu()]
    normals = region.rows(chosen)
    x = region.lin.input[0]
    return tuple(
        Wall(region.label(int(row)), step, x + step * direction, normals[place], int(row))
        for place, (row, step) in enumerate(zip(chosen, steps.tolist(), strict=False))
    )


def _walls(region: Inequalities, norm: float, search: _Search) -> Iterator[Wall]:
    finite = search.distances.isfinite().cpu()
    chosen, far = search.rows[finite], search.distances[finite.to(search.distances.device)]
    for row, distance, normal in zip(chosen.tolist(), far.tolist(), region.rows(chosen), strict=True):
        yield Wall(region.label(row), distance, region.lin.input[0] + distance * _steepest(normal, norm), normal, row)


def _steepest(normal: Tensor, norm: float) -> Tensor:
    """The vector of length 1 that goes most along the normal."""
    if norm == 2:
        return normal / normal.norm()
    if norm == inf:
        return normal.sign()
    place = normal.abs().argmax()
    result = torch.zeros_like(normal)
    result.view(-1)[place] = normal.reshape(-1)[place].sign()
    return result


def _measure(norm: float) -> str:
    names: dict[float, str] = {1: "ℓ1", 2: "ℓ2", inf: "ℓ∞"}
    if real_number(norm) not in names:
        raise LinregError(f"norm must be 1, 2 or inf, not {norm!r}")
    return names[norm]


def _compared(label: Label) -> str:
    if label.rival is not None:
        return f"input [{', '.join(map(str, label.rival))}] is as large"
    return f"it passes {label.kink:g}"
