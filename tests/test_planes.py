"""The pieces of a network in a plane: against closed forms, forward passes and brute force."""

from __future__ import annotations

import os
from math import comb
from time import process_time

import networkx as nx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from nets import Lambda
from random_networks import Network, networks
from test_lines import D, convolutional, drawn, perceptron
from torch import Tensor, nn

import linreg
from linreg.plot import draw_plane
from linreg.regions import Plane, disagreements, plane, segment
from linreg.regions.planes import UNIT, Bounds

EXAMPLES = int(os.environ.get("LINREG_EXAMPLES", 15))
FLAT = tuple(torch.tensor([corner], dtype=D) for corner in ([0, 0], [1, 0], [0, 1]))  # x = (u, v)


def plane_of(model: nn.Module, x: Tensor, bounds: Bounds = UNIT) -> Plane:
    return plane(linreg.trace(model.double().eval(), x), x[:1], x[1:2], x[2:3], bounds=bounds)


def within(found: Plane, seed: int = 0) -> Tensor:
    """A random point in each polygon, (F, 2)."""
    rings = found.polygons.rings
    generator = torch.Generator().manual_seed(seed)
    weights = (0.05 + torch.rand(rings.shape, generator=generator, dtype=D)) * found.polygons.valid
    places = found.polygons.places[rings.clamp_min(0)]
    return (weights[..., None] * places).sum(1) / weights.sum(1, keepdim=True)


def turned(found: Plane, uv: Tensor, f: Tensor) -> Tensor:
    odd = disagreements(found.graph.linearize(found.points(uv)), found.linearize(f))
    return sum(odd.values(), torch.zeros(len(uv), dtype=torch.long))


def check(found: Plane, area: float = 1.0) -> None:
    """The polygons fill the rectangle, each is one piece, and its outputs are affine."""
    assert abs(float(found.areas().sum()) - area) <= 1e-9 * area
    thick = (found.areas() > 1e-13 * area).nonzero()[:, 0]  # else rounding of x decides
    for seed in (0, 1):
        uv = within(found, seed)[thick]
        assert not turned(found, uv, thick).any()
        means = found.polygons.means(found.outputs)[thick]
        scale = found.outputs.abs().max().clamp_min(1)
        assert (found.graph(found.points(found.centres()[thick])) - means).abs().max() <= 1e-9 * scale
    uv = torch.rand(300, 2, generator=torch.Generator().manual_seed(2), dtype=D)
    low, high = found.polygons.places.amin(0), found.polygons.places.amax(0)
    uv = low + uv * (high - low)
    owner, clear = located(found, uv)
    assert clear.sum() > 250 and not turned(found, uv[clear], owner[clear]).any()


def located(found: Plane, uv: Tensor) -> tuple[Tensor, Tensor]:
    """The polygon of each point, and whether the point is clear of its edges."""
    rings, valid = found.polygons.rings, found.polygons.valid
    count = valid.sum(1, keepdim=True)
    following = torch.where(torch.arange(rings.shape[1]) + 1 < count, torch.arange(rings.shape[1]) + 1, 0)
    here, there = (found.polygons.places[r.clamp_min(0)] for r in (rings, rings.gather(1, following)))
    (ax, ay), (bx, by) = here.unbind(2), there.unbind(2)
    turn = (bx - ax) * (uv[:, 1, None, None] - ay) - (by - ay) * (uv[:, 0, None, None] - ax)
    inside = ((turn > 0) | ~valid).all(2) | ((turn < 0) | ~valid).all(2)
    assert (inside.sum(1) <= 1).all()
    return inside.int().argmax(1), inside.any(1)


