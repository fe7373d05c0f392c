"""Where a unit looks, through a graph: what moves positions, branches, reasons, what people read."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from approx import values
from cases import traced as case
from nets import Lambda, every_net, traced
from places import check_places, first_refused, geometry, hull, line, read
from torch import Tensor, nn
from zoo import instance

import linreg
from linreg.geometry import Geometry, geometries, summary

# ---- what moves positions, and what does not ----


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding)


Function = Callable[[Tensor], Tensor] | nn.Module
Numbers = tuple[float, ...]
FOCUS = ((0, 0), (1, 0), (0, 1), (1, 1))
W54, W34, GRID = values(5, 4), values(3, 4), values(1, 3, 4, 2, seed=5)

# A function, the shape of one input, the stride, and the centre of the first position.
PLACES: dict[str, tuple[Function, tuple[int, ...], Numbers, Numbers]] = {
    "shortcut of option A": (
        lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)), (4, 8, 9), (2, 2), (0, 0)
    ),
    "batch norm": (nn.BatchNorm2d(4), (4, 8, 9), (1, 1), (0, 0)),
    "even window, same": (nn.Conv2d(4, 2, (2, 4), padding="same"), (4, 8, 9), (1, 1), (0.5, 0.5)),
    "zeros on one side": (nn.Sequential(nn.ZeroPad2d((0, 1, 2, 0)), conv(4, 2, 3, 2, 0)), (4, 8, 9), (2, 2), (-1, 1)),
    "reflections": (nn.Conv2d(4, 2, 5, 1, 2, padding_mode="reflect"), (4, 8, 9), (1, 1), (0, 0)),
    "mirrored": (lambda x: x.flip(3)[:, :, 1:], (4, 8, 9), (1, -1), (1, 8)),
    "rotated": (lambda x: x.rot90(1, (2, 3)), (4, 8, 9), (1, -1), (0, 8)),
    "pixel unshuffle": (nn.PixelUnshuffle(2), (4, 8, 6), (2, 2), (0.5, 0.5)),
    "pixel shuffle": (nn.PixelShuffle(2), (4, 8, 6), (0.5, 0.5), (-0.25, -0.25)),
    "there and back": (nn.Sequential(nn.PixelUnshuffle(2), nn.PixelShuffle(2)), (4, 8, 6), (1, 1), (0, 0)),
    "unshuffled by hand": (
        lambda x: x.view(x.shape[0], 4, 4, 2, 3, 2).permute(0, 1, 3, 5, 2, 4).reshape(x.shape[0], 16, 4, 3),
        (4, 8, 6), (2, 2), (0.5, 0.5),
    ),
    "shuffled by hand": (
        lambda x: x.view(x.shape[0], 2, 2, 2, 4, 3).permute(0, 1, 4, 2, 5, 3).reshape(x.shape[0], 2, 8, 6),
        (8, 4, 3), (0.5, 0.5), (-0.25, -0.25),
    ),
    "channels shuffled by hand": (
        lambda x: x.view(x.shape[0], 2, 2, 8, 6).transpose(1, 2).reshape(x.shape[0], 4, 8, 6),
        (4, 8, 6), (1, 1), (0, 0),
    ),
    "channels last and back": (
        lambda x: F.linear(x.permute(0, 2, 3, 1), W54).permute(0, 3, 1, 2), (4, 8, 9), (1, 1), (0, 0)
    ),
    "product over channels": (lambda x: torch.einsum("nchw,dc->nhdw", x, W54), (4, 8, 9), (1, 1), (0, 0)),
    "one of two": (lambda x: torch.where(x.mean(1, keepdim=True) > 0, x, -x), (4, 8, 9), (1, 1), (0, 0)),
    "the largest channel": (lambda x: x.amax(1), (4, 8, 9), (1, 1), (0, 0)),
    "beside its mean": (
        lambda x: torch.cat([x, x.mean((2, 3), keepdim=True).expand_as(x)], 1), (4, 8, 9), (1, 1), (0, 0)
    ),
    "beside its mean, resampled": (
        lambda x: torch.cat([x, F.interpolate(x.mean((2, 3), keepdim=True), x.shape[2:], mode="bilinear")], 1),
        (4, 8, 9), (1, 1), (0, 0),
    ),
    "halves put together": (lambda x: torch.cat([x[:, :, :3], x[:, :, 3:]], 2), (4, 8, 9), (1, 1), (0, 0)),
    "zeros put before": (lambda x: torch.cat([x.new_zeros(x.shape[0], 4, 8, 2), x], 3), (4, 8, 9), (1, 1), (0, -2)),
    "written into a frame": (
        lambda x: x.new_zeros(x.shape[0], 4, 12, 12).slice_scatter(F.pad(x, (2, 1)), 2, 3, 11),
        (4, 8, 9), (1, 1), (-3, -2),
    ),
    "one position": (lambda x: x[..., 5], (4, 8, 9), (1, 1), (0, 5)),
    "one position, and a layer": (lambda x: F.linear(x[:, :, 2, 5], W34), (4, 8, 9), (1, 1), (2, 5)),
    "down and up by nearest": (nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2)), (4, 8, 6), (1, 1), (0, 0)),
    "down and up by a transpose": (
        nn.Sequential(nn.AvgPool2d(2), nn.ConvTranspose2d(4, 4, 2, 2)), (4, 8, 6), (1, 1), (0, 0)
    ),
    "an encoder and its decoder": (
        nn.Sequential(conv(4, 4, 3, 2, 1), nn.ConvTranspose2d(4, 2, 3, 2, 1, 1)), (4, 8, 6), (1, 1), (0, 0)
    ),
    "pooled and put back": (
        lambda x: F.max_unpool2d(*F.max_pool2d(x, (2, 3), return_indices=True), (2, 3)), (2, 8, 9), (1, 1), (0, 0)
    ),
    "differences": (lambda x: x.diff(n=2), (4, 8, 9), (1, 1), (0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_where_the_positions_lie(name: str) -> None:
    """Branches that meet here agree to rounding."""
    function, shape, stride, offset = PLACES[name]
    place = geometry(function, *shape)
    assert place.placed and place.stride == pytest.approx(stride) and place.offset == pytest.approx(offset)
    assert all(axis.regular and axis.slack == 0 for axis in place.axes)


def test_an_axis_tells_the_dimension_that_it_lies_along() -> None:
    rows, columns = geometry(lambda x: x.permute(0, 3, 1, 2), 4, 8, 9).axes
    assert (rows.number, rows.dim, columns.number, columns.dim) == (2, 3, 3, 1)
    assert (rows.size, columns.size) == (8, 9) and len(rows.first) == 8 and len(columns.first) == 9
    rows, columns = geometry(lambda x: x[:, :, 2], 4, 8, 9).axes
    assert (rows.dim, columns.dim, rows.offset) == (None, 2, 2.0)


def test_what_is_put_side_by_side_lies_where_it_comes_from() -> None:
    axis = line(lambda x: torch.cat([x, 2 * x, x.flip(2)], 2), 2, 3)
    assert axis.centres is not None and axis.centres.tolist() == [0, 1, 2, 0, 1, 2, 2, 1, 0] and not axis.regular
    axis = line(lambda x: x[..., [2, 0, 1]], 2, 3)
    assert axis.centres is not None and axis.centres.tolist() == [2, 0, 1]


# ---- branches ----


@dataclass(frozen=True)
class Merge:
    """Branches of a picture that agree to within `slack`, and the centre of the first position then."""

    function: Callable[[Tensor], Tensor] | nn.Module
    offset: float
    slack: float


class Down(nn.Module):
    """A residual block whose shortcut is averaged where the block itself strides (ResNet-D)."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.shortcut = conv(4, 6, 3, 2, 1), nn.Sequential(nn.AvgPool2d(2), conv(4, 6, 1, 1, 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) + self.shortcut(x)


