"""The complete map: its sums, its places, and the two things that spreading must not do: sharpen, and lose anything."""

from __future__ import annotations

from math import prod

import pytest
import torch
from nets import NETS, traced
from torch import Tensor, nn

import dmbp
import linreg
from dmbp.account import PARTS
from linreg.complete import CompleteMap, hats
from linreg.geometry import geometries
from linreg.target import sum_per_image

TARGET = [0, 2, 1]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn_split(lin: linreg.Linearization, sites: str, counting: str) -> dmbp.Split:
    masks = {
        site: draw(len(lin.input), *lin.graph.shape(site), seed=seed).sigmoid()
        for seed, site in enumerate(dmbp.find_sites(lin.graph, sites))
    }
    return dmbp.decompose(lin, masks, TARGET, counting)


def check_sums(complete: CompleteMap, score: Tensor, magnitude: Tensor, lin: linreg.Linearization) -> None:
    tolerance = 1e-12 * magnitude
    assert complete.map.shape == (len(score), *lin.graph.input_shape[1:])  # the channels are summed
    assert ((sum_per_image(complete.map) + complete.rest - score).abs() <= tolerance).all()
    assert ((complete.pixel_share + complete.placed_share + complete.rest - score).abs() <= tolerance).all()
    assert complete.why.keys() == complete.unplaced.keys() and all(complete.why.values())


@pytest.mark.parametrize("name", NETS)
def test_map_and_rest_sum_to_the_score(name: str) -> None:
    """y from the sweep forward, the map from the sweep back."""
    lin = traced(name).lin
    ledger = lin.ledger(TARGET)
    check_sums(ledger.complete(), lin.score(TARGET), ledger.magnitude, lin)


@pytest.mark.parametrize("counting", ["nuisance", "both"])
@pytest.mark.parametrize("sites", ["gates", "blocks"])
@pytest.mark.parametrize("name", NETS)
def test_maps_of_the_parts_sum_to_the_parts(name: str, sites: str, counting: str) -> None:
    """y⁺, y⁻ and u from sweeps forward through masked networks; y~ from the recurrence, by `split.error`."""
    split = drawn_split(traced(name).lin, sites, counting)
    magnitude = sum(split.ledger(part).magnitude for part in PARTS)
    for part in PARTS:
        check_sums(split.complete(part), getattr(split, part), magnitude, split.lin)
    assert (split.error <= 1e-12 * magnitude).all()


def literal(term: linreg.Term, centres: list[list[float]], strides: list[float], sizes: tuple[int, ...]) -> Tensor:
    """One term of a node whose value is (C, *positions), spread in loops: each element by its own hats."""
    result = torch.zeros(len(term.elements), *sizes, dtype=torch.float64)
    positions = [range(len(c)) for c in centres]
    for q in torch.cartesian_prod(*map(torch.tensor, positions)).reshape(-1, len(sizes)).tolist():
        share = term.elements[(slice(None), slice(None), *q)].sum(1)
        axes = []
        for axis, p in enumerate(q):
            c = min(max(centres[axis][p], 0), sizes[axis] - 1)
            hat = torch.tensor([max(0.0, 1 - abs(i - c) / strides[axis]) for i in range(sizes[axis])])
            axes.append(hat.double() / hat.double().sum())
        kernel = axes[0]
        for other in axes[1:]:
            kernel = kernel[..., None] * other
        result += share.view(-1, *[1] * len(sizes)) * kernel
    return result


