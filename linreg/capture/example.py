"""What the model is called with: one tensor, several in order, or several by name; data, or held fixed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from linreg.errors import LinregError
from linreg.inputs import INPUT, Given, Input, Inputs, of_torch, parted

Fixed = str | int | Sequence[str | int] | None  # names or places of the inputs that are held fixed


@dataclass(frozen=True, eq=False)
class Arguments:
    """An example of the model's arguments: `values` by `names`, of which the last `keywords` are given by name.

    Those in `fixed` are no data, and of them those in `shared` are the same for all images. `alone` says that the user
    gave one tensor and not a tuple.
    """

    names: tuple[str, ...]
    values: tuple[Tensor, ...]
    keywords: int = 0
    fixed: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()
    alone: bool = False

    @property
    def args(self) -> tuple[Tensor, ...]:
        """Copies of what is given in order: the model may write to them."""
        return tuple(value.clone() for value in self.values[: self.ordered])

    @property
    def kwargs(self) -> dict[str, Tensor]:
        """Copies of what is given by name."""
        return {name: value.clone() for name, value in list(self)[self.ordered :]}

    @property
    def ordered(self) -> int:
        """How many of them are given in order."""
        return len(self.names) - self.keywords

    @property
    def given(self) -> Given:
        """What a graph takes for it."""
        return self.values[0] if self.alone else dict(self)

    @property
    def data(self) -> dict[str, Tensor]:
        return {name: value for name, value in self if name not in self.fixed}

    @property
    def held(self) -> dict[str, Tensor]:
        """What is fixed."""
        return {name: value for name, value in self if name in self.fixed}

    @property
    def held_places(self) -> frozenset[int]:
        """Where among the arguments those are that are fixed."""
        return frozenset(place for place, name in enumerate(self.names) if name in self.fixed)

    @property
    def first(self) -> Tensor:
        """The first of the data: of the dtype, on the device and of as many images as all of it."""
        return next(iter(self.data.values()))

    @property
    def inputs(self) -> Inputs:
        """What a network of these arguments takes."""
        return Inputs(tuple(self._input(name, value) for name, value in self))

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(zip(self.names, self.values, strict=True))

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.first)

    def mapped(self, change: Callable[[Tensor], Tensor], fixed: Callable[[Tensor], Tensor] | None = None) -> Arguments:
        """With each tensor of all images changed, what is fixed by another function if that is given."""
        changes = {name: (fixed or change) if name in self.fixed else change for name in self.names}
        values = (value if name in self.shared else changes[name](value) for name, value in self)
        return replace(self, values=tuple(values))

    def beside(self, other: Arguments, images: slice) -> Arguments:
        """These images of this one and the rest of another, each in its place."""
        chosen = torch.zeros(len(self), dtype=torch.bool, device=self.first.device)
        chosen[images] = True

        def mixed(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(chosen.view(-1, *[1] * (a.dim() - 1)), a, b)

        pairs = zip(self, other.values, strict=True)
        return replace(self, values=tuple(a if name in self.shared else mixed(a, b) for (name, a), b in pairs))

    def at_least_two(self) -> Arguments:
        """At least two images: a batch of one could be taken for a constant, or dropped by squeeze()."""
        if len(self) > 1:
            return self
        return self.mapped(lambda x: torch.cat([x, x / 2]), fixed=lambda value: torch.cat([value, value]))

    def image(self, n: int) -> Arguments:
        """One image alone, (1, …), with what is its own."""
        return self.mapped(lambda value: value[n : n + 1])

    def sharing_all(self) -> Arguments:
        """With all that is fixed the same for all images."""
        return replace(self, shared=self.fixed)

    def shapes(self, model: nn.Module, batch: Any) -> Any:
        """torch.export's `dynamic_shapes`: dimension 0 of what belongs to each image is `batch`."""
        if self.alone:
            (parameter, *_) = inspect.signature(model.forward).parameters.values()
            return (({0: batch},),) if parameter.kind is parameter.VAR_POSITIONAL else ({0: batch},)
        of = {id(value): None if name in self.shared else {0: batch} for name, value in self}
        keywords = dict(list(self)[self.ordered :])
        taken = inspect.signature(model.forward).bind(*self.values[: self.ordered], **keywords)
        return {name: _mapped(value, of) for name, value in taken.arguments.items()}

    def _input(self, name: str, value: Tensor) -> Input:
        each = name not in self.shared
        return Input(name, tuple(value.shape[1:] if each else value.shape), value.dtype, name in self.fixed, each)


