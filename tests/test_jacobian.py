"""The Jacobian of a stretch as one value: products, rows, columns, formats, cost, and what is read off it."""

from __future__ import annotations

import doctest
from functools import cache
from math import prod
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from approx import EXACT, values
from nets import Lambda, every_net, traced
from rerun import rerun, value
from scipy.sparse.linalg import svds
from torch import Tensor, nn

import linreg
from linreg import Jacobian, Linearization, LinregError
from linreg import jacobian as constants
from linreg.operators import Convolution


def one(name: str) -> Linearization:
    """A network of NETS at its first input."""
    t = traced(name)
    return t.graph.linearize(t.x[:1])


def derivative(lin: Linearization, stop: str, start: str = "input") -> Tensor:
    """J by autograd, of the network run again from `start`."""
    at = value(lin, start)[0]
    result = torch.func.jacrev(lambda h: rerun(lin, {start: h[None]}, stop)[0])(at)
    return result.reshape(-1, at.numel())


def stretches(lin: Linearization) -> list[tuple[str, str]]:
    """(stop, start) between the input, a node in the middle and the output."""
    middle, last = lin.graph.nodes[len(lin.graph.nodes) // 2].name, lin.graph.output
    return [(last, "input"), (middle, "input"), (last, middle)]


def check(J: Jacobian, expected: Tensor) -> None:
    """All that J gives, against its matrix."""
    scale = {"rtol": 1e-12, "atol": 1e-12 * float(expected.abs().sum() + 1)}
    v = values(4, *J.in_shape)
    moved = J @ v
    assert J.shape == tuple(expected.shape) and moved.shape == (4, *J.out_shape)
    torch.testing.assert_close(moved.reshape(4, -1), v.reshape(4, -1) @ expected.T, **scale)
    torch.testing.assert_close(J @ v[0], moved[0], **scale)
    torch.testing.assert_close(J.dense(), expected, **EXACT)
    torch.testing.assert_close(torch.from_numpy(J.csr().toarray()), expected, **EXACT)
    rows, columns = [J.shape[0] // 2, 0, -1], [-1, J.shape[1] // 3]
    assert J.rows(rows).shape == (3, *J.in_shape) and J.columns(columns).shape == (2, *J.out_shape)
    torch.testing.assert_close(J.rows(rows).reshape(3, -1), expected[rows], **EXACT)
    torch.testing.assert_close(J.columns(columns).reshape(2, -1), expected[:, columns].T, **EXACT)


# ---- what it is ----


@every_net
def test_all_it_gives_is_the_derivative(name: str) -> None:
    """Up to each node of each network: J and Jᵀ, as autograd has them."""
    lin = one(name)
    for node in lin.graph.nodes:
        J, expected = lin.jacobian(node.name), derivative(lin, node.name)
        check(J, expected)
        check(J.T, expected.T)


@every_net
def test_from_node_to_output(name: str) -> None:
    lin = one(name)
    for stop, start in stretches(lin):
        check(lin.jacobian(stop, start), derivative(lin, stop, start))


def test_scalars() -> None:
    """A value of one number for each image has no dimensions of its own."""
    net = Lambda(lambda x: torch.relu(torch.relu(x - 0.1).sum(1)))
    lin = linreg.trace(net, values(1, 6)).linearize(values(1, 6))
    J = lin.jacobian()
    assert J.shape == (1, 6) and J.out_shape == () and J.labels.rows.shape == (1, 0)
    check(J, derivative(lin, J.stop))
    check(J.T, derivative(lin, J.stop).T)
    assert lin.jacobian(J.stop, J.stop) @ torch.tensor(2.0).double() == 2
    np.testing.assert_allclose(J.aslinearoperator() @ np.eye(6), J.dense().numpy(), rtol=1e-12)


@pytest.mark.parametrize("start", ["input", "2"])
def test_from_a_node_to_itself_is_the_identity(start: str) -> None:
    lin = one("conv_bn")
    J = lin.jacobian(start, start)
    check(J, torch.eye(J.shape[0], dtype=torch.float64))
    assert J.rank() == J.shape[0] and len(J.null_space()) == 0 and J.norm() == pytest.approx(1)


def test_it_is_a_value() -> None:
    lin = one("chain")
    J = lin.jacobian("3", "1")
    assert J.T.T == J == Jacobian(lin, "3", "1") and hash(J.T.T) == hash(J)
    others = [J.T, lin.jacobian("3"), lin.jacobian("1"), one("chain").jacobian("3", "1")]
    assert all(other != J for other in others)
    assert lin.jacobian() == lin.jacobian(lin.graph.output, "input")
    with pytest.raises(AttributeError, match="cannot assign"):
        J.stop = "5"  # type: ignore[misc]


def test_it_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, for which nothing is built."""
    lin = one("chain")
    assert repr(lin.jacobian("0")) == "Jacobian of '0' by 'input': 8 × 5, up to 40 nonzeros"
    assert repr(lin.jacobian("0").T) == "Transposed Jacobian of '0' by 'input': 5 × 8, up to 40 nonzeros"
    monkeypatch.setattr(Convolution, "sparse", build)
    size = "8,388,608 × 4,194,304, up to 1.2 G nonzeros"
    assert repr(huge().jacobian("2", "1")) == f"Jacobian of '2' by '1': {size}"


def test_labels() -> None:
    """Entry (i, j) of the matrix is the derivative of element `labels.rows[i]` by element `labels.columns[j]`."""
    lin = linreg.trace(nn.Conv2d(3, 2, (2, 3)).double(), values(1, 3, 4, 5)).linearize(values(1, 3, 4, 5))
    J = lin.jacobian()
    rows, columns = J.labels
    assert rows.shape == (2 * 3 * 3, 3) and columns.shape == (60, 3)
    assert columns[27].tolist() == [1, 1, 2] and J.T.labels.rows[27].tolist() == [1, 1, 2]
    whole = torch.func.jacrev(lambda x: rerun(lin, {"input": x[None]}, J.stop)[0])(lin.input[0])
    matrix = whole[(*rows.T[:, :, None], *columns.T[:, None, :])]
    torch.testing.assert_close(J.dense(), matrix, **EXACT)


@pytest.mark.parametrize("thing", [linreg.Jacobian, linreg.Linearization.jacobian])
def test_examples_of_its_docstrings_run(thing: Any) -> None:
    runner, count = doctest.DocTestRunner(), 0
    for example in doctest.DocTestFinder().find(thing, globs={}):
        failed, tried = runner.run(example)
        assert failed == 0
        count += tried
    assert count > 0


# ---- products in batches ----


def test_vectors_are_pushed_in_batches_that_split(monkeypatch: pytest.MonkeyPatch) -> None:
    lin = one("residual_inner")
    J, v = lin.jacobian(), values(7, *lin.input.shape[1:])
    expected = v.flatten(1) @ derivative(lin, J.stop).T
    monkeypatch.setattr(constants, "BATCH", {"cpu": 3 * max(prod(node.shape) for node in lin.graph.nodes)})
    sizes, forward = [], Linearization.forward
    monkeypatch.setattr(Linearization, "forward", lambda lin, v, *way: sizes.append(len(v)) or forward(lin, v, *way))
    torch.testing.assert_close(lin.jacobian() @ v, expected, **EXACT)
    assert sizes == [3, 3, 1]
    torch.testing.assert_close(torch.from_numpy(lin.operator() @ v.flatten(1).T.numpy()).T, expected, **EXACT)
    assert (J @ v[:0]).shape == (0, 3)


def test_rows_come_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order that was asked for, twice if so, and none before it is asked for."""
    lin = one("residual_inner")
    J, expected = lin.jacobian("2"), derivative(lin, "2")
    monkeypatch.setattr(constants, "BATCH", {"cpu": 3 * max(J.shape)})
    pulls, adjoint = [], Linearization.adjoint
    monkeypatch.setattr(Linearization, "adjoint", lambda lin, g, *way: pulls.append(len(g)) or adjoint(lin, g, *way))
    asked = [5, 200, 5, 0, 31, 100, 7]
    chunks = J.row_chunks(asked)
    assert pulls == []
    numbers, rows = next(chunks)
    assert pulls == [3] and numbers.tolist() == [5, 200, 5] and rows.shape == (3, *lin.input.shape[1:])
    rest = list(chunks)
    assert pulls == [3, 3, 1] and [n.tolist() for n, _ in rest] == [[0, 31, 100], [7]]
    found = torch.cat([rows, *(rows for _, rows in rest)])
    torch.testing.assert_close(found.flatten(1), expected[asked], **EXACT)
    assert sum(len(numbers) for numbers, _ in J.row_chunks()) == J.shape[0]


def test_numbers_of_rows() -> None:
    """All that indexes an array's first dimension."""
    lin = one("chain_with_biases")
    J, expected = lin.jacobian("0"), lin.frozen["0"].weight
    mask = torch.arange(8) % 3 == 0
    for asked in (3, [3], (7, 2), range(1, 4), slice(None, None, 2), mask, np.array([4, -1]), torch.tensor([0, 6])):
        chosen = [asked] if isinstance(asked, int) else list(asked) if isinstance(asked, tuple | range) else asked
        assert torch.equal(J.rows(asked), expected[chosen])
    assert torch.equal(J.rows(slice(None, None, -1)), expected.flip(0))
    assert J.rows([]).shape == (0, 5) and J.columns([]).shape == (0, 8)


@pytest.mark.parametrize("thin", [3, 128])
def test_fixed_batch_of_one(monkeypatch: pytest.MonkeyPatch, thin: int) -> None:
    """A network that only takes one image: its vectors go one by one, also where some are looked at first."""
    monkeypatch.setattr(constants, "THIN", thin)
    net = Lambda(lambda x, w: torch.relu(torch.bmm(x, w)).flatten(1), w=values(1, 4, 3))
    x = values(1, 2, 4)
    lin = linreg.trace(net, x).linearize(x)
    assert lin.graph.batch == 1
    expected = torch.func.jacrev(lambda x: net(x[None])[0])(x[0]).reshape(6, 8)
    check(lin.jacobian(), expected)
    torch.testing.assert_close(torch.from_numpy(lin.operator() @ np.eye(8)), expected, **EXACT)


# ---- for scipy ----


@every_net
def test_operator_is_the_matrix(name: str) -> None:
    """All its products, and ⟨J v, g⟩ = ⟨v, Jᵀ g⟩; the matrix is the product of the operators' own."""
    lin = one(name)
    for stop, start in stretches(lin):
        path, matrix = lin.operator(stop, start), lin.matrix(stop, start, "csr").toarray()
        scale = {"rtol": 1e-12, "atol": 1e-12 * float(np.abs(matrix).sum())}
        v, g = values(matrix.shape[1], 5).numpy(), values(matrix.shape[0], 4, seed=1).numpy()
        assert path.shape == matrix.shape and path.dtype == matrix.dtype
        np.testing.assert_allclose(path @ v, matrix @ v, **scale)
        np.testing.assert_allclose(path.H @ g, matrix.T @ g, **scale)
        np.testing.assert_allclose(path @ v[:, 0], matrix @ v[:, 0], **scale)
        np.testing.assert_allclose(path.rmatvec(g[:, 0]), matrix.T @ g[:, 0], **scale)
        np.testing.assert_allclose(lin.jacobian(stop, start).T.aslinearoperator() @ g, matrix.T @ g, **scale)
        left, right = (path @ v[:, 0]) @ g[:, 0], v[:, 0] @ (path.T @ g[:, 0])
        assert abs(left - right) <= 1e-12 * np.abs(matrix).sum() * np.abs(v).max() * np.abs(g).max()


@pytest.mark.parametrize("name", ["chain", "residual_inner", "mobile"])
def test_svds_is_the_dense_svd(name: str) -> None:
    lin = one(name)
    stop = lin.graph.nodes[len(lin.graph.nodes) // 2].name
    expected = torch.linalg.svdvals(derivative(lin, stop))
    left, found, right = svds(lin.operator(stop), k=3, v0=np.ones(min(lin.operator(stop).shape)))
    np.testing.assert_allclose(np.sort(found)[::-1], expected[:3].numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(lin.operator(stop) @ right.T, left * found, atol=1e-10 * float(expected[0]))


# ---- what is read off it ----


def test_singular_values_and_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """By iterations and by the dense matrix; more than there are gives all."""
    lin = one("residual_inner")
    J = lin.jacobian(next(node.name for node in lin.graph.nodes if prod(node.shape) > 20))
    matrix = derivative(lin, J.stop)
    expected = torch.linalg.svdvals(matrix)
    ways = [J.singular_values(4), J.T.singular_values(4)]
    torch.testing.assert_close(J.singular_values(10**6), expected, **EXACT)
    monkeypatch.setattr(constants, "THIN", 3)
    monkeypatch.setattr(Jacobian, "dense", build)
    ways += [J.singular_values(4), J.T.singular_values(4), J.singular_values(4, seed=1)]
    assert torch.equal(ways[2], J.singular_values(4)), "the same seed gives the same numbers"
    for found in ways:
        torch.testing.assert_close(found, expected[:4], rtol=1e-10, atol=0)
    assert J.norm() == pytest.approx(expected[0].item(), rel=1e-10)
    assert J.norm("fro") == pytest.approx(matrix.norm().item(), rel=1e-12)
    assert J.T.norm("fro") == pytest.approx(matrix.norm().item(), rel=1e-12)


@pytest.mark.parametrize("name", ["chain", "residual_inner", "conv_bn", "gates"])
def test_rank_and_null_space(name: str) -> None:
    """Of matrices that are wide, tall and square, against numpy and scipy; orthonormal, and shaped like the value."""
    lin = one(name)
    for stop, start in stretches(lin):
        J, matrix = lin.jacobian(stop, start), lin.matrix(stop, start, "csr").toarray()
        for jacobian, expected in ((J, matrix), (J.T, matrix.T)):
            assert jacobian.rank() == np.linalg.matrix_rank(expected)
            space = jacobian.null_space()
            assert space.shape == (jacobian.shape[1] - jacobian.rank(), *jacobian.in_shape)
            flat, projector = space.flatten(1), scipy.linalg.null_space(expected)
            torch.testing.assert_close(flat @ flat.T, torch.eye(len(flat), dtype=torch.float64), rtol=0, atol=1e-12)
            np.testing.assert_allclose((flat.T @ flat).numpy(), projector @ projector.T, rtol=0, atol=1e-10)


def test_the_value_stays_along_the_null_space() -> None:
    """Directions that no open unit sees: moving along them inside the region leaves the output as it is."""
    lin = one("chain")
    narrow = lin.jacobian().null_space()
    assert len(narrow) > 0
    there = lin.graph(lin.input + 1e-6 * narrow[:1])
    torch.testing.assert_close(there, lin.output, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_half_precision_is_read_in_float32(dtype: torch.dtype) -> None:
    """scipy and decompositions have no half precision; products stay in the graph's dtype."""
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).to(dtype)
    x = torch.ones(1, 6, dtype=dtype)
    J = linreg.trace(model, x).linearize(x).jacobian("0")
    weight = model[0].weight.detach()
    assert (J @ x).dtype == J.dense().dtype == J.rows(0).dtype == dtype
    assert J.aslinearoperator().dtype == J.csr().dtype == (J.aslinearoperator() @ np.ones(6)).dtype == np.float32
    torch.testing.assert_close(J.singular_values(), torch.linalg.svdvals(weight.float()), rtol=1e-5, atol=1e-6)
    assert J.norm("fro") == pytest.approx(weight.double().norm().item(), rel=1e-6)
    assert J.rank() == 4 and J.null_space().shape == (2, 6)


# ---- how large it is, and what is refused ----


def build(*_: object) -> None:
    raise AssertionError("a matrix was built")


@cache
def huge() -> Linearization:
    """H of its last layer would take 32 TiB; the sparse matrix of that layer alone 9 GiB."""
    net = nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1))
    x = torch.zeros(1, 4, 512, 512)
    return linreg.trace(net, x).linearize(x)


@every_net
def test_cost_bounds_what_is_built(name: str) -> None:
    lin = one(name)
    for node in lin.graph.nodes:
        for stop, start in [(node.name, "input"), (lin.graph.output, node.name), (node.name, node.name)]:
            J = lin.jacobian(stop, start)
            for jacobian in (J, J.T):
                matrix, bound = jacobian.csr(), jacobian.cost("csr")
                assert (bound.rows, bound.columns) == matrix.shape
                assert matrix.nnz <= bound.nonzeros <= bound.rows * bound.columns
                assert matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes <= bound.bytes
                assert jacobian.cost().bytes == jacobian.dense().nbytes
                assert jacobian.cost().nonzeros == bound.rows * bound.columns


def test_guard_refuses_before_building(monkeypatch: pytest.MonkeyPatch) -> None:
    lin = huge()
    monkeypatch.setattr(Convolution, "sparse", build)
    monkeypatch.setattr(Linearization, "adjoint", build)
    rows, columns = 32 * 512**2, 4 * 512**2
    for ask in (lin.matrix, lin.jacobian().dense, lin.jacobian().rank):
        with pytest.raises(LinregError, match=r"lin\.operator\('2', 'input'\)") as caught:
            ask()
        assert f"{rows:,} × {columns:,}" in str(caught.value) and "3.28e+04 GiB" in str(caught.value)
    figures = r"with up to 1,207,959,552 nonzeros, and takes up to 9.03 GiB, and the limit is 2 GiB"
    for ask in (lambda: lin.matrix("2", "1", "csr"), lin.jacobian("2", "1").csr):
        with pytest.raises(LinregError, match=figures):
            ask()
    with pytest.raises(LinregError, match=r"limit is 0\.000977 GiB"):
        lin.matrix("1", "0", "csr", limit=2**20)
    with pytest.raises(LinregError, match=r"1,000 rows take 3.91 GiB, .* 2 GiB: row_chunks\(\) gives them a few at a"):
        lin.jacobian().rows(range(1000))
    with pytest.raises(LinregError, match=r"Transposed Jacobian of '2' by 'input': 100 rows take 3\.12 GiB"):
        lin.jacobian().columns(range(100))
    with pytest.raises(LinregError, match=r"null space is read off 1,048,576 × 1,048,576 numbers, .* 4\.1e\+03 GiB"):
        lin.jacobian().null_space()


def test_errors_tell_the_way_out() -> None:
    lin, batch = one("chain"), traced("chain").lin
    for ask in (batch.jacobian, batch.matrix, batch.operator):
        with pytest.raises(LinregError, match=r"holds 3: linearize one of them, graph.linearize\(x\[:1\]\)"):
            ask()
    for ask in (lin.jacobian, lin.matrix, lin.operator):
        with pytest.raises(LinregError, match="no node '9'"):
            ask("9")
        with pytest.raises(LinregError, match=r"no path leads from '3' to '1' \(the other way round there is one\)"):
            ask("1", "3")
    for ask in (lin.matrix, lambda format: lin.jacobian().cost(format)):
        with pytest.raises(LinregError, match="format must be one of 'dense', 'csr', not 'coo'"):
            ask(format="coo")


def test_wrong_vectors_and_numbers() -> None:
    J = one("conv_bn").jacobian("2")
    shape = r"must have shape \(3, 6, 6\), and several of them \(N, 3, 6, 6\), not \(108, 2\)"
    with pytest.raises(LinregError, match=f"a vector at 'input' {shape}"):
        J @ values(108, 2)
    with pytest.raises(LinregError, match=r"a vector at '2' must have shape \(4, 6, 6\)"):
        J.T @ values(3, 6, 6)
    with pytest.raises(
        LinregError, match=r"at 'input' must be torch\.float64 on cpu like the network, not torch\.float3"
    ):
        J @ torch.ones(3, 6, 6)
    with pytest.raises(LinregError, match=r"at 'input' must be a torch\.Tensor, not ndarray"):
        J @ np.ones(108)
    for wrong in (144, [0, 144], [0.5], "ab", torch.ones(143) > 0):
        with pytest.raises(LinregError, match="Jacobian of '2' by 'input' has rows 0 to 143: "):
            J.rows(wrong)  # type: ignore[arg-type]
    with pytest.raises(LinregError, match="k must be at least 1, not 0"):
        J.singular_values(0)
    with pytest.raises(LinregError, match="order must be 2 or 'fro', not 'nuc'"):
        J.norm("nuc")
