"""Which score of the output a target means: classes, weights, one for each image or for all."""

from __future__ import annotations

import pytest
import torch
from approx import EXACT, values
from nets import traced
from torch import nn

import linreg
from linreg import LinregError


def test_targets() -> None:
    lin = traced("conv_bn").lin
    y, gradients = lin.output, torch.stack([lin.weight(k) for k in range(3)], 1)
    each = [2, 0, 1]
    weights = values(3)
    per_image = values(3, 3)
    for target, expected in [
        (1, y[:, 1]),
        (torch.tensor(1), y[:, 1]),
        (each, y[range(3), each]),
        (torch.tensor(each), y[range(3), each]),
        (weights, y @ weights),
        (weights.float(), y @ weights.float().double()),
        (per_image, (y * per_image).sum(1)),
    ]:
        torch.testing.assert_close(lin.score(target), expected, **EXACT)  # type: ignore[arg-type]
        torch.testing.assert_close(lin.ledger(target).total, expected, rtol=1e-10, atol=1e-10)  # type: ignore[arg-type]
    torch.testing.assert_close(lin.weight(each), gradients[range(3), each], **EXACT)
    torch.testing.assert_close(lin.weight(weights), torch.einsum("nkchw,k->nchw", gradients, weights), **EXACT)
    torch.testing.assert_close(lin.weight(per_image), torch.einsum("nkchw,nk->nchw", gradients, per_image), **EXACT)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "say which score"),
        (3, "has 3 classes, 0 to 2"),
        (-1, "does not exist"),
        ([0, 1], "one for each of 3 images"),
        ([[0, 1, 2]], "one for each of 3 images"),
        (torch.eye(3).long(), r"not torch.int64 \(3, 3\); weights of the outputs must be floating point"),
        (torch.tensor([True, False, True]), "class index"),
        (torch.zeros(4), r"must have shape \(3,\) or \(3, 3\), not \(4,\)"),
    ],
)
def test_targets_that_do_not_fit(target: object, message: str) -> None:
    with pytest.raises(LinregError, match=message):
        traced("conv_bn").lin.ledger(target)  # type: ignore[arg-type]


def test_output_of_one_number_needs_no_target() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    x = values(2, 4)
    lin = linreg.trace(model, x).linearize(x)
    torch.testing.assert_close(lin.score(), lin.output[:, 0], **EXACT)
    torch.testing.assert_close(lin.ledger().total, lin.output[:, 0], **EXACT)


def test_output_without_a_class_dimension() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1), nn.Flatten(0)).double()
    x = values(2, 4)
    lin = linreg.trace(model, x).linearize(x)
    torch.testing.assert_close(lin.score(), lin.output, **EXACT)
    torch.testing.assert_close(lin.ledger().total, lin.output, **EXACT)
    with pytest.raises(LinregError, match="one number for each image, and needs no target"):
        lin.score(0)


def test_output_of_maps_takes_weights() -> None:
    """A segmentation: one pixel of one class."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 1)).double()
    x = values(2, 2, 5, 5)
    lin = linreg.trace(model, x).linearize(x)
    pixel = torch.zeros(2, 3, 3, dtype=torch.float64)
    pixel[1, 2, 0] = 1
    torch.testing.assert_close(lin.score(pixel), lin.output[:, 1, 2, 0], **EXACT)
    torch.testing.assert_close(lin.ledger(pixel).total, lin.output[:, 1, 2, 0], **EXACT)
    for target in (1, pixel.long()):
        with pytest.raises(LinregError, match=r"floating-point weights of shape \(2, 3, 3\), .*; w\[1, 1, 1\] = 1$"):
            lin.weight(target)
