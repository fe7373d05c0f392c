"""The input that is named on the command line: a picture, an array, several of them, or a row of a table."""

from __future__ import annotations

import csv
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmbp.datasets import sample_pairs
from dmbp.errors import DmbpError
from dmbp.images import read_image
from dmbp.models import Model
from dmbp.runs.several import rows_of, stacked

PAIR = "digit-pair"


class Source(ABC):
    """What was read, before a network is known."""

    classes: tuple[int, ...] = ()  # those that the picture is known to have
    names: tuple[str, ...] | None = None  # of features

    @abstractmethod
    def given(self, model: Model, like: Tensor) -> Any:
        """The network's input, (1, …), in the dtype and on the device of `like`; several by name."""

    def picture(self, model: Model, x: Any) -> np.ndarray | None:
        """The input as (H, W, 3), where it was made of a picture."""
        return None


@dataclass(frozen=True, eq=False)
class Picture(Source):
    """Pixels (H, W, 3) in [0, 1]."""

    pixels: np.ndarray
    classes: tuple[int, ...] = ()

    def given(self, model: Model, like: Tensor) -> Tensor:
        x = model.preprocess.tensor(self.pixels).to(like)
        model.run(x)  # a network of another size is told its own
        return x

    def picture(self, model: Model, x: Tensor) -> np.ndarray:
        return model.preprocess.picture(x)


@dataclass(frozen=True, eq=False)
class Table(Source):
    """A row of a table (F,), its features named."""

    name: str
    values: np.ndarray
    names: tuple[str, ...]

    def given(self, model: Model, like: Tensor) -> Tensor:
        x = _tensor(self.values, like)[None]
        _check_taken(model, self.name, x)
        return x


@dataclass(frozen=True, eq=False)
class Array(Source):
    """One input (…) or (1, …), or a row of many; with `scale`, (x − mean) / std by channel."""

    name: str
    values: np.ndarray
    row: int | None
    scale: tuple[Sequence[float], Sequence[float]] | None

    def given(self, model: Model, like: Tensor) -> Tensor:
        x = _tensor(self.values, like)
        if self.row is not None:
            if x.dim() == 0 or self.row >= len(x):
                raise DmbpError(f"{self.name}: there is no row {self.row} in an array of shape {tuple(x.shape)}")
            return self._scaled(x[self.row][None])
        ways = [self._scaled(x[None]), *([self._scaled(x)] if x.dim() > 1 and len(x) == 1 else [])]
        tried = [_dimensions(model, way, copies) for copies in (2, 1) for way in ways]
        taken = [(made, k % len(ways)) for k, made in enumerate(tried) if isinstance(made, int)]
        if not taken:
            raise DmbpError(
                f"{model.name}: the network does not take {self.name}, {_listed(ways)}: {tried[-len(ways)]}; an array "
                "holds one input, without a batch dimension or with one of size 1, or many, of which --row takes one"
            )
        # (1, features): with one dimension more a linear layer would take it too, and give scores by rows.
        return ways[min(taken[: len(ways)])[1]]

    def _scaled(self, x: Tensor) -> Tensor:
        if self.scale is None:
            return x
        mean, std = (x.new_tensor(each).view(-1, *[1] * (x.dim() - 2)) for each in self.scale)
        if x.dim() < 2 or x.shape[1] != len(mean):
            raise DmbpError(f"--mean and --std have {len(mean)} numbers, and {self.name} is {tuple(x.shape)}")
        return (x - mean) / std


@dataclass(frozen=True, eq=False)
class Several(Source):
    """Arrays (N, …) by the names of the network's arguments, of which a row is taken."""

    name: str
    values: Mapping[str, np.ndarray]
    row: int
    fixed: tuple[str, ...]

    def given(self, model: Model, like: Tensor) -> dict[str, Tensor]:
        for name in self.fixed:
            if name not in self.values:
                raise DmbpError(f"--fixed {name}: {self.name} holds {', '.join(self.values)}")
        whole = {name: _tensor(value, like, keep=name in self.fixed) for name, value in self.values.items()}
        rows, count = rows_of(whole, model.network, self.fixed)
        if self.row >= count:
            raise DmbpError(f"{self.name}: there is no row {self.row} of {count}")
        chosen: dict[str, Tensor] = stacked([row for n, row in enumerate(rows) if n == self.row])
        _check_taken(model, self.name, **chosen)
        return chosen


def read_given(name: str, row: int | None, fixed: Sequence[str], scale: Any) -> Source:
    """What a name stands for. Raises DmbpError where there is nothing of that name, or nothing that can be read."""
    pair = re.fullmatch(f"{PAIR}:(.*)", name)
    if pair:
        return _digit_pair(pair[1])
    reader = _READERS.get(Path(name).suffix.lower())
    if reader is None:
        if row is not None or fixed:
            raise DmbpError("--row and --fixed are for arrays and tables: .npy, .npz and .csv")
        return Picture(read_image(name))
    if not Path(name).is_file():
        raise DmbpError(f"{name}: there is no such file")
    try:
        return reader(name, row, tuple(fixed), scale)
    except DmbpError:  # which names the file itself
        raise
    except (OSError, ValueError, EOFError, csv.Error) as error:
        raise DmbpError(f"{name} cannot be read: {str(error).partition(chr(10))[0]}") from error


