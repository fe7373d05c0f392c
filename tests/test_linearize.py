"""The affine function at an input: output, weight, completeness, maps between any two nodes; on every small network."""

from __future__ import annotations

from dataclasses import replace

import literal
import pytest
import torch
import torch.nn.functional as F
from approx import EXACT, values
from nets import NETS, Lambda, every_net, fused_or_not, traced
from rerun import jvp, rerun, value
from torch import Tensor, nn

import linreg
from linreg import Linearization, LinregError
from linreg.operators import Affine, Diagonal

# ---- the network itself ----


@every_net
def test_output_is_the_models(name: str) -> None:
    t = traced(name)
    with torch.no_grad():
        expected = t.model(t.x)
    assert (t.lin.output - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert (t.graph(t.x) - expected).abs().max() <= 1e-12 * expected.abs().max()


@every_net
@pytest.mark.parametrize("target", [0, 2])
def test_weight_is_the_gradient(name: str, target: int) -> None:
    t = traced(name)
    x = t.x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(t.model(x)[:, target].sum(), x)
    torch.testing.assert_close(t.lin.weight(target), expected, **EXACT)


@fused_or_not
def test_completeness(name: str, fuse: bool) -> None:
    """y = c · x + Σ ledger (Eqs. 13, 14), with the y of the model itself."""
    t = traced(name, fuse)
    lin = t.lin
    ledger = lin.ledger(1)
    with torch.no_grad():
        y = t.model(t.x)[:, 1]
    terms = [ledger.input, *(term.values for term in ledger.terms)]
    magnitude = sum(term.flatten(1).abs().sum(1) for term in terms)
    assert ((y - sum(term.flatten(1).sum(1) for term in terms)).abs() <= 1e-12 * magnitude).all()
    torch.testing.assert_close(ledger.input, lin.weight(1) * t.x, **EXACT)

    certificate = lin.certificate(1)
    torch.testing.assert_close(certificate.score, y, **EXACT)
    torch.testing.assert_close(certificate.magnitude, magnitude, **EXACT)
    torch.testing.assert_close(certificate.completeness_error, (y - ledger.total).abs(), rtol=0, atol=1e-12)
    assert (certificate.relative_error <= 1e-12).all()


def test_nets_open_and_close_their_gates() -> None:
    """So that the tests above and below look at more than one piece: no net's gates are all open or all closed."""
    for name in NETS:
        lin = traced(name).lin
        slopes = [lin.frozen[node.name].slope for node in lin.graph.nodes if node.is_gate]  # type: ignore[attr-defined]
        assert slopes, name
        for slope in slopes:
            assert len(slope.unique()) == 2 or name == "gates", name
    offsets = [c.value for node in traced("mobile").lin.frozen.values() for c in node.constants if c.kind == "offset"]
    assert all(set(offset.unique().tolist()) == {0.0, 6.0} for offset in offsets[:2])


@every_net
def test_each_image_is_a_problem_of_its_own(name: str) -> None:
    t = traced(name)
    ledger = t.lin.ledger(2)
    for n in range(len(t.x)):
        alone = t.graph.linearize(t.x[n : n + 1])
        torch.testing.assert_close(alone.output[0], t.lin.output[n], **EXACT)
        torch.testing.assert_close(alone.weight(2)[0], t.lin.weight(2)[n], **EXACT)
        for mine, all_of_us in zip(alone.ledger(2).terms, ledger.terms, strict=True):
            assert (mine.node, mine.name, mine.kind) == (all_of_us.node, all_of_us.name, all_of_us.kind)
            torch.testing.assert_close(mine.values[0], all_of_us.values[n], **EXACT)


def test_input_that_is_not_contiguous() -> None:
    for name in ("residual_inner", "pools", "wiring"):
        t = traced(name)
        x = t.x.to(memory_format=torch.channels_last)
        assert not x.is_contiguous()
        lin = t.graph.linearize(x)
        torch.testing.assert_close(lin.output, t.lin.output, **EXACT)
        torch.testing.assert_close(lin.weight(0), t.lin.weight(0), **EXACT)


# ---- maps between nodes ----


def pairs(graph: linreg.OperatorGraph) -> list[tuple[str, str]]:
    """(start, stop) of all connected pairs of nodes, some twenty of them, spread evenly."""
    networkx = pytest.importorskip("networkx")
    wires = graph.to_networkx()
    names = ["input", *(node.name for node in graph.nodes)]
    found = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if networkx.has_path(wires, a, b)]
    return found[:: max(1, len(found) // 20)]


@every_net
def test_forward_and_adjoint_between_any_two_nodes(name: str) -> None:
    """forward = jvp and adjoint = vjp of the network run again from `start`; and ⟨J v, g⟩ = ⟨v, Jᵀ g⟩."""
    lin = traced(name).lin
    for start, stop in pairs(lin.graph):
        at = value(lin, start)
        v, g = values(*at.shape), values(*value(lin, stop).shape, seed=1)
        function = lambda h, start=start, stop=stop: rerun(lin, {start: h}, stop)  # noqa: E731
        forward, adjoint = lin.forward(v, stop, start), lin.adjoint(g, stop, start)
        torch.testing.assert_close(forward, jvp(function, at, v), **EXACT)
        torch.testing.assert_close(adjoint, torch.func.vjp(function, at)[1](g)[0], **EXACT)
        left, right = (forward * g).sum(), (v * adjoint).sum()
        assert abs(left - right) <= 1e-12 * (forward * g).abs().sum(), (start, stop)


def test_map_from_a_node_to_itself_is_the_identity() -> None:
    lin = traced("conv_bn").lin
    v = values(*value(lin, "2").shape)
    assert lin.forward(v, "2", "2") is v and lin.adjoint(v, "2", "2") is v


def test_no_path() -> None:
    lin = traced("residual_inner").lin
    v = values(*value(lin, "4.downsample.1").shape)
    with pytest.raises(LinregError, match=r"no path leads from '4\.downsample\.1' to '4\.bn2'"):
        lin.forward(v, "4.bn2", "4.downsample.1")
    with pytest.raises(LinregError, match="the other way round there is one"):
        lin.adjoint(values(*value(lin, "2").shape), "2", "4.bn2")
    with pytest.raises(LinregError, match="no path"):
        lin.adjoint(values(*value(lin, "4.bn2").shape), "4.bn2", "4.downsample.1")


def test_wrong_vectors() -> None:
    lin = traced("conv_bn").lin
    with pytest.raises(LinregError, match=r"at 'input' must have shape \(3, 3, 6, 6\), not \(1, 3, 6, 6\)"):
        lin.forward(lin.input[:1])
    with pytest.raises(LinregError, match=r"at '10' must have shape \(3, 3\)"):
        lin.adjoint(lin.output[:, :2])
    with pytest.raises(LinregError, match="no node 'nowhere'"):
        lin.forward(lin.input, stop="nowhere")
    with pytest.raises(LinregError, match="no node 'nowhere'"):
        lin.forward(lin.input, "nowhere", "nowhere")


# ---- replace, summary, errors ----


def test_replace_exchanges_operators() -> None:
    """With its first ReLU's slope halved, the network is the one whose first ReLU is halved."""
    t = traced("chain_with_biases")
    gate = t.lin.frozen["1"]
    assert isinstance(gate, Diagonal)
    halved = t.lin.replace({"1": Diagonal(gate.slope * 0.5)})
    first, _, *rest = t.model
    h = 0.5 * torch.relu(first(t.x))
    for layer in rest:  # the gates further on stay those of the region
        open_ = t.lin.frozen[str(list(t.model).index(layer))]
        h = h * open_.slope if isinstance(open_, Diagonal) else layer(h)
    torch.testing.assert_close(halved.output, h.detach(), **EXACT)
    torch.testing.assert_close(halved.ledger(0).total, h[:, 0].detach(), **EXACT)
    assert t.lin.frozen["1"] is gate and halved.frozen["0"] is t.lin.frozen["0"]
    torch.testing.assert_close(t.lin.replace({}).output, t.lin.output, **EXACT)


def test_replaced_constants_enter_the_ledger() -> None:
    t = traced("chain_with_biases")
    silent: Affine = replace(t.lin.frozen["6"], constants=())  # type: ignore[type-var]
    bias = dict(t.model.named_parameters())["6.bias"].detach()
    torch.testing.assert_close(t.lin.replace({"6": silent}).output, t.lin.output - bias, **EXACT)
    assert "6.bias" not in [term.name for term in t.lin.replace({"6": silent}).ledger(0).terms]


def test_summary_says_how_many_gates_are_open() -> None:
    t = traced("chain_with_biases")
    share = (torch.relu(t.model[0](t.x)) > 0).double().mean().item()  # type: ignore[index]
    assert t.lin.open_fraction("1") == pytest.approx(share)
    assert t.lin.open_fraction("0") is None
    line = next(line for line in t.lin.summary().splitlines() if line.startswith("1 "))
    assert line.split() == ["1", "relu", "8", f"{share:.1%}", "0"]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3, 5, 6).double(), r"must have shape \(N, 3, 6, 6\), not \(2, 3, 5, 6\)"),
        (torch.zeros(3, 6, 6).double(), "must have shape"),
        (torch.zeros(0, 3, 6, 6).double(), "must have shape"),
        (torch.tensor(1.0).double(), "must have shape"),
        (torch.zeros(2, 3, 6, 6), r"must be torch\.float64 on cpu like the network, not torch\.float32"),
        (torch.zeros(2, 3, 6, 6, device="meta").double(), "not torch.float64 on meta"),
        (torch.full((2, 3, 6, 6), float("nan")).double(), "NaN"),
        (torch.full((2, 3, 6, 6), float("inf")).double(), "infinite"),
        ([[1.0]], "must be a torch.Tensor, not list"),
    ],
)
def test_inputs_that_do_not_fit(x: Tensor, message: str) -> None:
    for function in (traced("conv_bn").graph.linearize, traced("conv_bn").graph):
        with pytest.raises(LinregError, match=message):
            function(x)


