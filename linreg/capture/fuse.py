"""Folding batch norm into the layer before it, once, when the graph is made."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from linreg.graph import Node, OperatorGraph
from linreg.operators import Convolution, Linear, Scale


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
        fusable = layer and readers[layer.name] == 1 and layer.name != graph.output and _folds(layer, node)
        if layer and fusable:
            fused[layer.name] = node.name
            node = _folded(kept.pop(layer.name), node)
        kept[node.name] = node
    return replace(graph, nodes=tuple(kept.values()), fused=fused)


def _folds(layer: Node, norm: Node) -> bool:
    if not isinstance(norm.operator, Scale) or norm.operator.kind != "batch norm":
        return False
    if isinstance(layer.operator, Convolution):
        return not layer.operator.transposed
    return isinstance(layer.operator, Linear) and len(layer.shape) == 1


def _folded(layer: Node, norm: Node) -> Node:
    assert isinstance(layer.operator, Convolution | Linear) and isinstance(norm.operator, Scale)
    factor, (shift,) = norm.operator.factor, norm.operator.constants
    assert isinstance(factor, Tensor)
    operator = layer.operator.scaled(factor.flatten(), shift)
    return replace(norm, operator=operator, inputs=layer.inputs, module=layer.module)
