"""The metrics as values that an evaluation runs: what each makes of a batch of maps, and how its numbers are read.

Index letters: R rows, each a picture with one of its classes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from dmbp.errors import DmbpError
from dmbp.evaluation.curves import Curve, complementary_insertion, deletion, insertion
from dmbp.evaluation.halves import localization
from dmbp.evaluation.published import CIM, CORRELATION, IM
from dmbp.evaluation.randomization import layer_randomization

DIGITS = 6  # of the scores of a curve that are kept: float32 has no more


@dataclass(frozen=True, eq=False)
class Rows:
    """What maps are made of: pictures `x` (R, C, H, W), each with one class among `targets`.

    `others` are the other classes that each row's picture shows, and `own` the half where its class is, None where that
    is not known; `probability` makes probabilities of the network's scores.
    """

    network: nn.Module
    probability: str
    x: Tensor
    targets: list[int]
    others: list[tuple[int, ...]]
    own: list[Tensor | None]

    def some(self, chosen: Sequence[int]) -> Rows:
        """Some of the rows."""
        return Rows(
            self.network, self.probability, self.x[list(chosen)], [self.targets[r] for r in chosen],
            [self.others[r] for r in chosen], [self.own[r] for r in chosen],
        )  # fmt: skip


class Judged(Protocol):
    """A method that is judged: anything with a name that makes of these three a map like x or (N, 1, *picture)."""

    @property
    def name(self) -> str: ...

    def __call__(self, network: nn.Module, x: Tensor, target: Any) -> Tensor: ...


Found = dict[str, Any]


@dataclass(frozen=True)
class Metric(ABC):
    """A metric and its options.

    `title` heads its row in a table; `quantities` are the numbers of it that a table shows, by the words that follow
    the title; `better` is 1 where more is better, −1 where less is, and 0 where zero is; `needs` says
    what it has a meaning for.
    """

    title: ClassVar[str]
    quantities: ClassVar[dict[str, str]] = {"area": ""}
    better: ClassVar[int] = 1
    needs: ClassVar[str] = "a picture that can be read"

    @abstractmethod
    def found(self, rows: Rows, maps: Tensor, method: Judged) -> list[Found | None]:
        """The numbers of each row's map, None where the metric has no meaning; `method` made the maps (R, …).

        Raises `DmbpError` for maps that do not fit, NaN among them.
        """


@dataclass(frozen=True)
class Insertion(Metric):
    """The paper's IM; `step` in pixels, None for ⌈P / 224⌉."""

    step: int | None = None
    title: ClassVar[str] = IM

    def found(self, rows: Rows, maps: Tensor, method: Judged) -> list[Found | None]:
        curve = insertion(rows.network, rows.x, rows.targets, maps, step=self.step, probability=rows.probability)
        return [*_curves(curve)]


@dataclass(frozen=True)
class ComplementaryInsertion(Metric):
    """The paper's cIM, of pictures with several classes; `step` in pixels."""

    step: int | None = None
    title: ClassVar[str] = CIM
    needs: ClassVar[str] = "pictures of several classes, such as photo-pairs:DATA"

    def found(self, rows: Rows, maps: Tensor, method: Judged) -> list[Found | None]:
        several = [r for r, others in enumerate(rows.others) if others]
        if not several:
            return [None] * len(rows.x)
        some = rows.some(several)
        curve = complementary_insertion(
            some.network, some.x, some.targets, maps[several], some.others,
            step=self.step, probability=some.probability,
        )  # fmt: skip
        return _placed(_curves(curve), several, len(rows.x))


@dataclass(frozen=True)
class Deletion(Metric):
    """Deletion, from the picture to zeros; `step` in pixels."""

    step: int | None = None
    title: ClassVar[str] = "deletion"
    better: ClassVar[int] = -1

    def found(self, rows: Rows, maps: Tensor, method: Judged) -> list[Found | None]:
        curve = deletion(rows.network, rows.x, rows.targets, maps, step=self.step, probability=rows.probability)
        return [*_curves(curve)]


@dataclass(frozen=True)
class Localization(Metric):
    """Of pictures made of two halves: positive evidence in the own half, negative in the other."""

    title: ClassVar[str] = "localization"
    needs: ClassVar[str] = "pictures made of two halves, such as digit-pairs or photo-pairs:DATA"
    quantities: ClassVar[dict[str, str]] = {"positive": "positive, own half", "negative": "negative, other half"}

    def found(self, rows: Rows, maps: Tensor, method: Judged) -> list[Found | None]:
        halved = [r for r, own in enumerate(rows.own) if own is not None]
        if not halved:
            return [None] * len(rows.x)
        shares = localization(maps[halved], torch.stack([own for own in rows.own if own is not None]))
        found = [
            {"positive": _number(positive), "negative": _number(negative)}
            for positive, negative in zip(shares.positive.tolist(), shares.negative.tolist(), strict=True)
        ]
        return _placed(found, halved, len(rows.x))


def _curves(curve: Curve) -> list[Found]:
    scores = [[float(f"{score:.{DIGITS}g}") for score in row] for row in curve.scores.tolist()]
    columns = zip(curve.area.tolist(), curve.lower.tolist(), curve.upper.tolist(), scores, strict=True)
    return [{"area": area, "lower": lower, "upper": upper, "curve": row} for area, lower, upper, row in columns]


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def _placed(found: Sequence[Found], rows: Sequence[int], count: int) -> list[Found | None]:
    placed: list[Found | None] = [None] * count
    for row, value in zip(rows, found, strict=True):
        placed[row] = value
    return placed


@dataclass(frozen=True)
class Randomization(Metric):
    """Rank correlation with the map of a network whose last layer is redrawn (Table 3), or cascading, all layers.

    `order` "top-down" and "bottom-up" redraw layer after layer; the number is then the mean over all of them, and each
    layer's is kept.
    """

    order: str = "last"
    seed: int = 0
    title: ClassVar[str] = CORRELATION
    needs: ClassVar[str] = "maps that are not constant"
    quantities: ClassVar[dict[str, str]] = {"mean": ""}
    better: ClassVar[int] = 0

    def found(self, rows: Rows, maps: Tensor, method: Judged) -> list[Found | None]:
        def explained(network: nn.Module, x: Tensor, target: Any) -> Tensor:
            """The maps of the network as it is are there already."""
            return maps if network is rows.network else method(network, x, target)

        drawn = layer_randomization(explained, rows.network, rows.x, rows.targets, order=self.order, seed=self.seed)
        return [
            {"mean": _number(column.nanmean().item()), "layers": [_number(value) for value in column.tolist()]}
            for column in drawn.correlations.unbind(1)
        ]


METRICS: dict[str, type[Metric]] = {
    "insertion": Insertion,
    "cim": ComplementaryInsertion,
    "deletion": Deletion,
    "localization": Localization,
    "randomization": Randomization,
}


def metrics_of(names: Sequence[str], step: int | None) -> dict[str, Metric]:
    """The metrics of these names, by name; `step` is that of the curves. Raises `DmbpError` for an unknown name."""
    for name in names:
        if name not in METRICS:
            raise DmbpError(f"there is no metric {name!r}; there are {', '.join(METRICS)}")
    return {name: METRICS[name](**({"step": step} if "step" in _options(METRICS[name]) else {})) for name in names}


def _options(metric: type[Metric]) -> set[str]:
    return {each.name for each in fields(metric)}
