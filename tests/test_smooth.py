"""Smooth units in pieces: interpolants and their errors against the units themselves, and networks that hold them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from math import pi
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import vision  # noqa: F401  (makes torchvision importable)
from nets import Lambda, randomised
from splits import recurred
from torch import Tensor, nn
from torchvision import models

import dmbp
import linreg
import linreg.capture.translate
from dmbp.account import PARTS
from linreg import LinregError
from linreg.operators import Call, smooth
from linreg.operators.smooth import UNITS, Interpolant, Unit

aten = torch.ops.aten
EXACT = {"rtol": 1e-12, "atol": 1e-12}
Function = Callable[[Tensor], Tensor]
Line = tuple[float, float]

ZERO, IDENTITY = (0.0, 0.0), (1.0, 0.0)
FUNCTIONS: dict[str, tuple[Function, Line, Line]] = {
    # name: (function, the line that it tends to on the left, and on the right)
    "sigmoid": (torch.sigmoid, ZERO, (0, 1)),
    "sigmoid in place": (lambda z: (1 * z).sigmoid_(), ZERO, (0, 1)),
    "expit": (torch.special.expit, ZERO, (0, 1)),
    "tanh": (nn.Tanh(), (0, -1), (0, 1)),
    "erf": (torch.erf, (0, -1), (0, 1)),
    "special erf": (aten.special_erf, (0, -1), (0, 1)),
    "erfc": (torch.erfc, (0, 2), ZERO),
    "special erfc": (aten.special_erfc, (0, 2), ZERO),
    "atan": (torch.atan, (0, -pi / 2), (0, pi / 2)),
    "arctan": (torch.arctan, (0, -pi / 2), (0, pi / 2)),
    "silu": (nn.SiLU(), ZERO, IDENTITY),
    "silu in place": (lambda z: F.silu(1 * z, inplace=True), ZERO, IDENTITY),
    "gelu": (nn.GELU(), ZERO, IDENTITY),
    "gelu, tanh": (nn.GELU("tanh"), ZERO, IDENTITY),
    "mish": (nn.Mish(), ZERO, IDENTITY),
    "softplus": (nn.Softplus(), ZERO, IDENTITY),
    "softplus, steep": (nn.Softplus(beta=100.0), ZERO, IDENTITY),
    "softplus, flat": (nn.Softplus(beta=0.25), ZERO, IDENTITY),
    "softplus, downwards": (nn.Softplus(beta=-2.0), IDENTITY, ZERO),
    "softplus with a jump": (nn.Softplus(beta=2.0, threshold=5.0), ZERO, IDENTITY),
    "log sigmoid": (nn.LogSigmoid(), IDENTITY, ZERO),
    "elu": (nn.ELU(), (0, -1), IDENTITY),
    "elu with a kink": (nn.ELU(alpha=2.0), (0, -2), IDENTITY),
    "elu, falling": (nn.ELU(alpha=-0.5), (0, 0.5), IDENTITY),
    "elu, scaled": (lambda z: aten.elu(z, 0.5, 1.5, 0.25), (0, -0.75), (1.5, 0)),
    "selu": (nn.SELU(), (0, -1.0507009873554805 * 1.6732632423543772), (1.0507009873554805, 0)),
    "selu in place": (
        lambda z: F.selu(1 * z, inplace=True), (0, -1.0507009873554805 * 1.6732632423543772), (1.0507009873554805, 0),
    ),
    "celu": (nn.CELU(alpha=0.7), (0, -0.7), IDENTITY),
    "hardswish": (nn.Hardswish(), ZERO, IDENTITY),
}  # fmt: skip
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pwl(model: nn.Module, x: Tensor, pieces: int = 32, **options: Any) -> linreg.OperatorGraph:
    return linreg.trace(model, x, nonlinear="pwl", pieces=pieces, **options)


def module(function: Function) -> nn.Module:
    return function if isinstance(function, nn.Module) else Lambda(function)


@cache
def exported(name: str) -> Call:
    """The call that a function is to the exporter, as trace hands it to the rule."""
    calls: list[Call] = []

    def spy(call: Call, pieces: int) -> Any:
        calls.append(call)
        return smooth.interpolant(call, pieces)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linreg.capture.translate, "interpolant", spy)
        pwl(module(FUNCTIONS[name][0]), numbers(2, 3))
    (call,) = calls
    return call


@cache
def interpolant(name: str, pieces: int = 32) -> Interpolant:
    """What takes the place of a function in a graph of float64."""
    found, _ = smooth.interpolant(exported(name), pieces)
    assert isinstance(found, Interpolant)
    return found


def apply(function: Function | Interpolant, z: Tensor) -> Tensor:
    """At numbers."""
    with torch.no_grad():
        return function.freeze(z)(z) if isinstance(function, Interpolant) else function(z)


def samples(breaks: Sequence[float], count: int) -> Tensor:
    """Random numbers in [−50, 50], even ones where f bends, in the tails, and next to the breaks."""
    generator = np.random.default_rng(0)
    kinks = np.array(breaks)
    parts = [
        generator.uniform(-50, 50, count // 2), np.linspace(-10, 10, count // 2), np.linspace(-1e3, 1e3, count // 10),
        *(kinks + step for step in (0, 1e-9, -1e-9, 1e-4, -1e-4)), (kinks[1:] + kinks[:-1]) / 2,
    ]  # fmt: skip
    return torch.from_numpy(np.concatenate(parts))


# ---- one function ----


@every_function
@pytest.mark.parametrize(("pieces", "count"), [(3, 10**5), (4, 10**5), (7, 10**5), (32, 10**6), (300, 10**5)])
def test_error_is_a_bound_and_is_reached(name: str, pieces: int, count: int) -> None:
    function, _, _ = FUNCTIONS[name]
    found = interpolant(name, pieces)
    z = samples(found.breaks.tolist(), count)
    error = (apply(found, z) - apply(function, z)).abs()
    assert (error <= found.max_error + 1e-14 * (1 + z.abs())).all(), z[error.argmax()]
    if name != "softplus with a jump":
        assert error.max() >= 0.999 * found.max_error


@every_function
@pytest.mark.parametrize("pieces", [3, 4, 7, 32, 300])
def test_pieces_are_those_asked_for_and_meet(name: str, pieces: int) -> None:
    found = interpolant(name, pieces)
    assert len(found.slopes) == len(found.offsets) == len(found.breaks) + 1 == found.pieces == pieces
    assert (found.breaks.diff() > 0).all()
    left, right = (part * found.breaks + t for part, t in (
        (found.slopes[:-1], found.offsets[:-1]), (found.slopes[1:], found.offsets[1:])
    ))  # fmt: skip
    torch.testing.assert_close(left, right, rtol=0, atol=1e-13)
    assert found.kind == f"{found.unit} ({pieces} pieces)" and not found.jumps


@every_function
def test_beyond_the_knots_are_the_asymptotes(name: str) -> None:
    """The lines are those of the table above; within the knots φ is f at each."""
    function, left, right = FUNCTIONS[name]
    found = interpolant(name)
    lines = [(found.slopes[place].item(), found.offsets[place].item()) for place in (0, -1)]
    assert lines == [pytest.approx(left, abs=1e-15), pytest.approx(right, abs=1e-15)]
    inner = found.breaks[1:-1]
    far = torch.tensor([-1e3, 1e3], dtype=torch.float64)
    torch.testing.assert_close(apply(found, far), apply(function, far), rtol=0, atol=found.max_error + 1e-12)
    if name != "softplus with a jump":
        torch.testing.assert_close(
            apply(found, inner), apply(function, inner), rtol=0, atol=1e-8 if "plus" in name else 1e-14
        )


@pytest.mark.parametrize(
    ("name", "low", "high"), [("hardswish", -3, 3), ("elu with a kink", None, 0), ("selu", None, 0)]
)
def test_what_is_linear_costs_nothing(name: str, low: float | None, high: float) -> None:
    """Where f is its asymptote φ is f, and its kink there a break."""
    found = interpolant(name)
    z = torch.linspace(high, 40, 1000, dtype=torch.float64)
    torch.testing.assert_close(apply(found, z), apply(FUNCTIONS[name][0], z), rtol=1e-15, atol=0)
    assert found.breaks[-1] == high and (low is None or found.breaks[0] == low)


@every_function
def test_error_falls_with_the_square_of_the_pieces(name: str) -> None:
    if name == "softplus with a jump":
        floor = interpolant(name, 1000).max_error
        assert floor == pytest.approx(np.log1p(np.exp(-5)) / 2, rel=1e-2)
        return
    errors = np.array([interpolant(name, 2**k).max_error for k in range(2, 8)])
    assert (np.diff(errors) < 0).all()
    assert (np.log2(errors[2:-1] / errors[3:]) > 1.75).all() and (np.log2(errors[2:-1] / errors[3:]) < 2.3).all()
    assert errors[-1] < errors[0] / 500


@pytest.mark.parametrize("name", ["tanh", "silu", "gelu", "softplus", "hardswish"])
def test_error_is_spread_evenly(name: str) -> None:
    """Each chord has the error of the others, and the ends, which are off their asymptote, too."""
    found, function = interpolant(name, 64), FUNCTIONS[name][0]
    knots = found.breaks
    inside = knots[:-1, None] + torch.linspace(0.02, 0.98, 49, dtype=torch.float64) * knots.diff()[:, None]
    errors = (apply(found, inside) - apply(function, inside)).abs().amax(1)
    assert errors.median() > 0.8 * found.max_error
    assert (errors > 0.5 * found.max_error).double().mean() > 0.9


def units() -> dict[str, Unit]:
    arguments = {
        "gelu": [{"approximate": "none"}, {"approximate": "tanh"}], "celu": [{"alpha": 0.7}],
        "softplus": [{"beta": 3.0, "threshold": 20.0}], "elu": [{"alpha": 2.0, "scale": 1.0, "input_scale": 0.5}],
    }  # fmt: skip
    return {f"{name} {given}": UNITS[name](given) for name in UNITS for given in arguments.get(name, [{}])}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", units())
def test_curvature_keeps_its_sign_between_inflections(name: str) -> None:
    """On this the proof of the error rests."""
    unit = units()[name]
    low, high = (np.clip(end, -30, 30) for end in unit.ends)
    places = [low, *unit.inflections, high]
    for start, stop in pairwise(places):
        z = torch.linspace(start, stop, 20001, dtype=torch.float64)[1:-1].requires_grad_()
        (slope,) = torch.autograd.grad(unit.function(z).sum(), z, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), z)
        curvature = curvature[curvature.abs() > 1e-13]
        assert len(curvature) > 1000 and len(curvature.sign().unique()) == 1


def test_every_unit_is_tested() -> None:
    tested = {interpolant(name).unit for name in FUNCTIONS}
    assert tested >= set(UNITS) - {"special_expit", "special_erf", "special_erfc", "arctan"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_arithmetics_add_their_rounding(dtype: torch.dtype) -> None:
    z = torch.linspace(-12, 12, 24001, dtype=torch.float64).to(dtype)[None]
    for name in ("silu", "tanh", "softplus", "atan"):
        graph = pwl(module(FUNCTIONS[name][0]), z)
        (found,) = graph.approximation.interpolants.values()
        assert found.breaks.dtype == found.slopes.dtype == dtype
        assert found.max_error == interpolant(name).max_error
        error = (graph(z).double() - FUNCTIONS[name][0](z.double())).abs()
        assert (error <= found.max_error + 4 * torch.finfo(dtype).eps * (1 + z.double().abs())).all()


def test_many_pieces() -> None:
    found = interpolant("gelu", 20000)
    assert found.max_error < 1e-8
    z = samples(found.breaks.tolist()[::100], 10**5)
    assert ((apply(found, z) - F.gelu(z)).abs() <= found.max_error + 1e-14 * (1 + z.abs())).all()


# ---- networks ----


class Block(nn.Module):
    """A residual block with SiLU, depthwise, batch norm: EfficientNet's without squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.act = nn.SiLU(inplace=True)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.project = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.project(self.act(self.depthwise(self.act(self.norm(self.expand(h))))))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3))


