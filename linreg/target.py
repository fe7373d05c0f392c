"""The target: which score of the output y is (w of Eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linreg.errors import LinregError
from linreg.numerals import whole_number

Range = int | slice


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean of one class's scores over places of the output (N, classes, *places): w = 1/places there, 0 elsewhere.

    `at`, `box` and `region` make it; `where` holds an index or a slice for each dimension of the places, or is a mask
    of them, (*places) or (N, *places).
    """

    index: int
    where: tuple[Range, ...] | Tensor

    def weights(self, output: Tensor) -> Tensor:
        """w, shaped like the output. Raises LinregError where the output has no such class or places."""
        images, *shape = output.shape
        if len(shape) < 2:
            raise LinregError(
                f"at, box and region need an output of shape (N, classes, *places), not {tuple(output.shape)}"
            )
        classes, places = shape[0], tuple(shape[1:])
        if not 0 <= self.index < classes:
            raise LinregError(f"class {self.index} does not exist: {_existing(classes)}")
        inside = output.new_zeros((images, *places), dtype=torch.bool)
        inside[self._chosen(images, places)] = True
        counts = inside.reshape(images, -1).sum(1)
        if not counts.all():
            raise LinregError(f"the region of class {self.index} is empty for image {int(counts.argmin())}")
        weights = torch.zeros_like(output)
        weights[:, self.index] = inside / counts.reshape(-1, *[1] * len(places)).to(output)
        return weights

    def _chosen(self, images: int, places: tuple[int, ...]) -> Any:
        """What indexes the places (N, *places) of these images."""
        if isinstance(self.where, Tensor):
            if tuple(self.where.shape) not in (places, (images, *places)):
                wanted = f"{places} or {(images, *places)}"
                raise LinregError(f"the mask of a region must have shape {wanted}, not {tuple(self.where.shape)}")
            return self.where.expand(images, *places)
        if len(self.where) != len(places):
            raise LinregError(f"the output has places of shape {places}: {len(self.where)} numbers do not name one")
        for given, size in zip(self.where, places, strict=True):
            first, last = (given.start, given.stop - 1) if isinstance(given, slice) else (given, given)
            if not 0 <= first <= last < size:
                shown = f"{given.start} to {given.stop}" if isinstance(given, slice) else given
                raise LinregError(f"{shown} does not lie in 0 to {size}: the output has places of shape {places}")
        return (slice(None), *self.where)


def at(index: int, place: Sequence[int]) -> Mean:
    """The score of a class at one place of the output (N, classes, *places), a pixel of a segmentation, as a target.

    >>> import linreg, torch
    >>> network = torch.nn.Conv2d(1, 3, 3)
    >>> lin = linreg.trace(network, torch.ones(1, 1, 6, 6)).linearize(torch.randn(2, 1, 6, 6))
    >>> torch.equal(lin.score(linreg.target.at(2, (0, 3))), lin.output[:, 2, 0, 3])
    True
    """
    return Mean(_whole("a class", index), tuple(_whole("a place", number) for number in place))


def box(index: int, *ranges: Sequence[int]) -> Mean:
    """The mean score of a class over a box of places: a (start, stop) for each of their dimensions, stop left out.

    `box(3, (10, 20), (0, 40))` is class 3 over rows 10 to 19 and columns 0 to 39.
    """
    for each in ranges:
        if len(each) != 2:
            raise LinregError(f"a box has a (start, stop) for each dimension, not {each!r}")
    return Mean(_whole("a class", index), tuple(slice(*(_whole("a place", n) for n in each)) for each in ranges))


def region(index: int, mask: Any) -> Mean:
    """The mean score of a class over the places where a mask of booleans, (*places) or (N, *places), is true.

    `region(3, lin.output.argmax(1) == 3)` is that over the pixels that the network gives to class 3, image by image.
    """
    given = torch.as_tensor(mask)
    if given.dtype != torch.bool:
        raise LinregError(f"the mask of a region must be of booleans, not {given.dtype}: compare, as in mask > 0.5")
    return Mean(_whole("a class", index), given.detach().clone())


Target = int | Sequence[int] | Tensor | Mean | None


def sum_per_image(values: Tensor) -> Tensor:
    """Σ over all but the batch: (N, …) to (N,)."""
    return values.reshape(values.shape[0], -1).sum(1)


def check_image(image: int, images: int) -> None:
    """Raise LinregError unless a batch of so many images has one of that number."""
    number = whole_number(image)
    if number is None or not 0 <= number < images:
        raise LinregError(f"there is no image {image!r}: the batch has {images}, counted from 0")


