"""Every operator: dot test, matrix = Jacobian, adjoint = vjp, value = the module's. One operator, one case."""

from __future__ import annotations

from collections.abc import Callable

import literal
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from approx import EXACT, values
from cases import ALIASES, CASES, every_case, together, traced
from cases.case import CHANNELS, INDEX, PLANE, writing
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from nets import Lambda
from torch import Tensor, nn
from triad import TRIAD

import linreg
from linreg.operators import RULES, Gate


@pytest.mark.parametrize("check", TRIAD)
@every_case
def test_triad(case: str, check: str) -> None:
    t = traced(case)
    TRIAD[check](t.module, t.x, t.lin)


@together
def test_every_rule_has_a_case() -> None:
    used = frozenset().union(*(traced(case).rules for case in CASES))
    assert set(RULES) - used == set(ALIASES), "add a case for each new rule, or name what it is an alias of"
    assert not set(ALIASES) & used
    assert all(RULES[name] is RULES[other] and other in used for name, other in ALIASES.items())


# ---- the operators against their definitions in loops ----


@settings(max_examples=12, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(
    dimensions=st.integers(1, 2), window=st.integers(1, 3), stride=st.integers(1, 3), padding=st.integers(0, 2),
    dilation=st.integers(1, 2), groups=st.sampled_from([1, 2]), transposed=st.booleans(),
)  # fmt: skip
def test_convolution_is_its_matrix(
    dimensions: int, window: int, stride: int, padding: int, dilation: int, groups: int, transposed: bool
) -> None:
    """`transposed` asks for the layer that is the transpose of the convolution."""
    shape = (2, 5, 6)[: dimensions + 1]
    weight = values(4, 2 // groups, *[window] * dimensions)
    matrix, out = literal.convolution(weight, shape, stride, padding, dilation, groups)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    kind = (F.conv1d, F.conv2d, F.conv_transpose1d, F.conv_transpose2d)[dimensions - 1 + 2 * transposed]
    if transposed:
        reach = [stride * (o - 1) - 2 * padding + dilation * (window - 1) + 1 for o in out[1:]]
        geometry["output_padding"] = [size - r for size, r in zip(shape[1:], reach, strict=True)]  # type: ignore[assignment]
        matrix, shape = matrix.T, out
    x = values(3, *shape, seed=1)
    lin = linreg.trace(Lambda(lambda x: kind(x, weight, **geometry)), x).linearize(x)
    torch.testing.assert_close(lin.output.flatten(1), x.flatten(1) @ matrix.T, **EXACT)
    g = values(*lin.output.shape, seed=2)
    torch.testing.assert_close(lin.adjoint(g).flatten(1), g.flatten(1) @ matrix, **EXACT)


@pytest.mark.parametrize(
    ("layer", "twin"),
    [
        (nn.ReLU(), {"kind": "relu"}),
        (nn.ReLU6(), {"kind": "clamp", "low": 0.0, "high": 6.0}),
        (nn.Hardtanh(-1.0, 2.0), {"kind": "clamp", "low": -1.0, "high": 2.0}),
        (Lambda(lambda z: z.clamp(-1.0, 2.0)), {"kind": "clamp", "low": -1.0, "high": 2.0}),
        (Lambda(lambda z: z.clamp(max=2.0)), {"kind": "clamp", "low": -1e9, "high": 2.0}),
        (Lambda(lambda z: z.clamp(min=-1.0)), {"kind": "clamp", "low": -1.0, "high": 1e9}),
        (Lambda(lambda z: z.clamp(min=0)), {"kind": "relu"}),
        (nn.LeakyReLU(0.1), {"kind": "leaky", "alpha": 0.1}),
        (nn.PReLU(1, -0.5).double(), {"kind": "leaky", "alpha": -0.5}),
        (Lambda(torch.abs), {"kind": "abs"}),
        (nn.Threshold(2.0, -5.0), {"kind": "threshold", "low": 2.0, "high": -5.0}),
        (nn.Hardshrink(0.5), {"kind": "hardshrink", "alpha": 0.5}),
        (nn.Softshrink(0.5), {"kind": "softshrink", "alpha": 0.5}),
        (nn.Hardsigmoid(), {"kind": "hardsigmoid"}),
        (nn.RReLU(0.25, 0.75), {"kind": "leaky", "alpha": 0.5}),
        (Lambda(lambda z: torch.maximum(z, torch.full_like(z, 2.0))), {"kind": "clamp", "low": 2.0, "high": 1e9}),
        (Lambda(lambda z: torch.fmin(torch.tensor(2.0).double(), z)), {"kind": "clamp", "low": -1e9, "high": 2.0}),
        (Lambda(lambda z: torch.maximum(0.1 * z, z)), {"kind": "leaky", "alpha": 0.1}),
        (Lambda(lambda z: torch.where(z > 0, z, 0.1 * z)), {"kind": "leaky", "alpha": 0.1}),
        (Lambda(lambda z: torch.where(z < 2, 0.0, z)), {"kind": "at least", "low": 2.0}),
        (
            Lambda(lambda z: torch.where((z > -1) & (z < 2), z, z.clamp(-1, 2))),
            {"kind": "clamp", "low": -1.0, "high": 2.0},
        ),
        (Lambda(lambda z: z.masked_fill(z <= 2, -5.0)), {"kind": "threshold", "low": 2.0, "high": -5.0}),
        (Lambda(lambda z: z * (z > 0)), {"kind": "relu"}),
        (Lambda(lambda z: (z >= -1).to(z.dtype) * z), {"kind": "at least", "low": -1.0}),
        (Lambda(lambda z: z * (z.abs() > 0.5)), {"kind": "hardshrink", "alpha": 0.5}),
    ],
)
def test_gate_is_slope_and_offset(layer: nn.Module, twin: dict) -> None:
    """At its kinks too, where the closed side wins: relu'(0) = 0, relu6'(0) = relu6'(6) = 0, leaky'(0) = α."""
    z = torch.tensor([[-7.0, -3.0, -1.0, -0.5, 0.0, 0.5, 2.0, 3.0, 6.0, 7.0]], dtype=torch.float64)
    slopes, offsets = zip(*(literal.gate(z=value, **twin) for value in z[0].tolist()), strict=True)
    lin = linreg.trace(layer, z).linearize(z)
    (name,) = lin.frozen
    affine = lin.frozen[name]
    assert lin.graph[name].is_gate
    assert affine.linear(torch.ones_like(z))[0].tolist() == list(slopes)
    assert sum((constant.value for constant in affine.constants), torch.zeros_like(z))[0].tolist() == list(offsets)


@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 0)])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_max_pool_takes_the_first_of_equals(dimensions: int, window: int, stride: int, padding: int) -> None:
    """The values are small whole numbers: most windows tie."""
    x = torch.randint(0, 2, (2, 2, 7, 5)[: dimensions + 2], generator=torch.Generator().manual_seed(0)).double()
    pool = (nn.MaxPool1d, nn.MaxPool2d)[dimensions - 1](window, stride, padding)
    lin = linreg.trace(pool, x).linearize(x)
    g = values(*lin.output.shape)
    for image, grad, adjoint in zip(x, g, lin.adjoint(g), strict=True):
        matrix = literal.max_pool(image, window, stride, padding)
        torch.testing.assert_close(adjoint.flatten(), matrix.T @ grad.flatten(), **EXACT)