def efficient() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), Block(4), Block(4), nn.Flatten(), nn.Linear(64, 3))


def mixed() -> nn.Module:
    units = nn.GELU(), nn.ReLU(), nn.MaxPool2d(2), nn.Hardswish(), nn.Flatten()
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), *units, nn.Linear(54, 6), nn.ELU(), nn.Linear(6, 4), nn.Tanhshrink(),
        nn.Linear(4, 3),
    )  # fmt: skip


NETWORKS = {"mlp": (mlp, (5,)), "efficient": (efficient, (3, 6, 6)), "mixed": (mixed, (3, 6, 6))}
every_network = pytest.mark.parametrize("name", NETWORKS)


def network(name: str, images: int = 3) -> tuple[nn.Module, Tensor]:
    build, shape = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return randomised(build().double()).eval(), numbers(images, *shape)


class Chords(nn.Module):
    """The literal interpolant: f at the breaks, its lines beyond them, joined by chords; plain autograd."""

    def __init__(self, breaks: Tensor, function: Function, left: Line, right: Line) -> None:
        super().__init__()
        values = apply(function, breaks)
        values[0], values[-1] = left[0] * breaks[0] + left[1], right[0] * breaks[-1] + right[1]
        # One more point on either line, so that all pieces are chords.
        self.points = torch.cat([breaks[:1] - 1e3, breaks, breaks[-1:] + 1e3])
        self.values = torch.cat([values[:1] - 1e3 * left[0], values, values[-1:] + 1e3 * right[0]])

    def forward(self, z: Tensor) -> Tensor:
        place = torch.searchsorted(self.points, z.detach()).clamp(1, len(self.points) - 1)
        (x0, x1), (y0, y1) = ((v[place - 1], v[place]) for v in (self.points, self.values))
        return y0 * ((x1 - z) / (x1 - x0)) + y1 * ((z - x0) / (x1 - x0))


