"""The affine function at an input: output, weight, ledger, maps between any two nodes; on every small network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import literal
import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from nets import NETS, NORMED, Inner, Inverted, Lambda, Outer, Traced, randomised, traced
from torch import Tensor, nn

import linreg
from linreg import Linearization, LinregError
from linreg.operators import Affine, Diagonal

EXACT = {"rtol": 1e-12, "atol": 1e-12}
every_net = pytest.mark.parametrize("name", NETS)
fused_or_not = pytest.mark.parametrize(("name", "fuse"), [(n, True) for n in NETS] + [(n, False) for n in NORMED])


def random_like(value: Tensor, seed: int = 0) -> Tensor:
    return torch.randn(value.shape, generator=torch.Generator().manual_seed(seed), dtype=value.dtype)


def rerun(lin: Linearization, seeds: dict[str, Tensor], stop: str) -> Tensor:
    """The network run again, gates and all, with the values of some nodes given: what the tests differentiate."""
    values = {"input": lin.input} | seeds
    for node in lin.graph.nodes:
        if node.name not in values:
            inputs = [values[name] for name in node.inputs]
            values[node.name] = node.operator.freeze(*inputs)(*inputs)
    return values[stop]


def jvp(function: Callable[[Tensor], Tensor], at: Tensor, v: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own torch.jit.script
        return torch.func.jvp(function, (at,), (v,))[1]


def value(lin: Linearization, name: str) -> Tensor:
    return rerun(lin, {}, name)


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
        v, g = random_like(at), random_like(value(lin, stop), 1)
        function = lambda h, start=start, stop=stop: rerun(lin, {start: h}, stop)  # noqa: E731
        forward, adjoint = lin.forward(v, stop, start), lin.adjoint(g, stop, start)
        torch.testing.assert_close(forward, jvp(function, at, v), **EXACT)
        torch.testing.assert_close(adjoint, torch.func.vjp(function, at)[1](g)[0], **EXACT)
        left, right = (forward * g).sum(), (v * adjoint).sum()
        assert abs(left - right) <= 1e-12 * (forward * g).abs().sum(), (start, stop)


def test_map_from_a_node_to_itself_is_the_identity() -> None:
    lin = traced("conv_bn").lin
    v = random_like(value(lin, "2"))
    assert lin.forward(v, "2", "2") is v and lin.adjoint(v, "2", "2") is v


def test_no_path() -> None:
    lin = traced("residual_inner").lin
    v = random_like(value(lin, "4.downsample.1"))
    with pytest.raises(LinregError, match=r"no path leads from '4\.downsample\.1' to '4\.bn2'"):
        lin.forward(v, "4.bn2", "4.downsample.1")
    with pytest.raises(LinregError, match="the other way round there is one"):
        lin.adjoint(random_like(value(lin, "2")), "2", "4.bn2")
    with pytest.raises(LinregError, match="no path"):
        lin.adjoint(random_like(value(lin, "4.bn2")), "4.bn2", "4.downsample.1")


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


# ---- the ledger ----


def constants(model: nn.Module) -> set[str]:
    """The names of the model's own constants in the ledger: the biases, and one shift for each batch norm."""
    found = set()
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            found.add(f"{path}.shift")
        elif getattr(module, "bias", None) is not None:
            found.add(f"{path}.bias")
    return found


OTHERS = {
    "wiring": {"pad.pad": "pad"},
    "selections": {"rsub.constant": "constant"},
    "constants": {"sub.constant": "constant", "mean": "constant", "rsub.constant": "constant", "offset": "constant"},
}


@fused_or_not
def test_every_constant_of_the_model_is_in_the_ledger_once(name: str, fuse: bool) -> None:
    t = traced(name, fuse)
    lin = t.lin
    terms = [(term.name, term.kind) for term in lin.ledger(0).terms if term.kind != "offset"]
    names = [term for term, _ in terms]
    expected = constants(t.model)
    if name == "gates":  # one linear layer is read twice there
        expected |= {"a.bias", "b.bias"}
        assert sorted(names) == sorted([*expected, "a.bias", "b.bias"])
        return
    assert len(names) == len(set(names))
    others = {term: kind for term, kind in terms if term not in expected}
    assert set(names) >= expected
    assert sorted(others.values()) == sorted(OTHERS.get(name, {}).values())


