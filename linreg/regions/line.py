"""A line through a network: how many pieces it will have, and the pieces themselves."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan, prod
from time import perf_counter

import torch
from scipy.stats import t as student
from torch import Tensor

from linreg.errors import LinregError
from linreg.graph import OperatorGraph
from linreg.inputs import Given
from linreg.numerals import whole_number
from linreg.operators import Affine
from linreg.regions.bar import bar
from linreg.regions.meaning import By, check_by
from linreg.regions.segments import MEMORY, Segment, inputs_of, walk
from linreg.target import Target
from linreg.text import counted

LARGE = 2**16  # units of a network that is estimated before a line is begun
ENOUGH = 10  # breakpoints on a stretch from which a number is estimated
SHORTEST = 1e-7


@dataclass(frozen=True)
class Estimate:
    """About so many `pieces` on a line, `low` to `high` with 95 % confidence, in about so many `seconds`.

    From the `counts` of breakpoints on random stretches, each of `length` of the whole line: their mean, and its
    interval by Student's t.
    """

    pieces: float
    low: float
    high: float
    seconds: float
    length: float
    counts: tuple[int, ...]

    def __str__(self) -> str:
        numbers = (
            f"about {counted(round(self.pieces), 'piece')} ({self.low:,.0f} to {self.high:,.0f} with 95 % confidence)"
        )
        return f"{numbers}, in about {self.seconds:,.0f} s"


@dataclass(frozen=True)
class Density:
    """Breakpoints for each unit of ℓ2 length near an input: the `mean` over lines, its standard `error`, the `counts`
    on lines of `length`.
    """

    mean: float
    error: float
    counts: tuple[int, ...]
    length: float


def segment(
    graph: OperatorGraph, a: Given, b: Given, *, by: By = "pattern", target: Target = None,
    stretch: tuple[float, float] = (0.0, 1.0), limit: float = 200_000, memory: int = MEMORY, progress: bool = True,
) -> Segment:  # fmt: skip
    """Every piece of the network on the way from a to b, x(t) = a + t (b − a), or on a `stretch` of t of it.

    a and b are one input each, (1, *input_shape). `by` is "pattern", where every flip of a unit begins a new piece, and
    every comparison with another answer, or "map": pieces with the same affine function (of y by `target`) are one.
    Values at hand take about `memory` bytes.
    A network of more than 65,536 units is estimated first. On Ctrl-C what is done comes back: `complete` is then False.
    A line of length 0, and a network without gates, have one piece; a unit that lies within its wall all along, or is
    dead, flips nowhere.

    Raises LinregError for inputs that do not fit; for a network that fixes the number of its inputs; for one that jumps
    by another rule than a comparison; and, before or while it works, where more than `limit` pieces do not reach its
    end.
    """
    check_by(by)
    graph, (a, b) = inputs_of(graph, a=a, b=b)
    start, stop = _checked(stretch)
    if units_of(graph) > LARGE:
        expected = _estimate(graph, a, b, (start, stop), memory, 4, torch.Generator().manual_seed(0))
        if expected.pieces > limit:
            share = start + (stop - start) * limit / expected.pieces / 2
            raise LinregError(
                f"this line has {expected}, and limit is {limit:g}: give a larger limit, or a shorter stretch, such as "
                f"stretch=({start:g}, {share:.3g})"
            )
    with bar(progress, stop - start) as told:

        def report(t: float, pieces: int) -> None:
            told(t - start, f"{pieces:,} pieces")

        found = walk(graph, a, b, (start, stop), memory, report, limit)
    return found.merged(target) if by == "map" else found


def estimate(
    graph: OperatorGraph, a: Given, b: Given, *, stretches: int = 8, memory: int = MEMORY,
    generator: torch.Generator | None = None,
) -> Estimate:  # fmt: skip
    """How many pieces the line from a to b has, and how long they take, by some short stretches of it.

    Of as many equal parts of the line, each has one stretch at a random place; the seed is 0 without a `generator`.
    Raises LinregError as `segment`.
    """
    if (whole_number(stretches) or 0) < 2:
        raise LinregError(f"an interval needs two stretches or more, not {stretches!r}")
    graph, (a, b) = inputs_of(graph, a=a, b=b)
    return _estimate(graph, a, b, (0.0, 1.0), memory, stretches, generator or torch.Generator().manual_seed(0))


def density(
    graph: OperatorGraph, x: Given, radius: float, *, lines: int = 8, memory: int = MEMORY,
    generator: torch.Generator | None = None,
) -> Density:  # fmt: skip
    """How close the walls are around an input: breakpoints on lines through x, `radius` to either side.

    Their directions are random, the seed is 0 without a `generator`. Raises LinregError as `segment`.
    """
    if not 0 < radius < inf or lines < 2:
        raise LinregError(f"a density needs a radius above 0 and two lines or more, not {radius} and {lines}")
    graph, (x,) = inputs_of(graph, x=x)
    generator, counts = generator or torch.Generator().manual_seed(0), []
    for _ in range(lines):
        direction = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
        step = (radius * direction / direction.norm()).to(x.dtype)
        counts.append(len(walk(graph, x - step, x + step, (0.0, 1.0), memory)) - 1)
    each = torch.tensor(counts, dtype=torch.float64) / (2 * radius)
    return Density(float(each.mean()), float(each.std() / lines**0.5), tuple(counts), 2 * radius)


def units_of(graph: OperatorGraph) -> int:
    """How many elements all gates and selections have."""
    return sum(prod(node.shape) for node in graph.nodes if not isinstance(node.operator, Affine))


def _estimate(
    graph: OperatorGraph, a: Tensor, b: Tensor, stretch: tuple[float, float], memory: int, stretches: int,
    generator: torch.Generator,
) -> Estimate:  # fmt: skip
    start, stop = stretch
    part = (stop - start) / stretches
    places = (torch.rand(stretches, generator=generator, dtype=torch.float64)).tolist()

    def count(number: int, length: float) -> int:
        first = start + part * number + (part - length) * places[number]
        return len(walk(graph, a, b, (first, first + length), memory)) - 1

    length = min(part, SHORTEST)
    while count(stretches // 2, length) < ENOUGH and length < part:
        length = min(part, 4 * length)
    begun = perf_counter()
    counts = tuple(count(number, length) for number in range(stretches))
    seconds = perf_counter() - begun
    each = torch.tensor(counts, dtype=torch.float64) / length * (stop - start)
    mean, error = float(each.mean()), float(each.std()) / stretches**0.5
    wide = float(student.ppf(0.975, stretches - 1)) * error
    return Estimate(
        mean + 1, max(mean - wide, 0.0) + 1, mean + wide + 1, seconds * (mean + 1) / (sum(counts) + stretches),
        length, counts,
    )  # fmt: skip


def _checked(stretch: tuple[float, float]) -> tuple[float, float]:
    try:
        start, stop = (float(end) for end in stretch)
    except (TypeError, ValueError):
        start = stop = nan
    if not 0 <= start < stop <= 1:
        raise LinregError(f"a stretch is a pair of numbers with 0 ≤ start < stop ≤ 1, not {stretch!r}")
    return start, stop
