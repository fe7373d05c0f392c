"""Capture: the model stays as it was, every call becomes a named node, what is not piecewise linear is refused."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets import NETS, NORMED, Lambda, randomised, traced
from torch import Tensor, nn

import linreg
from linreg import LinregError

EXACT = {"rtol": 1e-12, "atol": 1e-12}
every_net = pytest.mark.parametrize("name", NETS)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomised(build().double()).eval()


# ---- the model is left as it was ----


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """All of a model's state that tracing could touch; tensors as copies."""
    state: dict[str, Any] = {f"state {k}": v.clone() for k, v in model.state_dict().items()}
    for path, module in model.named_modules():
        state[f"mode {path}"] = module.training
        state[f"own mode {path}"] = "training" in vars(module)
        state[f"attributes {path}"] = sorted(vars(module))
        state[f"forward {path}"] = module.forward
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            state[f"{hooks} {path}"] = list(getattr(module, hooks).items())
    for name, parameter in model.named_parameters():
        state[f"object {name}"] = id(parameter)
        state[f"pointer {name}"] = parameter.data_ptr()
        state[f"version {name}"] = parameter._version
        state[f"requires_grad {name}"] = parameter.requires_grad
        state[f"grad {name}"] = None if parameter.grad is None else parameter.grad.clone()
    for name, buffer in model.named_buffers():
        state[f"object {name}"] = id(buffer)
        state[f"version {name}"] = buffer._version
    return state


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        same = torch.equal(value, after[key]) if isinstance(value, Tensor) else value == after[key]
        assert same, f"{key}: {value} became {after[key]}"


def used(model: nn.Module, x: Tensor) -> nn.Module:
    """The model as it is in the middle of somebody's training: mixed modes, gradients, a frozen parameter, hooks."""
    model(x).sum().backward()
    for k, module in enumerate(model.modules()):
        module.training = k % 2 == 0
    for k, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(k % 3 != 0)
    first = next(module for module in model.modules() if not list(module.children()))
    first.register_forward_hook(lambda module, inputs, output: None)
    first.register_full_backward_hook(lambda module, inputs, outputs: None)
    return model


@pytest.mark.parametrize("name", ["chain_with_biases", "conv_bn", "residual_inner", "constants", "dropout"])
def test_model_is_left_as_it_was(name: str) -> None:
    model, x = NETS[name]()
    used(model, x)
    example = x.clone().requires_grad_()
    before, random = fingerprint(model), torch.get_rng_state()
    lin = linreg.trace(model, example).linearize(example)
    lin.ledger(0)
    assert_same(before, fingerprint(model))
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(example, x) and example.grad is None and example.requires_grad
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert not lin.output.requires_grad


def test_model_is_left_as_it_was_when_tracing_fails() -> None:
    x = numbers(3, 4)
    for last in (nn.Sigmoid(), Lambda(lambda h: h if h.sum() > 0 else -h), nn.Linear(5, 2)):
        model = seeded(lambda last=last: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(), last))
        used(model[:2], x)
        before = fingerprint(model)
        with pytest.raises(LinregError):
            linreg.trace(model, x)
        assert_same(before, fingerprint(model))
        assert torch.is_grad_enabled()