@pytest.mark.parametrize(
    ("function", "kinks", "steepest"),
    [
        (lambda z: F.softshrink(z, 0.25), [-0.25, 0.25], 1),  # written with |z| and sign z, which have a kink at 0
        (lambda z: F.hardshrink(z, 0.25), [-0.25, 0.25], torch.inf),
        (lambda z: torch.where(z > 0, 3 * z, -z), [0], 3),
        (lambda z: torch.where(z > 0, z, z), [], 1),
        (lambda z: torch.where((z - 1).abs() > 2, z, 2 * z), [-1, 3], torch.inf),
        (lambda z: torch.maximum(z.abs() - 1, 0.5 * z), [-2 / 3, 2], 1),
        (lambda z: torch.maximum(F.relu(z), 2 - z), [1], 1),
        (lambda z: torch.where(z == 4, -1.0, z), [4], torch.inf),
        (lambda z: z * (z > 0) * (z < 5), [0, 5], torch.inf),
    ],
)
def test_kinks_of_a_gate_written_as_several_calls(
    function: Callable[[Tensor], Tensor], kinks: list[float], steepest: float
) -> None:
    graph = linreg.trace(Lambda(function), values(2, 3))
    gate = graph.nodes[-1].operator
    assert isinstance(gate, Gate) and len(graph.nodes) == 1
    found = [kink for kink in map(float, gate.kinks) if kink != torch.inf]
    assert found == pytest.approx(kinks, abs=1e-12) and float(gate.steepest) == steepest


