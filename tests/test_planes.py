"""The pieces of a network in a plane: against closed forms, forward passes and brute force."""

from __future__ import annotations

import os
from math import comb
from time import process_time

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from nets import Lambda
from random_networks import Network, networks
from test_lines import D, convolutional, drawn, perceptron
from torch import Tensor, nn

import linreg
from linreg.regions import Plane, disagreements, plane
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
    assert len(ax.collections[0].get_paths()) == len(found.by_class())
    assert len(ax.collections[1].get_paths()) == len(found.boundaries()[0])
    numbers = found.areas()
    assert found.draw(numbers).collections[0].get_array().tolist() == numbers.tolist()
    with pytest.raises(linreg.LinregError, match="number for each"):
        found.draw(numbers[:-1])


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