KEYS = {
    nn.Tanh: "tanh",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.Hardswish: "hardswish",
    nn.ELU: "elu",
    nn.Tanhshrink: "tanh",
}


def literal(name: str, graph: linreg.OperatorGraph) -> nn.Module:
    """The network with its smooth layers replaced by hand, at the graph's knots."""
    model, _ = network(name)
    knots = {i.unit: i.breaks for i in graph.approximation.interpolants.values()}
    for parent in list(model.modules()):
        for child, layer in list(parent.named_children()):
            if type(layer) not in KEYS:
                continue
            key = KEYS[type(layer)]
            chords = Chords(knots[key], *FUNCTIONS[key])
            shrink = Lambda(lambda z, chords: z - chords(z), chords=chords)
            setattr(parent, child, shrink if isinstance(layer, nn.Tanhshrink) else chords)
    return model


@every_network
def test_graph_is_the_literal_approximated_network(name: str) -> None:
    """Output, gradient, completeness: all as exact as those of a piecewise-linear network."""
    model, x = network(name)
    graph = pwl(model, x, 16)
    twin = literal(name, graph)
    lin = graph.linearize(x)
    torch.testing.assert_close(lin.output, twin(x).detach(), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(graph.to_module()(x).detach(), lin.output, **EXACT)
    for target in range(3):
        at = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(twin(at)[:, target].sum(), at)
        torch.testing.assert_close(lin.weight(target), gradient, rtol=1e-10, atol=1e-11)
        assert lin.certificate(target).relative_error.max() <= 1e-12
        matrix = graph.linearize(x[:1]).matrix(graph.output)
        torch.testing.assert_close(torch.as_tensor(matrix)[target], gradient[0].flatten(), rtol=1e-10, atol=1e-11)


@every_network
def test_offsets_are_in_the_ledger(name: str) -> None:
    """y = c·x + Σ ledger, with the offsets of the interpolants among the terms."""
    model, x = network(name)
    lin = pwl(model, x).linearize(x)
    ledger = lin.ledger(1)
    at = [term for term in ledger.terms if term.node in lin.graph.approximation.interpolants]
    assert {term.kind for term in at} == {"offset"} and len(at) == len(lin.graph.approximation.interpolants)
    total = (lin.weight(1) * x).flatten(1).sum(1) + sum(term.total for term in ledger.terms)
    torch.testing.assert_close(total, lin.output[:, 1], rtol=0, atol=1e-12 * float(ledger.magnitude.max()))


@every_network
def test_distance_is_measured_and_falls(name: str) -> None:
    model, x = network(name)
    distances = []
    for pieces in (8, 32, 128):
        graph = pwl(model, x, pieces)
        report = graph.approximation
        expected = model(x).detach()
        torch.testing.assert_close(report.distance, (graph(x) - expected).abs().amax(1), rtol=1e-9, atol=1e-15)
        torch.testing.assert_close(report.scale, expected.abs().amax(1), **EXACT)
        torch.testing.assert_close(report.relative, report.distance / report.scale, **EXACT)
        other = numbers(*x.shape, seed=7)
        again = linreg.measure(graph, model, other)
        torch.testing.assert_close(
            again.distance, (graph(other) - model(other)).abs().amax(1).detach(), rtol=1e-9, atol=1e-15
        )
        assert again.interpolants is report.interpolants
        distances.append(again.distance.max())
    assert distances[1] < distances[0] / 6 and distances[2] < distances[1] / 6 and distances[2] > 0


def test_report() -> None:
    model, x = network("efficient", images=1)
    graph = pwl(model, x, pieces=12)
    report = graph.approximation
    assert list(report.interpolants) == ["1", "2.act", "2.act@1", "3.act", "3.act@1"]
    assert all(graph[node].operator is found and found.unit == "silu" for node, found in report.interpolants.items())
    assert report.distance.shape == (1,)
    lines = report.summary().splitlines()
    assert lines[0].split() == ["node", "unit", "pieces", "max", "error"] and len(lines) == 2 + 5 + 1
    error = report.interpolants["1"].max_error
    assert lines[2].split() == ["1", "silu", "12", f"{error:.2e}"]
    assert lines[-1].startswith(f"image 0: the output is {report.distance[0]:.3g} off at most, ")
    assert "5 interpolants" in repr(report)
    assert "silu (12 pieces)" in graph.summary()


def test_report_is_empty_without_smooth_units() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).double()
    for options in ({}, {"nonlinear": "pwl"}):
        graph = linreg.trace(model, numbers(2, 4), **options)  # type: ignore[arg-type]
        assert not graph.approximation.interpolants and not len(graph.approximation.distance)
        assert "no smooth unit was replaced" in graph.approximation.summary()
        assert repr(graph.approximation) == "Approximation(0 interpolants)"


