"""Maps of one picture side by side: by methods of `dmbp.evaluation`, and people's own, for one class or several.

Index letters: T targets, C channels.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dmbp.errors import DmbpError
from dmbp.standing import PROBABILITIES, Labels, label_of
from linreg.text import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dmbp.evaluation.methods import DMBP, Method
    from dmbp.evaluation.methods.disentangled import Learning
    from dmbp.verdict import Verdict

METHODS = ("dmbp", "dmbp:map=complete", "nd", "ig", "gradcam")
STEPS = 56  # of an insertion curve, if no step is given


@dataclass(frozen=True, eq=False)
class Row:
    """The maps of one method: `maps` (T, H, W), colours summed, and of each target its insertion area with its bounds.

    `areas`, `lower` and `upper` are empty where insertion was not asked for (the last two tell what hangs on the order
    of equal values); `verdicts` are those of DMBP's own explanations; `seconds` is the time of all maps.
    """

    name: str
    maps: Tensor
    areas: tuple[float, ...] = ()
    lower: tuple[float, ...] = ()
    upper: tuple[float, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """The maps of one picture x (1, C, H, W) by each method, for each of the classes `targets`; `scores` are theirs.

    `step` is that of the insertion curves, in pixels.
    """

    x: Tensor
    targets: tuple[int, ...]
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    probabilities: tuple[float, ...] | None
    rows: tuple[Row, ...]
    step: int

    def __repr__(self) -> str:
        names = ", ".join(row.name for row in self.rows)
        return f"Comparison({names}; of {' and '.join(self.labels)})"

    def __getitem__(self, name: str) -> Row:
        """The row of a method or map of that name; KeyError where there is none."""
        return {row.name: row for row in self.rows}[name]

    def summary(self) -> str:
        """A table: a line for each method, with the insertion area for each class."""
        columns = [f"insertion, {label}" for label in self.labels] if self.rows[0].areas else []
        lines = [
            (row.name, *(f"{area:.3f}" for area in row.areas), "" if row.seconds is None else f"{row.seconds:.1f} s")
            for row in self.rows
        ]
        return table(lines, ("map", *columns, "took"), range(1, len(columns) + 2))

    def record(self) -> dict[str, Any]:
        """All but the maps as plain values, for JSON."""
        chances = self.probabilities or (None,) * len(self.targets)
        columns = zip(self.targets, self.labels, self.scores, chances, strict=True)
        asked = [{"target": k, "label": label, "score": y, "probability": p} for k, label, y, p in columns]
        return {"targets": asked, "step": self.step, "maps": [_plain(row) for row in self.rows]}

    def arrays(self) -> dict[str, np.ndarray]:
        """x, the classes and their scores, and each row's maps (T, H, W) as "map/NAME"."""
        found = {"input": self.x.numpy(force=True), "target": np.array(self.targets), "y": np.array(self.scores)}
        return found | {f"map/{row.name}": row.maps.numpy(force=True) for row in self.rows}

    def plot(self, **options: Any) -> Figure:
        """The figure; `dmbp.plot.draw_comparison` says what it shows and takes."""
        from dmbp.plot.comparison_picture import draw_comparison

        return draw_comparison(self, **options)


def compare(
    network: nn.Module,
    x: Tensor,
    target: int | Sequence[int],
    methods: Sequence[str | Method] = METHODS,
    maps: Mapping[str, Any] | None = None,
    *,
    labels: Labels = None,
    probability: str = "softmax",
    insertion: bool = True,
    step: int | None = None,
) -> Comparison:
    """The maps of one picture x (1, C, H, W) by several methods, for one class or several, with their insertion areas.

    `network` is a module in eval mode that gives (N, classes). `methods` are names with options, as `methods.parse`
    takes them, or values of `dmbp.evaluation.methods`; `maps` are people's own by name: an array shaped like x or its
    picture, (C, H, W), (1, H, W) or (H, W), and for several classes a list of one for each. `labels` names the classes.
    Insertion takes `step` pixels at a time, by default a 56th part, and the probability "softmax" or "sigmoid".
    DMBP learns once for all its maps.

    Raises DmbpError, before any work, for a method or option that there is not, or whose package is not installed, for
    names that are there twice, a map that does not fit the picture or holds NaN, and a class that there is not.

    >>> import dmbp
    >>> from dmbp.datasets import sample_pairs
    >>> from dmbp.models import load_model
    >>> network, pairs = load_model("digit-pairs").network, sample_pairs()
    >>> own = {"brightness": pairs.images[0]}
    >>> found = dmbp.compare(network, pairs.images[:1], [3], ["nd", "gradcam"], own, probability="sigmoid")
    >>> found
    Comparison(nd, gradcam, brightness; of class 3)
    >>> found["gradcam"].maps.shape, len(found["brightness"].areas)
    (torch.Size([1, 64, 64]), 1)
    """
    from dmbp.evaluation.checks import check_network, check_pictures, scores

    check_network(network)
    check_pictures(x)
    if x.dim() != 4 or len(x) != 1:
        raise DmbpError(f"a comparison is of one picture (1, C, H, W), not of {tuple(x.shape)}: x[n : n + 1] is one")
    if probability not in PROBABILITIES or probability == "none":
        raise DmbpError(f'probability must be "softmax" or "sigmoid", not {probability!r}')
    targets = _targets(target)
    wanted = _methods(methods)
    for method in wanted:
        method.check_installed()
    own = {name: _own(name, values, x, len(targets)) for name, values in (maps or {}).items()}
    _check_names([*(method.name for method in wanted), *own])
    with torch.no_grad():
        output = scores(network, x, targets)[0]
    chances = PROBABILITIES[probability](output.double())  # type: ignore[misc]
    rows = _made(wanted, network, x, targets) + [Row(name, values) for name, values in own.items()]
    step = step or ceil(x[0, 0].numel() / STEPS)
    if insertion:
        rows = [_judged(row, network, x, targets, step, probability) for row in rows]
    return Comparison(
        x, targets, tuple(label_of(labels, k) for k in targets), tuple(output[list(targets)].tolist()),
        tuple(chances[list(targets)].tolist()), tuple(rows), step,
    )  # fmt: skip


