"""Which score of the output a target means: classes, weights, one for each image or for all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from approx import EXACT, values
from nets import seeded, traced
from torch import nn

import dmbp
import linreg
from linreg import LinregError
from linreg.target import at, box, cotangent, held, region, unit


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
        with pytest.raises(LinregError, match=r"at\(class, \(1, 1\)\) .* weights of shape \(2, 3, 3\)$"):
            lin.weight(target)


INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]


@pytest.mark.parametrize(
    "dtype", [*INTEGERS, *map(np.dtype, ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"))], ids=str
)
def test_class_indices_of_every_integer_type(dtype: torch.dtype | np.dtype) -> None:
    """One for all, one for each; tensors, arrays, NumPy's scalars and lists of these."""
    lin = traced("conv_bn").lin
    each = [2, 0, 1]
    if isinstance(dtype, torch.dtype):
        one, several = torch.tensor(2).to(dtype), [torch.tensor(each).to(dtype)]
    else:
        array = np.array(each, dtype)
        one, several = array[0], [array, list(array)]
    torch.testing.assert_close(lin.score(one), lin.output[:, 2], **EXACT)
    for target in several:
        torch.testing.assert_close(lin.score(target), lin.output[range(3), each], **EXACT)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(bad: float) -> None:
    lin = traced("conv_bn").lin
    for target in (torch.tensor([1.0, bad, 0.0]), np.array([0.0, bad, 1.0]), [bad, 1.0, 2.0]):
        with pytest.raises(LinregError, match=r"finite numbers only, not NaN or infinity$"):
            lin.weight(target)  # type: ignore[arg-type]
    with pytest.raises(LinregError, match=r"finite .*torch.float32 holds no number so large: scale them"):
        cotangent(torch.tensor([1e300, 0.0], dtype=torch.float64), torch.zeros(1, 2))


@pytest.mark.parametrize("target", [torch.tensor([1j, 0, 0]), object(), "three", 2**70, np.array([None])])
def test_what_is_no_target_at_all(target: object) -> None:
    with pytest.raises(LinregError, match="target must be"):
        traced("conv_bn").lin.score(target)  # type: ignore[arg-type]


