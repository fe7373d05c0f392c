"""Every rival equals an independent computation: autograd by hand, a literal twin, Captum where its hooks are right."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from approx import EXACT, assert_within
from nets import seeded_net, traced
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

import dmbp
from dmbp.evaluation import methods
from dmbp.evaluation.methods.fullgrad import terms
from dmbp.evaluation.methods.guided import last_layer

TARGET = [1, 0, 2]
quiet = pytest.mark.filterwarnings(
    "ignore:Setting backward hooks on ReLU activations:UserWarning",
    "ignore:Input Tensor 0 did not already require gradients:UserWarning",
)
Relu = Callable[[Tensor], Tensor]


class Functional(nn.Module):
    """Every ReLU a function, that of the caller; a residual sum; biases everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4 * 30, 3)

    def forward(self, x: Tensor, relu: Relu = F.relu) -> Tensor:
        h = relu(self.first(x))
        return self.head(relu(self.second(h) + h).flatten(1))


@cache  # so that each is traced once
def functional() -> tuple[nn.Module, Tensor]:
    return seeded_net(Functional, 3, 8, 7, images=3, seed=5)


@cache
def hookable() -> tuple[nn.Module, Tensor]:
    """A chain of distinct modules, which Captum's hooks can take."""
    build = lambda: nn.Sequential(  # noqa: E731
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(60, 3),
    )
    return seeded_net(build, 3, 8, 7, images=3, seed=5)


def slope(network: Callable[[Tensor], Tensor], x: Tensor, target: list[int] = TARGET) -> Tensor:
    """∇ of the scores, one picture after the other."""
    grads = []
    for picture, k in zip(x, target, strict=True):
        leaf = picture[None].clone().requires_grad_()
        grads += torch.autograd.grad(network(leaf)[0, k], leaf)
    return torch.cat(grads)


def test_nd_and_gradient() -> None:
    for name in ("residual_inner", "mobile", "constants"):
        t = traced(name)
        expected = slope(t.model, t.x)
        torch.testing.assert_close(methods.Gradient()(t.model, t.x, TARGET), expected, **EXACT)
        torch.testing.assert_close(methods.ND()(t.model, t.x, TARGET), expected * t.x, **EXACT)
        weight = t.lin.weight(torch.tensor(TARGET))
        torch.testing.assert_close(methods.Gradient()(t.model, t.x, TARGET), weight, **EXACT)


@pytest.mark.parametrize(("rule", "captums"), [("gausslegendre", "gausslegendre"), ("riemann", "riemann_right")])
def test_integrated_gradients(rule: str, captums: str) -> None:
    captum = pytest.importorskip("captum.attr")
    model, x = functional()
    found = methods.IntegratedGradients(steps=20, rule=rule, baseline=0.3, batch_size=7)(model, x, TARGET)
    reference = captum.IntegratedGradients(model).attribute(
        x, torch.full_like(x, 0.3), torch.tensor(TARGET), n_steps=20, method=captums
    )
    torch.testing.assert_close(found, reference, rtol=1e-5, atol=1e-7)  # Captum's steps are of float32
    places, weights = np.polynomial.legendre.leggauss(20)
    sums = {"gausslegendre": ((places + 1) / 2, weights / 2), "riemann": (np.arange(1, 21) / 20, np.full(20, 1 / 20))}
    mean = sum(w * slope(model, 0.3 + a * (x - 0.3)) for a, w in zip(*sums[rule], strict=True))
    torch.testing.assert_close(found, mean * (x - 0.3), **EXACT)
    whole = methods.IntegratedGradients(steps=2000, batch_size=500)(model, x, TARGET).flatten(1).sum(1)
    with torch.no_grad():
        change = (model(x) - model(torch.zeros_like(x))).gather(1, torch.tensor(TARGET)[:, None])[:, 0]
    torch.testing.assert_close(whole, change, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("times_input", [True, False])
def test_smooth_grad(times_input: bool) -> None:
    model, x = functional()
    method = methods.SmoothGrad(samples=5, spread=0.2, seed=3, times_input=times_input, batch_size=2)
    total = torch.zeros_like(x)
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        noise = torch.randn(x.shape[1:], generator=generator, dtype=torch.float64)
        ranges = torch.stack([picture.max() - picture.min() for picture in x]).view(-1, 1, 1, 1)
        total += slope(model, x + 0.2 * ranges * noise) / 5
    torch.testing.assert_close(method(model, x, TARGET), total * x if times_input else total, **EXACT)


def test_blur_ig() -> None:
    """PAIR's loop, with scipy's filter."""
    model, x = functional()
    found = methods.BlurIG(steps=12, max_sigma=4.0, grad_step=0.01, batch_size=5)(model, x, TARGET)

    def blurred(sigma: float) -> Tensor:
        if sigma == 0:
            return x
        return torch.from_numpy(gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="constant"))

    total = torch.zeros_like(x)
    sigmas = [4.0 * i / 12 for i in range(13)]
    for sigma, after in itertools.pairwise(sigmas):
        change = (blurred(sigma + 0.01) - blurred(sigma)) / 0.01
        total -= (after - sigma) * change * slope(model, blurred(sigma))
    torch.testing.assert_close(found, total, rtol=1e-9, atol=1e-9)
    assert found.abs().max() > 0.01


