"""The proved bound against what is observed, its literal twin, and how sure the gates are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from nets import NETS, Lambda, every_net, traced
from scipy.sparse import csr_array
from torch import Tensor, nn

import linreg
from linreg import LinregError
from linreg.certificate import completeness_bound
from linreg.margins import carry, margins
from linreg.operators import Affine, Diagonal, Scale
from linreg.operators.rounding import gamma, widening
from linreg.operators.sparse import diagonal
from linreg.regions import disagreements

FLOAT32, FLOAT64 = torch.float32, torch.float64
# Nets of which float32 and float64 hold the same numbers: no batch norm to fold, no decimal fraction in the code.
SAME_NUMBERS = ("chain", "chain_with_biases", "residual_outer", "pools", "dropout", "shortcut")


@cache
def graph(name: str, dtype: torch.dtype) -> linreg.OperatorGraph:
    """A net of NETS with weights that float32 holds, in either arithmetic."""
    model, x = NETS[name]()
    return linreg.trace(model.float().to(dtype), x.float().to(dtype))


def random_inputs(name: str, count: int, seed: int) -> Tensor:
    shape = traced(name).graph.input_shape
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


# ---- the bound ----


def cases(dtype: torch.dtype) -> Iterator[linreg.Certificate]:
    """At least a thousand (net, input, target), of inputs on several scales and targets of classes and weights."""
    graphs = {name: traced(name).graph if dtype == FLOAT64 else graph(name, dtype) for name in NETS}
    weights = torch.tensor([0.3, -1.7, 0.9])
    for seed, name in enumerate(NETS):
        x = random_inputs(name, 18, seed)
        scale = torch.logspace(-3, 3, 18).view(-1, *[1] * (x.dim() - 1))
        for batch in (x, x * scale):
            lin = graphs[name].linearize(batch.to(dtype))
            yield from (lin.certificate(0), lin.certificate(weights))


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
def test_bound_is_never_exceeded_and_not_far(dtype: torch.dtype) -> None:
    """In 1,080 random cases; where nothing was observed, the bound counts as infinitely far."""
    found = [(c.score.double() - c.total.double(), c.bound) for c in cases(dtype)]
    errors, bounds = (torch.cat(values) for values in zip(*found, strict=True))
    assert len(errors) >= 1000 and bounds.isfinite().all()
    assert (errors.abs() <= bounds).all()
    assert (bounds / errors.abs()).median() <= 1e4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bound_holds_in_half_precision(dtype: torch.dtype) -> None:
    for name in ("chain_with_biases", "residual_outer"):
        certificate = graph(name, dtype).linearize(random_inputs(name, 18, 0).to(dtype)).certificate(0)
        assert ((certificate.score.double() - certificate.total.double()).abs() <= certificate.bound).all()


def dense_bound(model: nn.Sequential, x: Tensor, target: int) -> Tensor:
    """The same bound for a chain of linear layers at one float64 input, with explicit matrices."""
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    u = torch.finfo(FLOAT64).eps / 2
    values, gates = [x], []
    for layer in layers:
        z = layer.weight @ values[-1] + layer.bias
        gates.append((z > 0).double())
        values.append(z * gates[-1] if layer is not layers[-1] else z)
    g, bound, terms = torch.eye(len(values[-1])).double()[target], torch.zeros(()).double(), len(layers) + 1
    for l in reversed(range(len(layers))):
        W, b, h = layers[l].weight.detach(), layers[l].bias.detach(), values[l].detach()
        outputs, inputs = W.shape
        through = g.abs() @ (W.abs() @ h.abs())
        forward, backward, own = inputs + 1, outputs, 1 + outputs + terms
        bound += u * ((forward + backward) * through + (forward + own) * (g.abs() @ b.abs()))
        g = W.T @ g * (gates[l - 1] if l else 1)
    return bound + u * ((len(x) + terms) * (g.abs() @ x.abs()) + values[-1].detach().abs()[target])


def test_bound_is_its_literal_twin() -> None:
    """γ_n is n u to twelve digits here, and the widening of the sums is less than that of γ."""
    t = traced("chain_with_biases")
    assert isinstance(t.model, nn.Sequential)
    for target in range(3):
        bound = t.lin.certificate(target).bound
        for n in range(3):
            assert bound[n].item() == pytest.approx(dense_bound(t.model, t.x[n], target).item(), rel=1e-9)


def test_bound_of_a_replaced_linearization() -> None:
    lin = traced("chain_with_biases").lin
    gate = lin.frozen["1"]
    assert isinstance(gate, Diagonal)
    certificate = lin.replace({"1": Diagonal(gate.slope * 0.3)}).certificate(1)
    assert (certificate.completeness_error <= certificate.bound).all() and (certificate.bound < 1e-12).all()


def test_a_wrong_ledger_breaks_the_bound() -> None:
    """It is tight enough to see a gate that was turned in one of the two sweeps alone, in either arithmetic."""
    for dtype in (FLOAT32, FLOAT64):
        lin = graph("conv_bn", dtype).linearize(random_inputs("conv_bn", 4, 0).to(dtype))
        gate = lin.frozen["2"]
        assert isinstance(gate, Diagonal)
        turned = gate.slope.clone()
        turned[:, 0] = 1 - turned[:, 0]
        other = replace(lin, frozen={**lin.frozen, "2": replace(gate, slope=turned)})
        error = (lin.score(0) - other.ledger(0).total).abs().double()
        assert (error > completeness_bound(other, 0, other.ledger(0))).all()


# ---- operators ----


def matrices(affine: Affine, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """|A_k| of one image, by autograd."""
    jacobians = torch.func.jacrev(affine.linear, tuple(range(len(inputs))))(*inputs)
    return [j.reshape(-1, x.numel()).abs() for j, x in zip(jacobians, inputs, strict=True)]


@every_net
def test_every_operator_has_its_magnitude_and_its_lengths(name: str) -> None:
    """|A| x against the Jacobian's absolute value; and as many roundings as a row, or a column, has terms."""
    t = traced(name, fuse=False)
    lin = t.graph.linearize(t.x[:1])

    def step(node: linreg.Node, inputs: tuple[Tensor, ...]) -> Tensor:
        affine = lin.frozen[node.name]
        rule, dense = affine.rounding(*inputs), matrices(affine, inputs)
        sizes = [x.abs() for x in inputs]
        expected = sum(A @ x.flatten() for A, x in zip(dense, sizes, strict=True))
        torch.testing.assert_close(rule.absolute(*sizes).flatten(), expected, rtol=1e-12, atol=1e-12)
        exact = int(all(((A == 0) | (A == 1)).all() for A in dense))  # 1 · x is exact: n terms take n − 1 additions
        rows = torch.stack([(A != 0).sum(1) for A in dense]).sum(0)
        columns = torch.cat([(A != 0).sum(0) for A in dense])
        assert rule.forward >= rows.max() - exact and rule.backward >= columns.max() - exact, node
        return affine(*inputs)

    lin.graph.evaluate({"input": lin.input}, step)