def _mapped(value: Any, of: Mapping[int, Any]) -> Any:
    """Shapes in the place of tensors, of all that a starred argument takes."""
    if isinstance(value, tuple):
        return tuple(_mapped(each, of) for each in value)
    if isinstance(value, dict):
        return {name: _mapped(each, of) for name, each in value.items()}
    return of[id(value)]


def arguments(model: nn.Module, example: Any, fixed: Fixed = None) -> Arguments:
    """What is given as an example, checked for what it is; whether it fits the model is for others to say.

    Raises LinregError where it is neither a tensor nor several, where the model's forward does not take it, where
    `fixed` names what it does not have, and where nothing is left to explain or to tell the images by.
    """
    alone = not isinstance(example, tuple | list | Mapping)
    order, keywords = ((example,), {}) if alone else parted(example)
    if not alone:
        _check_tensors(chain(keywords.items(), enumerate(order)))
    names = _names(model, order, keywords)
    if alone:
        names = (INPUT,)
    held = _held(fixed, names)
    if len(held) == len(names):
        raise LinregError(f"all inputs are fixed, {_listed(names)}: one at least must be data, which is explained")
    given = tuple(of_torch(value) for value in (*order, *keywords.values()))
    if alone:
        return Arguments(names, given, alone=True)
    values = (v.detach().clone() if name in held else v for name, v in zip(names, given, strict=True))
    found = Arguments(names, tuple(values), len(keywords), held)
    images = {name: len(value) if value.dim() else 0 for name, value in found.data.items()}
    if len(set(images.values())) > 1:
        told = ", ".join(f"{name!r} {count}" for name, count in images.items())
        raise LinregError(f"all inputs must hold the same number of images, one for one; they hold: {told}")
    count = next(iter(images.values()))
    shared = (name for name, value in found.held.items() if value.dim() == 0 or len(value) != count)
    return replace(found, shared=frozenset(shared))


def _check_tensors(given: Iterable[tuple[Any, Any]]) -> None:
    empty = True
    for key, value in given:
        empty = False
        if not isinstance(value, Tensor):
            raise LinregError(
                f"each input must be a torch.Tensor, not {type(value).__name__} ({key!r}): what is no tensor the model "
                "must hold itself; wrap it in a module whose forward takes tensors alone"
            )
    if empty:
        raise LinregError("the example is empty: give one tensor, a tuple of them in order, or a dict by name")


def _names(model: nn.Module, order: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[str, ...]:
    """The names of the forward's own arguments; those behind a star are numbered."""
    try:
        signature = inspect.signature(model.forward)
        taken = signature.bind(*order, **keywords)
    except (TypeError, ValueError) as error:  # ValueError: a builtin shows no signature
        in_order = ["the tensors of the tuple, in order"] if order else []
        several = " and ".join(in_order + ([f"{_listed(tuple(keywords))} by name"] if keywords else []))
        what = "one tensor" if len(order) == 1 and not keywords else several
        advice = "wrap it in a module whose forward takes the tensor to explain, and holds all else"
        if "missing" in str(error):
            advice = "give all that it takes, a tuple of tensors in order or a dict by name"
        if len(order) != 1 or keywords:
            advice = "give what its forward takes, in order or by name"
        raise LinregError(f"the model's forward must take {what} ({error}): {advice}") from error
    names = list[str]()
    for name, value in taken.arguments.items():
        if name in keywords or signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            continue
        starred = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        names += [f"{name}_{place}" for place in range(len(value))] if starred else [name]
    return (*names, *keywords)


def _held(fixed: Fixed, names: tuple[str, ...]) -> frozenset[str]:
    """The names of what is fixed; it may be given by its place."""
    if fixed is None:
        return frozenset()
    chosen: Collection[str | int] = [fixed] if isinstance(fixed, str | int) else list(fixed)
    found = set[str]()
    for each in chosen:
        place = names.index(each) if each in names else each
        if isinstance(place, bool) or not isinstance(place, int) or not -len(names) <= place < len(names):
            raise LinregError(f"there is no input {each!r} to be fixed: the model is given {_listed(names)}")
        found.add(names[place])
    return frozenset(found)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
