"""Masks do not depend on the scale of the target's weights, nor on what the caller does with tensors afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dmbp
import linreg
from dmbp import DmbpError

ITERATIONS = 40


def made() -> tuple[linreg.OperatorGraph, Tensor]:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 9), nn.LeakyReLU(0.1), nn.Linear(9, 3)).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    return linreg.trace(model, x), x


def in_single(graph: linreg.OperatorGraph) -> linreg.OperatorGraph:
    network = graph.to_module().float()
    return linreg.trace(network, torch.ones(2, 6))


def learned(graph: linreg.OperatorGraph, x: Tensor, weights: Tensor, **options: object) -> dict[str, Tensor]:
    return dmbp.learn_masks(graph.linearize(x), weights, iterations=ITERATIONS, progress=False, **options).masks


def own(y: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    return negative - positive + (y - positive - negative).abs()


@pytest.mark.parametrize("loss", ["all", "+-", "+", own], ids=["all", "+-", "+", "own"])
@pytest.mark.parametrize("scale", [1e-6, 1e-9, 1e-30, 1e25, 3e5, 2.0**-40])
def test_masks_do_not_depend_on_the_scale(scale: float, loss: object) -> None:
    """In float32 and float64; those of weights as they are were never scaled: a class's w is 1."""
    graph, x = made()
    single = in_single(graph)
    base = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)
    # Scales that are no power of two leave up to 2 of them, beside which RMSprop's ε of 1e-8 still counts a little.
    for network, example, tolerance in ((graph, x, 1e-3), (single, x.float(), 1e-3)):
        expected = learned(network, example, base, loss=loss)
        found = learned(network, example, base * scale, loss=loss)
        for site, mask in expected.items():
            torch.testing.assert_close(found[site], mask, rtol=0, atol=tolerance)
        if scale == 2.0**-40:  # exact in floating point
            assert all(torch.equal(found[site], mask) for site, mask in expected.items())


def test_each_image_has_a_scale_of_its_own() -> None:
    graph, x = made()
    scales = torch.tensor([2.0**-60, 1.0, 2.0**50], dtype=torch.float64)[:, None]
    base = torch.tensor([[0.5, 1.0, 0.0]] * 3, dtype=torch.float64)
    result = dmbp.explain(graph, x, base * scales, iterations=ITERATIONS, progress=False)
    expected = dmbp.explain(graph, x, base, iterations=ITERATIONS, progress=False)
    for site, mask in expected.masks.items():
        assert torch.equal(result.masks[site], mask)
    for part in ("positive", "negative", "nuisance"):  # in the units of y: as y itself, to the bit
        torch.testing.assert_close(result.history[part], expected.history[part] * scales[:, 0], rtol=0, atol=0)
    torch.testing.assert_close(result.attribution, expected.attribution * scales, rtol=0, atol=0)


def test_the_start_is_found_under_underflow() -> None:
    """B.1 looks at signs only: weights near the smallest number have them too."""
    graph, x = made()
    single, example = in_single(graph), x.float()
    weights = torch.tensor([1.0, -0.5, 0.25])
    sites = dmbp.find_sites(single)
    expected = dmbp.initial_logits(single.linearize(example), sites, weights)
    found = dmbp.initial_logits(single.linearize(example), sites, weights * 2.0**-145)
    assert all(torch.equal(found[site], expected[site]) for site in sites)


def test_tolerance_knows_no_scale() -> None:
    graph, x = made()
    for loss in ("all", own):
        words = {"loss": loss, "tolerance": 0.05, "iterations": 120, "progress": False}
        counts = [dmbp.explain(graph, x, torch.tensor([1.0, 0.5, 0.0]) * s, **words).updates for s in (1, 2.0**-50)]
        assert torch.equal(*counts)


def test_a_score_that_overflows_is_said() -> None:
    graph, x = made()
    single = in_single(graph)
    huge = torch.tensor([3e38, 3e38, 0.0])
    with pytest.raises(DmbpError, match=r"score of image \d leaves the range of torch.float32"):
        dmbp.explain(single, 1e3 * x.float(), huge, iterations=3, progress=False)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_targets_that_are_not_finite(bad: float) -> None:
    graph, x = made()
    weights = torch.tensor([1.0, bad, 0.0])
    for call in (dmbp.explain, lambda *a, **k: list(dmbp.explain_all(*a, **k))):
        with pytest.raises(linreg.LinregError, match="finite numbers only"):
            call(graph, x, weights, iterations=2, progress=False)


