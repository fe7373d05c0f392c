"""The metrics as values that an evaluation runs: what each makes of a batch of maps, and how its numbers are read.

Index letters: R rows, each a picture with one of its classes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from dmbp.evaluation.curves import Curve, complementary_insertion, deletion, insertion
from dmbp.evaluation.halves import localization
from dmbp.evaluation.published import CIM, CORRELATION, IM
from dmbp.evaluation.randomization import CASCADES, layer_randomization
from dmbp.evaluation.worded import Worded, option, read

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
class Metric(Worded, ABC):
    """A metric and its options.

    `title` heads its row in a table; `quantities` are the numbers of it that a table shows, by the words that follow
    the title; `better` is 1 where more is better, −1 where less is, and 0 where zero is; `about` says what it is, and
    `needs` what it has a meaning for.
    """

    title: ClassVar[str]
    about: ClassVar[str]
    quantities: ClassVar[dict[str, str]] = {"area": ""}
    better: ClassVar[int] = 1
    needs: ClassVar[str] = "a picture that can be read"

    @abstractmethod
    def found(self, rows: Rows, maps: Tensor, method: Judged) -> list[Found | None]:
        """The numbers of each row's map, None where the metric has no meaning; `method` made the maps (R, …).

        Raises `DmbpError` for maps that do not fit, NaN among them.
        """


@dataclass(frozen=True)
class CurveMetric(Metric):
    """The area under a curve of probabilities; `step` in pixels, None for ⌈P / 224⌉."""

    step: int | None = option(
        None, "pixels that change at each step; none: the number of all / 224, rounded up", "RISE's code"
    )

    def __post_init__(self) -> None:
        if self.step is not None:
            self._check_numbers("step")


@dataclass(frozen=True)
class Insertion(CurveMetric):
    """The paper's IM."""

    label: ClassVar[str] = "insertion"
    title: ClassVar[str] = IM
    about: ClassVar[str] = "the probability of the class while pixels enter a blurred picture, the highest first"

    def found(self, rows: Rows, maps: Tensor, method: Judged) -> list[Found | None]:
        curve = insertion(rows.network, rows.x, rows.targets, maps, step=self.step, probability=rows.probability)
        return [*_curves(curve)]


@dataclass(frozen=True)
class ComplementaryInsertion(CurveMetric):
    """The paper's cIM, of pictures with several classes."""

    label: ClassVar[str] = "cim"
    title: ClassVar[str] = CIM
    about: ClassVar[str] = "the mean probability of the picture's other classes while pixels enter, the lowest first"
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
class Deletion(CurveMetric):
    """Deletion, from the picture to zeros."""

    label: ClassVar[str] = "deletion"
    title: ClassVar[str] = "deletion"
    about: ClassVar[str] = "the probability of the class while pixels go to zero, the highest first"
    better: ClassVar[int] = -1

    def found(self, rows: Rows, maps: Tensor, method: Judged) -> list[Found | None]:
        curve = deletion(rows.network, rows.x, rows.targets, maps, step=self.step, probability=rows.probability)
        return [*_curves(curve)]


@dataclass(frozen=True)
class Localization(Metric):
    """Of pictures made of two halves: positive evidence in the own half, negative in the other."""

    label: ClassVar[str] = "localization"
    title: ClassVar[str] = "localization"
    about: ClassVar[str] = "the shares of positive values in the half of the class, and of negative in the other"
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
class Redrawn(Metric):
    """Rank correlation with the maps of a network of which layers are redrawn: the mean over those, and each one's."""

    seed: int = option(0, "of the weights that are drawn", "ours")
    needs: ClassVar[str] = "maps that are not constant"
    quantities: ClassVar[dict[str, str]] = {"mean": ""}
    better: ClassVar[int] = 0

    def __post_init__(self) -> None:
        self._check_numbers("seed", least=0)

    @abstractmethod
    def which(self) -> str:
        """The order of `layer_randomization`."""

    def found(self, rows: Rows, maps: Tensor, method: Judged) -> list[Found | None]:
        def explained(network: nn.Module, x: Tensor, target: Any) -> Tensor:
            """The maps of the network as it is are there already."""
            return maps if network is rows.network else method(network, x, target)

        drawn = layer_randomization(explained, rows.network, rows.x, rows.targets, order=self.which(), seed=self.seed)
        return [
            {"mean": _number(column.nanmean().item()), "layers": [_number(value) for value in column.tolist()]}
            for column in drawn.correlations.unbind(1)
        ]


@dataclass(frozen=True)
class Randomization(Redrawn):
    """With the last layer redrawn (Table 3)."""

    label: ClassVar[str] = "randomization"
    title: ClassVar[str] = CORRELATION
    about: ClassVar[str] = "Spearman's correlation with the map of the network whose last layer is drawn anew"

    def which(self) -> str:
        return "last"


@dataclass(frozen=True)
class Cascade(Redrawn):
    """With layer after layer redrawn, which maps without information pass less easily than one layer."""

    order: str = option(CASCADES[0], f"the order of the layers: {' or '.join(CASCADES)}", "Adebayo et al. (2018)")
    label: ClassVar[str] = "cascade"
    title: ClassVar[str] = "cascading correlation"
    about: ClassVar[str] = "this correlation after each layer, one after another drawn anew and left so: the mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_word("order", CASCADES)

    def which(self) -> str:
        return self.order


METRICS: dict[str, type[Metric]] = {
    kind.label: kind for kind in (Insertion, ComplementaryInsertion, Deletion, Localization, Randomization, Cascade)
}


def metrics_of(texts: Sequence[str], step: int | None) -> dict[str, Metric]:
    """The metrics that these texts mean, by name: "cim", "insertion:step=64", "cascade:order=bottom-up".

    `step` is that of the curves that name none of their own. Raises `DmbpError` for an unknown metric or option, and
    for a value that the option cannot take.
    """
    made = {metric.name: metric for metric in (read(text, METRICS, "metric") for text in texts)}
    return {name: _stepped(metric, step) for name, metric in made.items()}


def _stepped(metric: Metric, step: int | None) -> Metric:
    return replace(metric, step=step) if isinstance(metric, CurveMetric) and metric.step is None else metric
