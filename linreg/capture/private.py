"""The model to oneself: a copy of it, one thread at a time, so that nothing of capture reaches the user's own."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock, get_ident
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registry
from torch.utils import _pytree as pytree

from linreg.surroundings import plain

LOCK = RLock()  # torch.export changes what all threads share: loggers, stderr, and the module that it is given
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
BACKWARD = ("_backward_hooks", "_backward_pre_hooks")
# Of hooks on all modules that there are: those on calls, and those on what is registered, as the exporter does too.
ON_CALLS = ("_global_forward_hooks", "_global_forward_pre_hooks")
ON_REGISTERING = tuple(f"_global_{what}_registration_hooks" for what in ("module", "parameter", "buffer"))
Hook = Callable[..., Any]


@contextmanager
def private(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of the model in eval mode, without gradients, autocast or other threads.

    A model that cannot be copied is used itself, and put back as it was: its modes, and what its modules hold.
    """
    with LOCK, plain(), torch.no_grad(), _global_hooks_aside():
        copied = _copy(model)
        if copied is None:
            with restored(model):
                yield model.eval()
            return
        for module in copied.modules():
            module.training = False
        yield copied


def plain_model(model: nn.Module) -> nn.Module:
    """The model within what torch.compile made of it."""
    frames = sys.modules.get("torch._dynamo.eval_frame")
    while frames is not None and isinstance(model, frames.OptimizedModule):
        model = model._orig_mod
    return model


def _copy(model: nn.Module) -> nn.Module | None:
    """A deep copy, or None where there cannot be one.

    Hooks are not copied but for methods of the model's own modules: they may belong to a trainer with all its data.
    What autograd holds on to is copied without its history.
    """
    memo: dict[int, Any] = {}
    own = {id(module) for module in model.modules()}
    for module in model.modules():
        for hook in (hook for name in (*HOOKS, *BACKWARD) for hook in getattr(module, name).values()):
            if not (isinstance(hook, MethodType) and id(hook.__self__) in own):
                memo[id(hook)] = hook
        for leaf in pytree.tree_leaves([value for name, value in vars(module).items() if name not in HOOKS]):
            if isinstance(leaf, Tensor) and leaf.grad_fn is not None:
                memo[id(leaf)] = leaf.detach().clone()
    try:
        copied = copy.deepcopy(model, memo)
    except Exception:
        return None
    for module in copied.modules():
        for name in BACKWARD:
            getattr(module, name).clear()
        module._compiled_call_impl = None
        for name, child in module._modules.items():
            module._modules[name] = None if child is None else plain_model(child)
        for parameter in module.parameters(recurse=False):
            parameter.grad = None
    return copied


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Then each module with the attributes, parameters, buffers, children and hooks that it had."""
    before = [(module, {name: _shallow(value) for name, value in vars(module).items()}) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


def _shallow(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, dict | list | set) else value


@contextmanager
def _global_hooks_aside() -> Iterator[None]:
    """Inside, the user's hooks on all modules hear of other threads' calls as ever, and of this one's as `_Aside` says.

    They are everybody's, and so they stay where they are; one that is taken off meanwhile stays off.
    """
    placed: list[tuple[dict[int, Hook], int, _Aside]] = []
    for hooks in (getattr(registry, name) for name in (*ON_CALLS, *ON_REGISTERING)):
        for key, hook in list(hooks.items()):
            hooks[key] = aside = _Aside(hook)
            placed.append((hooks, key, aside))
    try:
        yield
    finally:
        for hooks, key, aside in placed:
            own = aside.watched.hook
            if hooks.get(key) is aside:
                hooks[key] = own


@contextmanager
def watched_hooks(model: nn.Module) -> Iterator[None]:
    """The model's forward is run within; thereafter it is without those of its hooks that changed nothing.

    So what a user's hook collects are real values: only a hook that gives a value, or writes to one, is captured.
    """
    everywhere = [hook for name in ON_CALLS for hook in getattr(registry, name).values() if isinstance(hook, _Aside)]
    for aside in everywhere:
        aside.open = True
    watched: list[tuple[dict[int, Hook], int, _Watched]] = []
    for module in model.modules():
        for hooks in (getattr(module, name) for name in HOOKS):
            for key, hook in hooks.items():
                hooks[key] = watch = _Watched(hook)
                watched.append((hooks, key, watch))
    try:
        yield
    finally:
        for hooks, key, watch in watched:
            hooks[key] = watch.hook
        for aside in everywhere:
            aside.open = False
    for hooks, key, watch in watched:
        if not watch.acts:
            del hooks[key]


class _Watched:
    """A hook, and whether it gave a value or wrote to one."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook
        self.acts = False

    def __call__(self, *arguments: Any) -> Any:
        tensors = [leaf for leaf in pytree.tree_leaves(arguments[1:]) if isinstance(leaf, Tensor)]
        versions = [tensor._version for tensor in tensors]
        result = self.hook(*arguments)
        written = versions != [tensor._version for tensor in tensors]
        self.acts = self.acts or written or result is not None
        return result


class _Aside:
    """A hook on all modules, of which the thread that captures a model calls only what belongs to the model.

    While it is `open`, it is called and watched; thereafter if it acted: then it is part of what the model computes.
    """

    def __init__(self, hook: Hook) -> None:
        self.watched, self.thread, self.open = _Watched(hook), get_ident(), False

    def __call__(self, *arguments: Any) -> Any:
        if get_ident() != self.thread:
            return self.watched.hook(*arguments)
        return self.watched(*arguments) if self.open or self.watched.acts else None
