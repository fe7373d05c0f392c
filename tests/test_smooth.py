"""Networks with smooth units in pieces: exact for the interpolants, and told how far these are from the model."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import vision  # noqa: F401  (makes torchvision importable)
from approx import EXACT, values
from curves import Chords, Function, apply, approximated, every_network, literal, network, pwl
from nets import Lambda
from splits import recurred
from torch import Tensor, nn
from torchvision import ops
from torchvision.models import convnext

import dmbp
import linreg
import linreg.capture.translate
from dmbp.account import PARTS
from linreg import LinregError
from linreg.operators import Call, smooth
from linreg.operators.smooth import Interpolant


@every_network
def test_graph_is_the_literal_approximated_network(name: str) -> None:
    """Output, gradient, completeness: all as exact as those of a piecewise-linear network."""
    _, x = network(name)
    graph = approximated(name, 16)
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
    _, x = network(name)
    lin = approximated(name).linearize(x)
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
        graph = approximated(name, pieces)
        report = graph.approximation
        expected = model(x).detach()
        torch.testing.assert_close(report.distance, (graph(x) - expected).abs().amax(1), rtol=1e-9, atol=1e-15)
        torch.testing.assert_close(report.scale, expected.abs().amax(1), **EXACT)
        torch.testing.assert_close(report.relative, report.distance / report.scale, **EXACT)
        other = values(*x.shape, seed=7)
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
        graph = linreg.trace(model, values(2, 4), **options)  # type: ignore[arg-type]
        assert not graph.approximation.interpolants and not len(graph.approximation.distance)
        assert "no smooth unit was replaced" in graph.approximation.summary()
        assert repr(graph.approximation) == "Approximation(0 interpolants)"


@pytest.mark.parametrize("images", [1, 4, 9])
def test_another_model_is_measured_too(images: int) -> None:
    """And its distance told, though no unit was replaced: at a few images."""
    first, second, x = nn.Linear(4, 3).double(), nn.Linear(4, 3).double(), values(images, 4)
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
    x = values(3, 4)
    graph = linreg.trace(nn.Linear(4, 4).double(), x)
    with pytest.raises(LinregError, match=rf"output has shape \(3, 4\), and the model's {re.escape(str(shape))}: "):
        linreg.measure(graph, Lambda(lambda x: x.reshape(shape)), x)


def test_a_choice_that_takes_up_an_interpolant() -> None:
    model, x = Lambda(lambda x: torch.where(x > 0, x, 2 * x.tanh())), values(2, 5)
    graph = pwl(model, x, pieces=20)
    (found,) = graph.approximation.interpolants.values()
    assert [node.is_gate for node in graph.nodes] == [True]
    z = torch.linspace(-6, 6, 1000, dtype=torch.float64).view(200, 5)
    torch.testing.assert_close(graph(z), torch.where(z > 0, z, 2 * apply(found, z)), **EXACT)
    assert 0 < graph.approximation.distance.max() <= 2 * found.max_error
    assert graph.linearize(z).certificate(torch.ones(5).double()).relative_error.max() <= 1e-12


def test_constants_stay_exact() -> None:
    """What a smooth unit makes of parameters alone is computed, not interpolated."""
    weight = nn.Parameter(values(3, 4, seed=5))
    model = Lambda(lambda x, weight: F.relu(F.linear(x, F.softplus(weight))), weight=weight)
    x = values(2, 4)
    graph = pwl(model, x, pieces=3)
    assert not graph.approximation.interpolants
    torch.testing.assert_close(graph(x), model(x).detach(), **EXACT)


def test_one_number_for_each_image() -> None:
    model, x = nn.Sequential(nn.Linear(4, 1), nn.GELU(), nn.Flatten(0)).double(), values(3, 4)
    report = pwl(model, x).approximation
    assert report.distance.shape == report.scale.shape == (3,)
    torch.testing.assert_close(report.scale, model(x).detach().abs(), **EXACT)


def test_fusing_and_names_are_as_ever() -> None:
    model, x = network("efficient")
    fused, apart = approximated("efficient"), pwl(model, x, fuse=False)
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

    model, x = Counter().double(), values(3, 4)
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
    _, x = network(name)
    graph = approximated(name)
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


REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "EfficientNet's gating": (
        partial(ops.SqueezeExcitation, 4, 2), (4, 5, 5), r"node 'mul', aten\.mul of .*: .*not piecewise linear"
    ),
    "ConvNeXt's block": (partial(convnext.CNBlock, 4, 0.1, 0.0), (4, 5, 5), r"aten\.layer_norm .*statistics"),
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
        pwl(build().double(), values(2, *shape))


@pytest.mark.parametrize("layer", [nn.Sigmoid(), nn.SiLU(), nn.Hardswish(), nn.LogSigmoid()])
def test_smooth_units_are_refused_unless_asked_for(layer: nn.Module) -> None:
    with pytest.raises(LinregError, match=r'it is smooth, not piecewise linear.*nonlinear="pwl"'):
        linreg.trace(layer, values(2, 4))


@pytest.mark.parametrize("pieces", [2, 0, -1, 8.0, "8", True, None])
def test_pieces_must_be_a_number_of_at_least_three(pieces: Any) -> None:
    with pytest.raises(LinregError, match=r"pieces must be a whole number, at least 3 .*not "):
        pwl(nn.Tanh(), values(2, 4), pieces=pieces)


def test_pieces_are_of_smooth_units_only() -> None:
    with pytest.raises(LinregError, match=r'pieces=64 is for smooth units, .* nonlinear="pwl": give both'):
        linreg.trace(nn.ReLU(), values(2, 4), pieces=64)


def test_nonlinear_must_be_known() -> None:
    with pytest.raises(LinregError, match=r"nonlinear must be None, to refuse smooth units, or \"pwl\", not 'spline'"):
        linreg.trace(nn.Tanh(), values(2, 4), nonlinear="spline")


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
        graph = pwl(Lambda(function), values(3, 4))
    except LinregError as error:
        assert "number of" in str(error)
    else:
        assert graph.batch == 3


def test_mixing_images_is_refused() -> None:
    with pytest.raises(LinregError, match="batch"):
        pwl(Lambda(lambda x: x.tanh() - x.flip(0)), values(3, 4))