@pytest.mark.parametrize(
    "function",
    [
        lambda z: z * (1 + (z - 0.3).sign()) / 2,
        lambda z: torch.where(z == 0.3, 5.0, z),
        lambda z: torch.where(z.abs() <= 0.3, z.clone(), torch.zeros_like(z)),
        lambda z: z * (z == 0.3),
    ],
)
def test_on_a_kink_the_comparison_decides(function: Callable[[Tensor], Tensor]) -> None:
    """On the number compared with, and on its neighbours in this arithmetic."""
    x = torch.tensor([[0.3, np.nextafter(0.3, 0), np.nextafter(0.3, 1), -0.3, 0.0]], dtype=torch.float64)
    graph = linreg.trace(Lambda(function), values(2, 5))
    (lin, z) = graph.linearize(x), x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(z).sum(), z)
    torch.testing.assert_close(graph(x), function(x), **EXACT)
    torch.testing.assert_close(lin.weight(torch.ones(5).double()), expected, **EXACT)
    torch.testing.assert_close(linreg.trace(Lambda(function), values(2, 5)).linearize(-x).output, function(-x), **EXACT)


RANKS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], Callable[[list[float]], list[int]]]] = {
    "max": (lambda x: x.max(2)[0], (1,), lambda row: [row.index(max(row))]),
    "min": (lambda x: x.min(1)[0], (0,), lambda row: [row.index(min(row))]),
    "amax": (lambda x: x.amax((3, 1)), (0, 2), lambda row: [row.index(max(row))]),
    "amin": (lambda x: x.amin((1, 2, 3), keepdim=True), (0, 1, 2), lambda row: [row.index(min(row))]),
    "topk": (lambda x: x.topk(3, 3)[0], (2,), lambda row: sorted(range(len(row)), key=lambda i: -row[i])[:3]),
    "sort": (lambda x: x.sort(3)[0], (2,), lambda row: sorted(range(len(row)), key=lambda i: row[i])),
    "kthvalue": (lambda x: x.kthvalue(3, 3)[0], (2,), lambda row: [sorted(range(len(row)), key=lambda i: row[i])[2]]),
    "median": (lambda x: x.median(2)[0], (1,), lambda row: [sorted(range(len(row)), key=lambda i: row[i])[1]]),
    "maximum": (lambda x: torch.maximum(x[:, 0], x[:, 1]), (0,), lambda row: [0 if row[0] >= row[1] else 1]),
    "minimum": (lambda x: torch.fmin(x[:, 0], x[:, 1]), (0,), lambda row: [0 if row[0] <= row[1] else 1]),
    "where": (lambda x: torch.where(x[:, 0] > x[:, 1], x[:, 0], x[:, 1]), (0,), lambda row: [int(row[0] <= row[1])]),
    "adaptive": (lambda x: F.adaptive_max_pool2d(x, 1), (1, 2), lambda row: [row.index(max(row))]),
}  # fmt: skip


@pytest.mark.parametrize("case", RANKS)
def test_a_selection_takes_the_first_of_equals(case: str) -> None:
    """The values are small whole numbers: most rows tie. `where` decides by its own comparison."""
    function, axes, order = RANKS[case]
    x = torch.randint(0, 2, (2, 2, 4, 5), generator=torch.Generator().manual_seed(0)).double()
    lin = linreg.trace(Lambda(function), x).linearize(x)
    g = values(*lin.output.shape)
    for image, grad, adjoint in zip(x, g, lin.adjoint(g), strict=True):
        matrix = literal.picked(image, axes, order)
        torch.testing.assert_close(adjoint.flatten(), matrix.T @ grad.flatten(), **EXACT)


MOVING = (
    "maximum", "maximum, broadcasting", "amax over positions", "topk", "median", "adaptive max pool", "softshrink",
    "maximum of affine functions", "where", "where by other data", "hardshrink", "multiply by a sign",
)  # fmt: skip


