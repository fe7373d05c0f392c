"""Which of a model's outputs is explained."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from linreg.errors import LinregError
from linreg.numerals import whole_number

SCORES = "return its scores: wrap it in a module whose forward does"


class NoOutput(LinregError):
    """A choice that is none of the outputs that the model returns."""


def pick(result: Any, output: str | int | None, alone: bool = False) -> tuple[Tensor, int]:
    """The chosen tensor of a model's result, and its place among all of them.

    Raises LinregError where there are several and none is chosen, where the choice does not exist, and where what is
    chosen is not a floating-point tensor with the batch first; of one image `alone`, squeeze() may have taken it off.
    """
    paths, _ = pytree.tree_flatten_with_path(result)
    names = [_name(path) for path, _ in paths]
    if not paths:
        raise LinregError(f"the model returns nothing: {SCORES}")
    if output is None:
        if len(paths) != 1:
            choice = f"linreg.trace(model, x, output=…) takes {_listed(names)}"
            raise LinregError(f"the model returns {len(paths)} outputs: choose one; {choice}")
        place = 0
    elif str(output) in names:
        place = names.index(str(output))
    elif (found := _by_position(result, output)) is not None:
        place = found
    else:
        modules = "; or a module of the model, whose output it shall be"
        choice = f"choose one of {_listed(names)}" if any(names) else "it returns one tensor, without a name"
        raise NoOutput(f"the model has no output {output!r}: {choice}{modules}")
    value = paths[place][1]
    if not isinstance(value, Tensor):
        raise _not_a_tensor(value)
    if not value.is_floating_point() or (value.dim() == 0 and not alone) or value.numel() == 0:
        came = f"{value.dtype} of shape {tuple(value.shape)}"
        raise LinregError(f"the model's output must be a floating-point tensor (N, …), not {came}")
    return value, place


def names_of(result: Any) -> list[str]:
    """What `pick` calls the tensors of a result."""
    return [_name(path) for path, _ in pytree.tree_flatten_with_path(result)[0]]


def _by_position(result: Any, output: str | int) -> int | None:
    """The place of the tensor at a position of a namedtuple, whose tensors have names."""
    position = whole_number(output)
    if position is None or not isinstance(result, tuple) or not 0 <= position < len(result):
        return None
    before = sum(len(pytree.tree_leaves(each)) for each in result[:position])
    return before if isinstance(result[position], Tensor) else None


def check_kind(result: Any) -> None:
    """Raise LinregError where a result holds its tensors in an object of a kind that torch.export does not know."""
    for leaf in pytree.tree_leaves(result):
        if not isinstance(leaf, Tensor) and _such_as(leaf):
            raise LinregError(
                f"the model's output must be a tensor, not {type(leaf).__name__}: {SCORES}{_such_as(leaf)}"
            )


def _not_a_tensor(value: Any) -> LinregError:
    return LinregError(f"the model's output must be a tensor, not {type(value).__name__}: {SCORES}{_such_as(value)}")


def _such_as(value: Any) -> str:
    """The first tensor that an object holds, as one would write it."""
    attributes = value.items() if isinstance(value, dict) else getattr(value, "__dict__", {}).items()
    held = [name for name, attribute in attributes if isinstance(attribute, Tensor)]
    if not held:
        return ""
    return f" (here `model(x)[{held[0]!r}]`)" if isinstance(value, dict) else f" (here `model(x).{held[0]}`)"


def _name(path: tuple[Any, ...]) -> str:
    """ "aux.1" for result["aux"][1]; each of pytree's keys calls what it holds by another word."""
    return ".".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path)


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)
