"""Path spectra against the enumeration of all paths, with a dense matrix for every operator, in float64."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import comb

import networkx as nx
import pytest
import torch
import torchvision
from approx import assert_within
from nets import NETS, Lambda, randomised, traced
from splits import random_masks
from torch import Tensor, nn

import dmbp
import linreg
from dmbp.masks import masked
from linreg.paths import GRADES, Grade, PathSpectrum, node_share, path_spectrum, residual_blocks

EXACT = 1e-12  # of Σ|shares of all paths|, the size of the rounding errors
TARGET = [0, 2, 1]
Edge = tuple[str, int]

# The k-th input of a join is a block: written down by hand from each net's forward function.
BLOCKS: dict[str, dict[str, tuple[int, ...]]] = {
    "residual_outer": {"2.add": (0,), "3.add": (0,)},
    "residual_inner": {"3.add": (0,), "4.add": (0,)},
    "mobile": {"3.add": (1,), "4.add": (1,)},
    "wiring": {"sub": (1,), "cat": (0, 1)},
    "shortcut": {"add": (0,)},
}


# ---- the literal twin: all paths, one after the other ----


@dataclass(frozen=True)
class Path:
    """The nodes that it passes, with the number k of the input by which it enters (−1: a constant starts there)."""

    trail: tuple[Edge, ...]
    share: float
    from_input: bool

    def degree(self, lin: linreg.Linearization, grade: str, blocks: Mapping[str, tuple[int, ...]]) -> int:
        if grade == "gates":
            return sum(lin.graph[name].is_gate for name, _ in self.trail)
        return sum(k in blocks.get(name, ()) for name, k in self.trail)


def enumerated(lin: linreg.Linearization, row: Tensor, masks: Mapping[str, Tensor]) -> list[Path]:
    """Every path of one image: row vector times matrix times … times x, or times a constant."""
    matrices = {node.name: jacobians(lin, node) for node in lin.graph.nodes}

    def walk(name: str, row: Tensor, trail: tuple[Edge, ...]) -> Iterator[Path]:
        if name == "input":
            yield Path(trail, (row @ lin.input.flatten()).item(), True)
            return
        row = row * masks[name].flatten() if name in masks else row
        for constant in lin.frozen[name].constants:
            value = constant.value.expand(1, *lin.graph[name].shape).flatten()
            yield Path((*trail, (name, -1)), (row @ value).item(), False)
        for k, (before, matrix) in enumerate(zip(lin.graph[name].inputs, matrices[name], strict=True)):
            yield from walk(before, row @ matrix, (*trail, (name, k)))

    return list(walk(lin.graph.output, row, ()))


def jacobians(lin: linreg.Linearization, node: linreg.Node) -> list[Tensor]:
    """∂node/∂(its k-th input) on the region, one dense matrix for each k."""
    zeros = tuple(lin.input.new_zeros(1, *lin.graph.shape(name)) for name in node.inputs)
    found = torch.autograd.functional.jacobian(lin.frozen[node.name], zeros)
    return [matrix.reshape(-1, zero.numel()) for matrix, zero in zip(found, zeros, strict=True)]


@cache
def region(name: str) -> linreg.Linearization:
    """One image of a net: paths are enumerated for one at a time."""
    t = traced(name)
    return t.graph.linearize(t.x[:1])


def size(paths: list[Path]) -> float:
    return sum(abs(path.share) for path in paths)


@cache
def all_paths(name: str, with_masks: bool) -> tuple[linreg.Linearization, list[Path]]:
    lin = region(name)
    masks = random_masks(lin) if with_masks else {}
    row = torch.zeros(3, dtype=torch.float64)
    row[1] = 1
    return masked(lin, masks), enumerated(lin, row, masks)


CASES = [(name, grade, masks) for name in NETS for grade in GRADES for masks in (False, True)]


@pytest.mark.parametrize(("name", "grade", "with_masks"), CASES)
def test_every_group_is_the_sum_of_its_paths(name: str, grade: str, with_masks: bool) -> None:
    lin, paths = all_paths(name, with_masks)
    spectrum = path_spectrum(lin, 1, grade)
    groups: dict[tuple[int, bool], list[Path]] = {}
    for path in paths:
        degree = path.degree(region(name), grade, BLOCKS.get(name, {}))
        groups.setdefault((degree, path.from_input), []).append(path)
    assert spectrum.degrees == tuple(sorted({degree for degree, _ in groups}))
    for i, degree in enumerate(spectrum.degrees):
        for from_input, shares, counts in (
            (True, spectrum.input, spectrum.counts),
            (False, spectrum.bias, spectrum.constant_counts),
        ):
            group = groups.get((degree, from_input), [])
            assert counts[i] == len(group)
            assert abs(shares[i, 0].item() - sum(path.share for path in group)) <= EXACT * size(paths)


@pytest.mark.parametrize(("name", "grade", "with_masks"), CASES)
def test_a_nodes_share_is_the_sum_of_the_paths_that_pass_it(name: str, grade: str, with_masks: bool) -> None:
    lin, paths = all_paths(name, with_masks)
    expected: Counter[str] = Counter()
    for path in paths:
        for node, k in path.trail:
            if grade == "gates" and lin.graph[node].is_gate:
                expected[node] += path.share  # type: ignore[assignment]
            elif grade == "blocks" and k in BLOCKS.get(name, {}).get(node, ()):
                expected[lin.graph[node].inputs[k]] += path.share  # type: ignore[assignment]
    shares = node_share(lin, 1, grade)
    assert shares.keys() == expected.keys()
    assert all(abs(shares[node].item() - expected[node]) <= EXACT * size(paths) for node in shares)


# ---- identities, on batches ----


def assert_same(found: Tensor, expected: Tensor, lin: linreg.Linearization) -> None:
    assert_within(found, expected, lin.ledger(TARGET).magnitude)


GRADES_AND_NODES: list[Grade] = [*GRADES, ["nodes"]]


@pytest.mark.parametrize("grade", GRADES_AND_NODES, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_groups_sum_to_the_score_and_their_weights_to_its_gradient(name: str, grade: Grade) -> None:
    lin = traced(name).lin
    grade = grade if isinstance(grade, str) else [node.name for node in lin.graph.nodes][::2]
    spectrum = path_spectrum(lin, TARGET, grade)
    model, x = NETS[name]()
    with torch.no_grad():
        assert_same(spectrum.total, model(x).gather(1, torch.tensor(TARGET)[:, None])[:, 0], lin)
    assert (spectrum.weight.sum(0) - lin.weight(TARGET)).abs().max() <= EXACT * lin.weight(TARGET).abs().max()
    assert_same(spectrum.input.sum(0), lin.ledger(TARGET).input_share, lin)
    assert_same(spectrum.bias.sum(0), lin.ledger(TARGET).bias_share, lin)
    euler = sum(node_share(lin, TARGET, grade).values(), torch.zeros_like(spectrum.total))
    assert_same(euler, (torch.tensor(spectrum.degrees)[:, None] * spectrum.value).sum(0), lin)


@pytest.mark.parametrize("name", NETS)
def test_paths_are_counted_as_networkx_counts_them(name: str) -> None:
    graph = traced(name).graph
    edges = nx.MultiDiGraph([(before, node.name, {}) for node in graph.nodes for before in node.inputs])
    found: Counter[int] = Counter()
    for path in nx.all_simple_edge_paths(edges, "input", graph.output):
        found[sum(graph[stop].is_gate for _, stop, _ in path)] += 1
    spectrum = path_spectrum(traced(name).lin, TARGET)
    assert found == Counter(dict(zip(spectrum.degrees, spectrum.counts, strict=True)))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("sites", ["gates", "blocks"])
@pytest.mark.parametrize("grade", GRADES)
def test_spectra_of_both_passes_of_a_split(name: str, sites: str, grade: str) -> None:
    """Algorithm 1's P(σ) and P(1 − σ), and y⁺ = P(σ) − u, y⁻ = P(1 − σ) − u."""
    lin = traced(name).lin
    masks = random_masks(lin, sites)
    split = dmbp.decompose(lin, masks, TARGET)
    unmasked = path_spectrum(split.passes[2], TARGET, grade)
    for part, passed in zip((split.positive, split.negative), split.passes, strict=False):
        spectrum = path_spectrum(passed, TARGET, grade)
        assert_same(spectrum.total, passed.score(TARGET), lin)
        assert_same((spectrum - unmasked).total, part, lin)


