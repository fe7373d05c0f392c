"""Explicit matrices: each operator's own, and their products along the graph."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from math import prod

import literal
import numpy as np
import pytest
import torch
from approx import EXACT, values
from cases import CASES, every_case, together
from cases import traced as traced_case
from nets import BLOCKS, Lambda, every_net, randomised, traced
from rerun import rerun
from scipy.sparse import csr_array
from torch import Tensor, nn

import linreg
from linreg import Linearization, LinregError
from linreg import jacobian as constants
from linreg.operators import Affine, Convolution, Linear
from linreg.operators.base import LinearFunction
from linreg.operators.sparse import degrees_of


def one(name: str) -> Linearization:
    """A network of NETS at its first input."""
    t = traced(name)
    return t.graph.linearize(t.x[:1])


def dense(matrix: csr_array) -> Tensor:
    return torch.from_numpy(matrix.toarray())


def jacobian(affine: Affine, shapes: list[tuple[int, ...]], k: int, image: int, images: int) -> Tensor:
    """The matrix of input k of an operator at one of several images, row by row, of its linear part."""

    def value(x: Tensor) -> Tensor:
        inputs = [x.new_zeros(images, *shape) for shape in shapes]
        inputs[k] = torch.stack([x if n == image else torch.zeros_like(x) for n in range(images)])
        return affine.linear(*inputs)[image]

    x = values(*shapes[k])
    result = torch.autograd.functional.jacobian(value, x)  # jacrev's vmap fails in the adjoint of slice_scatter
    return result.reshape(-1, x.numel())


# ---- operators ----


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # jacrev, where vmap has no rule for a kernel
@every_case
def test_operator_gives_its_matrix(case: str) -> None:
    """For each operator of the case, each of its inputs, at each image."""
    t = traced_case(case)
    for node in t.lin.graph.nodes:
        affine, shapes = t.lin.frozen[node.name], [t.lin.graph.shape(name) for name in node.inputs]
        for image in range(len(t.x)):
            for k, matrix in enumerate(affine.sparse(image)):
                assert matrix.format == "csr" and matrix.shape == (prod(node.shape), prod(shapes[k])), str(node)
                expected = jacobian(affine, shapes, k, image, len(t.x))
                found = dense(matrix).to(expected)
                torch.testing.assert_close(found, expected, **EXACT, msg=lambda m, n=node: f"{n}: {m}")


@every_case
def test_degrees_bound_the_nonzeros(case: str) -> None:
    t = traced_case(case)
    for node in t.lin.graph.nodes:
        affine = t.lin.frozen[node.name]
        for matrix, bound in zip(affine.sparse(), affine.degrees(), strict=True):
            assert all(a <= b for a, b in zip(degrees_of(matrix), bound, strict=True)), str(node)


@together
@pytest.mark.parametrize("case", [c for c in CASES if "conv" in c and "reflecting" not in c and "circular" not in c])
def test_convolution_rows_are_in_order_and_indices_short(case: str) -> None:
    for affine in traced_case(case).lin.frozen.values():
        (matrix,) = affine.sparse()
        assert matrix.indices.dtype == matrix.indptr.dtype == np.int32
        assert matrix.has_canonical_format


def test_convolution_takes_little_memory() -> None:
    """At most 1.5 times the bytes of the arrays that it gives."""
    affine = Convolution(torch.ones(64, 3, 7, 7), (3, 64, 64), [2, 2], [3, 3], [1, 1], 1, False, [0, 0])
    tracemalloc.start()
    (matrix,) = affine.sparse()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most <= 1.5 * (matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes)


def test_matrices_share_no_memory_with_the_network() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Flatten(), nn.Conv1d(1, 1, 1)).double()
    lin = linreg.trace(Lambda(lambda x, m: m[2](m[0](x)[:, None]), m=model), values(1, 3)).linearize(values(1, 3))
    before = lin.matrix()
    for affine in lin.frozen.values():
        for matrix in affine.sparse():
            matrix.data[:] = 0
    assert torch.equal(lin.matrix(), before)


def test_an_operator_without_matrix_says_so() -> None:
    class Foreign(Affine):
        kind = "foreign"

        def linear(self, *inputs: Tensor) -> Tensor:
            return inputs[0]

        def adjoint(self, grad: Tensor) -> tuple[Tensor, ...]:
            return (grad,)

    with pytest.raises(LinregError, match=r"'foreign' gives no explicit matrix: use `operator`"):
        Foreign().sparse()
    with pytest.raises(TypeError, match="abstract"):
        LinearFunction(torch.neg, ((3,),))  # type: ignore[abstract]


# ---- H of whole networks and sub-paths ----


@every_net
def test_matrix_is_the_jacobian(name: str) -> None:
    lin, model = one(name), traced(name).model
    expected = torch.func.jacrev(lambda x: model(x[None])[0])(lin.input[0])
    expected = expected.reshape(-1, lin.input.numel())
    torch.testing.assert_close(lin.matrix(), expected, **EXACT)
    torch.testing.assert_close(dense(lin.matrix(format="csr")), expected, **EXACT)


@pytest.mark.parametrize("seed", range(20))
def test_random_networks(seed: int) -> None:
    """H_l of every node, dense and CSR, is the Jacobian of the network up to there."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        blocks = [BLOCKS[sorted(BLOCKS)[i]]() for i in torch.randint(len(BLOCKS), (1 + seed % 5,)).tolist()]
        layers = nn.Sequential(nn.Conv2d(2, 4, 2), *blocks, nn.Flatten(), nn.Linear(64, 2))
        model = randomised(layers.double()).eval()
        x = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    lin = linreg.trace(model, x).linearize(x)
    for node in lin.graph.nodes:
        expected = torch.func.jacrev(lambda x, stop=node.name: rerun(lin, {"input": x[None]}, stop)[0])(x[0])
        expected = expected.reshape(-1, x.numel())
        torch.testing.assert_close(lin.matrix(node.name), expected, **EXACT)
        torch.testing.assert_close(dense(lin.matrix(node.name, format="csr")), expected, **EXACT)


