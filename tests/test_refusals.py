"""A loud no: what is refused names its node, its module, the user's line, and what can be done."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from nets import Lambda, randomised
from torch import Tensor, nn

import linreg
from linreg import LinregError
from linreg.operators import RULES
from linreg.operators.refusals import REASONS


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomised(build().double()).eval()


# ---- one line of a forward each ----


class Case(NamedTuple):
    """A line of a forward, the node that is refused ("" where torch.export fails), and words of the way out."""

    line: str
    node: str
    way_out: str
    shape: tuple[int, ...] = (4,)
    layer: Callable[[], nn.Module] = nn.Identity
    module: str = "block"


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.sin(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


@torch.library.custom_op("linreg_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return 2 * x


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("linreg_tests::thrice", mutates_args=())
def thrice(x: Tensor) -> Tensor:
    return 3 * x


UNIT = "use a piecewise-linear unit instead"
UP_TO = "explain the network up to its input instead"
NORM = "use batch norm with running statistics instead"
SPREAD = "use means, sums or maxima instead"
FIXED = "keep all but one of them fixed (.detach() does not"
LOOP = "write the recurrence as a loop over nn.Linear"
RAMP = "use a ramp instead"
KEEP = "keep all elements, and set those not wanted to 0"
DTYPE = "keep one dtype throughout, torch.float64"
APART = "reshape to (N, …), and reduce over the other dimensions only"
OTHERS = "dimensions other than 0"
ONCE = "draw them once into a buffer"
PATH = "write the choice with operators (torch.where, clamp, maximum), drop an assert, or trace the part that has none"
COSINES = "fixed matrices of cosines and sines"
REAL_TORCH = "its forward must be written with operators of torch alone, without numpy"
ADD_RULE = "add a rule"

PLANE, STEPS = (3, 4, 4), (2, 4)


def layer(kind: Callable[..., nn.Module], *arguments: Any, **options: Any) -> Callable[[], nn.Module]:
    return lambda: kind(*arguments, **options)


CASES = {
    # smooth units
    "sigmoid": Case("x = torch.sigmoid(x)", "block.sigmoid", UNIT),
    "tanh": Case("x = x.tanh()", "block.tanh", UNIT),
    "gelu": Case("x = F.gelu(x)", "block.gelu", UNIT),
    "silu, a layer": Case("x = self.layer(x)", "block.layer", UNIT, layer=nn.SiLU, module="block.layer"),
    "softplus": Case("x = F.softplus(x)", "block.softplus", UNIT),
    "elu": Case("x = F.elu(x)", "block.elu", UNIT),
    "mish": Case("x = F.mish(x)", "block.mish", UNIT),
    "hardswish": Case("x = F.hardswish(x)", "block.hardswish", UNIT),
    "exponential": Case("x = x.exp()", "block.exp", UNIT),
    "logarithm": Case("x = (1 + x.abs()).log()", "block.log", UNIT),
    "square root": Case("x = x.abs().sqrt()", "block.sqrt", UNIT),
    "sine": Case("x = torch.sin(x)", "block.sin", UNIT),
    "log-sum-exp": Case("x = x.logsumexp(1, keepdim=True)", "block.logsumexp", UNIT),
    "square": Case("x = x**2", "block.pow", UNIT),
    "reciprocal": Case("x = 1 / x", "block.reciprocal", UNIT),
    "autograd function": Case("x = Sine.apply(x)", "block.sin", UNIT),
    "sigmoid gate": Case("x = x * x.mean((2, 3), keepdim=True).sigmoid()", "block.sigmoid", UNIT, PLANE),
    # normalisation by data
    "softmax": Case("x = x.softmax(1)", "block.softmax", UP_TO),
    "log-softmax": Case("x = F.log_softmax(x, 1)", "block.log_softmax", UP_TO),
    "cosine similarity": Case("x = F.cosine_similarity(x, x.flip(1), 1)", "block.cosine_similarity", UP_TO),
    "fused attention": Case(
        "x = F.scaled_dot_product_attention(x, x, x)", "block.scaled_dot_product_attention", UP_TO, STEPS
    ),
    "attention": Case(
        "x = self.layer(x, x, x)[0]", "block.layer.softmax", UP_TO, STEPS,
        layer(nn.MultiheadAttention, 4, 2, batch_first=True), "block.layer",
    ),
    "attention without weights": Case(
        "x = self.layer(x, x, x, need_weights=False)[0]", "block.layer.scaled_dot_product_attention", UP_TO, STEPS,
        layer(nn.MultiheadAttention, 4, 2, batch_first=True), "block.layer",
    ),
    "transformer layer": Case(
        "x = self.layer(x)", "block.layer.self_attn.scaled_dot_product_attention", UP_TO, STEPS,
        layer(nn.TransformerEncoderLayer, 4, 2, 8, batch_first=True), "block.layer.self_attn",
    ),
    "transformer layer, norm first": Case(
        "x = self.layer(x)", "block.layer.norm1", NORM, STEPS,
        layer(nn.TransformerEncoderLayer, 4, 2, 8, batch_first=True, norm_first=True), "block.layer.norm1",
    ),
    "layer norm": Case("x = self.layer(x)", "block.layer", NORM, layer=layer(nn.LayerNorm, 4), module="block.layer"),
    "group norm": Case("x = self.layer(x)", "block.layer", NORM, PLANE, layer(nn.GroupNorm, 1, 3), "block.layer"),
    "root mean square norm": Case("x = F.rms_norm(x, (4,))", "block.rms_norm", NORM),
    "instance norm": Case(
        "x = self.layer(x)", "block.layer", "train it with track_running_stats=True", PLANE,
        layer(nn.InstanceNorm2d, 3), "block.layer",
    ),
    "batch norm without statistics": Case(
        "x = self.layer(x)", "block.layer", "train it with track_running_stats=True", PLANE,
        layer(nn.BatchNorm2d, 3, track_running_stats=False), "block.layer",
    ),
    "functional batch norm": Case(
        "x = F.batch_norm(x, None, None, training=True)", "block._native_batch_norm_legit",
        "train it with track_running_stats=True", PLANE,
    ),
    "local response norm": Case("x = F.local_response_norm(x, 2)", "block.mul", FIXED, PLANE),
    "norm": Case("x = x / x.norm(dim=1, keepdim=True)", "block.linalg_vector_norm", SPREAD),
    "deviation": Case("x = x.std(1, keepdim=True)", "block.std", SPREAD),
    # products and quotients of data
    "product": Case("x = x * x.flip(1)", "block.mul", FIXED),
    "matrix product": Case("x = x @ x.transpose(1, 2)", "block.matmul", FIXED, STEPS),
    "batch of matrix products": Case("x = torch.bmm(x[:, None], x[:, :, None])", "block.bmm", FIXED),
    "outer product": Case("x = torch.einsum('bi,bj->bij', x, x)", "block.einsum", FIXED),
    "bilinear": Case("x = self.layer(x, x)", "block.layer", FIXED, (4,), layer(nn.Bilinear, 4, 4, 3), "block.layer"),
    "gated linear unit": Case("x = F.glu(x, 1)", "block.glu", FIXED),
    "product of elements": Case("x = x.prod(1, keepdim=True)", "block.prod", FIXED),
    "quotient": Case("x = x / (1 + x.abs().sum(1, keepdim=True))", "block.div", "divide by a fixed value"),
    "long short-term memory": Case(
        "x = self.layer(x)[0]", "block.layer", LOOP, STEPS, layer(nn.LSTM, 4, 3, batch_first=True), "block.layer"
    ),
    "gated recurrence": Case(
        "x = self.layer(x)[0]", "block.layer", LOOP, STEPS, layer(nn.GRU, 4, 3, batch_first=True), "block.layer"
    ),
    "recurrence": Case(
        "x = self.layer(x)[0]", "block.layer", LOOP, STEPS, layer(nn.RNN, 4, 3, batch_first=True), "block.layer"
    ),
    "bounds from data": Case("x = x.clamp(max=x.mean(1, keepdim=True))", "block.clamp", "keep them fixed"),
    # steps, and choices by value
    "rounding": Case("x = x.round()", "block.round", RAMP),
    "floor": Case("x = torch.floor(x)", "block.floor", RAMP),
    "remainder": Case("x = x % 2", "block.remainder", RAMP),
    "rounding division": Case("x = torch.div(x, 2, rounding_mode='floor')", "block.div", RAMP),
    "largest index": Case("x = x.argmax(1).double()", "block.argmax", "choose fixed ones"),
    "embedding": Case("x = F.embedding(x.long().clamp(0, 3), torch.eye(4).double())", "block._to_copy", DTYPE),
    "elements that are not zero": Case("x = x.nonzero().double()", "block.nonzero", KEEP),
    "different elements": Case("x = x.unique()", "block._unique2", KEEP),
    # random numbers
    "dropout": Case("x = F.dropout(x, 0.5, training=True)", "block.native_dropout", "training=self.training"),
    "leaky relu of random slope": Case("x = F.rrelu(x, training=True)", "block.rrelu", "must be off in eval mode"),
    "noise": Case("x = x + torch.randn(4).double()", "block.randn", ONCE),
    "noise like data": Case("x = x + torch.rand_like(x)", "block.rand_like", ONCE),
    "random choice": Case("x = x * torch.bernoulli(torch.full((4,), 0.5))", "block.bernoulli", ONCE),
    "random order": Case("x = x[:, torch.randperm(4)]", "block.randperm", ONCE),
    # other kinds of tensors
    "other dtype": Case("x = x.float() * 2", "block._to_copy", DTYPE),
    "half within": Case("x = (x.half() * 2).double()", "block._to_copy", DTYPE),
    "quantised": Case("x = torch.fake_quantize_per_tensor_affine(x.float(), 0.1, 0, -9, 9)", "block._to_copy", DTYPE),
    "reduction to another dtype": Case(
        "x = x.sum(1, keepdim=True, dtype=torch.float32)", "block.sum", "keep the data in one dtype, torch.float64"
    ),
    "spectrum": Case("x = torch.fft.rfft(x).abs()", "block.fft_rfft", COSINES),
    "complex": Case("x = torch.complex(x, x).abs()", "block.complex", COSINES),
    "sparse": Case("x = x.to_sparse().to_dense()", "block.to_sparse", "keep the data dense"),
    # the batch
    "sum over the batch": Case("x = x.sum(0)", "block.sum", APART),
    "mean of the batch": Case("x = x - x.mean(0, keepdim=True)", "block.mean", APART),
    "sum of everything": Case("x = x + x.sum()", "block.sum", APART),
    "all in one row": Case("x = x.view(-1)", "block.view", APART),
    "batch moved": Case("x = x.transpose(0, 1)", "block.transpose", APART),
    "one of the batch": Case("x = F.linear(x, x[0:1])", "block.slice", APART),
    "batch doubled": Case("x = torch.cat([x, x])", "block.cat", APART),
    "batch flipped": Case("x = x.flip(0)", "block.flip", OTHERS),
    "batch rolled": Case("x = x.roll(1, -2)", "block.roll", OTHERS),
    "batch sorted": Case("x = x.sort(0).values", "block.sort", OTHERS),
    # what no rule knows
    "unknown operator": Case("x = torch.special.bessel_j0(x)", "block.special_bessel_j0", ADD_RULE),
    "operator of somebody else's": Case("x = twice(x)", "block.linreg_tests.twice", ADD_RULE),
    "operator without a shape": Case("x = thrice(x)", "", "register_fake"),
    # choices of Python
    "if": Case("x = x if x.sum() > 0 else -x", "", PATH),
    "while": Case("while x.sum() > 0: x = x - 1", "", PATH),
    "assert": Case("assert x.min() > -100", "", PATH),
    "range": Case("for _ in range(int(x.abs().max())): x = x + 1", "", PATH),
    "float": Case("x = x * float(x.max())", "", PATH),
    "slice to a value": Case("x = x[:, : int(x.abs().sum()) + 1]", "", PATH),
    "item": Case("x = x * x.max().item()", "block.item", PATH),
    "list": Case("x = torch.tensor(x.tolist())", "block.item", PATH),
    "cond": Case("x = torch.cond(x.sum() > 0, lambda z: 2 * z, lambda z: -z, (x,))", "block.cond", PATH),
    "numpy": Case("x = torch.from_numpy(x.numpy() * 2)", "", REAL_TORCH),
    "function of numpy": Case("x = torch.as_tensor(np.tanh(x))", "", REAL_TORCH),
}  # fmt: skip

SOURCE = """
class Block(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        {line}
        return x


class Model(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.block = Block(layer)

    def forward(self, x):
        return self.block(2 * x)
"""
LINE = 1 + SOURCE.partition("{line}")[0].count("\n")


def model_of(case: Case, file: Path) -> nn.Module:
    """A model whose block's forward has the line, in a file of its own."""
    import numpy as np

    source = SOURCE.format(line=case.line)
    file.write_text(source)
    names: dict[str, Any] = globals() | {"np": np, "__name__": "user"}
    exec(compile(source, str(file), "exec"), names)
    return seeded(lambda: names["Model"](case.layer()))


@pytest.mark.parametrize("name", CASES)
def test_a_refusal_names_node_module_line_and_way_out(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    model, x = model_of(case, tmp_path / "model.py"), numbers(3, *case.shape)
    with pytest.raises(LinregError) as caught:
        linreg.trace(model, x)
    first, module, line, *_ = str(caught.value).splitlines()
    assert first.startswith(f"cannot take node '{case.node}', " if case.node else "torch.export cannot capture")
    assert case.way_out in first
    assert module.startswith(f"  in module '{case.module}' (")
    assert module.endswith(f".{type(model.get_submodule(case.module)).__qualname__})")
    source = Sine.forward.__code__ if "Sine" in case.line else None  # the line within the function is deeper
    place = (source.co_filename, source.co_firstlineno + 2) if source else (tmp_path / "model.py", LINE)
    assert line == "  at {}:{}: {}".format(*place, "return torch.sin(x)" if source else case.line)
    assert capfd.readouterr() == ("", ""), "the exporter's own prints"


# ---- where a refusal is ----


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.layer(x.mean((2, 3))))[:, :, None, None]


def test_place_in_a_sequence_of_modules() -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 3, 1), SqueezeExcite()))
    with pytest.raises(LinregError) as caught:
        linreg.trace(model, numbers(2, *PLANE))
    first, module, line, also = str(caught.value).splitlines()
    assert first.startswith("cannot take node '1.gate', aten.sigmoid of (N, 3): it is smooth")
    assert also == "  also refused: 1 × product of data"
    assert module == "  in module '1.gate' (torch.nn.modules.activation.Sigmoid)"
    assert line.startswith(f"  at {__file__}:") and line.endswith(
        "return x * self.gate(self.layer(x.mean((2, 3))))[:, :, None, None]"
    )


