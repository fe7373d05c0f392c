"""The graph as an `nn.Module`: equal to the model, one layer for each operator, as ordinary as any other module."""

from __future__ import annotations

import copy
import io
import pickle
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from approx import EXACT, assert_equal
from cases import every_case
from cases import traced as traced_case
from nets import NETS, Lambda, every_net, traced
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import linreg
from linreg.module import Function, Network

# ---- equal to the model ----


@every_net
def test_equals_the_model(name: str) -> None:
    """Output and gradient, on a batch and on one input."""
    t = traced(name)
    network = t.graph.to_module()
    assert_equal(network, t.model, t.x)
    assert_equal(network, t.model, 0.5 - t.x[1:2])


@every_case
def test_every_operator(case: str) -> None:
    t = traced_case(case)
    assert_equal(t.lin.graph.to_module(), t.module, t.x)


def test_batch_norm_unfused() -> None:
    t = traced("free_bn", fuse=False)
    network = t.graph.to_module()
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == 2
    assert_equal(network, t.model, t.x)


# ---- one layer for each operator ----


class ReLUs(TorchDispatchMode):
    """Counts the ReLUs that run."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)
        return func(*args, **(kwargs or {}))


@every_net
def test_each_operator_is_a_layer_called_once(name: str) -> None:
    t = traced(name)
    network = t.graph.to_module()
    calls: Counter[nn.Module] = Counter()
    for layer in network.modules():
        layer.register_forward_hook(lambda layer, *_: calls.update([layer]))
    with torch.no_grad():
        network(t.x)
        with ReLUs() as relus:
            t.model(t.x.clone())
    assert set(network.paths) == {node.name for node in t.graph.nodes}
    layers = {node: network.get_submodule(path) for node, path in network.paths.items()}
    assert calls == Counter([*layers.values(), network]) and max(calls.values()) == 1
    assert sum(isinstance(layer, nn.ReLU) for layer in calls) == relus.count
    assert not any(getattr(layer, "inplace", False) for layer in calls)


@pytest.mark.parametrize("name", ["conv_bn", "pools", "conv1d", "conv3d", "dropout"])
def test_layers_give_what_the_models_give(name: str) -> None:
    """Chains of layers: a node is named after the layer of the model whose output it holds."""
    t = traced(name)
    network = t.graph.to_module()
    values: dict[str, Tensor] = {}
    for node, path in network.paths.items():
        network.get_submodule(path).register_forward_hook(lambda _, __, z, node=node: values.update({node: z}))
    network(t.x)
    z, seen = t.x, set()
    for place, layer in t.model.named_children():
        z = layer(z)
        if place in values:
            torch.testing.assert_close(values[place], z, **EXACT)
            seen.add(place)
    assert seen == {node.name for node in t.graph.nodes}


def test_layers_of_torch_nn() -> None:
    """Where torch.nn has a layer, it is that layer."""
    for name, place, kind in [
        ("gates", "leaky", nn.LeakyReLU), ("gates", "prelu", nn.PReLU), ("gates", "clamp", nn.Hardtanh),
        ("mobile", "2", nn.ReLU6), ("pools", "2", nn.MaxPool2d), ("pools", "5", nn.AvgPool2d),
        ("pools", "9", nn.AdaptiveAvgPool2d), ("conv1d", "3", nn.MaxPool1d), ("conv1d", "6", nn.AvgPool1d),
        ("conv1d", "1", nn.Conv1d), ("conv3d", "5", nn.MaxPool3d), ("free_bn", "0", nn.BatchNorm2d),
        ("free_bn", "8", nn.Linear), ("constants", "relu@1", nn.ReLU), ("constants", "sub", Function),
    ]:  # fmt: skip
        network = net(name)
        assert type(network.get_submodule(network.paths[place])) is kind, (name, place)
    folded = net("conv_bn").get_submodule("1")
    assert type(folded) is nn.Conv2d and folded.bias is not None and repr(folded).startswith("Conv2d(3, 4, kernel")


def net(name: str) -> Network:
    return traced(name).graph.to_module()


class Crowded(nn.Module):
    """Names that cannot be kept: a convolution that pads by a call of its own, a module named like an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect")
        self.paths = nn.Sequential(nn.Flatten(), nn.Linear(50, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.paths(F.relu(self.conv(x)))


def test_names_that_cannot_be_kept() -> None:
    model, x = Crowded().double().eval(), torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    network = linreg.trace(model, x).to_module()
    names = {
        "conv.pad": "conv.pad",
        "conv": "conv.output",
        "relu": "relu",
        "paths.0": "paths_.0",
        "paths.1": "paths_.1",
    }
    assert dict(network.paths) == names
    assert_equal(network, model, x)


# ---- an ordinary module ----


def test_weights_are_copies() -> None:
    t = traced("constants")
    network, before, state = t.graph.to_module(), t.graph(t.x), torch.get_rng_state()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.fill_(7.0)
    assert torch.equal(t.graph(t.x), before) and not network.training
    t.graph.to_module()
    assert torch.equal(torch.get_rng_state(), state)


def test_state_dict_is_the_whole_network() -> None:
    """Constants that no layer of torch.nn has are in it: loaded into a network of other numbers, it is the first."""
    model, x = NETS["constants"]()
    other = NETS["constants"]()[0]
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.mul_(1.5)
    network, twin = (linreg.trace(m, x).to_module() for m in (model, other))
    assert not torch.allclose(network(x), twin(x))
    twin.load_state_dict(network.state_dict())
    assert torch.equal(network(x), twin(x))


@every_case
def test_pickles(case: str) -> None:
    """The graph, the linearization and the module, and every tensor moves with the module."""
    t = traced_case(case)
    network = t.lin.graph.to_module()
    for made, value in [(t.lin.graph, t.lin.output), (network, network(t.x))]:
        assert torch.equal(pickle.loads(pickle.dumps(made))(t.x), value)
    lin = pickle.loads(pickle.dumps(t.lin))
    g = torch.ones_like(lin.output)
    assert torch.equal(lin.adjoint(g), t.lin.adjoint(g))
    moved = copy.deepcopy(network).float()
    assert moved(t.x.float()).dtype == torch.float32 and network(t.x).dtype == torch.float64


def test_results_pickle() -> None:
    t = traced("residual_inner")
    ledger, certificate = pickle.loads(pickle.dumps((t.lin.ledger(1), t.lin.certificate(1))))
    assert torch.equal(ledger.weight, t.lin.weight(1))
    assert torch.equal(certificate.bound, t.lin.certificate(1).bound)


def test_saved_whole() -> None:
    t, file = traced("wiring"), io.BytesIO()
    torch.save(t.graph.to_module(), file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(t.x), t.graph(t.x))


@pytest.mark.parametrize("name", ["residual_inner", "gates", "wiring", "constants", "selections"])
def test_exports_and_traces(name: str) -> None:
    t = traced(name)
    network = t.graph.to_module()
    dynamic = torch.export.export(network, (t.x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(dynamic.module()(t.x[:2]), t.graph(t.x[:2]), **EXACT)
    again = linreg.trace(network, t.x)
    torch.testing.assert_close(again(t.x), t.graph(t.x), **EXACT)
    layers = {path for path in network.paths.values() if not isinstance(network.get_submodule(path), Function)}
    assert layers <= {node.name for node in again.nodes}
    assert sum(node.is_gate for node in again.nodes) == sum(node.is_gate for node in t.graph.nodes)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 4), r"must have shape \(N, 3, 6, 6\), not \(2, 4\)"),
        (torch.zeros(0, 3, 6, 6), r"must have shape \(N, 3, 6, 6\), not \(0, 3, 6, 6\)"),
        (None, "must be a torch.Tensor, not NoneType"),
    ],
)
def test_refuses_another_shape(x: Any, message: str) -> None:
    with pytest.raises(linreg.LinregError, match=message):
        net("constants")(x)


def test_refuses_another_batch() -> None:
    model, x = Lambda(lambda x: (x.view(2, 2, 3) * 2).view(2, -1)), torch.randn(2, 6)
    graph = linreg.trace(model, x)
    assert graph.batch == 2
    with pytest.raises(linreg.LinregError, match="fixes its batch size, and was traced with 2 images, not 3"):
        graph.to_module()(torch.zeros(3, 6))
