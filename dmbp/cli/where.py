"""Which score of the output is meant: a class, at a place, over a box or a region, or the one score that there is."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from dmbp.errors import DmbpError
from linreg import target as targets
from linreg.target import Target

Class = int | None  # None where there is one score for each image, and no classes


class Where(ABC):
    """Where in the output (1, classes, *places) the scores of the classes are taken."""

    words = ""  # of it, behind the class's name

    @abstractmethod
    def scores(self, output: Tensor) -> Tensor:
        """Those of all classes, (classes,): the largest is explained where none is asked for."""

    @abstractmethod
    def target(self, index: Class) -> Target:
        """That of a class, as `linreg.target` has it."""


@dataclass(frozen=True, eq=False)
class Alone(Where):
    """One score for each image, (1,)."""

    def scores(self, output: Tensor) -> Tensor:
        return output

    def target(self, index: Class) -> Target:
        return None


@dataclass(frozen=True, eq=False)
class Classes(Where):
    """An output without places, (1, classes)."""

    def scores(self, output: Tensor) -> Tensor:
        return output[0]

    def target(self, index: Class) -> Target:
        return index


@dataclass(frozen=True, eq=False)
class At(Where):
    """One place."""

    place: tuple[int, ...]

    @property
    def words(self) -> str:  # type: ignore[override]
        return f" at {', '.join(map(str, self.place))}"

    def scores(self, output: Tensor) -> Tensor:
        return _means(self, output)

    def target(self, index: Class) -> Target:
        return targets.at(index or 0, self.place)


@dataclass(frozen=True, eq=False)
class Box(Where):
    """The mean over ranges of places."""

    ranges: tuple[tuple[int, int], ...]

    @property
    def words(self) -> str:  # type: ignore[override]
        return f" in {', '.join(f'{first}:{stop}' for first, stop in self.ranges)}"

    def scores(self, output: Tensor) -> Tensor:
        return _means(self, output)

    def target(self, index: Class) -> Target:
        return targets.box(index or 0, *self.ranges)


@dataclass(frozen=True, eq=False)
class Region(Where):
    """The mean over the places (*places) that have their largest score in a class, `best`."""

    best: Tensor
    words = " in its region"

    def scores(self, output: Tensor) -> Tensor:
        return torch.bincount(self.best.flatten(), minlength=output.shape[1]).to(output)

    def target(self, index: Class) -> Target:
        inside = self.best.eq(index or 0)
        if not inside.any():
            raise DmbpError(f"--region: the network gives no place of its output to class {index}")
        return targets.region(index or 0, inside)


def where(options: argparse.Namespace, output: Tensor) -> Where:
    """Where the score is, by options and output (1, …). Raises DmbpError where the one does not fit the other."""
    places = tuple(output.shape[2:])
    asked = [name for name in _ASKED if getattr(options, name)]
    if not places:
        if asked:
            raise DmbpError(f"--{asked[0]}: the network's output {_shape(output)} has no places, as a segmentation has")
        if output.dim() == 1 and options.target:
            raise DmbpError("the network gives one score for each image, and no classes: leave --target out")
        return Classes() if output.dim() == 2 else Alone()
    if not asked:
        middle = ",".join(str(size // 2) for size in places)
        half = ",".join(f"{size // 4}:{-(-size // 2)}" for size in places)
        raise DmbpError(
            f"the network's output {_shape(output)} has scores of {output.shape[1]} classes at {prod(places)} places: "
            f"say where the score is, by --at {middle}, --box {half} or --region (of an array that holds many inputs, "
            "--row takes one)"
        )
    found = _ASKED[asked[0]](options, output)
    found.scores(output)  # which fails for a place that there is not
    return found


_ASKED: dict[str, Callable[[argparse.Namespace, Tensor], Where]] = {
    "at": lambda options, output: At(options.at),
    "box": lambda options, output: Box(options.box),
    "region": lambda options, output: Region(output[0].argmax(0)),
}


def _means(place: At | Box, output: Tensor) -> Tensor:
    means = [(targets.cotangent(place.target(k), output) * output).sum() for k in range(output.shape[1])]
    return torch.stack(means)


def _shape(output: Tensor) -> str:
    return f"({', '.join(map(str, ('N', *output.shape[1:])))})"
