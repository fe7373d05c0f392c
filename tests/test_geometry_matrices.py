"""Where a unit looks, by each operator and through nets: what its own sparse matrix reads."""

from __future__ import annotations

import pytest
from approx import values
from cases import CASES, together
from cases import traced as case
from nets import traced
from places import hull, read
from torch import Tensor

import linreg
from linreg.geometry import geometries
from linreg.operators import Affine, Gate


def samples(graph: linreg.OperatorGraph, x: Tensor) -> list[Tensor]:
    """Enough pictures for every choice to be made, where there are choices."""
    chooses = any(not isinstance(node.operator, Affine | Gate) for node in graph.nodes)
    return [x] + [values(*x.shape, seed=seed) for seed in range(12 * chooses)]


# Where one position is written into many, and where a weight happens to be 0, the field is an upper bound.
BOUNDED = ("write in part", "bilinear by its kernel's name")
# Operators that do not tell where they look.
SILENT = (
    "grid sample", "grid sample, nearest", "grid sample of volumes", "affine grid", "index_add", "columns added up",
    "add at indices", "add a constant at indices",
)  # fmt: skip


@together
@pytest.mark.parametrize("name", [name for name in CASES if len(CASES[name].shape) > 1])
def test_the_field_of_every_operator_is_that_of_its_matrix(name: str) -> None:
    graph = case(name).lin.graph
    matrices = read(graph, samples(graph, case(name).x))
    places = geometries(graph)
    silent = any("does not tell" in place.why for place in places.values())
    assert silent == (name in SILENT)
    for node, place in places.items():
        for axis in place.axes:
            first, last = hull(matrices[node], place.shape, graph.input_shape, axis)
            if silent or name in BOUNDED:
                assert (axis.first <= first).all() and (axis.last >= last).all(), f"{node} {axis}"
            else:
                assert (axis.first.tolist(), axis.last.tolist()) == (first, last), f"{node} {axis}"


@pytest.mark.parametrize(
    "name", ["pools", "residual_inner", "residual_outer", "conv3d", "mobile", "conv1d", "shortcut"]
)
def test_the_fields_of_whole_networks_are_those_of_their_matrices(name: str) -> None:
    graph, x = traced(name).graph, traced(name).x
    matrices = read(graph, samples(graph, x))
    for node, place in geometries(graph).items():
        for axis in place.axes:
            expected = hull(matrices[node], place.shape, graph.input_shape, axis)
            assert (axis.first.tolist(), axis.last.tolist()) == expected, f"{node} {axis}"