def test_place_in_the_outermost_forward() -> None:
    """It has no path, and names of nodes have none either."""
    for function, first in ((torch.sin, "cannot take node 'sin', "), (lambda x: x.numpy(), "torch.export cannot")):
        with pytest.raises(LinregError) as caught:
            linreg.trace(Lambda(function), numbers(2, 4))
        lines = str(caught.value).splitlines()
        assert lines[0].startswith(first) and lines[1] == "  in the model's own forward (nets.Lambda)"


def test_a_helper_of_the_forward_that_cannot_be_exported_is_named() -> None:
    def helper(x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x

    with pytest.raises(LinregError, match=r"(?s)module '1\.0' \(nets\.Lambda\).*return x if x\.sum\(\) > 0 else -x"):
        linreg.trace(nn.Sequential(nn.ReLU(), nn.Sequential(Lambda(lambda x: helper(x)))), numbers(2, 4))


def test_the_static_export_tells_more_than_the_dynamic_one() -> None:
    """A forward that fixes its batch fails with an open one for another reason than with its own."""

    def forward(x: Tensor) -> Tensor:
        h = x.view(3, 4)
        return h * float(h.max())

    with pytest.raises(LinregError) as caught:
        linreg.trace(Lambda(forward), numbers(3, 4))
    assert PATH in str(caught.value) and "return h * float(h.max())" in str(caught.value)


def test_the_refusal_is_of_attention_and_not_of_what_prepares_it() -> None:
    """Written out, with the batch second: what moves it is in the same module as the softmax, and comes before."""

    def attend(x: Tensor) -> Tensor:
        h = x.transpose(0, 1)
        return torch.einsum("tsn,snc->tnc", torch.einsum("tnc,snc->tsn", h, h).softmax(1), h).transpose(0, 1)

    with pytest.raises(LinregError, match=r"^cannot take node '0\.softmax', "):
        linreg.trace(nn.Sequential(Lambda(attend)), numbers(3, *STEPS))
    # In another module it is a matter of its own.
    apart = nn.Sequential(Lambda(lambda x: x.transpose(0, 1)), nn.Softmax(1))
    with pytest.raises(LinregError, match=rf"^cannot take node '0\.transpose', .*{re.escape(APART)}"):
        linreg.trace(apart, numbers(3, *STEPS))


@pytest.mark.parametrize(
    ("function", "also", "advice"),
    [
        (lambda x: x.sigmoid() + x.relu().tanh(), "1 × tanh", 'interpolate it with trace(…, nonlinear="pwl")'),
        (lambda x: x.sigmoid().tanh().tanh() * x, "2 × tanh, 1 × product of data", "but not all that is refused too"),
        (lambda x: F.layer_norm(x.sigmoid(), (4,)), "1 × layer_norm", "but not all that is refused too"),
        (lambda x: F.layer_norm(x, (4,)).sigmoid().detach().tanh(), "1 × sigmoid, 1 × tanh", NORM),
        # A step, what only has the shape or the dtype of data, and what does not lead to the output are not refused.
        (lambda x: (x.tanh(), x.sigmoid() * (x > 0) * torch.ones_like(x) * x.new_ones(4))[1], "", "interpolate it"),
        (lambda x: x.sigmoid() * torch.ones(4).type_as(x) * (x > 0).type_as(x), "", "interpolate it"),
        (lambda x: x.sin().cos().tan().exp().log().sqrt().sinh(),
         "1 × cos, 1 × tan, 1 × exp, 1 × log, 1 × sqrt, …", UNIT),
    ],
)  # fmt: skip
def test_what_else_would_be_refused_is_counted(function: Callable[[Tensor], Tensor], also: str, advice: str) -> None:
    with pytest.raises(LinregError) as caught:
        linreg.trace(Lambda(function), numbers(2, 4))
    first, *lines = str(caught.value).splitlines()
    assert advice in first
    assert [line for line in lines if "refused" in line] == [f"  also refused: {also}"] * bool(also)


def test_a_picture_without_a_batch_is_suspected() -> None:
    with pytest.raises(LinregError, match=r"apart in dimension 0: .*; is the batch dimension missing\? x\[None\]"):
        linreg.trace(nn.Conv2d(3, 5, 3).double(), numbers(*PLANE))
    with pytest.raises(LinregError) as caught:
        linreg.trace(Lambda(lambda x: x.sum(0)), numbers(2, 4))
    assert APART in str(caught.value) and "missing" not in str(caught.value)


# ---- models and examples that do not fit ----


class Pair(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Builtin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.forward = torch.abs


class Narrow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layer(x))


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU())


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (Pair, ["forward must take one tensor (missing a required argument: 'y')", "wrap it in a module"]),
        (Builtin, ["forward must take one tensor (no signature found for builtin", "wrap it in a module"]),
        (
            lambda: nn.Sequential(Lambda(lambda x: x["image"])),
            ["fails on the example (2, 4): IndexError", ": model.eval()(example) must run", "in module '0' (nets."],
        ),
        (
            lambda: nn.Sequential(nn.Identity(), Narrow()),
            ["mat1 and mat2", "in module '1.layer' (torch.nn.", f"at {__file__}:", "return F.relu(self.layer(x))"],
        ),
        (lambda: nn.Sequential(nn.LazyLinear(3)), ["'0.weight' is not initialised yet", "run the model once"]),
        (lambda: nn.DataParallel(small()), ["the model is a ", "DataParallel", "trace its own .module"]),
        (
            lambda: nn.Sequential(nn.DataParallel(small())),
            ["module '0' is a ", "DataParallel", "trace its own .module"],
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2).half()),
            ["model's '1.weight' is torch.float16", "bring both to one dtype"],
        ),
        (lambda: Lambda(lambda x: None), ["output must be a tensor, not NoneType", "returns its scores"]),
        (lambda: Lambda(lambda x: "cat"), ["output must be a tensor, not str", "returns its scores"]),
        (lambda: Lambda(lambda x: ()), ["the model returns nothing", "returns its scores"]),
        (lambda: Lambda(lambda x: (1, "cat")), ["the model returns 2 outputs", "takes '0', '1'"]),
        (lambda: Lambda(lambda x: x.argmax(1)), ["must be a floating-point tensor (N, …), not torch.int64"]),
        (nn.Identity, ["does not depend on its input through any operator"]),
        (lambda: Lambda(lambda x: torch.ones(3, 2).double()), ["does not depend on its input"]),
    ],
)
def test_models_that_do_not_fit(build: Callable[[], nn.Module], says: list[str]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
    if not any(parameter.dtype == torch.float16 for parameter in model.parameters()):
        model.double()
    else:
        model[0].double()  # type: ignore[index]
    with pytest.raises(LinregError) as caught:
        linreg.trace(model, numbers(2, 4))
    assert all(words in str(caught.value) for words in says), str(caught.value)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:`torch.jit:FutureWarning")
def test_scripted_modules_are_refused() -> None:
    scripted = torch.jit.trace(small().double(), numbers(2, 4))
    for model, named in ((scripted, "the model is a "), (nn.Sequential(scripted), "module '0' is a ")):
        with pytest.raises(LinregError, match=rf"^{named}torch\.jit.*: trace the module that it was made from"):
            linreg.trace(model, numbers(2, 4))


def test_compiled_modules_are_taken() -> None:
    """torch.export sees through torch.compile."""
    model, x = small().double(), numbers(2, 4)
    graph = linreg.trace(torch.compile(model, backend="eager"), x)
    torch.testing.assert_close(graph(x), model(x).detach(), rtol=1e-12, atol=1e-12)


# ---- other refusals ----


def test_tokens_are_refused_with_the_way_out() -> None:
    with pytest.raises(LinregError, match=r"of torch\.int64; for tokens, trace what follows the embedding$"):
        linreg.trace(nn.Embedding(5, 3).double(), torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(LinregError, match=r"not \(4,\) of torch\.float64$"):
        linreg.trace(nn.Linear(4, 3).double(), numbers(4))


def test_what_torch_says_is_joined_to_the_advice() -> None:
    def forward(x: Tensor) -> Tensor:
        raise ValueError("not found in the list.")

    with pytest.raises(LinregError, match=r"not found in the list: model\.eval\(\)\(example\) must run"):
        linreg.trace(Lambda(forward), numbers(2, 4))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double() @ x,
        lambda x: F.relu(x).view(2, 2, 1).permute(1, 0, 2) * 2,
        lambda x: x * torch.tensor([[1.0], [2.0]]).double(),
        lambda x: torch.cat([x, torch.eye(2).double()], 1),
    ],
)
def test_mixing_within_a_fixed_batch_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    """Also what treats the first image otherwise than the second."""
    with pytest.raises(LinregError, match="batch"):
        linreg.trace(Lambda(function), numbers(2, 2))


def test_clamp_that_broadcasts_is_refused() -> None:
    bound = torch.tensor([[0.5], [1.0]]).double()
    with pytest.raises(LinregError, match=r"node 'clamp', .*broadcast the data to \(N, 2, 3\)"):
        linreg.trace(Lambda(lambda x: x.clamp(min=-bound, max=bound)), numbers(2, 1, 3))


def test_pooling_indices_are_refused() -> None:
    with pytest.raises(LinregError, match="cannot take node"):
        linreg.trace(Lambda(lambda x: F.max_pool2d(x, 2, return_indices=True)[1].double()), numbers(2, 3, 4, 4))


# ---- a library is quiet ----


def test_the_exporter_is_silent_only_while_it_works(capfd: pytest.CaptureFixture[str]) -> None:
    """It logs a warning, and prints its unfinished graph, where a path is chosen by data."""
    logger, heard = logging.getLogger("torch.fx.experimental.symbolic_shapes"), StringIO()
    handler = logging.StreamHandler(heard)
    logger.addHandler(handler)
    try:
        before = [(each, each.level) for each in logger.handlers]
        with pytest.raises(LinregError):
            linreg.trace(Lambda(lambda x: x if x.sum() > 0 else -x), numbers(2, 4))
        assert [(each, each.level) for each in logger.handlers] == before
        assert heard.getvalue() == "" and capfd.readouterr() == ("", "")
        logger.warning("heard again")
        assert heard.getvalue() == "heard again\n"
    finally:
        logger.removeHandler(handler)


def test_no_reason_to_refuse_what_a_rule_takes() -> None:
    both = {name for name in RULES if name.partition(".")[0] in REASONS and "." not in name}
    assert not both, "drop these from linreg/operators/refusals.py"
