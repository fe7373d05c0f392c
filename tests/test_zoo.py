"""The zoo: real networks, unmodified, and our own of every kind, each certified against itself and autograd.

What is in `REPEATED` runs with `make zoo` only, which shows the table; `make zoo ARGS=--all` certifies all of them.
"""

from __future__ import annotations

import pytest
import torch
from approx import assert_equal
from certify import Evidence, certify, finite_share, run
from places import check_places, first_refused
from torchvision import models
from zoo import CURVED, ZOO, instance
from zoo.brief import BRIEF

import linreg
from linreg.paths import residual_blocks

# Whose layers and wiring others of these tests hold too, and which.
REPEATED = {
    "alexnet": "vgg16",
    "inception_v3": "googlenet",
    "mnasnet0_5": "mobilenet_v2",
    "regnet_x_400mf": "resnet50 and shufflenet_v2_x0_5",
    "r3d_18": "resnet18_fpn and voxels",
    "unet_nearest": "unet_transposed, and test_forwards of every upsampling",
    "unet_bilinear": "unet_transposed, and test_forwards of every upsampling",
    "unet_bicubic": "unet_transposed, and test_forwards of every upsampling",
}
ENTRIES = {name: BRIEF.get(name, entry) for name, entry in ZOO.items() if entry.quick and name not in REPEATED}
TESTED = [pytest.param(name, marks=[pytest.mark.slow] * entry.large) for name, entry in ENTRIES.items()]
GATES = {"resnet50": 49, "vgg16": 15, "efficientnet_lite0": 33}
BLOCKS = {"resnet50": 16, "mobilenet_v2": 10}  # residual ones
# Nodes that have no place in the picture: a causal network, whose residual path and windows part by whole pixels; a
# mirrored half.
UNPLACED = {"wavenet": "add@3", "in_place": "sub@1"}


@pytest.mark.parametrize("name", TESTED)
def test_zoo(name: str) -> None:
    """Ties: all that tie are windows of zeros behind closed gates, where any choice gives the same gradient."""
    evidence = certify(name, ENTRIES[name])
    assert evidence.output <= 1e-12
    assert evidence.weight <= 1e-12
    assert evidence.completeness <= 1e-12
    assert evidence.constants and all(error <= 1e-11 for error in evidence.constants.values()), evidence.constants
    assert not evidence.missing and not evidence.foreign and not evidence.changed
    if evidence.gates:
        assert 0 < evidence.open < 1
    graph = evidence.lin.graph
    assert evidence.gates == GATES.get(name, evidence.gates)
    assert name not in BLOCKS or sum(map(len, residual_blocks(graph).values())) == BLOCKS[name]
    check_places(graph)
    assert ENTRIES[name].large or first_refused(graph) == UNPLACED.get(name)
    check_finite_differences(evidence)
    assert_equal(graph.to_module(), lambda x: run(evidence.model, evidence.entry, x), evidence.x)


def check_finite_differences(evidence: Evidence) -> None:
    """Of the first, the middle and the last constant, at the element that matters most: the model moved for real."""
    names = [name for name, share in evidence.shares.items() if share.dim()]
    for name in {names[0], names[len(names) // 2], names[-1]}:
        share = evidence.shares[name].flatten()
        index = int(share.abs().argmax())
        assert finite_share(evidence, name, index) == pytest.approx(share[index].item(), rel=1e-5), name


@pytest.mark.slow
def test_zoo_in_single_precision() -> None:
    """The gates of a float32 network may differ from those of the float64 one: rounding is judged on the output."""
    model, x = instance("efficientnet_lite0")
    with torch.no_grad():
        exact = model(x)
        model, x = model.float(), x.float()
        rounded = model(x)
    graph = linreg.trace(model, x)
    assert agreement(graph(x), rounded) <= max(1e-5, 10 * agreement(rounded.double(), exact))


def agreement(value: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference in units of the largest value."""
    return ((value - expected).abs().max() / expected.abs().max()).item()


def test_every_network_of_torchvision_is_in_the_zoo() -> None:
    """… or of a family that is not piecewise linear. Detectors are not networks of one tensor: their backbones are."""
    known = [
        name
        for module in (models, models.segmentation, models.video)
        for name in models.list_models(module=module)
        if not name.startswith(CURVED)
    ]
    assert len(known) > 50
    assert not set(known) - ZOO.keys()
