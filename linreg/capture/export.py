"""The model as a program of functional ATen calls, and what it gives, without a trace left on it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from linreg.capture.example import Arguments
from linreg.capture.place import Place, place_of_error
from linreg.errors import LinregError
from linreg.operators.reasons import CONTROL, Reason


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, and then each of its modules in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def run(model: nn.Module, example: Arguments) -> Any:
    """The model's result on a copy of the example, with copies of its buffers: it may write to either."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the model's own, which its user knows
            return torch.func.functional_call(model, buffers, example.args, example.kwargs)
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


def export(model: nn.Module, example: Arguments) -> tuple[Arguments, ExportedProgram, bool]:
    """The example in use, the model as a program of functional ATen calls, and whether it takes any batch size.

    A batch of one could be taken for a constant, or dropped by squeeze(), so there are at least two inputs in use,
    unless the model fixes its batch size.
    """
    two = example
    if len(example) == 1:
        two = example.mapped(lambda x: torch.cat([x, x / 2]), fixed=lambda value: torch.cat([value, value]))
    # For any number of images; with what is fixed the same for all of them, if it only looked as if it were not; then
    # for the number of the example.
    attempts = [(two, True), *[(two.sharing_all(), True)] * (example.shared != example.fixed), (example, False)]
    failures: list[tuple[Exception, Place]] = []
    for inputs, dynamic in attempts:
        shapes = inputs.shapes(model, Dim("batch")) if dynamic else None
        try:
            with silence():
                program = torch.export.export(model, inputs.args, inputs.kwargs, dynamic_shapes=shapes, strict=False)
                return inputs, program.run_decompositions({}), dynamic
        except Exception as error:
            failures.append((error, place_of_error(error, model)))
    # The batch size is no matter of the second; the first may still be the one that knows the line.
    telling, place = max(reversed(failures), key=lambda failure: bool(failure[1].source))
    why = f"torch.export cannot capture this model: {not_exported(telling)}"
    raise LinregError("\n".join([why, *place.lines])) from telling


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
    return str(Reason(f"{name}: {first}", "its forward must be written with operators of torch alone, without numpy"))