@pytest.mark.parametrize("images", [1, 4, 9])
def test_another_model_is_measured_too(images: int) -> None:
    """And its distance told, though no unit was replaced: at a few images."""
    first, second, x = nn.Linear(4, 3).double(), nn.Linear(4, 3).double(), numbers(images, 4)
    graph = linreg.trace(first, x)
    report = linreg.measure(graph, second, x)
    torch.testing.assert_close(report.distance, (first(x) - second(x)).detach().abs().amax(1), **EXACT)
    unit, *lines = report.summary().splitlines()
    assert unit == "no smooth unit was replaced" and len(lines) == min(images, 5)
    assert lines[0].startswith(f"image 0: the output is {report.distance[0]:.3g} off at most, ")
    if images > 4:
        assert f"{images} images in all, the median {report.relative.median():.1e}" in lines[-2]
        assert lines[-1].startswith(f"image {report.relative.argmax()}: ")


@pytest.mark.parametrize("shape", [(6, 2), (4, 3), (12,)])
def test_a_model_of_another_output_cannot_be_measured(shape: tuple[int, ...]) -> None:
    """Though its output may have as many numbers."""
    x = numbers(3, 4)
    graph = linreg.trace(nn.Linear(4, 4).double(), x)
    with pytest.raises(LinregError, match=rf"output has shape \(3, 4\), and the model's {re.escape(str(shape))}: "):
        linreg.measure(graph, Lambda(lambda x: x.reshape(shape)), x)


