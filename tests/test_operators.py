"""Every operator: dot test, matrix = Jacobian, adjoint = vjp, value = the module's. One operator, one case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import literal
import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from nets import Lambda, randomised
from torch import Tensor, nn

import linreg
import linreg.translate
from linreg.operators import RULES

aten = torch.ops.aten
IMAGES = 2
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A module of one operator (or a function) and the shape of one input."""

    build: Callable[[], nn.Module] | Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    images: int = 2

    def module(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = self.build() if isinstance(self.build, type) or self.build.__name__ == "make" else Lambda(self.build)
            return randomised(made.double()).eval()  # type: ignore[arg-type, union-attr]

    def input(self) -> Tensor:
        return values(self.images, *self.shape, seed=1)


def layer(kind: Callable[..., nn.Module], *arguments: object, **options: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        return kind(*arguments, **options)

    return make


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :2], x[:, 2:]


W34, W2433, ROW, CHANNELS, SLOPES = (
    values(3, 4), values(2, 4, 3, 3), values(4), values(4, 1, 1), torch.tensor([0.25, -0.5, 2.0, 0.0]).double(),
)  # fmt: skip
BOUNDS = (-CHANNELS.abs(), CHANNELS.abs() / 2)
STATISTICS = {"running_mean": values(4, seed=2), "running_var": values(4, seed=3).abs() + 0.5}

PLANE, LINE, SPACE = (4, 5, 6), (4, 9), (4, 4, 3, 5)
CASES = {
    # fully connected
    "linear": Case(layer(nn.Linear, 5, 4), (5,)),
    "linear without bias": Case(layer(nn.Linear, 5, 4, bias=False), (5,)),
    "linear over the last dimension": Case(layer(nn.Linear, 5, 4), (2, 3, 5)),
    "addmm": Case(lambda x: torch.addmm(ROW, x, W34, beta=0.5, alpha=-2.0), (3,)),
    "mm": Case(lambda x: torch.mm(x, W34), (3,)),
    "matmul": Case(lambda x: x @ W34, (2, 3)),
    "matmul from the left": Case(lambda x: W34 @ x, (4, 2)),
    "bmm": Case(lambda x: torch.bmm(x, W34.expand(IMAGES, 3, 4)), (2, 3)),
    # convolutions
    "conv1d": Case(layer(nn.Conv1d, 4, 3, 3, stride=2, padding=1), LINE),
    "conv1d dilated": Case(layer(nn.Conv1d, 4, 3, 3, dilation=3), LINE),
    "conv2d": Case(layer(nn.Conv2d, 4, 3, 3), PLANE),
    "conv2d without bias": Case(layer(nn.Conv2d, 4, 3, 3, bias=False), PLANE),
    "conv2d strided, padded": Case(layer(nn.Conv2d, 4, 3, 3, stride=2, padding=1), PLANE),
    "conv2d unequal": Case(layer(nn.Conv2d, 4, 3, (2, 3), stride=(1, 2), padding=(2, 0), dilation=(1, 2)), PLANE),
    "conv2d grouped": Case(layer(nn.Conv2d, 4, 6, 3, groups=2), PLANE),
    "conv2d depthwise": Case(layer(nn.Conv2d, 4, 8, 3, padding=1, groups=4), PLANE),
    "conv2d valid": Case(layer(nn.Conv2d, 4, 3, 3, padding="valid"), PLANE),
    "conv2d same, odd kernel": Case(layer(nn.Conv2d, 4, 3, 3, padding="same", dilation=2), PLANE),
    "conv2d same, even kernel": Case(layer(nn.Conv2d, 4, 3, 2, padding="same"), PLANE),
    "conv2d same, odd and even": Case(layer(nn.Conv2d, 4, 6, (4, 3), padding="same", groups=2), PLANE),
    "conv2d reflecting": Case(layer(nn.Conv2d, 4, 3, 3, padding=1, padding_mode="reflect"), PLANE),
    "conv2d circular": Case(layer(nn.Conv2d, 4, 3, 3, padding=1, padding_mode="circular"), PLANE),
    "conv3d": Case(layer(nn.Conv3d, 4, 2, 2, stride=(1, 2, 1), padding=1), SPACE),
    "conv by its own name": Case(
        lambda x: aten.convolution(x, W2433, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1), PLANE
    ),
    "transposed conv1d": Case(layer(nn.ConvTranspose1d, 4, 3, 3, stride=2, padding=1, output_padding=1), LINE),
    "transposed conv2d": Case(layer(nn.ConvTranspose2d, 4, 3, 3, stride=3, output_padding=(2, 1)), (4, 2, 3)),
    "transposed conv2d grouped": Case(layer(nn.ConvTranspose2d, 4, 6, 2, groups=2, dilation=2, padding=1), (4, 3, 2)),
    "transposed conv3d": Case(layer(nn.ConvTranspose3d, 4, 2, 2, stride=2, bias=False), (4, 2, 1, 2)),
    "conv2d, weight norm": Case(
        layer(lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 3, 3, bias=False))), PLANE
    ),
    # batch norm
    "batch norm of channels": Case(layer(nn.BatchNorm2d, 4), PLANE),
    "batch norm, not affine": Case(layer(nn.BatchNorm2d, 4, affine=False, eps=0.1), PLANE),
    "batch norm of numbers": Case(layer(nn.BatchNorm1d, 5), (5,)),
    "batch norm of lines": Case(layer(nn.BatchNorm1d, 4), LINE),
    "batch norm of volumes": Case(layer(nn.BatchNorm3d, 4), SPACE),
    "batch norm without training": Case(
        lambda x: aten._native_batch_norm_legit_no_training(x, ROW, None, *STATISTICS.values(), 0.1, 1e-5)[0], PLANE
    ),
    "conv and batch norm": Case(
        layer(nn.Sequential, nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.BatchNorm2d(6)), PLANE
    ),
    "batch norm, then conv": Case(
        layer(nn.Sequential, nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1)), PLANE
    ),
    "conv (same) and batch norm": Case(
        layer(nn.Sequential, nn.Conv2d(4, 3, 2, padding="same"), nn.BatchNorm2d(3)), PLANE
    ),
    "transposed conv and batch norm": Case(
        layer(nn.Sequential, nn.ConvTranspose2d(4, 3, 2), nn.BatchNorm2d(3)), PLANE
    ),
    "linear and batch norm": Case(layer(nn.Sequential, nn.Linear(5, 4), nn.BatchNorm1d(4)), (5,)),
    "linear and batch norm of rows": Case(layer(nn.Sequential, nn.Linear(5, 4), nn.BatchNorm1d(3)), (3, 5)),
    # gates
    "relu": Case(layer(nn.ReLU), PLANE),
    "relu in place": Case(lambda x: torch.relu_(x * 2), PLANE),
    "relu6": Case(lambda x: F.relu6(4 * x), PLANE),
    "relu6 by its own name": Case(lambda x: aten.relu6(4 * x), PLANE),
    "hardtanh": Case(layer(nn.Hardtanh, -0.5, 0.25), PLANE),
    "clamp": Case(lambda x: x.clamp(-0.5, 1), PLANE),
    "clamp from below": Case(lambda x: x.clamp(min=-0.25), PLANE),
    "clamp from above": Case(lambda x: x.clamp(max=0.25), PLANE),
    "clamp at zero": Case(lambda x: x.clamp(min=0), PLANE),
    "clamp_min": Case(lambda x: torch.clamp_min(x, 0.5), PLANE),
    "clamp_max": Case(lambda x: torch.clamp_max(x, 0.5), PLANE),
    "clamp, upside down": Case(lambda x: x.clamp(0.5, -0.5), PLANE),
    "clamp to tensors": Case(lambda x: x.clamp(*BOUNDS), PLANE),
    "clamp to a tensor from below": Case(lambda x: x.clamp(min=BOUNDS[0]), PLANE),
    "leaky relu": Case(layer(nn.LeakyReLU, 0.1), PLANE),
    "leaky relu, negative": Case(layer(nn.LeakyReLU, -0.5), PLANE),
    "prelu of one slope": Case(layer(nn.PReLU), PLANE),
    "prelu of channels": Case(lambda x: F.prelu(x, SLOPES), PLANE),
    "prelu by its kernel's name": Case(lambda x: aten._prelu_kernel(x, SLOPES.view(4, 1, 1)), PLANE),
    "prelu of numbers": Case(lambda x: F.prelu(x, SLOPES), (4,)),
    "abs": Case(torch.abs, PLANE),
    # pools
    "max pool": Case(layer(nn.MaxPool2d, 2), PLANE),
    "max pool, overlapping": Case(layer(nn.MaxPool2d, 3, 2, padding=1), PLANE),
    "max pool, ceil": Case(layer(nn.MaxPool2d, 2, ceil_mode=True), PLANE),
    "max pool, dilated": Case(layer(nn.MaxPool2d, 2, 1, dilation=2), PLANE),
    "max pool, unequal": Case(layer(nn.MaxPool2d, (2, 3), (1, 2), padding=(1, 0)), PLANE),
    "max pool with indices": Case(lambda x: F.max_pool2d_with_indices(x, 2)[0], PLANE),
    "max pool of lines": Case(layer(nn.MaxPool1d, 3, 2, padding=1, ceil_mode=True), LINE),
    "max pool of volumes": Case(layer(nn.MaxPool3d, 2, 1), SPACE),
    "max pool of volumes with indices": Case(lambda x: F.max_pool3d_with_indices(x, (2, 1, 3))[0], SPACE),
    "average pool": Case(layer(nn.AvgPool2d, 2), PLANE),
    "average pool, overlapping": Case(layer(nn.AvgPool2d, 3, 1, padding=1), PLANE),
    "average pool without padding": Case(
        layer(nn.AvgPool2d, 3, 2, padding=1, ceil_mode=True, count_include_pad=False), PLANE
    ),
    "average pool, divided": Case(layer(nn.AvgPool2d, 2, divisor_override=3), PLANE),
    "average pool of lines": Case(layer(nn.AvgPool1d, 3, 2, padding=1), LINE),
    "average pool of volumes": Case(layer(nn.AvgPool3d, 2, 1), SPACE),
    "adaptive pool of lines": Case(layer(nn.AdaptiveAvgPool1d, 4), LINE),
    "adaptive pool": Case(layer(nn.AdaptiveAvgPool2d, (2, 4)), PLANE),
    "adaptive pool to one": Case(layer(nn.AdaptiveAvgPool2d, 1), PLANE),
    "adaptive pool of volumes": Case(layer(nn.AdaptiveAvgPool3d, (2, 1, 3)), SPACE),
    "adaptive pool by its own name": Case(lambda x: aten._adaptive_avg_pool2d(x, [2, 4]), PLANE),
    "mean of positions": Case(lambda x: x.mean((2, 3)), PLANE),
    "mean of channels": Case(lambda x: x.mean(1, keepdim=True), PLANE),
    "sum of positions": Case(lambda x: x.sum((-1, -2), keepdim=True), PLANE),
    "sum of channels": Case(lambda x: x.sum(1), PLANE),
    # arithmetic
    "add": Case(lambda x: torch.add(*halves(x), alpha=-3), PLANE),
    "add itself": Case(lambda x: x + x, PLANE),
    "add, broadcasting": Case(lambda x: x + x.mean((2, 3), keepdim=True), PLANE),
    "add a constant": Case(lambda x: x + CHANNELS, PLANE),
    "add to a constant": Case(lambda x: torch.add(CHANNELS, x, alpha=2), PLANE),
    "add a constant, broadcasting": Case(lambda x: x + ROW, (1,)),
    "add what is made for each image": Case(lambda x: x + torch.ones(x.shape[0], 1).double(), (3,)),
    "add a number": Case(lambda x: x + 0.3, PLANE),
    "subtract": Case(lambda x: halves(x)[0] - halves(x)[1], PLANE),
    "subtract a constant": Case(lambda x: x - CHANNELS, PLANE),
    "subtract, alpha": Case(lambda x: torch.sub(CHANNELS, x, alpha=2), PLANE),
    "subtract from a number": Case(lambda x: torch.rsub(x, 1, alpha=0.5), PLANE),
    "negate": Case(torch.neg, PLANE),
    "multiply": Case(lambda x: x * CHANNELS, PLANE),
    "multiply, broadcasting": Case(lambda x: CHANNELS * x, (1, 2, 3)),
    "multiply by a number": Case(lambda x: -2 * x, PLANE),
    "divide": Case(lambda x: x / CHANNELS, PLANE),
    "divide by a number": Case(lambda x: x / 4, PLANE),
    # structure
    "view": Case(lambda x: x.view(x.shape[0], 2, -1), PLANE),
    "view as inferred": Case(lambda x: x.view(-1, 120), PLANE),
    "unsafe view": Case(lambda x: aten._unsafe_view(x, [IMAGES, 20, 6]), PLANE),
    "reshape": Case(lambda x: x.transpose(1, 2).reshape(x.shape[0], -1, 3), PLANE),
    "flatten": Case(layer(nn.Flatten, 2), PLANE),
    "unflatten": Case(layer(nn.Unflatten, 1, (2, 2)), PLANE),
    "unsqueeze": Case(lambda x: x.unsqueeze(1), PLANE),
    "squeeze": Case(lambda x: x.squeeze(1), (1, 5)),
    "squeeze, copied": Case(lambda x: torch.squeeze_copy(x, 1), (1, 5)),
    "squeeze all": Case(lambda x: x.squeeze(), (1, 5, 1)),
    "repeat": Case(lambda x: x.repeat(1, 2, 1), LINE),
    "expand": Case(lambda x: x.expand(-1, 4, -1), (1, 5)),
    "permute": Case(lambda x: x.permute(0, 3, 1, 2), PLANE),
    "transpose": Case(lambda x: x.transpose(-1, 1), PLANE),
    "movedim": Case(lambda x: x.movedim(1, -1), PLANE),
    "swapaxes": Case(lambda x: x.swapaxes(1, 2), PLANE),
    "pixel shuffle": Case(layer(nn.PixelShuffle, 2), PLANE),
    "pixel unshuffle": Case(layer(nn.PixelUnshuffle, 2), (2, 4, 6)),
    "channel shuffle": Case(layer(nn.ChannelShuffle, 2), PLANE),
    "flip": Case(lambda x: x.flip(1, -1), PLANE),
    "roll": Case(lambda x: x.roll((1, -2), (1, 3)), PLANE),
    "slice": Case(lambda x: x[:, 1:, ::2, -2:], PLANE),
    "select": Case(lambda x: x[:, 2], PLANE),
    "narrow": Case(lambda x: x.narrow(1, 1, 2), PLANE),
    "split": Case(lambda x: 2 * x.split(3, 1)[0][:, :1] - x.split(3, 1)[1], PLANE),
    "split with sizes": Case(lambda x: x.split([1, 3], 1)[1], PLANE),
    "chunk": Case(lambda x: x.chunk(2, 1)[1], PLANE),
    "unbind": Case(lambda x: x.unbind(1)[3], PLANE),
    "unsafe split": Case(lambda x: torch.unsafe_split(x, 3, 1)[1], PLANE),
    "unsafe chunk": Case(lambda x: torch.unsafe_chunk(x, 2, 2)[0], PLANE),
    "concatenate": Case(lambda x: torch.cat([x, *halves(x)], 1), PLANE),
    "concatenate, by another name": Case(lambda x: aten.concat([x, x], 2), PLANE),
    "concatenate a constant": Case(lambda x: torch.cat([x, CHANNELS[None], -x], 2), (4, 1, 1), images=1),
    "concatenate a token": Case(lambda x: torch.cat([ROW.expand(x.shape[0], 1, 4), 2 * x], 1), (2, 4)),
    "concatenate what is made for each image": Case(
        lambda x: torch.cat([x, torch.ones(x.shape[0], 2).double()], 1), (3,)
    ),
    "stack": Case(lambda x: torch.stack(halves(x), 2), PLANE),
    "pad": Case(lambda x: F.pad(x, (1, 2, 0, 3)), PLANE),
    "pad with a value": Case(lambda x: F.pad(x, (1, 2, 0, 3), value=-1.5), PLANE),
    "pad, cropping": Case(lambda x: F.pad(x, (-1, 2), value=0.5), PLANE),
    "pad with zeros by its own name": Case(lambda x: aten.constant_pad_nd(x, [1, 1], 0.25), PLANE),
    "pad, reflecting": Case(layer(nn.ReflectionPad2d, (2, 1, 1, 0)), PLANE),
    "pad, replicating": Case(layer(nn.ReplicationPad2d, 2), PLANE),
    "pad, circular": Case(lambda x: F.pad(x, (1, 2, 0, 1), mode="circular"), PLANE),
}  # fmt: skip

