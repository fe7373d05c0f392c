"""Threads that trace at once, a thread that runs the model meanwhile, and the model that stays as it was."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from approx import EXACT, values
from fingerprint import assert_same, fingerprint
from nets import NETS, Lambda, seeded
from torch import Tensor, nn

import linreg
from linreg import LinregError


def levels() -> list[int]:
    loggers = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    return [handler.level for logger in loggers for handler in logger.handlers]


def test_eight_threads_trace_at_once() -> None:
    """Different models and one and the same: what a single thread gets, and each model to the bit as it was."""
    nets = [NETS[name]() for name in ("chain_with_biases", "conv_bn", "dropout")]
    wanted = [linreg.trace(model, x).linearize(x).weight(0) for model, x in nets]
    before, error, handlers = [fingerprint(model) for model, _ in nets], sys.stderr, levels()
    strange: list[type] = []
    running = threading.Event()

    def work(number: int) -> Tensor:
        model, x = nets[number % 3]
        return linreg.trace(model, x).linearize(x).weight(0)

    def run_meanwhile() -> None:
        model, x = nets[0]
        while not running.is_set():
            strange.extend(type(leaf) for leaf in (model(x), *model.parameters()) if "Fake" in type(leaf).__name__)

    other = threading.Thread(target=run_meanwhile)
    other.start()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(16)))
    running.set()
    other.join()
    for number, weight in enumerate(found):
        torch.testing.assert_close(weight, wanted[number % 3], **EXACT)
    for (model, _), print_ in zip(nets, before, strict=True):
        assert_same(print_, fingerprint(model))
    assert not strange and sys.stderr is error and levels() == handlers


# ---- what a model and its hooks keep ----


class Cache(nn.Module):
    """Keeps what it computes in a buffer that was None, and in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 2)
        self.register_buffer("cache", None)
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.cache = self.first(x).relu()
        self.latest = self.cache
        self.kept.append(self.cache)
        return self.last(self.cache)


def test_no_new_key_and_no_stand_ins() -> None:
    model, seen = seeded(Cache), list[Tensor]()
    model.first.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    keys, names = list(model.state_dict()), set(vars(model))
    linreg.trace(model, values(3, 4))
    assert list(model.state_dict()) == keys and set(vars(model)) == names and not model.kept
    assert seen and all(type(each) is Tensor for each in seen)


@pytest.mark.parametrize("hook", [lambda m, i, o: 2 * o, lambda m, i, o: o.mul_(2), lambda m, i, o: None])
def test_a_hook_that_changes_values_is_captured(hook: Any) -> None:
    model, x = seeded(Cache), values(3, 4)
    model.first.register_forward_hook(hook)
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(linreg.trace(model, x)(x), expected, **EXACT)


class Uncopyable(Cache):
    """Holds what cannot be copied; it is used itself, and put back."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def test_a_model_that_cannot_be_copied_is_put_back() -> None:
    model = seeded(Uncopyable).train()
    model.first.eval()
    keys, names = list(model.state_dict()), set(vars(model))
    graph = linreg.trace(model, values(3, 4))
    assert list(model.state_dict()) == keys and set(vars(model)) == names
    assert model.training and not model.first.training and model.last.training
    torch.testing.assert_close(graph(values(3, 4)), model(values(3, 4)).detach(), **EXACT)


class Trainer:
    """Collects activations; it must not be copied with the model that its hook is on."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Trainer:
        raise AssertionError("copied")

    def hook(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.seen.append(output)


def test_the_owner_of_a_hook_is_not_copied() -> None:
    model, trainer = seeded(Cache), Trainer()
    model.first.register_forward_hook(trainer.hook)
    linreg.trace(model, values(3, 4))
    assert trainer.seen and {type(each) for each in trainer.seen} == {Tensor}


def test_weights_that_a_forward_writes_to() -> None:
    """As monotonic networks do: clamped in place, in eval mode too. Taken or refused, the user's stay."""

    class Monotonic(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.weight.data.clamp_(min=0)
            return super().forward(x).relu()

    model, x = seeded(lambda: Monotonic(4, 3)), values(2, 4)
    before = fingerprint(model)
    with contextlib.suppress(LinregError):
        linreg.trace(model, x)
    assert_same(before, fingerprint(model))
    assert model.weight.min() < 0


# ---- random numbers ----


RANDOM = {
    "refused": lambda x: x.relu() + torch.randn(4, dtype=x.dtype),
    "of an output that is not asked for": lambda x: (x.relu(), x + torch.rand_like(x)),
    "none": lambda x: x.relu(),
}


@pytest.mark.parametrize("case", RANDOM)
def test_the_global_generator_is_where_it_was(case: str) -> None:
    state = torch.get_rng_state()
    try:
        linreg.trace(Lambda(RANDOM[case]), values(2, 4), output=0 if "output" in case else None)  # type: ignore[arg-type]
        taken = True
    except LinregError:
        taken = False
    assert taken == (case != "refused")
    assert torch.equal(torch.get_rng_state(), state)


# ---- modes of the thread ----


def test_within_inference_mode_and_autocast() -> None:
    model, x = (
        seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.Softshrink(), nn.Linear(3, 2))).float(),
        values(2, 4).float(),
    )
    graph = linreg.trace(model, x)
    with torch.inference_mode():
        assert torch.equal(linreg.trace(model, x)(x), graph(x))
    with torch.autocast("cpu"):
        assert [node.name for node in linreg.trace(model, x).nodes] == [node.name for node in graph.nodes]
        assert torch.is_autocast_enabled("cpu")
