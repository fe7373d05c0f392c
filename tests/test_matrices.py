"""Explicit matrices: each operator's own, their products along the graph, and the same without matrices."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from math import prod

import literal
import numpy as np
import pytest
import torch
from nets import NETS, Lambda, randomised, traced
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds
from test_linearize import BLOCKS, rerun
from test_operators import CASES, every_case, values
from test_operators import traced as traced_case
from torch import Tensor, nn

import linreg
from linreg import Linearization, LinregError
from linreg import jacobian as matrices
from linreg.operators import Affine, Convolution, Linear
from linreg.operators.base import LinearFunction
from linreg.operators.sparse import degrees_of

EXACT = {"rtol": 1e-12, "atol": 1e-12}
every_net = pytest.mark.parametrize("name", NETS)


def one(name: str) -> Linearization:
    """A network of NETS at its first input."""
    t = traced(name)
    return t.graph.linearize(t.x[:1])


def dense(matrix: csr_array) -> Tensor:
    return torch.from_numpy(matrix.toarray())


def jacobian(affine: Affine, shapes: list[tuple[int, ...]], k: int, image: int, images: int) -> Tensor:
    """The matrix of input k of an operator at one of several images, by `jacrev` of its linear part."""

    def value(x: Tensor) -> Tensor:
        inputs = [x.new_zeros(images, *shape) for shape in shapes]
        inputs[k] = torch.stack([x if n == image else torch.zeros_like(x) for n in range(images)])
        return affine.linear(*inputs)[image]

    x = values(*shapes[k])
    result = torch.func.jacrev(value)(x)
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
        if len(node.inputs) == 1 and lin.graph.between(node.inputs[0], node.name) == (node,):
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
    assert lin.operator().dtype == wanted and (lin.operator() @ np.ones(36)).dtype == wanted


@pytest.mark.parametrize("channels", [1, 3])
def test_large_dense_matrix_by_either_way(monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    """Rows (fewer for one channel) or columns pushed in batches, and the product of sparse matrices, are one matrix."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, channels, 3, padding=1)).double()
    x, ways = values(1, 2, 12, 12), []
    lin = linreg.trace(net, x).linearize(x)
    monkeypatch.setattr(matrices, "BATCH", {"cpu": 5000})
    for share in (0.0, 1.0):
        monkeypatch.setattr(matrices, "SPARSE", share)
        ways.append(lin.matrix())
    torch.testing.assert_close(*ways, **EXACT)
    expected = torch.func.jacrev(lambda x: net(x[None])[0])(x[0])
    torch.testing.assert_close(ways[0], expected.reshape(ways[0].shape), **EXACT)


def test_labels() -> None:
    """Row i of a matrix belongs to element labels[i] of the value, as `flatten` numbers them."""
    value = values(3, 4, 5)
    places = matrices.labels((3, 4, 5))
    assert places.shape == (60, 3)
    assert torch.equal(value[tuple(torch.from_numpy(places).T)], value.flatten())
    assert places[27].tolist() == [1, 1, 2]
    assert matrices.labels((4,)).tolist() == [[0], [1], [2], [3]]
    assert matrices.labels(()).shape == (1, 0)


# ---- what is refused ----


def huge() -> Linearization:
    """H of its last layer would take 128 TiB; a matrix of one of its convolutions 38 GiB."""
    net = nn.Sequential(nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 128, 3, padding=1))
    x = torch.zeros(1, 16, 512, 512)
    return linreg.trace(net, x).linearize(x)


def test_guard_refuses_before_building(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object) -> None:
        raise AssertionError("a matrix was built")

    lin = huge()
    monkeypatch.setattr(Convolution, "sparse", build)
    rows, columns = 128 * 512**2, 16 * 512**2
    with pytest.raises(LinregError, match=r"lin\.operator\('2', 'input'\)") as caught:
        lin.matrix()
    assert f"{rows:,} × {columns:,}" in str(caught.value) and "5.24e+05 GiB" in str(caught.value)
    figures = r"with up to 19,327,352,832 nonzeros, and takes up to 216 GiB, and the limit is 2 GiB"
    with pytest.raises(LinregError, match=figures):
        lin.matrix("2", "1", "csr")
    with pytest.raises(LinregError, match=r"limit is 0\.000977 GiB"):
        lin.matrix("1", "0", "csr", limit=2**20)


@every_net
def test_size_bounds_what_is_built(name: str) -> None:
    lin = one(name)
    for node in lin.graph.nodes:
        for stop, start in [(node.name, "input"), (lin.graph.output, node.name), (node.name, node.name)]:
            matrix, bound = lin.matrix(stop, start, "csr"), matrices.size(lin, stop, start, "csr")
            assert (bound.rows, bound.columns) == matrix.shape
            assert matrix.nnz <= bound.nonzeros <= bound.rows * bound.columns
            assert matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes <= bound.bytes
            whole = matrices.size(lin, stop, start)
            assert whole.bytes == whole.rows * whole.columns * 8


def test_errors_tell_the_way_out() -> None:
    lin, batch = one("chain"), traced("chain").lin
    for ask in (batch.matrix, batch.operator):
        with pytest.raises(LinregError, match=r"holds 3: linearize one of them, graph.linearize\(x\[:1\]\)"):
            ask()
    for ask in (lin.matrix, lin.operator):
        with pytest.raises(LinregError, match="no node '9'"):
            ask("9")
        with pytest.raises(LinregError, match=r"no path leads from '3' to '1' \(the other way round there is one\)"):
            ask("1", "3")
    with pytest.raises(LinregError, match="format must be one of 'dense', 'csr', not 'coo'"):
        lin.matrix(format="coo")