# Names under which no exported program calls these operators here, each an alias of one that has a case …
ALIASES = {
    "batch_norm": "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm": "_native_batch_norm_legit_no_training",
    "native_batch_norm": "_native_batch_norm_legit_no_training",
    "chunk": "split",
    "unsafe_chunk": "unsafe_split",
    "narrow": "slice",
    "movedim": "permute",
    "swapaxes": "permute",
    "flatten": "unsqueeze",
    "unflatten": "unsqueeze",
    "reshape": "unsqueeze",
}
# … and names whose rule only refuses; test_trace has them.
REFUSALS = {"_native_batch_norm_legit", "_native_batch_norm_legit_functional", "instance_norm"}

every_case = pytest.mark.parametrize("case", CASES)


@dataclass(frozen=True)
class Traced:
    module: nn.Module
    x: Tensor
    lin: linreg.Linearization
    rules: frozenset[str]


@cache
def traced(name: str) -> Traced:
    """The case's module traced and linearized at its input, and the names of the rules that took part."""
    module, x = CASES[name].module(), CASES[name].input()
    used: set[str] = set()

    def spy(target: object) -> object:
        packet, _, overload = str(target).removeprefix("aten.").partition(".")
        used.add(packet if f"{packet}.{overload}" not in RULES else f"{packet}.{overload}")
        return rule_for(target)

    rule_for = linreg.translate.rule_for
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linreg.translate, "rule_for", spy)
        graph = linreg.trace(module, x)
    return Traced(module, x, graph.linearize(x), frozenset(used))


