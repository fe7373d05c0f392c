"""Labels do not decide: all are others, and what is computed, masked, folded and drawn stays the same, to the bit.

A label is a word for people: the kind of an operator, a constant or a module, the names of nodes and constants. Results
are compared node by node, by their place in the graph. That the comparison would see a label that decides is shown by
labels that do: each of `RELAPSES` makes one decision by a label again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from nets import NETS, Lambda
from torch import Tensor, nn
from zoo import instance

import dmbp
import linreg
import linreg.capture.fuse
import linreg.operators as ops
from dmbp import masks
from dmbp.errors import DmbpError
from dmbp.learning.passes import MaskedNetwork
from linreg import OperatorGraph
from linreg.capture.place import Place
from linreg.operators import Constant, Operator, Role
from linreg.operators.gates import Abs, Pieces
from linreg.operators.pooling import MaxPool
from linreg.paths import path_spectrum, residual_blocks
from linreg.plot.placement import lay_out
from linreg.target import cotangent

# ---- networks ----


def skipping() -> tuple[nn.Module, Tensor]:
    """h + conv(h): which of the two is the block, only the weights tell. A step chooses between scaled values."""

    def function(x: Tensor, stem: nn.Module, conv: nn.Module) -> Tensor:
        h = torch.relu(stem(x))
        h = h + conv(h)
        return (h * (x > 0)).flatten(1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Lambda(function, stem=nn.Conv2d(2, 2, 3, padding=1), conv=nn.Conv2d(2, 2, 3, padding=1))
        return model.double().eval(), torch.randn(3, 2, 4, 4, dtype=torch.float64)


def gated() -> tuple[nn.Module, Tensor]:
    """Gates of related types, whose layers are not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        layers = (nn.Linear(6, 6), nn.Threshold(0.1, -0.2), nn.Linear(6, 6), Lambda(torch.abs), nn.Hardsigmoid())
        model = nn.Sequential(*layers, nn.Linear(6, 3)).double().eval()
        return model, torch.randn(3, 6, dtype=torch.float64)


OWN = {"skipping": skipping, "gated": gated}
APART = {"conv_bn, apart": NETS["conv_bn"], "conv1d, apart": NETS["conv1d"]}  # with batch norms as nodes of their own
SMALL = ("unet_transposed", "segnet", "wavenet", "voxels", "graph_convolutions", "gates", "lista", "assigned", "nest")
NETWORKS = OWN | NETS | APART | {f"{name} of the zoo": partial(instance, name) for name in SMALL}


def traced(name: str) -> tuple[OperatorGraph, Tensor]:
    """Traced anew each time, under the labels of the moment."""
    model, x = NETWORKS[name]()
    return linreg.trace(model, x, fuse=name not in APART), x


# ---- what must not change ----