# ---- without matrices ----


@every_net
def test_operator_is_the_matrix(name: str) -> None:
    """All its products, between the input, a node in the middle and the output; and ⟨J v, g⟩ = ⟨v, Jᵀ g⟩."""
    lin = one(name)
    middle = lin.graph.nodes[len(lin.graph.nodes) // 2].name
    for stop, start in [(lin.graph.output, "input"), (middle, "input"), (lin.graph.output, middle)]:
        path, matrix = lin.operator(stop, start), lin.matrix(stop, start).numpy()
        v, g = values(matrix.shape[1], 5).numpy(), values(matrix.shape[0], 4, seed=1).numpy()
        assert path.shape == matrix.shape and path.dtype == matrix.dtype
        np.testing.assert_allclose(path @ v, matrix @ v, **tolerance(matrix))
        np.testing.assert_allclose(path.H @ g, matrix.T @ g, **tolerance(matrix))
        np.testing.assert_allclose(path @ v[:, 0], matrix @ v[:, 0], **tolerance(matrix))
        np.testing.assert_allclose(path.rmatvec(g[:, 0]), matrix.T @ g[:, 0], **tolerance(matrix))
        left, right = (path @ v[:, 0]) @ g[:, 0], v[:, 0] @ (path.T @ g[:, 0])
        assert abs(left - right) <= 1e-12 * np.abs(matrix).sum() * np.abs(v).max() * np.abs(g).max()


def tolerance(matrix: np.ndarray) -> dict[str, float]:
    return {"rtol": 1e-12, "atol": 1e-12 * float(np.abs(matrix).sum())}


def test_operator_takes_batches_that_split(monkeypatch: pytest.MonkeyPatch) -> None:
    lin = one("residual_inner")
    expected, v = lin.matrix(), values(lin.input.numel(), 7)
    monkeypatch.setattr(matrices, "BATCH", {"cpu": 3 * 10**3})
    torch.testing.assert_close(torch.from_numpy(lin.operator() @ v.numpy()), expected @ v, **EXACT)


def test_fixed_batch_of_one() -> None:
    """A network that only takes one image: its vectors go one by one."""
    net = Lambda(lambda x, w: torch.relu(torch.bmm(x, w)).flatten(1), w=values(1, 4, 3))
    x = values(1, 2, 4)
    lin = linreg.trace(net, x).linearize(x)
    expected = torch.func.jacrev(lambda x: net(x[None])[0])(x[0]).reshape(6, 8)
    torch.testing.assert_close(lin.matrix(), expected, **EXACT)
    torch.testing.assert_close(dense(lin.matrix(format="csr")), expected, **EXACT)
    torch.testing.assert_close(torch.from_numpy(lin.operator() @ np.eye(8)), expected, **EXACT)


@pytest.mark.parametrize("name", ["chain", "residual_inner", "mobile"])
def test_svds_is_the_dense_svd(name: str) -> None:
    lin = one(name)
    stop = lin.graph.nodes[len(lin.graph.nodes) // 2].name
    _, expected, _ = torch.linalg.svd(lin.matrix(stop))
    left, found, right = svds(lin.operator(stop), k=3, v0=np.ones(min(lin.operator(stop).shape)))
    np.testing.assert_allclose(np.sort(found)[::-1], expected[:3].numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(lin.operator(stop) @ right.T, left * found, atol=1e-10 * float(expected[0]))


# ---- what is read off them ----


def test_singular_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """By iterations and by the dense matrix; more than there are gives all."""
    lin = one("residual_inner")
    stop = next(node.name for node in lin.graph.nodes if prod(node.shape) > 20)
    expected = torch.linalg.svdvals(lin.matrix(stop))
    ways = [matrices.singular_values(lin, stop, k=4)]
    monkeypatch.setattr(matrices, "THIN", 3)
    ways.append(matrices.singular_values(lin, stop, k=4))
    assert torch.equal(ways[1], matrices.singular_values(lin, stop, k=4)), "the same seed gives the same numbers"
    for found in ways:
        torch.testing.assert_close(found, expected[:4], rtol=1e-10, atol=0)
    torch.testing.assert_close(matrices.singular_values(lin, stop, k=10**6), expected, **EXACT)
    assert matrices.spectral_norm(lin, stop) == pytest.approx(expected[0].item(), rel=1e-10)


def test_rank_and_null_space() -> None:
    """Directions that no open unit sees: moving along them inside the region leaves the value as it is."""
    lin = one("chain")
    gate = next(node.name for node in lin.graph.nodes if node.is_gate)
    weight = lin.matrix(gate)
    narrow = matrices.null_space(lin)
    assert matrices.rank(lin) == torch.linalg.matrix_rank(lin.matrix())
    assert matrices.rank(lin, gate) == torch.linalg.matrix_rank(weight)
    assert narrow.shape == (5 - matrices.rank(lin), 5)
    torch.testing.assert_close(narrow @ narrow.T, torch.eye(len(narrow), dtype=torch.float64), **EXACT)
    there = lin.graph(lin.input + 1e-6 * narrow[:1])
    torch.testing.assert_close(there, lin.output, rtol=0, atol=1e-14)


def test_null_space_has_the_shape_of_the_value() -> None:
    lin = one("residual_inner")
    space = matrices.null_space(lin)
    assert space.shape[1:] == lin.input.shape[1:]
    assert len(space) == lin.input.numel() - matrices.rank(lin)
    moved = torch.stack([lin.forward(direction[None])[0] for direction in space[:5]])
    assert moved.abs().max() <= 1e-12 * lin.matrix().abs().sum()