def held(target: Target) -> Target:
    """The target as a value of its own: what the caller later does with a tensor, an array or a list is no matter.

    Raises LinregError, as `cotangent`, for what is no target at all.
    """
    return target if target is None or isinstance(target, int | Mean) else _numbers(target).detach().clone()


def cotangent(target: Target, output: Tensor) -> Tensor:
    """w, shaped like the output (N, *shape), so that y_n = Σ w_n ⊙ output_n; new memory.

    `target` is the index of a class or one index for each image, of any integer type; or w itself, floating point and
    finite, of the output's shape or that of one image (a difference of two classes); or, of an output with places as a
    segmentation has, what `at`, `box` or `region` gives. None serves an output of one number for each image. Raises
    LinregError for an index out of range and a target that does not fit the output.
    """
    shape = tuple(output.shape[1:])
    if target is None:
        if output[0].numel() != 1:
            raise LinregError(f"the output has shape {shape} for each image: say which score to explain with `target`")
        return torch.ones_like(output)
    if isinstance(target, Mean):
        return target.weights(output)
    given = _numbers(target)
    return _weights(given, output) if given.is_floating_point() else _one_hot(given, output)


def unit(weights: Tensor) -> Tensor:
    """The power of two next below the largest |w| of each image, shaped (N, 1, …) to divide w by; 1 where all are 0.

    Dividing by it and multiplying with it is exact, but for what leaves the range of the numbers.
    """
    largest = weights.abs().reshape(len(weights), -1).amax(1)
    mantissa, exponent = torch.frexp(largest)
    power = torch.ldexp(torch.ones_like(largest), exponent - 1)
    return torch.where(mantissa > 0, power, 1).reshape(-1, *[1] * (weights.dim() - 1))


def _numbers(target: Any) -> Tensor:
    parts = target if isinstance(target, list | tuple) else [target]
    try:
        if any(isinstance(part, np.generic | np.ndarray) for part in parts):  # torch knows not all of them
            target = np.asarray(target)
        return torch.as_tensor(target, device=None if isinstance(target, Tensor) else "cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise LinregError(f"target must be a class index, one for each image, or weights, not {target!r}") from None


def _weights(given: Tensor, output: Tensor) -> Tensor:
    shape = tuple(output.shape[1:])
    if tuple(given.shape) not in (shape, tuple(output.shape)):
        raise LinregError(
            f"a target of weights must have shape {shape} or {tuple(output.shape)}, not {tuple(given.shape)}"
        )
    weights = torch.empty_like(output, memory_format=torch.contiguous_format).copy_(given.detach())
    if not weights.isfinite().all():
        overflow = f", and {output.dtype} holds no number so large: scale them" if given.isfinite().all() else ""
        raise LinregError(f"a target of weights must hold finite numbers only, not NaN or infinity{overflow}")
    return weights


def _one_hot(index: Tensor, output: Tensor) -> Tensor:
    images, shape = output.shape[0], tuple(output.shape[1:])
    if len(shape) != 1:
        middle = tuple(size // 2 for size in shape[1:])
        advice = (
            f"linreg.target.at(class, {middle}) is one pixel, .box and .region are means over several; or give "
            f"floating-point weights of shape {shape}"
        )
        raise LinregError(
            f"a class index needs an output of shape (N, classes), not {tuple(output.shape)}: "
            + (advice if shape else "this is one number for each image, and needs no target")
        )
    of_integers = index.dtype != torch.bool and not index.is_complex()
    if tuple(index.shape) not in ((), (images,)) or not of_integers:
        came = index.tolist() if index.dim() < 2 and index.numel() <= images else f"{index.dtype} {tuple(index.shape)}"
        raise LinregError(
            f"target must be one class index, or one for each of {images} images, not {came}; weights of the outputs "
            "must be floating point"
        )
    classes, index = shape[0], index.detach().to(output.device, torch.long)
    if (index < 0).any() or (index >= classes).any():
        raise LinregError(f"class {index.tolist()} does not exist: {_existing(classes)}")
    return torch.zeros_like(output).scatter_(1, index.expand(images)[:, None], 1)


def _existing(classes: int) -> str:
    return f"the output has {classes} classes, 0 to {classes - 1}"


def _whole(what: str, number: Any) -> int:
    found = whole_number(number)
    if found is None:
        raise LinregError(f"{what} must be a whole number, not {number!r}")
    return found