@pytest.mark.parametrize("name", NETS)
def test_a_spectrum_is_the_polynomial_of_equal_masks(name: str) -> None:
    """P(λ) = Σ_d λ^d y_d, gate offsets included; u = P(0) = y_0."""
    lin = traced(name).lin
    spectrum = path_spectrum(lin, TARGET)
    for strength in (0.0, 0.3, 1.0):
        masks = {node.name: torch.tensor(strength, dtype=torch.float64) for node in lin.graph.nodes if node.is_gate}
        assert_same(spectrum.at(strength), masked(lin, masks).score(TARGET), lin)


@pytest.mark.parametrize("name", ["residual_outer", "residual_inner", "mobile", "shortcut"])
def test_a_spectrum_by_blocks_is_the_polynomial_of_damped_blocks(name: str) -> None:
    lin = traced(name).lin
    last = [lin.graph[join].inputs[k] for join, numbers in BLOCKS[name].items() for k in numbers]
    assert list(node_share(lin, TARGET, "blocks")) == last
    damped = masked(lin, dict.fromkeys(last, torch.tensor(0.4, dtype=torch.float64)))
    assert_same(path_spectrum(lin, TARGET, "blocks").at(0.4), damped.score(TARGET), lin)


# ---- what a block is ----


@pytest.mark.parametrize("name", NETS)
def test_blocks_are_those_that_the_forward_functions_show(name: str) -> None:
    assert residual_blocks(traced(name).graph) == BLOCKS.get(name, {})


