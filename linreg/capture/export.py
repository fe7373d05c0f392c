"""The model as a program of functional ATen calls, and what it gives, without a trace left on it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._python_dispatch import TorchDispatchMode

from linreg.capture.example import Arguments
from linreg.capture.fixed_values import Replayed, ValuesTaken, Written
from linreg.capture.place import Place, place_of_error
from linreg.capture.private import restored
from linreg.errors import LinregError
from linreg.operators.reasons import CONTROL, Reason
from linreg.operators.written_out import WRITTEN_OUT

TAKEN = "fake tensor in the exported program constant's list"
# What is in an exporter's message, and what it means.
SIGNS = {
    TAKEN: Reason(
        "it takes values out of what it computes with, by `.data` or the like, where the exporter cannot follow",
        "write .detach() instead, which is the same here",
    ),
    "in output, which is not a known type": Reason(
        "it returns its tensors in an object of a kind of its own", "return its scores"
    ),
    "__obj_flatten__": Reason(
        "it holds a compiled object, as a quantized layer does", "trace the model that it was made from"
    ),
    "no fake impl registered": Reason(
        "it calls an operator of your own that does not tell the shape of its result",
        "register a function that does, with its register_fake",
    ),
    "numpy": Reason(
        "it computes with numpy", "its forward must be written with operators of torch alone, without numpy"
    ),
}


def run(model: nn.Module, example: Arguments) -> Any:
    """The model's result on a copy of the example, with copies of its buffers: it may write to either.

    What it draws at random leaves the global generators where they were.
    """

    def once() -> Any:
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        return torch.func.functional_call(model, buffers, example.args, example.kwargs)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the model's own, which its user knows
            return _undrawn(once, example.first)
    except Exception as error:
        first = str(error).strip().partition("\n")[0].rstrip(".:")
        shapes = ", ".join(str(tuple(value.shape)) for value in example.values)
        why = f"the model fails on the example {shapes}: {type(error).__name__}: {first}"
        advice = "model.eval()(example) must run and return its scores"
        if _takes(model, example):
            advice = "it takes the example with a batch dimension more, example[None]"
        raise LinregError("\n".join([f"{why}: {advice}", *place_of_error(error, model).lines])) from error


def _takes(model: nn.Module, example: Arguments) -> bool:
    """Whether the model takes each of these with a batch dimension more."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    more = example.mapped(lambda value: value[None])
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.func.functional_call(model, buffers, more.args, more.kwargs)
        return True
    return False


class NotExported(LinregError):
    """torch.export cannot capture the model, of which that is the place; `telling` says that the line is known."""

    def __init__(self, error: Exception, place: Place) -> None:
        why = f"torch.export cannot capture this model: {not_exported(error)}"
        super().__init__("\n".join([why, *place.lines]))
        self.telling = bool(place.source)


def export(model: nn.Module, example: Arguments, open_batch: bool) -> ExportedProgram:
    """The model as a program of functional ATen calls, for any number of images or for that of the example.

    A choice by what is fixed stops the exporter as one by the data does: then it is run again with the answers. Raises
    NotExported.
    """
    try:
        return _export(model, example, open_batch)
    except Exception as error:
        first = error
    try:
        if "data-dependent" in str(first).lower():
            args, kwargs = example.args, example.kwargs
            with Written(*args, *kwargs.values()) as written:
                model(*args, **kwargs)
            if any(fixed for _, fixed, _ in written.reads):
                with Replayed(written.reads):
                    return _export(model, example, open_batch)
    except Exception as error:
        first = error
    raise NotExported(first, _place(first, model, example)) from first


def _place(error: Exception, model: nn.Module, example: Arguments) -> Place:
    """Where in the model an exporter's error arises; it finds what was taken as `.data` only when all is done."""
    if TAKEN in str(error):
        try:
            with ValuesTaken():
                model(*example.args, **example.kwargs)
        except Exception as taken:
            return place_of_error(taken, model)
    return place_of_error(error, model)


def _export(model: nn.Module, example: Arguments, open_batch: bool) -> ExportedProgram:
    shapes = example.shapes(model, Dim("batch")) if open_batch else None
    with silence(), restored(model):  # an export that fails leaves what it registered
        program = torch.export.export(model, example.args, example.kwargs, dynamic_shapes=shapes, strict=False)
        return program.run_decompositions(WRITTEN_OUT)


def _undrawn(once: Callable[[], Any], example: Tensor) -> Any:
    """What a run gives, the generators where they were: if they have moved, by this run or another thread's doing."""
    before = _states(example)
    result = once()
    if all(map(torch.equal, before, _states(example))):
        return result
    with _Drawing() as drawing:
        result = once()
    if drawing.has_drawn:
        torch.set_rng_state(before[0])
        if example.is_cuda:
            torch.cuda.set_rng_state(before[1], example.device)
    return result


def _states(example: Tensor) -> list[Tensor]:
    own = [torch.cuda.get_rng_state(example.device)] if example.is_cuda else []
    return [torch.get_rng_state(), *own]


class _Drawing(TorchDispatchMode):
    """What draws at random leaves the global generators where they were, and other threads' draws alone."""

    has_drawn = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs or {})
        self.has_drawn = True
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with torch.random.fork_rng(devices):
            return func(*args, **kwargs or {})


@contextmanager
def silence() -> Iterator[None]:
    """No warnings, logs or prints of the exporter: they are of its own matters, and an exception says what fails."""
    loggers = [logger for name, logger in logging.root.manager.loggerDict.items() if name.partition(".")[0] == "torch"]
    handlers = {h: h.level for logger in loggers if isinstance(logger, logging.Logger) for h in logger.handlers}
    try:
        for handler in handlers:
            handler.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler, level in handlers.items():
            handler.setLevel(level)


def not_exported(error: Exception) -> str:
    """Why torch.export failed, and what can be done."""
    name, first = type(error).__name__, str(error).strip().partition("\n")[0].rstrip(".:")
    if "data-dependent" in str(error).lower():
        return str(CONTROL)
    known = next((reason for sign, reason in SIGNS.items() if sign in str(error)), None)
    if known:
        return str(known)
    first = first.partition(". ")[0]  # what follows is advice to those who write exporters
    return str(Reason(f"{name}: {first}", "its forward must be written with operators of torch alone"))