@every_net
def test_a_constant_moves_the_score_by_its_share(name: str) -> None:
    """y(b + ε) − y(b) = ε · share / b within the region, for the first and last element of every parameter listed."""
    t = traced(name)
    ledger = t.lin.ledger(1)
    parameters = dict(t.model.named_parameters()) | dict(t.model.named_buffers())
    listed = {term.name.replace(".shift", ".bias") for term in ledger.terms}
    tried = 0
    for parameter in sorted(listed & set(parameters)):
        beta = parameters[parameter].detach()
        for index in {0, beta.numel() - 1}:
            shares = [
                shift_share(t.model, term, index)
                for term in ledger.terms
                if term.name.replace(".shift", ".bias") == parameter
            ]
            step = 1e-7
            moved = [score(t, parameter, index, sign * step) for sign in (1, -1)]
            slope = (moved[0] - moved[1]) / (2 * step)
            torch.testing.assert_close(sum(shares), slope, rtol=1e-6, atol=1e-7)
            tried += 1
    assert tried or not constants(t.model)


def shift_share(model: nn.Module, term: linreg.Term, index: int) -> Tensor:
    """share / β of one element of a term, where β is what the term holds: a bias, or the shift of a batch norm."""
    if term.kind == "shift":
        norm = model.get_submodule(term.name.removesuffix(".shift"))
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_var is not None
        beta = norm.bias - norm.weight * norm.running_mean / (norm.running_var + norm.eps).sqrt()  # type: ignore[operator]
    else:
        beta = (dict(model.named_parameters()) | dict(model.named_buffers()))[term.name]
    return term.values.flatten(1)[:, index] / beta.detach().flatten()[index]


def score(t: Traced, parameter: str, index: int, step: float) -> Tensor:
    state = {name: tensor.detach().clone() for name, tensor in t.model.state_dict().items()}
    state[parameter].view(-1)[index] += step
    with torch.no_grad():
        return torch.func.functional_call(t.model, state, (t.x,))[:, 1]


def test_batch_norm_and_convolution_keep_two_lines() -> None:
    """Fused into one operator, the convolution's bias and the shift of the batch norm stay apart."""
    fused = {term.name: term for term in traced("conv_bn").lin.ledger(0).terms}
    apart = {term.name: term for term in traced("conv_bn", fuse=False).lin.ledger(0).terms}
    assert fused.keys() == apart.keys() >= {"0.bias", "1.shift", "4.shift"}
    for name in fused:
        torch.testing.assert_close(fused[name].total, apart[name].total, **EXACT)


def test_ledgers_subtract_term_by_term() -> None:
    lin = traced("conv_bn").lin
    a, b = lin.ledger(0), lin.ledger(1)
    difference = a - b
    weights = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    expected = lin.ledger(weights)
    torch.testing.assert_close(difference.input, expected.input, **EXACT)
    for mine, theirs in zip(difference.terms, expected.terms, strict=True):
        assert (mine.node, mine.name, mine.kind) == (theirs.node, theirs.name, theirs.kind)
        torch.testing.assert_close(mine.values, theirs.values, **EXACT)
    with pytest.raises(ValueError, match="zip"):
        a - replace(b, terms=b.terms[:-1])


def test_ledger_sums_and_rows() -> None:
    ledger = traced("chain_with_biases").lin.ledger(0)
    torch.testing.assert_close(ledger.total, ledger.input_share + ledger.bias_share, **EXACT)
    rows = ledger.rows(image=1)
    assert [name for name, _, _ in rows] == ["c · x", "0.bias", "2.bias", "4.bias", "6.bias"]
    assert sum(share for _, _, share in rows) == pytest.approx(ledger.total[1].item(), rel=1e-12)
    table = ledger.summary(image=1)
    assert f"{ledger.total[1].item():+.6g}" in table and all(name in table for name, _, _ in rows)
    assert not traced("chain").lin.ledger(0).terms


# ---- targets ----


def test_targets() -> None:
    lin = traced("conv_bn").lin
    y, gradients = lin.output, torch.stack([lin.weight(k) for k in range(3)], 1)
    each = [2, 0, 1]
    weights = random_like(y[0])
    per_image = random_like(y)
    for target, expected in [
        (1, y[:, 1]),
        (torch.tensor(1), y[:, 1]),
        (each, y[range(3), each]),
        (torch.tensor(each), y[range(3), each]),
        (weights, y @ weights),
        (weights.float(), y @ weights.float().double()),
        (per_image, (y * per_image).sum(1)),
    ]:
        torch.testing.assert_close(lin.score(target), expected, **EXACT)  # type: ignore[arg-type]
        torch.testing.assert_close(lin.ledger(target).total, expected, rtol=1e-10, atol=1e-10)  # type: ignore[arg-type]
    torch.testing.assert_close(lin.weight(each), gradients[range(3), each], **EXACT)
    torch.testing.assert_close(lin.weight(weights), torch.einsum("nkchw,k->nchw", gradients, weights), **EXACT)
    torch.testing.assert_close(lin.weight(per_image), torch.einsum("nkchw,nk->nchw", gradients, per_image), **EXACT)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "say which score"),
        (3, "has 3 classes, 0 to 2"),
        (-1, "does not exist"),
        ([0, 1], "one for each of 3 images"),
        ([[0, 1, 2]], "one for each of 3 images"),
        (torch.eye(3).long(), r"not torch.int64 \(3, 3\); weights of the outputs must be floating point"),
        (torch.tensor([True, False, True]), "class index"),
        (torch.zeros(4), r"must have shape \(3,\) or \(3, 3\), not \(4,\)"),
    ],
)
def test_targets_that_do_not_fit(target: object, message: str) -> None:
    with pytest.raises(LinregError, match=message):
        traced("conv_bn").lin.ledger(target)  # type: ignore[arg-type]


