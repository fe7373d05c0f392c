"""Pictures of graphs and spectra: what is drawn is what the data say, node by node and bar by bar."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise
from math import log10

import networkx as nx
import numpy as np
import pytest
import torch
import torchvision
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from nets import NETS, Lambda, traced
from torch import nn

import linreg
from linreg.paths import node_share, path_spectrum
from linreg.plot import draw_graph, draw_matrix, draw_spectrum
from linreg.plot.placement import Layout, lay_out
from linreg.plot.style import DIVERGING, NO_VALUE

TARGET = [0, 2, 1]


def rendered(ax: Axes) -> bytes:
    """The picture as PNG; a missing glyph or a layout that does not fit would warn, and warnings are errors."""
    stream = io.BytesIO()
    ax.figure.savefig(stream, format="png", dpi=40)
    return stream.getvalue()


def drawn(ax: Axes) -> dict[tuple[float, float], tuple[float, ...]]:
    """Place and face colour of every marker."""
    found = {}
    for collection in ax.collections:
        faces, places = collection.get_facecolors(), np.asarray(collection.get_offsets())
        for i, place in enumerate(places):
            found[tuple(place.tolist())] = tuple(faces[i % len(faces)].tolist())
    return found


def long_net(blocks: int) -> linreg.OperatorGraph:
    """Residual blocks of two linear layers, 6 layers of nodes each."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
            self.relu = nn.ReLU()

        def forward(self, h):  # type: ignore[no-untyped-def]
            return self.relu(self.layers(h) + h)

    model = nn.Sequential(*(Block() for _ in range(blocks))).double().eval()
    return linreg.trace(model, traced("chain").x[:, :3])


# ---- layout ----


@pytest.mark.parametrize("columns", [None, 4])
@pytest.mark.parametrize("name", NETS)
def test_everything_has_its_place(name: str, columns: int | None) -> None:
    graph = traced(name).graph
    layout = lay_out(graph, columns)
    assert layout.places.keys() == {"input", *(node.name for node in graph.nodes)}
    assert len(set(layout.places.values())) == len(layout.places)
    assert layout.columns <= (columns or 14)
    for x, y in layout.places.values():
        assert 0 <= x < layout.columns and 0 <= y < layout.height
    longest = nx.dag_longest_path_length(graph.to_networkx())
    assert sum(height == 0 for height in layout.heights.values()) == longest + 1  # it runs straight on, and alone


@pytest.mark.parametrize("columns", [None, 4])
@pytest.mark.parametrize("name", NETS)
def test_lines_lead_from_each_node_to_its_readers(name: str, columns: int | None) -> None:
    graph = traced(name).graph
    layout = lay_out(graph, columns)
    for node in graph.nodes:
        for source in node.inputs:
            assert connected(layout, source, node.name)


def connected(layout: Layout, source: str, reader: str) -> bool:
    """Whether pieces of lines lead from one to the other; a stub at the end of a row goes on where the next begins."""
    nodes = set(layout.places.values()) - {layout.places[source]}
    seen, todo = set(), [layout.places[source]]
    while todo:
        place = todo.pop()
        for start, stop in layout.links:
            leaves_row = start == place and stop[0] % 1 == 0.75 and stop not in layout.places.values()
            enters_row = [link for link in layout.links if leaves_row and link[0][0] < 0 and link[0][1] < place[1]]
            for following in [stop] * (start == place and not leaves_row) + [link[1] for link in enters_row]:
                if following == layout.places[reader]:
                    return True
                if following not in nodes and following not in seen:
                    seen.add(following)
                    todo.append(following)
    return False


def test_long_networks_are_set_in_rows_that_end_between_blocks() -> None:
    graph = long_net(8)
    layout = lay_out(graph, 14)
    rows = sorted({y - layout.heights[name] for name, (_, y) in layout.places.items()}, reverse=True)
    assert len(rows) == 4 and all(above - below > 1 for above, below in pairwise(rows))
    assert [band.title for band in layout.bands] == [str(block) for block in range(8)]
    firsts = [name for name, (x, _) in layout.places.items() if x == 0]
    assert firsts == ["input", "2.layers.0", "4.layers.0", "6.layers.0"]


def test_labels_are_names_less_the_title_of_their_band() -> None:
    layout = lay_out(traced("residual_inner").graph)
    assert [band.title for band in layout.bands] == ["3", "4"]
    assert layout.labels["4.downsample.1"] == "downsample.1" and layout.labels["2"] == "2"
    assert layout.heights["4.downsample.1"] == 1 and layout.heights["4.bn1"] == 0
    assert not lay_out(traced("shortcut").graph).bands  # `wide`, of no module, is beside `deep`


def test_the_longest_path_runs_straight_on_below_what_is_read_again_and_again() -> None:
    model = torchvision.models.densenet.DenseNet(growth_rate=2, block_config=(4,), num_init_features=4, num_classes=3)
    graph = linreg.trace(model.eval(), torch.zeros(1, 3, 32, 32))
    assert not any(lay_out(graph).heights.values())


# ---- pictures of graphs ----


