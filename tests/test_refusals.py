"""A loud no: what is refused names its node, its module, the user's line, and what can be done."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from approx import values
from nets import Lambda, seeded
from refused import APART, CASES, LINE, NORM, PATH, PLANE, STEPS, UNIT, Sine, model_of
from torch import Tensor, nn

import linreg
from linreg import LinregError
from linreg.operators import RULES
from linreg.operators.refusals import REASONS


@pytest.mark.parametrize("name", CASES)
def test_a_refusal_names_node_module_line_and_way_out(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    model, x = model_of(case, tmp_path / "model.py"), values(3, *case.shape)
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
        linreg.trace(model, values(2, *PLANE))
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
            linreg.trace(Lambda(function), values(2, 4))
        lines = str(caught.value).splitlines()
        assert lines[0].startswith(first) and lines[1] == "  in the model's own forward (nets.Lambda)"


def test_a_helper_of_the_forward_that_cannot_be_exported_is_named() -> None:
    def helper(x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x

    with pytest.raises(LinregError, match=r"(?s)module '1\.0' \(nets\.Lambda\).*return x if x\.sum\(\) > 0 else -x"):
        linreg.trace(nn.Sequential(nn.ReLU(), nn.Sequential(Lambda(lambda x: helper(x)))), values(2, 4))


def test_the_static_export_tells_more_than_the_dynamic_one() -> None:
    """A forward that fixes its batch fails with an open one for another reason than with its own."""

    def forward(x: Tensor) -> Tensor:
        h = x.view(3, 4)
        return h * float(h.max())

    with pytest.raises(LinregError) as caught:
        linreg.trace(Lambda(forward), values(3, 4))
    assert PATH in str(caught.value) and "return h * float(h.max())" in str(caught.value)


def test_the_refusal_is_of_attention_and_not_of_what_prepares_it() -> None:
    """Written out, with the batch second: what moves it is in the same module as the softmax, and comes before."""

    def attend(x: Tensor) -> Tensor:
        h = x.transpose(0, 1)
        return torch.einsum("tsn,snc->tnc", torch.einsum("tnc,snc->tsn", h, h).softmax(1), h).transpose(0, 1)

    with pytest.raises(LinregError, match=r"^cannot take node '0\.softmax', "):
        linreg.trace(nn.Sequential(Lambda(attend)), values(3, *STEPS))
    # In another module it is a matter of its own.
    apart = nn.Sequential(Lambda(lambda x: x.transpose(0, 1)), nn.Softmax(1))
    with pytest.raises(LinregError, match=rf"^cannot take node '0\.transpose', .*{re.escape(APART)}"):
        linreg.trace(apart, values(3, *STEPS))


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
        linreg.trace(Lambda(function), values(2, 4))
    first, *lines = str(caught.value).splitlines()
    assert advice in first
    assert [line for line in lines if "refused" in line] == [f"  also refused: {also}"] * bool(also)


def test_a_picture_without_a_batch_is_suspected() -> None:
    with pytest.raises(LinregError, match=r"apart in dimension 0: .*; is the batch dimension missing\? x\[None\]"):
        linreg.trace(nn.Conv2d(3, 5, 3).double(), values(*PLANE))
    with pytest.raises(LinregError) as caught:
        linreg.trace(Lambda(lambda x: x.sum(0)), values(2, 4))
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
        (Pair, ["forward must take one tensor (missing a required argument: 'y')", "a tuple of tensors in order"]),
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
        (lambda: Lambda(lambda x: None), ["output must be a tensor, not NoneType", "return its scores"]),
        (lambda: Lambda(lambda x: "cat"), ["output must be a tensor, not str", "return its scores"]),
        (lambda: Lambda(lambda x: ()), ["the model returns nothing", "return its scores"]),
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
        linreg.trace(model, values(2, 4))
    assert all(words in str(caught.value) for words in says), str(caught.value)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:`torch.jit:FutureWarning")
def test_scripted_modules_are_refused() -> None:
    scripted = torch.jit.trace(small().double(), values(2, 4))
    for model, named in ((scripted, "the model is a "), (nn.Sequential(scripted), "module '0' is a ")):
        with pytest.raises(LinregError, match=rf"^{named}torch\.jit.*: trace the module that it was made from"):
            linreg.trace(model, values(2, 4))


def test_compiled_modules_are_taken() -> None:
    """torch.export sees through torch.compile."""
    model, x = small().double(), values(2, 4)
    graph = linreg.trace(torch.compile(model, backend="eager"), x)
    torch.testing.assert_close(graph(x), model(x).detach(), rtol=1e-12, atol=1e-12)


# ---- other refusals ----


def test_tokens_are_refused_with_the_way_out() -> None:
    with pytest.raises(LinregError, match=r"of torch\.int64; for tokens, trace what follows the embedding$"):
        linreg.trace(nn.Embedding(5, 3).double(), torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(LinregError, match=r"not \(4,\) of torch\.float64$"):
        linreg.trace(nn.Linear(4, 3).double(), values(4))


def test_what_torch_says_is_joined_to_the_advice() -> None:
    def forward(x: Tensor) -> Tensor:
        raise ValueError("not found in the list.")

    with pytest.raises(LinregError, match=r"not found in the list: model\.eval\(\)\(example\) must run"):
        linreg.trace(Lambda(forward), values(2, 4))


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
        linreg.trace(Lambda(function), values(2, 2))


def test_clamp_that_broadcasts_is_refused() -> None:
    bound = torch.tensor([[0.5], [1.0]]).double()
    with pytest.raises(LinregError, match=r"node 'clamp', .*broadcast the data to \(N, 2, 3\)"):
        linreg.trace(Lambda(lambda x: x.clamp(min=-bound, max=bound)), values(2, 1, 3))


def test_pooling_indices_are_refused() -> None:
    with pytest.raises(LinregError, match="cannot take node"):
        linreg.trace(Lambda(lambda x: F.max_pool2d(x, 2, return_indices=True)[1].double()), values(2, 3, 4, 4))


# ---- a library is quiet ----


def test_the_exporter_is_silent_only_while_it_works(capfd: pytest.CaptureFixture[str]) -> None:
    """It logs a warning, and prints its unfinished graph, where a path is chosen by data."""
    logger, heard = logging.getLogger("torch.fx.experimental.symbolic_shapes"), StringIO()
    handler = logging.StreamHandler(heard)
    logger.addHandler(handler)
    try:
        before = [(each, each.level) for each in logger.handlers]
        with pytest.raises(LinregError):
            linreg.trace(Lambda(lambda x: x if x.sum() > 0 else -x), values(2, 4))
        assert [(each, each.level) for each in logger.handlers] == before
        assert heard.getvalue() == "" and capfd.readouterr() == ("", "")
        logger.warning("heard again")
        assert heard.getvalue() == "heard again\n"
    finally:
        logger.removeHandler(handler)


def test_no_reason_to_refuse_what_a_rule_takes() -> None:
    both = {name for name in RULES if name.partition(".")[0] in REASONS and "." not in name}
    assert not both, "drop these from linreg/operators/refusals.py"
