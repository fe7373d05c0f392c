"""Which dimension of a node's value holds its channels, found from the layers around it.

A layer knows its own: a convolution or a batch norm has channels in dimension 1, a linear layer in the last one. What
follows without mixing them (a gate, a sum, a transpose, a pool over positions) is traced by `Operator.reach`, as places
are in `linreg.geometry`; what comes before the first layer has the dimension that this layer reads. So channels last,
tokens (N, T, F) and frames (N, T, C, H, W) each have their own. Where nothing tells, or two tell different things, it
is None.

Dimensions are counted with the batch first, axes without it.
"""

from __future__ import annotations

from collections.abc import Mapping

from linreg.errors import LinregError
from linreg.graph import INPUT, Node, OperatorGraph
from linreg.operators.reach import Placed

Found = dict[str, int | None]


def channel_dims(graph: OperatorGraph) -> Mapping[str, int | None]:
    """The dimension of the channels in "input" and in each node's value, by name; None where the graph does not tell.

    >>> import torch, linreg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU6())
    >>> linreg.trace(model, torch.ones(1, 3, 4)).channel_dims  # three tokens of four features, then of five
    {'input': 2, '0': 2, '1': 2}
    """
    found: Found = {INPUT: 1 if len(graph.input_shape) == 1 else None}
    for node in graph.nodes:
        found[node.name] = _own(node) or _followed(graph, node, found)
    for name in [node.name for node in reversed(graph.nodes)] + [INPUT]:
        if found[name] is None:
            found[name] = _agreed({_read(graph, name, reader, found) for reader in graph.consumers(name)})
    return found


def _own(node: Node) -> int | None:
    """What its operator says of itself, or what cannot be otherwise."""
    if len(node.shape) == 1:
        return 1
    axis = node.operator.channel_axis
    return None if axis is None else axis % len(node.shape) + 1


def _followed(graph: OperatorGraph, node: Node, found: Found) -> int | None:
    """Where the channels of its inputs have come to lie."""
    axes = [found[name] for name in node.inputs]
    operands = [
        Placed(graph.shape(name), frozenset() if dim is None else frozenset({dim - 1}))
        for name, dim in zip(node.inputs, axes, strict=True)
    ]
    try:
        follows = node.operator.reach(operands, node.shape)
    except LinregError:
        return None
    claims = set()
    for dim, to in zip(axes, follows, strict=True):
        if dim is not None and to is not None:
            axis, _ = to.get(dim - 1, (None, None))
            claims.add(None if axis is None else axis + 1)
    return _agreed(claims)


def _read(graph: OperatorGraph, name: str, reader: Node, found: Found) -> int | None:
    """The dimension of this value that one of its readers takes for its channels; an elementwise one passes its own."""
    shape, axis = graph.shape(name), reader.operator.channel_axis
    if axis is not None:
        return axis % len(shape) + 1
    dim = found[reader.name]
    if dim is None or shape != reader.shape:
        return None
    operands = [
        Placed(graph.shape(each), frozenset({dim - 1}) if each == name else frozenset()) for each in reader.inputs
    ]
    try:
        to = reader.operator.reach(operands, reader.shape)[reader.inputs.index(name)]
    except LinregError:
        return None
    follows = None if to is None else to.get(dim - 1, (None, None))[0]
    return dim if follows == dim - 1 else None


def _agreed(claims: set[int | None]) -> int | None:
    """The one that all name who name any."""
    known = claims - {None}
    return next(iter(known)) if len(known) == 1 else None
