"""H⁺, H⁻ and H~ as matrices, as operators, and by enumeration of sign patterns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import NETS, traced
from torch import Tensor

import dmbp
import linreg
from dmbp.matrices import matrices, operators, sign_patterns
from dmbp.split import recurrence


def one(name: str, sites: str = "gates") -> tuple[linreg.Linearization, dict[str, Tensor]]:
    """The region of one input of a net, and random masks for it."""
    t = traced(name)
    lin = t.graph.linearize(t.lin.input[:1])
    generator = torch.Generator().manual_seed(0)
    shapes = {site: (1, *lin.graph[site].shape) for site in dmbp.find_sites(lin.graph, sites)}
    return lin, {s: torch.rand(shape, generator=generator, dtype=torch.float64) for s, shape in shapes.items()}


@pytest.mark.parametrize("sites", ["gates", "blocks"])
@pytest.mark.parametrize("name", NETS)
def test_they_sum_to_the_jacobian_and_give_the_recurrence(name: str, sites: str) -> None:
    lin, masks = one(name, sites)
    split = matrices(lin, masks)
    whole = lin.matrix(format="csr")
    np.testing.assert_allclose(sum(m.toarray() for m in split), whole.toarray(), rtol=0, atol=1e-12)
    other = {site: 1 - mask for site, mask in masks.items()}
    for part, sigma in ((split.positive, masks), (split.negative, other)):
        region = dmbp.masked(lin, sigma)
        np.testing.assert_allclose(part.toarray(), region.matrix().numpy(), rtol=0, atol=1e-12)
        np.testing.assert_allclose(region.matrix(format="csr").toarray(), part.toarray(), rtol=0, atol=1e-12)
    # Without constants the recurrence on values is that on matrices, applied to x: two inputs differ by it.
    x = lin.input
    shifted = linreg.Linearization(lin.graph, 2 * x, lin.frozen, lin.output)
    for k, part in enumerate(split):
        step = recurrence(shifted, masks)[k] - recurrence(lin, masks)[k]
        np.testing.assert_allclose(part @ x.flatten().numpy(), step.flatten().numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["residual_outer", "shortcut", "gates"])
def test_operators_are_the_matrices(name: str) -> None:
    lin, masks = one(name)
    v = np.random.default_rng(0).standard_normal(lin.input.numel())
    for part, operator in zip(matrices(lin, masks), operators(lin, masks), strict=True):
        np.testing.assert_allclose(operator @ v, part @ v, rtol=0, atol=1e-12)
        g = np.random.default_rng(1).standard_normal(part.shape[0])
        np.testing.assert_allclose(operator.rmatvec(g), part.T @ g, rtol=0, atol=1e-12)


def test_of_a_node_by_itself_they_are_where_the_recurrence_starts() -> None:
    lin, masks = one("chain")
    for stop in ("input", "2"):
        identity = np.eye(lin.jacobian(stop, stop).shape[0])
        for part, expected in zip(matrices(lin, masks, stop, stop), (identity, identity, -identity), strict=True):
            np.testing.assert_array_equal(part.toarray(), expected)


def test_dtype_is_the_graphs() -> None:
    """So that they take no more than their cost says."""
    net, x = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)), torch.ones(1, 4)
    lin = linreg.trace(net, x).linearize(x)
    split = matrices(lin, {"1": torch.full((1, 3), 0.25)})
    assert [part.dtype for part in split] == 3 * [np.float32]
    assert all(part.data.nbytes + part.indices.nbytes <= lin.jacobian().cost("csr").bytes for part in split)


@pytest.mark.parametrize("name", ["chain", "chain_with_biases", "conv_bn"])
def test_sign_patterns_add_up(name: str) -> None:
    lin, masks = one(name)
    patterns, split = sign_patterns(lin, masks), matrices(lin, masks)
    count = len(masks)
    assert len(patterns) == 2**count
    mixed = [h for signs, h in patterns.items() if len(set(signs)) > 1]
    zero = torch.zeros_like(patterns["+" * count])
    for part, found in zip(split, (patterns["+" * count], patterns["−" * count], sum(mixed, zero)), strict=True):
        np.testing.assert_allclose(found.numpy(), part.toarray(), rtol=0, atol=1e-12)
    torch.testing.assert_close(sum(patterns.values(), zero), lin.matrix(), rtol=0, atol=1e-12)


def test_what_is_too_large_is_refused() -> None:
    lin, masks = one("chain")
    with pytest.raises(dmbp.DmbpError, match=r"each of three matrices is .* use operators\(\)"):
        matrices(lin, masks, limit=10)
    layers = [layer for _ in range(14) for layer in (torch.nn.Linear(2, 2), torch.nn.ReLU())]
    deep = linreg.trace(torch.nn.Sequential(*layers).double(), torch.ones(1, 2).double())
    region = deep.linearize(torch.ones(1, 2).double())
    half = {site: torch.full((1, 2), 0.5).double() for site in dmbp.find_sites(deep)}
    with pytest.raises(dmbp.DmbpError, match=r"13 sites have .* sign patterns; at most 12 sites"):
        sign_patterns(region, half)