@together
@pytest.mark.parametrize("case", MOVING)
def test_no_value_moves_more_than_its_bound(case: str) -> None:
    """Within the region and out of it: the errors are as large as the values, and some elements have none."""
    t = traced(case)
    errors = values(*t.x.shape, seed=5).abs() * (values(*t.x.shape, seed=6) > -0.5)
    bounds = t.lin.graph.evaluate({"input": errors}, lambda node, inputs: node.operator.moves(*inputs))
    assert bounds.shape == t.lin.output.shape
    for seed in range(20):
        moved = t.lin.graph(t.x + errors * values(*t.x.shape, seed=seed).clamp(-1, 1)) - t.lin.output
        assert (moved.abs() <= bounds * (1 + 1e-12) + 1e-12).all()
    assert ((bounds > 0) & bounds.isfinite()).any() != (case in ("where by other data", "hardshrink"))


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: x.topk(2, 1, sorted=False)[0], r"node 'topk'.* use sorted=True"),
        (lambda x: x.max(0)[0], r"node 'max'.* images of a batch"),
        (lambda x: x.sort(0)[0], r"node 'sort'.* images of a batch"),
        (lambda x: F.relu(x - x.mean(0)) * (x > 0), r"node 'mean'.* images of a batch"),
        (lambda x: x - x.amax(), r"node 'amax'.* images of a batch"),
        (lambda x: x * x.topk(4, 1)[1].sort(0)[0], "batch"),
        (lambda x: F.rrelu(x, training=True), r"node 'rrelu'.* random in training mode"),
        (lambda x: F.fractional_max_pool2d(x, 2, output_size=2), "random"),
        (lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, 1, return_indices=True), 2, 1), "two elements in one place"),
        (lambda x: torch.maximum(x[:, :1], CHANNELS), r"node 'maximum'.* expand the data first"),
        (writing(lambda x: x.__setitem__((slice(None), [1, 1]), 2 * x[:, :1])), "two elements to one place"),
        (lambda x: x.index_copy(1, INDEX, 2 * x), r"node 'index_copy'.* two elements to one place"),
        (lambda x: x.scatter(1, INDEX[:, None, None].expand(len(x), 4, 5, 6), 2 * x), "two elements to one place"),
        (lambda x: F.linear(x, x.new_ones(6)), r"node 'linear'.* write x @ w"),
        (lambda x: torch.where(x > 0, 1.0, -1.0), r"node 'gt'.* a step"),
        (lambda x: torch.cat([x, (x > 0).double()], 1), r"node 'gt'.* a step"),
        (lambda x: 2 * (x.abs() <= 1).double().flatten(1), r"node 'le'.* a step"),
        (lambda x: x.clamp(min=x.sign()), r"node 'sign'.* a step"),
        (lambda x: x / (x > 0), r"node 'gt'.* a step"),
    ],
)
def test_what_is_no_selection_is_refused(function: Callable[[Tensor], Tensor], why: str) -> None:
    with pytest.raises(linreg.LinregError, match=why):
        linreg.trace(Lambda(function), values(3, *PLANE))


def overflowing() -> tuple[nn.Module, Tensor]:
    """A network whose first layer gives −∞ at this input, which its ReLU turns into 0."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    nn.init.constant_(model[0].weight, -100.0)  # type: ignore[arg-type]
    return model, torch.full((1, 2), 1e307, dtype=torch.float64)


def test_closed_gate_stops_what_overflowed() -> None:
    model, x = overflowing()
    assert model(x).isfinite().all()
    graph = linreg.trace(model, torch.ones_like(x))
    torch.testing.assert_close(graph(x), model(x).detach(), **EXACT)
    torch.testing.assert_close(graph.linearize(x).output, model(x).detach(), **EXACT)


def test_batch_norm_before_a_padded_convolution_stays_apart() -> None:
    """Its shift is not what the border sees; batch norm after the convolution goes into it."""
    apart = [node.operator.kind for node in traced("batch norm, then conv").lin.graph.nodes]
    fused = [node.operator.kind for node in traced("conv and batch norm").lin.graph.nodes]
    assert apart == ["batch norm", "conv2d"]
    assert fused == ["conv2d + bn"]