def test_graph_does_not_follow_the_model() -> None:
    """The graph holds copies: training the model further does not reach it."""
    model, x = NETS["conv_bn"]()
    graph = linreg.trace(model, x)
    before = graph(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
        for buffer in model.buffers():
            buffer += 1
    assert torch.equal(graph(x), before)
    assert not torch.equal(model(x), before)


def test_capture_is_in_eval_mode() -> None:
    model, x = NETS["dropout"]()
    expected = model(x).detach()
    torch.testing.assert_close(linreg.trace(model.train(), x)(x), expected, **EXACT)
    model, x = NETS["conv_bn"]()
    expected = model(x).detach()
    torch.testing.assert_close(linreg.trace(model.train(), x)(x), expected, **EXACT)


def test_forward_hooks_are_part_of_the_network() -> None:
    model, x = NETS["chain_with_biases"]()
    plain = model(x).detach()
    model[2].register_forward_hook(lambda module, inputs, output: output * 2)  # type: ignore[index]
    hooked = model(x).detach()
    assert not torch.allclose(plain, hooked)
    torch.testing.assert_close(linreg.trace(model, x)(x), hooked, **EXACT)


@pytest.mark.parametrize("first", [nn.ReLU(inplace=True), Lambda(lambda x: x.sub_(0.5))])
def test_model_that_writes_to_its_input(first: nn.Module) -> None:
    model = seeded(lambda: nn.Sequential(first, nn.Linear(4, 3)))
    x = numbers(3, 4)
    expected = model(x.clone()).detach()
    example = x.clone()
    graph = linreg.trace(model, example)
    assert torch.equal(example, x)
    torch.testing.assert_close(graph(x), expected, **EXACT)


class Counter(nn.Module):
    """Counts its calls, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return F.relu(self.layer(x))


def test_model_that_writes_to_its_buffers() -> None:
    model, x = seeded(Counter), numbers(3, 4)
    before = fingerprint(model)
    graph = linreg.trace(model, x)
    assert_same(before, fingerprint(model))
    torch.testing.assert_close(graph(x), model(x).detach(), **EXACT)


class Keeper(nn.Module):
    """Keeps its last activations, as many models do for their owners to look at."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.last = last
        self.activations: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.activations = self.layer(x)
        return self.last(self.activations)


@pytest.mark.parametrize("last", [nn.ReLU(), nn.Sigmoid(), Lambda(lambda h: h if h.sum() > 0 else -h)])
def test_model_that_keeps_activations_keeps_real_ones(last: nn.Module) -> None:
    """Whether tracing succeeds or fails, the exporter's stand-ins do not stay behind in the model."""
    model, x = seeded(lambda: Keeper(last)), numbers(3, 4)
    model(x)
    with contextlib.suppress(LinregError):
        linreg.trace(model, x)
    assert type(model.activations) is Tensor
    assert torch.equal(model.activations, model.layer(x))  # type: ignore[operator]


# ---- fusing and batch sizes ----


@every_net
def test_fused_and_unfused_agree(name: str) -> None:
    t, u = traced(name), traced(name, fuse=False)
    torch.testing.assert_close(t.lin.output, u.lin.output, **EXACT)
    torch.testing.assert_close(t.lin.weight(1), u.lin.weight(1), **EXACT)
    fused, apart = t.graph, u.graph
    norms = [norm for norm in t.model.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    assert bool(norms) == (name in NORMED)
    kinds = [node.operator.kind for node in apart.nodes]
    assert kinds.count("batch norm") == len(norms)
    assert len(apart.nodes) - len(fused.nodes) == len(fused.fused)
    left = [node.operator.kind for node in fused.nodes].count("batch norm")
    assert left == (2 if name == "free_bn" else 0) and len(fused.fused) == len(norms) - left


def test_batch_norm_is_not_folded_into_what_others_read() -> None:
    """The convolution's own value is needed too, so it stays a node."""
    parts = {"conv": nn.Conv2d(3, 3, 1), "norm": nn.BatchNorm2d(3)}
    model = seeded(lambda: Lambda(lambda x, conv, norm: (lambda h: norm(h) + F.relu(h))(conv(x)), **parts))
    x = numbers(2, 3, 4, 4)
    graph = linreg.trace(model, x)
    assert [node.name for node in graph.nodes] == ["conv", "norm", "relu", "add"] and not graph.fused
    torch.testing.assert_close(graph(x), model(x).detach(), **EXACT)


@every_net
def test_any_batch_size_after_a_batch_of_one(name: str) -> None:
    model, x = NETS[name]()
    graph = linreg.trace(model, x[:1])
    assert graph.batch is None
    for batch in (x[:1], x[:2], x, torch.cat([x, -x])):
        with torch.no_grad():
            torch.testing.assert_close(graph(batch), model(batch), **EXACT)
        assert graph.linearize(batch).certificate(0).relative_error.max() <= 1e-12


def test_model_with_a_fixed_batch_size_keeps_it() -> None:
    model = Lambda(lambda x: F.relu(x).view(2, 4) * 2)
    x = numbers(2, 2, 2)
    graph = linreg.trace(model, x)
    assert graph.batch == 2
    torch.testing.assert_close(graph(x), model(x), **EXACT)
    assert repr(graph).startswith("OperatorGraph((2, 2, 2) to")
    with pytest.raises(LinregError, match=r"traced with 2 images, not 3: .* as len\(x\) does: .* an example of that"):
        graph.linearize(numbers(3, 2, 2))


def test_squeeze_keeps_the_batch_of_one() -> None:
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), Lambda(lambda h: h.squeeze()), nn.Linear(4, 3)
        )
    )
    x = numbers(3, 3, 6, 6)
    graph = linreg.trace(model, x)
    torch.testing.assert_close(graph(x[:1]), graph(x)[:1], **EXACT)


# ---- names ----