def test_a_choice_that_takes_up_an_interpolant() -> None:
    model, x = Lambda(lambda x: torch.where(x > 0, x, 2 * x.tanh())), numbers(2, 5)
    graph = pwl(model, x, pieces=20)
    (found,) = graph.approximation.interpolants.values()
    assert [node.is_gate for node in graph.nodes] == [True]
    z = torch.linspace(-6, 6, 1000, dtype=torch.float64).view(200, 5)
    torch.testing.assert_close(graph(z), torch.where(z > 0, z, 2 * apply(found, z)), **EXACT)
    assert 0 < graph.approximation.distance.max() <= 2 * found.max_error
    assert graph.linearize(z).certificate(torch.ones(5).double()).relative_error.max() <= 1e-12


def test_constants_stay_exact() -> None:
    """What a smooth unit makes of parameters alone is computed, not interpolated."""
    weight = nn.Parameter(numbers(3, 4, seed=5))
    model = Lambda(lambda x, weight: F.relu(F.linear(x, F.softplus(weight))), weight=weight)
    x = numbers(2, 4)
    graph = pwl(model, x, pieces=3)
    assert not graph.approximation.interpolants
    torch.testing.assert_close(graph(x), model(x).detach(), **EXACT)


def test_one_number_for_each_image() -> None:
    model, x = nn.Sequential(nn.Linear(4, 1), nn.GELU(), nn.Flatten(0)).double(), numbers(3, 4)
    report = pwl(model, x).approximation
    assert report.distance.shape == report.scale.shape == (3,)
    torch.testing.assert_close(report.scale, model(x).detach().abs(), **EXACT)