@pytest.mark.parametrize("units", [1, 2, 5, 12])
def test_one_layer_is_an_arrangement_of_lines(units: int) -> None:
    """n lines in general position, all of whose crossings are in view: 1 + n + C(n, 2) polygons."""
    angle = torch.arange(units, dtype=D) * torch.pi / units + 0.1
    weight = torch.stack([angle.cos(), angle.sin()], 1)
    model = nn.Sequential(nn.Linear(2, units), nn.ReLU(), nn.Linear(units, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(weight)
        model[0].bias.copy_(torch.linspace(-0.3, 0.4, units, dtype=D) ** 3)
    found = plane_of(model, torch.cat(FLAT), ((-50, 50), (-50, 50)))
    assert len(found) == 1 + units + comb(units, 2)
    check(found, 1e4)
    edges = found.polygons.rings[found.polygons.valid].unique()
    assert len(edges) - 4 == comb(units, 2) + 2 * units  # crossings, and where lines meet the border


@settings(
    max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(networks(most=7))
def test_random_networks(network: Network) -> None:
    graph = linreg.trace(network.model(), network.input(network.images))
    if graph.batch is not None:
        return
    x = network.input(3)
    check(plane(graph, x[:1], x[1:2], x[2:3], bounds=((0, 0.5), (0, 0.5)), limit=20_000), 0.25)


@pytest.mark.parametrize(
    "made",
    [
        lambda x: F.threshold(x, 0.1, -1.0).sort(1).values,
        lambda x: torch.cat([F.relu(x).median(1, keepdim=True).values, x.amax(1, keepdim=True)], 1),
        lambda x: torch.maximum(x[:, :3], x[:, 3:]),
    ],
    ids=["a sort of jumps", "a median and a maximum", "maximum"],
)
def test_selections_and_jumps(made: object) -> None:
    check(plane_of(Lambda(made), drawn(1, 3, 6)))  # type: ignore[arg-type]


def test_a_convolutional_network_and_its_boundaries() -> None:
    model, x = convolutional(), drawn(2, 3, 1, 8, 8)
    with torch.no_grad():
        model[-1].bias -= model(x).mean(0)  # type: ignore[index, operator]
    found = plane_of(model, x)
    check(found)
    maps = found.maps(1)
    uv = within(found)
    y = (maps[:, :2] * uv).sum(1) + maps[:, 2]
    assert (y - found.graph(found.points(uv))[:, 1]).abs().max() < 1e-9
    lines, classes = found.boundaries()
    assert len(lines)
    for end in (lines[:, 0], lines[:, 1], lines.mean(1)):
        top = found.graph(found.points(end)).topk(2).values
        assert (top[:, 0] - top[:, 1]).abs().max() < 1e-9
    middles = found.graph(found.points(lines.mean(1)))
    assert torch.equal(middles.topk(2).indices.sort(1).values, classes)


def test_a_decision_is_where_one_output_is_zero() -> None:
    found = plane_of(perceptron(2, 16, 1), torch.cat(FLAT), ((-3, 3), (-3, 3)))
    lines, classes = found.boundaries()
    assert len(lines) and not classes.any()
    assert found.graph(found.points(lines.mean(1))).abs().max() < 1e-10


def test_degenerate_planes() -> None:
    """Rank 1: stripes. Equal corners, or no gates: one polygon."""
    x, model = drawn(3, 1, 3), perceptron(3, 8, 2)
    stripes = plane_of(model, torch.cat([x, -x, -3 * x]))
    assert len(stripes) > 1
    check(stripes)
    assert len(plane_of(model, torch.cat([x, x, x]))) == 1
    assert len(plane_of(nn.Linear(3, 2), drawn(4, 3, 3))) == 1


def test_refusals() -> None:
    x = drawn(5, 3, 3)
    graph = linreg.trace(perceptron(3, 200, 2), x)
    with pytest.raises(linreg.LinregError, match="limit is 50"):
        plane(graph, x[:1], x[1:2], x[2:], bounds=((-9, 9), (-9, 9)), limit=50)
    with pytest.raises(linreg.LinregError, match="GiB"):
        plane(graph, x[:1], x[1:2], x[2:], memory=100)
    for bounds in (((1, 0), (0, 1)), ((0, torch.inf), (0, 1)), (0, 1, 0, 1)):
        with pytest.raises(linreg.LinregError, match="bounds"):
            plane(graph, x[:1], x[1:2], x[2:], bounds=bounds)  # type: ignore[arg-type]
    with pytest.raises(linreg.LinregError, match="one input"):
        plane(graph, x[:1], x[1:2], x[:2])


def test_a_small_classifier_takes_less_than_two_seconds() -> None:
    graph = linreg.trace(perceptron(2, 64, 64, 2), torch.zeros(1, 2, dtype=D))
    began = process_time()
    found = plane(graph, *FLAT, bounds=((-2, 2), (-2, 2)))
    assert process_time() - began < 2 and len(found) > 1000


def test_pictures_show_what_they_are_given() -> None:
    found = plane_of(perceptron(2, 8, 3), torch.cat(FLAT), ((-2, 2), (-2, 2)))
    ax = found.draw()
    assert len(ax.collections[0].get_paths()) == len(found.by_class().polygons)
    assert len(ax.collections[1].get_paths()) == len(found.boundaries()[0])
    numbers = found.areas()
    assert found.draw(numbers).collections[0].get_array().tolist() == numbers.tolist()
    with pytest.raises(linreg.LinregError, match="number for each"):
        found.draw(numbers[:-1])


def test_an_edge_within_a_piece_is_not_drawn() -> None:
    """By map the outlines are those between two pieces, and all polygons of a piece have its colour."""
    found = bent().merged()
    ax = found.draw("piece")
    assert len(ax.collections[0].get_paths()) == len(found.polygons) == 4
    outlines = torch.tensor(np.array([path.vertices for path in ax.collections[1].get_paths()]))
    assert outlines.sum(1).sort(0).values.tolist() == [[1, 1], [1.5, 1.5], [1.5, 1.5]]  # both ends of each, added
    assert len(draw_plane(found, "piece", edges=False).collections) == 1
    filled = found.draw(found.areas()).collections[0].get_array()
    assert filled.tolist() == found.areas()[found.piece].tolist()


def test_by_class_no_polygon_has_two() -> None:
    """Cut at the boundaries, all corners of a polygon agree on the largest output, but for those on a boundary."""
    for outputs in (1, 4):
        found = plane_of(perceptron(2, 16, 16, outputs, seed=3), torch.cat(FLAT), ((-9, 9), (-9, 9)))
        cut = found.by_class()
        assert len(cut) > len(found) and abs(float(cut.areas().sum()) - 324) < 1e-6
        y = cut.graph(cut.points(within(cut)))
        classes = y.argmax(1) if outputs > 1 else (y[:, 0] > 0).long()
        thick = cut.areas() > 1e-9
        assert torch.equal(classes[thick], cut.classes()[thick])


# ---- by map ----


def bent() -> Plane:
    """relu(min(u, v) − ½): 0 on an L of two patterns, u − ½ and v − ½ beyond it."""
    return plane_of(Lambda(lambda x: F.relu(x[:, :1] - F.relu(x[:, :1] - x[:, 1:]) - 0.5)), torch.cat(FLAT))


def test_a_piece_by_map_may_be_bent() -> None:
    found = bent()
    merged = found.merged()
    assert len(found) == 4 and len(merged) == 3 and len(merged.polygons) == 4
    assert merged.areas().sort().values.tolist() == pytest.approx([1 / 8, 1 / 8, 3 / 4])
    zero = int(merged.areas().argmax())
    assert not merged.maps()[zero].any() and not merged.linearize([zero]).weight().any()
    assert sorted(merged.maps().tolist()) == [[0, 0, 0], [0, 1, -0.5], [1, 0, -0.5]]
    assert repr(merged) == "Plane of 3 pieces, in 4 polygons"
    assert len(merged.by_class()) == 3 and torch.equal(
        merged.by_class().classes(), (merged.areas() < 0.5).long()[merged.piece]
    )


def sides(found: Plane) -> tuple[Tensor, Tensor]:
    """Every side of every polygon: whose it is, and its ends (n, 2, 2)."""
    rings = [found.polygon(f) for f in range(len(found.polygons))]
    ends = torch.cat([torch.stack([ring, ring.roll(-1, 0)], 1) for ring in rings])
    return torch.repeat_interleave(torch.tensor([len(ring) for ring in rings])), ends


def meet(found: Plane) -> Tensor:
    """Which polygons have a stretch of an edge in common, (F, F): of all pairs of sides, by brute force."""
    owner, ends = sides(found)
    start, along = ends[:, 0], ends[:, 1] - ends[:, 0]
    length = along.norm(dim=1)
    along = along / length[:, None]
    off = ends[None] - start[:, None, None]  # of each side's ends from each side's start
    aside = (off[..., 0] * along[:, None, None, 1] - off[..., 1] * along[:, None, None, 0]).abs().amax(2)
    place = (off * along[:, None, None]).sum(3)
    overlap = torch.minimum(place.amax(2), length[:, None]) - place.amin(2).clamp_min(0)
    one, other = ((aside < 1e-9) & (overlap > 1e-8)).nonzero(as_tuple=True)
    matrix = torch.zeros(len(found.polygons), len(found.polygons), dtype=torch.bool)
    matrix[owner[one], owner[other]] = True
    return matrix


def pieces_by_map(found: Plane, model: nn.Module) -> list[set[int]]:
    """Polygons that touch and have the same whole Jacobian and constant, by autograd at their centres."""
    x = found.points(found.polygons.means(found.polygons.places))
    maps = []
    for one in x:
        jacobian = torch.autograd.functional.jacobian(model, one[None]).reshape(-1, one.numel())
        maps.append(torch.cat([jacobian, model(one[None]).reshape(-1, 1) - jacobian @ one.reshape(-1, 1)], 1).flatten())
    every = torch.stack(maps)
    same = torch.stack([(every - one).abs().amax(1) for one in every]) <= 1e-9 * every.abs().max()
    graph = nx.from_numpy_array((same & meet(found)).numpy())
    return sorted(nx.connected_components(graph), key=min)


def closing(*sizes: int, seed: int, drop: float) -> nn.Module:
    """A perceptron most of whose last units are closed, and that ends in a gate."""
    model = nn.Sequential(*perceptron(*sizes, seed=seed), nn.ReLU())
    with torch.no_grad():
        model[-2].bias.fill_(0.1)  # type: ignore[operator]
        model[-4].bias -= drop  # type: ignore[operator]
    return model.double()


MERGING = {
    "a network that is often 0": lambda seed: (closing(2, 9, 6, 1, seed=seed, drop=0.3), torch.cat(FLAT)),
    "more inputs, several outputs": lambda seed: (closing(5, 9, 7, 2, seed=seed, drop=0.4), drawn(seed, 3, 5)),
    "pools and clips": lambda seed: (nn.Sequential(convolutional(seed), nn.ReLU()), drawn(seed, 3, 1, 8, 8)),
    "jumps": lambda seed: (
        nn.Sequential(perceptron(3, 8, 5, seed=seed), nn.Threshold(0.1, -1.0), nn.Linear(5, 1), nn.ReLU()).double(),
        drawn(seed, 3, 3),
    ),
    "pools": lambda seed: (
        nn.Sequential(
            perceptron(3, 12, 12, seed=seed), nn.ReLU(), nn.Unflatten(1, (1, 12)), nn.MaxPool1d(4, 2), nn.Flatten(),
            nn.Linear(5, 1), nn.ReLU(),
        ).double(),
        drawn(seed, 3, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MERGING)
def test_pieces_by_map_are_those_of_whole_jacobians(name: str) -> None:
    """And where they end is where a line of the plane, taken by itself, ends its own."""
    merges = 0
    for seed in range(3):
        model, x = MERGING[name](seed)
        size = 0.06 if x.dim() > 2 else 1.5
        found = plane_of(model, x, ((-size, size), (-size, size)))
        merged = plane(found.graph, x[:1], x[1:2], x[2:], by="map", bounds=((-size, size), (-size, size)))
        expected = pieces_by_map(merged, model)
        assert [set((merged.piece == k).nonzero()[:, 0].tolist()) for k in range(len(merged))] == expected
        assert len(merged.polygons) == len(found) and abs(float(merged.areas().sum()) - 4 * size**2) < 1e-9
        merges += len(found) - len(merged)
        ends = merged.points(size * torch.tensor([[-0.9, -0.77], [0.83, 0.91]], dtype=D))
        line = segment(merged.graph, ends[:1], ends[1:], by="map", progress=False)
        way = size * (
            torch.tensor([[-0.9, -0.77]], dtype=D) + line.middles[:, None] * torch.tensor([[1.73, 1.68]], dtype=D)
        )
        owner, clear = located(merged, way)
        crossed = merged.piece[owner[clear]]
        assert len(line) < 2 or (clear.sum() > 1 and (crossed[1:] != crossed[:-1]).all())
    assert merges > 0


def test_the_map_is_that_of_the_whole_input() -> None:
    """relu(x₁ + x₃) − relu(x₁ − x₃) is 0 in the plane x₃ = 0, and its slope along x₃ is 0 or 2: two pieces."""
    model = Lambda(lambda x: F.relu(x[:, :1] + x[:, 2:]) - F.relu(x[:, :1] - x[:, 2:]))
    corners = torch.tensor([[-1, 0, 0], [1, 0, 0], [-1, 1, 0]], dtype=D)
    found = plane_of(model, corners).merged()
    line = segment(found.graph, corners[:1], corners[1:2], by="map", progress=False)
    assert len(found) == len(line) == 2 and not found.maps().any()
    assert found.linearize().weight()[:, 2].sort().values.tolist() == [0, 2]