def observed(graph: OperatorGraph, x: Tensor) -> Iterator[tuple[str, Any]]:
    """All that a label might decide, with nodes as places in the order of the graph."""
    places = {node.name: place for place, node in enumerate(graph.nodes)} | {"input": -1}
    yield "operators", [(type(n.operator), [places[i] for i in n.inputs], n.shape) for n in graph.nodes]
    yield "residual blocks", [(places[name], numbers) for name, numbers in residual_blocks(graph).items()]
    yield "markers", markers(graph)
    lin = graph.linearize(x)
    g = torch.randn(lin.output.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    yield "regions", [type(affine) for affine in lin.frozen.values()]
    yield "output", [lin.output, graph(x), lin.adjoint(g)]
    yield "module", list(module(graph, x, g))
    yield "ledger", [lin.ledger(g).total, *((t.at_output, t.total) for t in lin.ledger(g).terms)]
    for grade in ("gates", "blocks"):
        spectrum = path_spectrum(lin, g, grade)
        counts = spectrum.degrees, spectrum.counts, spectrum.constant_counts
        yield f"paths by {grade}", [*counts, spectrum.value]
    for sites in ("gates", "blocks"):
        yield f"masks of {sites}", list(learned(lin, g, sites, places))


def markers(graph: OperatorGraph) -> list[Any]:
    """The shape, size and colour of each node's marker in the graph's picture, and the legend."""
    ax, layout = graph.draw(), lay_out(graph)
    found = {}
    for collection in ax.collections:
        (path,), (size,), face = collection.get_paths(), collection.get_sizes(), collection.get_facecolors()
        for place in np.asarray(collection.get_offsets()).tolist():
            found[tuple(place)] = (path.vertices.tolist(), size, face.tolist())
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    return [legend, *(found[layout.places[node.name]] for node in graph.nodes)]


def module(graph: OperatorGraph, x: Tensor, g: Tensor) -> Iterator[Any]:
    """Of the graph as layers of torch: their types, those of torch.nn in words, the output and its gradient."""
    network = graph.to_module()
    for node in graph.nodes:
        layer = network.get_submodule(network.paths[node.name])
        yield type(layer)
        yield repr(layer) if type(layer).__module__.startswith("torch.nn") else node.operator.layer().__name__
    x = x.clone().requires_grad_()
    y = network(x)
    yield y.detach()
    yield torch.autograd.grad((y * g).sum(), x)[0]


def learned(lin: linreg.Linearization, g: Tensor, sites: str, places: dict[str, int]) -> Iterator[Any]:
    """Where masks are, whether they work in place, and what three iterations make of them."""
    try:
        names = dmbp.find_sites(lin.graph, sites)
    except DmbpError:
        return
    network = MaskedNetwork.of(lin, names, cotangent(g, lin.output))
    for name in names:
        site = network.sites[name]
        yield places[name], site.takes, site.gives, site.switch
    yield from dmbp.learn_masks(lin, g, sites=sites, iterations=3, progress=False).masks.values()


@dataclass(frozen=True)
class Own:
    """A network under its own labels: traced once."""

    graph: OperatorGraph
    x: Tensor
    labels: list[str]
    observed: dict[str, Any]


@cache
def own(name: str) -> Own:
    graph, x = traced(name)
    return Own(graph, x, labels(graph, x), dict(observed(graph, x)))


def labels(graph: OperatorGraph, x: Tensor) -> list[str]:
    """What people read of a graph's operators, and of its constants on the region of x."""
    constants = [constant for affine in graph.linearize(x).frozen.values() for constant in affine.constants]
    return [node.operator.kind for node in graph.nodes] + [f"{c.kind} {c.name}" for c in constants]


def differences(expected: Own, graph: OperatorGraph, x: Tensor) -> list[str]:
    """What is not as in the same network under its own labels."""
    return [about for about, value in observed(graph, x) if not same(value, expected.observed[about])]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return a.equal(b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


# ---- other labels ----

LABELS = ("add", "relu", "batch norm", "threshold", "conv2d", "abs", "max pool", "scale", "concat", "pad", "shift")


def another(label: str) -> str:
    """A label that means something else, if it means anything at all."""
    if label in LABELS:
        return LABELS[(LABELS.index(label) + 1) % len(LABELS)]
    return f"no {label}"


class Relabelled:
    """In the place of a field or a property of a class: what it gives is called otherwise."""

    def __init__(self, owner: type, name: str) -> None:
        self.own, self.name = owner.__dict__.get(name), name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        own = self.own.fget(instance) if isinstance(self.own, property) else self.own
        return another(instance.__dict__.get(self.name, own))

    def __set__(self, instance: Any, value: str) -> None:
        instance.__dict__[self.name] = value


def descendants(owner: type) -> Iterator[type]:
    yield owner
    for each in owner.__subclasses__():
        yield from descendants(each)


def relabel(patch: pytest.MonkeyPatch) -> None:
    """Every operator, constant and module that is or will be made is called otherwise."""
    for owner in {each for each in descendants(Operator) if "kind" in each.__dict__}:
        patch.setattr(owner, "kind", Relabelled(owner, "kind"))
    for owner, name in ((Constant, "kind"), (Constant, "name"), (Place, "kind"), (Place, "module")):
        patch.setattr(owner, name, Relabelled(owner, name), raising=False)


def renamed(graph: OperatorGraph) -> OperatorGraph:
    """The graph with other names for its nodes, and without the modules and lines that they come from."""
    names = {node.name: f"conv{len(graph.nodes) - k}.relu" for k, node in enumerate(graph.nodes)}
    nodes = tuple(
        replace(node, name=names[node.name], inputs=tuple(names.get(n, n) for n in node.inputs), module="", source="")
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes, output=names[graph.output], fused={})


@pytest.mark.parametrize("name", NETWORKS)
def test_labels_do_not_decide(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while the network is traced, nor in anything that is done with it."""
    expected = own(name)
    relabel(monkeypatch)
    graph, x = traced(name)
    assert differences(expected, graph, x) == []
    assert not any(label == old for label, old in zip(labels(graph, x), expected.labels, strict=True))


@pytest.mark.parametrize("name", [*OWN, *NETS])
def test_names_do_not_decide(name: str) -> None:
    expected = own(name)
    assert differences(expected, renamed(expected.graph), expected.x) == []


# ---- labels that decide ----


@dataclass(frozen=True)
class Relapse:
    """`wrong` makes, of `name` of `owner`, one that goes by a label; `seen` is what then differs in a network."""

    network: str
    owner: Any
    name: str
    wrong: Callable[[Any], Any]
    seen: set[str]


def named(*starts: str) -> Callable[[Operator], bool]:
    return lambda operator: operator.kind.startswith(starts)


def only(label: Callable[[Any], bool], value: Any, other: Any) -> Callable[[Any], Any]:
    """In the place of what an operator says of itself: one thing if it is called so, and another if it is not."""
    return lambda right: property(lambda self: value if label(self) else other)


def layer_of(start: str) -> Callable[[Any], Any]:
    return lambda right: lambda self: right(self) if self.kind.startswith(start) else self.evaluate


def summed_by_label(right: Any) -> Any:
    return lambda node: len(node.inputs) > 1 and node.operator.kind == "add"


def folded_by_label(right: Any) -> Any:
    return lambda layer, norm: norm.operator.kind == "batch norm" and right(layer, norm)


def at_once_by_label(right: Any) -> Any:
    return lambda self, *xs: right(self, *xs) if self.kind == "batch norm" else super(type(self), self).__call__(*xs)


ALL_MASKS = {"masks of gates", "masks of blocks"}
RELAPSES = {
    "sums": Relapse("residual_outer", masks, "_is_sum", summed_by_label, {"masks of blocks"}),
    "weights": Relapse(
        "skipping", ops.Convolution, "role", only(named("conv"), Role.WEIGHTS, Role.OTHER),
        {"residual blocks", "markers", "paths by blocks"},
    ),
    "pools": Relapse(
        "pools", MaxPool, "role", only(named("max pool"), Role.MAX_POOL, Role.OTHER), {"markers"},
    ),
    "folded batch norms": Relapse("conv_bn", linreg.capture.fuse, "_folds", folded_by_label, {"operators", "regions"}),
    "layers of batch norms": Relapse("free_bn", ops.BatchNorm, "layer", layer_of("batch norm"), {"module"}),
    "batch norms in one pass": Relapse("free_bn", ops.BatchNorm, "__call__", at_once_by_label, {"output"}),
    "absolute values": Relapse("gated", Abs, "layer", layer_of("abs"), {"module"}),
    "thresholds": Relapse("gated", Pieces, "layer", layer_of("threshold"), {"module"}),
    "new values": Relapse("conv_bn", ops.Convolution, "new_value", only(named("conv"), True, False), ALL_MASKS),
    "new gradients": Relapse("conv_bn", ops.Linear, "new_gradients", only(named("linear"), True, False), ALL_MASKS),
}  # fmt: skip


@pytest.mark.parametrize("name", RELAPSES)
def test_a_label_that_decides_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the network's own labels each of these decisions is right: only other labels tell it from the right one."""
    relapse = RELAPSES[name]
    expected = own(relapse.network)
    monkeypatch.setattr(relapse.owner, relapse.name, relapse.wrong(getattr(relapse.owner, relapse.name)))
    assert differences(expected, *traced(relapse.network)) == []
    relabel(monkeypatch)
    found = differences(expected, *traced(relapse.network))
    assert relapse.seen <= set(found), found
