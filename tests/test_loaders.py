"""Images as loaders and datasets give them: the same values as one image at a time, with the classes of the pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import dmbp
import linreg
from dmbp import DmbpError

pytestmark = pytest.mark.xdist_group("loaders")
LABELS = [2, 0, 1, 1, 0, 2, 2]


def data() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(6)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)).double()
    return model, torch.randn(7, 1, 4, 4, dtype=torch.float64)


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        _, x = data()
        yield from zip(x, LABELS, strict=True)


def pairs(x: Tensor) -> TensorDataset:
    return TensorDataset(x, torch.tensor(LABELS))


GIVEN: dict[str, Callable[[Tensor], Any]] = {
    "a loader": lambda x: DataLoader(pairs(x), batch_size=3),
    "a loader of one batch": lambda x: DataLoader(pairs(x), batch_size=50),
    "a loader of single images": lambda x: DataLoader(pairs(x), batch_size=1),
    "a loader without batches": lambda x: DataLoader(pairs(x), batch_size=None),
    "a loader of a stream": lambda x: DataLoader(Stream(), batch_size=4),
    "a dataset": pairs,
    "pairs": lambda x: list(zip(x, LABELS, strict=True)),
    "pairs of NumPy's": lambda x: zip(x, np.array(LABELS, np.uint8), strict=True),
    "batches with classes": lambda x: ((x[n : n + 2], LABELS[n : n + 2]) for n in range(0, 7, 2)),
    "triples": lambda x: [(image, label, "name.png") for image, label in zip(x, LABELS, strict=True)],
}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("traced", [False, True], ids=["module", "graph"])
def test_pairs_of_an_image_and_its_class(given: str, traced: bool) -> None:
    model, x = data()
    graph = linreg.trace(model, x[:2])
    expected = dmbp.explain(graph, x, LABELS, iterations=3, progress=False)
    words = {"iterations": 3, "progress": False}
    found = list(dmbp.explain_all(graph if traced else model, GIVEN[given](x), **words))
    assert [one.target for one in found] == LABELS and [one.index for one in found] == list(range(7))
    maps = torch.stack([one.attribution for one in found])
    torch.testing.assert_close(maps, expected.attribution, rtol=1e-9, atol=1e-12)
    named = list(dmbp.explain_all(graph if traced else model, GIVEN[given](x), 1, **words))
    assert {one.target for one in named} == {1}, "what `targets` says comes first"


@pytest.mark.parametrize("traced", [False, True], ids=["module", "graph"])
def test_batches_alone(traced: bool) -> None:
    model, x = data()
    graph = linreg.trace(model, x[:2])
    expected = dmbp.explain(graph, x, 2, iterations=2, progress=False).attribution
    for given in (list(x.split(3)), iter(x.split(4)), DataLoader(x, batch_size=3)):  # type: ignore[arg-type]
        found = list(dmbp.explain_all(graph if traced else model, given, 2, iterations=2, progress=False))
        torch.testing.assert_close(torch.stack([one.attribution for one in found]), expected, rtol=1e-9, atol=1e-12)


def test_one_score_needs_no_class() -> None:
    """The 0 and 1 of a binary classifier with one score are no place among its outputs; nor is a value to predict."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1)), torch.randn(6, 4)
    for labels in (torch.tensor([0, 1, 1, 0, 1, 0]), torch.randn(6)):
        loader = DataLoader(TensorDataset(x, labels), batch_size=4)
        assert len(list(dmbp.explain_all(model, loader, iterations=1, progress=False))) == 6


def test_a_second_that_is_no_class() -> None:
    model, x = data()
    loader = DataLoader(TensorDataset(x, torch.rand(7)), batch_size=4)
    with pytest.raises(DmbpError, match=r"image 0: the second of its pair is tensor\(.*, no class: say with `targets`"):
        list(dmbp.explain_all(model, loader, iterations=1, progress=False))


class Both(nn.Module):
    """Two inputs, whose scores take any number of dimensions before the last: a batch is easily taken for an image."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        left, right = (layer(x).relu().flatten(1, -2).mean(1) for layer, x in ((self.left, a), (self.right, b)))
        return self.head(left + right)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_dicts_of_a_loader_are_taken_apart(traced: bool, size: int) -> None:
    torch.manual_seed(7)
    model, a, b = Both().double(), *torch.randn(2, 4, 6, 5, dtype=torch.float64)
    items = [({"a": a[n], "b": b[n]}, LABELS[n]) for n in range(4)]
    taken = linreg.trace(model, {"a": a, "b": b}) if traced else model
    found = list(dmbp.explain_all(taken, DataLoader(items, batch_size=size), iterations=2, progress=False))
    y = model(a, b)[range(4), LABELS[:4]]
    assert [one.y for one in found] == pytest.approx(y.tolist(), rel=1e-12)
    assert all(one.attribution["a"].shape == (6, 5) for one in found)


def test_what_is_fixed_for_all_may_be_as_long_as_there_are_images() -> None:
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return layer(x * w).relu()

    torch.manual_seed(8)
    layer, x, w = nn.Linear(4, 3).double(), torch.randn(4, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    model = nn.Module()
    model.layer, model.forward = layer, forward
    graph = linreg.trace(model, {"x": x[:3], "w": w}, fixed="w")
    found = dmbp.explain_all(graph, {"x": x, "w": w}, 1, iterations=2, progress=False)
    assert [one.y for one in found] == pytest.approx(forward(x, w)[:, 1].tolist(), rel=1e-12)


def test_a_tuple_of_inputs_is_told_to_be_a_dict() -> None:
    """A tuple is an image and its class: where the model takes two tensors, the message says what to give."""

    class Both(nn.Module):
        def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
            return torch.relu(left - right) * scale

    left, right = torch.randn(3, 4), torch.randn(3, 4)
    wanted = (
        r"the model takes 'left', 'right', and each image is one tensor: give a dict .* a tuple is an image and its"
    )
    for images in ([(left[0], right[0]), (left[1], right[1])], (left, right), list(left)):
        with pytest.raises(DmbpError, match=wanted):
            list(dmbp.explain_all(Both(), images, 1, iterations=1, progress=False))
    (first, *_) = dmbp.explain_all(Both(), {"left": left, "right": right}, 1, loss="none", progress=False)
    assert set(first.attribution) == {"left", "right"}
