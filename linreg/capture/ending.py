"""A network that ends at one of its modules: `output=` names the logits, where the model itself ends in a softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import nn

from linreg.capture.outputs import names_of
from linreg.errors import LinregError

Output = str | int | None


@contextmanager
def ended(model: nn.Module, run: Callable[[], Any], output: Output) -> Iterator[Output]:
    """Inside, the model gives what a module of it gives, where `output` names one; and which part of that is meant.

    What the model returns itself comes first: `run()` tells what that is. "head" is what model.head gives, "head@1"
    what it gives when it is called for the second time, "rnn.0" the first of what model.rnn gives. All else about the
    model is as it was, and afterwards it gives what it gave.
    """
    found = None if not isinstance(output, str) or output in names_of(run()) else _module(model, output)
    if found is None:
        yield output
        return
    path, number, part = found
    given: list[Any] = []

    def keep(module: nn.Module, inputs: Any, value: Any) -> Any:
        given.append(value)
        return value  # a hook that gives a value is captured with the model

    handle = model.get_submodule(path).register_forward_hook(keep)
    own = model.__dict__.get("forward")
    model.forward = _stopped(model.forward, given, path, number)
    try:
        yield part
    finally:
        handle.remove()
        if own is None:
            del model.forward
        else:
            model.forward = own


def _stopped(forward: Callable[..., Any], given: list[Any], path: str, number: int) -> Callable[..., Any]:
    """The forward, but for what it gives: what the module gave when it was called for that time, from 0."""

    @wraps(forward)
    def stopped(*inputs: Any, **named: Any) -> Any:
        given.clear()
        forward(*inputs, **named)
        if number >= len(given):
            times = f"called {len(given)} times" if given else "never called"
            raise LinregError(
                f"the module '{path}' is {times} by the model's forward: there is no output '{path}@{number}'"
            )
        value = given[number]
        given.clear()
        return value

    return stopped


def _module(model: nn.Module, output: str) -> tuple[str, int, str | None] | None:
    """The module that an output's name begins with, the longest one: its path, which call of it, and what is left."""
    known = {path for path, _ in model.named_modules() if path}
    parts = output.split(".")
    for count in range(len(parts), 0, -1):
        path, _, number = ".".join(parts[:count]).partition("@")
        if path in known and (number.isdecimal() or not number):
            return path, int(number or 0), ".".join(parts[count:]) or None
    return None
