"""Whether a graph gives what the model gives: on the example, on batches of other sizes, and image by image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from linreg.capture.example import Arguments
from linreg.capture.export import run
from linreg.capture.program import Program
from linreg.capture.reference import Reference
from linreg.errors import LinregError
from linreg.graph import INPUT, OperatorGraph

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 2e-1}


class Differs(LinregError):
    """The graph does not give what the model gives: by a mistake of ours, or because its arithmetic is too coarse."""


class Uneven(LinregError):
    """The model computes something else on some numbers of images than on others."""


def compare(
    graph: OperatorGraph, expected: Tensor, example: Arguments, reference: Reference, origins: dict[str, str]
) -> None:
    """Raise LinregError, naming the first node that differs from the reference, unless the graph gives what it must.

    `expected` is that on the example. `origins` names the call that a node comes from, whose value the reference gives.
    """
    with torch.no_grad():
        if not expected.isfinite().all():
            advice = "give an example on which it is, or a dtype of larger numbers"
            raise LinregError(f"the model's own output on the example is not finite: {advice}")
        try:
            value = graph(example.given)
        except (RuntimeError, TypeError) as error:
            raise LinregError(f"the graph fails where the model runs: {error}; please report this network") from error
        if close(value, expected):
            return _compare_alone(graph, example)
        recorded = reference.values(*example.values)
        for node, value in _values(graph, example):
            origin = recorded.get(origins.get(node, ""))
            if origin is not None and not close(value, origin.reshape(value.shape)):
                raise Differs(f"the graph differs from the model, first at {graph[node]}: please report this network")
    raise Differs("the graph does not reproduce the model's output: please report this network")


def other_batches(model: nn.Module, example: Arguments) -> list[tuple[Arguments, Any]]:
    """The model's results on one input more than the example, and on one alone, where it takes them."""
    results = []
    for batch in (example.mapped(lambda x: torch.cat([x, x[:1]])), example.mapped(lambda x: x[:1])):
        with suppress(LinregError):
            results.append((batch, run(model, batch)))
    return results


def compare_batch(value: Tensor, batch: Arguments, expected: Tensor) -> None:
    """Raise LinregError unless what graph or program gives on a batch of another size is what the model gives."""
    if expected.numel() != value.numel() or not close(value, expected.reshape(value.shape)):
        raise Uneven(
            f"on {len(batch)} input(s) the model computes something else than on the example: its forward uses the "
            "number of inputs (len(x), x.shape[0], x.numel()) in its arithmetic, or to choose its path"
        )


def compare_program(program: Program, batch: Arguments, expected: Any) -> None:
    """Raise LinregError unless an exported program gives each output that the model gives on a batch."""
    outputs = [value for value in pytree.tree_leaves(expected) if isinstance(value, Tensor)]
    for place, output in enumerate(outputs):
        if output.is_floating_point() and output.numel():
            compare_batch(Reference(replace(program, place=place), {})(*batch.values), batch, output)


def _compare_alone(graph: OperatorGraph, example: Arguments) -> None:
    """Raise LinregError where an image's output depends on the others, or on its place among them."""
    value = graph(example.given)
    other = example.mapped(lambda x: 0.1 - 1.3 * x.flip(-1), fixed=lambda value: value.roll(1, 0))  # other images
    first, rest = example.beside(other, slice(1)), example.beside(other, slice(1, None))
    alone = close(graph(first.given)[:1], value[:1]) and close(graph(rest.given)[1:], value[1:])
    rolled = example.mapped(lambda x: x.roll(1, 0))
    if not (alone and close(graph(rolled.given), value.roll(1, 0))):
        raise LinregError("the model mixes the images of a batch: each output must depend on its own input only")


def close(value: Tensor, expected: Tensor, tolerance: float | None = None) -> bool:
    """Whether two outputs (N, …) agree: to rounding, on the scale of each image, or on 1/1000 of the largest's."""
    if value.shape != expected.shape or not expected.numel():
        return value.shape == expected.shape
    error, scale = (each.reshape(len(each), -1).abs().amax(1) for each in (value - expected, expected))
    tolerance = TOLERANCE[expected.dtype] if tolerance is None else tolerance
    return bool((error <= tolerance * scale.clamp_min(1e-3 * scale.max())).all())


def _values(graph: OperatorGraph, example: Arguments) -> Iterator[tuple[str, Tensor]]:
    """Each node with its value, in order."""
    graph, x = graph.take(example.given)
    values = {INPUT: x}
    for node in graph.nodes:
        inputs = [values[name] for name in node.inputs]
        values[node.name] = node.operator.freeze(*inputs)(*inputs)
        yield node.name, values[node.name]