def test_the_callers_buffers_may_be_used_again() -> None:
    """One frame for all images, one tensor for all targets, as in a loop over a camera: each result is its own."""
    graph, _ = made()
    images, weights = torch.randn(3, 1, 6, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    frame, target = torch.empty(1, 6, dtype=torch.float64), torch.empty(3, dtype=torch.float64)
    results = []
    for image, w in zip(images, weights, strict=True):
        frame.copy_(image)
        target.copy_(w)
        results.append(dmbp.explain(graph, frame, target, iterations=5, progress=False))
    frame.zero_()
    target.zero_()
    for image, w, result in zip(images, weights, results, strict=True):
        alone = dmbp.explain(graph, image.clone(), w.clone(), iterations=5, progress=False)
        assert torch.equal(result.attribution, alone.attribution) and torch.equal(result.input, image)
        assert torch.equal(result.split.error, alone.split.error)
        assert torch.equal(result.split.ledger("y").total, alone.split.ledger("y").total)

    def frames():
        for image in images:
            yield frame.copy_(image)[0]

    for k, one in enumerate(dmbp.explain_all(graph, frames(), 1, iterations=5, batch_size=2, progress=False)):
        alone = dmbp.explain(graph, images[k].clone(), 1, iterations=5, progress=False)
        torch.testing.assert_close(one.attribution, alone.attribution[0], rtol=1e-9, atol=1e-12)


def test_masks_and_scores_are_held_too() -> None:
    graph, x = made()
    lin = graph.linearize(x)
    masks = {site: torch.rand(3, *graph.shape(site), dtype=torch.float64) for site in dmbp.find_sites(graph)}
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    copies, kept = {site: mask.clone() for site, mask in masks.items()}, weights.clone()
    split, scores = dmbp.decompose(lin, masks, weights), dmbp.masked_scores(lin, target=weights)
    wanted = dmbp.decompose(lin, copies, kept)
    for mask in masks.values():
        mask.zero_()
    weights.zero_()
    assert torch.equal(split.error, wanted.error) and torch.equal(split.positive, wanted.positive)
    assert torch.equal(split.ledger("negative").total, wanted.ledger("negative").total)
    assert torch.equal(scores.unmasked, dmbp.masked_scores(lin, target=kept).unmasked)


NUMBERS = [
    ("iterations", np.int64(4), 4), ("iterations", np.uint8(4), 4), ("iterations", torch.tensor(4), 4),
    ("lr", np.float32(0.5), 0.5), ("lr", np.float64(0.25), 0.25), ("lr", 1, 1.0), ("tolerance", np.float64(0.5), 0.5),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "value"), NUMBERS)
def test_numbers_of_numpy(name: str, given: object, value: float) -> None:
    options = dmbp.Options(**{name: given})
    assert getattr(options, name) == value and type(getattr(options, name)) is type(value)


@pytest.mark.parametrize("name", ["lr", "tolerance", "iterations"])
@pytest.mark.parametrize("given", [True, np.bool_(True), np.nan, "2", torch.tensor(True)], ids=repr)
def test_what_is_no_number(name: str, given: object) -> None:
    with pytest.raises(DmbpError, match="must be a"):
        dmbp.Options(**{name: given})


def test_sizes_of_numpy() -> None:
    graph, x = made()
    found = list(dmbp.explain_all(graph, x, np.int16(1), batch_size=np.int32(2), iterations=np.int8(2), progress=False))
    assert [one.iterations for one in found] == [2, 2, 2] and found[0].target == 1
    result = dmbp.explain(graph, x, np.uint8(1), iterations=3, snapshots=[np.int64(2)], progress=False)
    assert list(result.snapshots) == [2]
    for given in (0, True, 2.0, np.float32(2)):
        with pytest.raises(DmbpError, match="batch size must be a whole number"):
            dmbp.explain_all(graph, x, 1, batch_size=given)