def test_output_of_one_number_needs_no_target() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    x = random_like(torch.zeros(2, 4, dtype=torch.float64))
    lin = linreg.trace(model, x).linearize(x)
    torch.testing.assert_close(lin.score(), lin.output[:, 0], **EXACT)
    torch.testing.assert_close(lin.ledger().total, lin.output[:, 0], **EXACT)


def test_output_without_a_class_dimension() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1), nn.Flatten(0)).double()
    x = random_like(torch.zeros(2, 4, dtype=torch.float64))
    lin = linreg.trace(model, x).linearize(x)
    torch.testing.assert_close(lin.score(), lin.output, **EXACT)
    torch.testing.assert_close(lin.ledger().total, lin.output, **EXACT)
    with pytest.raises(LinregError, match="one number for each image, and needs no target"):
        lin.score(0)


def test_output_of_maps_takes_weights() -> None:
    """A segmentation: one pixel of one class."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 1)).double()
    x = random_like(torch.zeros(2, 2, 5, 5, dtype=torch.float64))
    lin = linreg.trace(model, x).linearize(x)
    pixel = torch.zeros(2, 3, 3, dtype=torch.float64)
    pixel[1, 2, 0] = 1
    torch.testing.assert_close(lin.score(pixel), lin.output[:, 1, 2, 0], **EXACT)
    torch.testing.assert_close(lin.ledger(pixel).total, lin.output[:, 1, 2, 0], **EXACT)
    for target in (1, pixel.long()):
        with pytest.raises(LinregError, match=r"floating-point weights of shape \(2, 3, 3\), .*; w\[1, 1, 1\] = 1$"):
            lin.weight(target)


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
    x = random_like(torch.zeros(1, 5, dtype=torch.float64))
    lin = linreg.trace(Lambda(lambda x, layer: F.relu(layer(x)) + x, layer=layer), x).linearize(x)
    weight = layer.weight.detach()
    gated = torch.diag((weight @ x[0] > 0).double()) @ weight
    torch.testing.assert_close(columns(lin, lin.graph.output), gated + torch.eye(5).double(), **EXACT)


# ---- random networks ----

BLOCKS = {
    "relu": lambda: nn.ReLU(),
    "leaky": lambda: nn.LeakyReLU(0.2),
    "hardtanh": lambda: nn.Hardtanh(-0.5, 0.5),
    "conv": lambda: nn.Conv2d(4, 4, 3, padding=1),
    "grouped": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False),
    "same": lambda: nn.Conv2d(4, 4, 2, padding="same"),
    "norm": lambda: nn.BatchNorm2d(4),
    "max": lambda: nn.MaxPool2d(3, 1, padding=1),
    "average": lambda: nn.AvgPool2d(3, 1, padding=1),
    "pad": lambda: nn.Sequential(nn.ConstantPad2d(1, 0.5), nn.Conv2d(4, 4, 3)),
    "outer": lambda: Outer(4),
    "inner": lambda: Inner(4, 4),
    "inverted": lambda: Inverted(4, 2),
    "wired": lambda: Lambda(lambda x: torch.cat([x[:, 2:], 1 - x[:, :2]], 1)),
}


@settings(max_examples=10, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(blocks=st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_random_networks(blocks: list[str], seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Conv2d(2, 4, 2), *(BLOCKS[b]() for b in blocks), nn.Flatten(), nn.Linear(64, 2))
        model = randomised(layers.double()).eval()
        x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    lin = linreg.trace(model, x).linearize(x)
    leaf = x.clone().requires_grad_()
    y = model(leaf)[:, 1]
    (gradient,) = torch.autograd.grad(y.sum(), leaf)
    torch.testing.assert_close(lin.score(1), y.detach(), **EXACT)
    torch.testing.assert_close(lin.weight(1), gradient, **EXACT)
    certificate = lin.certificate(1)
    assert ((y.detach() - certificate.total).abs() <= 1e-12 * certificate.magnitude).all()
    v, g = random_like(x), random_like(lin.output)
    forward = lin.forward(v)
    torch.testing.assert_close(forward, jvp(model, x, v), **EXACT)
    assert abs((forward * g).sum() - (v * lin.adjoint(g)).sum()) <= 1e-12 * (forward * g).abs().sum()