def test_overflow_names_the_node() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    nn.init.constant_(model[0].weight, 0.25)  # type: ignore[arg-type]
    nn.init.constant_(model[1].weight, 100.0)  # type: ignore[arg-type]
    graph = linreg.trace(model, torch.ones(1, 2).double())
    with pytest.raises(LinregError, match=r"not finite: node '1' \(linear\).* is the first to overflow"):
        graph.linearize(torch.full((1, 2), 1e308, dtype=torch.float64))


def test_near_names() -> None:
    graph = traced("residual_inner").graph
    with pytest.raises(LinregError, match=r"no node '3\.rellu'; did you mean '3\.relu'"):
        graph["3.rellu"]
    with pytest.raises(LinregError, match=r"'3\.conv1' was fused into '3\.bn1'"):
        graph["3.conv1"]
    with pytest.raises(LinregError, match=r"summary\(\) lists them"):
        graph["?"]


# ---- the paper's own equations, with matrices ----


def columns(lin: Linearization, stop: str) -> Tensor:
    """H of one node at the first image, by pushing unit vectors through it."""
    units = torch.eye(lin.input.shape[1], dtype=lin.input.dtype)
    return torch.stack([lin.forward(unit.expand_as(lin.input), stop=stop)[0] for unit in units], 1)