def pictures(dims: int) -> tuple[nn.Module, Tensor]:
    """A network in so many dimensions, its strides and paddings known by heart."""
    conv, pool, norm = (
        (nn.Conv1d, nn.AvgPool1d, nn.BatchNorm1d),
        (nn.Conv2d, nn.AvgPool2d, nn.BatchNorm2d),
        (nn.Conv3d, nn.AvgPool3d, nn.BatchNorm3d),
    )[dims - 1]
    torch.manual_seed(dims)
    model = nn.Sequential(
        conv(2, 3, 3, padding=1), nn.ReLU(), pool(2), norm(3), conv(3, 2, 3, stride=2), nn.ReLU6(), nn.Flatten(),
        nn.LazyLinear(4),
    ).double().eval()  # fmt: skip
    x = draw(2, 2, *[(17, 12, 11)[axis] for axis in range(dims)])
    with torch.no_grad():
        model(x)
        model[3].running_mean += 0.3  # type: ignore[operator]
    return model, x


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_each_share_lies_around_the_centre_of_its_position(dims: int) -> None:
    model, x = pictures(dims)
    lin = linreg.trace(model, x).linearize(x)
    ledger = lin.ledger(1)
    known = {"0": (1, 0.0), "3": (2, 0.5), "4": (4, 2.5), "5": (4, 2.5)}  # stride, first centre
    complete, seen = ledger.complete(), set[str]()
    expected = ledger.input.sum(1)
    for term in ledger.terms:
        if term.node in known:
            stride, first = known[term.node]
            counts = lin.graph.shape(term.node)[1:]
            centres = [[first + stride * q for q in range(count)] for count in counts]
            spread = literal(term, centres, [float(stride)] * dims, tuple(x.shape[2:]))
            expected += spread
            seen.add(term.node)
    assert seen >= {"0", "3", "4"}
    torch.testing.assert_close(complete.map, expected, rtol=1e-11, atol=1e-13)
    layers = sum(complete.layer(node) for node in seen)
    torch.testing.assert_close(complete.map - complete.pixels, layers, rtol=1e-11, atol=1e-13)
    assert set(complete.unplaced) == {"7.bias"}


def test_without_constants_it_is_the_channel_summed_map() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2, bias=False)
    ).double()
    x = draw(2, 3, 8, 9)
    model(x)
    result = dmbp.explain(model, x, 1, iterations=2, progress=False)
    torch.testing.assert_close(result.complete, result.attribution.sum(1), rtol=1e-12, atol=1e-15)
    positive = result.split.complete("positive")
    assert not positive.unplaced and not positive.placed


class Even(nn.Module):
    """Two strided layers without padding, and a sum over all positions: no border has any say."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU6()
        ).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).sum((1, 2, 3), keepdim=True).flatten(1)


def test_a_picture_shifted_by_the_stride_shifts_its_map() -> None:
    x = torch.zeros(1, 1, 43, 43, dtype=torch.float64)
    x[..., 16:24, 15:25] = 3 * draw(8, 10)
    shifted = x.roll((4, 8), (2, 3))
    graph = linreg.trace(Even(), x)
    here, there = (graph.linearize(each).ledger().complete().map for each in (x, shifted))
    inside = slice(8, 35)
    assert here[0, inside, inside].std() > 1e-3
    torch.testing.assert_close(here[0, 8:27, 8:23], there[0, 12:31, 16:31], rtol=1e-11, atol=1e-12)


def test_a_constant_at_the_inputs_resolution_stays_where_it_is() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(draw(2, 6, 7, seed=1))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x + self.shift).flatten(1).cumsum(1)[:, -1:]

    model, x = Shifted(), draw(3, 2, 6, 7, seed=2)
    complete = linreg.trace(model, x).linearize(x).ledger().complete()
    open_ = (x + model.shift > 0).double()
    torch.testing.assert_close(complete.map, (open_ * (x + model.shift)).sum(1).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_spreading_is_a_partition_of_unity(name: str) -> None:
    """Each column sums to 1, no weight is negative; equal shares make an even ground, but for the border."""
    for geometry in geometries(traced(name).lin.graph).values():
        for axis in geometry.axes if geometry.placed else ():
            kernel = hats(axis)
            assert kernel.min() >= 0 and abs(kernel.sum(0) - 1).max() <= 1e-14
            stride = abs(axis.stride)
            border = 2 * int(stride) + 1
            if axis.regular and stride == int(stride) and axis.size > 2 * border and len(axis.centres) > 4:  # type: ignore[arg-type]
                ground = kernel.sum(1)[border:-border]
                covered = (min(axis.centres), max(axis.centres))  # type: ignore[type-var, arg-type]
                inside = [v for i, v in enumerate(ground, border) if covered[0] + stride <= i <= covered[1] - stride]
                assert all(abs(v - 1 / max(stride, 1)) <= 1e-12 for v in inside)


@pytest.mark.parametrize("name", NETS)
def test_terms_know_their_places(name: str) -> None:
    """Summed in the ledger's own sweep, they are those of the elements, which take a sweep each."""
    for term in traced(name).lin.ledger(TARGET).terms:
        if term.places is not None:
            total = term.elements.flatten(1).abs().sum(1)
            assert ((term.places.flatten(1).sum(1) - term.total).abs() <= 1e-13 * total).all()
            if term.elements.dim() == 2 + term.places.dim() - 1 and prod(term.places.shape) > 1:
                torch.testing.assert_close(term.places, term.elements.sum(1), rtol=1e-11, atol=1e-13)


