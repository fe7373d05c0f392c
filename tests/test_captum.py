"""What Captum makes of `to_module`, on networks of which it makes an error, or something else, as they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from approx import EXACT
from nets import Inner, traced
from torch import Tensor, nn

import linreg
from linreg.module import Function, Network

captum = pytest.importorskip("captum.attr")
lrp_rules = pytest.importorskip("captum.attr._utils.lrp_rules")
quiet = pytest.mark.filterwarnings(
    "ignore:Setting backward hooks on ReLU activations:UserWarning",
    r"ignore:Setting forward, backward hooks and attributes on non-linear\s+activations:UserWarning",
    "ignore:Input Tensor 0 did not already require gradients:UserWarning",
)


class Functional(nn.Module):
    """Every ReLU a function, that of the caller."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(64, 3)

    def forward(self, x: Tensor, relu: Callable[[Tensor], Tensor] = F.relu) -> Tensor:
        h = relu(self.first(x))
        return self.head(relu(self.second(h) + h).flatten(1))


class Biasless(nn.Module):
    """Blocks φ(W₂ φ(W₁ h) + skip(h)) without a bias, average pooling, a linear layer: f(t x) = t f(x), t > 0."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Inner(3, 4), Inner(4, 4), Inner(4, 6, stride=2))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 3, bias=False)
        for block in self.blocks:
            block.bn1 = block.bn2 = nn.Identity()
        self.blocks[0].downsample[1] = self.blocks[2].downsample[1] = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.blocks(x)).flatten(1))


def made(build: type[nn.Module]) -> tuple[nn.Module, Tensor, Network]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model, x = build().double().eval(), torch.randn(3, 3, 6, 6, dtype=torch.float64)
    return model, x, linreg.trace(model, x).to_module()


def gap(network: nn.Module, attribution: Tensor, x: Tensor, baseline: Tensor) -> float:
    """How far DeepLift is from its own promise, Σ attributions = f(x) − f(baseline)."""
    with torch.no_grad():
        change = network(x.clone())[:, 1] - network(baseline.clone())[:, 1]
    return ((attribution.flatten(1).sum(1) - change).abs() / change.abs()).max().item()


@quiet
def test_deep_lift_where_a_relu_is_used_twice() -> None:
    t = traced("residual_inner")
    network, baseline = t.graph.to_module(), 0.2 * t.x.flip(0)
    with pytest.raises(RuntimeError, match="used more than once"):
        captum.DeepLift(t.model).attribute(t.x.clone(), baseline, target=1)
    assert gap(network, captum.DeepLift(network).attribute(t.x, baseline, target=1), t.x, baseline) < 1e-12


@quiet
def test_deep_lift_where_relus_are_functions() -> None:
    """The model itself: no error, and the wrong sum. Here: the rescale rule, written out with autograd."""
    model, x, network = made(Functional)
    baseline = 0.2 * x.flip(0)
    assert gap(model, captum.DeepLift(model).attribute(x, baseline, target=1), x, baseline) > 0.01
    attribution = captum.DeepLift(network).attribute(x, baseline, target=1)
    assert gap(network, attribution, x, baseline) < 1e-12

    class Rescaled(torch.autograd.Function):
        """ReLU, with the slope of its chord between input and baseline, the two halves of the batch."""

        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            (a, b) = z.chunk(2)
            ctx.slope = ((F.relu(a) - F.relu(b)) / (a - b)).repeat(2, 1, 1, 1)
            return F.relu(z)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * ctx.slope

    both = torch.cat([x, baseline]).requires_grad_()
    (multiplier,) = torch.autograd.grad(model(both, Rescaled.apply)[: len(x), 1].sum(), both)
    torch.testing.assert_close(attribution, multiplier[: len(x)] * (x - baseline), **EXACT)


@quiet
def test_deep_lift_shap() -> None:
    t = traced("residual_inner")
    network, baselines = t.graph.to_module(), 0.2 * t.x.flip(0)
    mean = captum.DeepLiftShap(network).attribute(t.x, baselines, target=1)
    each = [captum.DeepLift(network).attribute(t.x, b.expand_as(t.x), target=1) for b in baselines]
    torch.testing.assert_close(mean, torch.stack(each).mean(0), **EXACT)


class Guided(torch.autograd.Function):
    """Springenberg et al. (2015): back through an open ReLU goes what is positive."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return F.relu(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.where((ctx.saved_tensors[0] > 0) & (grad > 0), grad, 0.0)


