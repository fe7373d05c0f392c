"""What every data set is made of: labelled pictures, each a small value that is read only when it is needed."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dmbp.errors import DmbpError
from dmbp.images import Preprocess, read_image


class Unreadable(DmbpError):
    """A picture that cannot be read."""


class Picture(ABC):
    """Where a picture comes from. `halves`: whether its left and its right half show its two targets, in this order."""

    halves: bool = False

    @abstractmethod
    def tensor(self, preprocess: Preprocess) -> Tensor:
        """The network's input, (1, C, H, W). Raises `Unreadable` for a picture that cannot be read."""

    @abstractmethod
    def digest(self) -> str:
        """The same for the same picture, and for no other. Raises `Unreadable`."""


@dataclass(frozen=True)
class PhotoFile(Picture):
    """A picture in a file."""

    path: Path

    def tensor(self, preprocess: Preprocess) -> Tensor:
        try:
            return preprocess.tensor(read_image(self.path))
        except DmbpError as error:
            raise Unreadable(str(error)) from error

    def digest(self) -> str:
        try:
            with self.path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise Unreadable(f"{self.path}: {error.strerror or error}") from error


@dataclass(frozen=True, eq=False)
class Pixels(Picture):
    """A picture in memory, (H, W, 3) in [0, 1], made of two halves."""

    pixels: np.ndarray
    halves = True

    def tensor(self, preprocess: Preprocess) -> Tensor:
        return preprocess.tensor(self.pixels)

    def digest(self) -> str:
        return hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes()).hexdigest()


@dataclass(frozen=True)
class SideBySide(Picture):
    """Two pictures in one input (1, C, H, W): the left one fills ⌊W/2⌋ columns, the right one the others.

    Each is cut to the shape of its half around its middle, as the preprocessing cuts a whole picture.
    """

    left: Picture
    right: Picture
    halves = True

    def tensor(self, preprocess: Preprocess) -> Tensor:
        height, width = preprocess.size
        left = replace(preprocess, size=(height, width // 2))
        right = replace(preprocess, size=(height, width - width // 2))
        return torch.cat([self.left.tensor(left), self.right.tensor(right)], dim=-1)

    def digest(self) -> str:
        return hashlib.sha256(f"{self.left.digest()} | {self.right.digest()}".encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Item:
    """One labelled picture: its name in the data set, the classes it shows (indices of the network's scores), itself.

    Where the picture is made of two halves, `targets` are the class of the left one and that of the right one.
    """

    name: str
    targets: tuple[int, ...]
    picture: Picture

    def own_half(self, k: int, size: tuple[int, int]) -> Tensor | None:
        """Where an input of `size` (H, W) shows the k-th target: bool (H, W); None where that is not known."""
        if not self.picture.halves:
            return None
        height, width = size
        on_the_left = torch.arange(width) < width // 2
        return (on_the_left if k == 0 else ~on_the_left).expand(height, width)


@dataclass(frozen=True)
class Skipped:
    """A picture that a data set names and that cannot be taken, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of a data set, in its order, and those that had to be left out.

    `family` tells which of the paper's data it is, "ImageNet" or "VOC2012", else what it is called.
    """

    family: str
    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        names = Counter(item.name for item in self.items)
        for name, count in names.most_common(1):
            if count > 1:
                raise DmbpError(f"{self.family}: the picture {name} is named {count} times")

    def __repr__(self) -> str:
        left_out = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"Pictures({self.family!r}: {len(self.items)} pictures{left_out})"

    def check_targets(self, classes: int) -> Pictures:
        """The same. Raises `DmbpError` where there is no picture at all, or a class that the network does not have."""
        if not self.items:
            because = f"; the first of {len(self.skipped)} skipped: {self.skipped[0]}" if self.skipped else ""
            raise DmbpError(f"{self.family}: there is no picture to evaluate on{because}")
        for item in self.items:
            if not all(0 <= target < classes for target in item.targets):
                raise DmbpError(
                    f"{self.family}: {item.name} shows class {max(item.targets)}, and the network has classes 0 to "
                    f"{classes - 1}: is this data set for another network?"
                )
        return self


@dataclass(frozen=True)
class Choice:
    """A seeded subset of a data set: `per_class` pictures of each class (the paper takes five), then `count` of all.

    None takes all. A larger count keeps the pictures of a smaller one; the order is the data set's.
    """

    count: int | None = None
    per_class: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.count or 1, self.per_class or 1) < 1 or 0 in (self.count, self.per_class) or self.seed < 0:
            raise DmbpError(f"a choice of pictures needs counts of at least 1 and a seed of at least 0, got {self}")

    def of(self, pictures: Pictures) -> Pictures:
        """The chosen pictures. Raises `DmbpError` where there are not enough, or a class per picture is not defined."""
        items = self._each_class(pictures) if self.per_class else pictures.items
        if self.count is not None:
            if self.count > len(items):
                raise DmbpError(f"{pictures.family}: {self.count} pictures were asked for, and there are {len(items)}")
            drawn = np.random.default_rng(self.seed).permutation(len(items))[: self.count]
            items = tuple(items[k] for k in sorted(drawn))
        return replace(pictures, items=items)

    def _each_class(self, pictures: Pictures) -> tuple[Item, ...]:
        assert self.per_class is not None
        by_class: dict[int, list[int]] = defaultdict(list)
        for place, item in enumerate(pictures.items):
            if len(item.targets) != 1:
                raise DmbpError(
                    f"{pictures.family}: so many pictures a class are chosen only where each picture has one class; "
                    f"{item.name} has {len(item.targets)}"
                )
            by_class[item.targets[0]].append(place)
        chosen: list[int] = []
        for target, places in sorted(by_class.items()):
            if len(places) < self.per_class:
                raise DmbpError(
                    f"{pictures.family}: {self.per_class} pictures a class were asked for, and class {target} has "
                    f"{len(places)}"
                )
            drawn = np.random.default_rng((self.seed, target)).permutation(len(places))[: self.per_class]
            chosen += [places[k] for k in drawn]
        return tuple(pictures.items[k] for k in sorted(chosen))


def picture_files(folder: Path) -> list[Path]:
    """The files of pictures in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())


ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without those that are blank. Raises `DmbpError` where it cannot be read."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DmbpError(f"{path}: {error}") from error


def existing(folder: Path, what: str) -> Path:
    """The folder. Raises `DmbpError` where there is none."""
    if not folder.is_dir():
        raise DmbpError(f"{folder}: there is no such folder; expected {what}")
    return folder


def first_found(candidates: Iterable[Path]) -> Path | None:
    """The first of these that exists."""
    return next((path for path in candidates if path.exists()), None)