class Pyramid(nn.Module):
    """A coarse map, made twice as large by nearest, added to a finer one (FPN)."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = conv(4, 4, 3, 2, 1), conv(4, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        return fine + F.interpolate(self.coarse(fine), scale_factor=2)


MERGES = {
    "focus": Merge(lambda x: torch.cat([x[:, :, i::2, j::2] for i, j in FOCUS], 1), 0.5, 0.5),
    "every fourth": Merge(lambda x: torch.cat([x[:, :, i::4, i::4] for i in range(4)], 1), 1.5, 1.5),
    "averaged shortcut": Merge(Down(), 0.5, 0.5),
    "pyramid": Merge(Pyramid(), 0.0, 1.0),
    "corner to corner": Merge(
        lambda x: x + F.interpolate(F.max_pool2d(x, 2), scale_factor=2, mode="bilinear", align_corners=True), 0.0, 0.5
    ),
    "mirrored, both": Merge(lambda x: (x[:, :, ::2, ::2] + F.avg_pool2d(x, 2)).flip(2, 3), 6.0, 0.5),
}


@pytest.mark.parametrize("name", MERGES)
def test_branches_nearer_than_the_next_position_agree_by_the_one_that_looks_at_least(name: str) -> None:
    place = geometry(MERGES[name].function, 4, 8, 8)
    for axis in place.axes:
        assert axis.offset == MERGES[name].offset and axis.slack == pytest.approx(MERGES[name].slack)


class Two(nn.Module):
    """left(x) and right(x), joined."""

    def __init__(self, left: Callable[..., Tensor], right: Callable[..., Tensor], dim: int | None = 1) -> None:
        super().__init__()
        self.left, self.right, self.dim = left, right, dim

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.left(x), self.right(x)]
        return parts[0] + parts[1] if self.dim is None else torch.cat(parts, self.dim)


DISAGREE = {
    "one pixel apart": (Two(lambda x: x[..., 1:], lambda x: x[..., :-1]), "position 0, '.*' at pixel 0 and '.*' at 1"),
    "one pixel apart, added": (
        Two(lambda x: x[..., 1:], lambda x: x[..., :-1], None),
        "position 0, '.*' at pixel 0 and '.*' at 1",
    ),
    "another stride": (
        Two(lambda x: F.max_pool2d(x, 2), lambda x: 2 * x[..., :4, :4]),
        "position 3, '0.mul' at pixel 3 and '0.max_pool2d' at 6.5",
    ),
    "mirrored": (Two(lambda x: 2 * x, lambda x: x.flip(3), None), "position 0, '0.mul' at pixel 0 and '0.flip' at 7"),
    "padded on one side": (
        Two(nn.Conv2d(4, 2, 3, padding=1), nn.Sequential(nn.ZeroPad2d((2, 0, 2, 0)), nn.Conv2d(4, 2, 3))),
        "position 0, '0.right.1' at pixel -1 and '0.left' at 0",
    ),
    "transposed": (
        Two(lambda x: 2 * x, lambda x: x.transpose(2, 3), None),
        "across each other, that of '0.mul' in dimension 2 and that of '0.transpose' in dimension 3",
    ),
    "single positions": (
        Two(lambda x: x[..., 1], lambda x: x[..., 5]),
        "position 0, '0.select' at pixel 1 and '0.select@1' at 5",
    ),
}


@pytest.mark.parametrize("name", DISAGREE)
def test_branches_that_look_at_different_places_are_refused_by_name(name: str) -> None:
    """… where it is asked for, with all nodes behind; `geometries` goes on, and the fields are still told."""
    module, why = DISAGREE[name]
    model = nn.Sequential(module, nn.ReLU()).double()
    graph = linreg.trace(model, values(2, 4, 8, 8))
    joined = graph.nodes[-2].name
    for node in (joined, graph.output):
        with pytest.raises(
            linreg.LinregError,
            match=rf"no place .* '{node}', from node '{joined}' .*{why}.*, at .*test_geometry_graph.py",
        ):
            graph.geometry(node)
    place = geometries(graph)[graph.output]
    assert not place.placed and place.loss is not None and place.loss.refused and place.loss.node == joined
    matrices = read(graph, [values(2, 4, 8, 8)])
    for axis in place.axes:
        assert (axis.first.tolist(), axis.last.tolist()) == hull(matrices[graph.output], place.shape, (4, 8, 8), axis)


def test_a_disagreement_ends_where_all_positions_come_together() -> None:
    model = nn.Sequential(Two(lambda x: 2 * x, lambda x: x.flip(3), None), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    graph = linreg.trace(model, values(2, 4, 8, 8))
    place = graph.geometry(graph.output)
    assert not place.placed and place.loss is not None and not place.loss.refused


def test_branches_of_several_levels_do_not_drift_apart() -> None:
    """A U-Net whose way up is half a pixel off at every level stays where its skips are."""
    model, x = instance("unet_transposed")
    graph = linreg.trace(model, x)
    assert graph.geometry("head").offset == (0, 0) and graph.geometry("head").stride == (1, 1)
    assert graph.geometry("head").axes[0].slack == 1.5


# ---- no place ----

LOST = {
    "global pool": (nn.AdaptiveAvgPool2d(1), "all its positions come together"),
    "global pool by its window": (nn.AvgPool2d((8, 9)), "all its positions come together"),
    "mean": (lambda x: x.mean((2, 3)), "all its positions come together"),
    "maximum": (lambda x: x.amax((2, 3)), "all its positions come together"),
    "flattened": (nn.Flatten(), "laid in one dimension with others"),
    "rows and columns in one": (lambda x: x.flatten(2), "laid in one dimension with others"),
    "a layer over the picture": (nn.Sequential(nn.Flatten(2), nn.Linear(72, 5)), "laid in one dimension with others"),
    "a window over all": (nn.Conv2d(4, 2, (8, 9)), "all its positions come together"),
    "a sum of all, beside one": (lambda x: x.mean((2, 3)) + x[:, :, 0, 0], "all its positions come together"),
    "windows in rows": (nn.Unfold(3), "several places, in no order"),
}


@pytest.mark.parametrize("name", LOST)
def test_what_has_no_place_says_why_and_is_not_refused(name: str) -> None:
    function, why = LOST[name]
    place = geometry(function, 4, 8, 9)
    assert not place.placed and not any(axis.placed for axis in place.axes) and why in place.why
    assert place.why.endswith("(dimensions 2, 3 of the input)") and repr(place).endswith(f"no place, {place.why})")


def test_one_axis_may_be_lost() -> None:
    place = geometry(lambda x: x.mean(2), 4, 8, 9)
    assert not place.placed and [axis.placed for axis in place.axes] == [False, True]
    assert place.why.endswith("(dimension 2 of the input)") and place.axes[1].dim == 2
    place = geometry(lambda x: x.cumsum(3), 4, 8, 9)
    assert [axis.placed for axis in place.axes] == [True, False] and "all that come before" in place.why
    assert place.axes[1].last.tolist() == list(range(9))  # the fields are told all the same


def test_an_input_of_features_has_no_axes() -> None:
    place = traced("gates").graph.geometry("cat")
    assert place.axes == () and not place.placed and "only features" in place.why


def test_an_operator_that_does_not_tell_is_refused_by_name() -> None:
    sample = Lambda(lambda x: F.grid_sample(x, GRID.expand(x.shape[0], 3, 4, 2), align_corners=False))
    graph = linreg.trace(nn.Sequential(sample, nn.ReLU()), values(2, 4, 5, 6))
    for node in graph.nodes:
        with pytest.raises(linreg.LinregError, match="operator 'grid sample' does not tell where its positions look"):
            graph.geometry(node.name)
    assert geometries(graph)["input"].placed


# ---- real networks ----


@every_net
def test_every_node_has_a_place_or_a_reason(name: str) -> None:
    """test_zoo says so of larger ones."""
    check_places(traced(name).graph)


@every_net
def test_what_is_refused_in_nets(name: str) -> None:
    """Shifted branches."""
    assert first_refused(traced(name).graph) == ("cat" if name == "wiring" else None)


# ---- what people ask and read ----


def test_a_node_is_asked_for_by_name() -> None:
    graph = traced("pools").graph
    assert graph.geometry("2") is graph.geometry("2") and graph.geometry("input").stride == (1, 1)
    with pytest.raises(linreg.LinregError, match="no node '22'; did you mean"):
        graph.geometry("22")
    assert graph.geometry("2").extent == (5, 5)
    assert repr(graph.geometry("2")) == "Geometry('2', (4, 5, 5): stride 2 × 2, first centre (0, 0), field 5 × 5)"
    again = pickle.loads(pickle.dumps(case("cumsum").lin.graph))
    assert again.geometry("cumsum").axes[1].last.tolist() == [0, 1, 2, 3, 4, 5]


def test_the_axes_of_the_picture_may_be_named() -> None:
    """A picture without channels, and one whose channels come last."""
    grey = Lambda(lambda x, conv: conv(x.unsqueeze(1)), conv=nn.Conv2d(1, 2, 3)).double()
    graph = linreg.trace(grey, values(2, 8, 9))
    place = geometries(graph, axes=(1, 2))[graph.output]
    assert place.placed and place.offset == (1, 1) and [axis.dim for axis in place.axes] == [2, 3]
    last = Lambda(lambda x, conv: conv(x.permute(0, 3, 1, 2)), conv=nn.Conv2d(3, 2, 3, 2)).double()
    graph = linreg.trace(last, values(2, 8, 9, 3))
    assert geometries(graph, axes=(1, 2))[graph.output].stride == (2, 2)
    for axes in ((0, 1), (1, 4), (2, 2)):
        with pytest.raises(linreg.LinregError, match=r"dimensions of the input \(N, 8, 9, 3\), from 1 on"):
            geometries(graph, axes)


def test_the_table_tells_of_every_node() -> None:
    lines = summary(traced("residual_inner").graph).splitlines()
    assert len(lines) == 3 + len(traced("residual_inner").graph.nodes)
    cells = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
    assert cells["4.add"] == "6×4×4 2 × 2 (0, 0) 8 × 8"
    assert cells["5"].endswith("node '5' (adaptive avg pool): all its positions come together")
    assert cells["7"].endswith("no place from '5' on")
    assert "branches within ±0.5" in summary(linreg.trace(Down().double(), values(2, 4, 8, 8)))


def test_a_large_graph_takes_no_input_and_little_time() -> None:
    """Of positions alone: a picture of a thousand pixels a side is no more work for its channels."""
    model = nn.Sequential(*(conv(2, 2, 3, 1 + k % 2) for k in range(8))).double()
    place: Geometry = geometry(model, 2, 64, 1024)
    assert place.extent[1] == 1 + 2 * sum(2 ** (k // 2) for k in range(8)) and place.stride == (16, 16)
