"""Where the linear function ends: patterns, walls, polytopes and neighbours, against forward passes and brute force."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from math import inf

import nets
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from random_networks import Network, networks
from scipy.spatial import HalfspaceIntersection
from torch import Tensor, nn

import linreg
from dmbp.walls import jump
from linreg import LinregError, regions
from linreg.regions import nearest


def _larger(parts: Tensor) -> Tensor:
    return torch.maximum(parts[:, :1], parts[:, 1:])


CHOOSING = {
    "sort": lambda x: x.sort(1).values,
    "topk": lambda x: x.topk(3, 1).values,
    "second": lambda x: x.kthvalue(2, 1).values[:, None],
    "least": lambda x: x.view(-1, 2, 3).amin((1, 2))[:, None],
    "largest two ways": lambda x: x.view(-1, 2, 3).max(2).values,
    "maximum": lambda x: torch.maximum(x[:, :3], x[:, 3:]),
    "minimum, broadcast": lambda x: torch.minimum(x[:, :1], x),
    "where": lambda x: torch.where(x[:, :3] > 2 * x[:, 3:], x[:, :3], x[:, 3:]),
    "where by a number": lambda x: torch.where(x <= 0.3, 2 * x, x.flip(1)),
    "logic": lambda x: torch.where((x > 0) & (x.flip(1) <= 0.5), x, -x),
    "adaptive pool": lambda x: nn.functional.adaptive_max_pool1d(x[:, None], 4),
    "padded pool": lambda x: nn.functional.max_pool1d(x[:, None], 3, stride=2, padding=1),
    "unpool": lambda x: nn.functional.max_unpool1d(*nn.functional.max_pool1d(x[:, None], 2, return_indices=True), 2),
    "parts, pooled": lambda x: nn.functional.max_pool1d(x.reshape(-1, 1, 3), 2, 1).reshape(-1, 4),
    "parts, maximum": lambda x: _larger(x.reshape(-1, 3)).reshape(-1, 4),
    "relu6": lambda x: nn.functional.relu6(4 * x),
    "shrink": lambda x: torch.where(x.abs() > 0.4, x, 0 * x),
}


def choosing(name: str) -> tuple[linreg.OperatorGraph, Tensor]:
    """Such a call between two layers, and an input."""
    torch.manual_seed(len(name))
    model = nn.Sequential(nn.Linear(4, 6), nets.Lambda(CHOOSING[name]), nn.Flatten()).double()
    x = torch.randn(1, 4, dtype=torch.float64)
    return linreg.trace(model, torch.cat([x, -x])), x


@cache
def built(name: str) -> tuple[linreg.OperatorGraph, Tensor]:
    """A network of every kind, and an input."""
    if name in CHOOSING:
        return choosing(name)
    model, x = nets.NETS[name]()
    return linreg.trace(model, x), x[:1].clone()


def small(*widths: int, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nets.mlp(*widths, bias=True).double()


def same_piece(graph: linreg.OperatorGraph, x: Tensor, points: Tensor) -> Tensor:
    """Whether a forward pass at each point has the pattern of one at x, (N,)."""
    found = regions.disagreements(graph.linearize(points), graph.linearize(x.expand_as(points).clone()))
    return torch.stack(list(found.values())).sum(0) == 0


# ---- the pattern ----


@pytest.mark.parametrize("name", nets.NETS)
def test_a_pattern_is_a_value(name: str) -> None:
    graph, _ = built(name)
    x = nets.NETS[name]()[1]
    batch = graph.linearize(x)
    patterns = [batch.pattern(image) for image in range(len(x))]
    again = graph.linearize(x.flip(0)).pattern(len(x) - 1)
    assert again == patterns[0] and hash(again) == hash(patterns[0]) and again.key == patterns[0].key
    assert len({*patterns, again}) == len(x) > 1
    differing = regions.disagreements(batch, graph.linearize(x[:1].expand_as(x).clone()))
    for image, pattern in enumerate(patterns):
        assert pattern.hamming(patterns[0]) == {site: int(count[image]) for site, count in differing.items()}
    assert set(patterns[0]) == set(regions.inequalities(graph.linearize(x[:1])).sites)
    with pytest.raises(ValueError, match="read-only"):
        next(iter(again.values()))[...] = 0


def test_a_pattern_counts_the_kinks_below() -> None:
    """Of ReLU, ReLU6 and |z| by hand; the closed side at a kink; a number of another place is another pattern."""
    gates = {"relu": ([0, 0, 1, 1, 1], nn.ReLU()), "relu6": ([0, 0, 1, 2, 2], nn.ReLU6())}
    gates["hardshrink"] = ([0, 1, 2, 2, 2], nn.Hardshrink(0.5))  # the same line on both sides
    z = torch.tensor([[-1.0, 0.0, 3.0, 6.0, 7.0]])
    for expected, gate in gates.values():
        lin = linreg.trace(nn.Sequential(gate), z).linearize(z)
        assert lin.pattern()["0"].tolist() == expected
    tight = linreg.trace(nn.Sequential(nn.Hardtanh(-0.1, 0.1)), z.double()).linearize(z.double())
    assert tight.pattern()["0"].tolist() == [0, 1, 2, 2, 2]
    assert regions.inequalities(tight).slack.tolist() == pytest.approx([0.9, 0.1, 0.1, 2.9, 5.9, 6.9], rel=1e-15)
    with pytest.raises(LinregError, match="no site 'relu'"):
        lin.pattern()["relu"]
    with pytest.raises(LinregError, match="no image 1"):
        lin.pattern(1)
    with pytest.raises(LinregError, match="one network"):
        lin.pattern().hamming(regions.Pattern({}))


# ---- the inequalities ----


@pytest.mark.parametrize("name", [*nets.NETS, *CHOOSING])
def test_a_region_ends_where_a_forward_pass_says(name: str) -> None:
    """Along random directions: the same pattern all the way to the first wall, and another just beyond it."""
    graph, x = built(name)
    region = regions.inequalities(graph.linearize(x))
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(12, *x.shape[1:], dtype=torch.float64, generator=generator)
    steps = torch.stack([regions.exits(region, direction).amin() for direction in directions])
    assert steps.isfinite().any() and (steps > 0).all()
    finite, to = directions[steps.isfinite()], steps[steps.isfinite()].view(-1, *[1] * (x.dim() - 1))
    for share in (0.0, 0.3, 0.7, 1 - 1e-6):
        inside = x + share * to * finite
        assert same_piece(graph, x, inside).all() and region.contains(inside).all()
    beyond = x + (1 + 1e-6) * to * finite
    assert not region.contains(beyond).any()
    if name != "logic":  # one comparison may change and the choice be the same
        assert not same_piece(graph, x, beyond).any()


@settings(
    max_examples=30, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(networks())
def test_regions_of_random_networks_end_where_a_forward_pass_says(network: Network) -> None:
    """Of every gate, selection and comparison, in whatever is put together of them."""
    model, x = network.model(), network.input(1)
    graph = linreg.trace(model, network.input(network.images))
    if graph.batch is not None:
        return
    region = regions.inequalities(graph.linearize(x))
    directions = torch.randn(6, *x.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    for direction in directions if len(region) else ():
        step = regions.exits(region, direction).amin()
        if step.isfinite():
            assert step > 1e-9
            points = x + torch.tensor([0.5, 1 - 1e-6, 1 + 1e-6]).view(-1, *[1] * (x.dim() - 1)) * step * direction
            assert region.contains(points).tolist() == [True, True, False]
            assert same_piece(graph, x, points).tolist() == [True, True, False]


@pytest.mark.parametrize("name", ["chain_with_biases", "gates", "selections", "topk", "where", "unpool", "shrink"])
def test_membership_is_equality_of_patterns(name: str) -> None:
    """At 10,000 random points, near and far."""
    graph, x = built(name)
    region = regions.inequalities(graph.linearize(x))
    generator = torch.Generator().manual_seed(2)
    points = torch.randn(10_000, *x.shape[1:], dtype=torch.float64, generator=generator)
    reach = 10 ** (2 - 5 * torch.rand(10_000, generator=generator, dtype=torch.float64))
    points = x + points * reach.view(-1, *[1] * (x.dim() - 1))
    inside = region.contains(points)
    assert torch.equal(inside, same_piece(graph, x, points))
    assert 100 < inside.sum() < 9_900


@pytest.mark.parametrize("name", ["chain_with_biases", "gates", "pools", "selections", "wiring", "topk"])
def test_rows_are_gradients_of_slacks(name: str) -> None:
    """By both products, by the slack of other points, and by autograd through the model's own gates."""
    graph, x = built(name)
    region = regions.inequalities(graph.linearize(x))
    A, generator = region.rows().flatten(1), torch.Generator().manual_seed(3)
    v = torch.randn(4, *x.shape[1:], dtype=torch.float64, generator=generator)
    g = torch.randn(4, len(region), dtype=torch.float64, generator=generator)
    assert torch.allclose(region.times(v), v.flatten(1) @ A.T, atol=1e-9)
    assert torch.allclose(region.back(g).flatten(1), g @ A, atol=1e-9)
    operator = region.aslinearoperator()
    assert np.allclose(operator @ v[0].flatten().numpy(), region.times(v[:1])[0].numpy())
    assert np.allclose(operator.T @ g[0].numpy(), region.back(g[:1]).flatten().numpy())
    slack = (region.b - v.flatten(1) @ A.T).amin(1)
    assert torch.allclose(region.least_slack(v), slack, atol=1e-9)
    some = torch.tensor([7, 2, 5])
    assert torch.equal(region.rows(some).flatten(1), A[some])


