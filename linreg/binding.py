"""A graph and what it is given: inputs in order or by name, laid in a row, and the fixed ones bound to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from linreg.errors import LinregError
from linreg.graph import OperatorGraph
from linreg.inputs import INPUT, Given, Input, check_bound, check_data, check_fixed, images_of, of_torch
from linreg.operators.given import Conditions


def bind(graph: OperatorGraph, fixed: Mapping[str, Tensor]) -> OperatorGraph:
    """What `OperatorGraph.bind` gives."""
    entries = {entry.name: entry for entry in graph.inputs.fixed}
    if set(fixed) != set(entries):
        listed = [", ".join(map(repr, names)) or "none" for names in (entries, fixed)]
        raise LinregError(f"the fixed inputs of this network are {listed[0]}, not {listed[1]}")
    if graph.one_by_one:
        fixed = {name: _one_for_all(entry, fixed[name]) for name, entry in entries.items()}
    each = [len(fixed[name]) for name, entry in entries.items() if entry.each and fixed[name].dim()]
    images = max(each, default=graph.batch or 1)
    values = {name: check_fixed(entry, fixed[name], images, graph.device) for name, entry in entries.items()}
    batch = images if each and not graph.one_by_one else graph.batch
    made = graph.conditions.operators(values, batch)
    return replace(
        graph, nodes=tuple(replace(node, operator=made.get(node.name, node.operator)) for node in graph.nodes),
        batch=batch, signature=graph.inputs.without(*entries), conditions=Conditions(), bound=values,
    )  # fmt: skip


def _one_for_all(entry: Input, value: Any) -> Any:
    """A fixed input of several images as that of one; a graph that was captured at one image takes one choice of it.

    Raises LinregError where it is another for another image.
    """
    if not (entry.each and isinstance(value, Tensor) and value.dim() and len(value) > 1):
        return value
    if not torch.equal(value, value[:1].expand_as(value)):
        raise LinregError(
            f"this network was captured image by image, and its fixed input '{entry.name}' is another for each of "
            f"{len(value)} images: linearize them one at a time, each with its own"
        )
    return value[:1]


def take(graph: OperatorGraph, given: Given) -> tuple[OperatorGraph, Tensor]:
    """What `OperatorGraph.take` gives."""
    inputs, given = graph.inputs, tree_map(of_torch, given)
    several = inputs.several and not (isinstance(given, Tensor) and given.shape[1:] == graph.input_shape)
    is_one = isinstance(given, Tensor) and not (several or inputs.fixed)
    if graph.signature is None or is_one:
        x: Any = inputs.named(given)[INPUT] if isinstance(given, Mapping | tuple) else given
        graph.check(x)
        return graph, x
    named = inputs.named(given)
    for entry in inputs.data:
        what = f"the input '{entry.name}'" if len(inputs) > 1 else "the input"
        batch = None if graph.bound else graph.batch
        check_data(named[entry.name], entry.shape, batch, graph.dtype, graph.device, what)
    images = images_of(named, inputs)
    if graph.bound:
        check_bound(graph.batch, images)
    if inputs.fixed:
        graph = bind(graph, {e.name: check_fixed(e, named[e.name], images, graph.device) for e in inputs.fixed})
    return graph, inputs.row(named)