def test_fusing_and_names_are_as_ever() -> None:
    model, x = network("efficient")
    fused, apart = pwl(model, x), pwl(model, x, fuse=False)
    assert dict(fused.fused) == {"2.expand": "2.norm", "3.expand": "3.norm"}
    torch.testing.assert_close(fused(x), apart(x), **EXACT)
    relus, _ = network("efficient")
    for module in relus.modules():
        for child, layer in list(module.named_children()):
            if isinstance(layer, nn.SiLU):
                setattr(module, child, nn.ReLU(inplace=layer.inplace))
    assert [node.name for node in linreg.trace(relus, x).nodes] == [node.name for node in fused.nodes]


def test_any_batch_and_buffers_left_alone() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            x.sub_(0.5)
            return F.silu(self.layer(x))

    model, x = Counter().double(), numbers(3, 4)
    example = x.clone()
    graph = pwl(model, example, pieces=64)
    assert model.calls == 0 and torch.equal(example, x) and graph.batch is None
    linreg.measure(graph, model, example)
    assert model.calls == 0 and torch.equal(example, x)
    whole = graph(x)
    for image in range(3):
        torch.testing.assert_close(graph(x[image : image + 1]), whole[image : image + 1], **EXACT)


# ---- DMBP on them ----


@every_network
def test_explanations_split_exactly(name: str) -> None:
    model, x = network(name)
    graph = pwl(model, x)
    result = dmbp.explain(graph, x, 1, iterations=3, progress=False)
    split = result.split
    assert set(graph.approximation.interpolants) <= set(result.masks)
    lin = graph.linearize(x)
    scale, parts = lin.ledger(1).magnitude, recurred(lin, result.masks, 1)
    torch.testing.assert_close(split.y, graph(x)[:, 1], **EXACT)
    for part in PARTS:
        assert ((getattr(split, part) - getattr(parts, part)).abs() <= 1e-12 * scale).all()
        assert ((split.ledger(part).total - getattr(parts, part)).abs() <= 1e-12 * scale).all()
    assert ((parts.total - literal(name, graph)(x)[:, 1].detach()).abs() <= 1e-12 * scale).all()


def test_masks_at_interpolants_are_the_literal_ones() -> None:
    """P(σ) of the MLP layer by layer: each unit gives σ (s z + t), with s and t by the literal chords."""
    model, x = network("mlp")
    graph = pwl(model, x, 10)
    masks = {
        site: torch.rand(3, *graph.shape(site), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        for site in ("1", "3")
    }
    lin = graph.linearize(x)
    twin = literal("mlp", graph)

    def masked(sigmas: dict[str, Tensor]) -> Tensor:
        plain, h = x, x
        for name, layer in twin.named_children():
            if isinstance(layer, Chords):
                at = plain.detach().requires_grad_()
                value = layer(at)
                (slope,) = torch.autograd.grad(value.sum(), at)
                h = sigmas[name] * (slope * h + (value - slope * at).detach())
                plain = value.detach()
            else:
                plain, h = layer(plain), layer(h)
        return h.detach()[:, 2]

    split = dmbp.decompose(lin, masks, 2)
    untouched = masked({site: torch.zeros_like(mask) for site, mask in masks.items()})
    torch.testing.assert_close(split.positive, masked(masks) - untouched, rtol=1e-11, atol=1e-12)
    opposite = {site: 1 - mask for site, mask in masks.items()}
    torch.testing.assert_close(split.negative, masked(opposite) - untouched, rtol=1e-11, atol=1e-12)


# ---- refusals ----


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.layer(x.mean((2, 3))).sigmoid()[:, :, None, None]


REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "gating": (SqueezeExcite, (3, 4, 4), r"node 'mul', aten\.mul of .*: .*not piecewise linear"),
    "swish by hand": (lambda: Lambda(lambda x: x * torch.sigmoid(x)), (4,), r"node 'mul', aten\.mul"),
    "softsign": (nn.Softsign, (4,), r"aten\.div .*not piecewise linear"),
    "softmax": (lambda: nn.Sequential(nn.GELU(), nn.Softmax(1)), (4,), r"aten\.softmax .*normalises by its own data"),
    "layer norm": (lambda: nn.Sequential(nn.LayerNorm(4), nn.GELU()), (4,), r"aten\.layer_norm .*statistics"),
    "exponential": (lambda: Lambda(torch.exp), (4,), r"aten\.exp .*no interpolant: .*straight lines"),
    "square": (lambda: Lambda(torch.square), (4,), r"no interpolant"),
    "root": (lambda: Lambda(lambda x: x.abs().sqrt()), (4,), r"aten\.sqrt .*no interpolant"),
    "elu without a bend": (lambda: nn.ELU(alpha=0.0), (4,), r"aten\.elu .*alpha 0, .*no curve with two asymptotes"),
    "celu that grows": (lambda: nn.CELU(alpha=-1.0), (4,), r"aten\.celu .*no curve with two asymptotes"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    build, shape, message = REFUSED[case]
    with pytest.raises(LinregError, match=message):
        pwl(build().double(), numbers(2, *shape))


@pytest.mark.parametrize("layer", [nn.Sigmoid(), nn.SiLU(), nn.Hardswish(), nn.LogSigmoid()])
def test_smooth_units_are_refused_unless_asked_for(layer: nn.Module) -> None:
    with pytest.raises(LinregError, match=r'it is smooth, not piecewise linear.*nonlinear="pwl"'):
        linreg.trace(layer, numbers(2, 4))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet_b0", r"node 'features\.1\.0\.block\.1\.mul', aten\.mul"),
        ("convnext_tiny", r"aten\.layer_norm .*statistics"),
    ],
)
def test_networks_of_torchvision_that_stay_refused(name: str, message: str) -> None:
    with torch.random.fork_rng(devices=[]):
        model = models.get_model(name, weights=None)
    with pytest.raises(LinregError, match=message):
        pwl(model, numbers(1, 3, 64, 64).float())