def test_whose_wall_a_row_is() -> None:
    """The label's unit is the one whose value is at its kink, or whose choice is undecided, on the wall."""
    graph, x = built("pools")
    lin = graph.linearize(x)
    region = regions.inequalities(lin, sites=("1", "2"))
    for row in (0, 5, len(region) - 1):
        label = region.label(row)
        before = lin.frozen[graph[label.site].inputs[0]] if label.site == "1" else None
        assert label.site == ("1" if row < len(region.decided["1"]) else "2")
        assert (label.kink is None) == (label.site == "2") and (before is None) == (label.rival is not None)
    only = regions.inequalities(lin, units={"1": [3, 4]})
    assert [only.label(row).unit for row in range(len(only))] == [(0, 0, 3), (0, 0, 4)]


# ---- how far ----


@pytest.mark.parametrize("norm", [1, 2, inf])
@pytest.mark.parametrize("name", ["chain_with_biases", "gates", "selections", "conv1d", "topk"])
def test_no_wall_is_nearer_than_the_nearest(name: str, norm: float) -> None:
    """By forward passes within the ball, in each norm, and just beyond the nearest wall's point; in order beyond it."""
    graph, x = built(name)
    lin = graph.linearize(x)
    found = regions.walls(lin, 8, norm)
    generator = torch.Generator().manual_seed(4)
    offsets = torch.randn(400, x[0].numel(), dtype=torch.float64, generator=generator)
    offsets[:200] *= torch.rand(200, x[0].numel(), generator=generator) < 0.1  # towards corners of the ℓ1 ball
    offsets[100:300] = offsets[100:300].sign() * offsets[100:300].ne(0)  # and of the ℓ∞ ball
    lengths = offsets.norm(norm, dim=1, keepdim=True)
    within = (offsets / lengths.clamp_min(1e-9) * found[0].distance * (1 - 1e-9)).view(-1, *x.shape[1:])
    assert same_piece(graph, x, x + within).all()
    edge = found[0].point - x[0]
    assert edge.flatten().norm(norm).item() == pytest.approx(found[0].distance, rel=1e-9)
    assert not same_piece(graph, x, x + (1 + 1e-6) * edge[None]).any()
    far = regions.distances(regions.inequalities(lin), norm)
    assert [wall.distance for wall in found] == pytest.approx(far.sort().values[:8].tolist(), rel=1e-12)
    for wall in found:  # each point lies on its own wall
        assert (wall.normal * (wall.point - x[0])).sum().item() == pytest.approx(
            regions.inequalities(lin).slack[wall.row].item(), rel=1e-6
        )


