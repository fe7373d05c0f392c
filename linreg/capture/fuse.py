"""Several nodes as one, when the graph is made: batch norm in the layer before it, gates written as several calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from linreg.graph import Node, OperatorGraph
from linreg.operators import BatchNorm, Call, Convolution, Data, Gate, Linear, Operator, Pointwise, Scale
from linreg.operators.arithmetic import Sum
from linreg.operators.base import Shape
from linreg.operators.selection import Extremum
from linreg.operators.steps import Choice
from linreg.operators.table import Built


def fuse_batch_norm(graph: OperatorGraph) -> OperatorGraph:
    """Replace layer → batch norm by one layer diag(a) W, diag(a) b + shift, wherever the batch norm is its only reader.

    The pair keeps the batch norm's name, whose value it holds, and both constants, told apart. Other batch norms stay
    nodes of their own: before a zero-padded convolution, for one, the shift is not what the border sees.
    """
    layers = {node.name: node for node in graph.nodes}
    readers: dict[str, int] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers[name] = readers.get(name, 0) + 1
    kept: dict[str, Node] = {}
    fused: dict[str, str] = {}
    for node in graph.nodes:
        layer = layers.get(node.inputs[0])
        alone = layer and readers[layer.name] == 1 and layer.name not in (graph.output, *graph.conditions.calls)
        fusable = layer and alone and _folds(layer, node)
        if layer and fusable:
            fused[layer.name] = node.name
            node = _folded(kept.pop(layer.name), node)
        kept[node.name] = node
    return replace(graph, nodes=tuple(kept.values()), fused=fused)


def _folds(layer: Node, norm: Node) -> bool:
    if not isinstance(norm.operator, BatchNorm):
        return False
    if isinstance(layer.operator, Convolution):
        return not layer.operator.transposed
    return isinstance(layer.operator, Linear) and len(layer.shape) == 1


def _folded(layer: Node, norm: Node) -> Node:
    assert isinstance(layer.operator, Convolution | Linear) and isinstance(norm.operator, BatchNorm)
    (shift,) = norm.operator.constants
    operator = layer.operator.scaled(norm.operator.factor.flatten(), shift)
    return replace(norm, operator=operator, inputs=layer.inputs, module=layer.module)


def pointwise(built: Operator, inputs: tuple[Data, ...], call: Call, nodes: Mapping[str, Node]) -> Built:
    """A choice as a gate, where all that it chooses from and by is made elementwise of one value.

    `nodes` are those before it, in order; they stay, for whoever else reads them. Where the program fixes the number of
    images, its constants may be of that size, and it stays a choice.
    """
    fixed = (call.images or 1) > 1
    if fixed or not isinstance(built, Choice | Extremum) or not _is_elementwise(built, call.shape):
        return built, inputs
    chain = _made_of_one(inputs, call.shape, nodes)
    if chain is None:
        return built, inputs
    places = {name: place for place, name in enumerate(chain)}
    lines = [(nodes[name].operator, nodes[name].inputs) for name in chain[1:]]
    lines.append((built, tuple(data.name for data in inputs)))
    tape = tuple((operator, tuple(places[name] for name in names)) for operator, names in lines)
    return Pointwise(tape, call.shape, call.like), (Data(chain[0], call.shape),)


def _made_of_one(inputs: tuple[Data, ...], shape: Shape, nodes: Mapping[str, Node]) -> list[str] | None:
    """The one value that all inputs are made of elementwise, and then the nodes that do so, in order; None without."""
    order = {name: place for place, name in enumerate(nodes)}
    open_ends = {data.name for data in inputs}
    members: list[str] = []
    while len(open_ends) > 1:
        last = max(open_ends, key=lambda name: order.get(name, -1))
        if last not in nodes or not _is_elementwise(nodes[last].operator, shape):
            return None
        members.insert(0, last)
        open_ends = (open_ends - {last}) | set(nodes[last].inputs)
    return [*open_ends, *members]


def _is_elementwise(operator: Operator, shape: Shape) -> bool:
    """Whether z, of this shape, depends on the elements in the same place only."""
    match operator:
        case Gate():
            return True
        case Scale():
            return operator.shape == shape
        case Sum() | Extremum():
            return all(own == shape for own in operator.shapes)
        case Choice():
            return operator.is_elementwise(shape)
    return False