class Ruled(torch.autograd.Function):
    """A ReLU with another rule for the way back: rule(z, grad)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, rule: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(z)
        ctx.rule = rule
        return F.relu(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.rule(ctx.saved_tensors[0], grad), None


def guided_rule(z: Tensor, grad: Tensor) -> Tensor:
    return torch.where((z > 0) & (grad > 0), grad, 0.0)


def chord(z: Tensor, grad: Tensor) -> Tensor:
    """Of a batch of inputs and then their baselines: the same slope for both."""
    (a, b) = z.chunk(2)
    return grad * ((F.relu(a) - F.relu(b)) / (a - b)).repeat(2, 1, 1, 1)


def test_deep_lift() -> None:
    """The rescale rule by autograd, where Captum's own hooks see no ReLU; what it sums to, where gates are ReLU6."""
    deep_lift = pytest.importorskip("captum.attr._core.deep_lift")
    before = dict(deep_lift.SUPPORTED_NON_LINEAR)
    model, x = functional()
    both = torch.cat([x, torch.full_like(x, 0.1)]).requires_grad_()
    scores = model(both, lambda z: Ruled.apply(z, chord))[:3].gather(1, torch.tensor(TARGET)[:, None])
    (multiplier,) = torch.autograd.grad(scores.sum(), both)
    found = methods.DeepLift(baseline=0.1)(model, x, TARGET)
    torch.testing.assert_close(found, multiplier[:3] * (x - 0.1), **EXACT)
    t = traced("mobile")
    sums = methods.DeepLift()(t.model, t.x, TARGET).flatten(1).sum(1)
    with torch.no_grad():
        change = (t.model(t.x) - t.model(torch.zeros_like(t.x))).gather(1, torch.tensor(TARGET)[:, None])[:, 0]
    torch.testing.assert_close(sums, change, rtol=1e-9, atol=1e-9)
    assert before == deep_lift.SUPPORTED_NON_LINEAR


@quiet
@pytest.mark.parametrize("times_input", [True, False])
def test_guided_backprop(times_input: bool) -> None:
    captum = pytest.importorskip("captum.attr")
    method = methods.GuidedBackprop(times_input=times_input)
    for model, x in (functional(), hookable()):
        if isinstance(model, Functional):
            expected = slope(lambda x, model=model: model(x, lambda z: Ruled.apply(z, guided_rule)), x)
            assert (expected - slope(model, x)).abs().max() > 1e-3
        else:
            expected = captum.GuidedBackprop(model).attribute(x.clone(), torch.tensor(TARGET)).detach()
        torch.testing.assert_close(method(model, x, TARGET), expected * x if times_input else expected, **EXACT)


