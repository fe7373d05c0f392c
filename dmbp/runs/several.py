"""Images of several inputs, one at a time and in batches: what `explain_all` does with dicts in the place of tensors.

Whatever is done to one tensor is done to each of several; only what is the same for all images is never stacked.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from dmbp.errors import DmbpError
from dmbp.explanation import graph_at
from linreg import LinregError, OperatorGraph, trace
from linreg.capture.example import Fixed, arguments
from linreg.capture.export import run
from linreg.capture.private import private
from linreg.surroundings import plain


@dataclass(frozen=True, eq=False)
class Several:
    """One image: its inputs by name, without the batch dimension; those in `shared` are the same for all images."""

    values: dict[str, Tensor]
    shared: frozenset[str] = frozenset()

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Several:
        return replace(self, values={name: change(value) for name, value in self.values.items()})


def rows_of(
    images: Mapping[str, Tensor], model: nn.Module | OperatorGraph, fixed: Fixed, collated: bool = False
) -> tuple[Iterator[Several], int]:
    """The images of tensors (M, …) by name, and how many they are; what is fixed may be the same for all of them.

    A graph knows its fixed inputs itself, and which of them are one for all; of a module that is found out where the
    size alone does not tell it. What is `collated` is a loader's, which puts together what is of each image.
    """
    for_all: set[str] = set()
    if isinstance(model, OperatorGraph):
        fixed = tuple(entry.name for entry in model.inputs.fixed)
        for_all = {entry.name for entry in model.inputs.fixed if not entry.each}
    chosen = (fixed,) if isinstance(fixed, str | int) else tuple(fixed or ())
    for name, value in images.items():
        if not isinstance(value, Tensor):
            raise DmbpError(f"images by name must be tensors (M, …); '{name}' is {type(value).__name__}")
    held = {name for place, name in enumerate(images) if name in chosen or place in chosen}
    counts = {name: len(value) if value.dim() else 0 for name, value in images.items() if name not in held}
    if len(set(counts.values())) != 1:
        told = ", ".join(f"{name!r} {count}" for name, count in counts.items()) or "all are fixed"
        raise DmbpError(f"all inputs must hold the same number of images, one for one: {told}")
    count = next(iter(counts.values()))
    if isinstance(model, nn.Module) and not collated and count > 1:
        for_all = _for_all(model, images, held, count)
    shared = frozenset(for_all | {name for name in held if images[name].dim() == 0 or len(images[name]) != count})

    def rows() -> Iterator[Several]:
        for n in range(count):
            yield Several({k: value if k in shared else value[n] for k, value in images.items()}, shared)

    return rows(), count


def _for_all(model: nn.Module, images: Mapping[str, Tensor], held: set[str], count: int) -> set[str]:
    """Those of the fixed inputs that are as long as the images are many, and yet the same for all: by a trace of two.

    `linreg.trace` takes what is as long as its batch for the images' own, unless the network then mixes them; and the
    network may not take two rows at all of what is one for all.
    """
    unclear = {name for name in held if images[name].dim() and len(images[name]) == count}
    if not unclear:
        return set()
    two = {name: value if name in held else value[:2] for name, value in images.items()}
    own = two | {name: images[name][:2] for name in unclear}
    graph = _traced(model, own, held)
    if graph is None:
        return unclear if count > 2 and _traced(model, two, held) else set()
    return {entry.name for entry in graph.inputs.fixed if entry.name in unclear and not entry.each}


@plain()
def _traced(model: nn.Module, images: Mapping[str, Tensor], held: set[str]) -> OperatorGraph | None:
    """The graph on these images; None where there is none, which is told when they are explained."""
    device = next(chain(model.parameters(), model.buffers(), images.values())).device
    example = {name: value.to(device) for name, value in images.items()}
    with suppress(LinregError):
        return trace(model, example, fixed=tuple(held), nonlinear="pwl")
    return None


def check_like(n: int, x: Several, first: Several) -> Several:
    """An image, detached. Raises DmbpError unless all its inputs are finite tensors, of the shapes of the first's."""
    if x.values.keys() != first.values.keys():
        raise DmbpError(f"image {n} has the inputs {', '.join(x.values)}, and image 0 {', '.join(first.values)}")
    for name, value in x.values.items():
        if not isinstance(value, Tensor):
            raise DmbpError(f"image {n}: the input '{name}' must be a torch.Tensor, not {type(value).__name__}")
        like = first.values[name]
        if value.shape != like.shape or value.dtype != like.dtype:
            raise DmbpError(
                f"image {n}: the input '{name}' is {tuple(value.shape)} of {value.dtype}, and that of image 0 "
                f"{tuple(like.shape)} of {like.dtype}: all must be of one shape and dtype"
            )
        if not value.isfinite().all():
            raise DmbpError(f"image {n}: the input '{name}' holds NaN or infinite values")
    return x.mapped(lambda value: value.detach().clone())  # whoever gives them may use one buffer for all


def fitting(graph: OperatorGraph, x: Any) -> Any:
    """An image on the network's device. Raises LinregError where the network, of any batch size, does not take it."""
    if isinstance(x, Tensor):
        x = x.to(graph.device)
        x = x[0] if x.shape == (1, *graph.input_shape) else x
    else:
        x = x.mapped(lambda value: value.to(graph.device))
    graph.take(stacked([x]))
    return x


def stacked(images: Sequence[Any]) -> Any:
    """A batch: a tensor, or one for each input by name."""
    if isinstance(images[0], Tensor):
        return torch.stack(list(images))
    first = images[0]
    return {
        name: value if name in first.shared else torch.stack([image.values[name] for image in images])
        for name, value in first.values.items()
    }


@plain()
def graph_of(
    model: nn.Module | OperatorGraph, images: Sequence[Any], fixed: Fixed, pieces: int | None
) -> OperatorGraph:
    """The graph, traced on these images unless it is one."""
    if isinstance(model, OperatorGraph):
        return graph_at(model, images[0], fixed, pieces)
    if not isinstance(model, nn.Module):
        raise DmbpError(f"expected a torch.nn.Module or a graph traced from one, not {type(model).__name__}")
    device = next(chain(model.parameters(), model.buffers(), tree_leaves(stacked(images)))).device
    example = tree_map(lambda x: x.to(device), stacked(images))
    if not isinstance(example, Tensor):
        return graph_at(model, example, fixed, pieces)
    _check_one_input(model)
    if example.dim() > 1 and example.shape[1] == 1 and not runs(model, example):
        example = example.squeeze(1)
    return graph_at(model, example, None, pieces)


def _check_one_input(model: nn.Module) -> None:
    """Raise DmbpError where images are single tensors, and the model takes more than one."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a builtin shows no signature
        return
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) > 1:
        raise DmbpError(
            f"the model takes {', '.join(map(repr, needed))}, and each image is one tensor: give a dict of tensors "
            "(M, …) by these names, or an iterable of dicts, one for each image; a tuple is an image and its class"
        )


@plain()
def runs(model: nn.Module, example: Tensor) -> bool:
    """Whether a model in eval mode takes this example."""
    device = next(chain(model.parameters(), model.buffers(), [example])).device
    try:
        with private(model) as own:
            run(own, arguments(own, example.to(device)))
    except LinregError:
        return False
    return True