@every_net
def test_csr_is_dense_between_any_nodes(name: str) -> None:
    """From the input to each node, and from each node to the output, whichever side has fewer rows or columns."""
    lin = one(name)
    for node in lin.graph.nodes:
        for stop, start in [(node.name, "input"), (lin.graph.output, node.name)]:
            sparse = lin.matrix(stop, start, "csr")
            torch.testing.assert_close(dense(sparse), lin.matrix(stop, start), **EXACT)
            assert sparse.has_sorted_indices


@every_net
def test_one_operator_is_a_sub_path(name: str) -> None:
    lin = one(name)
    for node in lin.graph.nodes:
        if len(node.inputs) == 1 and lin.graph.between(node.name, node.inputs[0]) == (node,):
            (own,) = lin.frozen[node.name].sparse()
            assert (lin.matrix(node.name, node.inputs[0], "csr") != own).nnz == 0


@every_net
def test_sub_paths_compose(name: str) -> None:
    """∂y/∂x = ∂y/∂h ∂h/∂x at every node h that all paths pass."""
    lin = one(name)
    whole, through = lin.matrix(), 0
    for node in lin.graph.nodes:
        position = lin.graph.nodes.index(node)
        later = {n for other in lin.graph.nodes[position + 1 :] for n in other.inputs}
        if later <= {other.name for other in lin.graph.nodes[position:]}:
            product = lin.matrix(start=node.name) @ lin.matrix(node.name)
            torch.testing.assert_close(product, whole, rtol=1e-12, atol=1e-12 * float(whole.abs().max()))
            through += 1
    assert through >= 1


@every_net
def test_constants_through_matrices_complete_y(name: str) -> None:
    """Eq. 13: y = H x + Σ_l [Ŵ_L … Ŵ_{l+1}] β_l, with explicit matrices."""
    lin = one(name)
    terms = [lin.matrix() @ lin.input.flatten()]
    for node in lin.graph.nodes:
        for constant in lin.frozen[node.name].constants:
            beta = constant.value.broadcast_to(1, *node.shape).flatten()
            terms.append(lin.matrix(start=node.name) @ beta)
    scale = sum(term.abs().max() for term in terms)
    torch.testing.assert_close(sum(terms), lin.output.flatten(), rtol=0, atol=1e-12 * float(scale))


