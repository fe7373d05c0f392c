"""Capture: every call becomes a named node, batch norm is folded where it can be, what does not fit is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from approx import EXACT, values
from fingerprint import assert_same, fingerprint
from nets import NETS, NORMED, Lambda, every_net, seeded, traced
from torch import Tensor, nn

import linreg
from linreg import LinregError

# ---- fusing ----


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
    x = values(2, 3, 4, 4)
    graph = linreg.trace(model, x)
    assert [node.name for node in graph.nodes] == ["conv", "norm", "relu", "add"] and not graph.fused
    torch.testing.assert_close(graph(x), model(x).detach(), **EXACT)


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
    graph = linreg.trace(seeded(Named), values(2, 4))
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
    graph = linreg.trace(seeded(lambda: nn.Sequential(layer, nn.ReLU())), values(2, 2, 5, 5))
    assert [(node.name, node.operator.kind) for node in graph.nodes] == [
        ("0.pad", "pad"), ("0", "conv2d"), ("1", "relu")
    ]  # fmt: skip


def test_shapes_and_wires() -> None:
    networkx = pytest.importorskip("networkx")
    model, x = NETS["residual_inner"]()
    graph = traced("residual_inner").graph
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
    graph = traced("mobile").graph
    lines = graph.summary().splitlines()
    assert lines[0].split() == ["node", "operator", "shape", "inputs"]
    assert [line.split()[0] for line in lines[2:]] == [node.name for node in graph.nodes]
    assert "conv2d + bn" in graph.summary() and "relu6" in graph.summary() and "4×3×3" in graph.summary()


# ---- forms that a call may take ----


def test_pooling_takes_an_image_without_channels() -> None:
    """F.max_pool2d of (N, H, W) takes N for the channels, and keeps the images apart: to be taken, or refused."""
    x = values(3, 6, 6)
    try:
        graph = linreg.trace(Lambda(lambda x: F.max_pool2d(x, 2)), x)
    except LinregError:
        return
    torch.testing.assert_close(graph(x), F.max_pool2d(x, 2), **EXACT)


def test_addmm_with_a_row_of_biases() -> None:
    x, bias, weight = values(3, 4), values(1, 2, seed=1), values(4, 2, seed=2)
    graph = linreg.trace(Lambda(lambda x: torch.addmm(bias, x, weight)), x)
    torch.testing.assert_close(graph(x), bias + x @ weight, **EXACT)


def test_a_size_that_a_constant_decides_is_a_number() -> None:
    """The exporter leaves it open: how many edges of a graph network are no loops, say."""
    edges = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 0]])

    def spread(x: Tensor) -> Tensor:
        source, target = edges[:, edges[0] != edges[1]]
        weights = torch.full((source.size(0),), 0.5, dtype=x.dtype)
        return torch.zeros_like(x).index_add(1, target, x[:, source] * weights).relu()

    x = values(3, 4)
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
    model, x = seeded(lambda: Several(as_dict)), values(2, 4)
    graph = linreg.trace(model, x, output=output)
    expected = model(x)["scores"] if as_dict else model(x)[1][0]
    torch.testing.assert_close(graph(x), expected.detach(), **EXACT)
    assert [term.name for term in graph.linearize(x).ledger(0).terms] == ["trunk.bias", "main.bias"]


def test_output_by_place() -> None:
    model, x = Lambda(lambda x: (F.relu(x), x * 2)), values(2, 4)  # type: ignore[arg-type, return-value]
    assert [node.operator.kind for node in linreg.trace(model, x, output=0).nodes] == ["relu"]
    assert [node.operator.kind for node in linreg.trace(model, x, output=1).nodes] == ["scale"]


def test_several_outputs_need_a_choice() -> None:
    model, x = seeded(lambda: Several(True)), values(2, 4)
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
            values(2, 4).float(),
            r"example is torch\.float32 on cpu, but the model's '0\.weight' is torch\.float64 on cpu",
        ),
        (values(2, 4).to("meta"), r"example is torch\.float64 on meta"),
        (values(4), r"batch dimension first, \(N, …\), not \(4,\)"),
        (torch.ones(2, 4, dtype=torch.int64), r"floating-point tensor .* not \(2, 4\) of torch\.int64"),
        (values(0, 4), "at least one input"),
        (torch.tensor([[0.0, float("nan"), 0, 0]]).double(), "finite numbers only"),
        (torch.tensor([[0.0, float("inf"), 0, 0]]).double(), "finite numbers only"),
        ([[1.0, 2.0, 3.0, 4.0]], "not list"),
        (values(2, 5), r"the model fails on the example \(2, 5\): RuntimeError"),
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
        linreg.trace(model, values(2, 4))


def test_weights_must_be_finite() -> None:
    for value in (float("nan"), float("inf")):
        model, x = NETS["conv_bn"]()
        model[1].running_mean[2] = value  # type: ignore[index]
        with pytest.raises(LinregError, match=r"model's '1\.running_mean' holds NaN or infinite values"):
            linreg.trace(model, x)


def test_only_modules_are_traced() -> None:
    with pytest.raises(LinregError, match=r"needs a torch\.nn\.Module, not function"):
        linreg.trace(lambda x: x, values(2, 4))  # type: ignore[arg-type]


def test_output_must_be_finite() -> None:
    model = Lambda(lambda x: F.relu(x) * 1e308 * 1e10)
    with pytest.raises(LinregError, match="output on the example is not finite"):
        linreg.trace(model, values(2, 4))


def test_a_wrong_graph_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """trace runs the graph beside the model: a rule that is wrong is found out, and its node named."""
    from linreg.operators import RULES
    from linreg.operators.gates import LeakyReLU

    monkeypatch.setitem(RULES, "relu", lambda call: (LeakyReLU(0.5), (call.one_data("self"),)))
    model, x = NETS["chain_with_biases"]()
    with pytest.raises(LinregError, match=r"graph differs from the model, first at node '1' \(leaky relu\)"):
        linreg.trace(model, x)


# ---- constants ----


def test_random_constants_are_refused() -> None:
    with pytest.raises(LinregError, match="random numbers"):
        linreg.trace(Lambda(lambda x: x.relu() + 1e-12 * torch.randn(4).double()), values(3, 4))


def test_constants_take_the_type_of_data() -> None:
    mean = torch.tensor([0.5, -1.0, 2.0, 0.25])
    x = values(3, 4)
    graph = linreg.trace(Lambda(lambda x: (x - mean.type_as(x)).relu()), x)
    torch.testing.assert_close(graph(x), (x - mean.double()).relu(), **EXACT)


def test_a_number_read_from_a_buffer_is_a_constant() -> None:
    model = Lambda(lambda x: x.relu() * torch.tensor(2.5).item())
    x = values(3, 4)
    torch.testing.assert_close(linreg.trace(model, x)(x), 2.5 * x.relu(), **EXACT)