def test_gamma() -> None:
    like = torch.zeros((), dtype=FLOAT64)
    u = 2.0**-53
    assert gamma(0, like) == 0 and gamma(1, like) == u / (1 - u)
    assert gamma(2.0**53, like) == gamma(float("inf"), like) == float("inf")
    assert gamma(10, like.float()) == pytest.approx(10 * 2**-24, rel=1e-5)
    assert 1 < widening(10, like) < 1 + 1e-13 and widening(1e8, like.float()) == float("inf")


@dataclass(frozen=True, eq=False)
class Strange(Affine):
    """An operator that the table does not know."""

    slope: Tensor
    kind = "strange"

    def linear(self, *inputs: Tensor) -> Tensor:
        return self.slope * inputs[0]

    def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
        return (self.slope * grad,)


class Known(Strange):
    def sparse(self, image: int = 0) -> tuple[csr_array, ...]:
        return (diagonal(self.slope[image]),)


def test_unknown_operators_go_by_their_matrices() -> None:
    """Each image by its own; without matrices the bound is infinite, which is true."""
    lin = traced("chain_with_biases").lin
    slope = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=FLOAT64)
    known = lin.replace({"1": Known(slope)}).certificate(0)
    expected = lin.replace({"1": Scale(slope, (8,))}).certificate(0)
    torch.testing.assert_close(known.bound, expected.bound, rtol=0.5, atol=0)
    assert (known.completeness_error <= known.bound).all() and (known.bound >= expected.bound).all()
    unknown = lin.replace({"1": Strange(slope)}).certificate(0)
    assert (unknown.bound == torch.inf).all() and "rounding explains is not known" in unknown.summary()


# ---- how sure the gates are ----