@pytest.mark.parametrize("name", NETS)
def test_every_node_is_drawn_with_its_label(name: str) -> None:
    graph = traced(name).graph
    ax = graph.draw()
    assert drawn(ax).keys() == set(lay_out(graph).places.values())
    texts = [text.get_text() for text in ax.texts]
    assert all(label in texts for label in lay_out(graph).labels.values() if len(label) <= 15)
    assert rendered(ax).startswith(b"\x89PNG")


def test_colours_tell_the_numbers() -> None:
    lin = traced("residual_outer").lin
    colour = {name: share[1].item() for name, share in node_share(lin, TARGET).items()}
    colour |= {"input": 0.0, "5": -2 * max(map(abs, colour.values()))}
    ax = draw_graph(lin.graph, colour=colour, label="share of y")
    places, faces = lay_out(lin.graph).places, drawn(ax)
    limit = abs(colour["5"])
    for name, place in places.items():
        expected = DIVERGING(0.5 + 0.5 * colour[name] / limit) if name in colour else to_rgba(NO_VALUE)
        assert np.allclose(faces[place], expected, atol=0.02)
    assert faces[places["input"]] == (1, 1, 1, 1)
    assert [legend.get_text() for legend in ax.get_legend().get_texts()][-1] == "no value"
    (bar,) = (other for other in ax.figure.axes if other is not ax)
    assert bar.get_xlabel() == "share of y" and bar.get_xlim() == (-limit, limit)


def test_a_picture_goes_where_it_is_told() -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    graph = traced("shortcut").graph
    assert graph.draw(right, {"deep.1": 1.0}) is right
    assert not left.has_data() and right.has_data()
    assert draw_graph(graph, colour={"deep.1": 0.0}).figure is not figure


def test_names_are_not_taken_for_mathematics() -> None:
    model = nn.ModuleDict({"$x_{$": nn.Linear(6, 3)}).double().eval()
    graph = linreg.trace(Lambda(lambda x, parts: parts["$x_{$"](x), parts=model), traced("gates").x)
    rendered(graph.draw())


@pytest.mark.parametrize(
    ("colour", "message"),
    [
        ({"2.rely": 1.0}, r"did you mean '2\.relu'"),
        ({"2.relu": float("nan")}, r"finite number for some nodes; it has \['2\.relu'\]"),
        ({}, "it has none at all"),
    ],
)
def test_wrong_colours_are_refused(colour: dict[str, float], message: str) -> None:
    with pytest.raises(linreg.LinregError, match=message):
        draw_graph(traced("residual_outer").graph, colour=colour)


# ---- pictures of spectra ----


@pytest.mark.parametrize("grade", ["gates", "blocks"])
@pytest.mark.parametrize("name", NETS)
def test_bars_are_the_shares_and_lines_the_counts(name: str, grade: str) -> None:
    spectrum = path_spectrum(traced(name).lin, TARGET, grade)
    ax = draw_spectrum(spectrum, image=1)
    inputs, biases = ([bar.get_height() for bar in bars] for bars in ax.containers)
    assert inputs == spectrum.input[:, 1].tolist() and biases == spectrum.bias[:, 1].tolist()
    sums = next(line for line in ax.lines if line.get_marker() == "D")
    assert np.array_equal(sums.get_xydata(), np.stack([spectrum.degrees, spectrum.value[:, 1].numpy()], 1))
    (right,) = (other for other in ax.figure.axes if other is not ax)
    for line, counts in zip(right.lines, (spectrum.counts, spectrum.constant_counts), strict=True):
        expected = [(d, log10(count)) for d, count in zip(spectrum.degrees, counts, strict=True) if count]
        assert [tuple(point) for point in line.get_xydata()] == expected
    assert rendered(ax).startswith(b"\x89PNG")


def test_counts_may_exceed_every_float() -> None:
    spectrum = path_spectrum(traced("residual_outer").lin, TARGET, "blocks")
    ax = draw_spectrum(replace(spectrum, counts=(1, 2**5000, 1)), Figure().add_subplot())
    assert ax.figure.axes[1].get_ylim()[1] > 1505
    rendered(ax)


@pytest.mark.parametrize(("name", "stop"), [("chain", None), ("residual_outer", None), ("conv_bn", None)])
def test_a_matrix_is_drawn_as_it_is(name: str, stop: str | None) -> None:
    t = traced(name)
    lin = t.graph.linearize(t.lin.input[:1])
    ax = draw_matrix(lin, stop)
    (image,) = ax.get_images()
    np.testing.assert_array_equal(image.get_array(), lin.matrix(stop).numpy())
    assert image.norm(0) == 0.5 and image.cmap(0.5) == to_rgba("white")
    assert "input: channel" in ax.get_xlabel() and ax.get_ylabel().startswith(f"{t.graph.output}: channel")
    rendered(ax)


def test_a_matrix_too_large_to_be_seen_is_refused() -> None:
    t = traced("conv_bn")
    with pytest.raises(linreg.LinregError, match="the limit is"):
        draw_matrix(t.graph.linearize(t.lin.input[:1]), limit=10)