@pytest.mark.parametrize("name", ["chain", "chain_with_biases"])
@pytest.mark.parametrize("target", [0, 1])
def test_both_factorings_are_the_network(name: str, target: int) -> None:
    """Eq. 3 (gates on the left) and Eq. 13 (gates on the right) are the same c and the same sum."""
    t = traced(name)
    assert isinstance(t.model, nn.Sequential)
    ledger, c = t.lin.ledger(target), t.lin.weight(target)
    left = literal.gates_left(t.model, t.x[0], target)
    right = literal.gates_right(t.model, t.x[0], target)
    for twin in (left, right):
        torch.testing.assert_close(c[0], twin.weight, **EXACT)
        torch.testing.assert_close(t.lin.output[0, target], twin.at(t.x[0]), **EXACT)
    for l, (post, pre) in enumerate(zip(left.jacobians, right.jacobians, strict=True)):
        torch.testing.assert_close(columns(t.lin, str(2 * l + 1)), post, **EXACT)
        torch.testing.assert_close(columns(t.lin, str(2 * l)), pre, **EXACT)
    assert len(ledger.terms) == (0 if name == "chain" else 4)
    for term, mine, theirs in zip(ledger.terms, left.terms, right.terms, strict=name != "chain"):
        torch.testing.assert_close(term.values[0].sum(), mine.sum(), **EXACT)
        torch.testing.assert_close(mine, theirs, **EXACT)
        if term.name != "6.bias":
            torch.testing.assert_close(term.values[0], mine, **EXACT)


def test_residual_layer_is_one_matrix() -> None:
    """h_l = φ(W h) + h = (Ŵ + I) h (Sec. 3.4)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Linear(5, 5, bias=False).double()
    x = values(1, 5)
    lin = linreg.trace(Lambda(lambda x, layer: F.relu(layer(x)) + x, layer=layer), x).linearize(x)
    weight = layer.weight.detach()
    gated = torch.diag((weight @ x[0] > 0).double()) @ weight
    torch.testing.assert_close(columns(lin, lin.graph.output), gated + torch.eye(5).double(), **EXACT)