@pytest.mark.parametrize("name", SAME_NUMBERS)
def test_errors_are_within_what_is_carried_forward(name: str) -> None:
    """|ẑ − z| at every node, float32 against float64, gates and selections as each arithmetic has them."""
    x = torch.cat([random_inputs(name, 20, 1), 100 * random_inputs(name, 20, 2)])
    states, exact = {"input": (x, 0 * x, 0 * x)}, {"input": x.double()}
    for single, double in zip(graph(name, FLOAT32).nodes, graph(name, FLOAT64).nodes, strict=True):
        assert single.name == double.name
        states[single.name] = carry(single.operator, tuple(states[i] for i in single.inputs))
        inputs = [exact[i] for i in double.inputs]
        exact[double.name] = double.operator.freeze(*inputs)(*inputs)
        value, total, recent = states[single.name]
        assert ((value.double() - exact[single.name]).abs() <= total.double()).all(), single
        assert (recent <= total).all()


@every_net
def test_gates_that_differ_are_unproved(name: str) -> None:
    x = random_inputs(name, 30, 3)
    lin = graph(name, FLOAT32).linearize(x)
    judged = lin.certificate(0).margins
    assert all((margin.doubtful <= margin.unproved).all() for margin in judged)
    if name in SAME_NUMBERS:
        differing = disagreements(lin, graph(name, FLOAT64).linearize(x.double()))
        assert all((differing[margin.site] <= margin.unproved).all() for margin in judged)


KINKS = {"leaky relu": [0.0], "relu": [0.0], "prelu": [0.0], "abs": [0.0], "relu6": [0.0, 6.0]}
BOUNDS = {
    "gates": {"tanh": [-0.4, 0.5], "clamp": [-0.3, 0.2]},
    "selections": {"shrink": [-0.1, 0.1], "where": [0.2]},
}


@every_net
def test_nearest_kink_is_the_nearest(name: str) -> None:
    t = traced(name)
    found = {margin.site: margin for margin in t.lin.certificate(0).margins}
    sites = [node for node in t.graph.nodes if node.is_gate]
    assert list(found) == [site.name for site in sites]
    for site in sites:
        z = t.lin.forward(t.x * 0, stop=site.inputs[0]) if site.inputs[0] == "input" else reached(t.lin, site.inputs[0])
        kinks = BOUNDS.get(name, {}).get(site.name.split("@")[0], KINKS.get(site.operator.kind))
        assert kinks is not None
        distance = torch.stack([(z - kink).abs() for kink in kinks]).amin(0).flatten(1)
        torch.testing.assert_close(found[site.name].nearest, distance.amin(1), rtol=1e-9, atol=1e-12)
        assert found[site.name].units == distance.shape[1]


def reached(lin: linreg.Linearization, name: str) -> Tensor:
    """The value of a node."""
    values = {"input": lin.input}
    for node in lin.graph.nodes:
        values[node.name] = lin.frozen[node.name](*(values[i] for i in node.inputs))
    return values[name]


def single(bias: float, dtype: torch.dtype = FLOAT32) -> linreg.OperatorGraph:
    """relu(x_1 + … + x_8 + bias), then an identity; twice."""
    model = nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 1, bias=False)).to(dtype)
    with torch.no_grad():
        nn.init.ones_(model[0].weight)  # type: ignore[arg-type]
        nn.init.constant_(model[0].bias, bias)  # type: ignore[arg-type]
        model[0].bias[1] = 5  # type: ignore[index, operator]
    return linreg.trace(model, torch.ones(1, 8, dtype=dtype))


def test_doubt_begins_at_the_bound() -> None:
    """z = 8 + b is in doubt up to γ_9 (8 + |b|), about 9 · 2⁻²⁴ · 16; the other unit, at 13, never is."""
    x, width = torch.ones(1, 8), 9 * 2**-24 * 16
    for distance, doubtful in [(0.0, 1), (0.5 * width, 1), (0.9 * width, 1), (1.1 * width, 0), (1.0, 0)]:
        graph = single(-8 + distance)
        (margin,) = margins(graph, x)
        assert margin.doubtful.item() == margin.unproved.item() == doubtful, distance
        assert margin.nearest.item() == pytest.approx(distance, abs=2**-22)
        certificate = graph.linearize(x).certificate()
        assert certificate.doubtful.item() == doubtful
        line = certificate.summary().splitlines()[1]
        assert line.startswith(f"{doubtful or 'none'} of 2 gates is so close to its kink that rounding since the gates")
        assert ("(closest: '1')" in line) == bool(doubtful) and ("times that distance)" in line) == (not doubtful)
    assert margins(single(-8 + width / 2, FLOAT64), x.double())[0].doubtful.item() == 0


def test_gates_on_the_input_itself_are_sure() -> None:
    x = torch.tensor([[1e-30, -1.0]])
    (margin,) = margins(linreg.trace(nn.Sequential(nn.ReLU(), nn.Linear(2, 1)), x), x)
    assert margin.doubtful.item() == 0 and margin.relative.item() == torch.inf


