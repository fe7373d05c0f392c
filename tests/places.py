"""Where the units of a function look, and what must hold of the places of all nodes, whatever network it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from approx import values
from nets import Lambda
from scipy.sparse import csr_array, eye_array
from torch import Tensor, nn

import linreg
from linreg.geometry import Axis, Geometry, geometries
from linreg.operators import Affine, Gate


def geometry(function: Callable[..., Tensor] | nn.Module, *shape: int) -> Geometry:
    """That of the output of a module or function at inputs (N, *shape)."""
    model = function if isinstance(function, nn.Module) else Lambda(function)
    graph = linreg.trace(model.double().eval(), values(2, *shape))
    return graph.geometry(graph.output)


def line(function: Callable[..., Tensor] | nn.Module, *shape: int) -> Axis:
    """That of the first axis."""
    return geometry(function, *shape).axes[0]


def check_places(graph: linreg.OperatorGraph) -> None:
    """Every node has a place in the picture, or a reason why not."""
    places = geometries(graph)
    assert list(places) == ["input", *(node.name for node in graph.nodes)]
    for node, place in places.items():
        assert place.shape == graph.shape(node) and place.placed == (not place.why)
        for axis in place.axes:
            count = 1 if axis.dim is None else place.shape[axis.dim - 1]
            assert axis.first.shape == axis.last.shape == (count,) and (axis.loss is None) == axis.placed
            assert axis.centres is None or (axis.centres.shape == (count,) and np.isfinite(axis.centres).all())
            assert axis.loss is None or axis.loss.node in graph


def first_refused(graph: linreg.OperatorGraph) -> str | None:
    """The first node that is refused a place, if there is one."""
    losses = [place.loss for place in geometries(graph).values() if place.loss]
    return next((loss.node for loss in losses if loss.refused), None)


# ---- what its sparse matrices say ----


def read(graph: linreg.OperatorGraph, xs: list[Tensor]) -> dict[str, csr_array]:
    """For each node which of its elements read which of the input's, on the region of one of the images or another.

    A gate reads its input whether it is open or not.
    """
    patterns: dict[tuple[str, int], csr_array] = {}
    for x in xs:
        frozen = graph.linearize(x).frozen
        for node in graph.nodes:
            for image in range(len(x) if not isinstance(node.operator, Affine) else 1):
                for k, matrix in enumerate(frozen[node.name].sparse(image)):
                    pattern = csr_array(matrix != 0).astype(int)
                    patterns[node.name, k] = patterns.get((node.name, k), 0 * pattern) + pattern
    found = {"input": eye_array(int(np.prod(graph.input_shape)), format="csr", dtype=int)}
    for node in graph.nodes:
        if isinstance(node.operator, Gate):
            found[node.name] = found[node.inputs[0]]
        else:
            parts = [patterns[node.name, k] @ found[name] for k, name in enumerate(node.inputs)]
            found[node.name] = csr_array(sum(parts[1:], parts[0]) > 0).astype(int)
    return found


def hull(matrix: csr_array, shape: tuple[int, ...], input_shape: tuple[int, ...], axis: Axis) -> tuple[list, list]:
    """First and last pixel that is read at each position along the axis, by any unit there."""
    rows, columns = matrix.nonzero()
    pixels = np.unravel_index(columns, input_shape)[axis.number - 1]
    positions = 0 * rows if axis.dim is None else np.unravel_index(rows, shape)[axis.dim - 1]
    first = np.full(1 if axis.dim is None else shape[axis.dim - 1], axis.size)
    last = np.full(len(first), -1)
    np.minimum.at(first, positions, pixels)
    np.maximum.at(last, positions, pixels)
    return first.tolist(), last.tolist()