def test_a_table_has_no_places() -> None:
    lin = traced("chain_with_biases").lin
    complete = lin.ledger(TARGET).complete()
    assert complete.map.shape == (3,) and not complete.placed
    assert all("no axes of a picture" in why for why in complete.why.values())


class Diagonal(nn.Module):
    """Both axes of the picture in one dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x.diagonal(0, 2, 3) + 1).sum((1, 2))


class Empty(nn.Module):
    """A branch without elements beside one that has them, and a border around nothing."""

    def forward(self, x: Tensor) -> Tensor:
        none = x[:, :, :0]
        border = nn.functional.pad(none, (0, 0, 2, 2), value=1.0).sum((2, 3))
        return torch.relu(torch.cat([x, none], 2) + 1).sum((1, 2, 3)) + border.sum(1)


@pytest.mark.parametrize(
    ("model", "unplaced"),
    [(Diagonal(), {"add.constant": "in one dimension with others"}), (Empty(), {"pad.pad": "reads nothing"})],
)
def test_what_cannot_be_placed_is_in_the_rest(model: nn.Module, unplaced: dict[str, str]) -> None:
    lin = linreg.trace(model, draw(2, 1, 5, 5)).linearize(draw(2, 1, 5, 5))
    ledger = lin.ledger()
    complete = ledger.complete()
    check_sums(complete, lin.score(), ledger.magnitude, lin)
    assert complete.unplaced.keys() == unplaced.keys()
    assert all(words in complete.why[label] for label, words in unplaced.items())


def test_what_has_no_map_says_so() -> None:
    lin = traced("conv_bn").lin
    ledger = lin.ledger(TARGET)
    gate = next(node.name for node in lin.graph.nodes if node.is_gate)
    with pytest.raises(linreg.LinregError, match=f"no constant of '{gate}' has a place on the picture; those of"):
        ledger.complete().layer(gate)
    with pytest.raises(linreg.LinregError, match=r"made without a graph.* use lin\.ledger"):
        linreg.Ledger(ledger.weight, ledger.x, ledger.terms).complete()


def test_it_prints_what_it_sums_to() -> None:
    """The numbers of the first image, and from how many nodes; of several inputs together."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 1)).double()
    nn.utils.vector_to_parameters(torch.tensor([2.0, 0.5, 1, 1, 1, 1, 10]).double(), model.parameters())
    lin = linreg.trace(model, torch.ones(2, 1, 2, 2).double()).linearize(torch.ones(2, 1, 2, 2).double())
    told = "20.0 = pixels 8.00 + constants of 1 node 2.00 + without a place 10.0; of image 0 of 2"
    assert repr(lin.ledger().complete()) == f"CompleteMap(2 images of 2×2; {told})"

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.model(left) - 2 * self.model(right)

    pair = (torch.ones(1, 1, 2, 2).double(), torch.ones(1, 1, 2, 2).double())
    both = linreg.trace(Twice(), pair).linearize(pair).ledger().complete()
    assert repr(both) == (
        "CompleteMaps('left', 'right'; −20.0 = pixels −8.00 + constants of 2 nodes −2.00 + without a place −10.0)"
    )
