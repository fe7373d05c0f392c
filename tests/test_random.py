"""Random networks of all supported operators against plain autograd: each is exact, whatever is put together.

`LINREG_EXAMPLES=5000 python -m pytest tests/test_random.py` draws as many others. A failure prints a description:
`check(Network(...))` runs it again.

Kinks and ties need no care here. Random weights are in general position: where two values tie, or a unit sits at its
kink, that is so on a whole region (zeros of a ReLU, copies of one value), and there either side has the same gradient.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

import networkx as nx
import pytest
import torch
from approx import values
from cases import ALIASES, rules_noted
from hypothesis import HealthCheck, given, settings
from random_networks import AGAIN, KINDS, Network, networks
from splits import random_masks, recurred
from torch import Tensor, nn
from triad import TRIAD

import dmbp
import linreg
from dmbp.account import PARTS
from linreg.capture.fuse import fuse_batch_norm
from linreg.operators import RULES
from linreg.target import sum_per_image

with warnings.catch_warnings():  # the first jvp imports this, which uses what torch itself has deprecated
    warnings.simplefilter("ignore")
    import torch._decomp.decompositions_for_jvp

MORE = "LINREG_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("LINREG_EXAMPLES", 120))
EXACT = 1e-12
GROUPS = 8  # of the kinds of steps: those of one group are frequent in the same networks
# Rules that no network has to meet, in the names that `bare` gives; each has its own case.
LEFT_OUT = {
    # names by which a program can also call what the kinds call by another
    "clip", "column_stack", "concat", "divide", "dstack", "fliplr", "fmax", "fmin", "hstack", "max.other", "min.other",
    "multiply", "negative", "subtract", "take_along_dim", "tile", "true_divide",
    # products, of a fixed number of images or written otherwise
    "addmv", "baddbmm", "bmm", "einsum", "inner", "linalg_vecdot", "mv", "tensordot",
    # reads and writes at fixed indices, and resampling, beyond those that the kinds have
    "_unsafe_index", "_upsample_bicubic_aa", "_upsample_linear_aa", "col2im", "diag_embed", "diagonal_scatter",
    "gather", "grid_sampler", "index_add", "index_copy", "index_fill", "index_put", "max_unpool", "scatter.src",
    "index_reduce", "scatter.value", "scatter_add", "scatter_reduce", "select_scatter",
    # sums of products by fixed tensors, as with "multiply by a constant" and "add"
    "addcdiv", "addcmul",
    # batch norm by another name, in a network of one layer
    "instance_norm",
    # autograd's own slope is 1/6 in single precision
    "hardsigmoid",
}  # fmt: skip


def assert_near(found: Tensor, expected: Tensor, what: str, scale: Tensor | float = 1.0) -> None:
    """To 1e-12 of the largest number, or of `scale`: Σ|terms| where these cancel, else what a network of weights near
    1 is made of."""
    assert found.shape == expected.shape, f"{what}: {tuple(found.shape)} is not {tuple(expected.shape)}"
    if found.numel():
        size = torch.as_tensor(scale).max().clamp_min(expected.abs().max())
        error = (found - expected).abs().max()
        assert error <= EXACT * size, f"{what}: off by {error:.1e}, where the largest is {size:.1e}"


def jacobian(model: nn.Module, x: Tensor) -> Tensor:
    """(elements of the output, *shape of the input) at the one image x, by plain autograd: a copy for each row."""
    with torch.no_grad():
        size = model(x.clone())[0].numel()
    copies = x.expand(size, *x.shape[1:]).clone().requires_grad_()
    rows = torch.eye(size, dtype=x.dtype)
    y = model(copies.clone())
    return torch.autograd.grad(y, copies, rows.view_as(y), materialize_grads=True)[0] if y.requires_grad else 0 * copies


def check(network: Network) -> None:
    """All identities of one network."""
    model, x = network.model(), network.input()
    apart = linreg.trace(model, x, fuse=False)
    graph = fuse_batch_norm(apart)
    lin = graph.linearize(x)
    check_value(model, x, lin)
    check_gradient(model, x, lin)
    check_matrices(model, lin)
    TRIAD["dot-test"](model, x, lin)
    TRIAD["matrices"](model, x, lin)
    TRIAD["promises"](model, x, lin)
    check_pairs(lin)
    check_fusion(apart.linearize(x), lin)
    check_other_batch(model, network.input(network.images + 1), graph)
    check_split(model, lin)


def check_value(model: nn.Module, x: Tensor, lin: linreg.Linearization) -> None:
    with torch.no_grad():
        y = model(x.clone())
    g = values(*y.shape, seed=1)
    certificate = lin.certificate(g)
    assert_near(lin.output, y, "the output of the region", certificate.magnitude)
    assert_near(lin.graph(x), y, "the output of the graph", certificate.magnitude)
    left = (sum_per_image(y * g) - certificate.total).abs()
    assert (left <= EXACT * certificate.magnitude).all(), f"the ledger leaves {left} of {certificate.magnitude}"
    assert (certificate.completeness_error <= certificate.bound).all(), f"above the bound {certificate.bound}"


def check_gradient(model: nn.Module, x: Tensor, lin: linreg.Linearization) -> None:
    leaf = x.clone().requires_grad_()
    y = model(leaf.clone())
    g = values(*y.shape, seed=2)
    gradient = torch.autograd.grad((y * g).sum(), leaf)[0] if y.requires_grad else torch.zeros_like(x)
    assert_near(lin.weight(g), gradient, "the weight")
    v = values(*x.shape, seed=3)
    moved = torch.func.jvp(lambda x: model(x.clone()), (x,), (v,))[1]
    assert_near(lin.forward(v), moved, "the forward pass")


def check_matrices(model: nn.Module, lin: linreg.Linearization) -> None:
    for image in lin.input.split(1):
        one = lin.graph.linearize(image)
        expected = jacobian(model, image).flatten(1)
        assert_near(one.matrix(), expected, "the dense matrix")
        assert_near(torch.from_numpy(one.matrix(format="csr").toarray()), expected, "the sparse matrix")


def check_pairs(lin: linreg.Linearization) -> None:
    """⟨J v, g⟩ = ⟨v, Jᵀ g⟩ between any two nodes that a path joins."""
    graph = lin.graph
    paths = graph.to_networkx()
    for seed, start in enumerate(paths):
        v = values(len(lin.input), *graph.shape(start), seed=seed)
        for stop in nx.descendants(paths, start):
            g = values(len(lin.input), *graph.shape(stop), seed=seed + 1)
            there, back = lin.forward(v, stop, start) * g, lin.adjoint(g, stop, start) * v
            size = max(there.abs().sum(), back.abs().sum())
            assert abs(there.sum() - back.sum()) <= EXACT * size, f"from {start} to {stop}: {there.sum()}, {back.sum()}"


def check_fusion(apart: linreg.Linearization, lin: linreg.Linearization) -> None:
    g = values(*lin.output.shape, seed=4)
    assert_near(apart.output, lin.output, "the output without fusion", lin.ledger(g).magnitude)
    assert_near(apart.weight(g), lin.weight(g), "the weight without fusion")


def check_other_batch(model: nn.Module, x: Tensor, graph: linreg.OperatorGraph) -> None:
    with torch.no_grad():
        y = model(x.clone())
    size = graph.linearize(x).ledger(values(*y.shape, seed=5)).magnitude
    assert_near(graph(x), y, "the output of another batch", size)


def check_split(model: nn.Module, lin: linreg.Linearization) -> None:
    """y = y⁺ + y⁻ + y~ and each part by itself: y from the model, y~ from its own recurrence."""
    if not any(node.is_gate for node in lin.graph.nodes):
        return
    g = values(*lin.output.shape, seed=6)
    masks = random_masks(lin)
    split, parts = dmbp.decompose(lin, masks, g), recurred(lin, masks, g)
    size = sum(split.ledger(part).magnitude for part in ("positive", "negative", "unmasked")) + lin.ledger(g).magnitude
    for part in PARTS:
        assert_near(getattr(split, part), getattr(parts, part), f"{part} of the split", size)
    with torch.no_grad():
        y = sum_per_image(model(lin.input.clone()) * g)
    assert_near(parts.total, y, "the sum of the split", size)
    assert (split.error <= EXACT * size).all(), f"the split leaves {split.error} of {size}"


# ---- the tests ----


@dataclass(frozen=True)
class Explored:
    """The kinds of steps drawn, the rules that took part, and what failed, if anything did."""

    drawn: Counter[str]
    ruled: set[str]
    failure: BaseException | None = None


@cache
def explored(group: int) -> Explored:
    """Check random networks in which the kinds of one group are frequent."""
    found = Explored(Counter(), set())

    @settings(
        max_examples=EXAMPLES // GROUPS, deadline=None, derandomize=not MORE, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(networks(frozenset([*KINDS, AGAIN][group::GROUPS])))
    def one(network: Network) -> None:
        found.drawn.update(["networks", *(step.kind for step in network.steps)])
        with rules_noted() as used:
            check(network)
        found.ruled.update(used)

    try:
        one()
    except Exception as failure:  # kept: to search for it again, and for a smaller one, takes minutes
        return replace(found, failure=failure)
    return found


@pytest.mark.parametrize("group", range(GROUPS))
def test_random_networks(group: int) -> None:
    if failure := explored(group).failure:
        raise failure


def test_every_kind_and_every_rule_was_met() -> None:
    """All but the rules that are named above."""
    found = [explored(group) for group in range(GROUPS)]
    kinds = sum((each.drawn for each in found), Counter[str]())
    rules = set[str]().union(*(each.ruled for each in found))
    print(f"{sum(kinds.values())} steps of {len(kinds)} kinds")
    if MORE:
        return
    assert {*KINDS, AGAIN} - set(kinds) == set(), "no network has such a step: draw more of them"
    missing = bare(set(RULES) - set(ALIASES)) - bare(rules)
    assert missing - LEFT_OUT == set(), "add a kind of step, or name the rule in LEFT_OUT"
    assert bare(RULES) >= LEFT_OUT, "no longer rules"


def bare(rules: Iterable[str]) -> set[str]:
    """Their names without the number of dimensions: one of them stands for the others."""
    return {re.sub(r"[123]d(?![a-z0-9])|(?<=upsample_)(bi|tri)(?=linear)", "", name) for name in rules}