def _targets(target: Any) -> tuple[int, ...]:
    from dmbp.evaluation.checks import class_indices

    given = [target] if isinstance(target, int) else list(target)
    if not given:
        raise DmbpError("name at least one class")
    found = tuple(class_indices(given, len(given)).tolist())
    if len(set(found)) < len(found):
        raise DmbpError(f"each class once, not {list(found)}")
    return found


def _methods(given: Sequence[str | Method]) -> list[Method]:
    from dmbp.evaluation.methods import Method, parse

    return [each if isinstance(each, Method) else parse(each) for each in given]


def _own(name: str, values: Any, x: Tensor, targets: int) -> Tensor:
    """People's own maps as (T, H, W). Raises DmbpError where they do not fit."""
    from dmbp.evaluation.checks import pixel_values

    one = targets == 1 and not (isinstance(values, list | tuple) and len(values) == 1)
    parts = [values] if one else list(values)
    if len(parts) != targets:
        raise DmbpError(f"the map {name!r}: expected a list of {targets} maps, one for each class, not of {len(parts)}")
    picture = tuple(x.shape[1:])
    found = []
    for part in parts:
        given = torch.as_tensor(part).detach()
        shaped = given[None] if tuple(given.shape) in (picture, (1, *picture[1:]), picture[1:]) else given
        try:
            found.append(pixel_values(shaped, x).view(picture[1:]))
        except DmbpError as error:
            raise DmbpError(f"the map {name!r}: {error}") from None
    return torch.stack(found)


def _check_names(names: list[str]) -> None:
    if not names:
        raise DmbpError("name at least one method, or give a map")
    for name in names:
        if names.count(name) > 1:
            raise DmbpError(f"there are two maps of the name {name!r}: give each once")


def _made(methods: Sequence[Method], network: nn.Module, x: Tensor, targets: tuple[int, ...]) -> list[Row]:
    """The rows of all methods, in order."""
    from dmbp.evaluation.methods import DMBP

    ours = [method for method in methods if isinstance(method, DMBP)]
    learned: dict[tuple[str, int], Learning] = {}
    rows = []
    for method in methods:
        began = time.perf_counter()
        maps, verdicts = [], []
        for k in targets:
            if isinstance(method, DMBP):
                result = _learned(method, ours, learned, network, x, k).after(method.iterations)
                maps.append(method.map_of(result))
                verdicts.append(result.verdict())
            else:
                maps.append(method(network, x, k))
        pictures = torch.cat([values.sum(1) for values in maps])
        rows.append(Row(method.name, pictures, verdicts=tuple(verdicts), seconds=time.perf_counter() - began))
    return rows


def _learned(
    method: DMBP, ours: Sequence[DMBP], learned: dict[tuple[str, int], Learning], network: nn.Module, x: Tensor, k: int
) -> Learning:
    """What the method learns for a class, with all those that learn the same, once."""
    alike = [other for other in ours if other.learns_as(method)]
    key = alike[0].name, k
    if key not in learned:
        counts = [other.iterations for other in alike]
        learned[key] = alike[0].learned(network, x, torch.tensor([k], device=x.device), counts)
    return learned[key]


def _judged(row: Row, network: nn.Module, x: Tensor, targets: tuple[int, ...], step: int, probability: str) -> Row:
    from dmbp.evaluation.curves import insertion

    curves = [
        insertion(network, x, k, values[None], step=step, probability=probability)
        for k, values in zip(targets, row.maps, strict=True)
    ]
    areas, lower, upper = (
        tuple(getattr(curve, name).item() for curve in curves) for name in ("area", "lower", "upper")
    )
    return Row(row.name, row.maps, areas, lower, upper, row.verdicts, row.seconds)


def _plain(row: Row) -> dict[str, Any]:
    verdicts = [{"level": verdict.level, "words": verdict.words} for verdict in row.verdicts]
    return {
        "map": row.name, "insertion": list(row.areas), "lower": list(row.lower), "upper": list(row.upper),
        "verdicts": verdicts, "seconds": row.seconds,
    }  # fmt: skip
