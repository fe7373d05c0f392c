"""Batches: a graph takes any number of images, or the one number that the model fixes, and says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from approx import EXACT, values
from nets import NETS, Lambda, every_net, seeded, traced
from torch import Tensor, nn

import linreg
from linreg import LinregError


@every_net
def test_any_batch_size(name: str) -> None:
    t = traced(name)
    check_batches(t.model, t.x, t.graph)


@pytest.mark.parametrize("name", ["residual_inner", "pools", "wiring", "selections"])
def test_any_batch_size_after_a_batch_of_one(name: str) -> None:
    """Which could be taken for a constant, or dropped: trace makes two of it, so a few nets stand for all."""
    model, x = NETS[name]()
    graph = linreg.trace(model, x[:1])
    assert graph.batch is None
    check_batches(model, x, graph)


def check_batches(model: nn.Module, x: Tensor, graph: linreg.OperatorGraph) -> None:
    for batch in (x[:1], x[:2], x, torch.cat([x, -x])):
        with torch.no_grad():
            torch.testing.assert_close(graph(batch), model(batch), **EXACT)
        assert graph.linearize(batch).certificate(0).relative_error.max() <= 1e-12


def test_model_with_a_fixed_batch_size_keeps_it() -> None:
    model = Lambda(lambda x: F.relu(x).view(2, 4) * 2)
    x = values(2, 2, 2)
    graph = linreg.trace(model, x)
    assert graph.batch == 2
    torch.testing.assert_close(graph(x), model(x), **EXACT)
    assert repr(graph).startswith("OperatorGraph((2, 2, 2) to")
    with pytest.raises(LinregError, match=r"traced with 2 images, not 3: .* as len\(x\) does: .* an example of that"):
        graph.linearize(values(3, 2, 2))


def test_squeeze_keeps_the_batch_of_one() -> None:
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), Lambda(lambda h: h.squeeze()), nn.Linear(4, 3)
        )
    )
    x = values(3, 3, 6, 6)
    graph = linreg.trace(model, x)
    torch.testing.assert_close(graph(x[:1]), graph(x)[:1], **EXACT)


# ---- what only other batch sizes show ----


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 10 / x.numel(),
        lambda x: x * (x.shape[0] + 1),
        lambda x: x / x.shape[0],
        lambda x: F.hardtanh(x, -x.shape[0], 2 * x.shape[0]),
        lambda x: torch.add(x, x, alpha=x.shape[0]),
        lambda x: x.relu() if x.shape[0] == 1 else (-x).relu(),
        lambda x: x.relu() + torch.ones(x.shape[0], 1).double().cumsum(0),
        lambda x: x.relu() + torch.ones(2 * x.shape[0]).double().sum(),
    ],
)
def test_what_depends_on_the_number_of_images_is_refused(function: Callable[[Tensor], Tensor], images: int) -> None:
    with pytest.raises(LinregError, match=r"number of (images|inputs)|images of a batch|graph differs"):
        linreg.trace(seeded(lambda: nn.Sequential(nn.Linear(4, 3), Lambda(function))), values(images, 4))


@pytest.mark.parametrize("images", [1, 3])
def test_a_length_fixes_the_batch(images: int) -> None:
    """len(x) is a plain number to the exporter: the graph is of that number of inputs, and says so."""
    model = Lambda(lambda x: x.relu() * len(x) if len(x) == 1 else (-x).relu() * len(x))
    x = values(images, 4)
    graph = linreg.trace(model, x)
    assert graph.batch == images
    torch.testing.assert_close(graph(x), model(x), **EXACT)
    with pytest.raises(LinregError, match=r"as len\(x\) does: use x\.shape\[0\], or trace it with an example of"):
        graph(values(images + 1, 4))
    with pytest.raises(LinregError, match=rf"must have shape \({images}, 4\), not \({images}, 5\)"):
        graph(values(images, 5))


@pytest.mark.parametrize("mixing", [lambda h: 3 * h - h.sum(0).expand(2, 2), lambda h: h.flip(0)])
def test_symmetric_mixing_within_a_fixed_batch_is_refused(mixing: Callable[[Tensor], Tensor]) -> None:
    """That rotating the batch rotates the output is not enough."""
    with pytest.raises(LinregError, match="batch"):
        linreg.trace(Lambda(lambda x: mixing(x.relu().view(2, 2))), torch.ones(2, 2).double() + values(2, 2).abs())