@quiet
def test_grad_cam_and_guided_grad_cam() -> None:
    captum = pytest.importorskip("captum.attr")
    model, x = hookable()
    target = torch.tensor(TARGET)
    for relu, layer in itertools.product((True, False), ("", "3", "1")):
        coarse = captum.LayerGradCam(model, model[int(layer or 4)]).attribute(x, target, relu_attributions=relu)
        expected = F.interpolate(coarse.detach(), size=x.shape[2:], mode="bilinear")
        found = methods.GradCAM(layer=layer, relu=relu)(model, x, TARGET)
        assert found.shape == (3, 1, 8, 7) and (found < 0).any() == (not relu)
        torch.testing.assert_close(found, expected, **EXACT)
    for enlarge, times_input in itertools.product(("nearest", "bilinear"), (True, False)):
        expected = captum.GuidedGradCam(model, model[4]).attribute(x.clone(), target, interpolate_mode=enlarge).detach()
        found = methods.GuidedGradCAM(enlarge=enlarge, times_input=times_input)(model, x, TARGET)
        torch.testing.assert_close(found, expected * x if times_input else expected, **EXACT)


def test_where_the_last_layer_ends() -> None:
    """Behind the block's sum and its ReLU, before pools; and what has no positions is refused."""
    ends = {
        "residual_inner": "4.relu@1",
        "pools": "7",
        "conv_bn": "5",
        "free_bn": "5",
        "mobile": "4.add",
        "conv1d": "5",
    }
    assert {name: last_layer(traced(name).graph) for name in ends} == ends
    t = traced("conv1d")
    assert methods.GradCAM()(t.model, t.x, TARGET).shape == (3, 1, 10)
    with pytest.raises(dmbp.DmbpError, match="needs a layer of channels and positions: '8'"):
        methods.GradCAM(layer="8")(t.model, t.x, TARGET)
    dense = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    with pytest.raises(dmbp.DmbpError, match="needs a convolution"):
        methods.GradCAM()(dense, torch.ones(1, 1, 2, 2), 0)


def test_rise_is_the_authors() -> None:
    """Their masks, by scikit-image, from the same draws; one picture and one mask at a time."""
    transform = pytest.importorskip("skimage.transform")
    model, x = functional()
    method = methods.RISE(masks=40, cells=3, p1=0.4, seed=2, batch_size=16)
    masks = torch.cat(list(method.draw((8, 7), x)))
    generator = torch.Generator().manual_seed(2)
    grids = torch.rand(40, 3, 3, generator=generator, dtype=torch.float64).numpy() < 0.4
    shifts = [
        torch.randint(3, (40,), generator=generator).tolist() for _ in range(2)
    ]  # cells of ⌈8/3⌉ and ⌈7/3⌉ pixels
    total = torch.zeros(3, 1, 8, 7, dtype=torch.float64)
    for mask, grid, top, left in zip(masks, grids, *shifts, strict=True):
        large = transform.resize(grid.astype(np.float64), (12, 12), order=1, mode="reflect", anti_aliasing=False)
        literal = torch.from_numpy(large[top : top + 8, left : left + 7])
        torch.testing.assert_close(mask, literal, **EXACT)
        with torch.no_grad():
            chances = model(x * literal).softmax(1).gather(1, torch.tensor(TARGET)[:, None])
        total[:, 0] += chances[:, :, None] * literal / 40 / 0.4
    torch.testing.assert_close(method(model, x, TARGET), total, **EXACT)
    assert not torch.equal(masks, torch.cat(list(methods.RISE(masks=40, cells=3, p1=0.4, seed=3).draw((8, 7), x))))