def test_networks_without_gates_have_nothing_in_doubt() -> None:
    x = torch.ones(2, 3)
    certificate = linreg.trace(nn.Linear(3, 1), x).linearize(x).certificate()
    assert certificate.margins == () and (certificate.doubtful == 0).all()
    assert certificate.summary().endswith("\nthere are no gates")


def test_one_number_an_image() -> None:
    """An output (N,), gates on it, and a gate of no units."""
    model = Lambda(lambda x: F.relu(x.sum(1) - 1) - F.relu(x[:, :0]).sum(1))
    x = torch.tensor([[3.0, -1.0, 0.5], [1.0, 0.0, 0.5]], dtype=FLOAT64)
    lin = linreg.trace(model, x).linearize(x)
    certificate = lin.certificate()
    assert certificate.completeness_error.tolist() == [0, 0] and (certificate.bound < 1e-14).all()
    assert [(margin.units, margin.nearest.tolist()) for margin in certificate.margins] == [(1, [1.5, 0.5])]
    assert [count.tolist() for count in disagreements(lin, lin.graph.linearize(x - 1)).values()] == [[1, 1], [0, 0]]


def test_disagreements_count_units() -> None:
    t = traced("gates")
    other = t.graph.linearize(-t.x)
    found = disagreements(t.lin, other)
    for node in t.graph.nodes:
        if node.is_gate:
            a, b = (lin.frozen[node.name] for lin in (t.lin, other))
            assert isinstance(a, Diagonal) and isinstance(b, Diagonal)
            moved = a.slope != b.slope
            moved = moved if a.offset is None or b.offset is None else moved | (a.offset != b.offset)
            assert torch.equal(found.pop(node.name), moved.sum(1))
    assert not found
    assert not sum(count.sum() for count in disagreements(t.lin, t.lin).values())
    pools = traced("pools")
    shuffled = disagreements(pools.lin, pools.graph.linearize(pools.x.flip(3)))
    assert [site for site in shuffled if not pools.graph[site].is_gate] == ["2", "8"]  # max pooling
    assert all(count.sum() > 0 for count in shuffled.values())


def test_disagreements_of_choices() -> None:
    """Maxout, and a condition on other data."""
    t = traced("selections")
    lins = t.lin, t.graph.linearize(t.x.flip(3))
    found = disagreements(*lins)
    (a, b), (c, d) = ([reached(lin, name) for name in ("a", "b")] for lin in lins)
    assert torch.equal(found["maximum"], ((a >= b) != (c >= d)).flatten(1).sum(1))
    first, second = (reached(lin, "mean").expand(-1, 5, -1, -1) > 0 for lin in lins)
    assert torch.equal(found["where@1"], (first != second).flatten(1).sum(1))
    assert all(found[site].sum() > 0 for site in ("maximum", "where@1", "pool", "amax"))


def test_only_one_network_can_be_compared() -> None:
    with pytest.raises(LinregError, match="one network can be compared; these differ in 2, 3, 4, 5, 7, 8"):
        disagreements(traced("pools").lin, traced("chain").lin)
    with pytest.raises(LinregError, match="3 and 2 images"):
        disagreements(traced("chain").lin, traced("chain").graph.linearize(traced("chain").x[:2]))


# ---- the object ----


def test_target_is_checked_at_once() -> None:
    with pytest.raises(LinregError, match="has 3 classes"):
        traced("chain").lin.certificate(7)


def test_summary_says_error_and_bound() -> None:
    certificate = traced("conv_bn").lin.certificate(2)
    first, second = certificate.summary(1).splitlines()
    for value in (certificate.score, certificate.total):
        assert f"{value[1]:.6g}" in first
    assert first.endswith(f"of Σ|terms| = {certificate.magnitude[1]:.4g}; rounding explains that")
    assert second.startswith("none of 165 gates is so close to its kink that rounding since the gates before may have ")
    assert second.endswith("times that distance)")


def test_summary_names_the_bound_where_rounding_does_not_explain_the_error() -> None:
    certificate = traced("conv_bn").lin.certificate(2)
    vars(certificate)["total"] = certificate.total + 2 * certificate.bound  # as if a bias had been forgotten
    said = f"cannot make it more than {certificate.bound[1]:.1e}, so a term is missing or wrong"
    assert certificate.summary(1).splitlines()[0].endswith(said)


@pytest.mark.parametrize("name", ["pools", "selections"])
def test_summary_says_that_selections_are_not_judged(name: str) -> None:
    lin = traced(name).lin
    assert lin.certificate(torch.ones_like(lin.output[0])).summary().endswith("; selections are not judged")
