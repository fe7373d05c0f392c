"""What metrics and methods ask of a network, pictures, classes and maps: one place, one wording.

Index letters: N pictures, C channels, P positions of a picture (H·W).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from dmbp.errors import DmbpError
from dmbp.runs.memory import is_out_of_memory

Classes = int | Sequence[int] | Tensor


def check_network(network: nn.Module) -> None:
    """Raise DmbpError unless it is a module in eval mode, with all that is in it."""
    if not isinstance(network, nn.Module):
        raise DmbpError(f"expected a torch.nn.Module, not {type(network).__name__} (of a dmbp Model: model.network)")
    training = [name for name, module in network.named_modules() if module.training]
    if training:
        where = f"'{training[0]}' of the network" if training[0] else "the network"
        raise DmbpError(f"{where} is in training mode, where scores depend on the batch or chance: call network.eval()")


def check_pictures(x: Tensor) -> None:
    """Raise DmbpError unless x is a batch of pictures (N, C, *picture), floating point and finite."""
    if isinstance(x, Mapping | tuple | list):
        raise DmbpError(
            f"expected one tensor of pictures (N, C, H, W), not {type(x).__name__}: methods and metrics are for one "
            "picture. dmbp.explain(model, x) takes several inputs and gives a map for each by its name; to judge the "
            "map of one of them, wrap the network in a module that holds the others and takes that picture alone"
        )
    if not isinstance(x, Tensor) or x.dim() < 3 or x.numel() == 0 or not x.is_floating_point():
        came = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise DmbpError(f"expected pictures (N, C, H, W), floating point, not {came}")
    bad = (~x.isfinite()).flatten(1).any(1)
    if bad.any():
        raise DmbpError(f"picture {first(bad)} holds NaN or infinite values")


def class_indices(target: Classes, images: int) -> Tensor:
    """One class for each picture, (N,) int64 on the CPU, of one for all or one for each; a network may have fewer.

    Raises DmbpError for anything else, and for a negative class.
    """
    try:
        given = torch.as_tensor(target).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise DmbpError(f"expected a class, or one for each picture, not {target!r}") from None
    whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    if not whole or tuple(given.shape) not in ((), (images,)) or bool((given < 0).any()):
        came = given.tolist() if given.numel() <= 8 else f"{given.dtype} {tuple(given.shape)}"
        raise DmbpError(f"expected a class, counted from 0, or one for each of {images} pictures, not {came}")
    return given.long().expand(images).clone()


def scores(network: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    """The network's scores of x, (N, K): of all pictures at once, or one by one where it takes one at a time.

    Raises DmbpError where it fails on a picture alone, and where it does not give one row for each, or has fewer
    classes. Where a batch is larger than the memory, that error is passed on.
    """
    output = _at_once(network, x)
    if len(x) > 1 and not _has_rows(output, len(x)):
        alone = [_at_once(network, picture[None]) for picture in x]
        if output is None or all(_has_rows(row, 1) for row in alone):
            output = torch.cat([check_output(row, 1, classes) for row in alone])
    return check_output(output, len(x), classes)


def _at_once(network: nn.Module, x: Tensor) -> object:
    """What the network gives for these pictures; None where it fails on several."""
    try:
        return network(x)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if len(x) > 1:
            return None
        first = str(error).strip().partition("\n")[0]
        raise DmbpError(
            f"the network fails on a picture of the shape {tuple(x.shape[1:])}: {type(error).__name__}: {first}"
        ) from error


def _has_rows(output: object, images: int) -> bool:
    return isinstance(output, Tensor) and output.dim() == 2 and len(output) == images


def check_output(output: object, images: int, classes: Iterable[int]) -> Tensor:
    """The output, if it is (images, K) and each of `classes` is below K; otherwise raise DmbpError."""
    if not isinstance(output, Tensor) or not _has_rows(output, images):
        came = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise DmbpError(f"expected one row of scores for each picture, ({images}, classes), not {came}")
    check_classes(classes, output.shape[1])
    return output


def check_classes(classes: Iterable[int], number: int) -> None:
    """Raise DmbpError for a class that a network of so many has not."""
    highest = max(classes)
    if highest >= number:
        raise DmbpError(f"there is no class {highest}: the network has {number}, counted from 0")


def pixel_values(maps: Tensor, x: Tensor) -> Tensor:
    """One number for each position, (N, P) on the device of x: the map, its colours summed; no absolute value.

    A map is shaped like x, or (N, 1, *picture), or (N, *picture). Raises DmbpError for another shape, and for NaN or
    infinite values.
    """
    given = torch.as_tensor(maps).detach().to(x.device)
    images, picture = len(x), tuple(x.shape[2:])
    wanted = (tuple(x.shape), (images, 1, *picture), (images, *picture))
    if tuple(given.shape) not in wanted:
        listed = " or ".join(map(str, dict.fromkeys(wanted)))
        raise DmbpError(f"expected maps of the shape {listed}, not {tuple(given.shape)}")
    values = (given.sum(1) if given.dim() == x.dim() else given).flatten(1)
    bad = (~values.isfinite()).any(1)
    if bad.any():
        raise DmbpError(f"the map of picture {first(bad)} holds NaN or infinite values, which have no rank")
    return values


def check_count(value: object, name: str, least: int = 1) -> None:
    """Raise DmbpError unless it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DmbpError(f"{name} must be a whole number of at least {least}, not {value!r}")


def first(flags: Tensor) -> int:
    """The place of the first that is true."""
    return int(flags.int().argmax())