@pytest.mark.parametrize("pieces", [2, 0, -1, 8.0, "8", True, None])
def test_pieces_must_be_a_number_of_at_least_three(pieces: Any) -> None:
    with pytest.raises(LinregError, match=r"pieces must be a whole number, at least 3 .*not "):
        pwl(nn.Tanh(), numbers(2, 4), pieces=pieces)


def test_pieces_are_of_smooth_units_only() -> None:
    with pytest.raises(LinregError, match=r'pieces=64 is for smooth units, .* nonlinear="pwl": give both'):
        linreg.trace(nn.ReLU(), numbers(2, 4), pieces=64)


def test_nonlinear_must_be_known() -> None:
    with pytest.raises(LinregError, match=r"nonlinear must be None, to refuse smooth units, or \"pwl\", not 'spline'"):
        linreg.trace(nn.Tanh(), numbers(2, 4), nonlinear="spline")


# ---- what trace would find out ----


def broken(found: Interpolant, **changes: Any) -> Interpolant:
    fields = {name: getattr(found, name) for name in ("breaks", "slopes", "offsets", "kind", "unit", "max_error")}
    return Interpolant(**fields | changes)


def test_an_interpolant_that_misses_its_error_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpolant runs beside the call that it stands for, at the values that arrive there."""

    def wrong(call: Call, pieces: int) -> Any:
        built, inputs = smooth.interpolant(call, pieces)
        return broken(built, offsets=built.offsets + 2 * built.max_error), inputs  # type: ignore[arg-type, attr-defined]

    monkeypatch.setattr(linreg.capture.translate, "interpolant", wrong)
    with pytest.raises(LinregError, match="interpolant of tanh misses its error"):
        pwl(*network("mlp"))


def test_a_wrong_rule_beside_interpolants_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from linreg.operators import RULES
    from linreg.operators.gates import LeakyReLU

    monkeypatch.setitem(RULES, "relu", lambda call: (LeakyReLU(0.5), (call.one_data("self"),)))
    with pytest.raises(LinregError, match=r"graph differs from the model, first at node '2' \(leaky relu\)"):
        pwl(*network("mixed"))


@pytest.mark.parametrize("function", [lambda x: x.tanh() / x.shape[0], lambda x: x.tanh() if len(x) > 1 else -x.tanh()])
def test_what_depends_on_the_number_of_images_is_refused(function: Function) -> None:
    try:
        graph = pwl(Lambda(function), numbers(3, 4))
    except LinregError as error:
        assert "number of" in str(error)
    else:
        assert graph.batch == 3


def test_mixing_images_is_refused() -> None:
    with pytest.raises(LinregError, match="batch"):
        pwl(Lambda(lambda x: x.tanh() - x.flip(0)), numbers(3, 4))