def traced_function(function: object, **parts: nn.Module) -> linreg.Linearization:
    model = randomised(Lambda(function, **parts).double()).eval()  # type: ignore[arg-type]
    x = torch.randn(1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return linreg.trace(model, x).linearize(x)


def linears(names: str) -> dict[str, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {name: nn.Linear(4, 4) for name in names}


@pytest.mark.parametrize(
    ("function", "names", "counts"),
    [
        pytest.param(lambda x, a: a(x) + x, "a", {0: 1, 1: 1}, id="a block without a gate"),
        pytest.param(lambda x, a, b: a(x) + b(x), "ab", {0: 2}, id="two projections: neither is a block"),
        pytest.param(lambda x, a, b: b(a(x).relu()) + a(x), "ab", {0: 1, 1: 1}, id="a projection skips"),
        pytest.param(lambda x, a, b: (x + a(x).relu()) + b(x), "ab", {0: 1, 1: 2}, id="two blocks beside one skip"),
        pytest.param(lambda x, a: a(x + x), "a", {0: 2}, id="the same value twice"),
        pytest.param(lambda x, a, b: a(x).relu() - b(x).relu(), "ab", {0: 2}, id="gated branches side by side"),
        pytest.param(lambda x, a: x - a(x).relu() - 0.5 * x, "a", {0: 2, 1: 1}, id="a scaled skip"),
    ],
)
def test_what_is_a_block(function: object, names: str, counts: dict[int, int]) -> None:
    spectrum = path_spectrum(traced_function(function, **linears(names)), 0, "blocks")
    assert dict(zip(spectrum.degrees, spectrum.counts, strict=True)) == counts


def blocks_of(model: nn.Module) -> tuple[int, PathSpectrum]:
    """How many branches go by the name of a block, and the spectrum, of a network for pictures."""
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    lin = linreg.trace(model.eval(), x).linearize(x)
    return len(node_share(lin, 0, "blocks")), path_spectrum(lin, 0, "blocks")


def binomials(blocks: int) -> dict[int, int]:
    return {d: comb(blocks, d) for d in range(blocks + 1)}


def counted(spectrum: PathSpectrum) -> dict[int, int]:
    return {d: paths for d, paths in zip(spectrum.degrees, spectrum.counts, strict=True) if paths}


def test_paths_of_residual_networks_are_binomial() -> None:
    """Veit et al.: of 2^B paths, B over d take d blocks."""
    found, spectrum = blocks_of(torchvision.models.resnet18(weights=None))
    assert found == 8
    assert counted(spectrum) == binomials(8)


def test_dense_layers_are_blocks() -> None:
    """A path picks some of a dense block's layers: any of 2^L subsets, once for the concatenations of each block."""
    model = torchvision.models.densenet.DenseNet(growth_rate=4, block_config=(2, 3), num_init_features=8, num_classes=3)
    found, spectrum = blocks_of(model)
    assert found == 5
    assert counted(spectrum) == binomials(5)


# ---- at scale, and for people ----


def test_sixty_blocks_have_2_to_the_60_paths() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(60))

        def forward(self, h: Tensor) -> Tensor:
            for layer in self.layers:
                h = h + 0.1 * layer(h).relu()
            return h

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = Deep().double().eval(), torch.randn(3, 4, dtype=torch.float64)
    lin = linreg.trace(model, x).linearize(x)
    for grade in GRADES:
        spectrum = path_spectrum(lin, TARGET, grade)
        assert counted(spectrum) == binomials(60)
        assert_same(spectrum.total, lin.score(TARGET), lin)


def test_rows_and_summary_hold_every_number() -> None:
    spectrum = path_spectrum(traced("residual_outer").lin, TARGET, "blocks")
    rows = spectrum.rows(image=1)
    assert [row[:3] for row in rows] == list(
        zip(spectrum.degrees, spectrum.counts, spectrum.constant_counts, strict=True)
    )
    assert [row[5] for row in rows] == spectrum.value[:, 1].tolist()
    lines = spectrum.summary(image=1).splitlines()
    assert lines[0].split()[0] == "blocks" and len(lines) == 2 + 3 + 1
    assert float(lines[-1].split()[-1]) == pytest.approx(spectrum.total[1].item(), rel=1e-5)


def test_what_does_not_exist_is_refused() -> None:
    lin = traced("residual_outer").lin
    with pytest.raises(linreg.LinregError, match="grade must be one of 'gates', 'blocks' or names of nodes"):
        path_spectrum(lin, TARGET, "layers")
    with pytest.raises(linreg.LinregError, match=r"did you mean '2\.relu'"):
        node_share(lin, TARGET, ["2.rely"])
    with pytest.raises(linreg.LinregError, match="class 7 does not exist"):
        path_spectrum(lin, 7)