def test_fullgrad_is_the_authors() -> None:
    """Biases times the gradients at the outputs of convolutions, by autograd; their ψ, their enlarging."""
    model, x = functional()
    held: list[Tensor] = []

    def keep(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        held.append(out)
        return out

    hooks = [layer.register_forward_hook(keep) for layer in (model.first, model.second)]
    leaf = x.clone().requires_grad_()
    score = model(leaf).gather(1, torch.tensor(TARGET)[:, None]).sum()
    grads = torch.autograd.grad(score, [leaf, *held])
    for hook in hooks:
        hook.remove()
    biases = [layer.bias.detach().view(1, -1, 1, 1) for layer in (model.first, model.second)]
    parts = [grads[0] * x, grads[1] * biases[0], grads[2] * biases[1]]
    expected = torch.zeros(3, 1, 8, 7, dtype=torch.float64)
    for part, n in itertools.product(parts, range(3)):
        psi = part[n].abs() - part[n].abs().min()
        psi = psi / (psi.max() + 1e-6)
        expected[n] += F.interpolate(psi[None], (8, 7), mode="bilinear", align_corners=True)[0].sum(0)
    torch.testing.assert_close(methods.FullGrad()(model, x, TARGET), expected, **EXACT)


@pytest.mark.parametrize("name", ["residual_inner", "mobile", "free_bn", "constants", "pools", "shortcut"])
def test_fullgrads_terms_sum_to_the_score(name: str) -> None:
    """Where the authors' completeness breaks too: offsets of ReLU6, shifts of batch norm, other constants."""
    t = traced(name)
    parts = [term.flatten(1) for term in terms(t.lin, torch.tensor(TARGET))]
    sizes = sum(part.abs().sum(1) for part in parts)
    assert_within(sum(part.sum(1) for part in parts), t.lin.score(torch.tensor(TARGET)), sizes)
    signed = methods.FullGrad(psi="signed")(t.model, t.x, TARGET)
    complete = methods.DMBP(loss="none", map="complete")(t.model, t.x, TARGET)
    torch.testing.assert_close(signed, complete, **EXACT)
    rest = t.lin.ledger(torch.tensor(TARGET)).complete().rest
    assert_within(signed.flatten(1).sum(1) + rest, t.lin.score(torch.tensor(TARGET)), sizes)


class Weighed(torch.autograd.Function):
    """A ReLU that passes on 2 sigmoid(θ) times its gradient; twice differentiable in θ."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor) -> Tensor:
        ctx.save_for_backward(z, theta)
        return F.relu(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        z, theta = ctx.saved_tensors
        return 2 * theta.sigmoid() * (z > 0) * grad, None


def test_lpr() -> None:
    """What its docstring says, one picture at a time, by autograd's second derivatives."""
    model, x = functional()
    method = methods.LPR(iterations=4, lr=0.2, sharpness=3.0, size=0.7)
    found = method(model, x, TARGET)
    for n, k in enumerate(TARGET):
        picture = x[n : n + 1].clone().requires_grad_()
        thetas = [torch.zeros(1, 4, 6, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        optimiser = torch.optim.Adam(thetas, lr=0.2)

        def map_of(picture: Tensor, thetas: list[Tensor], k: int) -> Tensor:
            rules: Iterator[Tensor] = iter(thetas)
            score = model(picture, lambda z: Weighed.apply(z, next(rules)))[0, k]
            return torch.autograd.grad(score, picture, create_graph=True)[0] * picture

        for _ in range(4):
            a = map_of(picture, thetas, k).sum(1, keepdim=True)
            m = torch.sigmoid(3.0 * (a - a.mean()) / a.std(unbiased=False))
            y, masked = model(picture)[0, k], model(m * picture)[0, k]
            optimiser.zero_grad()
            loss = (y.detach() - masked).abs() / y.abs().detach() + 0.7 * m.mean()
            for theta, grad in zip(thetas, torch.autograd.grad(loss, thetas), strict=True):
                theta.grad = grad
            optimiser.step()
        torch.testing.assert_close(found[n], map_of(picture, thetas, k)[0].detach(), rtol=1e-9, atol=1e-9)
    plain = methods.ND()(model, x, TARGET)
    torch.testing.assert_close(methods.LPR(iterations=0)(model, x, TARGET), plain, **EXACT)
    assert (found - plain).abs().max() > 0.01 * plain.abs().max()


@pytest.mark.parametrize("which", ["paper", "complete"])
def test_dmbp(which: str) -> None:
    model, x = functional()
    found = methods.DMBP(iterations=6, loss="+-", sites="blocks", lr=0.1, map=which)(model, x, TARGET)
    result = dmbp.explain(model, x, TARGET, iterations=6, loss="+-", sites="blocks", lr=0.1, progress=False)
    expected = result.attribution if which == "paper" else result.complete[:, None]
    torch.testing.assert_close(found, expected, **EXACT)
