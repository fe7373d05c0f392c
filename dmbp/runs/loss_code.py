"""A loss of one's own as words that tell it from another: a run that is resumed must not mix two of them."""

from __future__ import annotations

import dis
import hashlib
from collections.abc import Iterator
from functools import partial
from types import BuiltinFunctionType, CodeType, EllipsisType, FunctionType, MethodDescriptorType, ModuleType, NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmbp.errors import DmbpError
from dmbp.learning.objective import Loss, loss_name
from dmbp.runs.shelf import digest

PLAIN = (NoneType, EllipsisType, bool, int, float, complex, str, bytes, torch.dtype, torch.device)
NAMED = (FunctionType, BuiltinFunctionType, MethodDescriptorType, type)
KNOWN = {"builtins", "dmbp", "functools", "linreg", "math", "numpy", "operator", "torch"}  # known by their names


class Unknown(Exception):
    """What the code of a loss comes to cannot be told."""


def loss_record(loss: str | Loss) -> str:
    """The name of a loss, and of a function also a digest of its code, with all that this names.

    That is its instructions and constants, the values of its defaults, closure and globals, and the functions among
    these likewise; packages such as torch count by their names. Another version of Python may compile a function to
    other code, and then tells it from what it was. Raises DmbpError where a function uses what cannot be compared.
    """
    if isinstance(loss, str):
        return loss
    try:
        held = "\n".join(_parts(loss, set()))
    except Unknown as error:
        raise DmbpError(
            f"the loss {loss_name(loss)} uses {error}, which cannot be compared when a run goes on in `out`: put what "
            "it needs into the function itself, as numbers and functions of torch, or leave out `out`"
        ) from None
    return f"{loss_name(loss)}, code {hashlib.sha256(held.encode()).hexdigest()[:16]}"


def _parts(value: Any, seen: set[int]) -> Iterator[str]:
    """Lines that are equal for values that do the same, and differ for others, as far as is known."""
    root = str(getattr(value, "__module__", None)).partition(".")[0]
    match value:
        case _ if isinstance(value, PLAIN):
            yield repr(value)
        case Tensor():
            yield digest(value)
        case np.ndarray() | np.generic():
            yield digest(torch.as_tensor(value))
        case tuple() | list():
            yield f"{type(value).__name__} of {len(value)}"
            for item in value:
                yield from _parts(item, seen)
        case frozenset() | set():
            yield f"set of {sorted('/'.join(_parts(item, seen)) for item in value)}"
        case dict():
            yield from _parts(list(value.items()), seen)
        case ModuleType() if value.__name__.partition(".")[0] in KNOWN:
            yield value.__name__
        case _ if isinstance(value, NAMED) and root in KNOWN:
            yield f"{value.__module__}.{value.__qualname__}"
        case partial():
            yield from _parts((value.func, value.args, value.keywords), seen)
        case FunctionType():
            yield from _function(value, seen)
        case CodeType():
            yield from _code(value, seen)
        case _:
            named = getattr(value, "__name__", None) or type(value).__name__
            raise Unknown(f"{named!r} ({type(value).__name__})")


def _function(function: FunctionType, seen: set[int]) -> Iterator[str]:
    if id(function) in seen:  # it calls itself
        yield function.__qualname__
        return
    seen.add(id(function))
    yield from _code(function.__code__, seen)
    closure = [cell.cell_contents for cell in function.__closure__ or ()]
    yield from _parts((function.__defaults__, function.__kwdefaults__, closure), seen)
    for name in sorted(_names(function.__code__) & function.__globals__.keys()):
        yield name
        yield from _parts(function.__globals__[name], seen)


def _code(code: CodeType, seen: set[int]) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_exceptiontable.hex()} {code.co_argcount} {code.co_flags} {code.co_names}"
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME" and str(step.argval).partition(".")[0] not in KNOWN:
            raise Unknown(f"{step.argval!r} (module)")
    yield from _parts(code.co_consts, seen)


def _names(code: CodeType) -> set[str]:
    """What may be a global in this code, and in that of the functions within."""
    inner = [_names(value) for value in code.co_consts if isinstance(value, CodeType)]
    return set(code.co_names).union(*inner)
