"""How the cost grows: time against iterations, images and pixels, each with a straight line through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dmbp.bench.report import Report, Row
from dmbp.bench.subject import Problem, Subject, in_turn
from linreg import LinregError

if TYPE_CHECKING:
    pass

ITERATIONS, IMAGES, SCALES = (5, 10, 20, 40), (1, 2, 4, 8), (0.5, 1.0, 1.5, 2.0)
Clocks = tuple[Callable[[], float], Callable[[], float]]  # ours and the floor's


def grow(report: Report, subject: Subject, iterations: int, rounds: int) -> None:
    """Rows of the report: seconds of a run by iterations, and of one iteration by images and by pixels.

    Beside each stands what so much of the floor takes. A network that takes pictures of one size only has no third row.
    """
    one = subject.problem(1)
    report.growth.append(_row("iterations", {n: _run(one, n) for n in ITERATIONS}, rounds))
    batches = {images: subject.problem(images) for images in IMAGES}
    report.growth.append(_row("images", {n: _iteration(each, iterations) for n, each in batches.items()}, rounds))
    height, width = subject.pictures.shape[-2:]
    try:
        sizes = [(round(height * scale), round(width * scale)) for scale in SCALES]
        pictures = {size[0] * size[1]: subject.problem(1, size) for size in sizes}
    except LinregError as error:
        reason = str(error).partition("\n")[0]
        report.notes.append(f"growth with pixels: not measured, the network does not take other sizes: {reason}")
        return
    report.growth.append(_row("pixels", {n: _iteration(each, iterations) for n, each in pictures.items()}, rounds))


def _run(problem: Problem, iterations: int) -> Clocks:
    floor = problem.clock(problem.laid_out.floor, iterations)
    return problem.clock(lambda: problem.learn(iterations)), lambda: iterations * floor()


def _iteration(problem: Problem, iterations: int) -> Clocks:
    return lambda: problem.iteration(iterations), problem.clock(problem.laid_out.floor, iterations)


def _row(name: str, clocks: Mapping[int, Clocks], rounds: int) -> Row:
    rivals = {(n, side): clock for n, both in clocks.items() for side, clock in enumerate(both)}
    times = in_turn(rivals, rounds, f"growth with {name}")
    own, floor = ([times[n, side] for n in clocks] for side in (0, 1))
    start, slope, residual = line(tuple(clocks), own)
    return {
        "name": name, "amounts": list(clocks), "seconds": own, "floor_seconds": floor,
        "start": start, "slope": slope, "residual": residual,
    }  # fmt: skip


def line(amounts: Sequence[float], times: Sequence[float]) -> tuple[float, float, float]:
    """start + slope · amount with the least squares of relative errors, and the largest relative error."""
    x, t = np.asarray(amounts, float), np.asarray(times, float)
    slope, start = np.polyfit(x, t, 1, w=1 / t)
    return float(start), float(slope), float(np.abs((start + slope * x) / t - 1).max())