def _digit_pair(number: str) -> Picture:
    """One of the shipped pictures, and its two digits."""
    pairs = sample_pairs()
    if number not in map(str, range(len(pairs.images))):
        raise DmbpError(f"there is no {PAIR}:{number}; expected {PAIR}:0 to {PAIR}:{len(pairs.images) - 1}")
    picture = pairs.images[int(number), 0]
    return Picture(picture[..., None].expand(-1, -1, 3).numpy(), tuple(pairs.labels[int(number)].tolist()))


def _array(name: str, row: int | None, fixed: tuple[str, ...], scale: Any) -> Source:
    return _of_one(name, np.load(name, allow_pickle=False), row, fixed, scale)


def _arrays(name: str, row: int | None, fixed: tuple[str, ...], scale: Any) -> Source:
    with np.load(name, allow_pickle=False) as file:
        values = dict(file)
    if len(values) == 1:
        return _of_one(name, next(iter(values.values())), row, fixed, scale)
    if scale is not None:
        raise DmbpError("--mean and --std are for one input")
    return Several(name, values, row or 0, fixed)


def _of_one(name: str, values: np.ndarray, row: int | None, fixed: tuple[str, ...], scale: Any) -> Source:
    if fixed:
        raise DmbpError(f"--fixed {fixed[0]}: {name} holds one input, which is explained")
    return Array(name, values, row, scale)


def _table(name: str, row: int | None, fixed: tuple[str, ...], scale: Any) -> Source:
    if fixed or scale is not None:
        raise DmbpError("--fixed, --mean and --std are for arrays")
    with open(name, newline="", encoding="utf-8-sig") as file:
        lines = [line for line in csv.reader(file) if line]
    if len(lines) < 2:
        raise DmbpError(f"{name}: expected a header with the features' names, and a row of numbers for each input")
    header, rows = lines[0], lines[1:]
    if all(map(_is_number, header)):
        raise DmbpError(f"{name}: its first line must name the features; it holds numbers")
    number = row or 0
    if number >= len(rows):
        raise DmbpError(f"{name}: there is no row {number} of {len(rows)}")
    values = rows[number]
    if len(values) != len(header):
        raise DmbpError(f"{name}, row {number}: {len(values)} values for {len(header)} features")
    for feature, value in zip(header, values, strict=True):
        if not _is_number(value):
            raise DmbpError(f"{name}, row {number}: '{feature}' is {value!r}, no number: encode it as in training")
    return Table(name, np.array(values, float), tuple(feature.strip() for feature in header))


_READERS: dict[str, Callable[[str, int | None, tuple[str, ...], Any], Source]] = {
    ".npy": _array,
    ".npz": _arrays,
    ".csv": _table,
}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _tensor(values: np.ndarray, like: Tensor, keep: bool = False) -> Tensor:
    """An array as the network's numbers; what is held fixed keeps its kind where it is of integers or booleans."""
    if values.dtype.kind not in "fiub":
        raise DmbpError(f"expected an array of numbers, not of {values.dtype}")
    tensor = torch.from_numpy(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="))))
    integers = keep and not tensor.is_floating_point()
    return tensor.to(like.device) if integers else tensor.to(like)


def _check_taken(model: Model, name: str, *inputs: Tensor, **named: Tensor) -> None:
    """Raise DmbpError, with the first line of why, where the network does not take what a file holds."""
    try:
        with torch.no_grad():
            model.network(*inputs, **named)
    except Exception as error:  # a user's network may raise anything
        first = str(error).strip().partition("\n")[0]
        shape = f", {_listed(inputs)}" if inputs else ""
        raise DmbpError(f"{model.name}: the network does not take {name}{shape}: {first}") from error


def _dimensions(model: Model, x: Tensor, copies: int) -> int | str:
    """How many dimensions the network's scores have, for so many copies of an input; or the first line of why it fails.

    Of two copies, since a convolution takes an input without a batch too.
    """
    try:
        with torch.no_grad():
            made = model.network(torch.cat([x] * copies))
    except Exception as error:  # a user's network may raise anything
        return str(error).strip().partition("\n")[0]
    if not isinstance(made, Tensor) or (made.dim() == 0 and copies == 1):  # squeeze() takes the one image off
        return 0
    return made.dim() if made.dim() and len(made) == copies else f"it gives {tuple(made.shape)} for {copies} inputs"


def _listed(ways: Sequence[Tensor]) -> str:
    return " or ".join(str(tuple(way.shape)) for way in ways)
