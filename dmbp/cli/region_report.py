"""What `dmbp inspect --regions` says: how far the linear function at an input reaches, and which units end it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmbp.cli.question import Question, quietly
from dmbp.files import save_figure, writable
from linreg import Linearization, LinregError, trace
from linreg.operators.sparse import to_numpy
from linreg.regions import Walls, polytope, walls
from linreg.regions.line import estimate, segment
from linreg.text import number

PIECES = 200_000  # on a line to another picture, of which more are estimated and not counted
SECONDS = 60


@dataclass(frozen=True, eq=False)
class RegionReport:
    """The region of an input: its nearest walls in ℓ2, what else is told of it by name, and the same in words."""

    lin: Linearization
    nearest: Walls
    told: dict[str, Any]
    words: str


def region_report(question: Question, to: Tensor | None, output: str | None = None) -> RegionReport:
    """The region of the question's input, and the pieces on the line to another one, all in float64.

    In float32 the nearest walls of a large network are closer than rounding.
    """
    network = deepcopy(question.model.network).double()
    x = question.x.double()
    with quietly():
        graph = trace(network, x, output=output)
    lin = graph.linearize(x)
    nearest, pattern = walls(lin), lin.pattern()
    told: dict[str, Any] = {
        "pattern": pattern.key, "units": pattern.units, "walls": nearest.total, "rows_made": nearest.examined,
        "miss": nearest.miss, "nearest": [_wall(wall) for wall in nearest], "max_norm": _least(walls(lin, 1, inf)),
    }  # fmt: skip
    told["inradius"], inside = _inradius(question, lin)
    lines = [
        f"region by pattern, in float64: {pattern.units:,} units of {len(pattern)} gates and selections", "",
        str(nearest), "",
        f"it reaches {_reach(_least(nearest))} in ℓ2, and {_reach(told['max_norm'])} for every element at once (ℓ∞)",
        inside,
    ]  # fmt: skip
    if to is not None:
        told["line"], line = _line(lin, to.double())
        lines.append(line)
    return RegionReport(lin, nearest, told, "\n".join(lines))


def save(report: RegionReport, folder: Path, stem: str) -> dict[str, str]:
    """The nearest walls as arrays and, if there are any, as a picture: {what: path}."""
    from linreg.plot import draw_walls

    writable(folder)
    figure, arrays = folder / f"{stem}-walls.png", folder / f"{stem}-walls.npz"
    found = report.nearest
    np.savez(
        arrays, input=to_numpy(report.lin.input), distance=[wall.distance for wall in found],
        site=[wall.label.site for wall in found], unit=[str(wall.label.unit) for wall in found],
        row=[wall.row for wall in found], normal=[to_numpy(wall.normal) for wall in found],
        point=[to_numpy(wall.point) for wall in found],
    )  # fmt: skip
    told = {"arrays": str(arrays)}
    if found:
        told["figure"] = str(save_figure(draw_walls(found).figure, figure))  # type: ignore[arg-type]
    return told


def _wall(wall: Any) -> dict[str, Any]:
    label = wall.label
    return {
        "distance": wall.distance, "site": label.site, "unit": list(label.unit), "kink": label.kink,
        "rival": None if label.rival is None else list(label.rival),
    }  # fmt: skip


def _least(found: Walls) -> float:
    return found[0].distance if found else inf


def _reach(distance: float) -> str:
    return "as far as one likes" if distance == inf else number(distance)


def _inradius(question: Question, lin: Linearization) -> tuple[float | None, str]:
    """The radius of the largest ball in the region, of a picture within black and white, where linear programs are."""
    bounds, where = None, ""
    if question.picture is not None:
        size = (*question.model.preprocess.size, 3)
        black, white = (question.model.preprocess.tensor(np.full(size, p)).double()[0] for p in (0.0, 1.0))
        margin = 1e-6 * (white - black)  # of what float32 makes of black and white
        bounds, where = (black - margin, white + margin), ", with pixels between black and white,"
    try:
        ball = polytope(lin, bounds).ball
    except LinregError as error:
        return None, f"its largest ball is not told: {error}"
    if ball.radius == inf:
        return inf, "it holds balls of any size: it has no end on some side"
    return ball.radius, f"the largest ball in it{where} has radius {number(ball.radius)}"


def _line(lin: Linearization, to: Tensor) -> tuple[dict[str, Any], str]:
    """How many pieces the straight line to another input has: counted, or where that would take long, estimated."""
    expected = estimate(lin.graph, lin.input, to)
    told: dict[str, Any] = {"estimate": expected.pieces, "low": expected.low, "high": expected.high}
    if expected.high > PIECES or expected.seconds > SECONDS:
        return told | {"pieces": None}, f"the line to the other input: {expected}; not counted"
    found = segment(lin.graph, lin.input, to, progress=False)
    length = torch.linalg.vector_norm(to - lin.input).item()
    text = f"the line to the other input, {number(length)} long in ℓ2, passes {len(found):,} pieces"
    return told | {"pieces": len(found), "length": length}, text