@pytest.mark.parametrize("norm", [1, 2, inf])
def test_few_rows_find_the_nearest_of_many(norm: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those that all rows give; and where too few may be made, what is said is true."""
    graph, x = built("pools")
    lin = graph.linearize(x)
    every = regions.walls(lin, 5, norm, miss=0)
    monkeypatch.setattr(nearest, "FEW", 0)
    found = regions.walls(lin, 5, norm)
    assert [wall.row for wall in found] == [wall.row for wall in every] and every.examined == found.total
    assert (found.examined < found.total / 2 or norm == 1) and found.miss == 1e-9
    monkeypatch.setattr(nearest, "DRAWS", 16)
    short = regions.walls(lin, 40, norm, most=16)
    assert (
        short.miss == 1
        and short.beyond <= regions.walls(lin, 40, norm, miss=0)[-1].distance
        and "may be nearer" in str(short)
    )
    with pytest.raises(LinregError, match="one pass back each"):
        regions.walls(lin, 5, norm, miss=0, most=1)


def test_walls_of_some_and_walls_of_the_map() -> None:
    """A unit that only closed units read has a wall of the pattern, and none of the map."""
    model = small(3, 6, 4, 1)
    with torch.no_grad():
        model[2].weight[:, 2] = torch.tensor([0.0, 0.0, 5.0, 0.0])
        model[2].bias[2] = -100.0  # closed here, and all that reads unit 2
    x = torch.ones(1, 3, dtype=torch.float64)
    lin = linreg.trace(model, x).linearize(x)
    every, maps = regions.walls(lin, 20), regions.walls(lin, 20, by="map")
    unseen = {wall.label for wall in every} - {wall.label for wall in maps}
    closed = {(int(unit),) for unit in (lin.pattern()["3"] == 0).nonzero()[0]}
    assert ("1", (2,), 0.0, None) in unseen
    for wall in every:
        n = regions.across(lin, wall) if wall is every[0] else None
        assert n is None or bool(n.jump().abs().max() > 1e-12) == (wall.label not in unseen)
    assert {label.unit for label in unseen if label.site == "3"} <= closed | {(u,) for u in range(4)}
    hidden = [wall for wall in every if not regions.inequalities(lin).contains(wall.point[None], 1e-9).all()]
    assert 0 < len(hidden) < len(every) - 1
    with pytest.raises(LinregError, match="behind another wall"):
        regions.across(lin, hidden[0])
    some = regions.walls(lin, 20, sites=("1",))
    assert [w.row for w in some] == [w.row for w in every if w.label.site == "1"] and not some.whole
    part = regions.walls(lin, 20, sample=3, seed=1)
    assert len(part) == part.total == 3 and "not of all" in str(part)
    ahead = regions.walls(lin, 2, towards=-x[0])
    assert all(torch.allclose(w.point, (1 - w.distance) * x[0]) for w in ahead)


# ---- polytopes ----


def corners(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where any two lines meet within all of them."""
    found = []
    for pair in combinations(range(len(b)), 2):
        if abs(np.linalg.det(A[list(pair)])) > 1e-9:
            v = np.linalg.solve(A[list(pair)], b[list(pair)])
            if (A @ v <= b + 1e-9).all():
                found.append(v)
    return np.unique(np.round(found, 7), axis=0)


def largest_ball(A: np.ndarray, b: np.ndarray) -> float:
    """Of all points as far from three lines, within all of them, the farthest."""
    found = [0.0]
    for three in map(list, combinations(range(len(b)), 3)):
        touching = np.column_stack([A[three], np.ones(3)])
        if abs(np.linalg.det(touching)) > 1e-9:
            *v, radius = np.linalg.solve(touching, b[three])
            if radius > 0 and (A @ v + radius <= b + 1e-9).all():
                found.append(radius)
    return max(found)


def test_a_polytope_is_what_enumeration_finds() -> None:
    """In the plane, of 20 regions: corners, bounding walls, and the largest ball."""
    graph = linreg.trace(small(2, 8, 8, 1), torch.ones(1, 2, dtype=torch.float64))
    generator = torch.Generator().manual_seed(5)
    for _ in range(20):
        x = 2 * torch.randn(1, 2, dtype=torch.float64, generator=generator)
        found = regions.polytope(graph.linearize(x), bounds=(-9, 9))
        rows = found.region.rows().numpy()
        lengths = np.linalg.norm(rows, axis=1)
        A = np.concatenate([rows / lengths[:, None], np.eye(2), -np.eye(2)])
        b = np.concatenate([found.region.b.numpy() / lengths, [9] * 4])
        expected = corners(A, b)
        assert np.allclose(np.unique(np.round(found.vertices().numpy(), 7), axis=0), expected, atol=1e-6)
        again = HalfspaceIntersection(np.column_stack([A, -b]), found.ball.centre.numpy()).intersections
        assert np.allclose(np.unique(np.round(again, 6), axis=0), np.round(expected, 6), atol=2e-6)
        assert found.ball.radius == pytest.approx(largest_ball(A, b), rel=1e-7)
        touched = np.isclose(expected @ found.A.T, found.b, atol=1e-5).sum(0)
        assert set(found.facets) == set((touched >= 2).nonzero()[0])


def test_each_neighbour_differs_by_the_unit_of_its_wall() -> None:
    """In 2 and 5 dimensions; the jump is that of autograd's gradients on both sides, along the normal; y has none."""
    for widths in ((2, 8, 8, 3), (5, 6, 6, 3)):
        model = small(*widths, seed=1)
        x = torch.full((1, widths[0]), 0.3, dtype=torch.float64)
        lin = linreg.trace(model, x).linearize(x)
        found = list(regions.neighbours(regions.polytope(lin, bounds=(-20, 20))))
        assert len(found) >= 4
        for n in found:
            assert n.turned == {n.label.site: [n.label.unit]}
            gradients = []
            for side in (-1e-7, 1e-7):
                leaf = (n.point + side * n.normal).requires_grad_()
                gradients += torch.autograd.grad(model(leaf)[0, 1], leaf)
            assert torch.allclose(n.jump(1), gradients[1] - gradients[0], atol=1e-12)
            assert torch.allclose(n.jump(1)[0], (n.jump(1)[0] @ n.normal) * n.normal, atol=1e-12)
            assert abs(n.step(1)) < 1e-13 and torch.allclose(n.here.output, model(n.point), atol=1e-12)


def test_the_parts_of_a_split_jump_and_their_sum_does_not() -> None:
    """By hand: a unit of the second layer that opens lets its masked share in."""
    model = small(3, 5, 4, 1, seed=2)
    x = torch.full((1, 3), 0.4, dtype=torch.float64)
    lin = linreg.trace(model, x).linearize(x)
    generator = torch.Generator().manual_seed(6)
    masks = {site: torch.rand(1, size, dtype=torch.float64, generator=generator) for site, size in (("1", 5), ("3", 4))}
    W1, W2, w = (model[i].weight for i in (0, 2, 4))
    seen = set()
    for n in regions.neighbours(regions.polytope(lin, bounds=(-9, 9))):
        found, p = jump(n, masks), n.point[0]
        parts = []
        for side in (n.here, n.beyond):
            first, second = (torch.tensor(side.pattern()[site].tolist(), dtype=torch.float64) for site in ("1", "3"))
            h = [m * first * (W1 @ p + model[0].bias) for m in (masks["1"][0], 1 - masks["1"][0])]
            z = [
                m * second * (W2 @ v + model[2].bias)
                for m, v in zip((masks["3"][0], 1 - masks["3"][0]), h, strict=True)
            ]
            parts.append([(w @ v).item() for v in z])
        (plus, minus), (plus_there, minus_there) = parts
        assert found.scores["positive"] == pytest.approx(plus_there - plus, abs=1e-12)
        assert found.scores["negative"] == pytest.approx(minus_there - minus, abs=1e-12)
        assert sum(found.scores[part] for part in ("positive", "negative", "nuisance")) == pytest.approx(0, abs=1e-12)
        weights = [found.weight(part) for part in ("positive", "negative", "nuisance")]
        assert torch.allclose(sum(weights), n.jump(), atol=1e-12)
        seen.add((n.label.site, abs(found.scores["positive"]) > 1e-6))
    assert ("3", True) in seen and {site for site, _ in seen} == {"1", "3"}


# ---- what is degenerate, and what does not fit ----


def test_a_network_without_gates_has_no_walls() -> None:
    graph = linreg.trace(nn.Linear(2, 1).double(), torch.ones(1, 2, dtype=torch.float64))
    lin = graph.linearize(torch.ones(1, 2, dtype=torch.float64))
    whole = regions.polytope(lin)
    assert len(regions.walls(lin)) == 0 == len(lin.pattern()) and whole.ball.radius == inf and whole.facets == ()
    assert regions.inequalities(lin).contains(1e9 * torch.ones(3, 2, dtype=torch.float64)).all()
    assert regions.polytope(lin, bounds=(0, 1)).ball.radius == pytest.approx(0.5)
    assert len(regions.polytope(lin, bounds=(0, 1)).vertices()) == 4
    with pytest.raises(LinregError, match="no end on some side"):
        whole.vertices()


def test_dead_units_twins_and_a_point_on_a_wall() -> None:
    """A dead unit is never met, a wall of two units is named after both, and a wall that x is on is at distance 0."""
    model = small(2, 4, 1)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        model[0].bias.copy_(torch.tensor([-1.0, 0.0, -1.0, 0.0]))
    x = torch.tensor([[3.0, 0.0]], dtype=torch.float64)  # unit 3 is at its kink, unit 1 always
    lin = linreg.trace(model, x).linearize(x)
    assert [(w.label.unit, w.distance) for w in regions.walls(lin)] == [((3,), 0.0), ((0,), 2.0), ((2,), 2.0)]
    found = regions.polytope(lin)
    assert found.ball.radius == inf and len(found.facets) == 2 and 1 not in found.numbers
    both = next(place for place in found.facets if len(found.owners(place)) == 2)
    assert [found.region.label(row).unit for row in found.owners(both)] == [(0,), (2,)]
    [one] = [n for n in regions.neighbours(found) if n.label.unit == (0,)]
    assert one.turned == {"1": [(0,), (2,)]}
    assert regions.inequalities(lin).contains(x).all()
    thin = regions.polytope(lin, bounds=(torch.tensor([0.0, 0.0]), torch.tensor([9.0, 9.0])))
    with pytest.raises(LinregError, match="no inside"):  # unit 3 is closed, and its wall leaves no room
        _ = thin.facets


def test_what_does_not_fit_says_so_before_it_is_tried() -> None:
    model, x = small(4, 6, 2), torch.ones(2, 4, dtype=torch.float64)
    graph = linreg.trace(model, x)
    lin = graph.linearize(x[:1])
    region = regions.inequalities(lin)
    asked = {
        "6 rows of 4 elements": lambda: region.rows(limit=100),
        "6 rows of 4 numbers, 24 in all": lambda: regions.polytope(lin, largest=20),
        "out of bounds": lambda: regions.polytope(lin, bounds=(0, 0.5)),
        "of one input": lambda: regions.walls(graph.linearize(x)),
        "norm must be": lambda: regions.walls(lin, norm=3),
        "shape of one input": lambda: regions.walls(lin, towards=x[:1]),
        "finite numbers": lambda: regions.exits(region, x[0] * inf),
        "count is": lambda: regions.walls(lin, 0),
        "sites are a list": lambda: regions.walls(lin, sites="1"),
        "that of a linearization": lambda: regions.walls(graph),  # type: ignore[arg-type]
        "give a mask of them all": lambda: region.rows(torch.tensor([True])),
        "weights must be torch.float64": lambda: region.back(torch.ones(1, 6)),
        "bounds are": lambda: regions.polytope(lin, bounds=(x[:1], 9)),
        "by must be": lambda: regions.walls(lin, by="maps"),  # type: ignore[arg-type]
        "decides nothing": lambda: regions.walls(lin, sites=("0",)),
        "no node 'relu'": lambda: regions.walls(lin, sites=("relu",)),
        "has units 0 to 5": lambda: regions.walls(lin, units={"1": [6]}),
        "rows 0 to 5": lambda: region.rows([6]),
        "points must have shape": lambda: region.contains(torch.ones(1, 3, dtype=torch.float64)),
        "points must be torch.float64": lambda: region.contains(torch.ones(1, 4)),
        "corners are of a plane": lambda: regions.polytope(lin).vertices(),
    }
    for message, ask in asked.items():
        with pytest.raises(LinregError, match=message):
            ask()
