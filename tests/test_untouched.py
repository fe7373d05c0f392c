"""The model is left as it was, whether it is captured or refused, and whatever its forward writes to."""

from __future__ import annotations

import contextlib
from threading import Thread, get_ident

import pytest
import torch
import torch.nn.functional as F
from approx import EXACT, values
from fingerprint import assert_same, fingerprint
from nets import NETS, Lambda, seeded
from torch import Tensor, nn
from torch.nn.modules import module as registry
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

import linreg
from linreg import LinregError
from linreg.capture.private import private


def used(model: nn.Module, x: Tensor) -> nn.Module:
    """The model as it is in the middle of somebody's training: mixed modes, gradients, a frozen parameter, hooks."""
    model(x).sum().backward()
    for k, module in enumerate(model.modules()):
        module.training = k % 2 == 0
    for k, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(k % 3 != 0)
    first = next(module for module in model.modules() if not list(module.children()))
    first.register_forward_hook(lambda module, inputs, output: None)
    first.register_full_backward_hook(lambda module, inputs, outputs: None)
    return model


@pytest.mark.parametrize("name", ["chain_with_biases", "conv_bn", "residual_inner", "constants", "dropout"])
def test_model_is_left_as_it_was(name: str) -> None:
    model, x = NETS[name]()
    used(model, x)
    example = x.clone().requires_grad_()
    before, random = fingerprint(model), torch.get_rng_state()
    lin = linreg.trace(model, example).linearize(example)
    lin.ledger(0)
    assert_same(before, fingerprint(model))
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(example, x) and example.grad is None and example.requires_grad
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert not lin.output.requires_grad


def test_model_is_left_as_it_was_when_tracing_fails() -> None:
    x = values(3, 4)
    for last in (nn.Sigmoid(), Lambda(lambda h: h if h.sum() > 0 else -h), nn.Linear(5, 2)):
        model = seeded(lambda last=last: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(), last))
        used(model[:2], x)
        before = fingerprint(model)
        with pytest.raises(LinregError):
            linreg.trace(model, x)
        assert_same(before, fingerprint(model))
        assert torch.is_grad_enabled()


def everybodys() -> dict[str, dict[int, object]]:
    """The hooks on all modules, of each kind that torch.nn has."""
    return {name: dict(hooks) for name, hooks in vars(registry).items() if isinstance(hooks, dict) and "_hooks" in name}


def test_hooks_on_all_modules_see_real_values_once_and_stay() -> None:
    """They are everybody's: what they collect is no tensor of the exporter's, and they are there as before."""
    seen: list[Tensor] = []
    registered: list[str] = []
    handles = [
        register_module_forward_hook(lambda _, __, z: seen.append(z)),
        register_module_forward_pre_hook(lambda _, inputs: seen.extend(inputs)),
        register_module_full_backward_hook(lambda *_: None),
        register_module_buffer_registration_hook(lambda _, name, __: registered.append(name)),
        register_module_module_registration_hook(lambda _, name, __: registered.append(name)),
        register_module_parameter_registration_hook(lambda _, name, __: registered.append(name)),
    ]
    try:
        model, x = NETS["conv_bn"]()
        before = everybodys()
        registered.clear()
        graph = linreg.trace(model, x)
        assert len(seen) == 2 * len(list(model.modules())) and registered == []
        assert all(type(value) is Tensor and value.dtype == torch.float64 for value in seen)
        assert before == everybodys()
        seen.clear()
        model(x)
        assert len(seen) == 2 * len(list(model.modules()))
    finally:
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(graph(x), model(x).detach(), **EXACT)


def test_a_hook_on_all_modules_that_changes_values_is_captured_as_one_of_the_models_own() -> None:
    model, x = NETS["chain"]()
    handle = register_module_forward_hook(lambda module, _, z: 2 * z if isinstance(module, nn.Linear) else None)
    try:
        graph, expected = linreg.trace(model, x), model(x).detach()
    finally:
        handle.remove()
    torch.testing.assert_close(graph(x), expected, **EXACT)
    assert not torch.allclose(graph(x), model(x))


def test_other_threads_keep_their_hooks_and_one_taken_off_meanwhile_stays_off() -> None:
    model, x = NETS["chain"]()
    heard: list[int] = []
    handle = register_module_forward_hook(lambda *_: heard.append(get_ident()))
    other = register_module_forward_hook(lambda *_: None)
    with private(model):
        model(x)
        assert heard == []  # this thread captures
        worker = Thread(target=model, args=(x,))
        worker.start()
        worker.join()
        assert set(heard) == {worker.ident}
        other.remove()
    assert len(registry._global_forward_hooks) == 1
    handle.remove()
    assert not registry._global_forward_hooks


def test_graph_does_not_follow_the_model() -> None:
    """The graph holds copies: training the model further does not reach it."""
    model, x = NETS["conv_bn"]()
    graph = linreg.trace(model, x)
    before = graph(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
        for buffer in model.buffers():
            buffer += 1
    assert torch.equal(graph(x), before)
    assert not torch.equal(model(x), before)


def test_capture_is_in_eval_mode() -> None:
    model, x = NETS["dropout"]()
    expected = model(x).detach()
    torch.testing.assert_close(linreg.trace(model.train(), x)(x), expected, **EXACT)
    model, x = NETS["conv_bn"]()
    expected = model(x).detach()
    torch.testing.assert_close(linreg.trace(model.train(), x)(x), expected, **EXACT)


def test_forward_hooks_are_part_of_the_network() -> None:
    model, x = NETS["chain_with_biases"]()
    plain = model(x).detach()
    model[2].register_forward_hook(lambda module, inputs, output: output * 2)  # type: ignore[index]
    hooked = model(x).detach()
    assert not torch.allclose(plain, hooked)
    torch.testing.assert_close(linreg.trace(model, x)(x), hooked, **EXACT)


@pytest.mark.parametrize("first", [nn.ReLU(inplace=True), Lambda(lambda x: x.sub_(0.5))])
def test_model_that_writes_to_its_input(first: nn.Module) -> None:
    model = seeded(lambda: nn.Sequential(first, nn.Linear(4, 3)))
    x = values(3, 4)
    expected = model(x.clone()).detach()
    example = x.clone()
    graph = linreg.trace(model, example)
    assert torch.equal(example, x)
    torch.testing.assert_close(graph(x), expected, **EXACT)


class Counter(nn.Module):
    """Counts its calls, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return F.relu(self.layer(x))


def test_model_that_writes_to_its_buffers() -> None:
    model, x = seeded(Counter), values(3, 4)
    before = fingerprint(model)
    graph = linreg.trace(model, x)
    assert_same(before, fingerprint(model))
    torch.testing.assert_close(graph(x), model(x).detach(), **EXACT)


class Keeper(nn.Module):
    """Keeps its last activations, as many models do for their owners to look at."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.last = last
        self.activations: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.activations = self.layer(x)
        return self.last(self.activations)


@pytest.mark.parametrize("last", [nn.ReLU(), nn.Sigmoid(), Lambda(lambda h: h if h.sum() > 0 else -h)])
def test_model_that_keeps_activations_keeps_real_ones(last: nn.Module) -> None:
    """Whether tracing succeeds or fails, the exporter's stand-ins do not stay behind in the model."""
    model, x = seeded(lambda: Keeper(last)), values(3, 4)
    model(x)
    with contextlib.suppress(LinregError):
        linreg.trace(model, x)
    assert type(model.activations) is Tensor
    assert torch.equal(model.activations, model.layer(x))  # type: ignore[operator]