class Named(nn.Module):
    """A reused ReLU, functional calls, a module called like the input, nested modules."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Linear(4, 4)
        self.relu = nn.ReLU()
        self.block = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Sequential(nn.Linear(4, 4), nn.ReLU())})

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.input(x))
        h = self.relu(self.block["a"](h))
        h = F.relu(self.block["b"](h) - 1)
        return F.relu(h * 2) + x


def test_names_are_module_paths() -> None:
    graph = linreg.trace(seeded(Named), numbers(2, 4))
    assert [node.name for node in graph.nodes] == [
        "input@1", "relu", "block.a", "relu@1", "block.b.0", "block.b.1", "sub", "relu@2", "mul", "relu@3", "add",
    ]  # fmt: skip
    assert [graph[name].inputs for name in ("input@1", "relu@1", "add")] == [
        ("input",), ("block.a",), ("relu@3", "input")
    ]  # fmt: skip
    assert graph["block.b.1"].module == "block.b.1"
    assert graph["relu@3"].source.startswith(__file__) and "F.relu(h * 2) + x" in graph["relu@3"].source
    assert graph.output == "add"


def test_padded_layer_gives_its_name_to_the_convolution() -> None:
    layer = nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")
    graph = linreg.trace(seeded(lambda: nn.Sequential(layer, nn.ReLU())), numbers(2, 2, 5, 5))
    assert [(node.name, node.operator.kind) for node in graph.nodes] == [
        ("0.pad", "pad"), ("0", "conv2d"), ("1", "relu")
    ]  # fmt: skip


def test_shapes_and_wires() -> None:
    networkx = pytest.importorskip("networkx")
    model, x = NETS["residual_inner"]()
    graph = linreg.trace(model, x)
    assert graph.shape("input") == graph.input_shape == (3, 8, 8)
    seen: dict[str, tuple[int, ...]] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda m, i, o, path=path: seen.update({path: tuple(o.shape[1:])}))
    model(x)
    assert seen and all(graph.shape(path) == shape for path, shape in seen.items())
    wires = graph.to_networkx()
    assert networkx.is_directed_acyclic_graph(wires)
    assert set(wires.predecessors("4.add")) == {"4.bn2", "4.downsample.1"}
    assert {node.name for node in graph.consumers("3.relu@1")} == {"4.bn1", "4.downsample.1"}
    assert wires.nodes["3.relu"]["is_gate"] and not wires.nodes["3.bn1"]["is_gate"]


def test_summary_lists_every_node() -> None:
    graph = linreg.trace(*NETS["mobile"]())
    lines = graph.summary().splitlines()
    assert lines[0].split() == ["node", "operator", "shape", "inputs"]
    assert [line.split()[0] for line in lines[2:]] == [node.name for node in graph.nodes]
    assert "conv2d + bn" in graph.summary() and "relu6" in graph.summary() and "4×3×3" in graph.summary()


# ---- forms that a call may take ----


def test_pooling_takes_an_image_without_channels() -> None:
    """F.max_pool2d of (N, H, W) takes N for the channels, and keeps the images apart: to be taken, or refused."""
    x = numbers(3, 6, 6)
    try:
        graph = linreg.trace(Lambda(lambda x: F.max_pool2d(x, 2)), x)
    except LinregError:
        return
    torch.testing.assert_close(graph(x), F.max_pool2d(x, 2), **EXACT)


def test_addmm_with_a_row_of_biases() -> None:
    x, bias, weight = numbers(3, 4), numbers(1, 2, seed=1), numbers(4, 2, seed=2)
    graph = linreg.trace(Lambda(lambda x: torch.addmm(bias, x, weight)), x)
    torch.testing.assert_close(graph(x), bias + x @ weight, **EXACT)


def test_a_size_that_a_constant_decides_is_a_number() -> None:
    """The exporter leaves it open: how many edges of a graph network are no loops, say."""
    edges = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 0]])

    def spread(x: Tensor) -> Tensor:
        source, target = edges[:, edges[0] != edges[1]]
        weights = torch.full((source.size(0),), 0.5, dtype=x.dtype)
        return torch.zeros_like(x).index_add(1, target, x[:, source] * weights).relu()

    x = numbers(3, 4)
    graph = linreg.trace(Lambda(spread), x)
    torch.testing.assert_close(graph(x), F.relu(0.5 * x.roll(1, 1)), **EXACT)
    assert graph.batch is None


# ---- several outputs ----


class Several(nn.Module):
    def __init__(self, as_dict: bool) -> None:
        super().__init__()
        self.as_dict = as_dict
        self.trunk = nn.Linear(4, 4)
        self.main = nn.Linear(4, 3)
        self.auxiliary = nn.Sequential(nn.Linear(4, 2), nn.Sigmoid())

    def forward(self, x: Tensor) -> Any:
        h = F.relu(self.trunk(x))
        if self.as_dict:
            return {"aux": self.auxiliary(h), "scores": self.main(h)}
        return self.auxiliary(h), [self.main(h), h]


@pytest.mark.parametrize(("as_dict", "output"), [(True, "scores"), (False, "1.0")])
def test_one_of_several_outputs(as_dict: bool, output: str) -> None:
    """The other heads leave no trace: not their bias in the ledger, and not their sigmoid among the refusals."""
    model, x = seeded(lambda: Several(as_dict)), numbers(2, 4)
    graph = linreg.trace(model, x, output=output)
    expected = model(x)["scores"] if as_dict else model(x)[1][0]
    torch.testing.assert_close(graph(x), expected.detach(), **EXACT)
    assert [term.name for term in graph.linearize(x).ledger(0).terms] == ["trunk.bias", "main.bias"]


def test_output_by_place() -> None:
    model, x = Lambda(lambda x: (F.relu(x), x * 2)), numbers(2, 4)  # type: ignore[arg-type, return-value]
    assert [node.operator.kind for node in linreg.trace(model, x, output=0).nodes] == ["relu"]
    assert [node.operator.kind for node in linreg.trace(model, x, output=1).nodes] == ["scale"]


def test_several_outputs_need_a_choice() -> None:
    model, x = seeded(lambda: Several(True)), numbers(2, 4)
    with pytest.raises(LinregError, match=r"returns 2 outputs: choose one; .* takes 'aux', 'scores'"):
        linreg.trace(model, x)
    with pytest.raises(LinregError, match=r"no output 'score': choose one of 'aux', 'scores'"):
        linreg.trace(model, x, output="score")
    with pytest.raises(LinregError, match=r"cannot take node 'auxiliary\.1', aten\.sigmoid"):
        linreg.trace(model, x, output="aux")
    with pytest.raises(LinregError, match="must be a floating-point tensor"):
        linreg.trace(Lambda(lambda x: x.argmax(1)), x)


# ---- examples and weights that do not fit ----


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (
            numbers(2, 4).float(),
            r"example is torch\.float32 on cpu, but the model's '0\.weight' is torch\.float64 on cpu",
        ),
        (numbers(2, 4).to("meta"), r"example is torch\.float64 on meta"),
        (numbers(4), r"batch dimension first, \(N, …\), not \(4,\)"),
        (torch.ones(2, 4, dtype=torch.int64), r"floating-point tensor .* not \(2, 4\) of torch\.int64"),
        (numbers(0, 4), "at least one input"),
        (torch.tensor([[0.0, float("nan"), 0, 0]]).double(), "finite numbers only"),
        (torch.tensor([[0.0, float("inf"), 0, 0]]).double(), "finite numbers only"),
        ([[1.0, 2.0, 3.0, 4.0]], "not list"),
        (numbers(2, 5), r"the model fails on the example \(2, 5\): RuntimeError"),
    ],
)
def test_examples_that_do_not_fit(example: Any, message: str) -> None:
    model, _ = NETS["chain_with_biases"]()
    model = nn.Sequential(nn.Linear(4, 5).double(), model)
    before = fingerprint(model)
    with pytest.raises(LinregError, match=message):
        linreg.trace(model, example)
    assert_same(before, fingerprint(model))


def test_model_on_another_device() -> None:
    model = nn.Sequential(nn.Linear(4, 3, dtype=torch.float64, device="meta"), nn.ReLU())
    with pytest.raises(LinregError, match=r"on cpu, but the model's '0\.weight' is torch\.float64 on meta: bring both"):
        linreg.trace(model, numbers(2, 4))


def test_weights_must_be_finite() -> None:
    for value in (float("nan"), float("inf")):
        model, x = NETS["conv_bn"]()
        model[1].running_mean[2] = value  # type: ignore[index]
        with pytest.raises(LinregError, match=r"model's '1\.running_mean' holds NaN or infinite values"):
            linreg.trace(model, x)


def test_only_modules_are_traced() -> None:
    with pytest.raises(LinregError, match=r"needs a torch\.nn\.Module, not function"):
        linreg.trace(lambda x: x, numbers(2, 4))  # type: ignore[arg-type]


def test_output_must_be_finite() -> None:
    model = Lambda(lambda x: F.relu(x) * 1e308 * 1e10)
    with pytest.raises(LinregError, match="output on the example is not finite"):
        linreg.trace(model, numbers(2, 4))


def test_a_wrong_graph_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """trace runs the graph beside the model: a rule that is wrong is found out, and its node named."""
    from linreg.operators import RULES
    from linreg.operators.gates import LeakyReLU

    monkeypatch.setitem(RULES, "relu", lambda call: (LeakyReLU(0.5), (call.one_data("self"),)))
    model, x = NETS["chain_with_biases"]()
    with pytest.raises(LinregError, match=r"graph differs from the model, first at node '1' \(leaky relu\)"):
        linreg.trace(model, x)


# ---- arrows ----


def test_linreg_never_imports_dmbp() -> None:
    spec = importlib.util.find_spec("linreg")
    assert spec is not None and spec.origin is not None
    sources = sorted(Path(spec.origin).parent.rglob("*.py"))
    assert len(sources) > 10
    third_party = {"torch", "numpy", "scipy", "networkx", "matplotlib"}
    for source in sources:
        for statement in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(statement, ast.Import):
                names = [alias.name for alias in statement.names]
            elif isinstance(statement, ast.ImportFrom):
                names = [statement.module or "linreg"]
            else:
                continue
            tops = {name.partition(".")[0] for name in names}
            assert tops <= third_party | {"linreg"} | sys.stdlib_module_names, (source.name, tops)


# ---- what only other batch sizes show ----


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 10 / x.numel(),
        lambda x: x * (x.shape[0] + 1),
        lambda x: x / x.shape[0],
        lambda x: F.hardtanh(x, -x.shape[0], 2 * x.shape[0]),
        lambda x: torch.add(x, x, alpha=x.shape[0]),
        lambda x: x.relu() if x.shape[0] == 1 else (-x).relu(),
        lambda x: x.relu() + torch.ones(x.shape[0], 1).double().cumsum(0),
        lambda x: x.relu() + torch.ones(2 * x.shape[0]).double().sum(),
    ],
)
def test_what_depends_on_the_number_of_images_is_refused(function: Callable[[Tensor], Tensor], images: int) -> None:
    with pytest.raises(LinregError, match=r"number of (images|inputs)|images of a batch|graph differs"):
        linreg.trace(seeded(lambda: nn.Sequential(nn.Linear(4, 3), Lambda(function))), numbers(images, 4))


@pytest.mark.parametrize("images", [1, 3])
def test_a_length_fixes_the_batch(images: int) -> None:
    """len(x) is a plain number to the exporter: the graph is of that number of inputs, and says so."""
    model = Lambda(lambda x: x.relu() * len(x) if len(x) == 1 else (-x).relu() * len(x))
    x = numbers(images, 4)
    graph = linreg.trace(model, x)
    assert graph.batch == images
    torch.testing.assert_close(graph(x), model(x), **EXACT)
    with pytest.raises(LinregError, match=r"as len\(x\) does: use x\.shape\[0\], or trace it with an example of"):
        graph(numbers(images + 1, 4))
    with pytest.raises(LinregError, match=rf"must have shape \({images}, 4\), not \({images}, 5\)"):
        graph(numbers(images, 5))


def test_random_constants_are_refused() -> None:
    with pytest.raises(LinregError, match="random numbers"):
        linreg.trace(Lambda(lambda x: x.relu() + 1e-12 * torch.randn(4).double()), numbers(3, 4))


def test_constants_take_the_type_of_data() -> None:
    mean = torch.tensor([0.5, -1.0, 2.0, 0.25])
    x = numbers(3, 4)
    graph = linreg.trace(Lambda(lambda x: (x - mean.type_as(x)).relu()), x)
    torch.testing.assert_close(graph(x), (x - mean.double()).relu(), **EXACT)


def test_a_number_read_from_a_buffer_is_a_constant() -> None:
    model = Lambda(lambda x: x.relu() * torch.tensor(2.5).item())
    x = numbers(3, 4)
    torch.testing.assert_close(linreg.trace(model, x)(x), 2.5 * x.relu(), **EXACT)


@pytest.mark.parametrize("mixing", [lambda h: 3 * h - h.sum(0).expand(2, 2), lambda h: h.flip(0)])
def test_symmetric_mixing_within_a_fixed_batch_is_refused(mixing: Callable[[Tensor], Tensor]) -> None:
    """That rotating the batch rotates the output is not enough."""
    with pytest.raises(LinregError, match="batch"):
        linreg.trace(Lambda(lambda x: mixing(x.relu().view(2, 2))), torch.ones(2, 2).double() + numbers(2, 2).abs())