def test_gates_on_outputs() -> None:
    """Eqs. 3 and 4: Ŵ_l = diag(gate) W_l from the gate before to this one, y = w Ŵ_L … Ŵ_1 x without biases."""
    lin, model = one("chain"), traced("chain").model
    names = ["input", *(node.name for node in lin.graph.nodes if node.is_gate)]
    gated = [lin.matrix(stop, start) for start, stop in pairwise(names)]
    for matrix, (weight, _), name in zip(gated, literal.layers(model), names[1:], strict=False):
        torch.testing.assert_close(matrix, torch.diag(lin.frozen[name].slope[0].double()) @ weight, **EXACT)
    H = literal.gates_left(model, lin.input[0], 0).jacobians
    product = torch.eye(lin.input.numel(), dtype=torch.float64)
    for matrix, name, expected in zip(gated, names[1:], H, strict=True):
        product = matrix @ product
        torch.testing.assert_close(product, expected, **EXACT)
        torch.testing.assert_close(lin.matrix(name), expected, **EXACT)
    y = lin.matrix(start=names[-1]) @ product @ lin.input[0]
    torch.testing.assert_close(y, lin.output[0], **EXACT)


def test_gates_on_inputs() -> None:
    """Eq. 13: Ŵ_l = W_l diag(gate) from one layer to the next, W_1 bare, and the sum over biases b_l."""
    lin, model = one("chain_with_biases"), traced("chain_with_biases").model
    names = [node.name for node in lin.graph.nodes if isinstance(lin.frozen[node.name], Linear)]
    hatted = [lin.matrix(stop, start) for start, stop in zip(["input", *names], names, strict=False)]
    torch.testing.assert_close(hatted[0], model[0].weight.detach(), **EXACT)
    for matrix, start, stop in zip(hatted[1:], names, names[1:], strict=False):
        (gate,) = lin.graph.consumers(start)
        weight = lin.frozen[stop].weight
        torch.testing.assert_close(matrix, weight @ torch.diag(lin.frozen[gate.name].slope[0].double()), **EXACT)
    value = lin.input[0]
    for matrix, name in zip(hatted, names, strict=True):
        value = matrix @ value + lin.frozen[name].constants[0].value
    torch.testing.assert_close(value, lin.output[0], **EXACT)
    H = literal.gates_right(model, lin.input[0], 0).jacobians
    for name, expected in zip(names, H, strict=False):
        torch.testing.assert_close(lin.matrix(name), expected, **EXACT)


def test_from_a_node_to_itself_is_the_identity() -> None:
    lin = one("chain")
    name = lin.graph.nodes[1].name
    assert torch.equal(lin.matrix(name, name), torch.eye(8, dtype=torch.float64))
    assert torch.equal(dense(lin.matrix(name, name, "csr")), torch.eye(8, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_is_the_graphs(dtype: torch.dtype) -> None:
    """scipy has no half precision: CSR is in float32 there. Averages and moves keep the dtype too."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)).to(dtype)
    x = torch.ones(1, 1, 6, 6, dtype=dtype)
    lin = linreg.trace(model, x).linearize(x)
    assert lin.matrix().dtype == dtype
    wanted = np.float64 if dtype == torch.float64 else np.float32
    for name in ["input", *(node.name for node in lin.graph.nodes)]:
        assert lin.matrix(start=name, format="csr").dtype == wanted


@pytest.mark.parametrize("channels", [1, 3])
def test_large_dense_matrix_by_either_way(monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    """Rows (fewer for one channel) or columns pushed in batches, and the product of sparse matrices, are one matrix."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, channels, 3, padding=1)).double()
    x, ways = values(1, 2, 12, 12), []
    lin = linreg.trace(net, x).linearize(x)
    monkeypatch.setattr(constants, "BATCH", {"cpu": 5000})
    for share in (0.0, 1.0):
        monkeypatch.setattr(constants, "SPARSE", share)
        ways.append(lin.matrix())
    torch.testing.assert_close(*ways, **EXACT)
    expected = torch.func.jacrev(lambda x: net(x[None])[0])(x[0])
    torch.testing.assert_close(ways[0], expected.reshape(ways[0].shape), **EXACT)