def segmentation() -> linreg.Linearization:
    """Three classes over 4 × 5 places, of two images."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1)).double()
    x = values(2, 2, 6, 7)
    return linreg.trace(model, x).linearize(x)


def test_places_of_a_segmentation() -> None:
    """Each beside the mean of what plain indexing of the output gives."""
    lin = segmentation()
    y, wins = lin.output, lin.output.argmax(1)
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[1, 2:] = mask[3, 0] = True
    expected = [
        (at(2, (3, 0)), y[:, 2, 3, 0]),
        (at(np.int64(0), np.array([1, 4])), y[:, 0, 1, 4]),
        (box(1, (1, 3), (0, 5)), y[:, 1, 1:3].mean((1, 2))),
        (box(0, (2, 3), (4, 5)), y[:, 0, 2, 4]),
        (region(1, mask), y[:, 1][:, mask].mean(1)),
        (region(1, mask.numpy()), y[:, 1][:, mask].mean(1)),
        (region(2, torch.stack([mask, ~mask])), torch.stack([y[0, 2][mask].mean(), y[1, 2][~mask].mean()])),
    ]
    present = int(wins[0].mode().values.mode().values)
    if (wins[1] == present).any():
        shares = torch.stack([y[n, present][wins[n] == present].mean() for n in range(2)])
        expected.append((region(present, wins == present), shares))
    for target, score in expected:
        torch.testing.assert_close(lin.score(target), score, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(lin.ledger(target).total, score, rtol=1e-10, atol=1e-10)
    signal = torch.zeros(1, 2, 9)  # one dimension of places, as of a sequence
    assert cotangent(box(1, (2, 4)), signal)[0].tolist() == [[0] * 9, [0, 0, 0.5, 0.5, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (at(3, (0, 0)), "class 3 does not exist: the output has 3 classes, 0 to 2"),
        (at(0, (4, 0)), r"4 does not lie in 0 to 4: the output has places of shape \(4, 5\)"),
        (at(0, (1, -1)), "-1 does not lie in"),
        (at(0, (1,)), "1 numbers do not name one"),
        (box(0, (1, 9), (0, 2)), "1 to 9 does not lie in 0 to 4"),
        (box(0, (2, 2), (0, 2)), "2 to 2 does not lie in"),
        (region(1, torch.zeros(4, 5, dtype=torch.bool)), "the region of class 1 is empty for image 0"),
        (region(1, torch.ones(5, 4, dtype=torch.bool)), r"shape \(4, 5\) or \(2, 4, 5\), not \(5, 4\)"),
    ],
)
def test_places_that_the_output_does_not_have(target: linreg.target.Mean, message: str) -> None:
    with pytest.raises(LinregError, match=message):
        segmentation().score(target)


def test_places_that_are_none() -> None:
    for make, message in [
        (lambda: at(True, (0, 0)), "a class must be a whole number"),
        (lambda: at(0, (0.5, 0)), "a place must be a whole number"),
        (lambda: box(0, (1, 2, 3)), r"a \(start, stop\) for each dimension"),
        (lambda: region(0, torch.ones(4, 5)), "of booleans, not torch.float32: compare, as in mask > 0.5"),
    ]:
        with pytest.raises(LinregError, match=message):
            make()
    with pytest.raises(LinregError, match=r"need an output of shape \(N, classes, \*places\)"):
        traced("conv_bn").lin.score(at(0, (0, 0)))


def test_the_callers_memory_is_no_matter() -> None:
    """Inputs, weights, classes and masks are copied when they are given: what follows is that of the first values."""
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    graph = linreg.trace(model, values(2, 4))
    x, weights, classes = values(2, 4), values(2), np.array([1, 0])
    expected = graph.linearize(x.clone())
    lin, first = graph.linearize(x), x.clone()
    certificates = [lin.certificate(target) for target in (weights, classes)]
    wanted = [expected.certificate(target).total for target in (weights.clone(), classes.copy())]
    x.fill_(7)
    weights.fill_(-3)
    classes[:] = 0
    torch.testing.assert_close(lin.input, first, **EXACT)
    torch.testing.assert_close(lin.ledger(1).total, expected.ledger(1).total, **EXACT)
    for certificate, total in zip(certificates, wanted, strict=True):
        torch.testing.assert_close(certificate.total, total, **EXACT)
    mask = torch.ones(4, 5, dtype=torch.bool)
    kept = region(0, mask)
    mask.fill_(False)
    assert isinstance(kept.where, torch.Tensor) and kept.where.all()
    assert held(None) is None and held(3) == 3


def test_the_unit_of_weights_is_a_power_of_two() -> None:
    weights = torch.tensor([[0.75, -3.0], [1e-9, 0.0], [0.0, 0.0], [1e-42, 0.0], [-3e38, 1.0], [1.0, 0.5]])
    powers = unit(weights)
    assert powers.shape == (6, 1)
    assert (torch.frexp(powers).mantissa == 0.5).all()
    largest = (weights / powers).abs().amax(1)
    assert largest[2] == 0 and ((largest >= 1) & (largest < 2))[[0, 1, 3, 4, 5]].all()
    torch.testing.assert_close(weights / powers * powers, weights, rtol=0, atol=0)
    assert powers[5] == 1  # a class: nothing changes


def test_many_images_are_explained_each_by_its_own_mask() -> None:
    """As `explain` does with the same region at once; a mask too few is said."""
    network = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1)))
    x = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    masks = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5
    graph = linreg.trace(network, x)
    whole = dmbp.explain(graph, x, region(2, masks), iterations=3, progress=False)
    found = list(dmbp.explain_all(graph, x, region(2, masks), iterations=3, batch_size=2, progress=False))
    for n, one in enumerate(found):
        assert one.y == pytest.approx(network(x[n : n + 1])[0, 2][masks[n]].mean().item())
        torch.testing.assert_close(one.attribution, whole.attribution[n], rtol=1e-10, atol=1e-13)
    same = dmbp.explain_all(graph, x, region(2, masks[0]), iterations=0, progress=False)
    assert [one.y for one in same] == pytest.approx(network(x)[:, 2][:, masks[0]].mean(1).tolist())
    with pytest.raises(dmbp.DmbpError, match="there are 3 images, and 2 targets"):
        list(dmbp.explain_all(graph, x, region(2, masks[:2]), iterations=0, progress=False))
