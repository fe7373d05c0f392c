"""The target: which score of the output y is (w of Eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index

import torch
from torch import Tensor

from linreg.errors import LinregError

Target = int | Sequence[int] | Tensor | None


def sum_per_image(values: Tensor) -> Tensor:
    """Σ over all but the batch: (N, …) to (N,)."""
    return values.reshape(values.shape[0], -1).sum(1)


def check_image(image: int, images: int) -> None:
    """Raise LinregError unless a batch of so many images has one of that number."""
    try:
        found = 0 <= index(image) < images
    except TypeError:
        found = False
    if not found:
        raise LinregError(f"there is no image {image!r}: the batch has {images}, counted from 0")


def cotangent(target: Target, output: Tensor) -> Tensor:
    """w, shaped like the output (N, *shape), so that y_n = Σ w_n ⊙ output_n.

    `target` is the index of a class, one index for each image, or w itself: floating point, of the output's shape or
    that of one image (a difference of two classes, one pixel of a segmentation). None serves an output of one number
    for each image. Raises LinregError for an index out of range and a target that does not fit the output.
    """
    shape = tuple(output.shape[1:])
    if target is None:
        if output[0].numel() != 1:
            raise LinregError(f"the output has shape {shape} for each image: say which score to explain with `target`")
        return torch.ones_like(output)
    try:
        given = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError):
        raise LinregError(f"target must be a class index, one for each image, or weights, not {target!r}") from None
    if given.is_floating_point():
        if tuple(given.shape) not in (shape, tuple(output.shape)):
            raise LinregError(
                f"a target of weights must have shape {shape} or {tuple(output.shape)}, not {tuple(given.shape)}"
            )
        return given.to(output).expand_as(output).contiguous()
    return _one_hot(given, output)


def _one_hot(index: Tensor, output: Tensor) -> Tensor:
    images, shape = output.shape[0], tuple(output.shape[1:])
    if len(shape) != 1:
        middle = ", ".join(str(size // 2) for size in shape)
        advice = f"give floating-point weights of shape {shape}, such as w = torch.zeros{shape}; w[{middle}] = 1"
        raise LinregError(
            f"a class index needs an output of shape (N, classes), not {tuple(output.shape)}: "
            + (advice if shape else "this is one number for each image, and needs no target")
        )
    if tuple(index.shape) not in ((), (images,)) or index.dtype == torch.bool:
        came = index.tolist() if index.dim() < 2 and index.numel() <= images else f"{index.dtype} {tuple(index.shape)}"
        raise LinregError(
            f"target must be one class index, or one for each of {images} images, not {came}; weights of the outputs "
            "must be floating point"
        )
    classes = shape[0]
    if (index < 0).any() or (index >= classes).any():
        raise LinregError(
            f"class {index.tolist()} does not exist: the output has {classes} classes, 0 to {classes - 1}"
        )
    seed = torch.zeros_like(output)
    return seed.scatter_(1, index.to(output.device).expand(images)[:, None], 1)