@every_case
def test_value(case: str) -> None:
    t = traced(case)
    with torch.no_grad():
        expected = t.module(t.x.clone())
    torch.testing.assert_close(t.lin.output, expected, **EXACT)
    torch.testing.assert_close(t.lin.graph(t.x), expected, **EXACT)


@every_case
def test_dot_test(case: str) -> None:
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩ for every node of the case, over all of its data inputs."""
    t = traced(case)
    for seed, node in enumerate(t.lin.graph.nodes):
        affine = t.lin.frozen[node.name]
        xs = [values(len(t.x), *t.lin.graph.shape(name), seed=10 + k) for k, name in enumerate(node.inputs)]
        y = values(len(t.x), *node.shape, seed=20 + seed)
        there = affine.linear(*xs)
        back = affine.adjoint(y)
        assert there.shape == y.shape and [b.shape for b in back] == [x.shape for x in xs], str(node)
        left, right = (there * y).sum(), sum((x * b).sum() for x, b in zip(xs, back, strict=True))
        assert abs(left - right) <= 1e-12 * (there * y).abs().sum(), f"{node}: ⟨Ax, y⟩ = {left}, ⟨x, Aᵀy⟩ = {right}"


@every_case
def test_matrix_is_the_jacobian(case: str) -> None:
    """At the first image: column j of the matrix is what the linear part makes of the j-th unit vector."""
    t = traced(case)
    image, size = t.x[0], t.x[0].numel()
    units = torch.eye(size, dtype=t.x.dtype).view(size, *image.shape)
    if t.lin.graph.batch is None:
        matrix = t.lin.graph.linearize(image.expand_as(units)).forward(units).movedim(0, -1)
    else:  # all the images at once, only the first not zero
        others = torch.zeros_like(t.x[1:])
        matrix = torch.stack([t.lin.forward(torch.cat([unit[None], others]))[0] for unit in units], -1)
    jacobian = torch.func.jacrev(lambda x: t.module(torch.cat([x[None], t.x[1:]]))[0])(image)
    torch.testing.assert_close(matrix, jacobian.reshape(matrix.shape), **EXACT)


@every_case
def test_adjoint_is_the_vjp(case: str) -> None:
    t = traced(case)
    g = values(*t.lin.output.shape, seed=3)
    _, pull = torch.func.vjp(lambda x: t.module(x.clone()), t.x)
    torch.testing.assert_close(t.lin.adjoint(g), pull(g)[0], **EXACT)


@every_case
def test_ledger_completes(case: str) -> None:
    """What the linear part leaves of the value is in the constants, one by one."""
    t = traced(case)
    g = values(*t.lin.output.shape[1:], seed=4)
    certificate = t.lin.certificate(g)
    with torch.no_grad():
        y = (t.module(t.x.clone()) * g).flatten(1).sum(1)
    assert ((y - certificate.total).abs() <= 1e-12 * certificate.magnitude).all()


def test_every_rule_has_a_case() -> None:
    used = frozenset().union(*(traced(case).rules for case in CASES))
    assert set(RULES) - used - REFUSALS == set(ALIASES), "add a case for each new rule, or name what it is an alias of"
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
    ],
)
def test_gate_is_slope_and_offset(layer: nn.Module, twin: dict) -> None:
    """At its kinks too, where the closed side wins: relu'(0) = 0, relu6'(0) = relu6'(6) = 0, leaky'(0) = α."""
    z = torch.tensor([[-7.0, -1.0, -0.5, 0.0, 0.5, 2.0, 3.0, 6.0, 7.0]], dtype=torch.float64)
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