class Deconvolved(torch.autograd.Function):
    """Zeiler and Fergus (2014): back through a ReLU goes what is positive, be it open or closed."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return F.relu(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return F.relu(grad)


@quiet
@pytest.mark.parametrize(("method", "rule"), [("GuidedBackprop", Guided), ("Deconvolution", Deconvolved)])
def test_methods_that_change_the_backward_of_relu(method: str, rule: Any) -> None:
    """The model itself: the plain gradient, without a word. Here: the method, written out with autograd."""
    model, x, network = made(Functional)
    gradients = []
    for relu in (F.relu, rule.apply):
        leaf = x.clone().requires_grad_()
        gradients += torch.autograd.grad(model(leaf, relu)[:, 1].sum(), leaf)
    plain, expected = gradients
    attribute = getattr(captum, method)
    torch.testing.assert_close(attribute(model).attribute(x.clone(), target=1), plain, **EXACT)
    assert (expected - plain).abs().max() > 0.01 * plain.abs().max()
    torch.testing.assert_close(attribute(network).attribute(x.clone(), target=1), expected, **EXACT)


@quiet
def test_grad_cam_at_a_sum() -> None:
    """At what is no layer of the model: the output of the first block, before its last ReLU."""
    _, x, network = made(Biasless)
    layer = network.get_submodule(network.paths["blocks.0.add"])
    assert isinstance(layer, Function)
    h: list[Tensor] = []
    layer.register_forward_hook(lambda _, __, z: h.append(z))
    (grad,) = torch.autograd.grad(network(x)[:, 1].sum(), h)
    expected = (grad.mean((2, 3), keepdim=True) * h[0]).sum(1, keepdim=True).detach()
    torch.testing.assert_close(captum.LayerGradCam(network, layer).attribute(x, target=1), expected, **EXACT)
    relu = network.get_submodule(network.paths["blocks.1.relu@1"])
    guided = captum.GuidedGradCam(network, relu).attribute(x.clone(), target=1)
    cam = captum.LayerGradCam(network, relu).attribute(x, target=1, relu_attributions=True)
    backward = captum.GuidedBackprop(network).attribute(x.clone(), target=1)
    torch.testing.assert_close(guided, backward * F.interpolate(cam, size=x.shape[2:]), **EXACT)


def lrp(network: nn.Module, x: Tensor) -> Tensor:
    for layer in network.modules():
        if isinstance(layer, Function):
            layer.rule = lrp_rules.EpsilonRule()
    return captum.LRP(network).attribute(x.clone(), target=1).detach()


@quiet
def test_relevance_is_conserved_where_nothing_is_added() -> None:
    """Without biases, the ε-rule passes on all that it gets, but for ε = 1e-9; the model itself cannot be taken."""
    model, x, network = made(Biasless)
    for refused in (model, copy.deepcopy(network)):
        with pytest.raises(TypeError, match=r"(Identity|linreg\.module\.Function).* has no rule"):
            captum.LRP(refused).attribute(x.clone(), target=1)
    with torch.no_grad():
        torch.testing.assert_close(lrp(network, x).flatten(1).sum(1), model(x)[:, 1], rtol=1e-5, atol=0)


@quiet
@pytest.mark.parametrize("build", [Biasless, Functional])
def test_relevance_is_gradient_times_input(build: type[nn.Module]) -> None:
    """What the ε-rule comes to, for ε → 0, where each unit is a ReLU (Ancona et al., 2018), biases or none."""
    model, x, network = made(build)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    expected = slope * x
    torch.testing.assert_close(lrp(network, x), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@quiet
@pytest.mark.parametrize("smooth", [True, False])
def test_deep_lift_can_be_told_of_all_gates(smooth: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the plain gradient of units that it does not know, and misses f(x) − f(0); see `Gate`."""
    deep_lift = pytest.importorskip("captum.attr._core.deep_lift")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        units = (nn.Tanh(), nn.GELU()) if smooth else (nn.ReLU6(), nn.Hardtanh(-0.3, 0.4))
        model = nn.Sequential(nn.Linear(5, 16), units[0], nn.Linear(16, 16), units[1], nn.Linear(16, 3)).double()
        x = 3 * torch.randn(4, 5, dtype=torch.float64)
    network = linreg.trace(model, x, nonlinear="pwl" if smooth else None).to_module()
    with torch.no_grad():
        wanted = (network(x) - network(torch.zeros_like(x)))[:, 1]

    def gap() -> float:
        found = captum.DeepLift(network).attribute(x.clone(), target=1).sum(1)
        return (found.detach() - wanted).abs().max().item()

    assert gap() > 1e-3
    for kind in (linreg.module.Gate, nn.ReLU6, nn.Hardtanh, nn.PReLU):
        monkeypatch.setitem(deep_lift.SUPPORTED_NON_LINEAR, kind, deep_lift.nonlinear)
    assert gap() < 1e-9
